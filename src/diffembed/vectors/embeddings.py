"""``Embeddings``: the vectors of one call, with what is needed to read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

VectorDtype = Literal["float32", "int8", "binary"]
VECTOR_DTYPES: tuple[str, ...] = get_args(VectorDtype)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in input order.

    Attributes:
        values: ``[rows, dims]`` float32 or int8; ``[rows, dims / 8]`` uint8 for binary (least significant bit first).
        dtype: ``"float32"``, ``"int8"`` or ``"binary"``.
        dims: width in dimensions, also for packed bits.
        tokens: how many tokens the model read.
        truncated: positions of the inputs (texts, or documents for chunks) that were cut to the model's limit.
        document_offsets: ``[documents + 1]`` row numbers when the rows are chunks: document ``i`` owns rows
            ``document_offsets[i]:document_offsets[i + 1]``; ``None`` when each input gave one row.

    ``numpy.asarray(embeddings)`` gives ``values``.

    >>> e = Embeddings(np.zeros((3, 4), np.float32), "float32", 4, 9, (), np.array([0, 2, 3]))
    >>> len(e), [d.shape for d in e.documents()]
    (3, [(2, 4), (1, 4)])
    """

    values: npt.NDArray[Any]
    dtype: VectorDtype
    dims: int
    tokens: int = 0
    truncated: tuple[int, ...] = ()
    document_offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return iter(self.values)

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        return self.values[rows]  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def documents(self) -> list[npt.NDArray[Any]]:
        """One array of chunk vectors a document (or of one row a text where no chunks were given)."""
        if self.document_offsets is None:
            return [row[None, :] for row in self.values]
        offsets = self.document_offsets
        return [self.values[offsets[i] : offsets[i + 1]] for i in range(len(offsets) - 1)]
