"""The one InfoNCE against a brute-force loop in float64, torch's cross-entropy and sentence-transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from diffembed.objectives.contrastive import info_nce

Array = np.ndarray[Any, np.dtype[np.float64]]


def _similarity(a: Array, b: Array, kind: str) -> float:
    inner = float(a @ b)
    return inner if kind == "dot" else inner / math.sqrt(float(a @ a) * float(b @ b))


def _term(positive: float, negatives: Sequence[float], temperature: float, margin: float | None) -> float:
    kept = [s for s in negatives if margin is None or s <= positive + margin]
    logits = [s / temperature for s in [positive, *kept]]
    top = max(logits)
    return top + math.log(sum(math.exp(x - top) for x in logits)) - logits[0]


def _brute(
    q: Array,
    d: Array,
    positives: Sequence[int],
    document_ids: Sequence[int],
    query_ids: Sequence[int],
    *,
    temperature: float,
    margin: float | None = None,
    query_negatives: bool = True,
    in_batch: bool = True,
    listed: Sequence[Sequence[int]] = (),
    symmetric: bool = False,
    similarity: str = "cosine",
    rows: Sequence[int] | None = None,
) -> float:
    total = 0.0
    # What answers a query: the documents of all rows that ask the same, and their copies.
    asked: dict[int, set[int]] = {}
    for i, p in enumerate(positives):
        asked.setdefault(query_ids[i], set()).add(document_ids[p])
    for i in range(len(q)) if rows is None else rows:
        right = asked[query_ids[i]]
        own = _similarity(q[i], d[positives[i]], similarity)
        among = range(len(d)) if in_batch else {j for j in listed[i] if j >= 0}
        negatives = [_similarity(q[i], d[j], similarity) for j in among if document_ids[j] not in right]
        if in_batch and query_negatives:
            others = [k for k in range(len(q)) if not asked[query_ids[k]] & right]
            negatives += [_similarity(q[i], q[k], similarity) for k in others]
        term = _term(own, negatives, temperature, margin)
        if symmetric:
            mine = d[positives[i]]
            others = [k for k in range(len(q)) if document_ids[positives[i]] not in asked[query_ids[k]]]
            back = _term(own, [_similarity(mine, q[k], similarity) for k in others], temperature, margin)
            term = (term + back) / 2
        total += term
    return total / len(q)


def _batch(seed: int, queries: int, extra: int, width: int = 5) -> tuple[Array, Array, list[int]]:
    """Queries, documents (a little like their queries, in random order among ``extra`` more), and positives."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(queries, width))
    d = rng.normal(size=(queries + extra, width))
    positives = rng.permutation(queries + extra)[:queries]
    d[positives] = 0.7 * q + 0.7 * d[positives]
    return q, d, positives.tolist()


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_equals_brute_force_with_every_mask_and_option(data: st.DataObject) -> None:
    queries, extra = data.draw(st.integers(1, 7)), data.draw(st.integers(0, 5))
    seed = data.draw(st.integers(0, 2**16))
    q, d, positives = _batch(seed, queries, extra)
    rng = np.random.default_rng((seed, 1))

    def few(n: int) -> list[int]:
        numbers: list[int] = rng.integers(0, max(1, n // 2), n).tolist()
        return numbers

    document_ids = few(len(d)) if data.draw(st.booleans()) else None
    query_ids = few(queries) if data.draw(st.booleans()) else None
    if data.draw(st.booleans()):  # several queries of one document
        positives = [positives[i] for i in few(queries)]
    in_batch = data.draw(st.booleans())
    similarity = data.draw(st.sampled_from(["cosine", "cosine", "dot"]))
    margin = None if similarity == "dot" else data.draw(st.sampled_from([None, -0.2, 0.0, 0.1]))
    temperature = data.draw(st.sampled_from([0.02, 0.5]))
    options: dict[str, Any] = {"temperature": temperature, "margin": margin, "in_batch": in_batch}
    options |= {"similarity": similarity, "query_negatives": data.draw(st.booleans())}
    options["symmetric"] = in_batch and data.draw(st.booleans())
    listed = rng.integers(-1, len(d), (queries, data.draw(st.integers(0, 4))))
    rows = sorted(rng.choice(queries, data.draw(st.integers(0, queries)), replace=False).tolist())

    def ours(**more: Any) -> float:
        return float(
            info_nce(
                torch.tensor(q),
                torch.tensor(d),
                positives_Q=torch.tensor(positives),
                document_ids_N=None if document_ids is None else torch.tensor(document_ids),
                query_ids_Q=None if query_ids is None else torch.tensor(query_ids),
                negatives_QK=torch.tensor(listed),
                **options,
                **more,
            )
        )

    def brute(**more: Any) -> float:
        ids = (document_ids or list(range(len(d))), query_ids or list(range(queries)))
        return _brute(q, d, positives, *ids, listed=listed.tolist(), **options, **more)

    assert ours() == pytest.approx(brute(), rel=1e-9, abs=1e-9)
    share = ours(rows=torch.tensor(rows, dtype=torch.int64))
    assert share == pytest.approx(brute(rows=rows), rel=1e-9, abs=1e-9)
    rest = torch.tensor([i for i in range(queries) if i not in rows], dtype=torch.int64)
    assert share + ours(rows=rest) == pytest.approx(ours(), rel=1e-9, abs=1e-9)


def test_defaults_number_queries_and_documents() -> None:
    q, d, _ = _batch(0, 4, 0)
    d = np.concatenate([0.5 * q + d, _batch(1, 3, 0)[1]])
    numbers = list(range(4)), list(range(7)), list(range(4))
    expected = _brute(q, d, *numbers, temperature=0.02, margin=0.1)
    assert float(info_nce(torch.tensor(q), torch.tensor(d))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_computed_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    q, d, _ = _batch(3, 6, 0, width=64)
    queries, documents = torch.tensor(q).to(dtype), torch.tensor(q + d).to(dtype)
    expected = float(info_nce(queries.double(), documents.double(), temperature=0.5, margin=None))
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(queries, documents, temperature=0.5, margin=None)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_plain_info_nce_is_cross_entropy() -> None:
    q, d = torch.randn(6, 8, dtype=torch.float64), torch.randn(9, 8, dtype=torch.float64)
    logits = normalize(q, dim=1) @ normalize(d, dim=1).T / 0.05
    plain: dict[str, Any] = {"temperature": 0.05, "margin": None, "query_negatives": False}
    rows, columns = cross_entropy(logits, torch.arange(6)), cross_entropy(logits[:, :6].T, torch.arange(6))
    assert float(info_nce(q, d, **plain)) == pytest.approx(float(rows), rel=1e-9)
    assert float(info_nce(q, d, symmetric=True, **plain)) == pytest.approx(float(rows + columns) / 2, rel=1e-9)


def test_repllama_is_cross_entropy_of_dot_products_over_own_negatives() -> None:
    """DiffEmbed's FollowIR run: q . d / width over the positive and its 15 negatives, nothing from the batch."""
    q, own = torch.randn(4, 12, dtype=torch.float64), torch.randn(4, 16, 12, dtype=torch.float64)
    expected = cross_entropy(torch.einsum("qd,qkd->qk", q, own) / 12, torch.zeros(4, dtype=torch.int64))
    places = torch.arange(64).view(4, 16)
    explicit: dict[str, Any] = {"positives_Q": places[:, 0], "negatives_QK": places[:, 1:], "in_batch": False}
    loss = info_nce(q, own.flatten(0, 1), similarity="dot", temperature=12, margin=None, **explicit)
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)


def test_agrees_with_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    q, d, mined = (torch.randn(5, 8, dtype=torch.float64) for _ in range(3))
    for directions, mode, ours in (
        (("query_to_doc",), "joint", {"query_negatives": False}),
        (("query_to_doc", "query_to_query"), "joint", {}),
        (("query_to_doc", "doc_to_query"), "per_direction", {"query_negatives": False, "symmetric": True}),
    ):
        theirs = losses.MultipleNegativesRankingLoss(None, scale=20.0, directions=directions, partition_mode=mode)
        expected = theirs.compute_loss_from_embeddings([q, d, mined], torch.zeros(0))
        loss = info_nce(q, torch.cat([d, mined]), temperature=0.05, margin=None, **ours)
        assert float(loss) == pytest.approx(float(expected), rel=1e-9), directions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": True},
        {"similarity": "dot", "margin": None},
        {"in_batch": False, "negatives_QK": torch.tensor([[3, 1], [-1, 0], [4, 4]])},
        {"document_ids_N": torch.tensor([0, 1, 0, 2, 3]), "query_ids_Q": torch.tensor([0, 1, 1])},
    ],
)
def test_gradients(options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    d = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: info_nce(a, b, temperature=0.5, **options), (q, d))


