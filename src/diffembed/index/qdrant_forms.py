"""How INT8 vectors are kept in a Qdrant collection: the mapping, what the collection is made with, and its size.

Qdrant has no signed 8-bit vectors. What can stand for them, and what happens to the cosine on the way:

- ``float16`` under Qdrant's Cosine distance. Qdrant divides a vector by its length before it stores it, so what it
  keeps is the direction in half precision: cosines come out within 0.0005.
- ``uint8``: adding 128 to every value is exact, but under no distance of Qdrant does it keep the order of cosines: the
  shift bends angles, and Euclid and Dot follow the lengths, which differ from text to text: of the true ten nearest
  the shifted vectors find about half. So every vector is first stretched to one length, 32 a dimension, then
  rounded and shifted. For vectors of one length the order of Euclid distances is the order of cosines, and the cosine
  is ``1 - distance**2 / (2 * length**2)`` but for the rounding, which stays below 0.02. Values over four times the root
  mean square are cut off. A vector of zeros has no direction and would end up halfway to all others; one of alternating
  signs, close to none, stands for it.

Beside the originals the engine keeps codes for the search: ``scalar`` (a byte a value), ``turbo4`` (half a byte) or
``binary`` (a bit, compared with an 8-bit query), and rescores what it finds by the originals. What each of them finds
is in docs/cluster.md, by benchmarks/cluster.py.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from diffembed.errors import InputError
from diffembed.index.incoming import vector_rows
from diffembed.index.segments import FloatArray, Int8Rows, row_norms

VectorForm = Literal["float16", "uint8"]
Quantization = Literal["scalar", "turbo4", "binary", "none"]
FORMS: tuple[str, ...] = get_args(VectorForm)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)

_VALUE_BYTES = {"float16": 2.0, "uint8": 1.0}
_CODE_BYTES = {"scalar": 1.0, "turbo4": 0.5, "binary": 0.125, "none": 0.0}
OVERSAMPLING = {"scalar": 2.0, "turbo4": 2.0, "binary": 8.0, "none": 1.0}
"""How many times more points than asked for are rescored."""
_STRETCH = 32.0  # root mean square of a stretched value: four of them fill a signed byte
_GRAPH_BYTES = 64.0  # of m = 16: measured 48 with 40,000 points, and a link's bits grow with the log of their number
_POINT_BYTES = 64.0  # a UUID in both directions and a version
_PAYLOAD_BYTES = 60.0  # what the payload store and the index of document ids add to a point, on disk
_REWRITING = 1.3  # room for segments that are being rewritten


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """What a collection is made with.

    Attributes:
        vectors: the form of the originals.
        quantization: the codes for the search.
        oversampling: rescored points for each one asked for; ``None`` for what ``OVERSAMPLING`` says.
        on_disk: originals on disk, codes pinned in memory; False keeps the originals in memory too.
        filters: fields (of the metadata, or ``kind``) that get an index, so that filters by them are fast.
        hybrid: an index of the words too.
        shards: parts of the collection (of each named shard, if there are names); ``None`` lets the server choose.
        replicas: copies of each part.
        named_shards: points go to the shard that the writer names, not to one that their id draws.
        links: of a point in the graph (``m``), one half of those on the lowest level.
        build_width: candidates looked at when a point enters the graph (``ef_construct``).
        search_width: candidates that a search keeps (``hnsw_ef``), more if more are asked for.
    """

    vectors: VectorForm = "float16"
    quantization: Quantization = "scalar"
    oversampling: float | None = None
    on_disk: bool = True
    filters: tuple[str, ...] = ()
    hybrid: bool = False
    shards: int | None = None
    replicas: int = 1
    named_shards: bool = False
    links: int = 16
    build_width: int = 128
    search_width: int = 128

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: an unknown word, or a number out of range.
        """
        if self.vectors not in FORMS:
            raise InputError(f"vectors is {self.vectors!r}; choose one of {', '.join(FORMS)}")
        if self.quantization not in QUANTIZATIONS:
            raise InputError(f"quantization is {self.quantization!r}; choose one of {', '.join(QUANTIZATIONS)}")
        if self.oversampling is not None and not 1 <= self.oversampling <= 1000:
            raise InputError(f"oversampling is {self.oversampling}; give 1 to 1,000")
        for name in ("shards", "replicas", "links", "build_width", "search_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")

    @property
    def factor(self) -> float:
        """The oversampling in use."""
        return self.oversampling if self.oversampling is not None else OVERSAMPLING[self.quantization]


