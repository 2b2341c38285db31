"""The loss of a contrastive stage: from the span means of a step to one number, whatever the stage's kind.

    span means -> documents (mean of their chunks) -> at every width: cut, quantizer, objective -> weighted sum

The objectives are in ``objectives/``; here their arguments come from the stage and the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffembed.errors import RecipeError
from diffembed.models.quantizer import signs, tanh_int8
from diffembed.objectives.contextual import (
    beta_at,
    chunk_relevance_kl,
    contextual_loss,
    max_chunk_info_nce,
    relevance_distribution,
)
from diffembed.objectives.contrastive import info_nce
from diffembed.objectives.distillation import similarity_kl, vector_cosine
from diffembed.objectives.matryoshka import matryoshka
from diffembed.training.configs import StageConfig
from diffembed.training.contrastive_batch import ContrastiveBatch
from diffembed.training.teacher import Judgement, Teacher


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """The loss of one step as a function of its span means (see ``grad_cache.Loss``).

    Attributes:
        dims: Matryoshka widths.
        beta: of the contextual loss at this step.
        positives_Q, gold_Q, query_ids_Q, document_ids_N, chunk_ids_C, chunk_documents_C, negatives_QK: as in the batch.
        chunk_weights_C: share of each chunk in its document's mean; ``None`` where every document is one chunk.
        judgement: the teacher's, where the stage distils.
    """

    stage: StageConfig
    dims: tuple[int, ...]
    beta: float
    in_batch: bool
    symmetric: bool
    positives_Q: Tensor
    gold_Q: Tensor
    query_ids_Q: Tensor
    document_ids_N: Tensor
    chunk_ids_C: Tensor
    chunk_documents_C: Tensor
    negatives_QK: Tensor
    chunk_weights_C: Tensor | None
    judgement: Judgement | None

    @classmethod
    def of(
        cls,
        batch: ContrastiveBatch,
        stage: StageConfig,
        dims: tuple[int, ...],
        *,
        progress: float,
        device: torch.device,
        teacher: Teacher | None = None,
    ) -> BatchLoss:
        """The loss of a batch ``progress`` of the way (0 to 1) through its stage."""

        def on_device(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        documents, tokens = batch.chunk_documents, batch.chunk_tokens.astype(np.float32)
        weights = None
        if len(documents) != len(batch.documents):
            totals = np.bincount(documents, weights=tokens, minlength=len(batch.documents))
            weights = on_device((tokens / totals[documents]).astype(np.float32))
        return cls(
            stage,
            dims,
            beta_at(progress, *stage.beta),
            batch.source.in_batch,
            batch.source.symmetric,
            on_device(batch.positives),
            on_device(batch.gold),
            on_device(batch.query_ids),
            on_device(batch.document_ids),
            on_device(batch.chunk_ids),
            on_device(documents),
            on_device(batch.negatives),
            weights,
            _judged(batch, stage, teacher, dims[-1], device),
        )

    def __call__(self, means_SD: Tensor, rows: Tensor) -> Tensor:
        """The share of the step's loss that the queries ``rows`` have, from the means of all its spans."""
        stage, count = self.stage, len(self.positives_Q)
        queries, chunks = means_SD[:count], means_SD[count:]
        documents = self._documents(chunks)
        judged = self.judgement

        def loss(queries: Tensor, chunks: Tensor, documents: Tensor) -> Tensor:
            total = self._contrast(queries, chunks, documents, rows)
            if judged is None:
                return total
            if judged.relevance_QC is not None:
                pull = chunk_relevance_kl(
                    queries, chunks, relevance_QC=judged.relevance_QC, temperature=stage.temperature, rows=rows
                )
                total = total + stage.distill_weight * pull
            if judged.queries_QE is not None and judged.documents_NE is not None and stage.distill == "kl":
                pull = similarity_kl(
                    queries,
                    documents,
                    judged.queries_QE,
                    judged.documents_NE,
                    temperature=stage.temperature,
                    teacher_temperature=stage.teacher_temperature,
                    rows=rows,
                )
                total = total + stage.distill_weight * pull
            return total

        quantize: Callable[[Tensor], Tensor] = tanh_int8 if stage.quantize == "tanh-int8" else lambda x: x
        tensors = (queries, chunks, documents)
        total = matryoshka(loss, quantize, tensors, self.dims)
        if stage.binary_weight:
            total = total + stage.binary_weight * matryoshka(loss, signs, tensors, self.dims)
        if judged and judged.queries_QE is not None and judged.documents_NE is not None and stage.distill == "cosine":
            own = vector_cosine(quantize(queries), judged.queries_QE, rows=rows)
            # each query answers for its own document
            theirs = vector_cosine(
                quantize(documents[self.positives_Q]), judged.documents_NE[self.positives_Q], rows=rows
            )
            total = total + stage.distill_weight * (own + theirs) / 2
        return total

    def _documents(self, chunks_CD: Tensor) -> Tensor:
        if self.chunk_weights_C is None:
            return chunks_CD
        documents = torch.zeros(len(self.document_ids_N), chunks_CD.shape[1], device=chunks_CD.device)
        return documents.index_add(0, self.chunk_documents_C, chunks_CD * self.chunk_weights_C[:, None])

    def _contrast(self, queries: Tensor, chunks: Tensor, documents: Tensor, rows: Tensor) -> Tensor:
        stage = self.stage
        if stage.kind == "contextual" and stage.gold:
            return contextual_loss(
                queries,
                chunks,
                documents,
                document_of_chunk_C=self.chunk_documents_C,
                gold_Q=self.gold_Q,
                chunk_ids_C=self.chunk_ids_C,
                document_ids_N=self.document_ids_N,
                query_ids_Q=self.query_ids_Q,
                alpha=stage.alpha,
                beta=self.beta,
                temperature=stage.temperature,
                margin=stage.mask_margin,
                rows=rows,
            )
        if stage.kind == "contextual":
            return max_chunk_info_nce(
                queries,
                chunks,
                document_of_chunk_C=self.chunk_documents_C,
                positives_Q=self.positives_Q,
                document_ids_N=self.document_ids_N,
                query_ids_Q=self.query_ids_Q,
                temperature=stage.temperature,
                margin=stage.mask_margin,
                rows=rows,
            )
        return info_nce(
            queries,
            documents,
            positives_Q=self.positives_Q,
            document_ids_N=self.document_ids_N,
            query_ids_Q=self.query_ids_Q,
            temperature=stage.temperature,
            margin=stage.mask_margin,
            query_negatives=stage.asks_queries and self.in_batch,
            in_batch=self.in_batch,
            negatives_QK=self.negatives_QK,
            symmetric=self.symmetric and self.in_batch,
            similarity=stage.similarity,
            rows=rows,
        )


