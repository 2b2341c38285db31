"""The seal: a checksum over the whole catalog, taken when a writer has finished with it.

SQLite does not notice a changed byte inside a value or inside the full-text index. Rows that are read are checked one
by one (``schema.py``), but a filter or a word that finds too little reads no row. So a catalog of up to
``SEALED_BYTES`` is compared as a whole when it is opened, which costs some milliseconds; larger ones are compared by
``verify``, row by row.

The seal names the generation that it was taken of. A catalog of a later one is not under seal (its writer was killed),
and nothing is compared; one of an earlier one has lost commits, and is refused.

The bytes are asked of SQLite, never read from the file: to close a file is to drop the locks that this process has on
it, and with them SQLite's, whereupon another process would take the journal away under it.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from diffembed.errors import IndexStoreError
from diffembed.index.catalog import CATALOG_NAME, Catalog
from diffembed.index.connection import SQLITE_ERRORS
from diffembed.index.storage import write_durably

SEAL_SUFFIX = "-seal"
SEALED_BYTES = 16 << 20
_SEAL = struct.Struct("<8sQQII")  # magic, generation, bytes, crc of the catalog, crc of the seal before it
_MAGIC = b"DFMBSEAL"
_can_measure = hasattr(sqlite3.Connection, "serialize")  # a SQLite can be built without it

Seal = tuple[int, int, int]  # generation, bytes, crc


def seal(catalog: Catalog) -> None:
    """Take the checksum of a catalog; the writer's last act.

    Never fails: what the writer did is committed, and a catalog without a seal is whole too.
    """
    path = catalog.path.with_name(catalog.path.name + SEAL_SUFFIX)
    try:
        with catalog.reading():
            sealed = read_seal(catalog.folder)
            if sealed is not None and sealed[0] == catalog.generation():
                return  # nothing was written, and a seal must not be put on damage
            found = _measured(catalog) if _can_measure and _size(catalog) <= SEALED_BYTES else None
        if found is not None:
            write_durably(path, lambda file: _write(file, found))
            return
    except (OSError, *SQLITE_ERRORS, IndexStoreError):
        pass  # a full disk; or damage, which the next reader will meet
    with suppress(OSError):
        path.unlink(missing_ok=True)


def check_seal(catalog: Catalog, sealed: Seal | None) -> None:
    """Compare a catalog with its seal; to be called in a transaction.

    Args:
        catalog: of an index.
        sealed: what ``read_seal`` gave before the transaction began: a writer may put a new seal on at any moment.

    Raises:
        IndexStoreError: it is not as the last writer left it.
    """
    if sealed is None or sealed[0] < catalog.generation() or not _can_measure:
        return
    if sealed[0] > catalog.generation():
        raise IndexStoreError(
            f"the catalog of {catalog.folder} is damaged (commit {sealed[0]} is lost, the last one there is "
            f"{catalog.generation()}); delete that folder and index the files again"
        )
    if _size(catalog) != sealed[1] or _measured(catalog) != sealed:
        raise IndexStoreError(
            f"the catalog of {catalog.folder} is damaged (it fails its checksum); delete that folder and index the "
            "files again"
        )


def _size(catalog: Catalog) -> int:
    """Bytes of the catalog as SQLite sees it."""
    return int(catalog.query("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")[0][0])


def _measured(catalog: Catalog) -> Seal:
    """What a seal says of a catalog as it is."""
    content = catalog.connection.serialize()
    return catalog.generation(), len(content), zlib.crc32(content)


def _write(file: BinaryIO, values: Seal) -> None:
    head = _SEAL.pack(_MAGIC, *values, 0)[:-4]
    file.write(head + struct.pack("<I", zlib.crc32(head)))


def read_seal(folder: Path) -> Seal | None:
    """What a seal says; ``None`` if there is none, or one that is damaged itself (it protects, it holds nothing)."""
    try:
        raw = (folder / (CATALOG_NAME + SEAL_SUFFIX)).read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) != _SEAL.size or zlib.crc32(raw[:-4]) != struct.unpack("<I", raw[-4:])[0]:
        return None
    magic, generation, size, checksum, _ = _SEAL.unpack(raw)
    return (generation, size, checksum) if magic == _MAGIC else None
