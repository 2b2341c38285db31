"""``BatchLoss``: the objectives called with what the stage and the batch say, and nothing else."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.contrastive_rows import SOURCE, TOKENIZER, batch_of, grouped, pairs, stage_of, triplets
from torch import Tensor

from diffembed.data.examples import Example, Grouped, Pair, Question
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
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.contrastive import BatchLoss
from diffembed.training.contrastive_batch import ContrastiveBatch
from diffembed.training.teacher import Teacher

WIDE = 24
Heads = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries, chunks, documents), cut and quantized -> a loss."""


def means_of(batch: ContrastiveBatch, seed: int = 0) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(batch.queries + len(batch.chunk_ids), 16)).astype(np.float32)
    )


def taken(
    batch: ContrastiveBatch, stage: StageConfig, *, progress: float = 0.4, teacher: Teacher | None = None
) -> float:
    loss = BatchLoss.of(batch, stage, (8, 16), progress=progress, device=torch.device("cpu"), teacher=teacher)
    return float(loss(means_of(batch), torch.arange(batch.queries)))


def by_hand(batch: ContrastiveBatch, head: Heads, quantize: Callable[[Tensor], Tensor] = tanh_int8) -> float:
    """The mean over both widths; a document is the mean over all tokens of its chunks."""
    means = means_of(batch)
    queries, chunks = means[: batch.queries], means[batch.queries :]
    documents = torch.stack(
        [
            (chunks[rows] * torch.from_numpy(batch.chunk_tokens[rows])[:, None]).sum(0) / batch.chunk_tokens[rows].sum()
            for rows in (np.flatnonzero(batch.chunk_documents == d) for d in range(len(batch.documents)))
        ]
    ).float()
    found = [head(*(quantize(x[:, :width]) for x in (queries, chunks, documents))) for width in (8, 16)]
    return float(sum(found)) / 2


def ids(batch: ContrastiveBatch) -> dict[str, Any]:
    return {
        "document_ids_N": torch.from_numpy(batch.document_ids),
        "query_ids_Q": torch.from_numpy(batch.query_ids),
    }


def against(batch: ContrastiveBatch, **options: Any) -> Heads:
    usual = {"positives_Q": torch.from_numpy(batch.positives), **ids(batch)}
    return lambda q, c, d: info_nce(q, d, **usual | options)


SHARED: list[Example] = [*pairs(5), Pair("another", pairs(1)[0].document)]  # type: ignore[union-attr]


def test_pair() -> None:
    batch = batch_of(SHARED, stage_of("pair"))
    expected = by_hand(batch, against(batch, temperature=0.02, margin=0.1, query_negatives=True))
    assert taken(batch, stage_of("pair")) == pytest.approx(expected, rel=1e-6)
    keys: dict[str, Any] = {"temperature": 0.05, "margin": 0.3, "query_negatives": False}
    assert taken(batch, stage_of("pair", **keys)) == pytest.approx(by_hand(batch, against(batch, **keys)), rel=1e-6)
    none = by_hand(batch, against(batch, temperature=0.02, margin=None))
    assert taken(batch, stage_of("pair", margin=float("inf"))) == pytest.approx(none, rel=1e-6)


def test_triplet() -> None:
    stage = stage_of("triplet", negatives=3)
    batch = batch_of(triplets(6), stage)
    expected = by_hand(batch, against(batch, margin=None, query_negatives=False))
    assert taken(batch, stage) == pytest.approx(expected, rel=1e-6)
    given = stage_of("triplet", negatives=3, margin=0.2, query_negatives=True)
    assert taken(batch, given) == pytest.approx(by_hand(batch, against(batch, margin=0.2)), rel=1e-6)


def test_own_negatives_alone() -> None:
    stage = stage_of("triplet", negatives=3, query_negatives=True)
    source = dataclasses.replace(SOURCE, in_batch=False)
    batch = batch_of(triplets(8)[1:4], stage, source)
    listed = torch.from_numpy(batch.negatives)
    expected = by_hand(batch, against(batch, margin=None, query_negatives=False, in_batch=False, negatives_QK=listed))
    assert taken(batch, stage) == pytest.approx(expected, rel=1e-6)


