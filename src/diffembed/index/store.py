"""The writing side of an index folder: batches in, deletions, merging of small segments, removal of orphans.

One ``Store`` is open at a time (writer lock). Each method is one commit: the segment file first, durable under its
final name, then one SQLite transaction. Whatever moment the process dies at, the index is as before or as after.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import IndexStoreError, InputError
from diffembed.index.catalog import CATALOG_NAME, Catalog
from diffembed.index.coarse import SUFFIX
from diffembed.index.compaction import COMPACTING, Compaction, Progress
from diffembed.index.parts import SEGMENTS, open_listed
from diffembed.index.schema import NewDocument, Settings, StoredDocument, StoredSegment
from diffembed.index.seal import check_seal, read_seal, seal
from diffembed.index.segments import IdArray, Int8Rows, Segment, write_segment
from diffembed.index.storage import LOCK_NAME, fsync_folder, writer_lock, writer_lock_if_free
from diffembed.index.tuning import FEWEST_QUESTIONS, Tuning


class Store:
    """An index folder open for writing."""

    def __init__(self, folder: Path, catalog: Catalog, settings: Settings) -> None:
        self.folder = folder
        self.catalog = catalog
        self.settings = settings
        self._opened: dict[str, Segment] = {}

    def document(self, key: str) -> StoredDocument | None:
        """What is stored under a key."""
        return self.catalog.document(key)

    def add(
        self,
        documents: Sequence[NewDocument],
        rows_ND: Int8Rows,
        *,
        described: Iterable[tuple[StoredDocument, Mapping[str, Any]]] = (),
    ) -> None:
        """Store documents with the vectors of their chunks, in order; older documents of the same keys go.

        ``described``: documents that get other metadata in the same commit.
        """
        first = self.catalog.next_row()
        ids = np.arange(first, first + len(rows_ND), dtype=np.int64)
        with self._new_segment(ids, rows_ND) if len(ids) else self.catalog.writing():
            self.bury(self.catalog.add_documents(documents))
            for document, metadata in described:
                self.catalog.set_metadata(document, metadata)

    def remove_documents(self, keys: Iterable[str]) -> int:
        """Take documents away by their keys; returns how many of them there were."""
        before = self.catalog.counts()[0]
        with self.catalog.writing():
            self.bury(self.catalog.remove_documents(keys))
        return before - self.catalog.counts()[0]

    def add_rows(self, ids_N: IdArray, rows_ND: Int8Rows) -> None:
        """Store vectors under ids of the caller, in an index that holds vectors only; older rows of these ids go.

        Args:
            ids_N: each once, in any order.
            rows_ND: ``[N, D]`` int8.
        """
        order = np.argsort(ids_N, kind="stable")
        with self._new_segment(ids_N[order], rows_ND[order]) as new:
            replaced = self.bury(ids_N, but=new)
            self.catalog.count(rows=len(ids_N) - replaced)

    def remove_rows(self, ids_N: IdArray) -> int:
        """Take away vectors of an index that holds vectors only; returns how many of the ids it held."""
        with self.catalog.writing():
            removed = self.bury(np.unique(ids_N))
            self.catalog.count(rows=-removed)
        return removed

    def bury(self, ids_N: IdArray, *, but: int | None = None) -> int:
        """Mark live rows as deleted, wherever they stand; inside a transaction.

        A row is deleted in its segment, not by its id alone: the id may live again in a later segment.

        Args:
            ids_N: each once.
            but: a segment that is left alone.

        Returns:
            How many of them there were.
        """
        buried, ids_N = 0, np.sort(ids_N)
        for listed in self.catalog.segments() if len(ids_N) else ():
            if listed.id == but:
                continue
            segment = self._open(listed)
            here = segment.ids_at(segment.places_of(ids_N))
            here = np.setdiff1d(here, self.catalog.deleted(listed.id), assume_unique=True) if len(here) else here
            if len(here):
                self.catalog.bury(listed.id, here)
                buried += len(here)
        return buried

    @contextmanager
    def _new_segment(self, ids_N: IdArray, rows_ND: Int8Rows) -> Iterator[int]:
        """A transaction that begins with a new segment, whose number it yields.

        If it fails, the file stays for the next opening to remove: an interrupt that arrives with the commit must not
        take away a file that the catalog lists.
        """
        name = self._write_segment(ids_N, rows_ND)
        with self.catalog.writing():
            yield self.catalog.add_segment(name, len(ids_N))

    def _open(self, listed: StoredSegment) -> Segment:
        if listed.name not in self._opened:
            self._opened[listed.name] = open_listed(self.folder, listed, self.settings.dims)
        return self._opened[listed.name]

    def merge_small(self) -> None:
        """Join small segments, seal what scans get slow over, drop dead rows: where it is worth the writing."""
        self._compaction().merge_small()
        self._opened.clear()

    def compact(
        self, *, recall: float | None = None, questions: Int8Rows | None = None, progress: Progress | None = None
    ) -> None:
        """Join all segments below the sealed size, drop every dead row, build and tune coarse indexes.

        A run that was killed goes on where it was. Readers go on reading meanwhile.

        Args:
            recall: share of the exact answers that sealed segments are tuned to find, in 0 to 1, those too that were
                tuned for another; unless given, new ones are tuned for ``tuning.RECALL`` and the others stay.
            questions: ``[Q, D]`` to tune all sealed segments with, new or not; ``None``: their own rows ask.
            progress: called with (rows done, rows to do).

        Raises:
            InputError: ``recall`` is no share; too few questions.
            IndexStoreError: damaged, or cannot be written; the index is as it was.
        """
        if recall is not None and not 0 < recall <= 1:
            raise InputError(f"recall is {recall}; give a share above 0 and up to 1")
        if questions is not None and len(questions) < FEWEST_QUESTIONS:
            raise InputError(
                f"{len(questions)} questions say too little of how often answers are found; "
                f"give {FEWEST_QUESTIONS} or more"
            )
        self._compaction(recall, questions).compact(progress)
        self._opened.clear()

    def _compaction(self, recall: float | None = None, questions: Int8Rows | None = None) -> Compaction:
        return Compaction(self.folder, self.catalog, self.settings.dims, wanted=recall, questions=questions)

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
    _make_folder(folder)
    with writer_lock(folder):
        is_new = not Catalog.exists(folder)
        try:
            if is_new:
                Catalog.create(folder, settings)
                fsync_folder(folder.parent)
            with _opened(folder) as store:
                try:
                    yield store
                finally:
                    is_new = is_new and store.catalog.counts()[0] == 0
        finally:
            if is_new:
                _remove_new(folder)


@contextmanager
def open_existing(folder: Path) -> Iterator[Store]:
    """Open an index for writing.

    Raises:
        IndexStoreError: there is none, another process writes to it, it is damaged, or cannot be written.
    """
    if not Catalog.exists(folder):
        Catalog.open(folder)  # says so
    with writer_lock(folder), _opened(folder) as store:
        yield store


@contextmanager
def _opened(folder: Path) -> Iterator[Store]:
    catalog = Catalog.open(folder)
    try:
        with catalog.reading():
            check_seal(catalog, read_seal(folder))
        _remove_orphans(folder, catalog)
        try:
            yield Store(folder, catalog, catalog.settings())
        finally:
            seal(catalog)
    finally:
        catalog.close()


def create_store(folder: Path, settings: Settings) -> None:
    """Make an empty index.

    Raises:
        InputError: the folder holds something, or cannot be made.
    """
    check_folder(folder)
    _make_folder(folder)
    with writer_lock(folder):
        if Catalog.exists(folder):
            raise InputError(f"{folder} is an index already; open it, or name a new folder")
        Catalog.create(folder, settings)
        fsync_folder(folder.parent)


def _make_folder(folder: Path) -> None:
    try:
        (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); name a folder that can be written") from None


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


def discard_empty(folder: Path) -> None:
    """Take an index away again that was made for something that then failed, unless something is in it."""
    with writer_lock(folder):
        catalog = Catalog.open(folder)
        empty = catalog.counts() == (0, 0)
        catalog.close()
        if empty:
            _remove_new(folder)


def _remove_new(folder: Path) -> None:
    """Take away an index that was begun and got no document; a folder that is then empty goes too."""
    for path in [*folder.glob(CATALOG_NAME + "*"), *(folder / SEGMENTS).glob("*"), folder / LOCK_NAME]:
        path.unlink(missing_ok=True)
    for empty in (folder / SEGMENTS, folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def remove_orphans_if_idle(folder: Path, catalog: Catalog) -> None:
    """Remove files that no commit has made part of the index, unless a writer is at work."""
    if unlisted(catalog):
        with writer_lock_if_free(folder) as free:
            if free:
                _remove_orphans(folder, catalog)


def _remove_orphans(folder: Path, catalog: Catalog) -> None:
    for path in unlisted(catalog):
        path.unlink(missing_ok=True)


def unlisted(catalog: Catalog) -> list[Path]:
    """Files that no commit has made part of the index."""
    present = list(
        (catalog.folder / SEGMENTS).glob("*")
    )  # before the catalog is read: a file committed after is not an orphan
    segments = catalog.segments()
    listed = {segment.name for segment in segments}
    listed |= {segment.name + SUFFIX for segment in segments if Tuning.from_json(segment.tuning) is not None}
    return [path for path in present if path.name not in listed]


def _is_ours(name: str) -> bool:
    return name in (SEGMENTS, COMPACTING, LOCK_NAME) or name.startswith(CATALOG_NAME)
