"""Real vectors in every form and with every kind of codes: the engine's graph finds what exact search finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from diffembed.index.qdrant_forms import CollectionSettings
from diffembed.index.qdrant_points import number_of, point_id

if TYPE_CHECKING:  # it needs the engine
    from tests.index.qdrant_server import QdrantServer

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """The embedded model's vectors of the lines of our own documents."""
    from diffembed import Encoder
    from diffembed.doctor import BUNDLED

    if not (BUNDLED / "diffembed.json").exists():
        pytest.skip("the embedded model has not been trained yet")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((REPO / "docs").glob("*.md")))
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if 40 < len(line.strip()) < 120))[:320]
    assert len(lines) == 320
    return Encoder.load("default").encode_documents(lines, dtype="int8", dims=256).values


@pytest.mark.parametrize(
    ("form", "least", "most"),
    [
        (CollectionSettings("float16", "none"), 0.99, 1.0),
        (CollectionSettings("float16", "scalar"), 0.99, 1.0),
        (CollectionSettings("float16", "turbo4"), 0.99, 1.0),
        (CollectionSettings("float16", "binary"), 0.98, 1.0),
        (CollectionSettings("uint8", "none"), 0.97, 1.0),
        (CollectionSettings("uint8", "binary"), 0.95, 1.0),
        # The codes alone choose the ten: that this finds less shows that they are in use above.
        (CollectionSettings("float16", "binary", oversampling=1.0), 0.5, 0.97),
    ],
    ids=lambda value: (
        f"{value.vectors}-{value.quantization}-{value.factor}" if isinstance(value, CollectionSettings) else ""
    ),
)
def test_the_engine_finds_what_exact_search_finds(
    make_collection: Any, engine: QdrantServer, real: np.ndarray, form: CollectionSettings, least: float, most: float
) -> None:
    """Real vectors, with the engine's graph and codes, all of them and those that a filter lets through."""
    rows = real.astype(float)
    index = make_collection(dims=rows.shape[1], form=replace(form, filters=("rest", "odd")))
    index.add(
        {"id": n, "text": f"line {n}", "vector": vector, "metadata": {"rest": n % 3, "odd": bool(n % 2)}}
        for n, vector in enumerate(real)
    )
    engine.optimize(index.collection.name)
    info = index.collection.client.get_collection(index.collection.name)
    assert info.indexed_vectors_count == len(rows)  # a graph was built, nothing is scanned
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    true = unit[:50] @ unit.T
    row_of = {number_of(point_id(str(n), 0)): n for n in range(len(rows))}
    for where, allowed in ((None, range(len(rows))), ("rest = 1 and not odd = true", range(4, len(rows), 6))):
        kept = np.array(allowed)
        best = kept[np.argsort(-true[:, kept], axis=1, kind="stable")[:, :10]]
        numbers, cosines = index.search_vectors(real[:50], 10, where=where)
        found = np.vectorize(row_of.__getitem__)(numbers)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), best.tolist(), strict=True)])
        print(f"{form.vectors} {form.quantization} {form.factor:g} {where}: recall@10 {recall:.4f}")
        assert recall >= least
        assert where or recall <= most
        error = np.abs(np.take_along_axis(true, found, 1) - cosines).max()
        assert error < (2e-2 if form.vectors == "uint8" else 5e-4)
