"""An encoder that anyone can follow: a vector counts a text's words, and of a chunk in context its document's too."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from diffembed.evaluation.baselines import words
from diffembed.vectors.embeddings import Embeddings, EncodeOptions

WIDTH = 1024  # wide enough that the few words of the tests do not collide


def counts(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.zeros(WIDTH, np.float32)
    for word in words(text):
        vector[zlib.crc32(word.encode()) % WIDTH] += 1
    return vector


class WordEncoder:
    """Notes what it was asked to encode."""

    model_id = "words"
    fingerprint = "words-1"
    dims = (WIDTH,)
    max_tokens = 1000

    def __init__(self, contextual: bool = False) -> None:
        self.contextual = contextual
        self.asked: list[tuple[str, list[Any]]] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(words(text)) for text in texts]

    def _embed(self, texts: Sequence[str]) -> Embeddings:
        assert all(text.strip() for text in texts), "an empty text was given to the encoder"
        values = np.array([counts(text) for text in texts], np.float32).reshape(-1, WIDTH)
        return Embeddings(values, "float32", WIDTH, sum(self.count_tokens(texts)), ())

    def encode_queries(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        self.asked.append(("queries", list(texts)))
        return self._embed(texts)

    def encode_documents(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        self.asked.append(("documents", list(texts)))
        return self._embed(texts)

    def encode_chunks(self, documents: Sequence[Sequence[str]], **options: Unpack[EncodeOptions]) -> Embeddings:
        self.asked.append(("chunks", [list(document) for document in documents]))
        alone = self._embed([chunk for document in documents for chunk in document])
        whole = np.repeat([counts(" ".join(d)) for d in documents], [len(d) for d in documents], axis=0)
        offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
        return Embeddings(alone.values + 0.5 * whole, "float32", WIDTH, alone.tokens, (), offsets)
