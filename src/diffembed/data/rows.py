"""Rows of training text, read one after the other from any mark of a JSONL, .gz, .zst or Parquet file.

A row has a ``text``, and may have a ``title`` (put before the text on a line of its own) and a ``lang``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.jsonl import decode, jsonl_file, parse_object, raw_lines
from diffembed.errors import InputError

_BATCH_ROWS = 256  # rows of a Parquet file that are decoded at once


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two rows of a file.

    Attributes:
        number: how many lines (JSONL) or rows (Parquet) stand before it.
        offset: how many uncompressed bytes do; 0 in Parquet, which is entered by row.
    """

    number: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        end: the mark after it; ``end.number`` is its own line or row number, counted from 1.
        data: its text as UTF-8, the title before it.
        language: its ``lang``, or an empty string.
    """

    end: Mark
    data: bytes
    language: str


def place(path: Path, number: int | str) -> str:
    """``FILE, line N`` or, in Parquet, ``FILE, row N``."""
    return f"{path}, {'row' if path.suffix == '.parquet' else 'line'} {number}"


def text_file(path: Path) -> Path:
    """The file that holds a source's texts: the corpus of a BEIR folder, or the file itself."""
    return jsonl_file(path, "corpus") if path.is_dir() else path


def read_rows(path: Path, start: Mark = Mark(), languages: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Rows after ``start``; rows without any text but white space come with empty ``data``.

    Args:
        languages: only rows with one of these ``lang`` values; the empty set asks for all. Lines that cannot have one
            are passed over without being parsed.

    Raises:
        InputError: a line that is not a JSON object, a row without a ``text``, a file that is not whole, each named.
    """
    rows = _parquet_rows(path, start) if path.suffix == ".parquet" else _jsonl_rows(path, start, languages)
    return (row for row in rows if row.language in languages) if languages else rows


def _jsonl_rows(path: Path, start: Mark, languages: frozenset[str]) -> Iterator[Row]:
    plain = all(re.fullmatch(r"[\w-]+", language) for language in languages)
    spelled = [f'"{language}"'.encode() for language in languages if plain]
    label = place(path, "")
    for number, offset, line in raw_lines(path, start.offset, start.number):
        if not line.strip():
            continue
        if spelled and b"\\u" not in line and not any(name in line for name in spelled):
            continue  # such a name has one spelling, save for escapes
        where = f"{label}{number}"
        yield _row(parse_object(where, decode(path, number, line)), Mark(number, offset), where)


def _parquet_rows(path: Path, start: Mark) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = start.number
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = set(file.schema_arrow.names)
            if "text" not in names:
                raise InputError(f"{path} has no column 'text' but {sorted(names)}; rename the one that is meant")
            columns = [name for name in ("text", "title", "lang") if name in names]
            group = before = 0
            while group < file.num_row_groups and before + file.metadata.row_group(group).num_rows <= number:
                before += file.metadata.row_group(group).num_rows
                group += 1
            groups = list(range(group, file.num_row_groups))
            skip, label = number - before, place(path, "")
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns) if groups else ():
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                for record in batch.slice(skip).to_pylist():
                    number += 1
                    yield _row(record, Mark(number), f"{label}{number}")
                skip = 0
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read after row {number}: {reason}; is the file whole?") from error


def _row(record: Mapping[str, Any], end: Mark, where: str) -> Row:
    if not isinstance(record.get("text"), str):
        raise InputError(f"{where}: 'text' was expected in every line, as a string; found keys {sorted(record)}")
    text, title, language = record["text"], record.get("title") or "", record.get("lang") or ""
    for name, value in (("title", title), ("lang", language)):
        if not isinstance(value, str):
            raise InputError(f"{where}: '{name}' must be a string, not {type(value).__name__}; mend or remove it")
    text = f"{title}\n{text}" if title else text
    try:
        data = text.encode() if text.strip() else b""
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} holds half a surrogate pair ({error.object[error.start : error.start + 1]!r}), which is no "
            "character; mend or remove it"
        ) from None
    return Row(end, data, language)
