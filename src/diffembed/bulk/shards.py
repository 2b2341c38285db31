"""Files of vectors, written block by block: ``.npy`` (beside it a ``.jsonl`` that says which row is whose), Parquet.

The bytes follow from the vectors and their places alone: no times, no names of machines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt

from diffembed.bulk.blocks import EncodedBlock
from diffembed.models.files import atomic_file
from diffembed.vectors.embeddings import Embeddings

ShardFormat = Literal["npy", "parquet"]
SHARD_FORMATS: tuple[ShardFormat, ...] = ("npy", "parquet")


class VectorFile(Protocol):
    """A file that takes blocks in order."""

    def write(self, block: EncodedBlock) -> None: ...
    def close(self) -> None: ...


class NpyFile:
    """The vectors as one array ``[rows, width]``, as ``numpy.save`` writes it, without holding it.

    Args:
        form: says type and width; its vectors are not written.
    """

    def __init__(self, path: Path, form: Embeddings) -> None:
        self._shape = [0, int(form.values.shape[1])]
        self._descr = np.lib.format.dtype_to_descr(form.values.dtype)
        self._stream: BinaryIO = path.open("wb")
        self._header()

    def _header(self) -> None:
        # numpy leaves room for the number of rows to grow, so that the header keeps its length.
        entries = {"descr": self._descr, "fortran_order": False, "shape": tuple(self._shape)}
        np.lib.format.write_array_header_1_0(self._stream, entries)

    def write(self, block: EncodedBlock) -> None:
        self._stream.write(np.ascontiguousarray(block.values).data)
        self._shape[0] += len(block.values)

    def close(self) -> None:
        self._stream.seek(0)
        self._header()
        self._stream.close()


class RowsFile:
    """One JSON object a vector: its ``row`` in the array beside it, ``line`` and ``chunk`` of the input, ``id``."""

    def __init__(self, path: Path) -> None:
        self._row = 0
        self._stream = path.open("w", encoding="utf-8", newline="\n")

    def write(self, block: EncodedBlock) -> None:
        for line, chunk, own, seen in zip(
            block.lines.tolist(), block.chunks.tolist(), block.ids, block.seen, strict=True
        ):
            entry: dict[str, Any] = {"row": self._row, "line": line, "chunk": chunk}
            if own is not None:
                entry["id"] = own
            if seen != "whole":
                entry["seen"] = seen
            self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._row += 1

    def close(self) -> None:
        self._stream.close()


class ParquetFile:
    """Columns ``row``, ``line``, ``chunk``, ``id`` (unless left out), ``seen`` and ``vector``; a row group a block.

    Args:
        about: kept as JSON in the file's metadata under ``diffembed``.
    """

    def __init__(self, path: Path, form: Embeddings, about: dict[str, Any], *, ids: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = int(form.values.shape[1])
        fields = [("row", pa.int64()), ("line", pa.int64()), ("chunk", pa.int32())]
        fields += [("id", pa.string())] if ids else []
        fields += [("seen", pa.string()), ("vector", pa.list_(pa.from_numpy_dtype(form.values.dtype), width))]
        self._schema = pa.schema(fields, metadata={"diffembed": json.dumps(about)})
        self._width, self._rows = width, 0
        self._writer = pq.ParquetWriter(path, self._schema, use_dictionary=["seen"])

    def write(self, block: EncodedBlock) -> None:
        import pyarrow as pa

        count = len(block.values)
        if not count:
            return
        columns: dict[str, Any] = {
            "row": np.arange(self._rows, self._rows + count, dtype=np.int64),
            "line": block.lines,
            "chunk": block.chunks,
            "id": pa.array(block.ids, pa.string()),
            "seen": pa.array(block.seen, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(block.values.reshape(-1)), self._width),
        }
        table = pa.table([columns[name] for name in self._schema.names], schema=self._schema)
        self._writer.write_table(table, row_group_size=count)
        self._rows += count

    def close(self) -> None:
        self._writer.close()


@contextmanager
def new_shard(
    folder: Path, number: int, format: ShardFormat, form: Embeddings, about: dict[str, Any]
) -> Iterator[Callable[[EncodedBlock], None]]:
    """The files of one shard: they appear whole when it is left without an error, or not at all.

    Yields:
        What adds a block.
    """
    with ExitStack() as whole:
        paths = [whole.enter_context(atomic_file(folder / name)) for name in shard_names(format, number)]
        with ExitStack() as opened:
            files: list[VectorFile] = []
            if format == "npy":
                files.append(opened.enter_context(closing(NpyFile(paths[0], form))))
                files.append(opened.enter_context(closing(RowsFile(paths[1]))))
            else:
                files.append(opened.enter_context(closing(ParquetFile(paths[0], form, about, ids=True))))

            def write(block: EncodedBlock) -> None:
                for file in files:
                    file.write(block)

            yield write


def shard_names(format: ShardFormat, number: int) -> list[str]:
    """The files of a shard.

    >>> shard_names("npy", 3), shard_names("parquet", 3)
    (['vectors-00003.npy', 'rows-00003.jsonl'], ['part-00003.parquet'])
    """
    return [f"vectors-{number:05}.npy", f"rows-{number:05}.jsonl"] if format == "npy" else [f"part-{number:05}.parquet"]


def read_vectors(folder: Path, names: list[str]) -> Iterator[npt.NDArray[Any]]:
    """The vectors of a shard's files in order, a piece at a time."""
    first = folder / names[0]
    if first.suffix == ".npy":
        values = np.load(first, mmap_mode="r", allow_pickle=False)
        step = max(1, (1 << 24) // max(1, values[:1].nbytes))
        yield from (values[at : at + step] for at in range(0, max(1, len(values)), step))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(first) as file:
        for batch in file.iter_batches(4096, columns=["vector"]):
            column = batch.column("vector")
            if not pa.types.is_fixed_size_list(column.type):
                raise ValueError(f"its vectors are of type {column.type}")
            yield column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def read_places(folder: Path, names: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Line and chunk of every vector of a shard's files."""
    if len(names) > 1:
        with (folder / names[1]).open(encoding="utf-8") as stream:
            entries = [(e["row"], e["line"], e["chunk"]) for e in map(json.loads, stream)]
        table = np.array(entries, np.int64).reshape(-1, 3).T
    else:
        import pyarrow.parquet as pq

        columns = pq.read_table(folder / names[0], columns=["row", "line", "chunk"])
        table = np.stack([columns[name].to_numpy().astype(np.int64) for name in ("row", "line", "chunk")])
    if not np.array_equal(table[0], np.arange(table.shape[1])):
        raise ValueError("its rows are not numbered from 0 without a gap")
    return table[1], table[2]
