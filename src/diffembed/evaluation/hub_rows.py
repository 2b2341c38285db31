"""Rows of data sets as they lie on the hub: fetched from there, or read from a copy on disk in the same layout.

A data set is a folder with one folder for each of its configurations, in it one or more files for each split:

    documents/test-00000-of-00001.parquet      as published
    documents/test/0000.parquet                as the hub converts data sets to Parquet (branch refs/convert/parquet)
    documents/test.jsonl[.gz|.zst]             JSON lines, for copies made by hand

Where a data set lies otherwise, the card that comes with it (``README.md``) says which files are of which split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.jsonl import read_objects
from diffembed.errors import InputError, MissingExtraError

Row = tuple[str, dict[str, Any]]  # where it stands, for messages, and what it holds
_KINDS = ("{split}-*.parquet", "{split}/*.parquet", "{split}.parquet", "{split}.jsonl*")
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A data set on disk.

    Attributes:
        repository: its name on the hub.
        path: the folder.
        source: where it came from, for result files: the name on the hub with the commit, or ``local copy``.
    """

    repository: str
    path: Path
    source: str

    def files(self, config: str, split: str) -> list[Path]:
        """The files of a split, in order; empty where there are none."""
        folder = self.path / config
        for kind in _KINDS:
            if found := sorted(path for path in folder.glob(kind.format(split=split)) if path.is_file()):
                return found
        pattern = card_files(self.path / "README.md").get((config, split))
        return sorted(path for path in self.path.glob(pattern) if path.is_file()) if pattern else []

    def rows(self, config: str, split: str, columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a split, in order; of Parquet only these columns are read, as far as the file has them.

        Raises:
            InputError: no such split, a file that cannot be read, or one without the first of the columns.
        """
        files = self.files(config, split)
        if not files:
            raise InputError(
                f"{self.path} has no rows of {config!r}, split {split!r}; expected {config}/{split}-*.parquet or "
                f"{config}/{split}.jsonl, as the hub's {self.repository} has them"
            )
        for file in files:
            read = parquet_rows if file.suffix == ".parquet" else _json_lines
            yield from read(file, columns)

    def sha256(self, *parts: tuple[str, str]) -> str:
        """One digest over the files of some ``(config, split)``."""
        digest = hashlib.sha256()
        for config, split in parts:
            for file in self.files(config, split):
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def hub_folder(repository: str, names: Sequence[str], data: Path | None, configs: Sequence[str] = ()) -> HubFolder:
    """A data set: from ``data/NAME`` for the first of the names that is there, or without ``data`` from the hub.

    Args:
        repository: on the hub: ``owner/name``.
        names: of the copy below ``data``, the preferred one first.
        data: the folder of copies.
        configs: all that is fetched from the hub; empty for everything.

    Raises:
        InputError: no copy there, or the hub does not give it; the message says what to fetch and where to put it.
        MissingExtraError: ``huggingface_hub`` is not installed.
    """
    if data is not None:
        for name in names:
            if (data / name).is_dir():
                return HubFolder(repository, data / name, "local copy")
        raise InputError(f"{data} has no folder {' or '.join(names)}; {_how(repository, data / names[0])}")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError(
            f"fetching {repository} needs huggingface_hub; run: pip install huggingface_hub, or give a copy with --data"
        ) from None
    try:
        patterns = ["README.md", *(f"{config}/*" for config in configs)] if configs else None
        path = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"the data set {repository} is not here and the hub does not give it ({first}); where there is a network, "
            f"{_how(repository, Path('DIR') / names[0])}"
        ) from None
    return HubFolder(repository, path, f"{repository}@{path.name}")


def card_files(card: Path) -> dict[tuple[str, str], str]:
    """``(config, split)`` -> pattern of its files, as a data set's card says under ``configs``; empty without a card.

    A card begins with YAML between two lines of three dashes. Of it only this part is read, which the hub's own tools
    write, one key a line; what somebody wrote in another way is passed over.
    """
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    files: dict[tuple[str, str], str] = {}
    config = split = ""
    inside = False
    for line in lines[1:] if lines[:1] == ["---"] else ():
        key, _, value = line.strip().removeprefix("- ").partition(":")
        value = value.strip().strip("'\"")
        if line == "---":
            break
        if line[:1].isalpha():
            inside = key == "configs"
        elif inside and key == "config_name":
            config, split = value, ""
        elif inside and key == "split":
            split = value
        elif inside and key == "path" and config and split and not {"", ".."} & set(value.split("/")):
            files[config, split] = value  # in the folder: neither from the root nor upwards
    return files


def _how(repository: str, place: Path) -> str:
    return (
        f"fetch it with: hf download {repository} --repo-type dataset --local-dir {place}, "
        f"and give it with: --data {place.parent}"
    )


def _json_lines(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    for where, row in read_objects(file):
        if not any(column in row for column in columns):
            raise InputError(f"{where} has none of {', '.join(columns)} but {sorted(row)}")
        yield where, {column: row[column] for column in columns if column in row}


def parquet_rows(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a Parquet file: these of its columns, all unless given.

    Raises:
        InputError: a file that cannot be read, or one that has none of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            here = names if columns is None else [column for column in columns if column in names]
            if not here:
                raise InputError(f"{file} has none of {', '.join(columns or ())} but {sorted(names)}")
            for batch in table.iter_batches(_BATCH_ROWS, columns=here):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read after row {number}: {reason}; is the file whole?") from error
