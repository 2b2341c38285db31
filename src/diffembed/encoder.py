"""``Encoder``: texts, or documents cut into chunks, to vectors.

The only door to a trained model. It tokenizes, marks spans, sorts by length into token-budget batches, runs the
runtime (onnxruntime unless torch is asked for) and finishes the vectors (width, quantizer, packing). What a text's
vector is depends on that text alone, never on its neighbours in the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import InputError, ModelError
from diffembed.models.checkpoint import CONFIG_FILE, ModelConfig
from diffembed.models.files import fetch_model
from diffembed.models.foreign import fingerprint, read_config, read_tokenizer
from diffembed.runtime import Runtime
from diffembed.runtime.start import Device, Precision, RuntimeName, start_runtime
from diffembed.text.batching import IntArray, PackedBatch, TokenizedSequence, batches_by_tokens, blocks, pack, read_out
from diffembed.text.checks import check_texts
from diffembed.text.windows import Frame, Reading, SharedRows, read_document
from diffembed.vectors.embeddings import VECTOR_DTYPES, Embeddings, TokenEmbeddings, VectorDtype
from diffembed.vectors.quantize import FloatArray, quantize

__all__ = ["BUNDLED", "Encoder", "TextTooLongError", "resolve_model"]

Progress = Callable[[int, int], None]

BUNDLED = Path(__file__).parent / "bundled"
TOKEN_BUDGET = 4096  # padded tokens of one batch: large enough for full kernels, small enough for the caches
_DOCUMENTS_AT_ONCE, _CHARACTERS_AT_ONCE = 4096, 8_000_000  # sorted together; bounds the memory of a long list
_TEXTS_TOKENIZED, _CHARACTERS_TOKENIZED = 1024, 1_000_000  # what the tokenizer tells of a text is far larger than it
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
        config: its ``diffembed.json``, or what stands for it where the directory has another layout.
        runtime: what runs it.
    """

    def __init__(self, model_id: str, path: Path, config: ModelConfig, runtime: Runtime) -> None:
        self.model_id = model_id
        self.path = path
        self.config = config
        self.runtime = runtime
        self._tokenizer = read_tokenizer(path)

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        runtime: RuntimeName = "auto",
        precision: Precision = "auto",
        device: Device = "auto",
        threads: int | None = None,
    ) -> Encoder:
        """Load a model: one of ours, a sentence-transformers, pplx-embed or DiffEmbed checkpoint (``docs/models.md``).

        Args:
            model: ``default`` (the model that comes with the package), a directory, or a hub id (``owner/name``).
            runtime: ``onnx``, ``torch``, or ``auto``: onnx where the directory has a graph, else torch.
            precision: of the weights: ``int8`` or ``fp32`` (onnx), ``fp32``, ``bf16`` or ``fp16`` (torch); ``auto``
                takes int8 where there is such a graph, else fp32.
            device: ``cpu``, ``cuda`` (torch), or ``auto``: on torch a GPU if there is one.
            threads: CPU threads; ``None`` leaves the choice to the runtime.

        Raises:
            InputError: an unknown word, or a combination that no runtime has.
            ModelError: no such model, a file missing or damaged, no graph of that precision.
            MissingExtraError: the model needs something that is not installed.
        """
        path = resolve_model(model)
        config = read_config(path)
        return cls(str(model), path, config, start_runtime(path, config, runtime, precision, device, threads))

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
        return fingerprint(self.path, self.config)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model reads it, special ones included, prompts not (texts may be empty here)."""
        check_texts(texts, "text", may_be_empty=True)
        around = self.max_tokens - self._room
        return [len(ids) + around for ids in self._token_ids(texts)]

    def token_spans(self, texts: Sequence[str]) -> list[IntArray]:
        """``[tokens, 2]`` for each text: start and end of its tokens in characters, special ones left out."""
        check_texts(texts, "text", may_be_empty=True)
        return [np.array(e.offsets, dtype=np.int64).reshape(-1, 2) for e in self._encodings(texts)]

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        windows: bool = False,
        prompt: str | None = None,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Vectors of search queries; as :meth:`encode_documents`, with the model's query prompt."""
        prompt = self.config.query_prompt if prompt is None else prompt
        return self._encode_texts(texts, prompt, _Options(dtype, dims, truncate, windows, progress))

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        windows: bool = False,
        prompt: str | None = None,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Vectors of texts, one a text.

        Args:
            texts: none empty.
            dtype: ``float32``, ``int8`` or ``binary``.
            dims: one of :attr:`dims`; ``None`` for the widest.
            truncate: cut texts over :attr:`max_tokens` (they are listed in the result) instead of refusing them.
            windows: read texts over :attr:`max_tokens` through overlapping windows instead; a text's vector is then
                the mean over all its tokens (they are listed, too). Models that pool otherwise refuse them.
            prompt: put before every text and pooled with it; ``None`` takes the model's own.
            progress: called with (texts done, texts in all).

        Raises:
            InputError: an empty text, one over the limit, a width that was not trained.
        """
        prompt = self.config.document_prompt if prompt is None else prompt
        return self._encode_texts(texts, prompt, _Options(dtype, dims, truncate, windows, progress))

    def encode_chunks(
        self,
        documents: Sequence[Sequence[str]],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        windows: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Late chunking: one vector a chunk, each having read its whole document.

        The chunks of a document are joined by the end-of-text token, which is not pooled. A document longer than
        :attr:`max_tokens` is read through overlapping windows, and each chunk's vector is taken from the window that
        shows it most context on both sides (``text/windows.py``): time grows linearly with the document.

        Args:
            documents: chunks in reading order; no document and no chunk empty.
            dtype: ``float32``, ``int8`` or ``binary``.
            dims: one of :attr:`dims`; ``None`` for the widest.
            truncate: cut single chunks over the limit; ``truncated`` then lists their documents.
            windows: read single chunks over the limit through several windows instead of refusing them.
            progress: called with (documents done, documents in all).

        Returns:
            Rows in order of documents and chunks, with ``document_offsets``.
        """
        if isinstance(documents, str):
            raise InputError("documents is one string; give a list of documents, each a list of chunks")
        for i, chunks in enumerate(documents):
            if not isinstance(chunks, str) and len(chunks) == 0:
                raise InputError(f"document {i} has no chunks; leave it out or give it one")
            check_texts(chunks, f"document {i}, chunk")
        if prompt := self.config.document_prompt:
            documents = [[prompt + chunks[0], *chunks[1:]] for chunks in documents]
        return self._encode(documents, _Options(dtype, dims, truncate, windows, progress), chunked=True)

    def encode_tokens(
        self,
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> TokenEmbeddings:
        """A vector of every token, for late interaction and for whatever looks into a text.

        Each is the token's final state, finished like any vector (width, quantizer, normalisation). The tokens that a
        model puts around every text (``[CLS]``) are read and left out.

        Args:
            texts: none empty; no prompt is put before them.
            dtype, dims, truncate, progress: as for :meth:`encode_documents`.
        """
        check_texts(texts, "text")
        return self._encode_tokens(texts, _Options(dtype, dims, truncate, windows=False, progress=progress))

    def _encode_texts(self, texts: Sequence[str], prompt: str, options: _Options) -> Embeddings:
        check_texts(texts, "text")
        check_texts([prompt], "prompt", may_be_empty=True)
        return self._encode([[prompt + text] for text in texts], options, chunked=False)

    def _encode(self, documents: Sequence[Sequence[str]], options: _Options, *, chunked: bool) -> Embeddings:
        width, frame, total = self._width(options.dims, options.dtype), self._frame, len(documents)
        offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
        values = _empty(int(offsets[-1]), options.dtype, width)
        cut: list[int] = []
        windowed: list[int] = []
        tokens = done = 0
        for start, end in blocks(documents, _DOCUMENTS_AT_ONCE, _CHARACTERS_AT_ONCE):
            readings: list[Reading] = []
            ids = self._token_ids([chunk for document in documents[start:end] for chunk in document])
            for number in range(start, end):
                chunks = [next(ids) for _ in documents[number]]
                if self._limit(chunks, number, options, chunked=chunked):
                    cut.append(number)
                found = read_document([chunk + self._readout for chunk in chunks], frame, int(offsets[number]))
                if len(found) > 1:
                    windowed.append(number)
                readings += found
            sums = SharedRows(readings)
            for group, batch, means in self._means([reading.sequence for reading in readings]):
                rows = np.concatenate([readings[i].rows for i in group])
                rows, means = sums.add(rows, batch.spans[:, 1] - batch.spans[:, 0], means)
                values[rows] = self._finish(means, options.dtype, width)
                tokens += batch.tokens
                done += sum(readings[i].last for i in group)
                if options.progress is not None:
                    options.progress(done, total)
        return Embeddings(
            values, options.dtype, width, tokens, tuple(cut), offsets if chunked else None, tuple(windowed)
        )

    def _encode_tokens(self, texts: Sequence[str], options: _Options) -> TokenEmbeddings:
        width, frame = self._width(options.dims, options.dtype), self._frame
        parts: list[np.ndarray[Any, Any]] = []
        characters: list[IntArray] = []
        counts: list[int] = []
        cut: list[int] = []
        tokens = done = 0
        for start, end in blocks([[text] for text in texts], _DOCUMENTS_AT_ONCE, _CHARACTERS_AT_ONCE):
            sequences: list[TokenizedSequence] = []
            for number, encoding in enumerate(self._encodings(texts[start:end]), start):
                ids = [encoding.ids]
                if self._limit(ids, number, options, chunked=False):
                    cut.append(number)
                first, count = len(frame.prefix), len(ids[0])
                spans = tuple((first + i, first + i + 1) for i in range(count))
                sequences.append(TokenizedSequence((*frame.prefix, *ids[0], *self._readout, *frame.suffix), spans))
                characters.append(np.array(encoding.offsets[:count], dtype=np.int64).reshape(-1, 2))
                counts.append(count)
            first_row = np.concatenate([[0], np.cumsum(counts[start:end])])
            block = _empty(int(first_row[-1]), options.dtype, width)
            for group, batch, means in self._means(sequences):
                rows = np.concatenate([np.arange(first_row[i], first_row[i + 1]) for i in group])
                block[rows] = self._finish(means, options.dtype, width)
                tokens += batch.tokens
                done += len(group)
                if options.progress is not None:
                    options.progress(done, len(texts))
            parts.append(block)
        values = np.concatenate(parts) if parts else _empty(0, options.dtype, width)
        where = np.concatenate(characters) if characters else np.empty((0, 2), np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return TokenEmbeddings(values, options.dtype, width, offsets, where, tokens, tuple(cut))

    def _means(self, sequences: Sequence[TokenizedSequence]) -> Iterator[tuple[list[int], PackedBatch, FloatArray]]:
        """Batches of a token budget, shortest first: sequence numbers, the batch, the means of what is pooled of it."""
        for group in batches_by_tokens([len(s) for s in sequences], TOKEN_BUDGET):
            batch = read_out(pack([sequences[i] for i in group]), self.config.pooling)
            means = self.runtime.span_means(batch)
            if not np.isfinite(means).all():
                raise ModelError(
                    f"{self.config.name} gave values that are not finite in {self.runtime.precision} on the "
                    f"{self.runtime.name} runtime; load it with precision 'fp32' (or 'bf16'), or check its weights"
                )
            yield group, batch, means

    @cached_property
    def _frame(self) -> Frame:
        config = self.config
        return Frame(self.max_tokens, config.eot_token_id, config.prefix_ids, config.suffix_ids)

    @cached_property
    def _readout(self) -> list[int]:
        """What stands at the end of every text and chunk, to be its vector."""
        return list(self.config.readout_ids)

    @property
    def _room(self) -> int:
        """Tokens of a text that fit into one sequence."""
        return self._frame.room - len(self._readout)

    def _encodings(self, texts: Sequence[str]) -> Iterator[Any]:
        """The tokenizer's account of each text, made for so many texts at a time."""
        for start, end in blocks([[text] for text in texts], _TEXTS_TOKENIZED, _CHARACTERS_TOKENIZED):
            yield from self._tokenizer.encode_batch(list(texts[start:end]), add_special_tokens=False)

    def _token_ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        for start, end in blocks([[text] for text in texts], _TEXTS_TOKENIZED, _CHARACTERS_TOKENIZED):
            encoded = self._tokenizer.encode_batch_fast(list(texts[start:end]), add_special_tokens=False)
            yield from (encoding.ids for encoding in encoded)

    def _limit(self, chunks: list[list[int]], number: int, options: _Options, *, chunked: bool) -> bool:
        """Refuse or cut, in place, what is over the limit; whether something was cut."""
        room, cut, pieces = self._room, False, self.config.pooling == "mean"
        for place, ids in enumerate(chunks):
            if ids and len(ids) <= room:
                continue
            where = f"document {number}, chunk {place}" if chunked else f"text {number}"
            if not ids and (len(chunks) > 1 or self._frame.room == self.max_tokens):
                raise InputError(f"{where} has no tokens: the tokenizer drops all its characters; leave it out")
            if len(ids) > room and options.truncate:
                del ids[room:]
                cut = True
            elif len(ids) > room and not (options.windows and pieces):
                ways = "truncate or windows" if pieces else "truncate (its pooling gives no vector of pieces)"
                limit = f"{self.config.name} reads at most {room}"
                raise TextTooLongError(f"{where} has {len(ids)} tokens, {limit}; split it, or ask for {ways}", number)
        return cut

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


@dataclass(frozen=True, slots=True)
class _Options:
    dtype: VectorDtype
    dims: int | None
    truncate: bool
    windows: bool
    progress: Progress | None

    def __post_init__(self) -> None:
        if self.truncate and self.windows:
            raise InputError("truncate and windows were both asked for; a text over the limit can have one of them")


def _empty(rows: int, dtype: VectorDtype, width: int) -> np.ndarray[Any, Any]:
    return np.empty((rows, width // 8 if dtype == "binary" else width), _STORED[dtype])


def resolve_model(model: str | Path) -> Path:
    """The directory of a model: ``default``, a directory, or a hub id (downloaded by ``huggingface_hub``)."""
    if str(model) == "default":
        if not (BUNDLED / CONFIG_FILE).exists():
            raise ModelError(
                f"the embedded model is missing from {BUNDLED}; install diffembed again, or give a model directory"
            )
        return BUNDLED
    return fetch_model(model)
