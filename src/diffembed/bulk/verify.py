"""``verify_folder``: whether a folder of vectors is what its manifest says, and says what the model says.

Every shard is counted and compared with its checksum; every input row must have its vectors or stand in the
quarantine, never both; where the input is still there, its rows are compared too, and a random sample of them is
encoded again.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from diffembed.bulk.blocks import Engine, Options, Progress, encode_rows, feed, row_digest
from diffembed.bulk.manifest import MANIFEST, QUARANTINE, Manifest, Settings, ShardEntry, file_digest
from diffembed.bulk.rows import Columns, RawRow, RawRows, Source, find_sources, parse
from diffembed.bulk.shards import read_places, read_vectors
from diffembed.encoder import Encoder
from diffembed.errors import DiffembedError, InputError
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.similarity import compare

SAMPLE = 64
# A vector that is encoded again stands in another batch, whose padding can move last bits and with int8 weights now and
# then a rounded activation. Vectors of two different texts are nowhere near these similarities.
AGREEMENT: dict[VectorDtype, float] = {"float32": 0.999, "int8": 0.999, "binary": 0.95}


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify_folder`` found.

    Attributes:
        folder: what was checked.
        shards, rows, vectors, quarantined: how many there are, by count.
        sampled: vectors that were encoded again; ``identical``: those of them that came out bit for bit.
        least: the least similarity of an old vector and its new one (1 if none was encoded); ``expected``: what it
            must not be below.
        problems: what is wrong; empty when the folder is sound.
        notes: what could not be checked, and why.
    """

    folder: str
    shards: int
    rows: int
    vectors: int
    quarantined: int
    sampled: int
    identical: int
    least: float
    expected: float
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        again = (
            f"; {self.sampled:,} encoded again: {self.identical:,} identical, least similarity {self.least:.6f}"
            if self.sampled
            else ""
        )
        return (
            f"{self.folder}: {self.vectors:,} vectors of {self.rows:,} rows in {self.shards:,} shards, "
            f"{self.quarantined:,} rows quarantined{again}"
        )


@dataclass(slots=True)
class _Sample:
    """A stored vector to compare: where it stands, whose it is, and its input row once that is found."""

    shard: int
    row: int
    line: int = 0
    chunk: int = 0
    values: npt.NDArray[Any] | None = None
    raw: RawRow | None = None


@dataclass(slots=True)
class _Findings:
    """What has been found so far."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    vectors: int = 0

    def require(self, true: bool, problem: str) -> bool:
        """Note the problem unless ``true``."""
        if not true:
            self.problems.append(problem)
        return true


def verify_folder(
    folder: str | Path,
    *,
    model: str | Path | Encoder | None = None,
    source: str | Path | Sequence[str | Path] | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a folder that ``encode_folder`` wrote.

    Args:
        model: encodes the sample; ``None``: the one that the folder was begun with.
        source: the input; ``None``: where it was when the folder was begun.
        sample: how many vectors to encode again; 0: none.
        seed: of their choice.
        progress: called with (shards checked, shards in all).

    Raises:
        InputError: no folder of vectors; a ``source`` that is not there or of another kind than the folder's.
    """
    target = Path(folder)
    if sample < 0:
        raise InputError(f"sample is {sample}; give 0 or more")
    manifest = Manifest.read(target)
    settings = manifest.settings
    columns = Columns(settings.text_column or None, settings.id_column or None)
    found = _Findings()
    found.require(manifest.complete, "it is not complete; run the same encode again to go on with it")
    _check_names(target, manifest, found)
    bad_lines = _check_quarantine(target, manifest, found)
    samples = _chosen(manifest, sample, seed)
    expected = 1
    for number, shard in enumerate(manifest.shards):
        found.require(shard.first == expected, f"shard {number} begins at row {shard.first}, {expected} was expected")
        expected = shard.last + 1
        wanted = [one for one in samples if one.shard == number]
        between = bad_lines[np.searchsorted(bad_lines, shard.first) : np.searchsorted(bad_lines, expected)]
        try:
            _check_shard(target, settings, shard, between, wanted, found, f"shard {number}: ")
        except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError) as error:
            found.problems.append(f"shard {number} cannot be read ({' '.join(str(error).split())})")
        if progress is not None:
            progress(number + 1, len(manifest.shards))
    sources = _sources(manifest, source, columns, found)
    if sources:
        _compare_rows(manifest, RawRows(sources, columns), samples, found)
    ready = [one for one in samples if one.raw is not None and one.values is not None]
    identical, least = _encode_again(target, manifest, model, ready, columns, found) if ready else (0, 1.0)
    return VerifyReport(
        folder=str(target),
        shards=len(manifest.shards),
        rows=found.rows,
        vectors=found.vectors,
        quarantined=len(bad_lines),
        sampled=len(ready),
        identical=identical,
        least=least,
        expected=AGREEMENT[cast("VectorDtype", settings.dtype)],
        problems=tuple(found.problems),
        notes=tuple(found.notes),
    )