def test_both_ways_and_dot_products() -> None:
    batch = batch_of(SHARED, stage_of("pair"), dataclasses.replace(SOURCE, symmetric=True))
    assert taken(batch, stage_of("pair")) == pytest.approx(by_hand(batch, against(batch, symmetric=True)), rel=1e-6)
    stage = stage_of("pair", similarity="dot", margin=float("inf"), quantize="none", temperature=4.0)
    head = against(batch, symmetric=True, similarity="dot", margin=None, temperature=4.0)
    assert taken(batch, stage) == pytest.approx(by_hand(batch, head, lambda x: x), rel=1e-6)


def test_without_a_quantizer_and_with_signs_added() -> None:
    batch = batch_of(SHARED, stage_of("pair"))
    plain = by_hand(batch, against(batch), lambda x: x)
    assert taken(batch, stage_of("pair", quantize="none")) == pytest.approx(plain, rel=1e-6)
    hard, bits = by_hand(batch, against(batch)), by_hand(batch, against(batch), signs)
    assert len({round(x, 4) for x in (plain, hard, bits)}) == 3
    assert taken(batch, stage_of("pair", binary_weight=0.3)) == pytest.approx(hard + 0.3 * bits, rel=1e-6)


def with_gold(batch: ContrastiveBatch, **options: Any) -> Heads:
    usual: dict[str, Any] = {
        "document_of_chunk_C": torch.from_numpy(batch.chunk_documents),
        "gold_Q": torch.from_numpy(batch.gold),
        "chunk_ids_C": torch.from_numpy(batch.chunk_ids),
        **ids(batch),
    }
    return lambda q, c, d: contextual_loss(q, c, d, **usual | options)


def without_gold(batch: ContrastiveBatch, **options: Any) -> Heads:
    usual: dict[str, Any] = {
        "document_of_chunk_C": torch.from_numpy(batch.chunk_documents),
        "positives_Q": torch.from_numpy(batch.positives),
        **ids(batch),
    }
    return lambda q, c, d: max_chunk_info_nce(q, c, **usual | options)


ROWS: list[Example] = [*grouped(6), Pair("one", "a document of one chunk"), grouped(4)[3]]


def test_contextual_with_gold_chunks() -> None:
    batch = batch_of(ROWS, stage_of("contextual"))
    assert len(batch.chunk_ids) > len(batch.documents)
    for progress in (0.0, 0.5, 1.0):
        expected = by_hand(batch, with_gold(batch, beta=beta_at(progress, 0.2, 0.5)))
        assert taken(batch, stage_of("contextual"), progress=progress) == pytest.approx(expected, rel=1e-6)
    stage = stage_of("contextual", alpha=0.7, beta=(0.9, 0.1), margin=0.0, temperature=0.1)
    head = with_gold(batch, alpha=0.7, beta=0.1, margin=0.0, temperature=0.1)
    assert taken(batch, stage, progress=1.0) == pytest.approx(by_hand(batch, head), rel=1e-6)


def test_contextual_without_gold_chunks() -> None:
    stage = stage_of("contextual", gold=False)
    batch = batch_of(ROWS, stage)
    assert taken(batch, stage) == pytest.approx(by_hand(batch, without_gold(batch)), rel=1e-6)


def test_a_share_of_the_queries() -> None:
    batch = batch_of(ROWS, stage_of("contextual"))
    stage = stage_of("contextual", binary_weight=0.5)
    loss = BatchLoss.of(batch, stage, (8, 16), progress=0.0, device=torch.device("cpu"))
    means = means_of(batch)
    parts = [float(loss(means, torch.arange(i, batch.queries, 3))) for i in range(3)]
    assert sum(parts) == pytest.approx(float(loss(means, torch.arange(batch.queries))), rel=1e-6)


# Teachers


