"""Rows to encode, one after the other from text, JSONL, Parquet and stdin, however large.

A row is a line (in Parquet a row). It is read in two steps: its bytes, which are enough to see that an input is the
one of an earlier run, and then its text or chunks, or the reason why it has none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffembed.data.jsonl import COMPRESSED, decode, parse_object, raw_lines
from diffembed.errors import InputError

RowFormat = Literal["text", "jsonl", "parquet"]
StdinFormat = Literal["text", "jsonl"]

_FORMATS: dict[str, RowFormat] = {".txt": "text", ".jsonl": "jsonl", ".parquet": "parquet"}
_TEXT, _CHUNKS = "text", "chunks"
_IDS = ("id", "_id")
_BATCH_ROWS = 256  # rows of a Parquet file that are decoded at once
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a record keeps what is encoded.

    Attributes:
        text: key or column of the text (or of a list of chunks); ``None``: ``text``, or ``chunks``.
        id: key or column of the id; ``None``: ``id`` or ``_id``, where there is one.
    """

    text: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One input: a file, or stdin (no ``path``)."""

    name: str
    path: Path | None
    format: RowFormat

    def where(self, place: int) -> str:
        """``docs.jsonl, line 7``."""
        return f"{self.name}, {'row' if self.format == 'parquet' else 'line'} {place}"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before anyone looks into it.

    Attributes:
        number: from 1, counted on through all sources.
        source, place: where it stands; ``place`` is its line or row there, from 1.
        data: its bytes without the line feed; of a Parquet row, the columns that count as one JSON object.
    """

    number: int
    source: Source
    place: int
    data: bytes

    @property
    def where(self) -> str:
        return self.source.where(self.place)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no vector: a word for the kind, and a sentence that begins with the row's place."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row to encode.

    Attributes:
        chunks: one for a text.
        together: ``chunks`` were given: they are read together, as one document.
        id: its own, if it has one.
        problem: why it cannot be encoded; it has no chunks then.
    """

    raw: RawRow
    chunks: tuple[str, ...] = ()
    together: bool = False
    id: str | None = None
    problem: Problem | None = None


def find_sources(
    sources: str | Path | Sequence[str | Path], columns: Columns, stdin_format: StdinFormat = "text"
) -> tuple[Source, ...]:
    """The inputs by name, checked as far as their names go.

    Args:
        sources: ``.txt``, ``.jsonl`` (both also ``.gz`` and ``.zst``), ``.parquet``; ``-`` for stdin; one or several.

    Raises:
        InputError: none, one that is not there or of another kind, the same one twice, columns asked of plain text.
    """
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    if not named:
        raise InputError("no input was given; name a .txt, .jsonl or .parquet file, or - for stdin")
    found = tuple(_find(str(name), stdin_format) for name in named)
    for number, source in enumerate(found):
        if _same(source) in map(_same, found[:number]):
            raise InputError(f"input {source.name} was given twice; give every input once")
        if source.format == "text" and (columns.text or columns.id):
            raise InputError(f"{source.name} is lines of text, which have no columns; leave the column options out")
    return found


def _same(source: Source) -> Path | None:
    return source.path and source.path.resolve()


def _find(name: str, stdin_format: StdinFormat) -> Source:
    if name == "-":
        return Source("stdin", None, stdin_format)
    path = Path(name)
    packed = path.suffix in COMPRESSED
    kind = _FORMATS.get(path.with_suffix("").suffix if packed else path.suffix)
    if kind is None or (packed and kind == "parquet"):
        raise InputError(
            f"input {path} must end in .txt or .jsonl (also .gz, .zst) or .parquet, or be - for stdin; "
            "index reads other kinds of files"
        )
    if not path.is_file():
        raise InputError(f"input {path} {'is not a file' if path.exists() else 'does not exist'}; check the path")
    return Source(name, path, kind)


class RawRows:
    """The rows of all sources in order, as often as one asks (stdin: once).

    Attributes:
        counts: rows read of each source so far.
    """

    def __init__(self, sources: Sequence[Source], columns: Columns) -> None:
        self.sources, self.columns = tuple(sources), columns
        self.counts = [0] * len(self.sources)
        self._bytes = 0
        self._whole = _size(self.sources)

    def __iter__(self) -> Iterator[RawRow]:
        number = self._bytes = 0
        self.counts = [0] * len(self.sources)
        for at, source in enumerate(self.sources):
            for place, data in enumerate(_pieces(source, self.columns), 1):
                number += 1
                self.counts[at] = place
                self._bytes += 1 if source.format == "parquet" else len(data) + 1
                yield RawRow(number, source, place, data)

    def total(self) -> int:
        """Rows in all, as far as those read so far tell; 0 where nothing does."""
        return round(sum(self.counts) * self._whole / self._bytes) if self._bytes else 0


def _size(sources: Sequence[Source]) -> int:
    """Size of all sources: bytes of lines, rows of Parquet; 0 where it is not known, or both kinds are mixed."""
    paths = [source.path for source in sources if source.path and source.path.suffix not in COMPRESSED]
    if len(paths) < len(sources) or len({source.format == "parquet" for source in sources}) > 1:
        return 0
    if sources[0].format != "parquet":
        return sum(path.stat().st_size for path in paths)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return sum(int(pq.read_metadata(path).num_rows) for path in paths)
    except (OSError, pa.ArrowException):
        return 0  # the reader will say what is wrong with it


def _pieces(source: Source, columns: Columns) -> Iterator[bytes]:
    if source.path is None:
        return (line.removesuffix(b"\n") for line in sys.stdin.buffer)
    if source.format == "parquet":
        return _parquet_pieces(source.path, columns)
    return (line.removesuffix(b"\n") for _, _, line in raw_lines(source.path))


def _parquet_pieces(path: Path, columns: Columns) -> Iterator[bytes]:
    """Each row as one JSON object; a file is decoded a few rows at a time, never a whole row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ) as file:
            names = _parquet_columns(path, file.schema_arrow, columns)
            for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                try:
                    records = batch.to_pylist()
                except UnicodeDecodeError:
                    records = [_record(batch.slice(i, 1)) for i in range(batch.num_rows)]
                for record in records:
                    number += 1
                    yield record if isinstance(record, bytes) else json.dumps(record, ensure_ascii=False).encode()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read after row {number}: {reason}; is the file whole?") from error


