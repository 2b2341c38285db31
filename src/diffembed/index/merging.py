"""The live rows of several segments in the order of their ids, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from diffembed.index.segments import IdArray, Int8Rows, Segment

Mask = npt.NDArray[np.bool_] | None
_LEAVE_ROWS = 1 << 20  # after so many rows the memory of what was read is given back


class Merged:
    """Live rows of segments by id; of the rows only a block stands in memory.

    Attributes:
        ids: ``[N]`` ascending.
    """

    def __init__(self, segments: Sequence[Segment], masks: Sequence[Mask]) -> None:
        self._segments = segments
        ids = [s.ids if mask is None else s.ids[mask] for s, mask in zip(segments, masks, strict=True)]
        places = [
            np.arange(len(s)) if mask is None else np.flatnonzero(mask) for s, mask in zip(segments, masks, strict=True)
        ]
        all_ids = np.concatenate([np.empty(0, np.int64), *ids])
        order = np.argsort(all_ids, kind="stable")  # in linear time where they stand in order already
        self.ids: IdArray = all_ids[order]
        self._owners = np.repeat(np.arange(len(ids), dtype=np.int32), [len(own) for own in ids])[order]
        self._places = np.concatenate([np.empty(0, np.int64), *places])[order]

    def blocks(self, step: int) -> Iterator[tuple[IdArray, Int8Rows]]:
        """``(ids, rows)`` of ``step`` rows at a time."""
        for start in range(0, len(self.ids), step):
            owners, places = self._owners[start : start + step], self._places[start : start + step]
            rows = np.empty((len(owners), self._segments[0].dims), np.int8)
            for number in np.unique(owners).tolist():
                own = owners == number
                self._segments[number].want_near(places[own])
                rows[own] = self._segments[number].rows_at(places[own])
            yield self.ids[start : start + step], rows
            if (start + step) % _LEAVE_ROWS < step:
                for segment in self._segments:
                    segment.forget()
