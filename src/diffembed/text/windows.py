"""What a model reads of one document: a sequence, or overlapping windows where the document is longer than that.

**Ownership.** Every chunk's vector comes from one window: the one that shows it most context on both sides, which is
the largest min(tokens before it, tokens after it) inside the window; a border of the window that is the document's
own border hides nothing and counts as endless context. Between equals the earlier window wins. Neighbouring windows
share up to a quarter of their tokens, so a document of n tokens costs at most about 5/3 n tokens, usually 4/3 n.

A text or chunk that is longer than a window by itself is cut into pieces; its vector is the mean over all its tokens,
each taken from the window that owns its piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffembed.text.batching import IntArray, TokenizedSequence
from diffembed.vectors.quantize import FloatArray

OVERLAP = 4  # neighbouring windows share at most 1 / OVERLAP of their tokens
PIECES = 16  # a chunk longer than a window is cut into pieces of 1 / PIECES of one


@dataclass(frozen=True, slots=True)
class Frame:
    """What a model puts around and between texts.

    Attributes:
        max_tokens: longest sequence, prefix and suffix included.
        separator: stands between the chunks of a document; not pooled.
        prefix, suffix: put around every sequence; pooled with the first and the last chunk of the document.
    """

    max_tokens: int
    separator: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    @property
    def room(self) -> int:
        """Tokens of text that fit into one sequence."""
        return self.max_tokens - len(self.prefix) - len(self.suffix)


@dataclass(frozen=True, slots=True)
class Reading:
    """A sequence to read, and the output row of each of its spans.

    Attributes:
        sequence: one whole document, or one window with the spans that it owns.
        rows: ``[spans]``; a row that several readings name is the mean of theirs, weighted by tokens.
        last: it ends its document.
    """

    sequence: TokenizedSequence
    rows: IntArray
    last: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive units ``start:end`` of a document that are read together, and the numbers of those it owns."""

    start: int
    end: int
    owned: IntArray


