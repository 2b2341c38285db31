"""The centroids of a coarse index: unit vectors, found by spherical k-means, and the nearest one of a row.

Unit vectors, because the mean of many rows is short, and by Euclidean distance a short centroid is the nearest of
every row that lies near none: a few lists would gather a third of all rows, and each query would scan them. Many
centroids are trained, and rows assigned to them, in two levels, which takes a fraction of the time.
"""

from __future__ import annotations

import math

import numpy as np

from diffembed.index.segments import FloatArray, IdArray, Int8Rows, unit_rows

SEED = 20261122
_FLAT = 1024  # more centroids than this are trained and searched in two levels
_ROUNDS = 10
_POINTS = 256  # rows a centroid that k-means looks at, at most
_AT_ONCE = 1 << 14
_TRIED = 16  # groups of centroids that are searched for a row: the nearest centroid is found for 99 rows in 100


def train_centroids(sample_ND: Int8Rows, count: int) -> FloatArray:
    """``[count, D]`` centroids of length 1, or as many as the sample has rows.

    The first of two levels has about sqrt(count) clusters; each is divided into as many as its share of the sample.

    Args:
        sample_ND: in random order.
    """
    if count <= _FLAT:
        return _kmeans(unit_rows(sample_ND[: count * _POINTS]), count)
    tops = round(math.sqrt(count))
    top = _kmeans(unit_rows(sample_ND[: tops * _POINTS]), tops)
    steps = range(0, len(sample_ND), _AT_ONCE)
    owner = np.concatenate([(unit_rows(sample_ND[at : at + _AT_ONCE]) @ top.T).argmax(axis=1) for at in steps])
    sizes = np.bincount(owner, minlength=tops)
    order, ends = np.argsort(owner, kind="stable"), np.cumsum(sizes)
    below = [
        _kmeans(unit_rows(sample_ND[order[end - size : end]]), share)
        for end, size, share in zip(ends.tolist(), sizes.tolist(), _shares(sizes, count).tolist(), strict=True)
        if share
    ]
    return np.concatenate(below)


class Nearest:
    """Finds the nearest centroid of rows; of many centroids, in the groups whose middles are nearest.

    Args:
        centroids_CD: of length 1.
    """

    def __init__(self, centroids_CD: FloatArray) -> None:
        groups = 1 if len(centroids_CD) <= _FLAT else 2 * round(math.sqrt(len(centroids_CD)))
        self._middles = _kmeans(centroids_CD, groups)
        owner = (centroids_CD @ self._middles.T).argmax(axis=1)
        self._members = [np.flatnonzero(owner == group) for group in range(groups)]
        self._centroids = [centroids_CD[members] for members in self._members]

    def of(self, units_ND: FloatArray) -> IdArray:
        """``[N]`` number of the centroid with the highest cosine.

        >>> Nearest(np.eye(3, dtype=np.float32)).of(np.array([[0.1, 0.9, 0], [1, 0, 0.2]], np.float32)).tolist()
        [1, 0]
        """
        tried = min(_TRIED, len(self._middles))
        near = np.argpartition(units_ND @ -self._middles.T, tried - 1, axis=1)[:, :tried].ravel()
        order = np.argsort(near, kind="stable")
        ends = np.searchsorted(near[order], np.arange(len(self._middles) + 1))
        most = np.full(len(units_ND), -np.inf, np.float32)
        found = np.zeros(len(units_ND), np.int64)
        for group, members in enumerate(self._members):
            rows = order[ends[group] : ends[group + 1]] // tried
            if not len(rows) or not len(members):
                continue
            cosines = units_ND[rows] @ self._centroids[group].T
            best = cosines.argmax(axis=1)
            value = cosines[np.arange(len(rows)), best]
            better = value > most[rows]
            most[rows[better]], found[rows[better]] = value[better], members[best[better]]
        return found


def _kmeans(rows: FloatArray, count: int) -> FloatArray:
    import faiss

    if count >= len(rows):
        return rows.copy()
    rounds = {"niter": _ROUNDS, "seed": SEED, "min_points_per_centroid": 1, "max_points_per_centroid": _POINTS}
    trainer = faiss.Kmeans(rows.shape[1], count, spherical=True, **rounds)
    trainer.train(rows)
    centroids: FloatArray = trainer.centroids
    return centroids


def _shares(sizes: IdArray, count: int) -> IdArray:
    """``count`` in shares by size, none larger than its size.

    >>> _shares(np.array([60, 0, 30, 10]), 10).tolist()
    [6, 0, 3, 1]
    """
    exact = sizes * (count / sizes.sum())
    shares = np.floor(exact).astype(np.int64)
    for most in np.argsort(shares - exact, kind="stable")[: count - shares.sum()]:
        shares[most] += 1
    return np.asarray(np.minimum(shares, sizes) if count > sizes.sum() else shares, np.int64)