def _record(batch: Any) -> dict[str, Any] | bytes:
    """A row, or where its text is not UTF-8 the bytes of that, which are then refused for it."""
    try:
        record: dict[str, Any] = batch.to_pylist()[0]
        return record
    except UnicodeDecodeError:
        pass
    import pyarrow as pa

    parts: list[bytes] = []
    for column in batch.columns:
        nested = hasattr(column.type, "value_type") and not pa.types.is_dictionary(column.type)
        as_bytes = pa.list_(pa.binary()) if nested else pa.binary()
        if not pa.types.is_integer(column.type):
            value = column.cast(as_bytes)[0].as_py()
            parts += value if isinstance(value, list) else [value]
    return b" ".join(part for part in parts if part is not None)


def _parquet_columns(path: Path, schema: Any, columns: Columns) -> list[str]:
    """The columns to read, checked to be strings, lists of strings, or (of the id) integers."""
    import pyarrow as pa

    types = pa.types

    def is_string(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_string(kind) or types.is_large_string(kind))

    names = schema.names
    texts = [n for n in ((columns.text,) if columns.text else (_TEXT, _CHUNKS)) if n in names]
    if len(texts) != 1:
        wanted = repr(columns.text) if columns.text else "'text' or 'chunks'"
        found = "both" if texts else f"no column {wanted} but {sorted(names)}"
        raise InputError(f"{path} has {found}; name the column that is meant (text_column)")
    kind = schema.field(texts[0]).type
    listed = types.is_list(kind) or types.is_large_list(kind)
    if not is_string(kind) and not (listed and is_string(kind.value_type)):
        raise InputError(f"{path}: column {texts[0]!r} is of type {kind}; strings or lists of strings were expected")
    ids = [n for n in ((columns.id,) if columns.id else _IDS) if n in names][:1]
    if columns.id and not ids:
        raise InputError(f"{path} has no column {columns.id!r} but {sorted(names)}; correct id_column")
    for name in ids:
        kind = schema.field(name).type
        if not is_string(kind) and not types.is_integer(kind):
            raise InputError(f"{path}: column {name!r} is of type {kind}; ids are strings or integers")
    return [texts[0], *ids]