def _check_names(folder: Path, manifest: Manifest, found: _Findings) -> None:
    named = {MANIFEST, QUARANTINE, *(name for shard in manifest.shards for name in shard.files)}
    for path in sorted(folder.iterdir()):
        found.require(path.name in named, f"{path.name} is in the folder, but not in its manifest")


def _check_quarantine(folder: Path, manifest: Manifest, found: _Findings) -> npt.NDArray[np.int64]:
    """Numbers of the quarantined rows, ascending."""
    lines: list[int] = []
    kinds: Counter[str] = Counter()
    said = manifest.quarantine
    try:
        data = (folder / QUARANTINE).read_bytes()
        for entry in map(json.loads, data[: said.bytes].splitlines()):
            lines.append(int(entry["line"]))
            kinds[entry["kind"]] += 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.problems.append(f"{QUARANTINE} cannot be read ({error})")
        return np.array([], np.int64)
    found.require(len(data) == said.bytes, f"{QUARANTINE} has {len(data)} bytes, its manifest says {said.bytes}")
    found.require(
        (len(lines), dict(kinds)) == (said.rows, said.kinds),
        f"{QUARANTINE} lists {len(lines)} rows ({dict(kinds)}), its manifest says {said.rows} ({said.kinds})",
    )
    found.require(lines == sorted(set(lines)), f"{QUARANTINE} lists rows twice or out of order")
    return np.array(sorted(set(lines)), np.int64)


def _chosen(manifest: Manifest, sample: int, seed: int) -> list[_Sample]:
    """Rows of shards, drawn at random among all vectors."""
    ends = np.cumsum([0, *(shard.vectors for shard in manifest.shards)])
    picked = sorted(random.Random(seed).sample(range(int(ends[-1])), min(sample, int(ends[-1]))))
    shards = (np.searchsorted(ends, picked, side="right") - 1).tolist()
    return [_Sample(shard, pick - int(ends[shard])) for shard, pick in zip(shards, picked, strict=True)]


def _check_shard(
    folder: Path,
    settings: Settings,
    shard: ShardEntry,
    bad_lines: npt.NDArray[np.int64],
    samples: Iterable[_Sample],
    found: _Findings,
    where: str,
) -> None:
    """Checksums, counts, form and places of one shard; puts their vectors into ``samples``."""
    names = list(shard.files)
    if absent := [name for name in names if not (folder / name).is_file()]:
        found.problems.append(f"{where}{absent[0]} is missing")
        return
    for name, said in shard.files.items():
        found.require(file_digest(folder / name) == said, f"{where}{name} does not have the checksum of its manifest")
    lines, chunks = read_places(folder, names)
    count = _check_vectors(folder, names, settings, {one.row: one for one in samples}, found, where)
    found.require(count == shard.vectors, f"{where}{count} vectors, its manifest says {shard.vectors}")
    found.require(len(lines) == count, f"{where}{count} vectors, but places of {len(lines)}")
    for one in samples:
        if one.row < len(lines):
            one.line, one.chunk = int(lines[one.row]), int(chunks[one.row])
    begins = np.diff(lines, prepend=0) != 0
    in_order = bool((np.diff(lines) >= 0).all()) and bool((begins == (chunks == 0)).all())
    steps = np.diff(chunks)[~begins[1:]]
    found.require(in_order and bool((steps == 1).all()), f"{where}chunks are missing, doubled or out of order")
    every = np.arange(shard.first, shard.last + 1)
    here = np.sort(np.concatenate([np.unique(lines), bad_lines]))
    found.require(
        np.array_equal(here, every),
        f"{where}of the rows {shard.first} to {shard.last} some are missing, or have vectors and are quarantined",
    )
    found.require(len(bad_lines) == shard.quarantined, f"{where}{len(bad_lines)} quarantined, not {shard.quarantined}")
    found.rows += len(here)
    found.vectors += count


