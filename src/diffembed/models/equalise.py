"""Equalisation: exact changes of weights after which a layer's input channels are alike in size.

A token's activations share one integer range. One channel that is many times the others (most trained models have a
few) leaves these a handful of steps. So channel ``c`` is divided by a factor ``s_c`` where it is made (the weight of
the norm, the rows of the layer before) and column ``c`` of every layer that reads it is multiplied by ``s_c``: nothing
changes in exact arithmetic, and both sides round better (SmoothQuant, arXiv 2211.10438, equation 4).

Numpy only. ``architectures.py`` says where a family has such channels, ``calibrate.py`` how large they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffembed.models.integers import FloatArray, Int8Plan, Rounding, quantize_weight

Tensors = Callable[[str], FloatArray]

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)
_TRIAL_STEPS = (96,)  # one is enough to compare factors
_SMALLEST = 1e-3  # of the largest: channels below are treated as if they were this large


@dataclass(frozen=True, slots=True)
class Fold:
    """Channels that may be scaled: the layers that read them and what makes them.

    Attributes:
        readers: linear layers that read the same input.
        makers: tensors with a channel along their first axis (weight and bias of a norm, a matrix and its bias). None:
            nothing before the layers can take the factors, the graph divides.
        copies, block: a maker's channel is read ``copies`` times, in blocks of ``block`` channels: grouped attention,
            where several query heads read one value head.
    """

    readers: tuple[str, ...]
    makers: tuple[str, ...] = ()
    copies: int = 1
    block: int = 1

    def shared(self, factors_K: FloatArray) -> FloatArray:
        """The same factor for all copies of a channel: their largest.

        >>> Fold(("o",), ("v",), copies=2, block=2).shared(np.array([1, 2, 3, 4], np.float32)).tolist()
        [3.0, 4.0, 3.0, 4.0]
        """
        blocks = factors_K.reshape(-1, self.copies, self.block)
        return np.broadcast_to(blocks.max(axis=1, keepdims=True), blocks.shape).reshape(-1).copy()

    def of_makers(self, factors_K: FloatArray) -> FloatArray:
        """Shared factors, one a maker's channel."""
        return factors_K.reshape(-1, self.copies, self.block)[:, 0].reshape(-1)


def channel_factors(peaks_K: FloatArray, weights_NK: Sequence[FloatArray], alpha: float) -> FloatArray:
    """``peak ** alpha / column peak ** (1 - alpha)``, scaled to a geometric mean of 1.

    Args:
        peaks_K: each channel's largest magnitude over the calibration texts.
        weights_NK: the layers that read the channels.
        alpha: 0 levels the weights only, 1 the activations only.

    >>> weight = np.ones((2, 4), np.float32)
    >>> channel_factors(np.array([1, 1, 1, 16], np.float32), [weight], 0.5).astype(float).round(3).tolist()
    [0.707, 0.707, 0.707, 2.828]
    """
    columns = np.max([np.abs(w).max(axis=0) for w in weights_NK], axis=0)
    logs = alpha * _log(peaks_K) - (1 - alpha) * _log(columns)
    factors: FloatArray = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def product_error(rows_RK: FloatArray, factors_K: FloatArray, weight_NK: FloatArray, exact_RN: FloatArray) -> float:
    """Error of a layer's integer product under channel factors, relative to the exact one, in the mean over tokens.

    >>> rng = np.random.default_rng(0)
    >>> rows, weight = rng.normal(size=(64, 32)).astype("f"), rng.normal(size=(8, 32)).astype("f")
    >>> rows[:, 5], weight[:, 5] = 40 * rows[:, 5], weight[:, 5] / 40
    >>> plain, level = np.ones(32, "f"), channel_factors(np.abs(rows).max(axis=0), [weight], 0.7)
    >>> exact = rows @ weight.T
    >>> product_error(rows, plain, weight, exact) > 4 * product_error(rows, level, weight, exact)
    True
    """
    scaled = rows_RK / factors_K
    step = np.maximum(np.abs(scaled).max(axis=1, keepdims=True), 1e-20) / 127
    integers, scale = quantize_weight(np.ascontiguousarray((weight_NK * factors_K).T), _TRIAL_STEPS)
    wrong = (np.rint(scaled / step) * step) @ (integers * scale) - exact_RN
    return float(np.mean(np.square(wrong).sum(axis=1) / np.maximum(np.square(exact_RN).sum(axis=1), 1e-20)))


def best_factors(fold: Fold, peaks_K: FloatArray, rows_RK: FloatArray, weights_NK: Sequence[FloatArray]) -> FloatArray:
    """The factors of least error over the rows: those of one of ``ALPHAS``, or ones where nothing is gained."""
    candidates = [fold.shared(channel_factors(peaks_K, weights_NK, alpha)) for alpha in ALPHAS]
    candidates.insert(0, np.ones_like(candidates[0]))
    products = [(weight, rows_RK @ weight.T) for weight in weights_NK]
    errors = [sum(product_error(rows_RK, factors, *product) for product in products) for factors in candidates]
    return candidates[int(np.argmin(errors))]


def int8_plan(
    factors: Mapping[Fold, FloatArray],
    *,
    float_layers: frozenset[str] = frozenset(),
    rounding: Rounding = quantize_weight,
) -> Int8Plan:
    """Factors of folds as what a graph needs: factors of tensors, and divisors where no tensor takes them."""
    rows: dict[str, FloatArray] = {}
    columns: dict[str, FloatArray] = {}
    divisors: dict[str, FloatArray] = {}
    for fold, factors_K in factors.items():
        for maker in fold.makers:
            rows[maker] = (1 / fold.of_makers(factors_K)).astype(np.float32)
        for layer in fold.readers:
            if not fold.makers and layer in float_layers:
                continue  # reads the input as it is
            columns[layer + ".weight"] = factors_K
            if not fold.makers:
                divisors[layer] = factors_K
    return Int8Plan(rows, columns, divisors, float_layers, rounding)


def equalised(tensor: Tensors, plan: Int8Plan) -> Tensors:
    """The tensors with a plan's factors multiplied in."""

    def scaled(name: str) -> FloatArray:
        value = tensor(name)
        if name in plan.rows:
            value = value * plan.rows[name].reshape(-1, *[1] * (value.ndim - 1))
        return value * plan.columns[name] if name in plan.columns else value

    return scaled


def _log(magnitudes: FloatArray) -> npt.NDArray[np.float64]:
    largest = max(float(magnitudes.max()), 1e-30)
    logs: npt.NDArray[np.float64] = np.log(np.maximum(magnitudes / largest, _SMALLEST), dtype=np.float64)
    return logs
