"""Carrying an index elsewhere and back: export to Parquet or .npy, import of Parquet with vectors made elsewhere."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diffembed.data.jsonl import read_objects
from diffembed.errors import IndexStoreError, InputError
from diffembed.index.catalog import Catalog, IdArray
from diffembed.index.compaction import MERGED_ROWS
from diffembed.index.encoding import Progress
from diffembed.index.incoming import LocatedRecord, vector_ids, vector_rows
from diffembed.index.merging import Merged
from diffembed.index.records import WriteReport
from diffembed.index.scan import Snapshot
from diffembed.index.schema import Settings, StoredChunk
from diffembed.index.segments import Int8Rows
from diffembed.index.storage import write_durably
from diffembed.index.store import open_existing

UNKNOWN = "unknown"
_BATCH_BYTES = 256 << 20
_EXPORT_ROWS = 8192
_TOLD = b"diffembed"  # key of the settings in the metadata of a Parquet file
_PLACES = frozenset({"start", "end", "line_start", "line_end"})  # of a chunk: no metadata in files of ``export``


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written: the file of the vectors, the file of their ids where that is another one, and how many."""

    output: Path
    ids: Path | None
    rows: int
    dims: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": str(self.output),
            "ids": None if self.ids is None else str(self.ids),
            "rows": self.rows,
            "dims": self.dims,
        }


Block = tuple[IdArray, Int8Rows]


def export_rows(
    catalog: Catalog, snapshot: Snapshot, settings: Settings, into: Path, progress: Progress | None = None
) -> ExportReport:
    """Write every live row of one state of the index (see ``Index.export``); to be called in a transaction."""
    if into.suffix not in (".parquet", ".npy"):
        raise InputError(f"output {into} must end in .parquet or .npy")
    if not into.parent.is_dir():
        raise InputError(f"the folder of {into} does not exist; make it first")
    ids_name = None
    try:
        if into.suffix == ".parquet":
            write_durably(into, lambda file: _write_parquet(file, catalog, snapshot, settings, progress))
        else:
            ids_name = into.with_suffix(".ids.npy" if settings.vectors_only else ".ids.jsonl")
            write_durably(into, lambda file: _write_npy(file, snapshot, settings, progress))
            write_durably(ids_name, lambda file: _write_ids(file, catalog, snapshot, settings))
    except OSError as error:
        raise InputError(f"{into} cannot be written ({error.strerror}); make room or name another file") from None
    return ExportReport(into, ids_name, snapshot.rows, settings.dims)


def blocks(snapshot: Snapshot, progress: Progress | None = None) -> Iterator[Block]:
    """Ids and rows of all live rows, by id, so that the chunks of a document stand together."""
    merged = Merged([part.segment for part in snapshot.parts], [part.live for part in snapshot.parts])
    done = 0
    for ids_N, rows_ND in merged.blocks(_EXPORT_ROWS):
        yield ids_N, rows_ND
        done += len(ids_N)
        if progress is not None:
            progress(done, len(merged.ids))


def _write_npy(file: BinaryIO, snapshot: Snapshot, settings: Settings, progress: Progress | None) -> None:
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|i1", "fortran_order": False, "shape": (snapshot.rows, settings.dims)}
    )
    for _, rows_ND in blocks(snapshot, progress):
        file.write(rows_ND.tobytes())


def _write_ids(file: BinaryIO, catalog: Catalog, snapshot: Snapshot, settings: Settings) -> None:
    if settings.vectors_only:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (snapshot.rows,)})
    for ids, _ in blocks(snapshot):
        if settings.vectors_only:
            file.write(ids.astype("<i8").tobytes())
            continue
        for stored in catalog.chunks(ids.tolist()):
            line = {"id": stored.document.key, "chunk": stored.id - stored.document.first_chunk}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def _write_parquet(
    file: BinaryIO, catalog: Catalog, snapshot: Snapshot, settings: Settings, progress: Progress | None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.int8(), settings.dims)
    texts = {"chunk": pa.int32(), "text": pa.string(), "start": pa.int64(), "end": pa.int64()}
    texts |= {"line_start": pa.int64(), "line_end": pa.int64(), "kind": pa.string(), "metadata": pa.string()}
    columns = {"id": pa.int64()} if settings.vectors_only else {"id": pa.string(), **texts}
    told = {_TOLD: json.dumps(asdict(settings)).encode()}
    schema = pa.schema({**columns, "vector": vector}, metadata=told)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for ids, rows_ND in blocks(snapshot, progress):
            values = {"id": ids} if settings.vectors_only else _text_columns(catalog.chunks(ids.tolist()))
            flat = pa.array(rows_ND.reshape(-1), pa.int8())
            arrays = [pa.array(values[name], schema.field(name).type) for name in columns]
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, settings.dims))
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _text_columns(chunks: Sequence[StoredChunk]) -> dict[str, list[Any]]:
    return {
        "id": [c.document.key for c in chunks],
        "chunk": [c.id - c.document.first_chunk for c in chunks],
        "text": [c.chunk.text for c in chunks],
        "start": [c.chunk.start for c in chunks],
        "end": [c.chunk.end for c in chunks],
        "line_start": [c.chunk.line_start for c in chunks],
        "line_end": [c.chunk.line_end for c in chunks],
        "kind": [c.kind for c in chunks],
        "metadata": [c.document.metadata for c in chunks],
    }


