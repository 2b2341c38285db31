"""INT8 vectors as a collection keeps them: cosines survive, and sizes are what they add up to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffembed.errors import InputError
from diffembed.index.qdrant_forms import (
    CollectionSettings,
    VectorForm,
    cosine_of,
    size_of,
    stored,
)


def rows(count: int, dims: int, seed: int = 0) -> np.ndarray:
    """Vectors whose lengths differ from row to row, as those of real texts do."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(6, 24, (count, 1))
    return np.clip(np.rint(rng.normal(3, spread, (count, dims))), -127, 127).astype(np.int8)


def cosines(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    query, vectors = query.astype(float), vectors.astype(float)
    return vectors @ query / np.linalg.norm(query) / np.linalg.norm(vectors, axis=1)


def engine_scores(query: np.ndarray, vectors: np.ndarray, form: VectorForm) -> np.ndarray:
    """What Qdrant computes from what it keeps."""
    query_D, kept = stored(query[None, :], form)[0], stored(vectors, form)
    if form == "uint8":
        assert kept.min() >= 0
        assert kept.max() <= 255
        assert (kept == kept.astype(np.uint8)).all()
        return np.linalg.norm(kept - query_D, axis=1)
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    kept = (kept / np.where(lengths > 0, lengths, 1)).astype(np.float16).astype(np.float32)
    return kept @ (query_D / np.linalg.norm(query_D))


@pytest.mark.parametrize(("form", "error"), [("float16", 5e-4), ("uint8", 2e-2)])
def test_cosines_are_those_of_the_integers(form: VectorForm, error: float) -> None:
    vectors = rows(2000, 384)
    for query in vectors[:20]:
        true = cosines(query, vectors)
        told = np.array([cosine_of(float(s), form, 384) for s in engine_scores(query, vectors, form)])
        assert np.abs(told - true).max() < error
        best = set(np.argsort(-true)[:10].tolist())
        assert len(best & set(np.argsort(-told)[:10].tolist())) >= 9


def test_a_plain_shift_would_not_do() -> None:
    """The mapping that suggests itself: exact, and useless for cosines where lengths differ."""
    vectors = rows(2000, 384)
    shifted = vectors.astype(float) + 128
    found = 0
    for query in vectors[:20]:
        best = set(np.argsort(-cosines(query, vectors))[:10].tolist())
        near = np.linalg.norm(shifted - (query.astype(float) + 128), axis=1)
        found += len(best & set(np.argsort(near)[:10].tolist()))
    assert found < 20 * 10 * 0.7


def test_a_vector_of_zeros_is_far_from_all_others() -> None:
    vectors = rows(200, 384)
    vectors[0] = 0
    for form in ("float16", "uint8"):
        told = [cosine_of(float(s), form, 384) for s in engine_scores(vectors[1], vectors, form)]  # type: ignore[arg-type]
        assert abs(told[0]) < 0.2
        assert told[1] == pytest.approx(1, abs=1e-3)


def test_sizes_add_up() -> None:
    plain = size_of(1_000_000, 512, CollectionSettings(quantization="none", on_disk=False))
    coded = size_of(1_000_000, 512, CollectionSettings(quantization="binary"))
    twice = size_of(1_000_000, 512, CollectionSettings(quantization="binary", replicas=2))
    assert plain.memory - coded.memory == pytest.approx(1_000_000 * (1024 - 64))
    assert (twice.memory, twice.disk) == (2 * coded.memory, 2 * coded.disk)
    half = size_of(1_000_000, 512, CollectionSettings(vectors="uint8", quantization="binary"))
    assert coded.disk - half.disk == pytest.approx(1.3 * 1_000_000 * 512)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"vectors": "int8"}, "float16, uint8"),
        ({"quantization": "product"}, "scalar, turbo4, binary, none"),
        ({"oversampling": 0.5}, "1 to 1,000"),
        ({"replicas": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CollectionSettings(**wrong)  # type: ignore[arg-type]


def test_the_tables_of_the_document_are_what_the_function_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    tables = [block for block in text.split("\n\n") if block.startswith("| vectors | codes | 256 dims")]
    assert len(tables) == 2
    for table, replicas in zip(tables, (1, 2), strict=True):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
        assert len(lines) == 7
        for vectors, quantization, *cells in lines:
            for cell, dims in zip(cells, (256, 512, 1024), strict=True):
                settings = CollectionSettings(vectors, quantization, replicas=replicas)  # type: ignore[arg-type]
                size = size_of(100_000_000, dims, settings)
                sizes = f"{size.memory / 1e9:.0f} / {size.disk / 1e9:.0f}"
                cost = f"{4 * size.memory / 1e9 + 0.1 * size.disk / 1e9:,.0f}"
                assert cell == (sizes if replicas == 1 else cost)
