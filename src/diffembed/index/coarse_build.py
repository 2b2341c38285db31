"""Building the coarse index of a segment: centroids, codes part by part, and the file that ``coarse.py`` searches.

Memory does not grow with the segment: centroids are trained on a sample, rows are coded a part at a time, and the parts
are joined list by list. What is finished lies in a folder of its own; a build that was killed goes on with the part it
was at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from diffembed.index.blocks import HEADER_BYTES, BlockWriter, ByteArray, CheckedFile
from diffembed.index.centroids import SEED, Nearest, train_centroids
from diffembed.index.coarse import ALIGN, MAGIC, VERSION, centroids_of, table_at
from diffembed.index.segments import FloatArray, IdArray, Int8Rows, Segment, unit_rows
from diffembed.index.storage import write_durably

Codes = Literal["pq2", "pq4", "rabitq", "rabitq2"]
Progress = Callable[[str, int, int], None]

PART_ROWS = 1 << 20
_AT_ONCE = 1 << 14  # rows of float32 that stand in memory while they are coded
_PACKED = 32  # rows of one block of faiss's fast-scan codes
_SAMPLE_VALUES = 1_000_000_000  # of int8 that centroids are trained on at most
_SAMPLE_PER_LIST = 40  # with 6 a list, a search of ten million rows of 1,024 dims scanned seven times as many codes
_CODE_SAMPLE = 1 << 16
_JOINED_ROWS = 1 << 19
_FINE_DIMS = 1024  # up to this width codes of two bits for each dimension, above (not measured) of one
_PART_MAGIC = b"DFMBPRT\0"


@dataclass(frozen=True, slots=True)
class Design:
    """How a coarse index is made.

    Attributes:
        lists: inverted lists; ``None`` for ``lists_for(rows)``.
        codes: ``pq2``, ``pq4``: product quantization, 4 bits for every 2 or 4 dimensions; ``rabitq``, ``rabitq2``:
            RaBitQ with one or two bits for each dimension. All in faiss's fast-scan layout. ``None`` for
            ``codes_for(dims)``.
        graph: neighbours of a centroid in the HNSW graph.
    """

    lists: int | None = None
    codes: Codes | None = None
    graph: int = 32


DEFAULT_DESIGN = Design()


def lists_for(rows: int) -> int:
    """How many inverted lists: the power of two next to four times the square root.

    >>> [lists_for(n) for n in (100_000, 1_000_000, 16_000_000)]
    [1024, 4096, 16384]
    """
    return 1 << max(4, round(math.log2(4 * math.sqrt(rows))))


def codes_for(dims: int) -> Codes:
    """The kind of codes for a width, as `benchmarks/index_sweep.py` decided; RaBitQ where a width cannot be divided.

    >>> codes_for(1024), codes_for(2560), codes_for(101)
    ('pq2', 'pq4', 'rabitq')
    """
    each = 2 if dims <= _FINE_DIMS else 4
    if 2 * each * _quantizers(dims, each) < dims:
        return "rabitq"
    return "pq2" if each == 2 else "pq4"


def _quantizers(dims: int, each: int) -> int:
    """How many sub-quantizers of at least ``each`` dimensions: an even divisor of the width.

    >>> _quantizers(384, 2), _quantizers(100, 4), _quantizers(6, 2)
    (192, 20, 2)
    """
    fitting = [count for count in range(2, dims // each + 1, 2) if dims % count == 0]
    return fitting[-1] if fitting else 0


def build_coarse(
    segment: Segment, path: Path, work: Path, *, design: Design = DEFAULT_DESIGN, progress: Progress = lambda *_: None
) -> None:
    """Write the coarse index of a segment durably.

    Args:
        segment: what to index.
        path: the file to write.
        work: a folder for what is finished; what is there from a build of the same segment and design is used.
        design: how.
        progress: called with (step, rows done, rows in all).
    """
    work.mkdir(exist_ok=True)
    index = _trained(segment, work, design, progress)
    parts = []
    for start in range(0, len(segment), PART_ROWS):
        part = work / f"{start:012d}.part"
        if not part.is_file():
            _code_part(index, segment, part, start, min(start + PART_ROWS, len(segment)), progress)
        parts.append(_open_part(part, index.nlist, index.code_size))
    _join(index, parts, path, segment, progress)


def _trained(segment: Segment, work: Path, design: Design, progress: Progress) -> Any:
    """The index without rows, from ``work`` or trained now."""
    import faiss

    path = work / "trained.faiss"
    if path.is_file():
        file = CheckedFile(path, _PART_MAGIC, VERSION)
        file.check(0, file.body_end)
        return faiss.deserialize_index(file.section(HEADER_BYTES, file.first, "u1"))
    progress("train", 0, len(segment))
    lists = design.lists or lists_for(len(segment))
    # the first rows of a sample in random order train the lists; a few of them are enough for the codes
    sample = _sample(segment, min(len(segment), lists * _SAMPLE_PER_LIST, _SAMPLE_VALUES // segment.dims))
    centroids = train_centroids(sample, min(lists, len(sample)))
    lists = len(centroids)
    index = empty_index(centroids, unit_rows(sample[:_CODE_SAMPLE]), design)
    blob = faiss.serialize_index(index)

    def write(file: BinaryIO) -> None:
        writer = BlockWriter(file)
        writer.write(blob)
        writer.finish(_PART_MAGIC, VERSION, dims=segment.dims, rows=len(segment), first=len(blob), last=lists)

    write_durably(path, write)
    return index


def _sample(segment: Segment, count: int) -> Int8Rows:
    """Rows in random order."""
    places = np.random.default_rng(SEED).permutation(len(segment))[:count].astype(np.int64)
    sample = np.empty((count, segment.dims), np.int8)
    order = np.argsort(places)  # read in the order of the file
    for at in range(0, count, _AT_ONCE):
        some = order[at : at + _AT_ONCE]
        segment.want(places[some])
        sample[some] = segment.rows_at(places[some])
    return sample


def empty_index(centroids: FloatArray, sample: FloatArray, design: Design) -> Any:
    """faiss's index of some centroids, its codes trained, without rows."""
    import faiss

    count, dims = centroids.shape
    graph = faiss.IndexHNSWFlat(dims, design.graph)
    graph.hnsw.efConstruction = 80
    graph.add(centroids)
    codes = design.codes or codes_for(dims)
    if codes in ("pq2", "pq4"):
        index = faiss.IndexIVFPQFastScan(graph, dims, count, _quantizers(dims, int(codes[2])), 4, faiss.METRIC_L2)
    else:
        bits = 2 if codes == "rabitq2" else 1
        index = faiss.IndexIVFRaBitQFastScan(graph, dims, count, faiss.METRIC_L2, _PACKED, True, bits)
    index.train(sample)
    graph.this.disown()
    index.own_fields = True
    return index


