"""Rows of training data, read one after the other from any mark of a JSONL, .gz, .zst or Parquet file.

A row of ``texts`` has a ``text``, and may have a ``title`` (put before the text on a line of its own) and a ``lang``.
A row of ``examples`` is a pair, a triplet or a grouped row (``examples.py``); its data is its JSON in one spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from diffembed.data.examples import content_key, example_columns, example_line, parse_example
from diffembed.data.jsonl import decode, jsonl_file, parse_object, raw_lines, read_lines
from diffembed.errors import InputError

Content = Literal["texts", "examples"]
_BATCH_ROWS = 256  # rows of a Parquet file that are decoded at once
_PROBLEM_CHARACTERS = 400  # of a message about a row


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
        data: its text as UTF-8, the title before it; of an example, its line of JSON. Empty: nothing to read.
        language: its ``lang``, or an empty string.
        key: of an example: the same for rows with the same query and document.
        problem: why a row is no example, file and line named; such a row has no data.
    """

    end: Mark
    data: bytes
    language: str
    key: int = 0
    problem: str = ""


def place(path: Path, number: int | str) -> str:
    """``FILE, line N`` or, in Parquet, ``FILE, row N``."""
    return f"{path}, {'row' if path.suffix == '.parquet' else 'line'} {number}"


def text_file(path: Path) -> Path:
    """The file that holds a source's texts: the corpus of a BEIR folder, or the file itself."""
    return jsonl_file(path, "corpus") if path.is_dir() else path


def read_rows(
    path: Path, start: Mark = Mark(), languages: frozenset[str] = frozenset(), content: Content = "texts"
) -> Iterator[Row]:
    """Rows after ``start``; texts that are only white space and bad examples come with empty ``data``.

    Args:
        languages: only rows with one of these ``lang`` values; the empty set asks for all. Lines that cannot have one
            are passed over without being parsed.

    Raises:
        InputError: a file that is not whole or has no such columns, named; of ``texts`` also a line that is not a JSON
            object and a row without a ``text``.
    """
    if path.suffix == ".parquet":
        rows = _parquet_rows(path, start, content)
    else:
        rows = _jsonl_rows(path, start, languages, content)
    return (row for row in rows if row.language in languages) if languages else rows


def first_texts(path: Path, most: int = 512) -> list[str]:
    """At most so many texts from the beginning of a file: the lines of a .txt, or rows as in ``read_rows``."""
    if path.suffix == ".txt":
        return [text for _, text in islice(read_lines(path), most)]
    return [row.data.decode() for row in islice((row for row in read_rows(path) if row.data), most)]


def _jsonl_rows(path: Path, start: Mark, languages: frozenset[str], content: Content) -> Iterator[Row]:
    plain = all(re.fullmatch(r"[\w-]+", language) for language in languages)
    spelled = [f'"{language}"'.encode() for language in languages if plain]
    label = place(path, "")
    for number, offset, line in raw_lines(path, start.offset, start.number):
        if not line.strip():
            continue
        if spelled and b"\\u" not in line and not any(name in line for name in spelled):
            continue  # such a name has one spelling, save for escapes
        where = f"{label}{number}"
        yield _row(partial(_record, path, number, line, where), Mark(number, offset), where, content)


def _record(path: Path, number: int, line: bytes, where: str) -> dict[str, Any]:
    return parse_object(where, decode(path, number, line))


def _parquet_rows(path: Path, start: Mark, content: Content) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = start.number
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            columns = _columns(path, file.schema_arrow.names, content)
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
                    yield _row(partial(dict, record), Mark(number), f"{label}{number}", content)
                skip = 0
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read after row {number}: {reason}; is the file whole?") from error


def _columns(path: Path, names: Sequence[str], content: Content) -> list[str]:
    """Those of a table's columns that are read."""
    if content == "examples":
        wanted, found = "'query' or 'chunks'", example_columns(names)
    else:
        wanted, found = "'text'", [n for n in ("text", "title", "lang") if n in names] if "text" in names else []
    if not found:
        raise InputError(f"{path} has no column {wanted} but {sorted(names)}; rename the one that is meant")
    return found


def _row(read: Callable[[], Mapping[str, Any]], end: Mark, where: str, content: Content) -> Row:
    if content == "texts":
        return _text_row(read(), end, where)
    try:
        example = parse_example(read(), where)
        return Row(end, _encoded(example_line(example), where), example.language, content_key(example))
    except InputError as error:
        return Row(end, b"", "", problem=str(error)[:_PROBLEM_CHARACTERS])


def _text_row(record: Mapping[str, Any], end: Mark, where: str) -> Row:
    if not isinstance(record.get("text"), str):
        raise InputError(f"{where}: 'text' was expected in every line, as a string; found keys {sorted(record)}")
    text, title, language = record["text"], record.get("title") or "", record.get("lang") or ""
    for name, value in (("title", title), ("lang", language)):
        if not isinstance(value, str):
            raise InputError(f"{where}: '{name}' must be a string, not {type(value).__name__}; mend or remove it")
    text = f"{title}\n{text}" if title else text
    return Row(end, _encoded(text, where) if text.strip() else b"", language)


def _encoded(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} holds half a surrogate pair ({error.object[error.start : error.start + 1]!r}), which is no "
            "character; mend or remove it"
        ) from None
