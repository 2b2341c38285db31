"""The models that every score is compared with: BM25, and anything that sentence-transformers loads.

BM25 is bm25s (Lucene's formula) with k1 0.9 and b 0.4, the parameters of the BEIR paper, over lower-cased words without
stemming or stop words. An underscore parts words: names in code are then found by their parts, a stronger baseline
there. Scripts written without spaces (Han, kana, Thai, and Hangul, whose particles stick to the
word) are cut into overlapping pairs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.vectors.embeddings import Embeddings

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import EncodeOptions, VectorDtype


BM25_K1 = 0.9
BM25_B = 0.4
WORDS_VERSION = 2  # raised when `words` changes, so that stored scores are not mistaken for current ones
# Thai block, Hangul jamo and syllables, kana with its prolonged sound mark, Han with extensions and iteration mark.
_UNSPACED = (
    "\u0e00-\u0e7f\u1100-\u11ff\u3005\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003134f"
)


def words(text: str) -> list[str]:
    """What BM25 matches: lower-cased words, and character pairs of scripts without spaces.

    >>> words("Packed bits: LSB-first, naïve cu_seqlens 3.5")
    ['packed', 'bits', 'lsb', 'first', 'naïve', 'cu', 'seqlens', '3', '5']
    >>> words("東京都のAPI")
    ['東京', '京都', '都の', 'api']
    """
    found: list[str] = []
    for match in _pattern().finditer(text.lower()):
        run = match.group()
        if match.lastgroup == "unspaced" and len(run) > 1:
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(run)
    return found


@cache
def _pattern() -> re.Pattern[str]:
    """Combining marks count as part of a word: without them a Hindi or Arabic word falls apart at each vowel sign."""
    marks = [code for code in range(0x300, 0xFE30) if unicodedata.category(chr(code)).startswith("M")]
    word = rf"(?![{_UNSPACED}_])[\w{''.join(map(chr, marks))}]"
    return re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|(?P<word>(?:{word})+)")


class Bm25:
    """A BM25 index over texts; ``tokens`` counts the terms in them."""

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise MissingExtraError(
                "bm25 needs bm25s, which is not installed; run: pip install 'diffembed[eval]'"
            ) from error
        terms = [words(text) for text in texts]
        self.documents = len(terms)
        self.tokens = sum(map(len, terms))
        self._index: Any = None
        if self.tokens:
            self._index = bm25s.BM25(k1=BM25_K1, b=BM25_B, method="lucene")
            self._index.index(terms, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """``[documents]`` BM25 scores of one query; 0 where no term is shared."""
        known = self._index.get_tokens_ids(words(query)) if self._index is not None else []
        if not len(known):
            return np.zeros(self.documents, np.float32)
        return np.asarray(self._index.get_scores_from_ids(known), dtype=np.float32)


class SentenceTransformersEncoder:
    """Any sentence-transformers model behind the interface of ``Encoder``; the model's own prompts are applied.

    ``encode_chunks`` encodes each chunk by itself: such a model has no contextual route.
    """

    contextual = False
    _slice = 1024  # texts between two calls of `progress`

    def __init__(self, name_or_path: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            message = f"st:{name_or_path} needs sentence-transformers, which is not installed"
            raise MissingExtraError(f"{message}; run: pip install 'diffembed[eval]'") from error
        if name_or_path.startswith((".", "/", "~")) and not Path(name_or_path).expanduser().is_dir():
            raise ModelError(f"st:{name_or_path} is not a folder; give a sentence-transformers folder or a hub id")
        try:
            self._model = SentenceTransformer(str(Path(name_or_path).expanduser()), trust_remote_code=False)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"sentence-transformers cannot load {name_or_path!r}: {reason}") from error
        self.model_id = f"st:{name_or_path}"
        self._asked = name_or_path

    @property
    def model(self) -> Any:
        """The model of sentence-transformers."""
        return self._model

    @property
    def path(self) -> Path | None:
        """The folder it was loaded from, in the hub's cache where it came from there; ``None`` where nobody knows."""
        folder = Path(self._asked).expanduser()
        if folder.is_dir():
            return folder.resolve()
        from huggingface_hub import try_to_load_from_cache

        names = [self._asked] if "/" in self._asked else [f"sentence-transformers/{self._asked}", self._asked]
        for name in names:
            for file in ("modules.json", "config.json"):
                if isinstance(found := try_to_load_from_cache(name, file), str):
                    return Path(found).parent
        return None

    @property
    def dims(self) -> tuple[int, ...]:
        """The width of its vectors."""
        # Renamed in the course of version 5; the old name warns where the new one is there.
        named = getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        return (int(named() or 0),)

    @property
    def max_tokens(self) -> int | None:
        """Longest text in tokens, special ones included; ``None`` where the model has no limit."""
        return self._model.max_seq_length

    def encode_queries(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        """``[texts, dims]`` float32 vectors (see ``Encoder.encode_queries``)."""
        return self._encode(self._model.encode_query, texts, **options)

    def encode_documents(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        """``[texts, dims]`` float32 vectors (see ``Encoder.encode_documents``)."""
        return self._encode(self._model.encode_document, texts, **options)

    def encode_chunks(self, documents: Sequence[Sequence[str]], **options: Unpack[EncodeOptions]) -> Embeddings:
        """One vector a chunk, each chunk read alone."""
        flat = self.encode_documents([chunk for document in documents for chunk in document], **options)
        offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
        owners = sorted({int(np.searchsorted(offsets, row, side="right")) - 1 for row in flat.truncated})
        return Embeddings(flat.values, flat.dtype, flat.dims, flat.tokens, tuple(owners), offsets)

    def _encode(
        self,
        encode: Callable[..., Any],
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        if dtype != "float32":
            raise InputError(f"{self.model_id} gives float32 vectors, not {dtype}; use dtype float32")
        limit = self._model.max_seq_length
        lengths = self.count_tokens(texts)
        cut = tuple(i for i, length in enumerate(lengths) if limit is not None and length > limit)
        if cut and not truncate:
            message = f"text {cut[0]} has {lengths[cut[0]]} tokens, more than the {limit} of {self.model_id}"
            raise InputError(f"{message}; shorten it or allow cutting with truncate=True")
        # Sorted as a whole, so that slices hold texts of one length and padding stays small.
        order = sorted(range(len(texts)), key=lambda i: -lengths[i])
        parts: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(order), self._slice):
            part = [texts[i] for i in order[start : start + self._slice]]
            parts.append(np.asarray(encode(part, convert_to_numpy=True, show_progress_bar=False), np.float32))
            if progress is not None:
                progress(start + len(part), len(order))
        width = parts[0].shape[1]
        if dims is not None and not 0 < dims <= width:
            raise InputError(f"{self.model_id} gives {width} dimensions, not {dims}; leave dims out or lower it")
        values = np.empty((len(texts), dims or width), np.float32)
        values[order] = np.concatenate(parts)[:, : dims or width]
        read = sum(length if limit is None else min(length, limit) for length in lengths)
        return Embeddings(values, "float32", values.shape[1], read, cut)

    def characters_read(self, texts: Sequence[str]) -> list[int]:
        """How many characters of each document lie within the model's limit."""
        # The prompt that encode_document takes.
        named = [name for name in ("document", "passage", "corpus") if name in self._model.prompts]
        prompt = str(self._model.prompts.get(named[0] if named else self._model.default_prompt_name or "") or "")
        limit = self._model.max_seq_length
        if limit is None:
            return [len(text) for text in texts]
        cut = {"truncation": True, "max_length": limit, "padding": False, "return_offsets_mapping": True}
        tokenized = self._model.tokenizer([prompt + text for text in texts], **cut)
        ends = (max(end for _, end in offsets) for offsets in tokenized["offset_mapping"])
        return [max(0, end - len(prompt)) for end in ends]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model reads it, special ones included, prompts not."""
        tokenized = self._model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)
        return [len(ids) for ids in tokenized["input_ids"]]
