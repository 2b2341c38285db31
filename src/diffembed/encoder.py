"""``Encoder``: texts, or documents cut into chunks, to vectors.

The only door to a trained model. It tokenizes, marks spans, sorts by length into token-budget batches, runs the
runtime (onnxruntime unless torch is asked for) and finishes the vectors (width, quantizer, packing). What a text's
vector is depends on that text alone, never on its neighbours in the call.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffembed.encode_file import EncodeReport, encode_file
from diffembed.errors import InputError, ModelError
from diffembed.models.checkpoint import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    ModelConfig,
    load_tokenizer,
    read_model_config,
)
from diffembed.models.files import fetch_model
from diffembed.runtime import Runtime
from diffembed.runtime.onnx import OnnxRuntime, find_graph
from diffembed.text.batching import TokenizedSequence, batches_by_tokens, pack
from diffembed.vectors.embeddings import VECTOR_DTYPES, Embeddings, VectorDtype
from diffembed.vectors.quantize import FloatArray, quantize

__all__ = ["BUNDLED", "EncodeReport", "Encoder", "TextTooLongError", "encode_file", "resolve_model"]

Progress = Callable[[int, int], None]

BUNDLED = Path(__file__).parent / "bundled"
TOKEN_BUDGET = 4096  # padded tokens of one batch: large enough for full kernels, small enough for the caches
_DOCUMENTS_AT_ONCE = 4096  # tokenized and sorted together; bounds the memory of a long list
_STORED: dict[str, type[np.generic]] = {"float32": np.float32, "int8": np.int8, "binary": np.uint8}


class TextTooLongError(InputError):
    """A text, or a chunk, over the model's limit; ``position`` is the number of the text or document."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class Encoder:
    """A model directory, loaded and ready. Use :meth:`load`.

    Attributes:
        model_id: what was asked for: ``default``, a directory, a hub id.
        path: the model directory on disk.
        config: its ``diffembed.json``.
        runtime: what runs it.
    """

    def __init__(self, model_id: str, path: Path, config: ModelConfig, runtime: Runtime) -> None:
        self.model_id = model_id
        self.path = path
        self.config = config
        self.runtime = runtime
        self._tokenizer = load_tokenizer(path)

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        runtime: Literal["auto", "onnx", "torch"] = "auto",
        precision: Literal["auto", "int8", "fp32"] = "auto",
        threads: int | None = None,
    ) -> Encoder:
        """Load a model.

        Args:
            model: ``default`` (the model that comes with the package), a directory, or a hub id (``owner/name``).
            runtime: ``onnx``, ``torch``, or ``auto``: onnx where the directory has a graph, else torch.
            precision: of the weights; ``auto`` takes int8 if there is one. The torch runtime has fp32 only.
            threads: CPU threads; ``None`` leaves the choice to the runtime.

        Raises:
            ModelError: no such model, a file missing or damaged, no graph of that precision.
            MissingExtraError: the model needs something that is not installed.
        """
        path = resolve_model(model)
        config = read_model_config(path)
        if runtime not in ("auto", "onnx", "torch") or precision not in ("auto", "int8", "fp32"):
            raise InputError(f"runtime {runtime!r} or precision {precision!r} is not known; see Encoder.load")
        return cls(str(model), path, config, _start(path, config, runtime, precision, threads))

    @property
    def dims(self) -> tuple[int, ...]:
        """Trained widths, ascending."""
        return self.config.dims

    @property
    def max_tokens(self) -> int:
        """Longest sequence in tokens, special ones included."""
        return self.config.max_tokens

    @property
    def contextual(self) -> bool:
        """Whether chunks of a document should be encoded together (``encode_chunks``)."""
        return self.config.contextual

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, tokenizer and ``diffembed.json``: equal fingerprints give equal vectors."""
        digest = hashlib.sha256()
        for name in (WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_FILE):
            with (self.path / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model reads it, special ones included (empty texts are allowed here)."""
        around = len(self.config.prefix_ids) + len(self.config.suffix_ids)
        return [len(e.ids) + around for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Vectors of search queries; see :meth:`encode_documents` (queries and documents are read alike)."""
        return self.encode_documents(texts, dtype=dtype, dims=dims, truncate=truncate, progress=progress)

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Vectors of texts, one a text.

        Args:
            texts: none empty.
            dtype: ``float32``, ``int8`` or ``binary``.
            dims: one of :attr:`dims`; ``None`` for the widest.
            truncate: cut texts over :attr:`max_tokens` (they are listed in the result) instead of refusing them.
            progress: called with (texts done, texts in all).

        Raises:
            InputError: an empty text, one over the limit, a width that was not trained.
        """
        _check_texts(texts, "text")
        return self._encode([[t] for t in texts], dtype, dims, truncate, progress, chunked=False)

    def encode_chunks(
        self,
        documents: Sequence[Sequence[str]],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Late chunking: one vector a chunk, each having read its whole document.

        The chunks of a document are joined by the end-of-text token, which is not pooled. A document longer than
        :attr:`max_tokens` is read through consecutive windows, each filled with as many whole chunks as fit; a chunk
        sees its own window only.

        Args:
            documents: chunks in reading order; no document and no chunk empty.
            dtype: ``float32``, ``int8`` or ``binary``.
            dims: one of :attr:`dims`; ``None`` for the widest.
            truncate: cut single chunks over the limit; ``truncated`` then lists their documents.
            progress: called with (documents done, documents in all).

        Returns:
            Rows in order of documents and chunks, with ``document_offsets``.
        """
        if isinstance(documents, str):
            raise InputError("documents is one string; give a list of documents, each a list of chunks")
        for i, chunks in enumerate(documents):
            if not isinstance(chunks, str) and len(chunks) == 0:
                raise InputError(f"document {i} has no chunks; leave it out or give it one")
            _check_texts(chunks, f"document {i}, chunk")
        return self._encode(documents, dtype, dims, truncate, progress, chunked=True)

    def _encode(
        self,
        documents: Sequence[Sequence[str]],
        dtype: VectorDtype,
        dims: int | None,
        truncate: bool,
        progress: Progress | None,
        *,
        chunked: bool,
    ) -> Embeddings:
        width = self._width(dims, dtype)
        total = len(documents)
        offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
        values = np.empty((int(offsets[-1]), width // 8 if dtype == "binary" else width), _STORED[dtype])
        cut: list[int] = []
        tokens = done = 0
        for start in range(0, total, _DOCUMENTS_AT_ONCE):
            windows, cut_here = self._windows(documents[start : start + _DOCUMENTS_AT_ONCE], start, truncate, chunked)
            cut += cut_here
            base = int(offsets[start])
            for group in batches_by_tokens([len(w.sequence) for w in windows], TOKEN_BUDGET):
                batch = pack([windows[i].sequence for i in group])
                means = self.runtime.span_means(batch)
                rows = np.concatenate([windows[i].row + np.arange(len(windows[i].sequence.spans)) for i in group])
                values[base + rows] = self._finish(means, dtype, width)
                tokens += batch.tokens
                done += sum(windows[i].last for i in group)
                if progress is not None:
                    progress(done, total)
        return Embeddings(values, dtype, width, tokens, tuple(cut), offsets if chunked else None)

    def _finish(self, means: FloatArray, dtype: VectorDtype, width: int) -> np.ndarray[Any, Any]:
        return quantize(means, dtype, quantizer=self.config.quantizer, normalize=self.config.normalize, dims=width)

    def _width(self, dims: int | None, dtype: VectorDtype) -> int:
        if dtype not in VECTOR_DTYPES:
            raise InputError(f"dtype {dtype!r} is not known; choose one of {', '.join(VECTOR_DTYPES)}")
        width = self.dims[-1] if dims is None else dims
        if width not in self.dims:
            known = ", ".join(map(str, self.dims))
            raise InputError(f"dims={width} was not trained in {self.config.name}; choose one of {known}")
        if dtype == "binary" and width % 8:
            raise InputError(
                f"binary vectors need a width divisible by 8, {width} is not; choose another dims or dtype"
            )
        return width

    def _windows(
        self, documents: Sequence[Sequence[str]], start: int, truncate: bool, chunked: bool
    ) -> tuple[list[_Window], list[int]]:
        """Tokenize documents and cut them into windows; also the numbers of documents of which a chunk was cut."""
        config = self.config
        room = config.max_tokens - len(config.prefix_ids) - len(config.suffix_ids)
        flat = [chunk for chunks in documents for chunk in chunks]
        encoded = iter(self._tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        windows: list[_Window] = []
        cut: list[int] = []
        row = 0
        for number, chunks in enumerate(documents, start):
            ids: list[list[int]] = []
            for place in range(len(chunks)):
                tokens = next(encoded).ids
                if len(tokens) > room:
                    if not truncate:
                        where = f"document {number}, chunk {place}" if chunked else f"text {number}"
                        raise TextTooLongError(
                            f"{where} has {len(tokens)} tokens, {config.name} reads at most {room}; "
                            "split it, or ask for truncate",
                            number,
                        )
                    tokens = tokens[:room]
                    if number not in cut[-1:]:
                        cut.append(number)
                ids.append(tokens)
            for sequence in _fill_windows(ids, config, room):
                windows.append(_Window(sequence, row, last=False))
                row += len(sequence.spans)
            windows[-1] = _Window(windows[-1].sequence, windows[-1].row, last=True)
        return windows, cut


@dataclass(frozen=True, slots=True)
class _Window:
    """A sequence to read, the first of the rows that its spans become, and whether it ends a document."""

    sequence: TokenizedSequence
    row: int
    last: bool


def _fill_windows(chunks: list[list[int]], config: ModelConfig, room: int) -> Iterator[TokenizedSequence]:
    """Sequences of whole chunks, as many in each as fit; prefix and suffix are pooled with the chunk beside them."""
    at = 0
    while at < len(chunks):
        ids = list(config.prefix_ids)
        spans: list[tuple[int, int]] = []
        begin, used = 0, 0
        while at < len(chunks) and used + len(chunks[at]) + bool(spans) <= room:
            if spans:
                ids.append(config.eot_token_id)
                used, begin = used + 1, len(ids)
            ids += chunks[at]
            used += len(chunks[at])
            spans.append((begin, len(ids)))
            at += 1
        ids += config.suffix_ids
        spans[-1] = (spans[-1][0], len(ids))
        yield TokenizedSequence(np.array(ids, dtype=np.int64), tuple(spans))


def resolve_model(model: str | Path) -> Path:
    """The directory of a model: ``default``, a directory, or a hub id (downloaded by ``huggingface_hub``)."""
    if str(model) == "default":
        if not (BUNDLED / CONFIG_FILE).exists():
            raise ModelError(
                f"the embedded model is missing from {BUNDLED}; install diffembed again, or give a model directory"
            )
        return BUNDLED
    return fetch_model(model)


def _start(
    path: Path,
    config: ModelConfig,
    runtime: Literal["auto", "onnx", "torch"],
    precision: Literal["auto", "int8", "fp32"],
    threads: int | None,
) -> Runtime:
    if runtime == "torch" and precision == "int8":
        raise InputError("the torch runtime has no int8 weights; ask for precision fp32, or for runtime onnx")
    if runtime == "onnx" or (runtime == "auto" and (find_graph(path, precision) or precision == "int8")):
        return OnnxRuntime(path, precision=precision, threads=threads, pad_token_id=config.pad_token_id)
    if runtime == "auto" and importlib.util.find_spec("torch") is None:
        raise ModelError(
            f"{path} has no ONNX graph, and torch is not installed to run it without; see: diffembed export"
        )
    from diffembed.runtime.torch import TorchRuntime

    return TorchRuntime(path, threads=threads, pad_token_id=config.pad_token_id)


def _check_texts(texts: Sequence[str], what: str) -> None:
    if isinstance(texts, str):
        raise InputError(f"{what.split(',')[0]}s came as one string; give a list of strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{what} {i} is {type(text).__name__}, a string was expected")
        if not text.strip():
            raise InputError(f"{what} {i} is empty; leave it out, there is nothing to encode")
