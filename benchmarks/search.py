"""Search over 1, 10 and 100 million vectors on this machine: diffembed beside other engines, at equal recall.

    python benchmarks/_passages.py --data ../shared/data --work out/search      (once; an hour or two)
    python benchmarks/search.py [--work out/search] [--only 10m_384] [--peer faiss_ivf_pq] [--recall 0.95] [--quick]

Vectors are grown from real ones so that neighbours are not trivial (`_grown.py` says how; PART.set.* says how hard the
set is). Queries are real and not in the base: held-out passages and questions in turns. Every engine runs in a process
of its own; peers are asked with the fastest of their settings that finds as much as diffembed did in this run, exact
search and engines that never get there with what they find. What is finished is kept under `--work`: a run that was
stopped goes on, `--only` measures one part, and the result file keeps the other parts' figures.

    PART.recall_at_10, .p50_ms, .p95_ms, .p99_ms     diffembed, files in page cache, one query at a time, one thread
    PART.passages.recall_at_10, .questions.*         the same by kind of query; PART.recall_at_100
    PART.tuned_recall                                what tuning found of the questions that it was given
    PART.own.{recall_at_10,p50_ms,p95_ms,...}        tuned by the index's own rows, as where nobody has questions
    PART.first_ms                                    open and first answer, files in page cache and libraries loaded
    PART.unpooled.{recall_at_10,p50_ms}              all candidates of all segments rescored, where there are several
    PART.cold.p95_ms                                 the int8 rows dropped from page cache before every query
    PART.start.first_ms, .start.p95_ms               a new process, all files dropped before its first query
    PART.cap.p95_ms, .cap.gb, .cap.by_cgroup         memory and page cache capped (1: by a cgroup, 0: by ballast)
    PART.qps_1, .qps_2                               queries a second in one batch, with one and two workers
    PART.build_seconds, .add_seconds, .disk_mb, .coarse_mb, .ram_mb (anonymous memory), .open_seconds
    PART.build_ram_mb                                the most anonymous memory that compaction takes
    PART.filter_tenth.p50_ms                         a filter that leaves a tenth of the rows
    PART.PEER.{recall_at_10,p50_ms,p95_ms,p99_ms,build_seconds,ram_mb,disk_mb}
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import _search_ours as ours
from _common import parser, progress, report
from _grown import Grown, IdArray, Int8Rows, recall
from _parts import earlier, joined
from _search_peers import PEERS, missing, percentiles, resident_mb, rows_file


@dataclass(frozen=True)
class Part:
    """A size to measure.

    Attributes:
        dims, rows: of the set.
        queries: how many; half passages, half questions.
        cap_gb: memory and page cache for the run under a cap: half of what index and rows take, or less; 0: none.
        peers: which are measured beside; the others would take hours or more memory than there is.
    """

    dims: int
    rows: int
    queries: int
    cap_gb: float
    peers: tuple[str, ...]


_ALL = tuple(PEERS)
_LARGE = ("exact", "hamming", "faiss_ivf_pq", "faiss_ivf_rabitq")
PARTS = {
    "200k_384": Part(384, 200_000, 2000, 0, _ALL),  # real vectors only
    "200k_512": Part(512, 200_000, 2000, 0, _ALL),
    "1m_384": Part(384, 1_000_000, 2000, 0.3, _ALL),
    "1m_1024": Part(1024, 1_000_000, 2000, 0.6, _ALL),
    "10m_384": Part(384, 10_000_000, 2000, 2.0, (*_LARGE, "faiss_hnsw", "lancedb")),
    "10m_1024": Part(1024, 10_000_000, 1000, 4.0, _LARGE),
    "100m_256": Part(256, 100_000_000, 1000, 12.0, ()),  # the rows stand on the disk once only
}
QUICK = {"100k_256": Part(256, 100_000, 200, 0.3, ("exact", "hamming", "faiss_ivf_pq", "faiss_ivf_rabitq"))}
STEPS = ("build", "set", "warm", "own", "cold", "cap")  # `set` leaves the exact answers: `warm` need not count them
COLD_QUERIES, CAP_QUERIES, EXACT_QUERIES, SWEEP_QUERIES = 100, 500, 20, 300


def main() -> None:
    options = parser("search", __doc__)
    options.add_argument("--work", type=Path, default=Path("out/search"), help="vectors, indexes, what is finished")
    options.add_argument("--only", action="append", choices=[*PARTS, *QUICK], help="a part; may be repeated")
    options.add_argument("--peer", action="append", choices=[*PEERS, "none"], help="may be repeated; all if not given")
    options.add_argument("--real", type=int, default=200_000, help="real vectors that the sets are grown from")
    options.add_argument("--recall", type=float, default=0.95, help="what diffembed's segments are tuned for")
    options.add_argument("--no-cap", action="store_true", help="leave out the run under a memory cap")
    options.add_argument("--tidy", action="store_true", help="delete the index of a part once all of it is measured")
    options.add_argument("--child", nargs=2, metavar=("PART", "STEP"), help="measure one step and print its JSON")
    args = options.parse_args()
    parts = QUICK if args.quick else PARTS
    if args.quick:
        args.real = min(args.real, 20_000)
    if args.child:
        part = {**PARTS, **QUICK}[args.child[0]]
        print(json.dumps(child(Grown(args.work, part.dims, part.rows, args.real), part, args.child[1], args)))
        return
    before = earlier(args, PACKAGES)
    notes: list[str] = []
    asked = args.only or list(parts)
    unfinished = [name for name in asked if not measure(name, {**PARTS, **QUICK}[name], args, notes)]
    metrics: dict[str, float] = {}
    known = {name.partition(".")[0] for name in before.get("metrics", {})}
    here = [name for name in parts if name in asked or name not in known]  # the others are as the result file has them
    for name in here:
        for step in (*STEPS, *PEERS):
            kept = kept_file(args, name, step)
            if kept.is_file():
                prefix = f"{name}.{step}." if step in ("set", *PEERS) else f"{name}."
                metrics |= {prefix + key: value for key, value in json.loads(kept.read_text()).items()}
    tuned = f"tuned for {args.recall} of the exact answers with {ours.TUNED_WITH} queries that are not measured"
    said = [f"sets grown from {args.real} real vectors", tuned, f"views of 1,024 dims: {VIEWS}", *dict.fromkeys(notes)]
    metrics, notes = joined({name: (f"{name}.",) for name in parts}, here, metrics, said, before)
    report(args, metrics, notes="; ".join(notes), packages=PACKAGES)
    if unfinished:
        raise SystemExit(f"not finished: {', '.join(unfinished)}; the same command goes on there")


PACKAGES = ("usearch", "lancedb")
VIEWS = "embedded model 512, MiniLM 384 and 128 of the next passage side by side, 256: Matryoshka cut, 384: MiniLM"


def kept_file(args: Any, name: str, step: str) -> Path:
    folder: Path = args.work / ("results-quick" if args.quick else "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{step}.json"


def measure(name: str, part: Part, args: Any, notes: list[str]) -> bool:
    """All steps of a part that are not finished yet; returns whether they all are.

    Steps need what those before them leave, so the first that fails ends the part. Peers do not need each other.
    """
    for step in STEPS:
        if step == "cap" and (args.no_cap or not part.cap_gb):
            continue
        if not run(args, name, step, notes):
            progress(f"{name}: what comes after {step} is not measured")
            return False
    finished = True
    for peer in part.peers:
        if args.peer and peer not in args.peer:
            continue
        if missing(peer):
            notes.append(f"{peer} is not installed and left out")
            continue
        finished &= run(args, name, peer, notes)
    if finished and args.tidy:
        ours.remove(Grown(args.work, part.dims, part.rows, args.real))
    return finished


def run(args: Any, name: str, step: str, notes: list[str]) -> bool:
    """One step in a process of its own; what it found is kept. Returns whether it is finished."""
    kept = kept_file(args, name, step)
    if kept.is_file():
        return True
    progress(f"{name}: {step}")
    options = ["--work", str(args.work), "--real", str(args.real), "--recall", str(args.recall)]
    quick = ["--quick"] if args.quick else []
    command = [sys.executable, __file__, *options, *quick, "--child", name, step]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        notes.append(f"{name}: {step} ended with {done.returncode} and is left out")
        progress(notes[-1])
        return False
    unfinished = kept.with_suffix(".tmp")
    unfinished.write_text(done.stdout)
    unfinished.rename(kept)
    return True


def child(grown: Grown, part: Part, step: str, args: Any) -> dict[str, float]:
    """Measure one step."""
    if step == "build":
        return ours.build(grown, args.recall)
    if step == "warm":
        return ours.warm(grown, part.queries)
    if step == "own":
        return ours.own(grown, part.queries, args.recall)
    if step == "cold":
        return ours.cold(grown, COLD_QUERIES)
    if step == "cap":
        return ours.capped(grown, min(CAP_QUERIES, part.queries), part.cap_gb)
    if step == "set":
        return grown.difficulty(part.queries, lambda queries, top: hamming(grown, queries, top))
    wanted = json.loads(kept_file(args, args.child[0], "warm").read_text())["recall_at_10"]
    return of_peer(step, grown, part, wanted)


def of_peer(name: str, grown: Grown, part: Part, wanted: float) -> dict[str, float]:
    """Build a peer and measure the fastest of its settings that finds as much as is wanted."""
    import faiss

    peer = PEERS[name]()
    rows_file(grown, grown.work)  # what peers read from and rescore with is not part of their building
    before, start = resident_mb(), time.perf_counter()
    peer.build(grown, grown.work)
    figures = {"build_seconds": time.perf_counter() - start + peer.earlier_seconds}
    faiss.omp_set_num_threads(1)
    count = EXACT_QUERIES if name == "exact" else part.queries
    queries, exact = grown.queries[:count], grown.exact(part.queries)[0][:count, :10]
    points: list[tuple[float, float, tuple[int, ...]]] = []  # median ms, recall, setting
    for setting in peer.settings:
        found, taken = ask(peer, queries[:SWEEP_QUERIES], setting)
        points.append((float(np.median(taken)), recall(found, exact[:SWEEP_QUERIES]), setting))
    enough = [point for point in sorted(points) if point[1] >= wanted]
    for _, _, chosen in enough or [max(points, key=lambda point: point[1])]:
        found, taken = ask(peer, queries, chosen)
        reached = recall(found, exact)
        if reached >= wanted:  # of all queries too
            break
    figures |= {f"setting_{place}": value for place, value in enumerate(chosen)}
    figures |= {"recall_at_10": reached, **percentiles(taken)}
    figures["ram_mb"] = resident_mb() - before
    if hasattr(peer, "bytes"):
        figures["disk_mb"] = peer.bytes() / 1e6
    return figures


def ask(peer: Any, queries: Int8Rows, setting: tuple[int, ...]) -> tuple[IdArray, list[float]]:
    """Answers of a peer and the milliseconds of each."""
    found = np.full((len(queries), 10), -1, np.int64)
    taken = []
    for number, query in enumerate(queries):
        start = time.perf_counter()
        ten = peer.search(query, setting)
        taken.append(1000 * (time.perf_counter() - start))
        found[number, : len(ten)] = ten
    return found, taken


def hamming(grown: Grown, queries: Int8Rows, top: int) -> IdArray:
    """Places of the nearest rows by Hamming distance alone."""
    import faiss

    index = faiss.IndexBinaryFlat(grown.dims)
    for _, rows in grown.each():
        index.add(np.packbits(rows >= 0, axis=1, bitorder="little"))
    places: IdArray = index.search(np.packbits(queries >= 0, axis=1, bitorder="little"), top)[1]
    return places


if __name__ == "__main__":
    main()
