"""``Embeddings``: the vectors of one call, with what is needed to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt

VectorDtype = Literal["float32", "int8", "binary"]
VECTOR_DTYPES: tuple[str, ...] = get_args(VectorDtype)


class EncodeOptions(TypedDict, total=False):
    """What every ``encode_*`` method takes beside its texts, as of ``Encoder``; what is left out is its default."""

    dtype: VectorDtype
    dims: int | None
    truncate: bool
    progress: Callable[[int, int], None] | None


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
        windowed: positions of the inputs that were longer than the model's limit and read through several windows.

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
    windowed: tuple[int, ...] = ()

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


@dataclass(frozen=True, slots=True)
class TokenEmbeddings:
    """A vector of every token of some texts, in order.

    Attributes:
        values: ``[tokens, dims]``, in the form of ``Embeddings.values``.
        dtype, dims: as in ``Embeddings``.
        offsets: ``[texts + 1]``; text ``i`` owns rows ``offsets[i]:offsets[i + 1]``.
        characters: ``[tokens, 2]`` start and end of each token in its text.
        tokens: how many tokens the model read, those around the texts included.
        truncated: positions of the texts that were cut to the model's limit.

    >>> e = TokenEmbeddings(np.zeros((3, 4), np.float32), "float32", 4, np.array([0, 2, 3]), np.zeros((3, 2), np.int64))
    >>> len(e), [t.shape for t in e.texts()]
    (3, [(2, 4), (1, 4)])
    """

    values: npt.NDArray[Any]
    dtype: VectorDtype
    dims: int
    offsets: npt.NDArray[np.int64]
    characters: npt.NDArray[np.int64]
    tokens: int = 0
    truncated: tuple[int, ...] = ()

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def texts(self) -> list[npt.NDArray[Any]]:
        """One array of token vectors a text."""
        return [self.values[self.offsets[i] : self.offsets[i + 1]] for i in range(len(self.offsets) - 1)]