class _Refused(Exception):
    """A row that cannot be encoded: the kind of problem, and what follows the row's place in the reason."""


def parse(raw: RawRow, columns: Columns) -> Row:
    """The text or chunks of a row, or its problem.

    >>> source = Source("docs.jsonl", None, "jsonl")
    >>> row = parse(RawRow(1, source, 1, b'{"_id": 7, "text": "a cat"}'), Columns())
    >>> row.chunks, row.together, row.id
    (('a cat',), False, '7')
    >>> parse(RawRow(2, source, 2, b'{"text": " "}'), Columns()).problem
    Problem(kind='empty', reason='docs.jsonl, line 2: text must be a string that is not empty')
    """
    try:
        return _parsed(raw, columns)
    except _Refused as refused:
        kind, reason = refused.args
        return Row(raw, problem=Problem(kind, f"{raw.where}{reason}"))


def _parsed(raw: RawRow, columns: Columns) -> Row:
    try:
        line = decode(Path(raw.source.name), raw.place, raw.data)
    except InputError:
        raise _Refused("not_utf8", " is not UTF-8 text; save the file as UTF-8") from None
    if not line.strip():
        raise _Refused("empty", " is empty; remove it, there is nothing to encode")
    if raw.source.format == "text":
        return Row(raw, (line,))
    try:
        record = parse_object(raw.where, line)
    except InputError as error:
        raise _Refused("not_json", str(error).removeprefix(raw.where)) from None
    key = columns.text
    if key is None:
        if (_TEXT in record) == (_CHUNKS in record):
            raise _Refused("no_text", " must be an object with either text or chunks")
        key = _TEXT if _TEXT in record else _CHUNKS
    elif key not in record:
        raise _Refused("no_text", f" has no {key!r}; found keys {sorted(record)[:20]}")
    value = record[key]
    listed = isinstance(value, list) if columns.text else key == _CHUNKS
    if listed:
        if not isinstance(value, list) or not value:
            kind = "empty" if value == [] else "wrong_type"
            raise _Refused(kind, f": {key} must be a list of strings that is not empty")
        chunks = tuple(_text(chunk, f"chunk {number}") for number, chunk in enumerate(value))
    else:
        chunks = (_text(value, key),)
    own = _id(record, columns)
    if "\\u" in line and any("\ud800" <= c <= "\udfff" for text in (*chunks, own or "") for c in text):
        raise _Refused("half_pair", " holds half a surrogate pair, which is no character; mend or remove it")
    return Row(raw, chunks, listed, own)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        kind = "empty" if isinstance(value, str) else "wrong_type"
        raise _Refused(kind, f": {what} must be a string that is not empty")
    return value


def _id(record: dict[str, Any], columns: Columns) -> str | None:
    value = record.get(columns.id) if columns.id else record.get("id", record.get("_id"))
    if value is None:
        if columns.id:
            raise _Refused("no_id", f" has no {columns.id!r}; give every record one, or leave id_column out")
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Refused("wrong_type", f": id must be a string or a number, not {type(value).__name__}")
    return str(value)
