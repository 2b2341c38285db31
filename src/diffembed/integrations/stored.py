"""What the stores of other frameworks share: their texts as records of an index, one chunk each, and filters.

Frameworks cut texts themselves and hand over pieces, each with an id of its own. So a piece is a record of one chunk;
pieces of one source can still be read together, which is what a contextual model was trained for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.index import Hit, Index
from diffembed.index.catalog import Catalog
from diffembed.index.encoding import TextEncoder
from diffembed.index.protocol import SearchIndex
from diffembed.integrations.bound import group_rows, owner_of

_log = logging.getLogger(__name__)

ALL: dict[str, Any] = {"key": {"prefix": ""}}
"""A filter that lets everything through."""


def opened_index(index: SearchIndex | str | Path, model: str | Encoder | None = None) -> SearchIndex:
    """An index as it was given; of a folder the index in it, which is made if it is not there.

    Args:
        index: an ``Index``, a ``QdrantIndex``, or a folder.
        model: of a new index; ``None`` for ``default``. One that is there keeps to its own.

    Raises:
        InputError: an index of vectors only, or a folder that holds something else.
        IndexStoreError: the index there was made by another model.
    """
    opened: SearchIndex
    if not isinstance(index, str | Path):
        opened = index
    elif Catalog.exists(Path(index)):
        opened = Index.open(index)
    else:
        opened = Index.create(index, model=model or "default")
    if opened.settings.vectors_only:
        raise InputError("the index holds vectors only, no texts; give one that was made for records")
    return opened


def write_pieces(
    index: SearchIndex,
    ids: Sequence[str | None] | None,
    texts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    vectors: Sequence[npt.ArrayLike | None] | None = None,
    source: str | None = None,
) -> list[str]:
    """Store pieces of text, in the place of those with the same ids.

    Args:
        index: to write to.
        ids: of the pieces; one is drawn where there is none.
        texts: the pieces.
        metadata: of each.
        vectors: made elsewhere by the model of the index; where there is none the index makes it.
        source: the key of the metadata that says which document a piece is from: the pieces of one document in this
            call are read together, in the order given. ``None`` reads each alone.

    Returns:
        The ids.
    """
    given = [None] * len(texts) if ids is None else list(ids)
    if len(given) != len(texts) or len(metadata) != len(texts):
        raise InputError(f"{len(texts)} texts came with {len(given)} ids and {len(metadata)} metadata; give one each")
    keys = [str(uuid4()) if key is None else key for key in given]
    rows: Sequence[npt.ArrayLike | None] = vectors if vectors is not None else [None] * len(texts)
    if source is not None:
        rows = _read_together(index.encoder, texts, [owner_of(dict(m), source, n) for n, m in enumerate(metadata)])
    records = (
        {"id": key, "chunks": [text], "metadata": told, **({} if row is None else {"vector": row})}
        for key, text, told, row in zip(keys, texts, metadata, rows, strict=True)
    )
    report = index.upsert(records)
    if report.truncated:
        _log.warning("%d texts were cut to the model's %d tokens", len(report.truncated), index.encoder.max_tokens)
    return keys


def _read_together(encoder: TextEncoder, texts: Sequence[str], owners: Sequence[Any]) -> Sequence[npt.ArrayLike]:
    groups = group_rows(owners)
    read = encoder.encode_chunks([[texts[row] for row in rows] for rows in groups], dtype="int8", truncate=True)
    if read.truncated:
        _log.warning("%d documents were cut to the model's %d tokens", len(read.truncated), encoder.max_tokens)
    rows_ND = np.empty_like(read.values)
    rows_ND[[row for rows in groups for row in rows]] = read.values
    return list(rows_ND)


def metadata_of(hit: Hit) -> dict[str, Any]:
    """The metadata of a hit; of a file with its path and lines, which frameworks show as the source."""
    if hit.path is None:
        return dict(hit.metadata)
    return {"source": str(hit.path), "line_start": hit.line_start, "line_end": hit.line_end, **hit.metadata}


def both(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any] | None:
    """Both of two filters, either of which may be missing."""
    given = [where for where in (first, second) if where is not None]
    return {"and": given} if len(given) == 2 else given[0] if given else None


def exists(field: str) -> dict[str, Any]:
    """A filter for documents that have a field, other than null.

    >>> exists("year")["or"][1]
    {'year': {'gte': -1.7976931348623157e+308}}
    """
    lowest = float(np.finfo(np.float64).min)
    return {"or": [{field: {"prefix": ""}}, {field: {"gte": lowest}}, {field: {"in": [True, False]}}]}
