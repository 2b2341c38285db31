"""``encode_folder``: rows without end to a folder of shards, which a killed run leaves ready to go on with.

A shard is written under temporary names, flushed to disk, renamed, and only then named in the manifest. Whatever a
killed run left that the manifest does not name is removed by the next, so the folder ends up with the bytes that an
uninterrupted run gives.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import BinaryIO

from diffembed.bulk.blocks import (
    EncodedBlock,
    Engine,
    Options,
    Progress,
    encode_blocks,
    feed,
    read_blocks,
    row_digest,
)
from diffembed.bulk.file import nothing_in, ticking
from diffembed.bulk.manifest import (
    MANIFEST,
    QUARANTINE,
    Manifest,
    Quarantine,
    Settings,
    ShardEntry,
    environment,
    file_digest,
)
from diffembed.bulk.rows import Columns, Problem, RawRow, RawRows, StdinFormat, find_sources, parse
from diffembed.bulk.shards import SHARD_FORMATS, ShardFormat, new_shard, shard_names
from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.runtime.start import Device, Precision, RuntimeName
from diffembed.vectors.embeddings import Embeddings, VectorDtype

SHARD_ROWS = 100_000
_EXCERPT_BYTES, _REASON_CHARACTERS = 200, 400
_SHARD = re.compile(r"\.?(?:vectors|rows|part)-\d{5,}\.(?:npy|jsonl|parquet)(?:\.partial-\d+)?")
_BEGUN = re.compile(r"\.manifest\.json\.partial-\d+")


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What a folder holds after a run, and what of it the run did.

    Attributes:
        folder: where the shards are.
        rows: input rows; ``vectors`` of them, ``shards`` that hold these.
        kept: shards that an earlier run had finished.
        quarantined: rows without a vector, listed with their reasons in ``quarantine.jsonl``; ``kinds`` counts those.
        truncated, windowed: rows that were cut to the model's limit, or read through several windows.
        dtype, dims: of the vectors.
        tokens: read by the model, for all shards.
        seconds: of this run, loading the model left out.
        environments: of all runs; more than one where versions or processor changed in between.
    """

    folder: str
    rows: int
    vectors: int
    shards: int
    kept: int
    quarantined: int
    kinds: dict[str, int]
    truncated: int
    windowed: int
    dtype: str
    dims: int
    tokens: int
    seconds: float
    environments: tuple[dict[str, str], ...]

    def __str__(self) -> str:
        if self.shards and self.kept == self.shards:
            done = f"{self.folder} was complete already, nothing was written"
        else:
            done = f"wrote {self.folder} in {self.seconds:.1f} s"
            done += f" ({self.kept:,} of {self.shards:,} shards were there)" if self.kept else ""
        cut = f", {self.truncated:,} rows cut to the model's limit" if self.truncated else ""
        windowed = f", {self.windowed:,} rows read through several windows" if self.windowed else ""
        return (
            f"{done}: {self.vectors:,} {self.dtype} vectors of {self.dims} dims from {self.rows:,} rows "
            f"in {self.shards:,} shards{cut}{windowed}"
        )


