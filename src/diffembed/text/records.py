"""Files of records, CSV and JSONL, as text: a record becomes a paragraph that no chunk reaches over."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from diffembed.text.readers import SourceText, UnreadableFile

_FIELD_LIMIT = 16 * 1024 * 1024


def read_csv(text: str, delimiter: str) -> SourceText:
    """CSV with a header line: each row as ``column: value`` lines, at the line where the row begins.

    Raises:
        UnreadableFile: a row that does not parse or has more fields than the header (named by its line).

    >>> read_csv("name,text\\nowl,hunts at night\\n", ",").text
    'name: owl\\ntext: hunts at night'
    """
    csv.field_size_limit(_FIELD_LIMIT)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[tuple[int, str]] = []
    header: list[str] | None = None
    begin = 1
    try:
        for row in rows:
            line, begin = begin, rows.line_num + 1
            if not any(field.strip() for field in row):
                continue
            if header is None:
                header = row
            elif len(row) > len(header):
                raise UnreadableFile(f"line {line} has {len(row)} fields, the header has {len(header)}; mend the row")
            else:
                records.append((line, _fields(zip(header, row, strict=False))))
    except csv.Error as error:
        raise UnreadableFile(f"line {rows.line_num} is not CSV ({error}); mend it") from None
    if header is not None and not records:
        records.append((1, delimiter.join(header)))  # a single line: nothing tells a header from a row
    return _joined(records)


def read_jsonl(text: str) -> SourceText:
    """JSON lines: the ``title`` and ``text`` of each object, or all its fields where it has no ``text``.

    Raises:
        UnreadableFile: a line that is not a JSON object (named by its number).

    >>> read_jsonl('{"_id": "1", "title": "Owls", "text": "They hunt at night."}').text
    'Owls\\nThey hunt at night.'
    """
    records: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(f"line {number} is not JSON ({_short(error)}); mend or remove it") from None
        if not isinstance(record, dict):
            raise UnreadableFile(f"line {number} is not a JSON object; write one object a line")
        records.append((number, _without_surrogates(_record_text(record))))
    return _joined(records)


def _record_text(record: dict[str, Any]) -> str:
    chunks = record.get("chunks")
    if isinstance(record.get("text"), str):
        parts = [record.get("title"), record["text"]]
    elif isinstance(chunks, list) and all(isinstance(chunk, str) for chunk in chunks):
        parts = [record.get("title"), *chunks]
    else:
        return _fields((key, value) for key, value in record.items())
    return "\n".join(part for part in parts if isinstance(part, str) and part.strip())


def _fields(pairs: Iterable[tuple[str, Any]]) -> str:
    lines = []
    for key, value in pairs:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if shown.strip() and value is not None:
            lines.append(f"{key}: {shown}" if key.strip() else shown)
    return "\n".join(lines)


def _joined(records: list[tuple[int, str]]) -> SourceText:
    """Records with a blank line between them; every line of a record counts as the line where the record begins."""
    pieces: list[str] = []
    offsets: list[int] = []
    numbers: list[int] = []
    length = 0
    for line, record in records:
        if not record.strip():
            continue
        if pieces:
            pieces.append("\n\n")
            length += 2
        offsets.append(length)
        numbers.append(line)
        pieces.append(record)
        length += len(record)
    return SourceText("".join(pieces), "records", tuple(offsets), tuple(numbers), tuple(offsets[1:]))


def _without_surrogates(text: str) -> str:
    # JSON escapes can spell half a surrogate pair, which no UTF-8 file can hold.
    return text.encode("utf-8", "replace").decode("utf-8") if any("\ud800" <= c <= "\udfff" for c in text) else text


def _short(error: Exception) -> str:
    return str(error).split(":", 1)[0].lower()