def _gradients(q: Tensor, d: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    q, d = q.clone().requires_grad_(), d.clone().requires_grad_()
    torch.autograd.backward([info_nce(q, d, **options)])
    assert q.grad is not None and d.grad is not None
    return q.grad, d.grad


def test_what_is_left_out_has_no_gradient() -> None:
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    d = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.05], [0.5, 0.8]])
    first: dict[str, Any] = {"temperature": 0.5, "rows": torch.tensor([0]), "query_negatives": False}
    _, within = _gradients(q, d, margin=None, **first)
    assert (within.abs().sum(1) > 0).all()
    _, masked = _gradients(q, d, margin=0.1, **first)  # document 2 is nearer to query 0 than its own
    assert not masked[2].any() and masked[[0, 1, 3]].abs().sum(1).all()
    _, copies = _gradients(q, d, margin=0.1, document_ids_N=torch.tensor([8, 7, 6, 8]), **first)
    assert not copies[2:].any() and copies[:2].abs().sum(1).all()
    # The margin itself carries no gradient: the loss is that of the documents which remain.
    _, fewer = _gradients(q, d[[0, 1, 3]], margin=None, **first)
    torch.testing.assert_close(masked[[0, 1, 3]], fewer)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_query_without_negatives_has_loss_and_gradient_zero(symmetric: bool) -> None:
    one, many = torch.randn(1, 4), torch.randn(3, 4)
    same = torch.zeros(3, dtype=torch.int64)
    for q, ids in ((one, {}), (many, {"document_ids_N": same}), (many, {"query_ids_Q": same}), (many, {"margin": -3})):
        options: dict[str, Any] = {"symmetric": symmetric, **ids}
        assert float(info_nce(q, q + 1.0, **options)) == 0.0
        assert not any(g.any() for g in _gradients(q, q + 1.0, **options))
    none = torch.full((3, 2), -1)
    assert float(info_nce(many, many + 1.0, in_batch=False, negatives_QK=none)) == 0.0
    nothing = torch.zeros(0, dtype=torch.int64)
    assert not any(g.any() for g in _gradients(many, many + 1.0, rows=nothing, symmetric=symmetric))


