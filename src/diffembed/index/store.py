"""The writing side of an index folder: batches in, deletions, merging of small segments, removal of orphans.

One ``Store`` is open at a time (writer lock). Each method is one commit: the segment file first, durable under its
final name, then one SQLite transaction. Whatever moment the process dies at, the index is as before or as after.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from diffembed.errors import IndexStoreError, InputError
from diffembed.index.catalog import CATALOG_NAME, Catalog, NewDocument, Settings, StoredSegment
from diffembed.index.segments import Int8Rows, Segment, open_segment, write_segment
from diffembed.index.storage import LOCK_NAME, fsync_folder, writer_lock, writer_lock_if_free

SEGMENTS = "segments"
MERGE_ABOVE_SEGMENTS = 16
MERGE_ROWS = 65_536
"""Segments with fewer live rows than this are merged once there are more than ``MERGE_ABOVE_SEGMENTS`` of them ..."""
MERGED_ROWS = 262_144
"""... into segments of up to this many rows."""
_DEAD_SHARE = 0.25  # a segment with more dead rows than this is rewritten without them


class Store:
    """An index folder open for writing."""

    def __init__(self, folder: Path, catalog: Catalog, settings: Settings) -> None:
        self.folder = folder
        self.catalog = catalog
        self.settings = settings

    def add(self, documents: Sequence[NewDocument], rows_ND: Int8Rows) -> None:
        """Store documents with the vectors of their chunks, in order; older documents of the same paths go."""
        first = self.catalog.next_chunk_id()
        name = self._write_segment(np.arange(first, first + len(rows_ND), dtype=np.int64), rows_ND)
        try:
            with self.catalog.writing():
                self.catalog.add_segment(name, len(rows_ND))
                self.catalog.add_documents(documents, first)
        except BaseException:
            (self.folder / SEGMENTS / name).unlink(missing_ok=True)
            raise

    def merge_small(self) -> None:
        """Join small segments and drop dead rows, where it is worth the writing."""
        stored = self.catalog.segments()
        dead = np.array(self.catalog.deleted(), np.int64)
        opened = [open_listed(self.folder, s, self.settings.dims) for s in stored]
        masks = [live_mask(segment, dead) for segment in opened]
        lives = [len(s) if mask is None else int(mask.sum()) for s, mask in zip(opened, masks, strict=True)]
        small = [i for i, live in enumerate(lives) if live < MERGE_ROWS]
        chosen = set(small) if len(small) > MERGE_ABOVE_SEGMENTS else set()
        chosen |= {i for i, live in enumerate(lives) if live < (1 - _DEAD_SHARE) * len(opened[i])}
        group: list[int] = []
        for i in sorted(chosen):
            if group and sum(lives[j] for j in group) + lives[i] > MERGED_ROWS:
                self._merge([stored[j] for j in group], [(opened[j], masks[j]) for j in group])
                group = []
            group.append(i)
        if group:
            self._merge([stored[j] for j in group], [(opened[j], masks[j]) for j in group])

    def _merge(self, stored: Sequence[StoredSegment], parts: Sequence[tuple[Segment, np.ndarray | None]]) -> None:
        ids = np.concatenate([s.ids if mask is None else s.ids[mask] for s, mask in parts])
        rows = np.concatenate([s.rows if mask is None else s.rows[mask] for s, mask in parts])
        gone = np.concatenate([s.ids[:0] if mask is None else s.ids[~mask] for s, mask in parts])
        order = np.argsort(ids)
        name = self._write_segment(ids[order], rows[order]) if len(ids) else None
        with self.catalog.writing():
            if name is not None:
                self.catalog.add_segment(name, len(ids))
            self.catalog.remove_segments(s.id for s in stored)
            self.catalog.forget_deleted(gone.tolist())
        for segment in stored:
            (self.folder / SEGMENTS / segment.name).unlink(missing_ok=True)

    def _write_segment(self, ids: np.ndarray, rows_ND: Int8Rows) -> str:
        # The random part keeps a name from ever being used twice, also by a writer that died before its commit.
        name = f"{int(ids[0]):012d}-{secrets.token_hex(4)}.seg"
        try:
            write_segment(self.folder / SEGMENTS / name, ids, rows_ND)
        except OSError as error:
            raise IndexStoreError(
                f"{self.folder} cannot be written ({error.strerror}); make room or check its rights, then run again: "
                "the index is as it was before this batch"
            ) from None
        return name


def open_listed(folder: Path, listed: StoredSegment, dims: int) -> Segment:
    """The file of a segment that the catalog lists."""
    return open_segment(folder / SEGMENTS / listed.name, rows=listed.rows, dims=dims)


def live_mask(segment: Segment, dead_ids: np.ndarray) -> np.ndarray | None:
    """Which rows of a segment are live; ``None`` if all are."""
    if not len(dead_ids):
        return None
    dead = np.isin(segment.ids, dead_ids, assume_unique=True)
    return ~dead if dead.any() else None


@contextmanager
def open_store(folder: Path, settings: Settings) -> Iterator[Store]:
    """Open an index for writing, or begin a new one.

    Args:
        folder: of the index; made if it is not there.
        settings: for a new index; an existing one must have been made with the same model.

    Raises:
        InputError: the folder holds other things.
        IndexStoreError: another process writes to it, it is damaged, or cannot be written.
    """
    check_folder(folder)
    try:
        (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); name a folder that can be written") from None
    with writer_lock(folder):
        is_new = not Catalog.exists(folder)
        try:
            if is_new:
                Catalog.create(folder, settings)
                fsync_folder(folder.parent)
            catalog = Catalog.open(folder)
            try:
                _remove_orphans(folder, catalog)
                yield Store(folder, catalog, catalog.settings())
            finally:
                is_new = is_new and catalog.counts()[0] == 0
                catalog.close()
        finally:
            if is_new:
                _remove_new(folder)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an index.

    Raises:
        InputError: not a folder, or one that holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the index")
    if folder.is_dir() and not Catalog.exists(folder):
        other = sorted(p.name for p in folder.iterdir() if not _is_ours(p.name))
        if other:
            raise InputError(f"{folder} is not an index and not empty (it holds {other[0]}); name a new folder")


def _remove_new(folder: Path) -> None:
    """Take away an index that was begun and got no document; a folder that is then empty goes too."""
    for path in [*folder.glob(CATALOG_NAME + "*"), *(folder / SEGMENTS).glob("*"), folder / LOCK_NAME]:
        path.unlink(missing_ok=True)
    for empty in (folder / SEGMENTS, folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def remove_orphans_if_idle(folder: Path, catalog: Catalog) -> None:
    """Remove files that no commit has made part of the index, unless a writer is at work."""
    if _unlisted(folder, catalog):
        with writer_lock_if_free(folder) as free:
            if free:
                _remove_orphans(folder, catalog)


def _remove_orphans(folder: Path, catalog: Catalog) -> None:
    for path in _unlisted(folder, catalog):
        path.unlink(missing_ok=True)


def _unlisted(folder: Path, catalog: Catalog) -> Iterable[Path]:
    present = list((folder / SEGMENTS).glob("*"))  # before the catalog is read: a file committed after is not an orphan
    listed = {segment.name for segment in catalog.segments()}
    return [path for path in present if path.name not in listed]


def _is_ours(name: str) -> bool:
    return name in (SEGMENTS, LOCK_NAME) or name.startswith(CATALOG_NAME)
