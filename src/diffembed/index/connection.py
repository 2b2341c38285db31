"""How the catalog's SQLite file is opened, and its errors as messages that say what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar, cast

from diffembed.errors import IndexStoreError
from diffembed.index import lexical

_BUSY_SECONDS = 30.0

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; a damaged file can make it quote a name that is no text."""

P = ParamSpec("P")
T = TypeVar("T")


class _HasFolder(Protocol):
    folder: Path


def errors_named(function: Callable[P, T]) -> Callable[P, T]:
    """A method of something with a ``folder``: SQLite's errors as ``IndexStoreError`` with what to do."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except SQLITE_ERRORS as error:
            raise explained(cast(_HasFolder, args[0]).folder, error) from None

    return wrapper


def explained(folder: Path, error: Exception) -> IndexStoreError:
    """SQLite's error as one of ours, with the folder and what to do."""
    text = str(error)
    if "closed database" in text:
        return IndexStoreError(f"{folder} was closed; open it again")
    if "locked" in text or "busy" in text:
        return IndexStoreError(f"{folder} is being written by another process; wait until it has ended")
    if "full" in text:
        return IndexStoreError(f"{folder}: the disk is full; make room and index again, the index is as it was before")
    if "disk I/O" in text:  # a quota that is used up is such a one too
        return IndexStoreError(
            f"{folder} could not be read or written ({text}); check the disk, its room and quota, then run again: "
            "the index is as it was before"
        )
    if "readonly" in text or "unable to open" in text:
        return IndexStoreError(f"{folder} cannot be written ({text}); check its rights")
    if "no such module: fts5" in text:
        return IndexStoreError("this Python's SQLite has no full-text search (FTS5); use a Python whose SQLite has it")
    return IndexStoreError(f"the catalog of {folder} is damaged ({text}); delete that folder and index the files again")


@contextmanager
def transaction(folder: Path, db: sqlite3.Connection, begin: str) -> Iterator[None]:
    """A block between ``begin`` and ``COMMIT``, which is the block's to say; without it all is undone.

    Raises:
        IndexStoreError: what SQLite raised, named.
    """
    try:
        db.execute(begin)
        yield
    except SQLITE_ERRORS as error:
        raise explained(folder, error) from None
    finally:
        with suppress(sqlite3.ProgrammingError):  # closed
            if db.in_transaction:
                db.execute("ROLLBACK")


def connect(path: Path, *, wal: bool = True) -> sqlite3.Connection:
    """Open a catalog's file; commits of the connection are on disk when they return.

    Raises:
        IndexStoreError: it lies on a read-only disk with an unfinished write beside it.
    """
    if not wal or can_write(path):
        db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            if wal:
                db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        except SQLITE_ERRORS:
            db.close()
            raise
    else:
        db = _connect_read_only(path)
    db.create_function("lexical_form", 1, lexical.form, deterministic=True)
    db.execute("PRAGMA trusted_schema=ON")  # the view behind the full-text index calls that function
    return db


def can_write(path: Path) -> bool:
    """Whether this process may write a file and beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    # On a read-only disk nobody writes, and WAL's shared memory could not be made. Without it SQLite would not see
    # what a killed writer has left in the journal.
    journal = path.with_name(path.name + "-wal")
    if journal.exists() and journal.stat().st_size:
        raise IndexStoreError(
            f"{path.parent} cannot be written and holds an unfinished write; open it once where it can be written"
        )
    from urllib.parse import quote  # rarely needed

    uri = f"file:{quote(str(path))}?immutable=1"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
