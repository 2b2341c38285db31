"""``encode_file``: a file of texts or chunked documents to a file of vectors.

Reads ``.txt`` (one text a line), ``.jsonl`` (objects with ``text``, or with ``chunks``: a list of strings that are read
together) or ``-`` (lines of text from stdin); writes ``.npy`` or ``.parquet``. The output appears whole or not at all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.errors import InputError
from diffembed.models.files import atomic_file
from diffembed.vectors.embeddings import Embeddings, VectorDtype

if TYPE_CHECKING:
    from diffembed.encoder import Encoder

_WRITERS = (".npy", ".parquet")


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What one call of ``encode_file`` did.

    Attributes:
        output: the file written.
        documents: lines read; ``rows`` vectors written (more than documents when they were chunked).
        dtype, dims: of the vectors.
        tokens: read by the model.
        seconds: of encoding and writing, loading the model left out.
        truncated: line numbers (from 1) of the inputs that were cut to the model's limit.
    """

    output: str
    documents: int
    rows: int
    dtype: VectorDtype
    dims: int
    tokens: int
    seconds: float
    truncated: tuple[int, ...]

    def __str__(self) -> str:
        cut = f", {len(self.truncated)} cut to the model's limit" if self.truncated else ""
        return (
            f"wrote {self.output}: {self.rows:,} {self.dtype} vectors of {self.dims} dims "
            f"from {self.documents:,} lines, {self.tokens:,} tokens in {self.seconds:.1f} s{cut}"
        )


@dataclass(frozen=True, slots=True)
class _Records:
    """Lines of one input: its texts or its chunk lists (never both), ids where every line gives one."""

    name: str
    texts: list[str]
    chunks: list[list[str]]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.texts) or len(self.chunks)


def encode_file(
    source: str | Path,
    output: str | Path,
    *,
    model: str | Path | Encoder = "default",
    dtype: VectorDtype = "float32",
    dims: int | None = None,
    truncate: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EncodeReport:
    """Encode a file.

    Args:
        source: ``.txt``, ``.jsonl``, or ``-`` for lines of text on stdin.
        output: ``.npy`` holds the array ``[rows, dims]`` (``[rows, dims / 8]`` uint8 for binary); ``.parquet`` the
            columns ``row``, ``line`` (from 1), ``chunk`` (from 0), ``id`` (where the records have one) and ``vector``.
        model: as for ``Encoder.load``, or an encoder.
        dtype: ``float32``, ``int8`` or ``binary``.
        dims: one of the model's widths.
        truncate: cut what is over the model's limit instead of refusing it.
        progress: called with (lines done, lines in all).

    Raises:
        InputError: a file missing or of another kind; a line empty, unreadable or over the limit, named by number.
        ModelError: the model does not load.
    """
    from diffembed.encoder import Encoder, TextTooLongError

    target = Path(output)
    if target.suffix not in _WRITERS:
        raise InputError(f"output {target} must end in {' or '.join(_WRITERS)}")
    if not target.parent.is_dir():
        raise InputError(f"the folder of {target} does not exist; make it first")
    records = _read(str(source))
    encoder = model if isinstance(model, Encoder) else Encoder.load(model)
    start = time.perf_counter()
    options: dict[str, Any] = {"dtype": dtype, "dims": dims, "truncate": truncate, "progress": progress}
    try:
        if records.chunks:
            vectors = encoder.encode_chunks(records.chunks, **options)
        else:
            vectors = encoder.encode_documents(records.texts, **options)
    except TextTooLongError as error:
        raise InputError(f"{records.name}, line {error.position + 1}: {error}") from None
    with atomic_file(target) as file:
        if target.suffix == ".npy":
            with file.open("wb") as stream:
                np.save(stream, vectors.values)
        else:
            _write_parquet(file, vectors, records, encoder)
    return EncodeReport(
        str(target),
        len(records),
        len(vectors),
        dtype,
        vectors.dims,
        vectors.tokens,
        time.perf_counter() - start,
        tuple(i + 1 for i in vectors.truncated),
    )


def _read(source: str) -> _Records:
    if source == "-":
        return _from_lines("stdin", _lines("stdin", sys.stdin.buffer.read()))
    path = Path(source)
    if path.suffix not in (".txt", ".jsonl"):
        raise InputError(
            f"input {path} must end in .txt or .jsonl, or be - for stdin; index reads other kinds of files"
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"input {path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"input {path} cannot be read ({error.strerror}); check the path") from None
    lines = _lines(str(path), data)
    return _from_lines(str(path), lines) if path.suffix == ".txt" else _from_jsonl(str(path), lines)


def _lines(name: str, data: bytes) -> list[str]:
    """Lines split at newlines only: other separators of Unicode may stand inside a text."""
    raw = data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    if raw == [b""]:
        raise InputError(f"{name} is empty; give it a line")
    lines = []
    for number, line in enumerate(raw, 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"{name}, line {number} is not UTF-8 text; convert the file, or check that it is text"
            ) from None
        if not text.strip():
            raise InputError(f"{name}, line {number} is empty; remove it, there is nothing to encode")
        lines.append(text)
    return lines


def _from_lines(name: str, lines: list[str]) -> _Records:
    return _Records(name, lines, [], [])


def _from_jsonl(name: str, lines: list[str]) -> _Records:
    records = _Records(name, [], [], [])
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is not JSON ({error}); correct or remove it") from None
        if not isinstance(record, dict) or ("text" in record) == ("chunks" in record):
            raise InputError(f"{where} must be an object with either text or chunks")
        if "text" in record:
            records.texts.append(_string(record["text"], where, "text"))
        else:
            chunks = record["chunks"]
            if not isinstance(chunks, list) or not chunks:
                raise InputError(f"{where}: chunks must be a list of strings that is not empty")
            records.chunks.append([_string(c, where, f"chunk {i}") for i, c in enumerate(chunks)])
        if records.texts and records.chunks:
            raise InputError(f"{where} changes from text to chunks or back; put the two kinds into separate files")
        if "id" in record or "_id" in record:
            records.ids.append(str(record.get("id", record.get("_id"))))
    if len(records.ids) not in (0, len(records)):
        raise InputError(
            f"{name}: {len(records.ids)} of {len(records)} lines have an id; give one to all of them or to none"
        )
    return records


def _string(value: object, where: str, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {what} must be a string that is not empty")
    return value


def _write_parquet(file: Path, vectors: Embeddings, records: _Records, encoder: Encoder) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = [(line, chunk) for line, chunk in _places(vectors)]
    width = int(vectors.values.shape[1])
    flat = pa.array(vectors.values.reshape(-1))
    columns: dict[str, Any] = {
        "row": pa.array(np.arange(len(vectors), dtype=np.int64)),
        "line": pa.array([line + 1 for line, _ in places], pa.int64()),
        "chunk": pa.array([chunk for _, chunk in places], pa.int32()),
    }
    if records.ids:
        columns["id"] = pa.array([records.ids[line] for line, _ in places], pa.string())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, width)
    about = {
        "model": encoder.model_id,
        "fingerprint": encoder.fingerprint,
        "dtype": vectors.dtype,
        "dims": vectors.dims,
    }
    table = pa.table(columns).replace_schema_metadata({"diffembed": json.dumps(about)})
    pq.write_table(table, file)


def _places(vectors: Embeddings) -> Iterator[tuple[int, int]]:
    """Document and chunk number of every row."""
    for number, rows in enumerate(vectors.documents()):
        for chunk in range(len(rows)):
            yield number, chunk
