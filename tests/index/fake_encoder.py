"""A small deterministic stand-in for ``Encoder``: hashed bags of words, so that texts sharing words are close."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence

import numpy as np

from diffembed.vectors.embeddings import Embeddings, VectorDtype

Progress = Callable[[int, int], None]
_WORD = re.compile(r"\w+|[^\w\s]")


class FakeEncoder:
    """Counts calls and texts, so that tests can see what was encoded again and what was not."""

    def __init__(self, *, dims: int = 64, contextual: bool = False, name: str = "fake", delay: float = 0.0) -> None:
        self.model_id = name
        self.fingerprint = hashlib.sha256(f"{name} {dims} {contextual}".encode()).hexdigest()
        self.dims = (dims // 2, dims)
        self.max_tokens = 512
        self.contextual = contextual
        self.delay = delay
        self.encoded: list[str] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(_WORD.findall(text)) for text in texts]

    def _vector(self, text: str) -> np.ndarray:
        vector = np.zeros(self.dims[-1], np.float64)
        for word in _WORD.findall(text.lower()):
            seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            vector += np.random.Generator(np.random.PCG64(seed)).standard_normal(self.dims[-1])
        return vector

    def _embeddings(
        self, vectors: list[np.ndarray], dtype: VectorDtype, offsets: np.ndarray | None = None
    ) -> Embeddings:
        assert dtype == "int8"
        values = np.rint(127 * np.tanh(np.array(vectors) / 6)).astype(np.int8).reshape(-1, self.dims[-1])
        return Embeddings(values, "int8", self.dims[-1], 0, (), offsets)

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        assert all(text.strip() for text in texts)
        self.encoded += texts
        vectors = []
        for number, text in enumerate(texts, start=1):
            vectors.append(self._vector(text))
            if self.delay:
                time.sleep(self.delay)
            if progress is not None:
                progress(number, len(texts))
        return self._embeddings(vectors, dtype)

    def encode_queries(
        self, texts: Sequence[str], *, dtype: VectorDtype = "float32", truncate: bool = False
    ) -> Embeddings:
        return self._embeddings([self._vector(text) for text in texts], dtype)

    def encode_chunks(
        self,
        documents: Sequence[Sequence[str]],
        *,
        dtype: VectorDtype = "float32",
        truncate: bool = False,
        windows: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        assert all(chunks and all(chunk.strip() for chunk in chunks) for chunks in documents)
        self.encoded += [chunk for chunks in documents for chunk in chunks]
        # every chunk has read its document: a little of the mean is in each vector
        vectors = []
        for chunks in documents:
            own = [self._vector(chunk) for chunk in chunks]
            vectors += [vector + 0.2 * np.mean(own, axis=0) for vector in own]
        offsets = np.cumsum([0, *(len(chunks) for chunks in documents)]).astype(np.int64)
        return self._embeddings(vectors, dtype, offsets)
