"""The few file operations that durability rests on: write-fsync-rename, and the lock that keeps writers apart.

An index is a folder. A file of it is written under a temporary name, fsynced, renamed, and the folder fsynced; only
then does a SQLite transaction make it part of the index. A crash in between leaves an orphan, which the next open
removes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diffembed.errors import IndexStoreError

TEMPORARY_SUFFIX = ".tmp"
LOCK_NAME = "writer.lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a new file so that after a crash it is there whole or not at all.

    Raises:
        OSError: the disk is full or read-only; nothing is left behind under ``path``.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the right to write to an index; the operating system drops it when the process ends, however it ends.

    Raises:
        IndexStoreError: another process or thread holds it, the folder cannot be written, or the disk is full.
    """
    handle = _take_lock(folder)
    if handle is None:
        holder = _holder(folder)
        raise IndexStoreError(
            f"{folder} is being written by {holder}; wait until it has ended, or write to another folder"
        )
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def writer_lock_if_free(folder: Path) -> Iterator[bool]:
    """As ``writer_lock``, but yields whether the lock could be had instead of raising."""
    try:
        handle = _take_lock(folder)
    except IndexStoreError:
        handle = None
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _take_lock(folder: Path) -> int | None:
    import fcntl  # POSIX only; imported here so that the rest can be read elsewhere

    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _refused(folder, error, f"cannot be written ({error.strerror}); check its rights") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        os.close(handle)
        raise _refused(folder, error, f"cannot be locked ({error.strerror}); use a local disk") from None
    return handle


def _refused(folder: Path, error: OSError, otherwise: str) -> IndexStoreError:
    """What to say where the lock could not be had: it is a file with a number in it, which takes room."""
    if error.errno in _NO_ROOM:
        return IndexStoreError(
            f"{folder}: the disk is full ({error.strerror}); make room and run again, the index is as it was before"
        )
    return IndexStoreError(f"{folder} {otherwise}")


def _holder(folder: Path) -> str:
    try:
        pid = (folder / LOCK_NAME).read_text("ascii").strip()
    except (OSError, ValueError):
        pid = ""
    return f"process {pid}" if pid.isdigit() else "another process"