def encode_folder(
    source: str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    model: str | Path | Encoder = "default",
    dtype: VectorDtype = "float32",
    dims: int | None = None,
    truncate: bool = False,
    windows: bool = False,
    format: ShardFormat = "npy",
    shard_rows: int = SHARD_ROWS,
    stdin_format: StdinFormat = "text",
    text_column: str | None = None,
    id_column: str | None = None,
    runtime: RuntimeName = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> FolderReport:
    """Encode rows into a folder of shards, or go on where an earlier run of the same was stopped or killed.

    The folder's bytes do not depend on interruptions or on ``threads``. A row that cannot be encoded is quarantined: it
    has no vector, and stands with its reason in ``quarantine.jsonl``.

    Args:
        source, dtype, dims, truncate, windows, stdin_format, text_column, id_column, runtime, precision, device,
            threads, progress: as for ``encode_file``; texts and documents with chunks may be mixed, ids may be missing.
        folder: is made if it is not there; otherwise it must be empty or hold an earlier run of the same.
        model: as for ``Encoder.load``. An encoder is used as it is: with several threads onnxruntime may add up in
            another order from call to call, which changes last bits.
        format: ``npy`` (``vectors-00000.npy`` and ``rows-00000.jsonl``) or ``parquet`` (``part-00000.parquet``).
        shard_rows: input rows of a shard.

    Raises:
        InputError: an input missing, damaged or not the one that the folder was begun with; a folder that is in use or
            holds something else, or vectors of another model or of other settings.
        ModelError: the model does not load.
    """
    if format not in SHARD_FORMATS or shard_rows < 1:
        raise InputError(f"format {format!r} or shard_rows {shard_rows} is not possible; see encode_folder")
    target, columns = Path(folder), Columns(text_column, id_column)
    sources = find_sources(source, columns, stdin_format)
    _require_folder(target)
    engine = Engine.start(model, threads, runtime=runtime, precision=precision, device=device)
    options = Options(dtype, dims, truncate, windows)
    settings = Settings.of(engine.encoder, options, sources, columns, format, shard_rows)
    start = time.perf_counter()
    raw = RawRows(sources, columns)
    rows = iter(raw)
    first = next(rows, None)
    if first is None:
        raise InputError(nothing_in(sources))
    paths = tuple("-" if source.path is None else str(source.path.absolute()) for source in sources)
    with _locked(target):
        manifest = _begin(target, engine.encoder, settings, paths)
        rows, kept = chain([first], rows), len(manifest.shards)
        tick = ticking(progress, raw)
        _skip_finished(rows, manifest, target, tick)
        if not manifest.complete:
            here = environment(engine.encoder.runtime.name)
            if here not in manifest.environments:
                manifest = replace(manifest, environments=(*manifest.environments, here))
            encoded = encode_blocks(
                read_blocks((parse(row, columns) for row in rows), shard_rows), engine, options, tick
            )
            with closing(encoded), (target / QUARANTINE).open("ab") as quarantine:
                for number, blocks in groupby(encoded, lambda block: block.shard):
                    form = options.form_of(engine.encoder)
                    manifest = _write_shard(target, number, blocks, manifest, form, quarantine)
                    manifest.write(target)
            manifest = replace(manifest, rows=tuple(raw.counts), complete=True)
            manifest.write(target)
    return _report(target, manifest, kept, time.perf_counter() - start)


def _report(folder: Path, manifest: Manifest, kept: int, seconds: float) -> FolderReport:
    shards = manifest.shards
    return FolderReport(
        folder=str(folder),
        rows=manifest.input_rows,
        vectors=manifest.vectors,
        shards=len(shards),
        kept=kept,
        quarantined=manifest.quarantine.rows,
        kinds=dict(manifest.quarantine.kinds),
        truncated=sum(shard.truncated for shard in shards),
        windowed=sum(shard.windowed for shard in shards),
        dtype=manifest.settings.dtype,
        dims=manifest.settings.dims,
        tokens=sum(shard.tokens for shard in shards),
        seconds=seconds,
        environments=manifest.environments,
    )


def _require_folder(folder: Path) -> None:
    """Refuse a path that is no folder, and a folder that holds something else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; shards need a folder (one file of vectors: encode_file, --output)")
    foreign = [path.name for path in folder.iterdir() if not _BEGUN.fullmatch(path.name)]
    if foreign and MANIFEST not in foreign:
        raise InputError(
            f"{folder} holds {sorted(foreign)[0]} and no {MANIFEST}; give an empty or new folder, or one that was begun"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to the folder; the system lets go when the process ends, however it ends."""
    import fcntl  # POSIX only; imported here so that the rest can be read elsewhere

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder} cannot be made or opened ({error.strerror}); check the path") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder} is being written by another process; wait until it has ended") from None
        yield
    finally:
        os.close(handle)