def _judged(
    batch: ContrastiveBatch, stage: StageConfig, teacher: Teacher | None, width: int, device: torch.device
) -> Judgement | None:
    """What the rows' own scores of chunks and a teacher say of a batch; scores of a row stand before the teacher's."""
    relevance = queries = documents = None
    chunks = teacher is not None and stage.distill == "chunks"
    if stage.kind == "contextual" and (chunks or any(batch.scores)):
        found = teacher.chunk_scores(batch) if teacher and chunks else batch.scores
        relevance = _relevance(batch, [given or own for given, own in zip(batch.scores, found, strict=True)], stage)
    if teacher and not chunks:
        queries, documents = (torch.from_numpy(vectors).to(device) for vectors in teacher.vectors(batch))
        if stage.distill == "cosine" and queries.shape[1] < width:
            raise RecipeError(
                f"stage '{stage.name}': vectors of teacher {teacher.model} have {queries.shape[1]} values, the model's "
                f'{width}; distill = "cosine" needs as many, "kl" takes any width'
            )
    if relevance is None and queries is None:
        return None
    return Judgement(queries, documents, None if relevance is None else relevance.to(device))


def _relevance(batch: ContrastiveBatch, scores: Sequence[tuple[float, ...]], stage: StageConfig) -> Tensor:
    """``[Q, C]`` scores of the chunks of each query's document as distributions."""
    documents = batch.chunk_documents
    values = np.zeros((batch.queries, len(documents)), dtype=np.float32)
    mask = np.zeros(values.shape, dtype=bool)
    for i, own in enumerate(scores):
        if own:
            mask[i] = documents == batch.positives[i]
            values[i, mask[i]] = own
    return relevance_distribution(torch.from_numpy(values), torch.from_numpy(mask), stage.teacher_temperature)
