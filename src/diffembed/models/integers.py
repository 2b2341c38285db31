"""Weights in integers: one scale a column, and no pair of rows that some processors could not add.

On processors without VNNI, products of an unsigned and a signed byte are added two by two in 16 bits, and what does not
fit is cut off: with weights of -127..127 results would differ from machine to machine, and be wrong on the older ones.
So the weights of rows 2i and 2i + 1 never add up to more than 128, which fits whatever the activations are
(255 * 128 < 2 ** 15). Halving all weights would be safe too, and costs a bit everywhere instead of in rare pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
Rounding = Callable[[FloatArray], tuple[Int8Array, FloatArray]]

PAIR_LIMIT = 128
STEPS = (64, 80, 96, 112, 127)
_SMALLEST = 1e-30  # weights below are nothing: a step of their size would be too small for float32


def quantize_weight(weight_KN: FloatArray, steps: Sequence[int] = STEPS) -> tuple[Int8Array, FloatArray]:
    """Integer weights and their column scales: ``weight ~ integers * scale``, no pair of rows over ``PAIR_LIMIT``.

    A column's largest weight becomes that one of ``steps`` which gives the column the least squared error: more steps
    round finer, but have more pairs cut.

    >>> integers, scale = quantize_weight(np.array([[0.25, -64.0], [1.0, 0.0]], np.float32))
    >>> integers.tolist(), (integers * scale).round(2).tolist()
    ([[16, -64], [64, 0]], [[0.25, -64.0], [1.0, 0.0]])
    """
    peak = np.abs(weight_KN).max(axis=0)
    peak = np.where(peak > _SMALLEST, peak, 1.0).astype(np.float32)
    least = np.full(peak.shape, np.inf, np.float32)
    integers = np.zeros(weight_KN.shape, np.int8)
    scale = np.ones_like(peak)
    for step in steps:
        size = peak / np.float32(step)
        rounded = limit_pairs(np.rint(weight_KN / size))
        error = np.square(rounded * size - weight_KN).sum(axis=0)
        better = error < least
        least[better], scale[better] = error[better], size[better]
        integers[:, better] = rounded[:, better]
    return integers, scale


def limit_pairs(integers_KN: FloatArray) -> FloatArray:
    """Rows 2i and 2i + 1 brought closer to zero, each by half, where their sum is over ``PAIR_LIMIT``.

    >>> limit_pairs(np.array([[100.0, -100.0, 100.0], [40.0, -33.0, -100.0]], np.float32)).tolist()
    [[94.0, -97.0, 100.0], [34.0, -31.0, -100.0]]
    """
    even = len(integers_KN) // 2 * 2
    sums = integers_KN[0:even:2] + integers_KN[1:even:2]
    over = np.sign(sums) * np.maximum(np.abs(sums) - PAIR_LIMIT, 0)
    first = np.sign(over) * np.ceil(np.abs(over) / 2)
    cut = integers_KN.copy()
    cut[0:even:2] -= first
    cut[1:even:2] -= over - first
    return cut


@dataclass(frozen=True, slots=True)
class Int8Plan:
    """How the linear layers of a graph are put in integers; a layer goes by the name of its weight less ``.weight``.

    Attributes:
        rows, columns: factors of tensors along their first and their last axis, by tensor (``equalise.py``).
        divisors: ``[K]`` by layer: its input is divided by these, channel by channel, before it is rounded. Layers that
            share an input share them.
        float_layers: layers that stay in float32.
        rounding: makes integers and column scales of a weight ``[K, N]``.
        known: what it made so far, by layer: trial graphs and the final one have most weights in common.
    """

    rows: Mapping[str, FloatArray] = field(default_factory=dict)
    columns: Mapping[str, FloatArray] = field(default_factory=dict)
    divisors: Mapping[str, FloatArray] = field(default_factory=dict)
    float_layers: frozenset[str] = frozenset()
    rounding: Rounding = quantize_weight
    known: dict[str, tuple[Int8Array, FloatArray]] = field(default_factory=dict, repr=False, compare=False)

    def rounded(self, layer: str, weight_KN: FloatArray) -> tuple[Int8Array, FloatArray]:
        """Integers and column scales of a layer's weight, factors multiplied in."""
        if layer not in self.known:
            self.known[layer] = self.rounding(weight_KN)
        return self.known[layer]


@dataclass(frozen=True, slots=True)
class Int8Report:
    """What a plan costs: cosines to the fp32 vectors over the calibration texts, and the layers left in float32.

    Attributes:
        texts: how many texts were read.
        cosine_mean, cosine_least: over these texts.
        float_layers: the layers left in float32.
        float_bytes: what they take more than they would in integers.
    """

    texts: int
    cosine_mean: float
    cosine_least: float
    float_layers: tuple[str, ...] = ()
    float_bytes: int = 0

    def __str__(self) -> str:
        kept = f"; in float32, {self.float_bytes / 1e6:.1f} MB more: {', '.join(self.float_layers)}"
        return (
            f"int8 weights: cosine to fp32 {self.cosine_mean:.5f} in the mean and {self.cosine_least:.4f} at least "
            f"over {self.texts} texts{kept if self.float_layers else ''}"
        )