class ParquetRows:
    """Parquet files with an ``id`` and a ``vector`` column, and for records ``text``; checked before anything is read.

    Args:
        files: one or more.
        settings: of the index that is to take them.
        fingerprint: of the model that made the vectors; ``"unknown"`` where nobody knows; ``None`` if the files say it.
        columns: other names for ``id``, ``vector`` and ``text``.

    Raises:
        InputError: a column that is missing or of another type or width, or ids that are there twice.
        IndexStoreError: another model than that of the index.
    """

    def __init__(
        self, files: Sequence[Path], settings: Settings, fingerprint: str | None, columns: Mapping[str, str]
    ) -> None:
        if not files:
            raise InputError("no Parquet file given; name at least one")
        self.settings = settings
        self.names = {"id": "id", "vector": "vector", "text": "text"} | dict(columns)
        self.files: list[tuple[Path, Any]] = []
        for path in files:
            file = _open_parquet(path)
            self.files.append((path, file))
            _check_model(path, file.schema_arrow.metadata or {}, settings, fingerprint)
            self._check_columns(path, file.schema_arrow)
        if settings.vectors_only:
            self._check_ids()

    @property
    def rows(self) -> int:
        """How many there are in all."""
        return sum(file.metadata.num_rows for _, file in self.files)

    def _check_columns(self, path: Path, schema: Any) -> None:
        import pyarrow as pa

        wanted = ["id", "vector"] + ([] if self.settings.vectors_only else ["text"])
        for name in (self.names[w] for w in wanted):
            if name not in schema.names:
                raise InputError(f"{path} has no column {name!r}; it has {', '.join(schema.names)}")
        kind, vector = schema.field(self.names["id"]).type, schema.field(self.names["vector"]).type
        if self.settings.vectors_only and not pa.types.is_integer(kind):
            raise InputError(f"{path}: ids are {kind}; an index of vectors only takes integers")
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(f"{path}: ids are {kind}; give strings or integers")
        is_list = pa.types.is_fixed_size_list(vector) or pa.types.is_list(vector) or pa.types.is_large_list(vector)
        if not is_list or not (pa.types.is_int8(vector.value_type) or pa.types.is_floating(vector.value_type)):
            raise InputError(f"{path}: vectors are {vector}; give lists of int8 or floating point")
        if pa.types.is_fixed_size_list(vector) and vector.list_size != self.settings.dims:
            raise InputError(f"{path}: vectors are {vector.list_size} wide, the index {self.settings.dims}")

    def _check_ids(self) -> None:
        name = self.names["id"]
        columns = [(path, file.read(columns=[name])[name]) for path, file in self.files]
        for path, column in columns:
            if column.null_count:
                raise InputError(f"{path} has a row without an id; give every row one")
        ids = [vector_ids(column.to_numpy(), len(column)) for _, column in columns]
        ordered = np.sort(np.concatenate(ids))
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise InputError(f"id {twice[0]} is there twice; give every id once")

    def batches(self, rows: int) -> Iterator[tuple[Path, Any, np.ndarray]]:
        """File, a record batch of at most so many rows, and its vectors as the file has them."""
        for path, file in self.files:
            for batch in file.iter_batches(batch_size=rows):
                yield path, batch, self._vectors(path, batch.column(self.names["vector"]))

    def _vectors(self, path: Path, column: Any) -> np.ndarray:
        flat = column.flatten()
        if column.null_count or flat.null_count:
            raise InputError(f"{path} has rows without a vector, or vectors with a null in them; leave them out")
        dims = self.settings.dims
        sizes = np.unique(np.asarray(column.value_lengths()))
        if len(column) and sizes.tolist() != [dims]:
            raise InputError(f"{path}: vectors are {', '.join(map(str, sizes))} wide, the index {dims}")
        return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), dims)

    def records(self) -> Iterator[dict[str, Any]]:
        """Records with the vectors of their chunks; rows below each other that share an id are one document."""
        waiting: dict[str, Any] | None = None
        done: set[str] = set()
        for path, batch, vectors in self.batches(_EXPORT_ROWS):
            for row, vector in zip(batch.drop_columns([self.names["vector"]]).to_pylist(), vectors, strict=True):
                key, chunk = row[self.names["id"]], row.get("chunk", 0)
                if waiting is not None and waiting["id"] == key and chunk == len(waiting["chunks"]):
                    waiting["chunks"].append(row[self.names["text"]])
                    waiting["vectors"].append(vector)
                    continue
                if waiting is not None:
                    yield waiting
                if str(key) in done or chunk != 0:
                    what = "is there twice" if chunk == 0 else f"has chunk {chunk} where chunk 0 was expected"
                    raise InputError(f"{path}: id {key!r} {what}; give every id once, its chunks in order")
                done.add(str(key))
                waiting = {
                    "id": key,
                    "chunks": [row[self.names["text"]]],
                    "vectors": [vector],
                    "kind": row.get("kind") or "prose",
                    "metadata": self._metadata(path, row, _TOLD in (batch.schema.metadata or {})),
                }
        if waiting is not None:
            yield waiting

    def _metadata(self, path: Path, row: Mapping[str, Any], exported: bool) -> Mapping[str, Any]:
        given = row.get("metadata")
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError:
                given = "no JSON"
        if given is not None and not isinstance(given, Mapping):
            raise InputError(f"{path}: metadata of id {row[self.names['id']]!r} is no object; give JSON or a struct")
        ours = {*self.names.values(), "chunk", "kind", "metadata", *(_PLACES if exported else ())}
        others = {name: _plain(value) for name, value in row.items() if name not in ours and value is not None}
        return {**others, **(given or {})}


