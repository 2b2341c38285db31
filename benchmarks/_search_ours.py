"""diffembed's own index in `search.py`: a build that can be stopped, and searches warm, cold and under a memory cap."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from unittest import mock

import numpy as np

from _common import progress
from _grown import BLOCK, Grown, IdArray, Int8Rows, recall
from _search_peers import percentiles, resident_mb, rows_path, timed
from diffembed.index import scan
from diffembed.index.catalog import Catalog
from diffembed.index.parts import open_snapshot
from diffembed.index.scan import Snapshot
from diffembed.index.schema import Settings
from diffembed.index.store import create_store, open_existing
from diffembed.index.tuning import tune

ADDED = 16 * BLOCK  # rows of one commit
TUNED_WITH = 512  # queries that are not among those that are measured
CGROUPS = Path("/sys/fs/cgroup")


def index_folder(grown: Grown) -> Path:
    return grown.work / f"index-{grown.dims}-{grown.rows}-{grown.real}"


def build(grown: Grown, recall_wanted: float) -> dict[str, float]:
    """Add the rows and compact; goes on where a run was stopped. Growing the vectors is not counted as building."""
    folder = index_folder(grown)
    clock = folder.with_suffix(".build.json")
    spent = json.loads(clock.read_text()) if clock.is_file() else {"add": 0.0, "compact": 0.0}
    settings = Settings(model="", fingerprint="", dims=grown.dims, contextual=False, chunk_tokens=0, vectors_only=True)
    if not Catalog.exists(folder):
        create_store(folder, settings)
        spent = {"add": 0.0, "compact": 0.0}
    with open_existing(folder) as store:
        have = store.catalog.counts()[1]
        for start in range(have, grown.rows, ADDED):
            blocks = range(start // BLOCK, -(-min(start + ADDED, grown.rows) // BLOCK))
            rows = np.concatenate([grown.block(number) for number in blocks])
            begin = time.perf_counter()
            store.add_rows(np.arange(start, start + len(rows)), rows)
            spent["add"] += time.perf_counter() - begin
            clock.write_text(json.dumps(spent))
            progress(f"{grown.dims} dims: {start + len(rows):,} of {grown.rows:,} rows added")
        before, begin = spent["compact"], time.perf_counter()
        told = [begin]

        def tick(done: int, rows: int) -> None:
            now = time.perf_counter()
            if now - told[0] > 15:  # what was spent so far outlives a kill
                told[0], spent["compact"] = now, before + now - begin
                clock.write_text(json.dumps(spent))
                progress(f"{grown.dims} dims: compacting, {done:,} of {rows:,} rows, {now - begin:.0f} s")

        with peak_mb() as peak:
            store.compact(recall=recall_wanted, questions=grown.queries[-TUNED_WITH:], progress=tick)
        spent["compact"] = before + time.perf_counter() - begin
        clock.write_text(json.dumps(spent))
        tuned = [json.loads(listed.tuning) for listed in store.catalog.segments()]
    figures = {"build_seconds": spent["add"] + spent["compact"], "add_seconds": spent["add"]}
    figures["build_ram_mb"] = peak[0]
    figures["disk_mb"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    figures["coarse_mb"] = sum(path.stat().st_size for path in folder.rglob("*.coarse")) / 1e6
    figures["segments"] = len(tuned)
    first = [tuning["settings"][0] for tuning in tuned if tuning]
    if first:
        figures |= {name: float(np.mean([s[name] for s in first])) for name in ("probes", "candidates")}
        figures["tuned_recall"] = float(np.mean([s["recall"] for s in first]))
    return figures


@contextmanager
def peak_mb() -> Iterator[list[float]]:
    """The most anonymous memory that this process takes meanwhile, on top of what it has: looked at ten times a second.

    What it has is libraries and the real vectors that the set is grown from.
    """
    before, most, ended = resident_mb(), [0.0], Event()

    def look() -> None:
        while not ended.wait(0.1):
            most[0] = max(most[0], resident_mb() - before)

    looking = Thread(target=look)
    looking.start()
    try:
        yield most
    finally:
        ended.set()
        looking.join()


@contextmanager
def opened(grown: Grown) -> Iterator[Snapshot]:
    catalog = Catalog.open(index_folder(grown))
    try:
        with catalog.reading():
            yield open_snapshot(index_folder(grown), catalog, catalog.settings())
    finally:
        catalog.close()


def warm(grown: Grown, count: int) -> dict[str, float]:
    """Recall, latency of one query at a time, and queries a second with one and two workers; files in page cache."""
    queries, exact = grown.queries[:count], grown.exact(count)[0]
    start = time.perf_counter()
    with opened(grown) as snapshot:
        figures = {"open_seconds": time.perf_counter() - start}
        before = resident_mb()
        for _ in range(2):  # the first round reads what is not in memory yet, and compares checksums
            found, _ = snapshot.search(queries, 10, threads=1)
        figures["recall_at_10"] = recall(found, exact[:, :10])
        figures["passages.recall_at_10"] = recall(found[0::2], exact[0::2, :10])
        figures["questions.recall_at_10"] = recall(found[1::2], exact[1::2, :10])
        hundred, _ = snapshot.search(queries, 100, threads=1)
        figures["recall_at_100"] = recall(hundred, exact[:, :100])
        figures |= percentiles(timed(lambda query: snapshot.search(query[None], 10), queries))
        for workers in (1, 2):
            start = time.perf_counter()
            snapshot.search(queries, 10, threads=workers)
            figures[f"qps_{workers}"] = len(queries) / (time.perf_counter() - start)
        if len(snapshot.parts) > 1:
            figures |= unpooled(snapshot, queries, exact[:, :10])
        figures["ram_mb"] = resident_mb()
        figures["ram_searching_mb"] = resident_mb() - before
        share = np.sort(np.random.default_rng(2).permutation(grown.rows)[: grown.rows // 10]).astype(np.int64)
        filtered = timed(lambda query: snapshot.search(query[None], 10, allowed=share), queries[:50])
        figures["filter_tenth.p50_ms"] = float(np.median(filtered))
    return figures


def unpooled(snapshot: Snapshot, queries: Int8Rows, exact: IdArray) -> dict[str, float]:
    """Recall and latency where the candidates of all segments are rescored: what pooling saves and loses."""
    with mock.patch.object(scan, "_pooled", lambda sealed, _: sum(asked.candidates for asked in sealed)):
        found, _ = snapshot.search(queries, 10, threads=1)
        taken = timed(lambda query: snapshot.search(query[None], 10), queries)
    return {"unpooled.recall_at_10": recall(found, exact), "unpooled.p50_ms": float(np.median(taken))}


def own(grown: Grown, count: int, recall_wanted: float) -> dict[str, float]:
    """Recall and latency where nobody gives questions: tuned as ``index compact`` does then, by the index's own rows.

    Then the index is opened anew and its first answer measured: what has to be read is in page cache.
    """
    queries, exact = grown.queries[:count], grown.exact(count)[0]
    figures: dict[str, float] = {}
    with opened(grown) as snapshot:
        parts, start = [], time.perf_counter()
        for part in snapshot.parts:
            sealed = part.sealed
            if sealed is not None:
                tuning = tune(part.segment, sealed.coarse, sealed.tuning.codes, wanted=recall_wanted)
                sealed = replace(sealed, tuning=tuning)
            parts.append(replace(part, sealed=sealed))
        figures["own.tune_seconds"] = time.perf_counter() - start
        snapshot = Snapshot(parts)
        found, _ = snapshot.search(queries, 10, threads=1)
        figures["own.recall_at_10"] = recall(found, exact[:, :10])
        taken = percentiles(timed(lambda query: snapshot.search(query[None], 10), queries))
    start = time.perf_counter()
    with opened(grown) as snapshot:
        snapshot.search(queries[:1], 10)
        figures["first_ms"] = 1000 * (time.perf_counter() - start)
    return figures | {f"own.{name}": value for name, value in taken.items()}


def cold(grown: Grown, count: int) -> dict[str, float]:
    """Files dropped from page cache (``posix_fadvise``): all of them before the first query; the rows before each."""
    queries = grown.queries[:count]
    drop(index_folder(grown), "")
    with opened(grown) as snapshot:
        start = timed(lambda query: snapshot.search(query[None], 10), queries)
        figures = {"start.first_ms": start[0], "start.p50_ms": float(np.median(start[1:]))}
        figures["start.p95_ms"] = float(np.percentile(start[1:], 95))
        snapshot.search(queries, 10)

        def dropped(query: Int8Rows) -> float:
            for part in snapshot.parts:
                part.segment.forget()  # mapped pages cannot be dropped
            drop(index_folder(grown), ".seg")
            return timed(lambda asked: snapshot.search(asked[None], 10), query[None])[0]

        figures |= {f"cold.{name}": value for name, value in percentiles([dropped(query) for query in queries]).items()}
    return figures


def drop(folder: Path, suffix: str) -> None:
    """Ask the system to drop files from page cache."""
    os.sync()
    for path in folder.rglob(f"*{suffix}"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def capped(grown: Grown, count: int, cap_gb: float) -> dict[str, float]:
    """Latency where memory and page cache together are ``cap_gb``: a cgroup where one can be made, else ballast.

    Other queries than those that are measured bring into the cache what fits.
    """
    drop(index_folder(grown), "")
    queries, others = grown.queries[:count], grown.queries[-TUNED_WITH:]
    with _cgroup(cap_gb) as by_cgroup:
        ballast = None if by_cgroup else _ballast(cap_gb)
        with opened(grown) as snapshot:
            snapshot.search(others, 10, threads=1)
            figures = percentiles(timed(lambda query: snapshot.search(query[None], 10), queries))
        if ballast is not None:
            ballast.close()
    return {"cap.gb": cap_gb, "cap.by_cgroup": float(by_cgroup)} | {f"cap.{k}": v for k, v in figures.items()}


@contextmanager
def _cgroup(cap_gb: float) -> Iterator[bool]:
    """This process in a cgroup of its own with a limit on its memory; whether that could be done."""
    for controller, limit in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        folder = controller / "diffembed-search"
        try:
            folder.mkdir(exist_ok=True)
            (folder / limit).write_text(str(int(cap_gb * 2**30)))
            (folder / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield True
        finally:
            (controller / "cgroup.procs").write_text(str(os.getpid()))
            folder.rmdir()
        return
    yield False


def _ballast(cap_gb: float) -> mmap.mmap:
    """Memory that is taken and held, so that the system has ``cap_gb`` left for everything else."""
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    size = int(free - cap_gb * 2**30)
    if size <= 0:
        sys.exit(f"only {free / 2**30:.1f} GB are free, a cap of {cap_gb} GB needs no ballast: measure elsewhere")
    held = mmap.mmap(-1, size)
    page = np.frombuffer(held, np.uint8)[:: mmap.PAGESIZE]
    page[:] = 1  # touched, so really there
    del page
    return held


def remove(grown: Grown) -> None:
    """Take the index away again, and what peers were built from."""
    for path in (index_folder(grown), grown.work / f"lance-{grown.dims}-{grown.rows}"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (index_folder(grown).with_suffix(".build.json"), rows_path(grown, grown.work)):
        path.unlink(missing_ok=True)
