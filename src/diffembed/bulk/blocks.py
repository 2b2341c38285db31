"""Rows to vectors, a block at a time: on all cores, in bounded memory, the same way every time.

A shard of the output is cut into blocks (what is held in memory), a block is sorted by length and cut into slices, and
each slice is one call of the encoder. Where the cuts fall follows from the rows of the shard alone; the model runs on
one thread a call, with several calls side by side. So the bytes that come out depend neither on the number of cores nor
on where an earlier run was killed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diffembed.bulk.rows import Problem, RawRow, Row
from diffembed.encoder import Encoder, TextTooLongError
from diffembed.errors import InputError
from diffembed.text.batching import blocks as cut
from diffembed.vectors.embeddings import Embeddings, VectorDtype

Progress = Callable[[int, int], None]
Seen = Literal["whole", "truncated", "windowed"]

_BLOCK_ROWS, _BLOCK_VECTORS, _BLOCK_CHARACTERS = 8192, 16_384, 8_000_000
_SLICE_ROWS, _SLICE_CHARACTERS = 2048, 64_000  # a few batches of the encoder's token budget
_CALLS_ON_GPU = 2  # one is tokenized and packed while the other is read
_BLOCKS_AHEAD = 1  # read and begun while the one before is finished and written


@dataclass(frozen=True, slots=True)
class Options:
    """How rows become vectors: the arguments of ``Encoder.encode_documents``."""

    dtype: VectorDtype = "float32"
    dims: int | None = None
    truncate: bool = False
    windows: bool = False

    def form_of(self, encoder: Encoder) -> Embeddings:
        """No vectors, in the form that the encoder would give them; refuses what it cannot give."""
        return encoder.encode_documents(
            [], dtype=self.dtype, dims=self.dims, truncate=self.truncate, windows=self.windows
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded encoder, and how many calls of it run side by side."""

    encoder: Encoder
    calls: int

    @classmethod
    def start(cls, model: str | Path | Encoder, threads: int | None = None, **how: Any) -> Engine:
        """Load a model for bulk work.

        Args:
            model: as for ``Encoder.load``, or an encoder, which is used as it is, one call after the other.
            threads: cores to use; ``None``: those that this process may run on.
            how: ``runtime``, ``precision`` and ``device`` of ``Encoder.load``.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; give at least 1")
        if isinstance(model, Encoder):
            if asked := [name for name, value in (*how.items(), ("threads", threads)) if value not in ("auto", None)]:
                raise InputError(f"{asked[0]} was given for an encoder that is loaded already; give it to Encoder.load")
            return cls(model, 1)
        encoder = Encoder.load(model, threads=1, **how)
        if getattr(encoder.runtime, "device", "cpu") != "cpu":
            return cls(encoder, _CALLS_ON_GPU)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(encoder, threads or cores)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one shard that are held in memory together.

    Attributes:
        digest: SHA-256 over the shard's rows up to the end of this block.
    """

    shard: int
    rows: list[Row]
    digest: str


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """What became of a block: vectors in row order, and the rows that have none.

    Attributes:
        shard, digest: as of ``Block``.
        rows: how many were read, those without a vector included.
        values: ``[vectors, width]`` as in ``Embeddings.values``.
        lines: ``[vectors]`` number of the row of each; ``chunks``: which of its chunks, from 0.
        ids: of the row of each vector; ``seen``: how the model read it.
        problems: rows without a vector, in order.
        tokens: read by the model.
    """

    shard: int
    digest: str
    rows: int
    values: npt.NDArray[Any]
    lines: npt.NDArray[np.int64]
    chunks: npt.NDArray[np.int32]
    ids: list[str | None]
    seen: list[Seen]
    problems: list[tuple[RawRow, Problem]]
    tokens: int

    def seen_lines(self, how: Seen) -> list[int]:
        """Numbers of the rows that the model read in this way."""
        return sorted({line for line, seen in zip(self.lines.tolist(), self.seen, strict=True) if seen == how})


def row_digest() -> Any:
    """A digest to be fed by ``feed``: what tells whether rows are those of an earlier run."""
    return hashlib.sha256()


def feed(digest: Any, row: RawRow) -> None:
    """Add a row."""
    digest.update(row.data)
    digest.update(b"\n")


