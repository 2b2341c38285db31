"""How to compare vectors of every dtype: cosine for float32 and int8, Hamming for packed bits.

INT8 vectors are not of unit length and must not be normalised before rounding; cosine on the integers is the
similarity they were trained for. For packed bits the cosine of the -1/+1 vectors is ``1 - 2 h / d``. A float32 or int8
query may also be compared with packed documents (asymmetric): the documents stay as small, and the query loses nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.vectors.embeddings import Embeddings, VectorDtype
from diffembed.vectors.quantize import FloatArray, unit, unpack_signs

# Elements of one block of XORed bytes: keeps the temporary of a large binary comparison near 16 MB.
_BLOCK_BYTES = 1 << 24


def cosine(left_QD: npt.NDArray[Any], right_ND: npt.NDArray[Any]) -> FloatArray:
    """``[Q, N]`` cosines of float32 or int8 rows; a zero row has cosine 0 with everything.

    >>> a = np.array([[3, 4]], np.int8)
    >>> cosine(a, np.array([[6, 8], [-4, 3], [0, 0]], np.int8)).round(6).tolist()
    [[1.0, 0.0, 0.0]]
    """
    _same_width(left_QD, right_ND)
    return unit(left_QD) @ unit(right_ND).T


def hamming(left_QB: npt.NDArray[np.uint8], right_NB: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """``[Q, N]`` numbers of differing bits of packed rows.

    >>> hamming(np.array([[0b1001]], np.uint8), np.array([[0b1001], [0b0110]], np.uint8)).tolist()
    [[0, 4]]
    """
    _same_width(left_QB, right_NB)
    out = np.empty((left_QB.shape[0], right_NB.shape[0]), np.int32)
    step = max(1, _BLOCK_BYTES // max(1, right_NB.size))
    for start in range(0, left_QB.shape[0], step):
        differ = left_QB[start : start + step, None, :] ^ right_NB[None, :, :]
        out[start : start + step] = np.bitwise_count(differ).sum(axis=-1, dtype=np.int32)
    return out


def similarity(left: Embeddings, right: Embeddings) -> FloatArray:
    """``[Q, N]`` similarities in [-1, 1] of two sets of vectors of one width.

    Both are of the same dtype, or ``left`` (the queries) is float32 or int8 and ``right`` (the documents) binary.

    >>> q = Embeddings(np.array([[3, 0, 0, -4, 0, 0, 0, 0]], np.int8), "int8", 8)
    >>> (similarity(q, Embeddings(np.array([[1], [8]], np.uint8), "binary", 8)) * 5 * 8**0.5).round(3).tolist()
    [[7.0, -7.0]]
    >>> e = Embeddings(np.array([[9]], np.uint8), "binary", 8)
    >>> similarity(e, Embeddings(np.array([[9], [8]], np.uint8), "binary", 8)).tolist()
    [[1.0, 0.75]]
    """
    if left.dims != right.dims or right.dtype not in (left.dtype, "binary"):
        raise InputError(
            f"cannot compare {left.dtype} vectors of {left.dims} dims with {right.dtype} vectors of {right.dims} dims; "
            "encode both sides with the same dims, and with the same dtype or the right side as binary"
        )
    if left.dtype != right.dtype:
        return cosine(left.values, unpack_signs(right.values, right.dims))
    return compare(left.values, right.values, left.dtype, left.dims)


def compare(left: npt.NDArray[Any], right: npt.NDArray[Any], dtype: VectorDtype, dims: int) -> FloatArray:
    """:func:`similarity` on bare arrays."""
    if dtype == "binary":
        return (1.0 - (2.0 / dims) * hamming(left, right)).astype(np.float32)
    return cosine(left, right)


def _same_width(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
    if left.shape[-1] != right.shape[-1]:
        raise InputError(f"cannot compare rows {left.shape[-1]} wide with rows {right.shape[-1]} wide; use one width")
