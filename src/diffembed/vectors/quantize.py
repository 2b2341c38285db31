"""From a span mean to the stored vector: tanh-int8, packed bits, float32, at any trained width.

This is the numpy form, used by ``encode``, the index and the server. The straight-through torch form that training
uses lives in ``models/quantizer.py`` and is tested equal to this one. Order matters and is fixed here: the
Matryoshka cut comes first, then tanh and rounding, or the sign and packing.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.vectors.embeddings import VECTOR_DTYPES, VectorDtype

Quantizer = Literal["tanh-int8", "none"]
QUANTIZERS: tuple[str, ...] = get_args(Quantizer)

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
ByteArray = npt.NDArray[np.uint8]

INT8_SCALE = 127.0


def cut_width(mean_SD: FloatArray, dims: int | None) -> FloatArray:
    """The first ``dims`` dimensions (Matryoshka); ``None`` keeps all.

    >>> cut_width(np.array([[1.0, 2.0, 3.0]], np.float32), 2).tolist()
    [[1.0, 2.0]]
    """
    width = mean_SD.shape[-1]
    if dims is None:
        return mean_SD
    if not 0 < dims <= width:
        raise InputError(f"dims={dims} was asked of vectors that are {width} wide; give a number from 1 to {width}")
    return mean_SD[..., :dims]


def tanh_int8(mean_SD: FloatArray) -> Int8Array:
    """``clip(rint(127 tanh(m)), -127, 127)``: the INT8 vector (pplx-embed, arXiv 2602.11151, section 3.3).

    >>> tanh_int8(np.array([[0.0, 0.5, -0.5, 9.0, -9.0]], np.float32)).tolist()
    [[0, 59, -59, 127, -127]]
    """
    scaled = np.rint(np.float32(INT8_SCALE) * np.tanh(mean_SD.astype(np.float32, copy=False)))
    limited: Int8Array = np.clip(scaled, -INT8_SCALE, INT8_SCALE).astype(np.int8)
    return limited


def scaled_int8(vector_SD: FloatArray) -> Int8Array:
    """INT8 for models trained without a quantizer: each unit vector is stretched so that its largest value is 127.

    The scale belongs to the vector alone, so cosines are those of the float vector up to rounding, and no range has
    to be learned from data.

    >>> scaled_int8(np.array([[3.0, -4.0], [0.0, 0.0]], np.float32)).tolist()
    [[95, -127], [0, 0]]
    """
    peak = np.abs(vector_SD).max(axis=-1, keepdims=True)
    scale = np.divide(INT8_SCALE, peak, out=np.zeros_like(peak, dtype=np.float32), where=peak > 0)
    limited: Int8Array = np.clip(np.rint(vector_SD * scale), -INT8_SCALE, INT8_SCALE).astype(np.int8)
    return limited


def pack_signs(mean_SD: npt.NDArray[Any]) -> ByteArray:
    """Bits ``m >= 0``, eight a byte, the first dimension in the least significant bit.

    >>> pack_signs(np.array([[1.0, -1.0, -1.0, 0.0, -1.0, -1.0, -1.0, -1.0]], np.float32)).tolist()
    [[9]]
    """
    width = mean_SD.shape[-1]
    if width % 8:
        raise InputError(f"binary vectors need a width divisible by 8, these are {width} wide; choose another dims")
    return np.packbits(mean_SD >= 0, axis=-1, bitorder="little")


def unpack_signs(bits_SB: ByteArray, dims: int) -> Int8Array:
    """Packed bits back to -1 / +1.

    >>> unpack_signs(np.array([[9]], np.uint8), 8).tolist()
    [[1, -1, -1, 1, -1, -1, -1, -1]]
    """
    bits = np.unpackbits(bits_SB, axis=-1, count=dims, bitorder="little")
    return bits.astype(np.int8) * np.int8(2) - np.int8(1)


def unit(vector_SD: npt.NDArray[Any]) -> FloatArray:
    """Rows of length 1 (a zero row stays zero).

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    vector = vector_SD.astype(np.float32, copy=False)
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    result: FloatArray = np.divide(vector, norm, out=np.zeros_like(vector), where=norm > 0)
    return result


def quantize(
    mean_SD: FloatArray,
    dtype: VectorDtype = "int8",
    *,
    quantizer: Quantizer = "tanh-int8",
    normalize: bool = False,
    dims: int | None = None,
) -> npt.NDArray[Any]:
    """Span means ``[S, D]`` to stored vectors of one dtype and width.

    Args:
        mean_SD: mean of the final-norm states of every span, before tanh.
        dtype: ``float32``, ``int8`` or ``binary``.
        quantizer: ``tanh-int8`` for models trained through it; ``none`` for other models, whose float32 output is the
            mean itself and whose int8 output is the mean stretched row by row.
        normalize: float32 rows of a ``none`` model get length 1 (after the cut).
        dims: Matryoshka width, cut first.

    Returns:
        ``[S, dims]`` float32 or int8, ``[S, dims / 8]`` uint8 for binary.

    >>> m = np.array([[0.5, -0.25, 0.0, 2.0]], np.float32)
    >>> quantize(m, "int8", dims=2).tolist()
    [[59, -31]]
    >>> np.round(quantize(m, "float32"), 3).tolist()
    [[0.4620000123977661, -0.24500000476837158, 0.0, 0.9639999866485596]]
    """
    if dtype not in VECTOR_DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; choose one of {', '.join(VECTOR_DTYPES)}")
    if quantizer not in QUANTIZERS:
        raise InputError(f"quantizer {quantizer!r} is not known; choose one of {', '.join(QUANTIZERS)}")
    mean = cut_width(mean_SD, dims)
    if dtype == "binary":
        return pack_signs(mean)
    if quantizer == "tanh-int8":
        return tanh_int8(mean) if dtype == "int8" else np.tanh(mean.astype(np.float32, copy=False))
    if dtype == "int8":
        return scaled_int8(mean)
    return unit(mean) if normalize else np.ascontiguousarray(mean, dtype=np.float32)