class FakeEncoder:
    """Vectors that follow from the text alone; remembers what it was given."""

    def __init__(self, *, contextual: bool = False, width: int = WIDE) -> None:
        self.contextual, self.width = contextual, width
        self.queries: list[str] = []
        self.documents: list[Any] = []

    def vector(self, text: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.width).astype(np.float32)

    def _all(self, texts: Sequence[str]) -> SimpleNamespace:
        assert all(text.strip() for text in texts), "encoders refuse blank texts"
        return SimpleNamespace(values=np.stack([self.vector(text) for text in texts]))

    def encode_queries(self, texts: Sequence[str], *, dtype: str, truncate: bool) -> SimpleNamespace:
        assert (dtype, truncate) == ("float32", True)
        self.queries = list(texts)
        return self._all(texts)

    def encode_documents(self, texts: Sequence[str], *, dtype: str, truncate: bool) -> SimpleNamespace:
        assert (dtype, truncate) == ("float32", True)
        self.documents = list(texts)
        return self._all(texts)

    def encode_chunks(self, documents: Sequence[Sequence[str]], *, dtype: str, truncate: bool) -> SimpleNamespace:
        self.documents = [list(chunks) for chunks in documents]
        return self._all([f"{i} of {' '.join(chunks)}" for chunks in documents for i in range(len(chunks))])


def taught(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Teacher, FakeEncoder]:
    encoder = FakeEncoder(**options)
    monkeypatch.setattr("diffembed.evaluation.ranker.load_encoder", lambda name: encoder)
    return Teacher("some/teacher", TOKENIZER), encoder


def test_kl_of_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, encoder = taught(monkeypatch)
    keys: dict[str, Any] = {"teacher": "some/teacher", "distill_weight": 0.7, "teacher_temperature": 0.5}
    batch = batch_of([*SHARED, Pair("dog", "the dog", instruction="find")], stage_of("pair"))

    def head(q: Tensor, c: Tensor, d: Tensor) -> Tensor:
        vectors = [torch.from_numpy(np.stack([encoder.vector(t) for t in texts])) for texts in (queries, documents)]
        return against(batch)(q, c, d) + 0.7 * similarity_kl(q, d, *vectors, teacher_temperature=0.5)

    queries = [*(row.query for row in SHARED), "find dog"]  # type: ignore[union-attr]
    documents = [*(row.document for row in SHARED[:5]), "the dog"]  # type: ignore[union-attr]
    value = taken(batch, stage_of("pair", **keys), teacher=teacher)
    assert (encoder.queries, encoder.documents) == (queries, documents)
    assert value == pytest.approx(by_hand(batch, head), rel=1e-6)


def test_cosine_of_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the full width alone, once: a teacher's first values are a space of its own only if it was trained so."""
    teacher, _ = taught(monkeypatch)
    batch = batch_of(SHARED, stage_of("pair"))
    stage = stage_of("pair", teacher="some/teacher", distill="cosine", distill_weight=0.7, binary_weight=0.2)
    means, vectors = tanh_int8(means_of(batch)), teacher.vectors(batch)
    own = vector_cosine(means[:6], torch.from_numpy(vectors[0]))
    theirs = vector_cosine(means[6:][batch.positives], torch.from_numpy(vectors[1][batch.positives]))
    both = by_hand(batch, against(batch)) + 0.2 * by_hand(batch, against(batch), signs)
    assert taken(batch, stage, teacher=teacher) == pytest.approx(both + 0.7 * float(own + theirs) / 2, rel=1e-6)
    narrow, _ = taught(monkeypatch, width=8)
    with pytest.raises(RecipeError, match='some/teacher have 8 values, the model\'s 16; .*"kl" takes any width'):
        taken(batch, stage, teacher=narrow)
    taken(batch, dataclasses.replace(stage, distill="kl"), teacher=narrow)


def relevance(batch: ContrastiveBatch, scores: Sequence[Sequence[float]], temperature: float) -> Tensor:
    values, mask = torch.zeros(batch.queries, len(batch.chunk_ids)), torch.zeros(batch.queries, len(batch.chunk_ids))
    for i, own in enumerate(scores):
        if own:
            rows = np.flatnonzero(batch.chunk_documents == batch.positives[i])
            values[i, rows], mask[i, rows] = torch.tensor(own), 1.0
    return relevance_distribution(values, mask.bool(), temperature)


