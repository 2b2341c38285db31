"""Noise schedules of masked diffusion: how many tokens are masked at time t, what each weighs, how t is drawn.

A schedule is alpha(t), the probability that a token is still readable at time t, falling from 1 at t = 0 to 0 at
t = 1. The negative ELBO in continuous time weighs the cross-entropy of a masked token by -alpha'(t) / (1 - alpha(t))
(Sahoo et al. 2024, arXiv 2406.07524, eq. 10; Shi et al. 2024, arXiv 2406.04329, eq. 5). Its integral over t does not
depend on the schedule: substituting the mask rate 1 - alpha(t) for t turns every schedule into the linear one.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Schedule = Literal["linear", "cosine"]
Draw = Literal["uniform", "stratified", "antithetic"]
Times = npt.NDArray[np.float64]

EPSILON = 1e-3  # smallest t, and in MDLM's form the share of tokens that stays readable at t = 1


def mask_rate(t: Times, schedule: Schedule) -> Times:
    """Probability ``1 - alpha(t)`` that a token is masked at time t.

    ``linear``: t. ``cosine``: cos(pi/2 (1 - t)), as in MD4 (arXiv 2406.04329, table 1): few steps at low rates.

    >>> mask_rate(np.array([0.25, 0.5]), "linear").tolist()
    [0.25, 0.5]
    >>> mask_rate(np.array([1 / 3, 0.5]), "cosine").round(4).tolist()  # cos 60 degrees, cos 45 degrees
    [0.5, 0.7071]
    """
    return t if schedule == "linear" else np.cos(math.pi / 2 * (1.0 - t))


def elbo_weight(t: Times, schedule: Schedule) -> Times:
    """Weight ``-alpha'(t) / (1 - alpha(t))`` of a token masked at time t.

    ``linear``: 1/t. ``cosine``: pi/2 tan(pi/2 (1 - t)).

    >>> elbo_weight(np.array([0.25, 0.5]), "linear").tolist()
    [4.0, 2.0]
    >>> elbo_weight(np.array([1 / 3, 0.5]), "cosine").round(4).tolist()  # pi/2 tan 60, pi/2 tan 45 degrees
    [2.7207, 1.5708]
    """
    return 1.0 / t if schedule == "linear" else math.pi / 2 * np.tan(math.pi / 2 * (1.0 - t))


def mdlm_mask_rate(t: Times, schedule: Schedule, epsilon: float = EPSILON) -> Times:
    """Mask rate in MDLM's form, ``1 - exp(-sigma(t))`` with ``sigma = -log(1 - (1 - epsilon) mask_rate(t))``.

    ``epsilon`` keeps the total noise sigma finite at t = 1: that share of the tokens stays readable.

    >>> mdlm_mask_rate(np.array([0.5, 1.0]), "linear", epsilon=0.1).round(4).tolist()  # 0.9 x 0.5, 0.9 x 1
    [0.45, 0.9]
    """
    sigma = -np.log1p(-(1.0 - epsilon) * mask_rate(t, schedule))
    rate: Times = -np.expm1(-sigma)
    return rate


def mdlm_weight(t: Times, schedule: Schedule, epsilon: float = EPSILON) -> Times:
    """Weight in MDLM's form, ``sigma'(t) / (exp(sigma(t)) - 1)``; equal to ``elbo_weight``, epsilon cancels.

    By hand, linear with epsilon 0.1 at t = 0.5: sigma' = 0.9 / 0.55, exp(sigma) - 1 = 0.45 / 0.55, quotient 2 = 1/t.

    >>> mdlm_weight(np.array([0.25, 0.5]), "linear", epsilon=0.1).round(6).tolist()
    [4.0, 2.0]
    """
    kept = 1.0 - (1.0 - epsilon) * mask_rate(t, schedule)
    slope = np.ones_like(t) if schedule == "linear" else math.pi / 2 * np.sin(math.pi / 2 * (1.0 - t))
    weight: Times = ((1.0 - epsilon) * slope / kept) / (1.0 / kept - 1.0)
    return weight


def draw_times(count: int, draw: Draw, rng: np.random.Generator, epsilon: float = EPSILON) -> Times:
    """One t in ``(epsilon, 1)`` for each of ``count`` sequences; each alone is uniform, so every draw is unbiased.

    ``uniform``: independent. ``stratified``: one in each of ``count`` equal strata, dealt out at random (sequences
    come sorted by length; in order, the longest would always be the most masked). MDLM's code calls a grid of this
    kind antithetic. ``antithetic``: neighbours mirror each other, t and 1 + epsilon - t.

    >>> a, b = draw_times(2, "antithetic", np.random.default_rng(0))
    >>> round(float(a + b), 6)
    1.001
    >>> s = draw_times(4, "stratified", np.random.default_rng(0), epsilon=0.0)
    >>> sorted((4 * s).astype(int).tolist())
    [0, 1, 2, 3]
    """
    if draw == "uniform":
        return rng.uniform(epsilon, 1.0, count)
    if draw == "stratified":
        unit = (rng.permutation(count) + rng.random(count)) / count
    else:
        half = rng.random((count + 1) // 2)
        unit = np.stack([half, 1.0 - half], axis=1).ravel()[:count]
    return epsilon + (1.0 - epsilon) * unit