def _begin(folder: Path, encoder: Encoder, settings: Settings, sources: tuple[str, ...]) -> Manifest:
    """The manifest of the folder, new or as an earlier run left it, with the folder in the state that it says."""
    if not (folder / MANIFEST).exists():
        own = encoder.model_id != "default" and Path(encoder.model_id).exists()
        model = str(Path(encoder.model_id).absolute()) if own else encoder.model_id
        Manifest(model, settings, sources, (environment(encoder.runtime.name),)).write(folder)
    manifest = Manifest.read(folder)
    manifest.require_same(settings, encoder.model_id, folder)
    named = {name for shard in manifest.shards for name in shard.files}
    if absent := sorted(name for name in named if not (folder / name).is_file()):
        raise InputError(f"{folder} has lost {absent[0]}, which its manifest names; encode into another folder")
    for path in folder.iterdir():
        if path.name not in named and (_SHARD.fullmatch(path.name) or _BEGUN.fullmatch(path.name)):
            path.unlink()  # what a killed run had not finished
    quarantine = folder / QUARANTINE
    if not manifest.shards:
        quarantine.touch()
    length = quarantine.stat().st_size if quarantine.exists() else -1
    if length < manifest.quarantine.bytes:
        raise InputError(f"{quarantine} is missing or cut short; encode into another folder")
    if length > manifest.quarantine.bytes:
        os.truncate(quarantine, manifest.quarantine.bytes)
    return manifest


def _skip_finished(
    rows: Iterator[RawRow], manifest: Manifest, folder: Path, tick: Callable[[int], None] | None
) -> None:
    """Read past the rows of finished shards, and make sure that they are the rows these were made of."""
    names = " and ".join("stdin" if path == "-" else path for path in manifest.sources)
    again = f"give the input that {folder} was begun with ({names}), or another folder"
    for number, shard in enumerate(manifest.shards):
        digest, count = row_digest(), shard.last - shard.first + 1
        for row in islice(rows, count):
            feed(digest, row)
        if digest.hexdigest() != shard.rows_sha256:
            raise InputError(
                f"rows {shard.first} to {shard.last} of the input are not those of shard {number}: SHA-256 "
                f"{digest.hexdigest()[:16]}, made of {shard.rows_sha256[:16]}; {again}"
            )
        if tick is not None:
            tick(count)
        if count < manifest.settings.shard_rows and (more := next(rows, None)) is not None:
            raise InputError(
                f"the input goes on at {more.where}, where it ended when {folder} was written ({shard.last:,} rows); "
                f"{again}"
            )
    if manifest.complete and (more := next(rows, None)) is not None:
        raise InputError(
            f"the input goes on at {more.where}, but {folder} is complete with {manifest.input_rows:,} rows; {again}"
        )


def _write_shard(
    folder: Path,
    number: int,
    blocks: Iterator[EncodedBlock],
    manifest: Manifest,
    form: Embeddings,
    quarantine: BinaryIO,
) -> Manifest:
    """Write one shard and its bad rows; the manifest that names them."""
    settings = manifest.settings
    about = {
        "model": manifest.model,
        "fingerprint": settings.fingerprint,
        "dtype": settings.dtype,
        "dims": settings.dims,
    }
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    rows_sha256 = ""
    with new_shard(folder, number, settings.format, form, about) as write:
        for block in blocks:
            write(block)
            for row, problem in block.problems:
                quarantine.write(quarantine_line(row, problem))
                kinds[problem.kind] += 1
            counts.update(rows=block.rows, vectors=len(block.values), tokens=block.tokens)
            counts.update(truncated=len(block.seen_lines("truncated")), windowed=len(block.seen_lines("windowed")))
            rows_sha256 = block.digest
    quarantine.flush()
    os.fsync(quarantine.fileno())
    first = number * settings.shard_rows + 1
    entry = ShardEntry(
        first=first,
        last=first + counts["rows"] - 1,
        vectors=counts["vectors"],
        quarantined=kinds.total(),
        truncated=counts["truncated"],
        windowed=counts["windowed"],
        tokens=counts["tokens"],
        rows_sha256=rows_sha256,
        files={name: file_digest(folder / name) for name in shard_names(settings.format, number)},
    )
    before = manifest.quarantine
    summed = Counter(before.kinds) + kinds
    after = Quarantine(quarantine.tell(), before.rows + kinds.total(), dict(sorted(summed.items())))
    return replace(manifest, shards=(*manifest.shards, entry), quarantine=after)


def quarantine_line(row: RawRow, problem: Problem) -> bytes:
    """What ``quarantine.jsonl`` says of a row: its number, where it stands, why it has no vector, how it begins."""
    entry = {
        "line": row.number,
        "kind": problem.kind,
        "reason": problem.reason[:_REASON_CHARACTERS],
        "bytes": len(row.data),
        "begins": row.data[:_EXCERPT_BYTES].decode("utf-8", "backslashreplace"),
    }
    return json.dumps(entry).encode() + b"\n"
