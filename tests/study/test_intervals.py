"""The crossed bootstrap against loops, and against what is known of its limits."""

from __future__ import annotations

import numpy as np
import pytest

from diffembed.study.intervals import crossed_interval


def test_it_is_the_mean_over_drawn_seeds_and_queries() -> None:
    rng = np.random.default_rng(5)
    tables = [rng.random((3, 7)), rng.random((3, 4))]
    found = crossed_interval(tables, draws=20_000)
    values = []
    for _ in range(20_000):
        seeds = rng.integers(0, 3, 3)
        drawn = [t[np.ix_(seeds, rng.integers(0, t.shape[1], t.shape[1]))].mean() for t in tables]
        values.append(np.mean(drawn))
    low, high = np.quantile(values, [0.025, 0.975])
    assert found.mean == pytest.approx(np.mean([t.mean() for t in tables]))
    assert found.low == pytest.approx(low, abs=0.01) and found.high == pytest.approx(high, abs=0.01)


def test_seeds_that_agree_leave_the_queries_and_the_other_way_round() -> None:
    queries = np.random.default_rng(0).random(50)
    alike = crossed_interval([np.tile(queries, (3, 1))], draws=4000)
    half = 1.96 * queries.std() / np.sqrt(50)
    assert alike.high - alike.low == pytest.approx(2 * half, rel=0.1)
    level = crossed_interval([np.array([[0.1], [0.2], [0.6]]).repeat(50, axis=1)], draws=4000)
    assert (level.low, level.high) == (pytest.approx(0.1), pytest.approx(0.6)), "three seeds, drawn with replacement"
    one = crossed_interval([queries[None]], draws=4000)
    assert one.low == pytest.approx(alike.low, abs=0.01)


def test_a_difference_of_a_model_to_itself_is_nothing() -> None:
    table = np.random.default_rng(0).random((2, 9))
    found = crossed_interval([table - table], draws=100)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