def _code_part(index: Any, segment: Segment, path: Path, start: int, stop: int, progress: Progress) -> None:
    """Codes of the rows from ``start`` to ``stop``, in the order of their lists, as a file."""
    import faiss

    nearest = Nearest(centroids_of(index))
    numbers = np.empty(stop - start, np.int64)
    codes = np.zeros((stop - start, index.code_size), np.uint8)
    for at, rows, _ in segment.blocks(_AT_ONCE, start, stop):
        here = slice(at - start, at - start + len(rows))
        units = unit_rows(rows)
        numbers[here] = nearest.of(units)
        own = np.ascontiguousarray(numbers[here])
        index.encode_vectors(len(units), *map(faiss.swig_ptr, (units, own, codes[here])))
        progress("code", at + len(rows), len(segment))
    segment.forget()
    order = np.argsort(numbers, kind="stable")

    def write(file: BinaryIO) -> None:
        writer = BlockWriter(file)
        writer.write(np.bincount(numbers, minlength=index.nlist).astype("<i8"))
        writer.write((order + start).astype("<i8"))
        writer.write(codes[order])
        writer.finish(_PART_MAGIC, VERSION, dims=segment.dims, rows=stop - start, first=start, last=stop)

    write_durably(path, write)


@dataclass(frozen=True, slots=True)
class _Part:
    ends: IdArray  # [lists + 1]
    places: IdArray
    codes: ByteArray


