"""A stand-in for ``Encoder`` in tests of chunking: any tokenizer, and vectors that are bags of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.vectors.embeddings import Embeddings, VectorDtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class FakeReader:
    """Counts what it is asked to read.

    Args:
        tokenizer: any.
        around: tokens that the model puts around every text.
    """

    model_id = "fake"

    def __init__(self, tokenizer: Tokenizer, *, around: int = 0, max_tokens: int = 512) -> None:
        self.tokenizer = tokenizer
        self.around = around
        self.max_tokens = max_tokens
        self.read: list[list[str]] = []
        self.longest = 0  # characters of a text that was tokenized

    def _encodings(self, texts: Sequence[str]) -> list[Any]:
        self.longest = max([self.longest, *map(len, texts)])
        return self.tokenizer.encode_batch(list(texts), add_special_tokens=False)  # type: ignore[no-any-return]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) + self.around for encoding in self._encodings(texts)]

    def token_spans(self, texts: Sequence[str]) -> list[Any]:
        return [np.array(encoding.offsets, np.int64).reshape(-1, 2) for encoding in self._encodings(texts)]

    def encode_chunks(
        self, documents: Sequence[Sequence[str]], *, dtype: VectorDtype = "float32", windows: bool = False
    ) -> Embeddings:
        assert all(chunks and all(chunk.strip() for chunk in chunks) for chunks in documents)
        self.read += [list(chunks) for chunks in documents]
        vectors = np.zeros((sum(map(len, documents)), 64), np.int16)
        for row, encoding in enumerate(self._encodings([chunk for chunks in documents for chunk in chunks])):
            assert encoding.ids
            assert windows or len(encoding.ids) + self.around <= self.max_tokens
            np.add.at(vectors[row], np.array(encoding.ids) * 2654435761 % 64, 1)
        offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
        return Embeddings(np.clip(vectors, -127, 127).astype(np.int8), dtype, 64, 0, (), offsets)