@pytest.mark.parametrize("contextual", [False, True])
def test_relevance_of_chunks(contextual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, encoder = taught(monkeypatch, contextual=contextual)
    stage = stage_of("contextual", gold=False, teacher="some/teacher", distill="chunks", teacher_temperature=0.3)
    batch = batch_of(ROWS, stage)
    texts = [[TOKENIZER.decode(list(s.token_ids[a:b])) for a, b in s.spans] for s in batch.documents]

    def unit(text: str) -> np.ndarray:
        vector: np.ndarray = encoder.vector(text) / np.linalg.norm(encoder.vector(text))
        return vector

    scores = []
    for number, document in enumerate(batch.positives.tolist()):
        query = TOKENIZER.decode(list(batch.sequences[number].token_ids))
        own = texts[document]
        read = [f"{i} of {' '.join(own)}" for i in range(len(own))] if contextual else own
        scores.append([float(unit(query) @ unit(chunk)) for chunk in read])

    def head(q: Tensor, c: Tensor, d: Tensor) -> Tensor:
        pull = chunk_relevance_kl(q, c, relevance_QC=relevance(batch, scores, 0.3))
        return without_gold(batch)(q, c, d) + pull

    assert taken(batch, stage, teacher=teacher) == pytest.approx(by_hand(batch, head), rel=1e-5)
    assert encoder.documents == (texts if contextual else [text for own in texts for text in own])


SCORED: list[Example] = [
    Grouped(("a dog", "a cat", "a fox"), (Question("dog", 0, (3.0, 1.0, 0.0)), Question("cat", 1))),
    Grouped(("the token", "the model"), (Question("token", 0, (1.0, 0.5)),)),
    Pair("owl", "an owl"),
]


def test_scores_of_the_rows_need_no_teacher() -> None:
    stage = stage_of("contextual", teacher_temperature=0.5, distill_weight=2.0)
    batch = batch_of(SCORED, stage)
    wanted = relevance(batch, [(3.0, 1.0, 0.0), (), (1.0, 0.5), ()], 0.5)

    def head(q: Tensor, c: Tensor, d: Tensor) -> Tensor:
        pull = chunk_relevance_kl(q, c, relevance_QC=wanted)
        return with_gold(batch, beta=beta_at(0.4))(q, c, d) + 2.0 * pull

    assert taken(batch, stage) == pytest.approx(by_hand(batch, head), rel=1e-6)


def test_scores_of_the_rows_come_before_the_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, _ = taught(monkeypatch)
    stage = stage_of("contextual", gold=False, teacher="some/teacher", distill="chunks")
    batch = batch_of(SCORED, stage)
    judged = teacher.chunk_scores(batch)
    wanted = relevance(batch, [(3.0, 1.0, 0.0), judged[1], (1.0, 0.5), judged[3]], 0.02)

    def head(q: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return without_gold(batch)(q, c, d) + chunk_relevance_kl(q, c, relevance_QC=wanted)

    assert taken(batch, stage, teacher=teacher) == pytest.approx(by_hand(batch, head), rel=1e-5)


@pytest.mark.parametrize("distill", ["kl", "cosine"])
def test_scores_of_the_rows_stand_beside_a_teacher_of_whole_texts(
    distill: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, encoder = taught(monkeypatch)
    stage = stage_of("contextual", gold=False, teacher="some/teacher", distill=distill)
    batch = batch_of(SCORED, stage)
    alone = taken(batch, stage_of("contextual", gold=False))
    unscored = dataclasses.replace(batch, scores=((),) * batch.queries)
    base, pulled = taken(unscored, stage_of("contextual", gold=False)), taken(unscored, stage, teacher=teacher)
    assert encoder.documents == ["a dog a cat a fox", "the token the model", "an owl"]
    assert taken(batch, stage, teacher=teacher) == pytest.approx(alone + pulled - base, rel=1e-5)
    assert len({round(x, 4) for x in (alone, base, pulled)}) == 3


def test_a_span_that_reads_as_nothing_is_a_full_stop_to_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, encoder = taught(monkeypatch)
    source = SourceConfig("rows", ("x",), kind="rows")
    batch = batch_of([Pair("dog", "the dog"), Pair("\x0c", "\t")], stage_of("pair"), source)
    teacher.vectors(batch)
    assert encoder.queries == ["dog", "."] and encoder.documents == ["the dog", "."]