def _open_part(path: Path, lists: int, code_size: int) -> _Part:
    file = CheckedFile(path, _PART_MAGIC, VERSION)
    file.check(0, file.body_end)
    rows, at = file.rows, HEADER_BYTES + 8 * lists
    ends = np.concatenate([[0], np.cumsum(file.section(HEADER_BYTES, 8 * lists, "<i8"))])
    codes = file.section(at + 8 * rows, rows * code_size, "u1").reshape(rows, code_size)
    return _Part(ends.astype(np.int64), file.section(at, 8 * rows, "<i8"), codes)


def _join(index: Any, parts: list[_Part], path: Path, segment: Segment, progress: Progress) -> None:
    """The file of a coarse index from its parts."""
    import faiss

    blob = faiss.serialize_index(index)
    sizes = np.sum([np.diff(part.ends) for part in parts], axis=0)
    capacities = -(-sizes // _PACKED) * _PACKED
    lengths = -(-(capacities * index.code_size + 8 * sizes) // ALIGN) * ALIGN
    begin = table_at(len(blob)) + -(-24 * index.nlist // ALIGN) * ALIGN
    positions = begin + np.cumsum(lengths) - lengths
    packer = index.get_CodePacker()

    def write(file: BinaryIO) -> None:
        writer = BlockWriter(file)
        writer.write(blob)
        writer.align(ALIGN)
        writer.write(np.stack([sizes, capacities, positions], axis=1).astype("<i8"))
        done = 0
        for places, codes in _lists(parts, sizes):
            writer.align(ALIGN)
            writer.write(_packed(packer, codes))
            writer.write(places.astype("<i8"))
            done += len(places)
            if done % PART_ROWS < len(places):
                progress("join", done, len(segment))
        fields = {"rows": len(segment), "first": len(blob), "last": index.nlist}
        writer.finish(MAGIC, VERSION, dims=segment.dims, **fields)

    write_durably(path, write)


def _lists(parts: list[_Part], sizes: IdArray) -> Iterator[tuple[IdArray, ByteArray]]:
    """Places and codes of every list in turn, read from all parts some lists at a time."""
    groups = (np.cumsum(sizes) - 1) // _JOINED_ROWS
    borders = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(sizes)]
    for first, end in pairwise(borders):
        spans = [slice(part.ends[first], part.ends[end]) for part in parts]
        numbers = np.concatenate([np.repeat(np.arange(end - first), np.diff(p.ends[first : end + 1])) for p in parts])
        order = np.argsort(numbers, kind="stable")  # parts come in the order of places, so places ascend in a list
        places = np.concatenate([part.places[span] for part, span in zip(parts, spans, strict=True)])[order]
        codes = np.concatenate([part.codes[span] for part, span in zip(parts, spans, strict=True)])[order]
        at = 0
        for size in sizes[first:end].tolist():
            yield places[at : at + size], codes[at : at + size]
            at += size


def _packed(packer: Any, codes_NC: ByteArray) -> ByteArray:
    """Codes in the blocks of 32 rows that faiss scans."""
    import faiss

    blocks = -(-len(codes_NC) // _PACKED)
    padded = np.zeros((blocks * _PACKED, codes_NC.shape[1]), np.uint8)
    padded[: len(codes_NC)] = codes_NC
    out = np.zeros((blocks, packer.block_size), np.uint8)
    for block in range(blocks):
        rows = padded[block * _PACKED : (block + 1) * _PACKED]
        packer.pack_all(faiss.swig_ptr(rows), faiss.swig_ptr(out[block]))
    return out
