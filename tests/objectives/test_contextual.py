"""The losses over chunks against brute-force loops in float64, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffembed.objectives.contextual import (
    beta_at,
    chunk_relevance_kl,
    contextual_loss,
    in_batch_chunks,
    in_sequence,
    max_chunk_info_nce,
    relevance_distribution,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
Ids = Sequence[int]


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def _term(positive: float, negatives: Sequence[float], temperature: float, margin: float | None = None) -> float:
    kept = [s for s in negatives if margin is None or s <= positive + margin]
    return math.log(sum(math.exp((s - positive) / temperature) for s in [positive, *kept]))


class _Batch:
    """Documents of 1 to 4 chunks; queries with a gold chunk each, like their chunk; ids with repeats, or none."""

    def __init__(self, seed: int, queries: int, documents: int, repeats: bool) -> None:
        rng = np.random.default_rng(seed)
        self.document_of = rng.permutation(np.repeat(np.arange(documents), rng.integers(1, 5, documents)))
        count = len(self.document_of)
        self.chunks, self.documents = rng.normal(size=(count, 5)), rng.normal(size=(documents, 5))
        self.gold = rng.integers(0, count, queries)
        self.queries = self.chunks[self.gold] + self.documents[self.document_of[self.gold]]
        self.queries += 0.7 * rng.normal(size=self.queries.shape)
        self.ids: dict[str, list[int]] = {}
        sizes = {"chunk_ids_C": count, "document_ids_N": documents, "query_ids_Q": queries}
        for name, n in sizes.items():
            self.ids[name] = (rng.integers(0, max(1, n // 2 + 1), n) if repeats else np.arange(n)).tolist()
        self.repeats = repeats
        self.rows = rng.permutation(queries)[: int(rng.integers(0, queries + 1))].tolist()

    def tensors(self, *names: str) -> dict[str, Tensor]:
        named = {"document_of_chunk_C": self.document_of, "gold_Q": self.gold}
        given = {n: torch.tensor(named[n]) for n in names if n in named}
        return given | ({n: torch.tensor(self.ids[n]) for n in names if n in self.ids} if self.repeats else {})

    def asked(self, positives: Ids, ids: Ids) -> dict[int, set[int]]:
        """By query id, the ids of everything that answers."""
        found: dict[int, set[int]] = {}
        for i, p in enumerate(positives):
            found.setdefault(self.ids["query_ids_Q"][i], set()).add(ids[p])
        return found

    def term(self, part: str, i: int, temperature: float, margin: float | None) -> float:
        q, gold, own_query = self.queries[i], self.gold[i], self.ids["query_ids_Q"][i]
        home = self.document_of[gold]
        if part in ("in_sequence", "in_batch"):
            ids = self.ids["chunk_ids_C"]
            right = self.asked(self.gold.tolist(), ids)[own_query]
            among = [c for c in range(len(ids)) if part == "in_batch" or self.document_of[c] == home]
            negatives = [_cosine(q, self.chunks[c]) for c in among if ids[c] not in right]
            return _term(_cosine(q, self.chunks[gold]), negatives, temperature)
        ids = self.ids["document_ids_N"]
        asked = self.asked(self.document_of[self.gold].tolist(), ids)
        right = asked[own_query]
        others = [n for n in range(len(ids)) if ids[n] not in right]
        if part == "max_chunk":
            best = [
                max(_cosine(q, x) for x, n in zip(self.chunks, self.document_of, strict=True) if n == document)
                for document in range(len(ids))
            ]
            return _term(best[home], [best[n] for n in others], temperature, margin)
        queries = [k for k, own in enumerate(self.ids["query_ids_Q"]) if not asked[own] & right]
        negatives = [_cosine(q, self.documents[n]) for n in others] + [_cosine(q, self.queries[k]) for k in queries]
        return _term(_cosine(q, self.documents[home]), negatives, temperature, margin)

    def mean(self, part: str, temperature: float, margin: float | None = None, rows: Ids | None = None) -> float:
        chosen = range(len(self.queries)) if rows is None else rows
        return sum(self.term(part, i, temperature, margin) for i in chosen) / len(self.queries)


BATCHES = (st.integers(0, 2**16), st.integers(1, 6), st.integers(1, 4), st.booleans())


def _agree(ours: Callable[..., Tensor], brute: Callable[..., float], batch: _Batch) -> None:
    """The whole, a share of the rows, and the two shares together."""
    rest = [i for i in range(len(batch.queries)) if i not in batch.rows]
    shares = [float(ours(rows=torch.tensor(r, dtype=torch.int64))) for r in (batch.rows, rest)]
    assert float(ours()) == pytest.approx(brute(), rel=1e-9, abs=1e-9)
    assert shares[0] == pytest.approx(brute(rows=batch.rows), rel=1e-9, abs=1e-9)
    assert sum(shares) == pytest.approx(brute(), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(*BATCHES, st.sampled_from([0.05, 0.5]), st.sampled_from([None, -0.1, 0.1]))
def test_contextual_loss_and_its_parts_equal_brute_force(
    seed: int, queries: int, documents: int, repeats: bool, temperature: float, margin: float | None
) -> None:
    b = _Batch(seed, queries, documents, repeats)
    q, chunks, whole = (torch.tensor(x) for x in (b.queries, b.chunks, b.documents))
    local = b.tensors("gold_Q", "chunk_ids_C", "query_ids_Q")
    home = b.tensors("document_of_chunk_C")
    _agree(
        lambda rows=None: in_batch_chunks(q, chunks, **local, temperature=temperature, rows=rows),
        lambda rows=None: b.mean("in_batch", temperature, rows=rows),
        b,
    )
    _agree(
        lambda rows=None: in_sequence(q, chunks, **local, **home, temperature=temperature, rows=rows),
        lambda rows=None: b.mean("in_sequence", temperature, rows=rows),
        b,
    )

    def brute(rows: Ids | None = None) -> float:
        sequence, batch = (b.mean(part, temperature, rows=rows) for part in ("in_sequence", "in_batch"))
        return 0.3 * b.mean("global", temperature, margin, rows) + 0.7 * (0.4 * sequence + 0.6 * batch)

    ids = b.tensors("document_ids_N") | local | home
    _agree(
        lambda rows=None: contextual_loss(
            q, chunks, whole, **ids, alpha=0.4, beta=0.3, temperature=temperature, margin=margin, rows=rows
        ),
        brute,
        b,
    )


@settings(deadline=None, max_examples=40)
@given(*BATCHES, st.sampled_from([0.05, 0.5]), st.sampled_from([None, -0.1, 0.1]))
def test_max_chunk_equals_brute_force(
    seed: int, queries: int, documents: int, repeats: bool, temperature: float, margin: float | None
) -> None:
    b = _Batch(seed, queries, documents, repeats)
    q, chunks = torch.tensor(b.queries), torch.tensor(b.chunks)
    ids = b.tensors("document_of_chunk_C", "document_ids_N", "query_ids_Q")
    ids["positives_Q"] = torch.tensor(b.document_of[b.gold])
    _agree(
        lambda rows=None: max_chunk_info_nce(q, chunks, **ids, temperature=temperature, margin=margin, rows=rows),
        lambda rows=None: b.mean("max_chunk", temperature, margin, rows),
        b,
    )


@settings(deadline=None, max_examples=30)
@given(*BATCHES[:3], st.sampled_from([0.05, 0.5]))
def test_chunk_relevance_equals_brute_force(seed: int, queries: int, documents: int, temperature: float) -> None:
    b = _Batch(seed, queries, documents, repeats=False)
    rng = np.random.default_rng((seed, 1))
    mask = b.document_of[None, :] == b.document_of[b.gold][:, None]
    mask[rng.random(queries) < 0.3] = False  # no teacher for these
    scores = rng.normal(size=mask.shape)
    relevance = np.zeros(mask.shape)
    for i, c in zip(*np.nonzero(mask), strict=True):
        relevance[i, c] = math.exp(scores[i, c] / 0.3)
        relevance[i, c] /= sum(math.exp(scores[i, k] / 0.3) for k in np.flatnonzero(mask[i]))
    made = relevance_distribution(torch.tensor(scores), torch.tensor(mask), 0.3)
    np.testing.assert_allclose(made.numpy(), relevance, rtol=1e-9)

    def brute(rows: Ids | None = None) -> float:
        total = 0.0
        for i in range(queries) if rows is None else rows:
            weights = [math.exp(_cosine(b.queries[i], x) / temperature) for x in b.chunks]
            for p, w in zip(relevance[i], weights, strict=True):
                total += p * math.log(p / (w / sum(weights))) if p > 0 else 0.0
        return total / queries

    q, chunks = torch.tensor(b.queries), torch.tensor(b.chunks)
    _agree(
        lambda rows=None: chunk_relevance_kl(q, chunks, relevance_QC=made, temperature=temperature, rows=rows),
        brute,
        b,
    )


def test_beta_goes_up_on_half_a_cosine() -> None:
    betas = [beta_at(p) for p in np.linspace(0, 1, 101)]
    assert betas[0] == 0.2 and betas[-1] == pytest.approx(0.5) and np.all(np.diff(betas) > 0)
    slope = math.pi * 0.3 / 2 * math.sin(math.pi * 0.3)
    assert (beta_at(0.3 + 1e-6) - beta_at(0.3 - 1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)
    assert beta_at(0.5, 0.0, 1.0) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="progress is 1.5, expected 0 to 1"):
        beta_at(1.5)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


OF_CHUNK, GOLD = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([2, 3, 1])


def test_gradients() -> None:
    q, chunks, documents = _random(3, 4), _random(6, 4, seed=1), _random(3, 4, seed=2)
    relevance = torch.rand(3, 6, dtype=torch.float64)
    relevance /= relevance.sum(1, keepdim=True)
    home: dict[str, Any] = {"document_of_chunk_C": OF_CHUNK, "temperature": 0.5}
    check = torch.autograd.gradcheck
    assert check(lambda a, b, c: contextual_loss(a, b, c, gold_Q=GOLD, **home), (q, chunks, documents))
    assert check(lambda a, b: max_chunk_info_nce(a, b, positives_Q=OF_CHUNK[GOLD], **home), (q, chunks))
    assert check(lambda a, b: chunk_relevance_kl(a, b, relevance_QC=relevance, temperature=0.5), (q, chunks))


def _chunk_gradient(loss: Callable[[Tensor], Tensor]) -> list[bool]:
    """Which of the six chunks a loss reaches."""
    chunks = _random(6, 4, seed=1)
    torch.autograd.backward([loss(chunks)])
    assert chunks.grad is not None
    return (chunks.grad.abs().sum(1) > 0).tolist()


def test_gradients_reach_only_what_is_compared() -> None:
    q = _random(3, 4).detach()
    home: dict[str, Any] = {"document_of_chunk_C": OF_CHUNK, "temperature": 0.5, "rows": torch.tensor([0])}
    sequence = _chunk_gradient(lambda c: in_sequence(q, c, gold_Q=GOLD, **home))
    assert sequence == (OF_CHUNK == 0).tolist(), "the chunks of the gold chunk's document"
    ids = torch.tensor([7, 1, 7, 2, 3, 4])
    copies = _chunk_gradient(lambda c: in_sequence(q, c, gold_Q=GOLD, chunk_ids_C=ids, **home))
    assert copies == [False, False, True, False, False, True], "chunk 0 reads as the gold chunk"
    del home["document_of_chunk_C"]
    same = torch.tensor([5, 5, 6])
    batch = _chunk_gradient(lambda c: in_batch_chunks(q, c, gold_Q=GOLD, query_ids_Q=same, **home))
    assert batch == [True, True, True, False, True, True], "chunk 3 is another gold chunk of the query"
    best = _chunk_gradient(
        lambda c: max_chunk_info_nce(
            q, c, positives_Q=OF_CHUNK[GOLD], document_of_chunk_C=OF_CHUNK, temperature=0.5, margin=None
        )
    )
    chunks, of_chunk = _random(6, 4, seed=1).detach().numpy(), OF_CHUNK.tolist()
    of_document = [[c for c in range(6) if of_chunk[c] == n] for n in range(3)]
    winners = {max(own, key=lambda c: _cosine(query, chunks[c])) for query in q.numpy() for own in of_document}
    assert set(np.flatnonzero(best)) == winners != set(range(6))


def test_equal_best_chunks_share_the_gradient() -> None:
    chunks = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]], requires_grad=True)
    q = torch.tensor([[1.0, 0.0]])
    of_chunk = torch.tensor([0, 0, 1])
    loss = max_chunk_info_nce(q, chunks, document_of_chunk_C=of_chunk, positives_Q=torch.tensor([0]), temperature=1.0)
    torch.autograd.backward([loss])
    assert chunks.grad is not None
    torch.testing.assert_close(chunks.grad[0], chunks.grad[1])
    assert chunks.grad[0].any()


def test_the_teacher_gets_no_gradient() -> None:
    scores = _random(3, 6)
    relevance = relevance_distribution(scores, OF_CHUNK[None, :] == OF_CHUNK[GOLD, None], 1.0)
    assert not relevance.requires_grad
    given = relevance.clone().requires_grad_()
    q, chunks = _random(3, 4), _random(6, 4, seed=1)
    torch.autograd.backward([chunk_relevance_kl(q, chunks, relevance_QC=given)])
    assert given.grad is None and q.grad is not None and q.grad.any()


def test_batches_with_nothing_to_compare() -> None:
    q, chunks = torch.randn(1, 4), torch.randn(1, 4)
    one = torch.zeros(1, dtype=torch.int64)
    assert float(contextual_loss(q, chunks, chunks, document_of_chunk_C=one, gold_Q=one)) == 0.0
    assert float(max_chunk_info_nce(q, chunks, document_of_chunk_C=one, positives_Q=one)) == 0.0
    q, chunks = torch.randn(2, 4, requires_grad=True), torch.randn(3, 4)
    each = torch.tensor([0, 1, 2])  # documents of one chunk
    alone = in_sequence(q, chunks, document_of_chunk_C=each, gold_Q=each[:2])
    taught = chunk_relevance_kl(q, chunks, relevance_QC=torch.zeros(2, 3))
    # The queries are one, and the third document is a copy of the first.
    ids: dict[str, Any] = {"query_ids_Q": one.expand(2), "document_ids_N": torch.tensor([0, 1, 0])}
    masked = max_chunk_info_nce(q, chunks, document_of_chunk_C=each, positives_Q=each[:2], **ids)
    for loss in (alone, taught, masked):
        q.grad = None
        torch.autograd.backward([loss])
        assert float(loss.detach()) == 0.0 and q.grad is not None and not q.grad.any()


def test_a_document_without_chunks_is_no_negative() -> None:
    q, chunks = _random(2, 4), _random(3, 4, seed=1)
    options: dict[str, Any] = {"document_of_chunk_C": torch.tensor([0, 0, 2]), "positives_Q": torch.tensor([0, 2])}
    loss = max_chunk_info_nce(q, chunks, document_ids_N=torch.arange(4), **options)
    torch.autograd.backward([loss])
    assert q.grad is not None and q.grad.isfinite().all()
    torch.testing.assert_close(loss, max_chunk_info_nce(q, chunks, **options))
    options["positives_Q"] = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="a positive document has no chunk"):
        max_chunk_info_nce(q, chunks, **options)


def test_arguments_that_do_not_fit() -> None:
    q, chunks, documents = torch.ones(3, 4), torch.ones(6, 4), torch.ones(3, 4)
    fitting: dict[str, Any] = {"document_of_chunk_C": OF_CHUNK, "gold_Q": GOLD}
    for changed, message in (
        ({"alpha": 1.5}, "alpha is 1.5, expected 0 to 1"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"document_of_chunk_C": OF_CHUNK + 1}, "documents of chunks run from 1 to 3, expected 0 to 2"),
        ({"document_of_chunk_C": OF_CHUNK[:5]}, r"documents of chunks have shape \(5,\), expected \(6,\)"),
        ({"gold_Q": torch.tensor([0, 1, 6])}, "gold chunks run from 0 to 6, expected 0 to 5"),
        ({"rows": torch.tensor([-1])}, "rows run from -1"),
    ):
        with pytest.raises(ValueError, match=message):
            contextual_loss(q, chunks, documents, **(fitting | changed))
    for relevance, message in (
        (torch.ones(3, 5), r"shape \(3, 5\), expected \(3, 6\)"),
        (torch.ones(3, 6), "must be a distribution"),
        (torch.tensor([[2.0, -1.0, 0.0, 0.0, 0.0, 0.0]]).expand(3, 6), "must be a distribution"),
        (torch.full((3, 6), math.nan), "must be a distribution"),
    ):
        with pytest.raises(ValueError, match=message):
            chunk_relevance_kl(q, chunks, relevance_QC=relevance)
    with pytest.raises(ValueError, match=r"mask is torch.int64 \(3, 6\), expected torch.bool \(3, 6\)"):
        relevance_distribution(torch.ones(3, 6), torch.ones(3, 6, dtype=torch.int64), 1.0)