def stored(rows_ND: Int8Rows, form: VectorForm) -> FloatArray:
    """INT8 vectors as they are sent to a collection, ``[N, D]`` float32; queries are mapped alike.

    >>> stored(np.array([[3, 4]], np.int8), "float16").tolist(), stored(np.array([[3, 4]], np.int8), "uint8").tolist()
    ([[3.0, 4.0]], [[155.0, 164.0]])
    """
    rows: FloatArray = rows_ND.astype(np.float32)
    if form != "uint8":
        return rows
    norms = row_norms(rows_ND)[:, None]
    scale = np.divide(_length(rows.shape[1]), norms, out=np.zeros_like(norms), where=norms > 0)
    stretched: FloatArray = np.clip(np.rint(rows * scale), -128, 127)
    stretched[norms[:, 0] == 0] = _nothing(rows.shape[1])
    return stretched + np.float32(128)


def restored(values_ND: FloatArray, form: VectorForm) -> Int8Rows:
    """Vectors of a collection as INT8, stretched: their directions are those that were stored, their lengths are not.

    >>> restored(np.array([[0.6, 0.8]], np.float32), "float16").tolist()
    [[95, 127]]
    >>> rows = np.array([[3, 4], [0, 0]], np.int8)
    >>> restored(stored(rows, "uint8"), "uint8").tolist()
    [[27, 36], [0, 0]]
    """
    if form != "uint8":
        return vector_rows(values_ND, None, "the vectors of the collection")
    rows: Int8Rows = np.rint(values_ND - 128).astype(np.int8)
    rows[(rows == _nothing(rows.shape[1])).all(axis=1)] = 0
    return rows


def _nothing(dims: int) -> FloatArray:
    """What stands for a vector of zeros among bytes: close to none."""
    signs: FloatArray = (_STRETCH * (1 - 2 * (np.arange(dims) % 2))).astype(np.float32)
    return signs


def cosine_of(score: float, form: VectorForm, dims: int) -> float:
    """The cosine that an engine's score stands for.

    >>> cosine_of(0.25, "float16", 384), round(cosine_of(_length(384), "uint8", 384), 6)
    (0.25, 0.5)
    """
    return 1 - score**2 / (2 * _length(dims) ** 2) if form == "uint8" else score


def row_hash(row_D: Int8Rows) -> str:
    """Of an INT8 vector, to see whether it is the one that a collection has.

    >>> row_hash(np.array([3, 4], np.int8))
    'c20182b4552b4576'
    """
    return hashlib.blake2b(row_D.tobytes(), digest_size=8).hexdigest()


def _length(dims: int) -> float:
    """What vectors are stretched to as bytes."""
    return _STRETCH * math.sqrt(dims)


@dataclass(frozen=True, slots=True)
class ClusterSize:
    """Bytes that a collection takes, all replicas together."""

    memory: float
    disk: float


def size_of(
    points: int, dims: int, settings: CollectionSettings = CollectionSettings(), *, payload_bytes: int = 1200
) -> ClusterSize:
    """What a collection needs; docs/cluster.md has the reasons for the numbers.

    In memory: the codes (the originals where there are none, or where ``on_disk`` is off), the graph, and ids. On disk:
    all of it and the payload, and room for segments that are being rewritten.

    Args:
        points: vectors.
        dims: their width.
        settings: of the collection.
        payload_bytes: text and metadata of a chunk.

    >>> size = size_of(100_000_000, 1024, CollectionSettings(quantization="binary"))
    >>> round(size.memory / 1e9), round(size.disk / 1e9)
    (26, 463)
    """
    originals = points * dims * _VALUE_BYTES[settings.vectors]
    codes = points * dims * _CODE_BYTES[settings.quantization]
    graph = points * (_GRAPH_BYTES * settings.links / 16 + _POINT_BYTES)
    resident = codes if settings.on_disk and settings.quantization != "none" else codes + originals
    return ClusterSize(
        memory=settings.replicas * (resident + graph),
        disk=settings.replicas * _REWRITING * (originals + codes + graph + points * (payload_bytes + _PAYLOAD_BYTES)),
    )
