"""Forms of vectors in Qdrant's own engine: what each of them finds and takes on disk, and what sending points costs.

    python benchmarks/_passages.py --data ../shared/data --work out/search --rows 40000 --model default    (once)
    python benchmarks/cluster.py [--work out/search] [--rows 40000] [--folder /dev/shm] [--quick]

The engine is `qdrant-edge-py`, the Rust code of a shard, embedded behind a small HTTP front in Python (the one of the
tests, `tests/index/qdrant_server.py`) that runs in a process of its own. It is not a server: one shard, one thread for
graphs, one for searches. Rows are real passages (embedded model, 256 dims, INT8), queries held-out passages and
questions in turns.

    FORM.CODES.over_N.recall_at_10   of the exact INT8 cosine, N times as many points rescored as were asked for
    FORM.none.cosine_error_mean, .cosine_error_max
    float16.binary_1bit_query.*      bits compared with the signs of the query, not with an 8-bit query
    uint8.shifted_euclid.*, uint8.shifted_cosine.*
                                     128 added to every value and nothing else
    filter.FILTER.WAY.recall_at_10   searches that see few points, with ACORN (`acorn`, as diffembed asks) and without
    filter.FILTER.WAY.short          share of the queries that got fewer than ten hits
    bytes.rows.KIND                  on disk, a point of float16 with scalar codes and nothing else
    bytes.documents.KIND             the same of documents with metadata, of which three fields are indexed
    push.client_per_core_second      points that `QdrantIndex.add_vectors` sends in a second of processor time; median
                                     of all forms; .front_per_core_second: that engine and front take in one
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import QdrantClient, models

from _common import REPOSITORY, parser, progress, report
from _grown import Grown, IdArray, Int8Rows, recall
from _passages import FloatArray, unit
from diffembed.index.filters import parse_filter
from diffembed.index.qdrant import QdrantIndex
from diffembed.index.qdrant_forms import QUANTIZATIONS, CollectionSettings, stored
from diffembed.index.qdrant_points import number_of, point_id, qdrant_filter
from diffembed.vectors.quantize import scaled_int8

DIMS = 256
TOP = 10
FACTORS = {"none": (1,), "scalar": (1, 2, 4), "turbo4": (1, 2, 4), "binary": (1, 2, 4, 8, 16, 32)}
FORMS = (
    *(CollectionSettings("float16", codes) for codes in QUANTIZATIONS),
    *(CollectionSettings("uint8", codes) for codes in QUANTIZATIONS if codes != "scalar"),  # the codes are the vectors
)
FILTERED = CollectionSettings(filters=("rest", "odd", "ten"))
FILTERS: dict[str, tuple[str, Callable[[IdArray], npt.NDArray[np.bool_]]]] = {
    "sixth": ("rest = 1 and not odd = true", lambda n: n % 6 == 4),
    "sixtieth": ("rest = 1 and not odd = true and ten = 3", lambda n: n % 60 == 22),
}
QUERIES_AT_ONCE, POINTS_AT_ONCE = 32, 512

Metrics = dict[str, float]


@dataclass(frozen=True)
class Data:
    """What is stored and what is asked.

    Attributes:
        rows, queries: INT8.
        cosines: ``[Q, N]`` of every query and row.
    """

    rows: Int8Rows
    queries: Int8Rows
    cosines: FloatArray

    def best(self, allowed: IdArray) -> IdArray:
        """``[Q, 10]`` of the allowed rows those of highest cosine, in no order."""
        found: IdArray = allowed[np.argpartition(-self.cosines[:, allowed], TOP - 1, axis=1)[:, :TOP]]
        return found


@dataclass
class Pushed:
    """Points a second of every push, of the processor's time here and in the front: other work does not change that."""

    client: list[float] = field(default_factory=list)
    front: list[float] = field(default_factory=list)


