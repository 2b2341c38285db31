"""Segments: immutable files of int8 rows with their ids and norms, every block under a checksum (see ``blocks.py``).

====================  =================================================================
ids                   int64 ``[rows]``, ascending; left out where they are ``first, first + 1, ... last``
rows                  int8 ``[rows, dims]``, from a multiple of 4,096 bytes
norms                 float32 ``[rows]``, Euclidean length of each row, from a multiple of 64 bytes
====================  =================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from diffembed.index.blocks import BLOCK, HEADER_BYTES, BlockWriter, CheckedFile, damaged
from diffembed.index.storage import write_durably

MAGIC = b"DFMBSEG\0"
VERSION = 2
_ALIGN = 64
_WANT_BYTES = 8 << 20  # read ahead of a scan

Int8Rows = npt.NDArray[np.int8]
IdArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class Segment:
    """Rows with ids: an open file, or arrays in memory. What is read is checked first.

    Attributes:
        path: the file; a name for errors where the rows are in memory.
    """

    def __init__(
        self, path: Path, ids: IdArray | range, rows_ND: Int8Rows, norms: FloatArray, file: CheckedFile | None = None
    ) -> None:
        self.path = path
        self._ids, self._rows, self._norms, self._file = ids, rows_ND, norms, file
        self._places = {} if file is None else {"rows": _rows_at(ids), "norms": _norms_at(ids, rows_ND.shape)}

    @classmethod
    def in_memory(cls, rows_ND: Int8Rows, ids: IdArray | range | None = None) -> Segment:
        """Rows that are no file, numbered from 0 unless they have ids (ascending)."""
        given = range(len(rows_ND)) if ids is None else ids
        return cls(Path("in memory"), given, rows_ND, row_norms(rows_ND))

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    @property
    def dims(self) -> int:
        """Width of the rows."""
        return int(self._rows.shape[1])

    @property
    def bytes(self) -> int:
        """Size of the file; 0 in memory."""
        return len(self._file.data) if self._file else 0

    @property
    def first_id(self) -> int:
        """The smallest id."""
        return self._ids.start if isinstance(self._ids, range) else int(self.ids_at(np.zeros(1, np.int64))[0])

    @property
    def ids(self) -> IdArray:
        """``[rows]`` ids, ascending."""
        if isinstance(self._ids, range):
            return np.arange(self._ids.start, self._ids.stop, dtype=np.int64)
        if self._file:
            self._file.check(HEADER_BYTES, HEADER_BYTES + self._ids.nbytes)
        return self._ids

    @property
    def rows(self) -> Int8Rows:
        """``[rows, dims]``, all of them checked: for small segments."""
        if self._file:
            self._file.check(self._places["rows"], self._places["rows"] + self._rows.nbytes)
        return self._rows

    def ids_at(self, places: IdArray) -> IdArray:
        """Ids of the rows at some places."""
        if isinstance(self._ids, range):
            return places + self._ids.start
        if self._file:
            self._file.check_pieces(HEADER_BYTES + 8 * places, 8)
        return self._ids[places]

    def places_of(self, ids_N: IdArray) -> IdArray:
        """Ascending places of those of some ascending ids that stand here."""
        if isinstance(self._ids, range):
            here = ids_N[np.searchsorted(ids_N, self._ids.start) : np.searchsorted(ids_N, self._ids.stop)]
            return here - self._ids.start
        own = self.ids
        here = ids_N[np.searchsorted(ids_N, own[0]) : np.searchsorted(ids_N, own[-1], "right")]
        places = np.searchsorted(own, here)
        return np.asarray(places[own[places] == here], np.int64)

    def want(self, places: IdArray) -> None:
        """Begin to read rows from the disk, all at once (see ``CheckedFile.want``)."""
        if self._file:
            self._file.want(self._places["rows"] + places * self.dims, self.dims)

    def want_ids(self, places: IdArray) -> None:
        """As ``want``, for the ids of rows."""
        if self._file and not isinstance(self._ids, range):
            self._file.want(HEADER_BYTES + 8 * places, 8)

    def want_near(self, places: IdArray) -> None:
        """As ``want``, for ascending places that lie close together: one read from the first to the last."""
        if self._file and len(places):
            first, last = int(places[0]), int(places[-1])
            self._file.want(np.array([self._places["rows"] + first * self.dims]), (last - first + 1) * self.dims)

    def rows_at(self, places: IdArray) -> Int8Rows:
        """``[N, dims]`` copies of the rows at some places."""
        if self._file:
            self._file.check_pieces(self._places["rows"] + places * self.dims, self.dims)
        picked: Int8Rows = self._rows[places]
        return picked

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Int8Rows, FloatArray]]:
        """``(first place, rows, norms)`` of ``rows`` rows at a time, in order; reads ahead on the disk."""
        end, wanted = len(self) if stop is None else stop, start
        for at in range(start, end, rows):
            after = min(at + rows, end)
            if self._file:
                if after > wanted:
                    ahead = max(_WANT_BYTES // self.dims, rows)
                    self._file.want(np.array([self._places["rows"] + wanted * self.dims]), 2 * ahead * self.dims)
                    wanted += ahead
                self._file.check(self._places["rows"] + at * self.dims, self._places["rows"] + after * self.dims)
                self._file.check(self._places["norms"] + 4 * at, self._places["norms"] + 4 * after)
            yield at, self._rows[at:after], self._norms[at:after]

    def forget(self) -> None:
        """Give memory of rows that were read back to the system (see ``CheckedFile.forget``)."""
        if self._file:
            self._file.forget()

    def verify(self) -> None:
        """Check every byte of the file anew, and that the ids ascend.

        Raises:
            IndexStoreError: it is not as it was written.
        """
        if self._file:
            self._file.verify()
        if not isinstance(self._ids, range) and (np.diff(self._ids) <= 0).any():
            raise damaged(self.path, "has ids that do not ascend")


def unit_rows(rows_ND: Int8Rows) -> FloatArray:
    """``[N, D]`` float32 rows of length 1, as faiss gets them; a zero row stays zero."""
    rows = rows_ND.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    np.divide(rows, lengths, out=rows, where=lengths > 0)
    return rows


def row_norms(rows_ND: Int8Rows) -> FloatArray:
    """``[N]`` Euclidean lengths.

    >>> row_norms(np.array([[3, -4], [0, 0]], np.int8)).tolist()
    [5.0, 0.0]
    """
    norms = np.empty(rows_ND.shape[0], np.float32)
    for start in range(0, rows_ND.shape[0], 4096):  # squares of int8 need int32: not for all rows at once
        block = rows_ND[start : start + 4096].astype(np.int32)
        norms[start : start + 4096] = np.sqrt(np.einsum("ij,ij->i", block, block))
    return norms


def write_segment(path: Path, ids: IdArray, rows_ND: Int8Rows) -> None:
    """Write a segment durably (see ``storage.write_durably``).

    Args:
        path: where; must not exist.
        ids: ``[N]`` ascending ids.
        rows_ND: ``[N, D]`` int8 vectors.
    """
    if rows_ND.dtype != np.int8 or rows_ND.ndim != 2 or ids.shape != rows_ND.shape[:1] or 0 in rows_ND.shape:
        raise ValueError(f"a segment takes [N] ids and [N, D] int8 rows, not {ids.shape} and {rows_ND.shape}")
    step = max(1, _WANT_BYTES // rows_ND.shape[1])
    stream_segment(path, ids, rows_ND.shape[1], (rows_ND[at : at + step] for at in range(0, len(ids), step)))


def stream_segment(path: Path, ids: IdArray, dims: int, blocks: Iterable[Int8Rows]) -> None:
    """As ``write_segment``, for rows that come block by block and never stand in memory all at once."""

    def write(file: BinaryIO) -> None:
        writer = BlockWriter(file)
        if not _without_gaps(ids):
            writer.write(ids.astype("<i8"))
        writer.align(BLOCK)
        norms = [np.empty(0, np.float32)]
        for rows in blocks:
            writer.write(rows)
            norms.append(row_norms(rows))
        lengths = np.concatenate(norms)
        if len(lengths) != len(ids):
            raise ValueError(f"{len(ids)} ids came with {len(lengths)} rows")
        writer.align(_ALIGN)
        writer.write(lengths.astype("<f4"))
        writer.finish(MAGIC, VERSION, dims=dims, rows=len(ids), first=int(ids[0]), last=int(ids[-1]))

    write_durably(path, write)


def open_segment(path: Path, *, rows: int, dims: int) -> Segment:
    """Map a segment and check its header; the rest is checked where it is used.

    Args:
        path: the file.
        rows: how many rows the catalog says it has.
        dims: the width that the catalog says it has.

    Raises:
        IndexStoreError: missing, truncated, altered, or not what the catalog says.
    """
    file = CheckedFile(path, MAGIC, VERSION)
    if (file.rows, file.dims) != (rows, dims):
        raise damaged(path, f"holds {file.rows} x {file.dims} vectors, the catalog says {rows} x {dims}")
    ids: IdArray | range = range(file.first, file.last + 1)
    if len(ids) != rows:
        ids = file.section(HEADER_BYTES, 8 * rows, "<i8")
    values = file.section(_rows_at(ids), rows * dims, "i1").reshape(rows, dims)
    return Segment(path, ids, values, file.section(_norms_at(ids, values.shape), 4 * rows, "<f4"), file)


def _without_gaps(ids: IdArray) -> bool:
    return int(ids[-1]) - int(ids[0]) + 1 == len(ids)


def _rows_at(ids: IdArray | range) -> int:
    return _up(HEADER_BYTES + (0 if isinstance(ids, range) else 8 * len(ids)), BLOCK)


def _norms_at(ids: IdArray | range, shape: tuple[int, ...]) -> int:
    return _up(_rows_at(ids) + shape[0] * shape[1], _ALIGN)


def _up(position: int, size: int) -> int:
    return -(-position // size) * size
