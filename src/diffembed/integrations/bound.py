"""What the adapters share: an ``Encoder`` with its options bound, and its vectors as rows of floats.

Other frameworks pass vectors around as lists of floats and compare them by cosine. So int8 vectors are given as floats
of integer value (-127 to 127), and packed bits as -1 and +1 a dimension, whose cosine is the similarity that
``diffembed`` gives for the bits themselves. What they take of memory is then up to the framework.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.encoder import Encoder
from diffembed.errors import InputError, MissingExtraError
from diffembed.vectors.embeddings import Embeddings, VectorDtype
from diffembed.vectors.quantize import FloatArray, unpack_signs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BoundEncoder:
    """An encoder and how it is asked.

    Attributes:
        encoder: the loaded model.
        dtype: ``float32``, ``int8`` or ``binary``.
        dims: one of the model's widths; ``None`` for the widest.
        truncate: cut texts over the model's limit; the log says how many were.
        windows: read texts over the limit through several windows.
        progress: called with (texts encoded, texts) of each call.
    """

    encoder: Encoder
    dtype: VectorDtype = "float32"
    dims: int | None = None
    truncate: bool = False
    windows: bool = False
    progress: Callable[[int, int], None] | None = None

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.dims or self.encoder.dims[-1]

    def queries(self, texts: Sequence[str]) -> Embeddings:
        """One row a query."""
        return self._said(self.encoder.encode_queries(texts, **self._options()), "texts")

    def documents(self, texts: Sequence[str]) -> Embeddings:
        """One row a text."""
        return self._said(self.encoder.encode_documents(texts, **self._options()), "texts")

    def chunks(self, documents: Sequence[Sequence[str]]) -> Embeddings:
        """One row a chunk, each having read its whole document."""
        return self._said(self.encoder.encode_chunks(documents, **self._options()), "documents")

    def together(
        self, texts: Sequence[str], owners: Sequence[Hashable], places: Sequence[int] | None = None
    ) -> Embeddings:
        """One row a text, in the order of the texts; those with one owner are read as the chunks of one document.

        Args:
            texts: chunks of any number of documents, in any mixture.
            owners: the document of each.
            places: where each stands in its document; in the order of ``texts`` where there are none.
        """
        groups = group_rows(owners, places)
        read = self.chunks([[texts[row] for row in rows] for rows in groups])
        values = np.empty_like(read.values)
        values[[row for rows in groups for row in rows]] = read.values
        return replace(read, values=values, document_offsets=None)

    def __deepcopy__(self, memo: object) -> BoundEncoder:
        """Itself: nothing in it changes, and a loaded model is not held twice."""
        return self

    def _options(self) -> dict[str, Any]:
        form = {"dtype": self.dtype, "dims": self.dims, "truncate": self.truncate, "windows": self.windows}
        return form | {"progress": self.progress}

    def _said(self, embeddings: Embeddings, what: str) -> Embeddings:
        if embeddings.truncated:
            limit = self.encoder.max_tokens
            _log.warning("%d %s were cut to the model's %d tokens", len(embeddings.truncated), what, limit)
        return embeddings


def bind(
    model: str | Path | Encoder,
    *,
    dtype: VectorDtype,
    dims: int | None,
    truncate: bool,
    windows: bool,
    **load: Any,
) -> BoundEncoder:
    """A model, by name or loaded already, with its options; ``load`` goes to ``Encoder.load``."""
    encoder = model if isinstance(model, Encoder) else Encoder.load(model, **load)
    return BoundEncoder(encoder, dtype, dims, truncate, windows)


def missing_extra(extra: str, needs: str, error: ImportError) -> MissingExtraError:
    """The error of an adapter whose framework is not there, or too old to have what the adapter imports."""
    command = f"pip install 'diffembed[{extra}]'"
    return MissingExtraError(f"diffembed.integrations.{extra} needs {needs} ({error}); add it with: {command}")


def group_rows(owners: Sequence[Hashable], places: Sequence[int] | None = None) -> list[list[int]]:
    """Row numbers of each owner, owners by their first row, rows of one owner by place.

    >>> group_rows(["b", "a", "b"]), group_rows(["b", "a", "b"], [7, 0, 3])
    ([[0, 2], [1]], [[2, 0], [1]])
    """
    groups: dict[Hashable, list[int]] = {}
    for row, owner in enumerate(owners):
        groups.setdefault(owner, []).append(row)
    if places is None:
        return list(groups.values())
    return [sorted(rows, key=lambda row: places[row]) for rows in groups.values()]


def owner_of(metadata: dict[str, Any], key: str, number: int) -> Hashable:
    """The document that a chunk says it belongs to.

    Raises:
        InputError: it does not say so: read alone it would have a vector of another kind, and nobody would notice.
    """
    owner = metadata.get(key)
    if owner is None:
        raise InputError(
            f"chunk {number} has no metadata {key!r}, so which document it belongs to is not known; name the key "
            f"that says so (this one has {', '.join(map(repr, metadata)) or 'none'}), or embed the chunks singly"
        )
    return str(owner)


def as_floats(embeddings: Embeddings) -> FloatArray:
    """``[rows, dims]`` float32: floats as they are, int8 as numbers, bits as -1 and +1.

    >>> as_floats(Embeddings(np.array([[3, -127]], np.int8), "int8", 2)).tolist()
    [[3.0, -127.0]]
    >>> as_floats(Embeddings(np.array([[9]], np.uint8), "binary", 8)).tolist()
    [[1.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0]]
    """
    bits = embeddings.dtype == "binary"
    values = unpack_signs(embeddings.values, embeddings.dims) if bits else embeddings.values
    return values.astype(np.float32, copy=False)


def as_lists(embeddings: Embeddings) -> list[list[float]]:
    """:func:`as_floats` as lists, which most frameworks ask for."""
    rows: list[list[float]] = as_floats(embeddings).tolist()
    return rows