def _plain(value: Any) -> Any:
    """Times as text (ISO 8601), which sorts as they do; anything else as it is."""
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def write_rows(folder: Path, rows: ParquetRows, progress: Progress | None = None) -> WriteReport:
    """Store the vectors of Parquet files in an index that holds vectors only; every batch is a commit."""
    began = time.perf_counter()
    at_once = max(1, min(MERGED_ROWS, _BATCH_BYTES // rows.settings.dims))
    done = replaced = 0
    with open_existing(folder) as store:
        for path, batch, vectors in rows.batches(at_once):
            ids = vector_ids(np.asarray(batch.column(rows.names["id"])), len(batch))
            before = store.catalog.counts()[1]
            store.add_rows(ids, vector_rows(vectors, rows.settings.dims, f"the vectors of {path}"))
            done += len(ids)
            replaced += len(ids) - (store.catalog.counts()[1] - before)
            if progress is not None:
                progress(done, rows.rows)
        store.merge_small()
    seconds = time.perf_counter() - began
    return WriteReport(added=done - replaced, replaced=replaced, chunks=done, seconds=seconds)


def _open_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); check it") from None


def stated_fingerprint(files: Sequence[Path]) -> str:
    """Of the model that made the vectors, as the files say it; empty where they do not, or not all the same.

    Raises:
        InputError: a file that is no Parquet.
    """
    told = {_stated(_open_parquet(path).schema_arrow.metadata or {}) for path in files}
    return told.pop() if len(told) == 1 else ""


def _stated(metadata: Mapping[bytes, bytes]) -> str:
    return str(json.loads(metadata[_TOLD]).get("fingerprint", "")) if _TOLD in metadata else ""


def _check_model(path: Path, metadata: Mapping[bytes, bytes], settings: Settings, fingerprint: str | None) -> None:
    made_by = fingerprint if fingerprint is not None else _stated(metadata)
    if not settings.fingerprint or made_by in (UNKNOWN, settings.fingerprint):
        return
    if not made_by:
        raise InputError(
            f"{path} does not say which model made its vectors; give its fingerprint ({settings.fingerprint[:12]}... "
            f"is that of the index), or {UNKNOWN!r} if you vouch for them"
        )
    raise IndexStoreError(
        f"{path} has vectors of the model {made_by[:12]}..., the index was made by {settings.model} "
        f"({settings.fingerprint[:12]}...); import them into an index of their own"
    )


def jsonl_records(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Records from JSON lines: ``id`` (or ``_id``), ``text`` or ``chunks``, ``kind``, ``vector``, ``vectors``,
    ``metadata``; every other key goes into the metadata.

    Raises:
        InputError: a line that is no object, named by file and number.
    """
    own = ("text", "chunks", "kind", "vector", "vectors")
    for path in files:
        for where, row in read_objects(path):
            inner = row.pop("metadata", None)
            if inner is not None and not isinstance(inner, dict):
                raise InputError(f"{where} has metadata that is no object; give one, or leave it out")
            record = {"id": row.pop("id") if "id" in row else row.pop("_id", None)}
            record |= {name: row.pop(name) for name in own if name in row}
            yield LocatedRecord(where, {**record, "metadata": {**row, **(inner or {})}})
