"""Segments: immutable files of int8 rows with their chunk ids, norms and sign bits, checked by checksums.

Layout (little-endian, every section starts at a multiple of 64 bytes):

====================  =================================================================
header, 64 bytes      magic ``DFMBSEG\\0``, version, dims, rows, crc32 of the rest, crc32 of the header
ids                   int64 ``[rows]``, ascending chunk ids
norms                 float32 ``[rows]``, Euclidean length of each int8 row
bits                  uint8 ``[rows, ceil(dims / 8)]``, bit ``value >= 0``, least significant first
rows                  int8 ``[rows, dims]``
====================  =================================================================
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from diffembed.errors import IndexStoreError
from diffembed.index.storage import write_durably

MAGIC = b"DFMBSEG\0"
VERSION = 1
_HEADER = struct.Struct("<8sIIQI32xI")  # magic, version, dims, rows, crc of the body, crc of the header before it
_ALIGN = 64
_CHECK_BYTES = 1 << 22
assert _HEADER.size == _ALIGN

Int8Rows = npt.NDArray[np.int8]
IdArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Segment:
    """An open segment; the arrays are read-only views of the memory-mapped file."""

    path: Path
    ids: IdArray
    norms: FloatArray
    bits: ByteArray
    rows: Int8Rows

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def dims(self) -> int:
        return int(self.rows.shape[1])


def sign_bits(rows_ND: Int8Rows) -> ByteArray:
    """``[N, ceil(D / 8)]`` bits ``value >= 0``, padded with zero bits, for the Hamming stage.

    >>> sign_bits(np.array([[5, -3, 0, -1, -1, -1, -1, -1, 7]], np.int8)).tolist()
    [[5, 1]]
    """
    return np.packbits(rows_ND >= 0, axis=1, bitorder="little")


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


def _sections(rows: int, dims: int) -> list[tuple[int, int]]:
    """``(offset, bytes)`` of ids, norms, bits and rows."""
    offset, out = _ALIGN, []
    for size in (8 * rows, 4 * rows, rows * (-(-dims // 8)), rows * dims):
        out.append((offset, size))
        offset += -(-size // _ALIGN) * _ALIGN
    return out


def write_segment(path: Path, ids: IdArray, rows_ND: Int8Rows) -> None:
    """Write a segment durably (see ``storage.write_durably``).

    Args:
        path: where; must not exist.
        ids: ``[N]`` ascending chunk ids.
        rows_ND: ``[N, D]`` int8 vectors.
    """
    if rows_ND.dtype != np.int8 or rows_ND.ndim != 2 or ids.shape != rows_ND.shape[:1] or 0 in rows_ND.shape:
        raise ValueError(f"a segment takes [N] ids and [N, D] int8 rows, not {ids.shape} and {rows_ND.shape}")
    count, dims = rows_ND.shape
    arrays: list[npt.NDArray[Any]] = [ids.astype("<i8"), row_norms(rows_ND).astype("<f4"), sign_bits(rows_ND), rows_ND]

    def write(file: BinaryIO) -> None:
        checksum = 0
        file.write(bytes(_ALIGN))
        for array, (_, size) in zip(arrays, _sections(count, dims), strict=True):
            flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            for piece in (flat.data, bytes(-size % _ALIGN)):
                checksum = zlib.crc32(piece, checksum)
                file.write(piece)
        head = _HEADER.pack(MAGIC, VERSION, dims, count, checksum, 0)[:-4]
        file.seek(0)
        file.write(head + struct.pack("<I", zlib.crc32(head)))

    write_durably(path, write)


def open_segment(path: Path, *, rows: int, dims: int) -> Segment:
    """Map a segment and check every byte of it.

    Args:
        path: the file.
        rows: how many rows the catalog says it has.
        dims: the width that the catalog says it has.

    Raises:
        IndexStoreError: missing, truncated, altered, or not what the catalog says.
    """
    try:
        size = path.stat().st_size
        mapped = np.memmap(path, np.uint8, "r") if size else None
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from None
    if mapped is None or size < _ALIGN:
        raise _damaged(path, f"has {size} bytes, less than a header")
    head = mapped[:_ALIGN].tobytes()
    magic, version, got_dims, got_rows, checksum, head_checksum = _HEADER.unpack(head)
    if magic != MAGIC or zlib.crc32(head[:-4]) != head_checksum:
        raise _damaged(path, "has a damaged header")
    if version != VERSION:
        raise _damaged(path, f"has format {version}, this diffembed reads {VERSION}")
    if (got_rows, got_dims) != (rows, dims):
        raise _damaged(path, f"holds {got_rows} x {got_dims} vectors, the catalog says {rows} x {dims}")
    sections = _sections(rows, dims)
    expected = sections[-1][0] + -(-sections[-1][1] // _ALIGN) * _ALIGN
    if size != expected:
        raise _damaged(path, f"has {size} bytes instead of {expected}")
    if _checksum(mapped) != checksum:
        raise _damaged(path, "fails its checksum")
    ids, norms, bits, values = (mapped[offset : offset + length] for offset, length in sections)
    return Segment(
        path,
        ids.view("<i8"),
        norms.view("<f4"),
        bits.reshape(rows, -1),
        values.view(np.int8).reshape(rows, dims),
    )


def _checksum(mapped: npt.NDArray[np.uint8]) -> int:
    checksum = 0
    for start in range(_ALIGN, len(mapped), _CHECK_BYTES):
        checksum = zlib.crc32(mapped[start : start + _CHECK_BYTES].data, checksum)
    return checksum


def _damaged(path: Path, what: str) -> IndexStoreError:
    folder = path.parent.parent
    return IndexStoreError(f"segment {path.name} of {folder} {what}; delete that folder and index the files again")
