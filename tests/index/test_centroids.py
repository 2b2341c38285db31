from __future__ import annotations

import numpy as np
import pytest
from tests.index.vectors import embedded, unit

from diffembed.index import centroids
from diffembed.index.centroids import Nearest, train_centroids


def test_two_levels_of_centroids_are_about_as_good_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = embedded(8000, 16)
    units = unit(sample)

    def spread(made: np.ndarray) -> float:
        return float(((units[:, None] - made[None]) ** 2).sum(axis=2).min(axis=1).mean())

    flat = train_centroids(sample, 100)
    monkeypatch.setattr(centroids, "_FLAT", 16)
    levels = train_centroids(sample, 100)
    assert flat.shape == levels.shape == (100, 16)
    assert np.abs(np.linalg.norm(np.concatenate([flat, levels]), axis=1) - 1).max() < 1e-5
    assert spread(flat) < 0.85 * spread(units[:100])
    assert spread(levels) < 1.15 * spread(flat)


def test_rows_are_assigned_to_the_nearest_of_many_centroids(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(embedded(6000, 24)).astype(np.float32)
    made, asked = rows[:1000], rows[1000:]
    exact = (asked @ made.T).argmax(axis=1)
    assert (Nearest(made).of(asked) == exact).all()
    monkeypatch.setattr(centroids, "_FLAT", 16)
    found = Nearest(made).of(asked)  # in groups, of which a quarter is looked at
    assert (found == exact).mean() > 0.95
    lost = ((made[exact] - made[found]) * asked).sum(axis=1)
    assert lost.min() > -1e-6 and lost.mean() < 0.002


def test_lists_are_even_where_rows_lie_near_no_other() -> None:
    """Euclidean k-means gathers such rows in the lists of the shortest centroids, which every query then scans."""
    far = np.clip(40 * np.random.default_rng(1).standard_normal((6000, 256)), -127, 127).astype(np.int8)
    made = train_centroids(far[:1024], 64)
    sizes = np.bincount(Nearest(made).of(unit(far).astype(np.float32)), minlength=64)
    assert sizes.sum() == 6000 and sizes.max() < 2 * 6000 / 64
