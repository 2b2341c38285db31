"""Files whose every block of 4 KiB has a checksum, written in one pass and checked where they are touched.

A file of ten gigabytes opens at once: only its header and the table of checksums are read. A block is checked when
something in it is first asked for, so what is never used costs nothing, and what is used is what was written.

Layout (little-endian):

====================  =================================================================
header, 64 bytes      magic, version, three numbers of the owner, bytes before the table, crc32 of the table, crc32 of
                      the header
body                  the owner's sections; each starts where the owner aligned it
table                 uint32 crc32 of every 4,096 bytes of the file up to here, the header left out
====================  =================================================================
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from array import array
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from diffembed.errors import IndexStoreError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

BLOCK = 4096
HEADER_BYTES = 64
_HEADER = struct.Struct("<8sIIQqqII12xI")  # magic, version, dims, rows, first, last, blocks, crc of table, crc of this
assert _HEADER.size == HEADER_BYTES

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


def damaged(path: Path, what: str) -> IndexStoreError:
    """What to raise about a file of the index that is not as it was written."""
    folder = path.parent.parent
    return IndexStoreError(f"segment {path.name} of {folder} {what}; delete that folder and index the files again")


_ASKED_ONE_BY_ONE = 128
_GAP = 8 * mmap.PAGESIZE  # that is read along between two pieces


def waits_for_disk() -> int:
    """How often this thread had to wait for a page to come from the disk; 0 where the system does not tell."""
    kind = getattr(resource, "RUSAGE_THREAD", None)
    return 0 if kind is None else resource.getrusage(kind).ru_majflt


class BlockWriter:
    """Writes the body of a file from front to back and counts its checksums on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sums = array("I")
        self._sum = 0
        self.position = HEADER_BYTES
        file.write(bytes(HEADER_BYTES))

    def write(self, data: npt.NDArray[Any] | bytes) -> None:
        """Append the bytes of an array in C order."""
        view = (
            memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        )
        self._file.write(view)
        at = 0
        while at < len(view):
            piece = view[at : at + BLOCK - self.position % BLOCK]
            self._sum = zlib.crc32(piece, self._sum)
            self.position += len(piece)
            at += len(piece)
            if self.position % BLOCK == 0:
                self._sums.append(self._sum)
                self._sum = 0

    def align(self, size: int) -> int:
        """Fill with zeros up to a multiple of ``size``; returns the position."""
        self.write(bytes(-self.position % size))
        return self.position

    def finish(self, magic: bytes, version: int, *, dims: int, rows: int, first: int, last: int) -> None:
        """Write the table and, last of all, the header."""
        self.align(BLOCK)
        table = np.frombuffer(self._sums, np.uint32).astype("<u4").tobytes()
        self._file.write(table)
        fields = (magic, version, dims, rows, first, last, len(self._sums), zlib.crc32(table))
        head = _HEADER.pack(*fields, 0)[:-4]
        self._file.seek(0)
        self._file.write(head + struct.pack("<I", zlib.crc32(head)))


class CheckedFile:
    """A file of ``BlockWriter``, memory-mapped read-only.

    The kernel is told that reads come at random places: by default it would read on behind every single row.

    Attributes:
        path: the file.
        dims, rows, first, last: what the owner wrote into the header.
        data: ``[bytes]`` the whole file; unchecked: call ``check`` before you read.
    """

    def __init__(self, path: Path, magic: bytes, version: int) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < HEADER_BYTES:
                    raise damaged(path, f"has {size} bytes, less than a header")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise damaged(path, f"cannot be read ({error.strerror})") from None
        self._advise("MADV_RANDOM", 0, size)
        self.data: ByteArray = np.frombuffer(self._map, np.uint8)
        head = self._map[:HEADER_BYTES]
        got_magic, got_version, self.dims, self.rows, self.first, self.last, blocks, table_sum, head_sum = (
            _HEADER.unpack(head)
        )
        if got_magic != magic or zlib.crc32(head[:-4]) != head_sum:
            raise damaged(path, "has a damaged header")
        if got_version != version:
            raise damaged(path, f"has format {got_version}, this diffembed reads {version}")
        if size != blocks * (BLOCK + 4):
            raise damaged(path, f"has {size} bytes instead of {blocks * (BLOCK + 4)}")
        self.body_end = blocks * BLOCK
        self._advise("MADV_WILLNEED", self.body_end, size - self.body_end)  # page by page a large table takes a second
        table = self.data[self.body_end :].tobytes()
        if zlib.crc32(table) != table_sum:
            raise damaged(path, "has a damaged table of checksums")
        self._sums = np.frombuffer(table, "<u4")
        self._good = np.zeros(blocks, np.bool_)

    def section(self, start: int, size: int, dtype: str) -> npt.NDArray[Any]:
        """An unchecked view of ``size`` bytes at ``start``."""
        if start + size > self.body_end:
            raise damaged(self.path, "is shorter than its header says")
        return self.data[start : start + size].view(dtype)

    def check(self, start: int, stop: int) -> None:
        """Compare the checksums of the blocks that hold the bytes ``start`` to ``stop``, where not yet done.

        Raises:
            IndexStoreError: one of them differs.
        """
        if stop > start:
            first, end = start // BLOCK, -(-stop // BLOCK)
            if not self._good[first:end].all():
                self._compare(np.flatnonzero(~self._good[first:end]) + first)

    def check_pieces(self, starts: IntArray, size: int) -> None:
        """As ``check``, for many pieces of one size."""
        if len(starts):
            touched = starts // BLOCK
            for further in range(1, (size + BLOCK - 2) // BLOCK + 1):
                touched = np.concatenate([touched, np.minimum(starts // BLOCK + further, (starts + size - 1) // BLOCK)])
            unknown = touched[~self._good[touched]]
            if len(unknown):
                self._compare(np.unique(unknown))

    def verify(self) -> None:
        """Compare every checksum anew, also those of blocks that were found right before."""
        self._good[:] = False
        self.check(0, self.body_end)

    def want(self, starts: IntArray, sizes: IntArray | int) -> None:
        """Ask the kernel to read these pieces from the disk now, all at once, without waiting for them."""
        stops = starts + sizes
        if len(starts) > _ASKED_ONE_BY_ONE:  # a microsecond for each: of many, what lies close together is one
            starts, stops = np.sort(starts), np.sort(stops)
            apart = np.flatnonzero(starts[1:] > stops[:-1] + _GAP)
            starts, stops = starts[np.append(0, apart + 1)], stops[np.append(apart, -1)]
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            self._advise("MADV_WILLNEED", start, stop - start)

    def forget(self) -> None:
        """Give the memory of pages that were read back to the system; they are read again when asked for."""
        self._advise("MADV_DONTNEED", 0, len(self.data))

    def _advise(self, advice: str, start: int, size: int) -> None:
        """Tell the kernel what is coming, on systems that listen."""
        if hasattr(mmap, advice):
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(getattr(mmap, advice), page, min(start + size, len(self._map)) - page)

    def _compare(self, blocks: IntArray) -> None:
        view, sums = self.data.data, self._sums
        for block in blocks.tolist():
            start = block * BLOCK if block else HEADER_BYTES
            if zlib.crc32(view[start : (block + 1) * BLOCK]) != sums[block]:
                raise damaged(self.path, f"fails its checksum at byte {block * BLOCK}")
        self._good[blocks] = True
