from __future__ import annotations

import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index.vectors import embedded, oracle, unit

from diffembed.errors import InputError
from diffembed.index import rescoring
from diffembed.index.rescoring import cosines_with
from diffembed.index.scan import Part, Snapshot
from diffembed.index.segments import Segment, row_norms


def snapshot(rows: np.ndarray, pieces: int = 3, dead: np.ndarray | None = None) -> Snapshot:
    parts = []
    start = 0
    for piece in np.array_split(rows, pieces):
        ids = range(start, start + len(piece))
        live = None if dead is None else ~np.isin(np.array(ids), dead)
        parts.append(Part(Segment.in_memory(piece, ids), live))
        start += len(piece)
    return Snapshot(parts)


@pytest.mark.parametrize("dims", [8, 100, 256])
def test_exact_search_equals_faiss_inner_product_on_unit_vectors(dims: int) -> None:
    faiss = pytest.importorskip("faiss")
    rows, queries = embedded(3000, dims), embedded(200, dims, seed=1)
    reference = faiss.IndexFlatIP(dims)
    reference.add(unit(rows).astype(np.float32))
    expected_scores, expected_ids = reference.search(unit(queries).astype(np.float32), 10)
    ids, scores = snapshot(rows).search(queries, 10)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-6)
    # two rows may be equally close up to rounding: then either order is right
    differ = np.argwhere(ids != expected_ids)
    assert len(differ) <= 0.01 * ids.size
    for row, column in differ:
        cosine = unit(rows)[ids[row, column]] @ unit(queries)[row]
        assert abs(cosine - expected_scores[row, column]) < 2e-6


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_exact_search_equals_the_oracle(data: st.DataObject) -> None:
    """Any number of rows, segments, queries and results, any block size, with dead rows and filters."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    count, dims, asked = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    rows = rng.integers(-3, 4, (count, dims), dtype=np.int8)  # many equal cosines
    queries = rng.integers(-3, 4, (asked, dims), dtype=np.int8)
    top, pieces = data.draw(st.integers(1, 30)), data.draw(st.integers(1, min(4, count)))
    dead = rng.choice(count, data.draw(st.integers(0, count)), replace=False) if data.draw(st.booleans()) else None
    allowed = np.unique(rng.integers(0, 2 * count, count)) if data.draw(st.booleans()) else None
    counts = np.setdiff1d(np.arange(count), [] if dead is None else dead).astype(int)
    counts = counts if allowed is None else np.intersect1d(counts, allowed)
    expected_ids, expected_scores = oracle(rows[counts], queries, top, counts)
    step = data.draw(st.sampled_from([dims, 5 * dims, 1 << 20]))
    with mock.patch.multiple(rescoring, _BLOCK_VALUES=step, _BATCH_VALUES=step, _BATCH_QUERIES=4):
        ids, scores = snapshot(rows, pieces, dead).search(queries, top, allowed=allowed)
    np.testing.assert_allclose(scores, expected_scores, atol=3e-7)
    assert (np.sort(ids >= 0) == np.sort(expected_ids >= 0)).all()
    # equal cosines come in the order of their ids; float32 may join what float64 tells apart by 1e-8
    for found, wanted, cosines in zip(ids, expected_ids, expected_scores, strict=True):
        for place in np.flatnonzero(found != wanted).tolist():
            assert np.isclose(cosines[place], cosines, atol=3e-7).sum() > 1 or place == top - 1
    assert all(len(set(line[line >= 0])) == (line >= 0).sum() for line in ids)


def test_one_query_and_many_give_the_same() -> None:
    rows, queries = embedded(4000, 64), embedded(600, 64, seed=1)
    view = snapshot(rows)
    ids, scores = view.search(queries, 20)
    for number in (0, 255, 256, 599):
        one_ids, one_scores = view.search(queries[number : number + 1], 20)
        np.testing.assert_array_equal(one_ids[0], ids[number])
        np.testing.assert_array_equal(one_scores[0], scores[number])


def test_memory_of_an_exact_scan_does_not_grow_with_rows_and_queries() -> None:
    rows, queries = embedded(60_000, 32), embedded(2000, 32, seed=1)
    view = Snapshot.in_memory(rows)
    tracemalloc.start()
    view.search(queries, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6, "all scores would be 480 MB"


def test_dead_rows_are_never_found() -> None:
    rows = embedded(5000, 64)
    dead = np.arange(0, 5000, 3)
    ids, _ = snapshot(rows, dead=dead).search(rows[:30], 20)
    assert not np.isin(ids, dead).any()
    live = np.setdiff1d(np.arange(5000), dead)
    alone, _ = snapshot(rows[live]).search(rows[:30], 20)
    np.testing.assert_array_equal(ids, live[alone])


def test_fewer_rows_than_asked_for_and_none_at_all() -> None:
    rows = embedded(100, 8)[:3]
    ids, scores = snapshot(rows, 1).search(rows[:1], 5)
    assert ids[0, 0] == 0
    assert (ids[0, 3:] == -1).all()
    assert np.isneginf(scores[0, 3:]).all()
    ids, scores = Snapshot([]).search(rows[:2], 2)
    assert (ids == -1).all()
    assert ids.shape == scores.shape == (2, 2)
    ids, _ = snapshot(rows, 1).search(rows[:1], 2, allowed=np.empty(0, np.int64))
    assert (ids == -1).all()


def test_equal_scores_come_in_the_order_of_their_ids() -> None:
    ids, _ = snapshot(np.ones((50, 16), np.int8)).search(np.ones((3, 16), np.int8), 7)
    assert ids.tolist() == [list(range(7))] * 3


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
    with pytest.raises(InputError, match="ascending"):
        view.search(np.zeros((1, 8), np.int8), 1, allowed=np.array([3, 3]))