def _check_vectors(
    folder: Path, names: list[str], settings: Settings, samples: dict[int, _Sample], found: _Findings, where: str
) -> int:
    form: np.dtype[Any] = np.dtype("uint8" if settings.dtype == "binary" else settings.dtype)
    width = settings.dims // 8 if settings.dtype == "binary" else settings.dims
    count = 0
    for values in read_vectors(folder, names):
        shape = f"{values.dtype} of width {values.shape[1:]}"
        if not found.require((values.dtype, values.shape[1:]) == (form, (width,)), f"{where}its vectors are {shape}"):
            return count
        found.require(
            form.kind != "f" or bool(np.isfinite(values).all()),
            f"{where}values that are not finite in vectors {count} to {count + len(values) - 1}",
        )
        for row in samples.keys() & range(count, count + len(values)):
            samples[row].values = np.array(values[row - count])
        count += len(values)
    return count


def _sources(
    manifest: Manifest, given: str | Path | Sequence[str | Path] | None, columns: Columns, found: _Findings
) -> tuple[Source, ...]:
    """The input, if it is still there."""
    inputs = manifest.settings.inputs
    if given is None:
        gone = [path for path in manifest.sources if path == "-" or not Path(path).is_file()]
        if gone:
            what = "was read from stdin" if gone[0] == "-" else f"{gone[0]} is not there"
            found.notes.append(f"the input {what}: rows were not compared, no sample was encoded; name the source")
            return ()
        given = manifest.sources
    names = [given] if isinstance(given, str | Path) else list(given)
    of_stdin = next((kind for name, kind in zip(names, inputs, strict=False) if str(name) == "-"), "text")
    sources = find_sources(names, columns, "jsonl" if of_stdin == "jsonl" else "text")
    if (kinds := tuple(source.format for source in sources)) != inputs:
        raise InputError(f"the source is {', '.join(kinds)}, the folder was made of {', '.join(inputs)}; give that one")
    return sources


def _compare_rows(manifest: Manifest, raw: RawRows, samples: Sequence[_Sample], found: _Findings) -> None:
    """Compare the input with the digests of the shards; puts their rows into ``samples``."""
    rows = iter(raw)
    try:
        for number, shard in enumerate(manifest.shards):
            wanted = {one.line for one in samples if one.shard == number}
            digest, kept = row_digest(), {}
            for _ in range(shard.first, shard.last + 1):
                row = next(rows, None)
                if row is None:
                    break
                feed(digest, row)
                if row.number in wanted:
                    kept[row.number] = row
            if digest.hexdigest() != shard.rows_sha256:
                found.problems.append(f"shard {number} was not made of these rows of the input")
                return
            for one in samples:
                one.raw = kept.get(one.line) if one.shard == number else one.raw
        if manifest.complete and (more := next(rows, None)) is not None:
            found.problems.append(f"the input goes on at {more.where}, after the last row of the folder")
    except InputError as error:
        found.problems.append(f"the input cannot be compared: {error}")


def _encode_again(
    folder: Path,
    manifest: Manifest,
    model: str | Path | Encoder | None,
    samples: Sequence[_Sample],
    columns: Columns,
    found: _Findings,
) -> tuple[int, float]:
    """How many sampled vectors come out the same, and the least similarity."""
    settings = manifest.settings
    dtype = cast("VectorDtype", settings.dtype)
    options = Options(dtype, settings.dims, settings.truncate, settings.windows)
    try:
        engine = _engine(manifest.model if model is None else model, settings)
        now = Settings.of(engine.encoder, options, (), columns, settings.format, settings.shard_rows)
        manifest.require_same(replace(now, inputs=settings.inputs), engine.encoder.model_id, folder)
    except DiffembedError as error:
        found.problems.append(f"no sample was encoded: {error}")
        return 0, 1.0
    rows = {one.raw.number: parse(one.raw, columns) for one in samples if one.raw is not None}
    block = encode_rows(engine, [rows[number] for number in sorted(rows)], options)
    vectors = dict(zip(zip(block.lines.tolist(), block.chunks.tolist(), strict=True), block.values, strict=True))
    identical, least = 0, 1.0
    for one in samples:
        new = vectors.get((one.line, one.chunk))
        place = f"shard {one.shard}, vector {one.row} (row {one.line}, chunk {one.chunk})"
        if new is None or one.values is None:
            found.problems.append(f"{place}: encoded again, the row gives no such vector")
            continue
        if np.array_equal(new, one.values):
            identical += 1
            continue
        similarity = float(compare(one.values[None], new[None], dtype, settings.dims)[0, 0])
        least = min(least, similarity)
        found.require(
            similarity >= AGREEMENT[dtype], f"{place}: encoded again, its similarity with itself is {similarity:.4f}"
        )
    return identical, least


def _engine(model: str | Path | Encoder, settings: Settings) -> Engine:
    if isinstance(model, Encoder):
        return Engine.start(model)
    runtime = "onnx" if settings.runtime == "onnx" else "torch"
    return Engine.start(model, runtime=runtime, precision=settings.precision, device=settings.device)
