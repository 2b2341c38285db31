"""Vectors of few degrees of freedom in a wide space, as embeddings are: their neighbours are not trivial."""

from __future__ import annotations

import numpy as np

from diffembed.index.segments import IdArray, Int8Rows


def embedded(count: int, dims: int, seed: int = 0) -> Int8Rows:
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((count, min(20, dims)))
    points = latent @ np.random.default_rng(99).standard_normal((latent.shape[1], dims)) / 4
    return np.rint(127 * np.tanh(points + 0.1 * rng.standard_normal(points.shape))).astype(np.int8)


def unit(rows: Int8Rows) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


def oracle(rows: Int8Rows, queries: Int8Rows, top: int, ids: IdArray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Exact search in a few lines of numpy: ``[Q, top]`` ids and cosines, equal cosines by id."""
    ids = np.arange(len(rows)) if ids is None else ids
    dots = queries.astype(np.int64) @ rows.astype(np.int64).T
    lengths = [np.sqrt((x.astype(np.int64) ** 2).sum(axis=1)) for x in (queries, rows)]
    cosines = dots / np.maximum(np.outer(*lengths), 1e-300)
    order = [np.lexsort((ids, -line))[:top] for line in cosines.round(12)]
    found = np.full((len(queries), top), -1)
    scores = np.full((len(queries), top), -np.inf)
    for number, places in enumerate(order):
        found[number, : len(places)], scores[number, : len(places)] = ids[places], cosines[number, places]
    return found, scores