def read_blocks(rows: Iterable[Row], shard_rows: int | None = None) -> Iterator[Block]:
    """Consecutive rows in blocks, none of which reaches over the end of a shard (``None``: one shard without end)."""
    for shard, members in groupby(rows, lambda row: (row.raw.number - 1) // shard_rows if shard_rows else 0):
        digest = row_digest()
        held: list[Row] = []
        vectors = characters = 0
        for row in members:
            own = sum(map(len, row.chunks))
            full = len(held) >= _BLOCK_ROWS or vectors + len(row.chunks) > _BLOCK_VECTORS
            if held and (full or characters + own > _BLOCK_CHARACTERS):
                yield Block(shard, held, digest.hexdigest())
                held, vectors, characters = [], 0, 0
            feed(digest, row.raw)
            held.append(row)
            vectors, characters = vectors + len(row.chunks), characters + own
        yield Block(shard, held, digest.hexdigest())


def encode_blocks(
    blocks: Iterable[Block],
    engine: Engine,
    options: Options,
    progress: Callable[[int], None] | None = None,
) -> Generator[EncodedBlock, None, None]:
    """Encode blocks in order; the next one is read while this one is being encoded.

    Args:
        progress: called with the rows that were just done.
    """
    form = options.form_of(engine.encoder)
    pool = ThreadPoolExecutor(engine.calls, thread_name_prefix="encode")
    waiting: deque[tuple[Block, list[Future[list[_Part]]]]] = deque()
    try:
        for block in blocks:
            calls = [pool.submit(_encode, engine.encoder, rows, options) for rows in _slices(block.rows)]
            waiting.append((block, calls))
            if len(waiting) > _BLOCKS_AHEAD:
                yield _collected(*waiting.popleft(), form, progress)
        while waiting:
            yield _collected(*waiting.popleft(), form, progress)
    finally:
        pool.shutdown(cancel_futures=True)


def encode_rows(engine: Engine, rows: Sequence[Row], options: Options) -> EncodedBlock:
    """Encode some rows at once."""
    block = Block(0, list(rows), "")
    calls = [_encode(engine.encoder, part, options) for part in _slices(block.rows)]
    return _assembled(block, [part for call in calls for part in call], options.form_of(engine.encoder))


_Part = tuple[list[Row], Embeddings | Problem]


def _slices(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows for one call each: texts apart from documents, of similar length."""
    good = [row for row in rows if row.problem is None]
    good.sort(key=lambda row: (row.together, sum(map(len, row.chunks))))
    for _, members in groupby(good, lambda row: row.together):
        alike = list(members)
        for start, end in cut([row.chunks for row in alike], _SLICE_ROWS, _SLICE_CHARACTERS):
            yield alike[start:end]


def _encode(encoder: Encoder, rows: list[Row], options: Options) -> list[_Part]:
    """The vectors of some rows; where one is refused, halves are tried until it stands alone."""
    settings: dict[str, Any] = {
        "dtype": options.dtype,
        "dims": options.dims,
        "truncate": options.truncate,
        "windows": options.windows,
    }
    try:
        if rows[0].together:
            return [(rows, encoder.encode_chunks([row.chunks for row in rows], **settings))]
        return [(rows, encoder.encode_documents([row.chunks[0] for row in rows], **settings))]
    except InputError as error:
        if len(rows) == 1:
            kind = "too_long" if isinstance(error, TextTooLongError) else "refused"
            said = re.match(r"(?:text|document) 0(.*)", str(error), re.DOTALL)
            return [(rows, Problem(kind, rows[0].raw.where + (said[1] if said else f": {error}")))]
    middle = len(rows) // 2
    return _encode(encoder, rows[:middle], options) + _encode(encoder, rows[middle:], options)


def _collected(
    block: Block, calls: list[Future[list[_Part]]], form: Embeddings, progress: Callable[[int], None] | None
) -> EncodedBlock:
    parts: list[_Part] = []
    for call in calls:
        parts += call.result()
        if progress is not None:
            progress(sum(len(rows) for rows, _ in call.result()))
    if progress is not None:
        progress(sum(row.problem is not None for row in block.rows))
    return _assembled(block, parts, form)


def _assembled(block: Block, parts: list[_Part], form: Embeddings) -> EncodedBlock:
    """Put what the calls gave back into row order."""
    problems = {row.raw.number: row.problem for row in block.rows if row.problem is not None}
    vectors: dict[int, npt.NDArray[Any]] = {}
    seen: dict[int, Seen] = {}
    tokens = 0
    for rows, found in parts:
        numbers = [row.raw.number for row in rows]
        if isinstance(found, Problem):
            problems[numbers[0]] = found
            continue
        vectors |= zip(numbers, found.documents(), strict=True)
        seen |= {numbers[i]: "windowed" for i in found.windowed}
        seen |= {numbers[i]: "truncated" for i in found.truncated}  # the graver of the two, where both are so
        tokens += found.tokens
    encoded = [row for row in block.rows if row.raw.number not in problems]
    counts = [len(row.chunks) for row in encoded]
    return EncodedBlock(
        shard=block.shard,
        digest=block.digest,
        rows=len(block.rows),
        values=np.concatenate([form.values, *(vectors[row.raw.number] for row in encoded)]),
        lines=np.repeat(np.array([row.raw.number for row in encoded], np.int64), counts),
        chunks=np.concatenate([np.arange(0, dtype=np.int32), *(np.arange(n, dtype=np.int32) for n in counts)]),
        ids=[row.id for row in encoded for _ in row.chunks],
        seen=[seen.get(row.raw.number, "whole") for row in encoded for _ in row.chunks],
        problems=[(row.raw, problems[row.raw.number]) for row in block.rows if row.raw.number in problems],
        tokens=tokens,
    )