class Engine:
    """The front in the other process: where it listens and keeps its files, and what it is told to do."""

    def __init__(self, url: str, folder: Path, pipe: Connection) -> None:
        self.url, self.folder, self._pipe = url, folder, pipe

    def seconds(self) -> float:
        """Processor time that it has used."""
        return self._told("")

    def optimize(self, name: str) -> None:
        """Build graph and codes of a collection; how long that takes depends on the machine's other work."""
        taken = self._told(name)
        progress(f"  {name}: graph and codes in {taken:.0f} s of processor time")

    def drop(self, client: QdrantClient, name: str) -> None:
        """Take a collection and its files away."""
        folder = self.files(name)
        client.delete_collection(name)
        shutil.rmtree(folder)

    def files(self, name: str) -> Path:
        """Where a collection is kept."""
        (folder,) = self.folder.glob(f"{name}-*")
        return folder

    def _told(self, name: str) -> float:
        self._pipe.send(name)
        return float(self._pipe.recv())


def main() -> None:
    options = parser("cluster", __doc__)
    options.add_argument("--work", type=Path, default=Path("out/search"), help="where _passages.py keeps the vectors")
    options.add_argument("--rows", type=int, default=40_000, help="points of a collection (default: %(default)s)")
    options.add_argument("--queries", type=int, default=500, help="half passages, half questions")
    options.add_argument(
        "--folder", type=Path, help="where the engine keeps its files: in memory (/dev/shm) it is much faster"
    )
    args = options.parse_args()
    if args.quick:
        args.rows, args.queries = min(args.rows, 4000), min(args.queries, 200)
    data = load(args)
    metrics: Metrics = {}
    pushed = Pushed()
    with running(args.folder) as engine:
        for form in FORMS:
            metrics |= of_form(engine, data, form, pushed)
        metrics |= alternatives(engine, data)
        metrics |= filtered(engine, data)
    metrics |= {"push.client_per_core_second": median(pushed.client)}
    metrics |= {"push.front_per_core_second": median(pushed.front)}
    notes = (
        f"{args.rows} passages of {DIMS} dims, {args.queries} queries; HNSW m 16, ef_construct 128, hnsw_ef 128 "
        "or as many as are rescored; "
        "the embedded engine behind an HTTP front in Python, not a server: one shard, one thread; "
        f"pushed {len(pushed.client)} times; the engine's files in {args.folder or 'the folder for temporary files'}"
    )
    report(args, metrics, notes=notes, packages=("qdrant-edge-py", "qdrant-client"))


def load(args: Namespace) -> Data:
    """The first real passages and the queries of `_grown.py`, which are not among them."""
    real = Grown(args.work, DIMS, args.rows, args.rows)
    rows, queries = scaled_int8(real.base), real.queries[: args.queries]
    progress(f"{len(rows):,} rows, {len(queries):,} queries of {DIMS} dims")
    return Data(rows, queries, unit(queries.astype(np.float32)) @ unit(rows.astype(np.float32)).T)


def serve(folder: str, pipe: Connection) -> None:
    """The other process: named a collection it builds its graphs; says what processor time that took, or all so far."""
    sys.path.append(str(REPOSITORY))
    from tests.index.qdrant_server import running as front

    with front(Path(folder)) as (url, server):
        pipe.send(url)
        while (name := pipe.recv()) is not None:
            began = time.process_time() if name else 0.0
            if name:
                server.requests.clear()  # it remembers what it was asked, vectors and all
                server.optimize(name)
            pipe.send(time.process_time() - began)


