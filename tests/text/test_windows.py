"""Windows: whole units within the limit, each owned once, by the window that shows it most context on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffembed.text.windows import Frame, SharedRows, Window, read_document, windows_over

ROOM = 24


def extent(lengths: Sequence[int], gaps: Sequence[int], start: int, end: int) -> int:
    """Tokens of the units ``start:end`` read as one sequence, counted one by one."""
    return sum(lengths[start:end]) + sum(gaps[start + 1 : end])


def context(lengths: Sequence[int], gaps: Sequence[int], window: Window, unit: int) -> float:
    """The smaller of what a window shows before and after a unit."""
    before = extent(lengths, gaps, window.start, unit + 1) - lengths[unit] if window.start > 0 else np.inf
    after = extent(lengths, gaps, unit, window.end) - lengths[unit] if window.end < len(lengths) else np.inf
    return float(min(before, after))


UNITS = st.lists(st.tuples(st.integers(1, ROOM), st.integers(0, 1)), min_size=1, max_size=60)


@given(UNITS)
def test_every_unit_is_owned_once_by_the_window_that_shows_it_most(units: list[tuple[int, int]]) -> None:
    lengths, gaps = [length for length, _ in units], [gap for _, gap in units]
    windows = windows_over(lengths, gaps, ROOM)
    assert sorted(i for w in windows for i in w.owned) == list(range(len(units)))
    for window in windows:
        assert extent(lengths, gaps, window.start, window.end) <= ROOM
        for unit in window.owned.tolist():
            assert window.start <= unit < window.end
            best = max(context(lengths, gaps, w, unit) for w in windows if w.start <= unit < w.end)
            assert context(lengths, gaps, window, unit) == best


@given(UNITS)
def test_time_is_linear(units: list[tuple[int, int]]) -> None:
    lengths, gaps = [length for length, _ in units], [gap for _, gap in units]
    windows = windows_over(lengths, gaps, ROOM)
    read = sum(extent(lengths, gaps, w.start, w.end) for w in windows)
    assert read <= 2 * extent(lengths, gaps, 0, len(units)) + ROOM


def test_small_units_are_shown_an_eighth_of_a_window_on_both_sides() -> None:
    count, room = 1000, 64
    windows = windows_over([1] * count, [0] * count, room)
    for window in windows:
        for unit in window.owned.tolist():
            assert context([1] * count, [0] * count, window, unit) >= room // 8 - 1
    assert sum(w.end - w.start for w in windows) <= 1.4 * count


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.booleans())
def test_spans_are_the_chunks_whatever_the_windows(sizes: list[int], framed: bool) -> None:
    frame = Frame(ROOM + 2, separator=-1, prefix=(-2,), suffix=(-3,)) if framed else Frame(ROOM, separator=-1)
    chunks = [[1000 * number + i for i in range(size)] for number, size in enumerate(sizes)]
    seen: dict[int, list[int]] = {5 + number: [] for number in range(len(sizes))}
    readings = read_document(chunks, frame, row=5)
    assert [r.last for r in readings] == [False] * (len(readings) - 1) + [True]
    for reading in readings:
        assert len(reading.sequence) <= frame.max_tokens
        assert tuple(reading.sequence.token_ids[: len(frame.prefix)]) == frame.prefix
        for (start, end), row in zip(reading.sequence.spans, reading.rows.tolist(), strict=True):
            seen[row] += [int(i) for i in reading.sequence.token_ids[start:end]]
    # every token is pooled once, the prefix with the first chunk of the document and the suffix with the last
    expected = {5 + number: list(chunk) for number, chunk in enumerate(chunks)}
    expected[5] = [*frame.prefix, *expected[5]]
    expected[4 + len(sizes)] = [*expected[4 + len(sizes)], *frame.suffix]
    assert seen == expected


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6))
def test_shared_rows_are_means_over_all_tokens(sizes: list[int]) -> None:
    frame = Frame(ROOM, separator=-1)
    chunks = [list(range(100 * number, 100 * number + size)) for number, size in enumerate(sizes)]
    readings = read_document(chunks, frame, row=0)
    shared, found = SharedRows(readings), {}
    for reading in readings[::-1]:  # batches come by length, not in order
        spans = np.array(reading.sequence.spans)
        ids = np.asarray(reading.sequence.token_ids)
        means = np.array([[ids[start:end].mean()] for start, end in spans], dtype=np.float32)
        rows, values = shared.add(reading.rows, spans[:, 1] - spans[:, 0], means)
        found |= dict(zip(rows.tolist(), values[:, 0].tolist(), strict=True))
    assert np.allclose([found[row] for row in range(len(chunks))], [np.mean(c) for c in chunks], rtol=1e-5)
