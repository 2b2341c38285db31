"""``encode_file``: texts or chunked documents to one file of vectors, which appears whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffembed.bulk.blocks import Engine, Options, Progress, encode_blocks, read_blocks
from diffembed.bulk.rows import Columns, Problem, RawRows, Row, Source, StdinFormat, find_sources, parse
from diffembed.bulk.shards import NpyFile, ParquetFile, VectorFile
from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.models.files import atomic_file
from diffembed.runtime.start import Device, Precision, RuntimeName
from diffembed.vectors.embeddings import VectorDtype

_SUFFIXES = (".npy", ".parquet")


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What one call of ``encode_file`` did.

    Attributes:
        output: the file written.
        documents: lines read; ``rows`` vectors written (more than documents when they were chunked).
        dtype, dims: of the vectors.
        tokens: read by the model.
        seconds: of reading, encoding and writing, loading the model left out.
        truncated: line numbers (from 1) of the inputs that were cut to the model's limit.
        windowed: line numbers of the inputs that were longer than that and read through several windows.
    """

    output: str
    documents: int
    rows: int
    dtype: VectorDtype
    dims: int
    tokens: int
    seconds: float
    truncated: tuple[int, ...] = ()
    windowed: tuple[int, ...] = ()

    def __str__(self) -> str:
        cut = f", {len(self.truncated):,} cut to the model's limit" if self.truncated else ""
        windowed = f", {len(self.windowed):,} read through several windows" if self.windowed else ""
        return (
            f"wrote {self.output}: {self.rows:,} {self.dtype} vectors of {self.dims} dims "
            f"from {self.documents:,} lines, {self.tokens:,} tokens in {self.seconds:.1f} s{cut}{windowed}"
        )


def encode_file(
    source: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path | Encoder = "default",
    dtype: VectorDtype = "float32",
    dims: int | None = None,
    truncate: bool = False,
    windows: bool = False,
    stdin_format: StdinFormat = "text",
    text_column: str | None = None,
    id_column: str | None = None,
    runtime: RuntimeName = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> EncodeReport:
    """Encode one or several files into one.

    Input and output stream: memory holds a few thousand rows, however long the files are.

    Args:
        source: ``.txt`` (a text a line), ``.jsonl`` (``text``, or ``chunks`` that are read together), both also with
            ``.gz`` and ``.zst``, ``.parquet``, or ``-`` for stdin. Rows are counted on through several files.
        output: ``.npy`` holds the array ``[rows, dims]`` (``[rows, dims / 8]`` uint8 for binary); ``.parquet`` the
            columns ``row``, ``line`` (from 1), ``chunk`` (from 0), ``id`` (where the records have one), ``seen``
            (``whole``, ``truncated`` or ``windowed``) and ``vector``.
        model: as for ``Encoder.load``, or an encoder.
        dtype: ``float32``, ``int8`` or ``binary``.
        dims: one of the model's widths.
        truncate: cut what is over the model's limit instead of refusing it.
        windows: read it through overlapping windows instead.
        stdin_format: what stdin holds: lines of ``text`` or ``jsonl``.
        text_column: key or column of the text (or list of chunks); ``None``: ``text`` or ``chunks``.
        id_column: key or column of the id; ``None``: ``id`` or ``_id``.
        runtime, precision, device: as for ``Encoder.load``.
        threads: cores to use; ``None``: all that this process may run on.
        progress: called with (lines done, lines in all: an estimate until all are read, 0 where there is none).

    Raises:
        InputError: a file missing or of another kind; a line empty, unreadable or over the limit, named by number.
        ModelError: the model does not load.
    """
    target = Path(output)
    if target.suffix not in _SUFFIXES:
        raise InputError(f"output {target} must end in {' or '.join(_SUFFIXES)}")
    if target.is_dir():
        raise InputError(f"output {target} is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise InputError(f"the folder of {target} does not exist; make it first")
    columns = Columns(text_column, id_column)
    sources = find_sources(source, columns, stdin_format)
    engine = Engine.start(model, threads, runtime=runtime, precision=precision, device=device)
    options = Options(dtype, dims, truncate, windows)
    form = options.form_of(engine.encoder)
    start = time.perf_counter()
    raw = RawRows(sources, columns)
    rows_read = read_blocks(_alike(parse(row, columns) for row in raw))
    encoded = encode_blocks(rows_read, engine, options, ticking(progress, raw))
    documents = rows = tokens = 0
    truncated: list[int] = []
    windowed: list[int] = []
    with closing(encoded), atomic_file(target) as partial:
        file: VectorFile | None = None
        try:
            for block in encoded:
                if block.problems:
                    raise InputError(block.problems[0][1].reason)
                if file is None:
                    file = _open(target, partial, form, engine.encoder, ids=block.ids[0] is not None)
                file.write(block)
                documents, rows, tokens = documents + block.rows, rows + len(block.values), tokens + block.tokens
                truncated += block.seen_lines("truncated")
                windowed += block.seen_lines("windowed")
            if file is None:
                raise InputError(nothing_in(sources))
        finally:
            if file is not None:
                file.close()
    seconds = time.perf_counter() - start
    return EncodeReport(
        str(target), documents, rows, dtype, form.dims, tokens, seconds, tuple(truncated), tuple(windowed)
    )


def ticking(progress: Progress | None, raw: RawRows) -> Callable[[int], None] | None:
    """What adds up rows for ``progress``."""
    if progress is None:
        return None
    done = 0

    def tick(more: int) -> None:
        nonlocal done
        done += more
        progress(done, raw.total())

    return tick


def nothing_in(sources: Sequence[Source]) -> str:
    """The message about inputs without a row."""
    return f"{' and '.join(source.name for source in sources)} is empty; give it a line"


def _open(target: Path, partial: Path, form: Any, encoder: Encoder, *, ids: bool) -> VectorFile:
    if target.suffix == ".npy":
        return NpyFile(partial, form)
    about = {
        "model": encoder.model_id,
        "fingerprint": encoder.fingerprint,
        "dtype": form.dtype,
        "dims": form.dims,
    }
    return ParquetFile(partial, form, about, ids=ids)


def _alike(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of which all are texts or all have chunks, and all or none an id; the first that differs is a problem."""
    first: Row | None = None
    for row in rows:
        if first is None and row.problem is None:
            first = row
        if first is not None and row.problem is None:
            if row.together != first.together:
                reason = "changes from text to chunks or back; put the two kinds into separate files"
                row = replace(row, chunks=(), problem=Problem("mixed", f"{row.raw.where} {reason}"))
            elif (row.id is None) != (first.id is None):
                has = "no id, but the first has one" if row.id is None else "an id, but the first has none"
                reason = f"has {has}; give one to all of them or to none"
                row = replace(row, chunks=(), problem=Problem("mixed", f"{row.raw.where} {reason}"))
        yield row
