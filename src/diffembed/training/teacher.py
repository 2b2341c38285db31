"""A teacher embedder: what it makes of a batch, so that a stage can pull its own model towards that.

The teacher reads the text that the student's tokens stand for, so a long document is cut for both alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from torch import Tensor

from diffembed.text.batching import TokenizedSequence
from diffembed.training.contrastive_batch import ContrastiveBatch

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a teacher says of a batch.

    Attributes:
        queries_QE, documents_NE: its vectors, of any width.
        relevance_QC: a distribution over the chunks of each query's document (see ``relevance_distribution``).
    """

    queries_QE: Tensor | None
    documents_NE: Tensor | None
    relevance_QC: Tensor | None


class Teacher:
    """An embedder that judges batches.

    Args:
        model: a model directory, a hub id, ``default`` or ``st:NAME_OR_PATH``.
        tokenizer: the student's.

    Raises:
        ModelError, MissingExtraError: the model cannot be loaded.
    """

    def __init__(self, model: str, tokenizer: Tokenizer) -> None:
        from diffembed.evaluation.ranker import load_encoder

        self.model, self.tokenizer = model, tokenizer
        self._encoder = load_encoder(model)

    def vectors(self, batch: ContrastiveBatch) -> tuple[FloatArray, FloatArray]:
        """``[Q, E]`` and ``[N, E]`` float32 vectors of queries and whole documents."""
        queries = self._encoder.encode_queries(
            self._texts(batch.sequences[: batch.queries]), dtype="float32", truncate=True
        )
        documents = [" ".join(texts) for texts in self._chunks(batch.documents)]
        read = self._encoder.encode_documents(documents, dtype="float32", truncate=True)
        return np.asarray(queries.values, np.float32), np.asarray(read.values, np.float32)

    def chunk_scores(self, batch: ContrastiveBatch) -> list[tuple[float, ...]]:
        """By query the cosines to the chunks of its document; a contextual teacher reads these together."""
        texts = self._texts(batch.sequences[: batch.queries])
        queries = self._encoder.encode_queries(texts, dtype="float32", truncate=True).values
        chunks = self._chunks(batch.documents)
        if getattr(self._encoder, "contextual", False):
            read = self._encoder.encode_chunks(chunks, dtype="float32", truncate=True).values
        else:
            flat = [text for own in chunks for text in own]
            read = self._encoder.encode_documents(flat, dtype="float32", truncate=True).values
        units = [
            np.asarray(v, np.float32) / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
            for v in (queries, read)
        ]
        ends = np.cumsum([0, *map(len, chunks)])
        return [
            tuple((units[1][ends[d] : ends[d + 1]] @ q).tolist())
            for q, d in zip(units[0], batch.positives.tolist(), strict=True)
        ]

    def _texts(self, sequences: Sequence[TokenizedSequence]) -> list[str]:
        return [texts[0] for texts in self._chunks(sequences)]

    def _chunks(self, sequences: Sequence[TokenizedSequence]) -> list[list[str]]:
        """The texts of the spans; one that decodes to nothing becomes a full stop, which encoders accept."""
        found = []
        for sequence in sequences:
            ids = list(map(int, sequence.token_ids))
            texts = self.tokenizer.decode_batch([ids[start:end] for start, end in sequence.spans])
            found.append([text if text.strip() else "." for text in texts])
        return found
