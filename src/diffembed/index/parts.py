"""From what the catalog lists to open files: segments, which of their rows are live, coarse indexes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffembed.index.blocks import damaged
from diffembed.index.catalog import Catalog
from diffembed.index.coarse import SUFFIX, Coarse
from diffembed.index.scan import Part, Sealed, Snapshot
from diffembed.index.schema import Settings, StoredSegment
from diffembed.index.segments import IdArray, Segment, open_segment
from diffembed.index.tuning import Tuning

SEGMENTS = "segments"


def open_listed(folder: Path, listed: StoredSegment, dims: int) -> Segment:
    """The file of a segment that the catalog lists."""
    return open_segment(folder / SEGMENTS / listed.name, rows=listed.rows, dims=dims)


def open_sealed(folder: Path, listed: StoredSegment, dims: int) -> Sealed | None:
    """The coarse index of a segment that the catalog lists, if it has one."""
    tuning = Tuning.from_json(listed.tuning)
    if tuning is None:
        return None
    return Sealed(Coarse(folder / SEGMENTS / (listed.name + SUFFIX), rows=listed.rows, dims=dims), tuning)


def live_mask(segment: Segment, dead_ids: IdArray) -> npt.NDArray[np.bool_] | None:
    """Which rows of a segment are live, given those that were deleted of it; ``None`` if all are.

    Raises:
        IndexStoreError: one of them does not stand in the segment.
    """
    if not len(dead_ids):
        return None
    places = segment.places_of(dead_ids)
    if len(places) != len(dead_ids):
        raise damaged(segment.path, "lacks rows that were deleted of it")
    live = np.ones(len(segment), np.bool_)
    live[places] = False
    return live


def open_snapshot(folder: Path, catalog: Catalog, settings: Settings, before: Snapshot | None = None) -> Snapshot:
    """The state that the catalog describes now.

    Args:
        folder: of the index.
        catalog: within one read transaction.
        settings: of the index.
        before: an earlier state, whose open files are used again.
    """
    opened: Mapping[str, Part] = {part.segment.path.name: part for part in before.parts} if before else {}
    parts = []
    for listed in catalog.segments():
        known = opened.get(listed.name)
        segment = known.segment if known else open_listed(folder, listed, settings.dims)
        # a segment may be sealed as it stands or tuned anew, so what is known of a coarse index is compared
        tuning = Tuning.from_json(listed.tuning)
        sealed = known.sealed if known else None
        if sealed is None or tuning is None:
            sealed = open_sealed(folder, listed, settings.dims)
        elif sealed.tuning != tuning:
            sealed = Sealed(sealed.coarse, tuning)
        parts.append(Part(segment, live_mask(segment, catalog.deleted(listed.id)), sealed))
    return Snapshot(parts)
