"""Similarity of every dtype against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

from diffembed.errors import InputError
from diffembed.vectors import similarity as module
from diffembed.vectors.embeddings import Embeddings
from diffembed.vectors.quantize import pack_signs, tanh_int8, unpack_signs
from diffembed.vectors.similarity import cosine, hamming, similarity

RNG = np.random.default_rng(1)
LEFT, RIGHT = RNG.normal(size=(5, 32)).astype(np.float32), RNG.normal(size=(7, 32)).astype(np.float32)


@pytest.mark.parametrize("form", [lambda x: x, tanh_int8])
def test_cosine(form) -> None:  # type: ignore[no-untyped-def]
    a, b = form(LEFT), form(RIGHT)
    expected = [
        [float(x @ y) / float(np.linalg.norm(x) * np.linalg.norm(y)) for y in b.astype(float)] for x in a.astype(float)
    ]
    assert np.allclose(cosine(a, b), expected, atol=1e-6)


def test_int8_is_not_normalised_by_127() -> None:
    short, long = np.array([[1, 1]], np.int8), np.array([[127, 127]], np.int8)
    assert cosine(short, long)[0, 0] == pytest.approx(1.0)


def test_int8_orders_as_its_dequantized_form() -> None:
    int8 = tanh_int8(RNG.normal(size=(300, 64)).astype(np.float32))
    stored, floats = cosine(int8[:20], int8[20:]), cosine(*np.split(int8.astype(np.float32) / np.float32(127), [20]))
    assert np.abs(stored - floats).max() < 1e-6
    apart = np.diff(np.sort(stored, axis=1), axis=1).min(axis=1) > 1e-6  # no two too close to tell
    assert apart.sum() > 5
    assert np.array_equal(np.argsort(-stored[apart], axis=1), np.argsort(-floats[apart], axis=1))


def test_hamming_and_binary_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 40)  # several blocks
    a, b = pack_signs(LEFT), pack_signs(RIGHT)
    expected = [[int(((x >= 0) != (y >= 0)).sum()) for y in RIGHT] for x in LEFT]
    assert hamming(a, b).tolist() == expected
    signs = cosine(unpack_signs(a, 32), unpack_signs(b, 32))
    assert np.allclose(similarity(Embeddings(a, "binary", 32), Embeddings(b, "binary", 32)), signs, atol=1e-6)


def test_unlike_vectors_are_refused() -> None:
    with pytest.raises(InputError, match="same dtype or the right side as binary"):
        similarity(Embeddings(pack_signs(LEFT), "binary", 32), Embeddings(RIGHT, "float32", 32))
    with pytest.raises(InputError, match="with the same dims"):
        similarity(Embeddings(LEFT, "float32", 32), Embeddings(pack_signs(RIGHT[:, :16]), "binary", 16))
    with pytest.raises(InputError, match="32 wide with rows 16 wide"):
        cosine(LEFT, RIGHT[:, :16])
