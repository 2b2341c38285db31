from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.errors import InputError
from diffembed.index.scan import Snapshot, candidates, cosines_with
from diffembed.index.segments import Segment, row_norms, sign_bits


def segment(rows: np.ndarray, first_id: int) -> Segment:
    ids = np.arange(first_id, first_id + len(rows), dtype=np.int64)
    return Segment(Path("memory"), ids, row_norms(rows), sign_bits(rows), rows)


def snapshot(rows: np.ndarray, pieces: int = 3, dead: np.ndarray | None = None) -> Snapshot:
    parts = np.array_split(rows, pieces)
    starts = np.cumsum([0, *map(len, parts)])
    masks = [None if dead is None else ~np.isin(np.arange(s, s + len(p)), dead) for s, p in zip(starts, parts)]  # noqa: B905
    return Snapshot([segment(part, int(start)) for part, start in zip(parts, starts)], masks)  # noqa: B905


def embedded(count: int, dims: int, seed: int = 0) -> np.ndarray:
    """Vectors of few degrees of freedom in a wide space, as embeddings are: their neighbours are not trivial."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((count, min(20, dims)))
    points = latent @ np.random.default_rng(99).standard_normal((latent.shape[1], dims)) / 4
    return np.rint(127 * np.tanh(points + 0.1 * rng.standard_normal(points.shape))).astype(np.int8)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dims", [8, 100, 256])
def test_exact_search_equals_faiss_inner_product_on_unit_vectors(dims: int) -> None:
    faiss = pytest.importorskip("faiss")
    rows, queries = embedded(3000, dims), embedded(200, dims, seed=1)
    reference = faiss.IndexFlatIP(dims)
    reference.add(unit(rows))
    expected_scores, expected_ids = reference.search(unit(queries), 10)
    ids, scores = snapshot(rows).search(queries, 10)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-6)
    # two rows may be equally close up to rounding: then either order is right
    differ = np.argwhere(ids != expected_ids)
    assert len(differ) <= 0.01 * ids.size
    for row, column in differ:
        cosine = unit(rows)[ids[row, column]] @ unit(queries)[row]
        assert abs(cosine - expected_scores[row, column]) < 2e-6


def test_hamming_then_rescoring_finds_what_the_exact_scan_finds() -> None:
    rows, queries = embedded(30_000, 128), embedded(50, 128, seed=1)
    exact, _ = snapshot(rows).search(queries, 10)
    coarse, scores = snapshot(rows).search(queries, 10, exact_values=0)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), coarse.tolist(), strict=True)])
    assert recall >= 0.95
    for query, found, cosines in zip(queries, coarse, scores, strict=True):
        np.testing.assert_array_equal(cosines, cosines_with(query, rows[found], row_norms(rows[found])))


@pytest.mark.parametrize("exact_values", [10**9, 0])
def test_dead_rows_are_never_found(exact_values: int) -> None:
    rows = embedded(5000, 64)
    dead = np.arange(0, 5000, 3)
    ids, _ = snapshot(rows, dead=dead).search(rows[:30], 20, exact_values=exact_values)
    assert not np.isin(ids, dead).any()
    live = np.setdiff1d(np.arange(5000), dead)
    alone, _ = snapshot(rows[live]).search(rows[:30], 20, exact_values=exact_values)
    np.testing.assert_array_equal(ids, live[alone])


def test_fewer_rows_than_asked_for_and_none_at_all() -> None:
    rows = embedded(100, 8)[:3]
    ids, scores = snapshot(rows, 1).search(rows[:1], 5)
    assert ids[0, 0] == 0
    assert (ids[0, 3:] == -1).all()
    assert np.isneginf(scores[0, 3:]).all()
    ids, scores = Snapshot([], []).search(rows[:2], 2)
    assert (ids == -1).all()
    assert ids.shape == scores.shape == (2, 2)


def test_equal_scores_come_in_the_order_of_their_ids() -> None:
    ids, _ = snapshot(np.ones((50, 16), np.int8)).search(np.ones((1, 16), np.int8), 7)
    assert ids[0].tolist() == list(range(7))


def test_zero_vectors_have_cosine_zero() -> None:
    rows = np.array([[0, 0], [-1, 0], [1, 0]], np.int8)
    ids, scores = snapshot(rows, 1).search(np.array([[5, 0], [0, 0]], np.int8), 3)
    assert ids.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert scores.tolist() == [[1, 0, -1], [0, 0, 0]]


@given(st.integers(1, 2000), st.integers(1, 40), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_cosines_are_exact(count: int, dims: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-127, 128, (count, dims), dtype=np.int8)
    query = rng.integers(-127, 128, dims, dtype=np.int8)
    dots = rows.astype(np.int64) @ query.astype(np.int64)
    lengths = np.linalg.norm(rows.astype(float), axis=1) * np.linalg.norm(query.astype(float))
    expected = np.divide(dots, lengths, out=np.zeros(count), where=lengths > 0)
    np.testing.assert_allclose(cosines_with(query, rows, row_norms(rows)), expected, atol=3e-7)


def test_wide_vectors_are_summed_exactly() -> None:
    rows = np.full((2, 4096), 127, np.int8)
    rows[1, 0] = 126  # a difference that float32 sums of this size would lose
    assert cosines_with(rows[0], rows, row_norms(rows))[0] == 1.0
    assert cosines_with(rows[0], rows, row_norms(rows))[1] <= 1.0


def test_wrong_queries() -> None:
    view = snapshot(embedded(100, 8))
    with pytest.raises(InputError, match="int8"):
        view.search(np.zeros((1, 8), np.float32), 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="9 wide, the index 8"):
        view.search(np.zeros((1, 9), np.int8), 1)
    with pytest.raises(InputError, match="top is 0"):
        view.search(np.zeros((1, 8), np.int8), 0)


def test_oversampling_grows_with_the_collection() -> None:
    factors = [candidates(1000, rows) for rows in (10**5, 10**6, 10**7, 10**8)]
    assert factors == [20_000, 40_000, 80_000, 160_000]
