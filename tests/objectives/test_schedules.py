"""Noise schedules against numerical calculus, and what the ways of drawing t promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffembed.objectives.schedules import (
    Draw,
    Schedule,
    draw_times,
    elbo_weight,
    mask_rate,
    mdlm_mask_rate,
    mdlm_weight,
)

SCHEDULES: list[Schedule] = ["linear", "cosine"]
DRAWS: list[Draw] = ["uniform", "stratified", "antithetic"]
T = np.linspace(0.01, 0.99, 50)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_from_clean_to_masked(schedule: Schedule) -> None:
    assert mask_rate(np.array([0.0, 1.0]), schedule) == pytest.approx([0.0, 1.0], abs=1e-12)
    assert (np.diff(mask_rate(T, schedule)) > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_elbo_weight_is_the_slope_over_the_rate(schedule: Schedule) -> None:
    h = 1e-6  # -alpha'(t) is the slope of the mask rate
    slope = (mask_rate(T + h, schedule) - mask_rate(T - h, schedule)) / (2 * h)
    assert elbo_weight(T, schedule) == pytest.approx(slope / mask_rate(T, schedule), rel=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mdlms_form_from_its_total_noise(schedule: Schedule) -> None:
    epsilon, h = 0.05, 1e-6

    def sigma(t: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return -np.log(1.0 - (1.0 - epsilon) * mask_rate(t, schedule))

    slope = (sigma(T + h) - sigma(T - h)) / (2 * h)
    assert mdlm_weight(T, schedule, epsilon) == pytest.approx(slope / (np.exp(sigma(T)) - 1.0), rel=1e-6)
    assert mdlm_weight(T, schedule, epsilon) == pytest.approx(elbo_weight(T, schedule), rel=1e-9)
    assert mdlm_mask_rate(T, schedule, epsilon) == pytest.approx((1.0 - epsilon) * mask_rate(T, schedule), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("masked", "tokens"), [(1, 1), (1, 5), (3, 5), (5, 5)])
def test_the_bound_does_not_depend_on_the_schedule(schedule: Schedule, masked: int, tokens: int) -> None:
    """The expected weight of one set of masked tokens is (k - 1)! (n - k)! / n!: a beta integral, worked by hand."""
    t = (np.arange(400_000) + 0.5) / 400_000
    rate = mask_rate(t, schedule)
    expected = (elbo_weight(t, schedule) * rate**masked * (1.0 - rate) ** (tokens - masked)).mean()
    by_hand = math.factorial(masked - 1) * math.factorial(tokens - masked) / math.factorial(tokens)
    assert expected == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("count", [1, 4, 7])
def test_every_sequence_draws_a_uniform_t(draw: Draw, count: int) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_times(count, draw, rng, epsilon=0.1) for _ in range(4000)])
    assert drawn.shape == (4000, count) and drawn.min() > 0.1 and drawn.max() <= 1.0
    for column in np.sort(drawn, axis=0).T:  # Kolmogorov-Smirnov distance to U(0.1, 1); 0.032 is its 0.05 % quantile
        assert np.abs((column - 0.1) / 0.9 - (np.arange(4000) + 0.5) / 4000).max() < 0.032


def test_strata_and_mirrors() -> None:
    rng = np.random.default_rng(0)
    orders = set()
    for _ in range(50):
        strata = (8 * draw_times(8, "stratified", rng, epsilon=0.0)).astype(int)
        assert sorted(strata.tolist()) == list(range(8))
        orders.add(tuple(strata.tolist()))
        t = draw_times(7, "antithetic", rng)
        assert t[0:6:2] + t[1:6:2] == pytest.approx([1.001] * 3)
    assert len(orders) == 50, "strata are dealt out at random"


def test_strata_and_mirrors_lower_the_variance_of_a_mean() -> None:
    spread = {}
    for draw in DRAWS:
        rng = np.random.default_rng(1)
        spread[draw] = np.var([np.exp(-2 * draw_times(16, draw, rng)).mean() for _ in range(2000)])
    assert spread["stratified"] < 0.02 * spread["uniform"]
    assert spread["antithetic"] < 0.2 * spread["uniform"]


def test_the_uniform_draw_is_the_generators_own() -> None:
    ours = draw_times(5, "uniform", np.random.default_rng(3))
    assert ours.tolist() == np.random.default_rng(3).uniform(1e-3, 1.0, 5).tolist()