def test_a_query_asked_twice_keeps_both_its_documents_and_their_other_queries() -> None:
    """Rows 0 and 1 ask the same; row 2 asks something else of row 1's document; row 3 is a stranger."""
    q, d = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    options: dict[str, Any] = {"temperature": 0.5, "margin": None}
    ids: dict[str, Any] = {"query_ids_Q": torch.tensor([4, 4, 5, 6]), "document_ids_N": torch.tensor([0, 1, 1, 2])}
    one, two = torch.tensor([0]), torch.tensor([2])
    apart = info_nce(q[[0, 3]], d[[0, 3]], rows=one, **options) * 2 / 4
    torch.testing.assert_close(info_nce(q, d, rows=one, **ids, **options), apart)
    # Row 0 is no negative of row 2, for what it asks is answered by row 2's document; its own document is one.
    apart = info_nce(q[[2, 3]], d[[2, 3, 0]], rows=one, **options) * 2 / 4
    torch.testing.assert_close(info_nce(q, d, rows=two, **ids, **options), apart)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, expected above 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"similarity": "dot"}, "give margin=None"),
        ({"similarity": "euclid"}, "expected 'cosine' or 'dot'"),
        ({"in_batch": False}, "give negatives_QK"),
        ({"in_batch": False, "negatives_QK": torch.zeros(3, 1, dtype=torch.int64), "symmetric": True}, "in_batch=True"),
        ({"in_batch": False, "negatives_QK": torch.tensor([0, 1, 2])}, r"\(3,\), expected \[queries, negatives"),
        ({"in_batch": False, "negatives_QK": torch.tensor([[0], [-2], [1]])}, "from -2 to 1, expected -1 to 3"),
        ({"positives_Q": torch.tensor([0, 1, 4])}, "from 0 to 4, expected 0 to 3"),
        ({"positives_Q": torch.tensor([0, 1])}, r"shape \(2,\), expected \(3,\)"),
        ({"positives_Q": torch.tensor([0.0, 1.0, 2.0])}, "float32, expected integers"),
        ({"document_ids_N": torch.arange(3)}, r"document_ids have shape \(3,\), expected \(4,\)"),
        ({"query_ids_Q": torch.arange(4)}, r"query_ids have shape \(4,\), expected \(3,\)"),
        ({"rows": torch.tensor([3])}, "rows run from 3 to 3, expected 0 to 2"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        info_nce(torch.ones(3, 2), torch.ones(4, 2), **options)


@pytest.mark.parametrize(
    ("queries", "documents", "message"),
    [
        (torch.ones(3, 2), torch.ones(2, 2), "3 queries have 2 documents"),
        (torch.ones(3, 2), torch.ones(3, 4), "expected one width"),
        (torch.ones(0, 2), torch.ones(3, 2), "expected .at least one, width"),
        (torch.ones(2), torch.ones(3, 2), "expected .at least one, width"),
    ],
)
def test_vectors_that_do_not_fit(queries: Tensor, documents: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        info_nce(queries, documents)