def windows_over(lengths: Sequence[int], gaps: Sequence[int], room: int) -> list[Window]:
    """Overlapping windows of whole units, at most ``room`` tokens each, in order.

    Args:
        lengths: tokens of each unit; none longer than ``room``.
        gaps: tokens between a unit and the one before it (a separator: 1); the first is not used.
        room: tokens of a window.

    Units of 10 tokens in windows of 40: the second window begins with the last unit of the first. Unit 3 has 30 tokens
    before it in the first window and none after it, in the second none before it: the first keeps it.

    >>> [(w.start, w.end, w.owned.tolist()) for w in windows_over([10] * 7, [0] * 7, room=40)]
    [(0, 4, [0, 1, 2, 3]), (3, 7, [4, 5, 6])]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    between = np.asarray(gaps, dtype=np.int64).copy()
    between[0] = 0
    ends = np.cumsum(sizes + between)
    starts, count = ends - sizes, len(sizes)
    bounds: list[tuple[int, int]] = []
    first = 0
    while True:
        last = int(np.searchsorted(ends, starts[first] + room, side="right"))
        bounds.append((first, last))
        if last >= count:
            break
        shared = max(ends[last - 1] - room // OVERLAP, ends[last] - room)
        first = min(max(int(np.searchsorted(starts, shared)), first + 1), last)
    if len(bounds) > 1:  # the last window is filled from its beginning: its end is the document's
        bounds[-1] = max(int(np.searchsorted(starts, ends[-1] - room)), bounds[-2][0] + 1), count
    best = np.full(count, -1.0)
    owner = np.zeros(count, dtype=np.int64)
    for number, (a, b) in enumerate(bounds):
        before = starts[a:b] - starts[a] if a > 0 else np.full(b - a, np.inf)
        after = ends[b - 1] - ends[a:b] if b < count else np.full(b - a, np.inf)
        context = np.minimum(before, after)
        owner[a:b] = np.where(context > best[a:b], number, owner[a:b])
        best[a:b] = np.maximum(context, best[a:b])
    found = (Window(a, b, a + np.flatnonzero(owner[a:b] == k)) for k, (a, b) in enumerate(bounds))
    return [window for window in found if len(window.owned)]


def read_document(chunks: Sequence[Sequence[int]], frame: Frame, row: int) -> list[Reading]:
    """The readings of one document, whose chunks become the rows ``row``, ``row + 1``, ...

    Args:
        chunks: token ids of each chunk, none empty; a text is a document of one chunk.

    >>> frame = Frame(max_tokens=8, separator=0)
    >>> for r in read_document([[5, 6, 7], [8, 9, 10], [11, 12, 13]], frame, row=4):
    ...     print(np.asarray(r.sequence.token_ids).tolist(), r.sequence.spans, r.rows.tolist(), r.last)
    [5, 6, 7, 0, 8, 9, 10] ((0, 3), (4, 7)) [4, 5] False
    [8, 9, 10, 0, 11, 12, 13] ((4, 7),) [6] True
    """
    if sum(map(len, chunks)) + len(chunks) - 1 <= frame.room:
        return [_whole_document(chunks, frame, row)]
    units: list[Sequence[int]] = []
    chunk_of: list[int] = []
    for number, ids in enumerate(chunks):
        size = len(ids) if len(ids) <= frame.room else max(1, frame.room // PIECES)
        parts = [ids[i : i + size] for i in range(0, len(ids), size)]
        units += parts
        chunk_of += [number] * len(parts)
    gaps = [int(at > 0 and chunk_of[at] != chunk_of[at - 1]) for at in range(len(units))]
    windows = windows_over([len(unit) for unit in units], gaps, frame.room)
    return [_window_reading(window, units, gaps, chunk_of, frame, row) for window in windows]


def _whole_document(chunks: Sequence[Sequence[int]], frame: Frame, row: int) -> Reading:
    ids = list(frame.prefix)
    spans: list[tuple[int, int]] = []
    for chunk in chunks:
        if spans:
            ids.append(frame.separator)
        spans.append((len(ids) if spans else 0, len(ids) + len(chunk)))
        ids += chunk
    ids += frame.suffix
    spans[-1] = spans[-1][0], len(ids)
    return Reading(TokenizedSequence(np.array(ids, dtype=np.int64), tuple(spans)), row + np.arange(len(chunks)))


def _window_reading(
    window: Window, units: list[Sequence[int]], gaps: list[int], chunk_of: list[int], frame: Frame, row: int
) -> Reading:
    """One window; pieces of one chunk that stand side by side share a span."""
    owned = set(window.owned.tolist())
    ids = list(frame.prefix)
    spans: list[tuple[int, int]] = []
    rows: list[int] = []
    for at in range(window.start, window.end):
        if at > window.start and gaps[at]:
            ids.append(frame.separator)
        begin = 0 if at == 0 else len(ids)
        ids += units[at]
        if at not in owned:
            continue
        if spans and rows[-1] == row + chunk_of[at] and spans[-1][1] == begin:
            spans[-1] = spans[-1][0], len(ids)
        else:
            spans.append((begin, len(ids)))
            rows.append(row + chunk_of[at])
    last = window.end == len(units)
    if last and len(units) - 1 in owned:
        spans[-1] = spans[-1][0], len(ids) + len(frame.suffix)
    ids += frame.suffix
    sequence = TokenizedSequence(np.array(ids, dtype=np.int64), tuple(spans))
    return Reading(sequence, np.array(rows, dtype=np.int64), last)


class SharedRows:
    """Means of rows that several readings share, put together as the readings come.

    Args:
        readings: all that will come; a text or chunk longer than a window is in several of them.

    >>> one, two = (Reading(TokenizedSequence((1,), ((0, 1),)), np.array([7])) for _ in range(2))
    >>> shared = SharedRows([one, two])
    >>> shared.add(one.rows, np.array([3]), np.array([[1.0]], np.float32))[0].tolist()
    []
    >>> [x.tolist() for x in shared.add(two.rows, np.array([1]), np.array([[5.0]], np.float32))]
    [[7], [[2.0]]]
    """

    def __init__(self, readings: Sequence[Reading]) -> None:
        rows, counts = np.unique(np.concatenate([r.rows for r in readings]), return_counts=True)
        self._shared = rows[counts > 1]
        self._left = dict(zip(rows[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))
        self._sums: dict[int, tuple[Any, int]] = {}

    def add(self, rows: IntArray, tokens: IntArray, means: FloatArray) -> tuple[IntArray, FloatArray]:
        """The rows that are complete now, and their means.

        Args:
            rows: ``[spans]`` of a batch of readings.
            tokens: ``[spans]`` tokens of each span.
            means: ``[spans, hidden]``.
        """
        if not self._left:
            return rows, means
        shared = np.isin(rows, self._shared)
        ready, values = [rows[~shared]], [means[~shared]]
        for at in np.flatnonzero(shared).tolist():
            row, weight = int(rows[at]), int(tokens[at])
            total, seen = self._sums.pop(row, (0.0, 0))
            total, seen = total + means[at].astype(np.float64) * weight, seen + weight
            self._left[row] -= 1
            if self._left[row]:
                self._sums[row] = total, seen
            else:
                ready.append(rows[at : at + 1])
                values.append((total / seen).astype(np.float32)[None])
        return np.concatenate(ready), np.concatenate(values)