@contextmanager
def running(parent: Path | None) -> Iterator[Engine]:
    """The engine in a process and a folder of its own, both gone afterwards."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="qdrant-", dir=parent) as folder:
        process = context.Process(target=serve, args=(folder, theirs), daemon=True)
        process.start()
        theirs.close()  # so that a front that cannot start is seen here
        try:
            yield Engine(ours.recv(), Path(folder), ours)
        except EOFError:
            raise SystemExit("the engine did not start or died; is qdrant-edge-py installed?") from None
        finally:
            with suppress(OSError):
                ours.send(None)
            process.join(20)
            process.kill()


def of_form(engine: Engine, data: Data, form: CollectionSettings, pushed: Pushed) -> Metrics:
    """Push all rows, build, and search with each oversampling."""
    name = f"{form.vectors}.{form.quantization}"
    metrics: Metrics = {}
    best = data.best(np.arange(len(data.rows)))
    settings = {"form": form, "dims": DIMS, "vectors_only": True, "timeout": 600}
    with QdrantIndex.create(engine.url, name.replace(".", "_"), **settings) as index:
        push(engine, index, data.rows, pushed)
        client, label = index.collection.client, index.collection.name
        built(engine, client, label, len(data.rows))
        for factor in FACTORS[form.quantization]:
            other = replace(index.collection, form=replace(form, oversampling=float(factor)))
            ids, cosines = QdrantIndex(other).search_vectors(data.queries, TOP)
            metrics[f"{name}.over_{factor}.recall_at_10"] = recall(ids, best)
        if form.quantization == "none":
            errors = np.abs(np.take_along_axis(data.cosines, ids, axis=1) - cosines)
            metrics |= {f"{name}.cosine_error_mean": float(errors.mean()), f"{name}.cosine_error_max": errors.max()}
        if form == CollectionSettings():
            metrics |= sizes(engine.files(label), len(data.rows), "rows")
        engine.drop(client, label)
    progress(f"  {said(metrics, name)}")
    return metrics


def push(engine: Engine, index: QdrantIndex, rows: Int8Rows, pushed: Pushed) -> None:
    """Store the rows and note what that took."""
    front, client = engine.seconds(), time.process_time()
    index.add_vectors(rows, np.arange(len(rows)))
    pushed.client.append(len(rows) / (time.process_time() - client))
    pushed.front.append(len(rows) / (engine.seconds() - front))


def built(engine: Engine, client: QdrantClient, label: str, rows: int) -> None:
    """Build the graph, and make sure that it holds everything: nothing is to be scanned."""
    engine.optimize(label)
    indexed = client.get_collection(label).indexed_vectors_count
    if indexed != rows:
        raise SystemExit(f"{label}: {indexed} of {rows} points are in the graph")


def alternatives(engine: Engine, data: Data) -> Metrics:
    """Forms that diffembed does not offer, to see what they would lose; made, filled and asked by the client alone."""
    bits = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    ways: dict[str, tuple[str, str, Any, int, Sequence[int]]] = {  # datatype, distance, codes, shift, oversampling
        "float16.binary_1bit_query": ("float16", "Cosine", bits, 0, FACTORS["binary"]),
        "uint8.shifted_euclid": ("uint8", "Euclid", None, 128, FACTORS["none"]),
        "uint8.shifted_cosine": ("uint8", "Cosine", None, 128, FACTORS["none"]),
    }
    metrics: Metrics = {}
    usual, best = CollectionSettings(), data.best(np.arange(len(data.rows)))
    client = QdrantClient(url=engine.url, timeout=600, check_compatibility=False)
    for name, (datatype, distance, codes, shift, factors) in ways.items():
        label = name.replace(".", "_")
        shape = models.VectorParams(
            size=DIMS, distance=models.Distance(distance), datatype=models.Datatype(datatype), on_disk=True
        )
        graph = models.HnswConfigDiff(m=usual.links, ef_construct=usual.build_width)
        client.create_collection(label, vectors_config=shape, quantization_config=codes, hnsw_config=graph)
        vectors = data.rows.astype(np.float32) + np.float32(shift)
        for start in range(0, len(vectors), POINTS_AT_ONCE):
            part = enumerate(vectors[start : start + POINTS_AT_ONCE].tolist(), start)
            client.upsert(label, [models.PointStruct(id=n, vector=vector, payload={}) for n, vector in part])
        built(engine, client, label, len(vectors))
        for factor in factors:
            rescored = float(factor) if codes is not None else None
            ids = asked(client, label, data.queries.astype(np.float32) + np.float32(shift), rescored)
            metrics[f"{name}.over_{factor}.recall_at_10"] = recall(ids, best)
        engine.drop(client, label)
        progress(f"  {said(metrics, name)}")
    client.close()
    return metrics


def asked(
    client: QdrantClient, label: str, vectors: FloatArray, oversampling: float | None, where: Any = None
) -> IdArray:
    """``[Q, 10]`` numbers of points (-1 where there are fewer) by the engine's plain graph search, without ACORN."""
    codes = models.QuantizationSearchParams(rescore=True, oversampling=oversampling) if oversampling else None
    width = max(CollectionSettings().search_width, ceil((oversampling or 1) * TOP))
    params = models.SearchParams(hnsw_ef=width, quantization=codes)
    requests = [models.QueryRequest(query=v, limit=TOP, filter=where, params=params) for v in vectors.tolist()]
    ids = np.full((len(requests), TOP), -1, np.int64)
    for start in range(0, len(requests), QUERIES_AT_ONCE):
        for row, answer in enumerate(
            client.query_batch_points(label, requests[start : start + QUERIES_AT_ONCE]), start
        ):
            ids[row, : len(answer.points)] = [number_of(point.id) for point in answer.points]
    return ids


