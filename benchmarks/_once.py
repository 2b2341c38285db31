"""An encoder that reads every text once; the vectors of all types and widths come from the same states."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from diffembed.encoder import Encoder
from diffembed.vectors.embeddings import Embeddings, VectorDtype
from diffembed.vectors.quantize import pack_signs


class EncodedOnce:
    """Reads every text once, as float32, and makes the other types and widths from that.

    For a model trained through the tanh quantizer float32 is tanh(mean), so INT8 is its 127-fold, rounded, and the
    signs are its signs; ``check`` compares with what the encoder itself gives. Read as ``int8`` it has INT8 only.
    """

    def __init__(self, inner: Encoder, read_as: VectorDtype = "float32") -> None:
        self.inner, self.read_as = inner, read_as
        self.kept: dict[Hashable, Embeddings] = {}

    def encode_queries(
        self, texts: Sequence[str], *, dtype: VectorDtype = "int8", dims: int | None = None, **_: Any
    ) -> Embeddings:
        """As ``Encoder.encode_queries``, longer texts cut."""
        key = tuple(texts)
        if key not in self.kept:
            self.kept[key] = self.inner.encode_documents(texts, dtype=self.read_as, truncate=True)
        return self._made(self.kept[key], dtype, dims)

    encode_documents = encode_queries

    def encode_chunks(
        self, documents: Sequence[Sequence[str]], *, dtype: VectorDtype = "int8", dims: int | None = None, **_: Any
    ) -> Embeddings:
        """As ``Encoder.encode_chunks``, longer chunks cut."""
        key = tuple(map(tuple, documents))
        if key not in self.kept:
            self.kept[key] = self.inner.encode_chunks(documents, dtype=self.read_as, truncate=True)
        return self._made(self.kept[key], dtype, dims)

    def _made(self, whole: Embeddings, dtype: VectorDtype, dims: int | None) -> Embeddings:
        if dtype == self.read_as:
            return dataclasses.replace(whole, values=whole.values[:, :dims], dims=dims or whole.dims)
        return dataclasses.replace(whole, values=cut(whole.values, dtype, dims), dtype=dtype, dims=dims or whole.dims)

    def check(self, texts: Sequence[str]) -> None:
        """Raises ``AssertionError`` where the encoder's own INT8 or bits are not those made here.

        A value on the border between two integers may fall to either side: at most one in a thousand, by one.
        """
        made = self.inner.encode_documents(texts, dtype="float32", truncate=True).values
        for dtype in ("int8", "binary"):
            own = self.inner.encode_documents(texts, dtype=dtype, truncate=True).values
            different = own != cut(made, dtype, None)
            assert different.mean() < 1e-3, (
                f"{dtype} made from float32 is not the encoder's own: {different.mean():.2%}"
            )


def cut(values: np.ndarray, dtype: VectorDtype, dims: int | None) -> np.ndarray:
    """Vectors of one type and width from float32 vectors ``tanh(mean)``."""
    values = values[:, :dims]
    if dtype == "binary":
        return pack_signs(values)
    return np.rint(127 * values).astype(np.int8) if dtype == "int8" else values
