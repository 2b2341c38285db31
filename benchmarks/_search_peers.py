"""The other engines of `search.py` and the faiss variants of `index_sweep.py`, each behind the same few calls.

A peer is built from blocks of INT8 rows and then asked one query at a time with one of its settings. What an engine
cannot do itself (rescoring by int8 cosine) is done here with the same code and rows for all of them.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from _grown import Grown, IdArray, Int8Rows
from diffembed.index.coarse import unit_rows
from diffembed.index.rescoring import rescored
from diffembed.index.segments import Segment, open_segment, stream_segment

TRAIN_VALUES = 170_000_000  # forty rows for each list of a million x 1,024, as diffembed trains on
GRAPH_ROWS = 2_000_000  # with more rows the lists are found by a graph: comparing all would take most of an hour
PROBES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
CANDIDATES = (20, 50, 100, 200, 400, 1000, 2000)
Setting = tuple[int, ...]


class Peer(Protocol):
    """An engine: ``build`` once, then ``search``; ``settings`` from cheap to dear.

    ``earlier_seconds`` count as building too: what another index over the same vectors took for a part that is shared.
    """

    settings: list[Setting]
    earlier_seconds: float = 0.0

    def build(self, grown: Grown, folder: Path) -> None: ...
    def search(self, query_D: Int8Rows, setting: Setting) -> IdArray: ...


def rows_file(grown: Grown, folder: Path) -> Segment:
    """The rows as a segment, which all that is rescored reads from."""
    path = rows_path(grown, folder)
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        stream_segment(path, np.arange(grown.rows), grown.dims, (rows for _, rows in grown.each()))
    return open_segment(path, rows=grown.rows, dims=grown.dims)


def rows_path(grown: Grown, folder: Path) -> Path:
    """Where ``rows_file`` keeps them."""
    return folder / f"rows-{grown.dims}-{grown.rows}-{grown.real}.seg"


class Rescored(Peer):
    """A coarse engine whose candidates are rescored by true cosine; a setting ends with how many."""

    rows: Segment

    def build(self, grown: Grown, folder: Path) -> None:
        self.rows = rows_file(grown, folder)

    def named(self, query_D: Int8Rows, setting: Setting) -> IdArray:
        raise NotImplementedError

    def search(self, query_D: Int8Rows, setting: Setting) -> IdArray:
        places = np.sort(self.named(query_D, setting))
        self.rows.want(places)
        cosines = rescored(self.rows, query_D, places)
        return places[np.lexsort((places, -cosines))[:10]]


class Faiss(Rescored):
    """An index of faiss's factory over unit vectors; of an IVF index the lists are found as the factory says."""

    def __init__(self, factory: str) -> None:
        self.factory = factory

    def build(self, grown: Grown, folder: Path) -> None:
        import faiss

        super().build(grown, folder)
        lists = 2 ** round(np.log2(4 * np.sqrt(grown.rows)))
        dims = grown.dims
        name = self.factory.format(lists=lists, half=dims // 2, quarter=dims // 4)
        if grown.rows > GRAPH_ROWS:
            name = name.replace(f"IVF{lists},", f"IVF{lists}_HNSW32,")
        self.index = faiss.index_factory(dims, name, faiss.METRIC_L2)
        chosen = np.random.default_rng(1).permutation(grown.rows)
        chosen = np.sort(chosen[: min(40 * lists, TRAIN_VALUES // dims, grown.rows)])
        sample = unit_rows(self.rows.rows_at(chosen))
        self.ivf = faiss.extract_index_ivf(self.index) if "IVF" in name else None
        if self.ivf is not None:
            self._train_lists(sample, folder / f"lists-{dims}-{grown.rows}-{grown.real}.npz")
        self.index.train(sample)
        for _, rows, _ in self.rows.blocks(1 << 16):
            self.index.add(unit_rows(rows))
        # of the lists; faiss hands out a base class that does not know it
        self.graph = None if self.ivf is None else getattr(faiss.downcast_index(self.ivf.quantizer), "hnsw", None)
        self.settings = (
            [(p, c) for p in PROBES if p <= lists for c in CANDIDATES] if self.ivf is not None else self._others()
        )

    def _train_lists(self, sample_ND: np.ndarray, kept: Path) -> None:
        """The centroids of the lists: faiss trains them alike for all its IVF indexes, so they are trained once."""
        import faiss

        if kept.is_file():
            with np.load(kept) as found:
                self.ivf.quantizer.add(found["centroids"])
                self.earlier_seconds = float(found["seconds"])
            return
        start = time.perf_counter()
        self.ivf.train_q1(len(sample_ND), faiss.swig_ptr(sample_ND), False, faiss.METRIC_L2)
        taken = time.perf_counter() - start
        np.savez(kept, centroids=self.ivf.quantizer.reconstruct_n(0, self.ivf.nlist), seconds=taken)

    def _others(self) -> list[Setting]:
        return [(wide, c) for wide in (16, 32, 64, 128, 256, 512, 1024, 2048) for c in CANDIDATES if c <= max(wide, 20)]

    def named(self, query_D: Int8Rows, setting: Setting) -> IdArray:
        if self.ivf is not None:
            self.ivf.nprobe = setting[0]
            if self.graph is not None:
                self.graph.efSearch = 2 * setting[0]
        else:
            self.index.hnsw.efSearch = max(setting)
        places = self.index.search(unit_rows(query_D[None]), setting[-1])[1][0]
        return places[places >= 0]

    def bytes(self) -> int:
        import faiss

        return int(faiss.serialize_index(self.index).nbytes)


class Binary(Rescored):
    """Hamming distance on sign bits: all of them (``BFlat``), or those of the nearest lists (``BIVF``)."""

    def __init__(self, lists: bool) -> None:
        self.lists = lists

    def build(self, grown: Grown, folder: Path) -> None:
        import faiss

        super().build(grown, folder)
        self.index = faiss.IndexBinaryFlat(grown.dims)
        if self.lists:
            count = 2 ** round(np.log2(4 * np.sqrt(grown.rows)))
            self.flat = self.index
            self.index = faiss.IndexBinaryIVF(self.flat, grown.dims, count)
            chosen = np.sort(np.random.default_rng(1).permutation(grown.rows)[: min(20 * count, grown.rows)])
            self.index.train(self._bits(self.rows.rows_at(chosen)))
        for _, rows, _ in self.rows.blocks(1 << 16):
            self.index.add(self._bits(rows))
        probes = PROBES if self.lists else (0,)
        self.settings = [(p, c) for p in probes for c in (*CANDIDATES, 4000, 8000)]

    def named(self, query_D: Int8Rows, setting: Setting) -> IdArray:
        if self.lists:
            self.index.nprobe = setting[0]
        places = self.index.search(self._bits(query_D[None]), setting[-1])[1][0]
        return places[places >= 0]

    def bytes(self) -> int:
        return int(self.index.ntotal * (self.index.d // 8 + (8 if self.lists else 0)))

    @staticmethod
    def _bits(rows_ND: Int8Rows) -> np.ndarray:
        return np.packbits(rows_ND >= 0, axis=1, bitorder="little")


class Exact(Peer):
    """Every row, by true cosine (``Snapshot.search(exact=True)``)."""

    def __init__(self) -> None:
        self.settings: list[Setting] = [()]

    def build(self, grown: Grown, folder: Path) -> None:
        from diffembed.index.scan import Part, Snapshot

        self.snapshot = Snapshot([Part(rows_file(grown, folder))])

    def search(self, query_D: Int8Rows, setting: Setting) -> IdArray:
        return self.snapshot.search(query_D[None], 10, exact=True)[0][0]


class USearch(Peer):
    """usearch's HNSW over int8 rows with cosine."""

    def __init__(self) -> None:
        self.settings: list[Setting] = [(wide,) for wide in (16, 32, 64, 128, 256, 512, 1024)]

    def build(self, grown: Grown, folder: Path) -> None:
        from usearch.index import Index

        self.index = Index(ndim=grown.dims, metric="cos", dtype="i8", connectivity=16)
        for start, rows, _ in rows_file(grown, folder).blocks(1 << 16):
            self.index.add(np.arange(start, start + len(rows)), rows, threads=len(os.sched_getaffinity(0)))

    def search(self, query_D: Int8Rows, setting: Setting) -> IdArray:
        self.index.expansion_search = setting[0]
        return self.index.search(query_D, 10).keys.astype(np.int64)

    def bytes(self) -> int:
        return int(self.index.serialized_length)


class Lance(Peer):
    """LanceDB: float16 column (it refuses int8 ones), IVF_RQ with its default bits, refined on the full vectors."""

    def build(self, grown: Grown, folder: Path) -> None:
        import lancedb
        import pyarrow as pa

        def batches() -> Iterator[Any]:
            for start, rows, _ in rows_file(grown, folder).blocks(1 << 16):
                values = pa.array(unit_rows(rows).astype(np.float16).reshape(-1))
                vectors = pa.FixedSizeListArray.from_arrays(values, grown.dims)
                yield pa.RecordBatch.from_arrays([pa.array(np.arange(start, start + len(rows))), vectors], schema=shape)

        shape = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float16(), grown.dims))])
        self.folder = folder / f"lance-{grown.dims}-{grown.rows}"
        database = lancedb.connect(self.folder)
        self.table = database.create_table("rows", batches(), schema=shape, mode="overwrite")
        self.table.create_index(metric="cosine", index_type="IVF_RQ", vector_column_name="vector")
        self.settings = [(p, r) for p in (8, 16, 32, 64, 128, 256) for r in (5, 10, 20, 50)]

    def search(self, query_D: Int8Rows, setting: Setting) -> IdArray:
        asked = self.table.search(unit_rows(query_D[None])[0]).distance_type("cosine")
        found = asked.nprobes(setting[0]).refine_factor(setting[1]).limit(10).select(["id"]).to_arrow()
        return found["id"].to_numpy()

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


PEERS: dict[str, Callable[[], Peer]] = {
    "exact": Exact,
    "hamming": lambda: Binary(False),
    "faiss_ivf_pq": lambda: Faiss("IVF{lists},PQ{quarter}x4fs"),
    "faiss_ivf_rabitq": lambda: Faiss("IVF{lists},RaBitQfs"),
    "faiss_hnsw": lambda: Faiss("HNSW16,SQ8"),
    "usearch": USearch,
    "lancedb": Lance,
}
NEEDS = {"usearch": "usearch", "lancedb": "lancedb"}
"""Packages that are not installed with diffembed; without them the peer is left out, with a note."""


def missing(peer: str) -> bool:
    """Whether the package that a peer needs is not there."""
    return peer in NEEDS and importlib.util.find_spec(NEEDS[peer]) is None


def timed(search: Callable[[Int8Rows], Any], queries: Int8Rows) -> list[float]:
    """Milliseconds of every query."""
    taken = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def percentiles(taken: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    return {f"p{p}_ms": float(np.percentile(taken, p)) for p in (50, 95, 99)}


def resident_mb() -> float:
    """Anonymous memory of this process: what page cache, which the system can take back, does not count in."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1000
    return 0.0
