"""What the index asks of a model, and the two ways it uses it: vectors of chunks, and the best sentence of a hit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffembed.errors import IndexStoreError
from diffembed.index.rescoring import cosines_with
from diffembed.index.schema import Settings, StoredChunk
from diffembed.index.segments import Int8Rows, row_norms
from diffembed.text.batching import IntArray
from diffembed.text.sentences import Span, sentences, trimmed
from diffembed.vectors.embeddings import Embeddings, VectorDtype

Progress = Callable[[int, int], None]


class TextEncoder(Protocol):
    """The part of ``Encoder`` that the index uses."""

    @property
    def model_id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def contextual(self) -> bool: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...
    def token_spans(self, texts: Sequence[str]) -> list[IntArray]: ...
    def encode_queries(self, texts: Sequence[str], *, dtype: VectorDtype = ..., truncate: bool = ...) -> Embeddings: ...
    def encode_documents(
        self, texts: Sequence[str], *, dtype: VectorDtype = ..., truncate: bool = ..., progress: Progress | None = ...
    ) -> Embeddings: ...
    def encode_chunks(
        self,
        documents: Sequence[Sequence[str]],
        *,
        dtype: VectorDtype = ...,
        truncate: bool = ...,
        windows: bool = ...,
        progress: Progress | None = ...,
    ) -> Embeddings: ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found.

    Attributes:
        path: the file, absolute; ``None`` of a record.
        line_start: first line of the chunk, from 1.
        line_end: last line, inclusive.
        score: what the hits are in order of: the cosine, or with ``hybrid`` the fused score.
        text: the chunk.
        best_sentence: the sentence of the chunk that is closest to the query (a line, in code).
        best_sentence_span: its ``(start, end)`` in ``text``, in characters.
        chunk_id: the chunk's number in the index.
        key: the id of the record, or the path as a string.
        metadata: of the document.
        cosine: with the query, from -1 to 1.
        bm25: of the words shared with the query; ``None`` without ``hybrid``, 0 where no word is shared.
        before, after: the chunks around it in the document, in reading order, as many as were asked for.
    """

    path: Path | None
    line_start: int
    line_end: int
    score: float
    text: str
    best_sentence: str
    best_sentence_span: Span
    chunk_id: int
    key: str
    metadata: Mapping[str, Any]
    cosine: float
    bm25: float | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``bm25``, ``before`` and ``after`` only where there are any."""
        plain: dict[str, Any] = {
            "path": None if self.path is None else str(self.path),
            "line_start": self.line_start,
            "line_end": self.line_end,
            "score": self.score,
            "text": self.text,
            "best_sentence": self.best_sentence,
            "best_sentence_span": list(self.best_sentence_span),
            "chunk_id": self.chunk_id,
            "key": self.key,
            "metadata": dict(self.metadata),
            "cosine": self.cosine,
        }
        more = {"bm25": self.bm25, "before": list(self.before), "after": list(self.after)}
        return plain | {name: value for name, value in more.items() if value not in (None, [])}


def load_encoder(model: str) -> TextEncoder:
    """The encoder of a model name, directory or hub id."""
    from diffembed.encoder import Encoder  # heavy: only where a model is needed

    return Encoder.load(model)


def check_model(folder: Path | str, settings: Settings, encoder: TextEncoder) -> None:
    """Refuse a model that an index was not made with.

    Raises:
        IndexStoreError: another model; the message names both.
    """
    if (encoder.fingerprint, encoder.dims[-1]) == (settings.fingerprint, settings.dims):
        return
    if not settings.fingerprint:
        raise IndexStoreError(
            f"nobody knows which model made the vectors of {folder}; search it with vectors (search_vectors), or "
            "import them again naming the model"
        )
    raise IndexStoreError(
        f"{folder} was made by model {settings.model} ({settings.fingerprint[:12]}, {settings.dims} dims), not by "
        f"{encoder.model_id} ({encoder.fingerprint[:12]}, {encoder.dims[-1]} dims); use that model, or index again "
        "into a new folder"
    )


def encode_chunks(
    encoder: TextEncoder, documents: Sequence[Sequence[str]], progress: Progress | None = None
) -> tuple[Int8Rows, list[int]]:
    """INT8 vectors of the chunks of some documents, at full width.

    Returns:
        ``[chunks, dims]`` in order, and the numbers of the documents of which the model could not read all.
    """
    if encoder.contextual:
        embeddings = encoder.encode_chunks(documents, dtype="int8", truncate=True, progress=progress)
        cut = set(embeddings.truncated)
    else:
        texts = [text for chunks in documents for text in chunks]
        owner = [number for number, chunks in enumerate(documents) for _ in chunks]
        embeddings = encoder.encode_documents(texts, dtype="int8", truncate=True, progress=progress)
        cut = {owner[i] for i in embeddings.truncated}
    rows = np.ascontiguousarray(embeddings.values)
    expected = sum(map(len, documents))
    if rows.shape != (expected, encoder.dims[-1]) or rows.dtype != np.int8:
        raise ValueError(f"{encoder.model_id} gave {rows.dtype} {rows.shape} for {expected} chunks")
    return rows, sorted(cut)


def best_sentences(encoder: TextEncoder, query_D: Int8Rows, found: Sequence[StoredChunk]) -> list[Span]:
    """Where the best sentence of each chunk stands: only the sentences of what is returned are encoded."""
    spans = [_candidates(stored) for stored in found]
    unclear = [number for number, choices in enumerate(spans) if len(choices) > 1]
    best = [choices[0] for choices in spans]
    if unclear:
        texts = [[found[n].chunk.text[start:end] for start, end in spans[n]] for n in unclear]
        rows, _ = encode_chunks(encoder, texts)
        cosines = cosines_with(query_D, rows, row_norms(rows))
        at = 0
        for number in unclear:
            count = len(spans[number])
            best[number] = spans[number][int(np.argmax(cosines[at : at + count]))]
            at += count
    return best


def _candidates(stored: StoredChunk) -> list[Span]:
    """Sentences that say something; the whole chunk if none does."""
    text = stored.chunk.text
    spans = [(start, end) for start, end in sentences(text, stored.kind) if any(map(str.isalnum, text[start:end]))]
    return spans or [trimmed(text, 0, len(text)) or (0, len(text))]