def filtered(engine: Engine, data: Data) -> Metrics:
    """Documents with metadata: searches that a filter narrows, with ACORN (as diffembed asks) and without; bytes."""
    with QdrantIndex.create(engine.url, "documents", form=FILTERED, dims=DIMS, timeout=600) as index:
        count = len(data.rows)
        index.add(
            {
                "id": n,
                "text": f"passage {n}",
                "vector": row,
                "metadata": {"rest": n % 3, "odd": bool(n % 2), "ten": n // 6 % 10},
            }
            for n, row in enumerate(data.rows)
        )
        client, label = index.collection.client, index.collection.name
        built(engine, client, label, count)
        metrics = sizes(engine.files(label), count, "documents")
        row_of = {-1: -1} | {number_of(point_id(str(n), 0)): n for n in range(count)}
        vectors = stored(data.queries, FILTERED.vectors)
        for name, (where, allowed) in FILTERS.items():
            best = data.best(np.flatnonzero(allowed(np.arange(count))))
            narrowed = qdrant_filter(parse_filter(where))
            found = {
                "acorn": index.search_vectors(data.queries, TOP, where=where)[0],
                "plain": asked(client, label, vectors, FILTERED.factor, narrowed),
            }
            for way, numbers in found.items():
                ids = np.vectorize(row_of.__getitem__)(numbers)
                metrics[f"filter.{name}.{way}.recall_at_10"] = recall(ids, best)
                metrics[f"filter.{name}.{way}.short"] = float((ids < 0).any(axis=1).mean())
        engine.drop(client, label)
    progress(f"  {said(metrics, 'filter')}")
    return metrics


def sizes(folder: Path, points: int, what: str) -> Metrics:
    """Bytes a point of the segments that have a graph, as the disk counts them: some files are mostly holes."""
    found = dict.fromkeys(("vectors", "codes", "graph", "ids", "keys", "filters", "payload"), 0)
    for graph in folder.rglob("graph.bin"):
        segment = graph.parent.parent
        for path in (path for path in segment.rglob("*") if path.is_file()):
            part = path.relative_to(segment).parts
            kind = {"vector_index": "graph", "vector_storage": "vectors", "payload_storage": "payload"}.get(part[0])
            if part[0] == "vector_storage" and part[1].startswith("quantized"):
                kind = "codes"
            elif part[0] == "payload_index":
                kind = "keys" if "-key-" in part[1] else "filters"  # the number of the chunk is among the filters
            elif part[0].startswith("id_tracker"):
                kind = "ids"
            if kind is not None:  # else a few lines of settings
                found[kind] += path.stat().st_blocks * 512
    return {f"bytes.{what}.{kind}": size / points for kind, size in found.items() if size}


def said(metrics: Metrics, prefix: str) -> str:
    """Those with a prefix, in a line."""
    return "  ".join(f"{key} {value:.4f}" for key, value in metrics.items() if key.startswith(prefix))


if __name__ == "__main__":
    main()
