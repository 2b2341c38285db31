"""The verbs of searching and of indexes: each calls one public function and shows what it returns, as ``verbs.py``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed import console
from diffembed.errors import IndexStoreError, InputError

if TYPE_CHECKING:
    from diffembed.index import SearchReport
    from diffembed.text.chunking import Strategy

_NAMED = 3  # files named for each reason why some were left out


def search(query: str, paths: Sequence[Path], options: dict[str, Any], *, watch: float | None, as_json: bool) -> None:
    """``diffembed search``: ``options`` as of ``search_paths``."""
    start = time.perf_counter()
    with console.progress("indexing") as tick:
        for report in _searches(query, paths, watch, progress=tick, **options):
            if as_json:
                seconds = time.perf_counter() - start
                console.emit_json({"query": query, "seconds": seconds, **report.to_dict()})
            else:
                _remark_refresh(report.refresh)
                console.show_hits(report.hits, first=1 + options["offset"])
                if not report.hits:
                    console.remark(_why_nothing(report.index, options))
            sys.stdout.flush()


def search_many(paths: Sequence[Path], options: dict[str, Any], *, as_json: bool) -> None:
    """``diffembed search -``: the queries are read from stdin; ``options`` as of ``search_paths``."""
    from diffembed.data.jsonl import STDIN, read_lines
    from diffembed.index import search_paths_all

    queries = [line for _, line in read_lines(STDIN)]
    if not queries:
        raise InputError("stdin holds no query; give one a line")
    with console.progress("indexing") as tick:
        reports = search_paths_all(queries, paths, progress=tick, **options)
        for number, (query, report) in enumerate(zip(queries, reports, strict=True)):
            if as_json:
                told = report.to_dict()
                console.emit_json_line({"query": query, "search_seconds": report.seconds, "hits": told["hits"]})
                continue
            if number == 0:
                _remark_refresh(report.refresh)
            console.emit(f"# {console.printable(query)}")
            console.show_hits(report.hits, first=1 + options["offset"])
            if not report.hits:
                console.emit("no hits\n")


def _why_nothing(folder: Path, options: dict[str, Any]) -> str:
    from diffembed.index import Index
    from diffembed.index.filters import fields_of

    where = options["where"]
    if options["min_score"] is not None or options["offset"]:
        return "no hits: none scores so much, or there are not so many; try without --min-score and --offset"
    if not where:
        return "no hits: no text there"
    with Index.open(folder) as opened:
        known = opened.stats().fields
    unknown = sorted(fields_of(where) - known.keys())
    there = f"fields there are: {', '.join(known)}" if known else "there is no metadata"
    more = f"; no document has the field {unknown[0]!r} ({there})" if unknown else ""
    return f"no hits: nothing passes the filter{more}"


def _searches(query: str, paths: Sequence[Path], watch: float | None, **options: Any) -> Iterator[SearchReport]:
    from diffembed.index import search_paths, watch_search

    if watch is None:
        return iter([search_paths(query, paths, **options)])
    return watch_search(query, paths, seconds=watch, **options)


def index(
    paths: Sequence[Path], into: Path, *, model: str, chunking: Strategy | None, watch: float | None, as_json: bool
) -> None:
    """``diffembed index PATH``."""
    from diffembed.index import index_paths, watch_paths

    with console.progress("indexing") as tick:
        if watch is None:
            reports = iter([index_paths(paths, into, model=model, chunking=chunking, progress=tick)])
        else:
            reports = watch_paths(paths, into, model=model, chunking=chunking, seconds=watch, progress=tick)
        for report in reports:
            if as_json:
                console.emit_json({"index": str(into), **report.to_dict()})
            else:
                _remark_refresh(report, always=True)
            sys.stdout.flush()


def compact(folder: Path, *, recall: float | None, questions: Path | None, as_json: bool) -> None:
    """``diffembed index compact``."""
    from diffembed.index import Index

    asked = None if questions is None else _questions(questions)
    with Index.open(folder) as opened:
        before, start = opened.stats(), time.perf_counter()
        with console.progress("compacting") as tick:
            opened.compact(recall=recall, questions=asked, progress=tick)
        after, seconds = opened.stats(), time.perf_counter() - start
    if as_json:
        console.emit_json(
            {"index": str(folder), "seconds": seconds, "before": before.to_dict(), "after": after.to_dict()}
        )
        return
    console.remark(
        f"segments: {len(before.segments)} before, {len(after.segments)} now; "
        f"{(before.vector_bytes - after.vector_bytes) / 1e6:,.1f} MB of vectors freed in {seconds:.1f} s"
    )


def _questions(path: Path) -> Any:
    """Texts of a file, or the vectors of an ``.npy`` file."""
    from diffembed.data.rows import first_texts

    if path.suffix != ".npy":
        return [text for text in first_texts(path) if text.strip()]
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as vectors ({error}); give .npy of [questions, dims]") from None


def verify(folder: Path, *, as_json: bool) -> None:
    """``diffembed index verify``: leaves with exit code 4 when something is damaged."""
    from diffembed.index import Index

    with console.progress("verifying") as tick:
        report = Index.check(folder, progress=tick)
    if as_json:
        console.emit_json({"index": str(folder), **report.to_dict()})
    else:
        for problem in report.problems:
            console.emit(f"damaged: {console.printable(problem)}")
        for note in report.notes:
            console.remark(note)
        found = f"{report.documents:,} documents, {report.rows:,} rows in {report.segments:,} segments"
        console.remark(f"{found}: {'damaged' if report.problems else 'sound'}")
    if report.problems:
        sys.stdout.flush()
        more = f" (and {len(report.problems) - 1:,} more)" if len(report.problems) > 1 else ""
        raise IndexStoreError(f"{folder} is damaged: {report.problems[0]}{more}")


def stats(folder: Path, *, as_json: bool) -> None:
    """``diffembed index stats``."""
    from diffembed.index import Index

    with Index.open(folder) as opened:
        found = opened.stats().to_dict()
    if as_json:
        console.emit_json({"index": str(folder), **found})
        return
    fields, segments = found.pop("fields"), found.pop("segments")
    console.emit(console.table(["", "value"], [[name, _shown(value)] for name, value in found.items()]))
    if fields:
        console.emit("\n" + console.table(["field of the metadata", "values"], [[*each] for each in fields.items()]))
    if segments:
        rows = [[s["name"], s["rows"], s["live"], s["bytes"], _tuned(s["tuning"])] for s in segments]
        head = ["segment", "rows", "live", "bytes", "results: lists, candidates, recall"]
        console.emit("\n" + console.table(head, rows))


def _tuned(tuning: dict[str, Any]) -> str:
    """What a segment is searched with; empty where every row is looked at."""
    settings = tuning.get("settings", [])
    return "; ".join(f"{s['top']}: {s['probes']}, {s['candidates']}, {s['recall']:.3f}" for s in settings)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _remark_refresh(report: Any, *, always: bool = False) -> None:
    """What reading the files came to: on stderr, and only if there is something to say."""
    added, changed, removed = len(report.added), len(report.changed), len(report.removed)
    if always or added or changed or removed:
        console.remark(f"files: {added} added, {changed} changed, {removed} removed, {report.unchanged} unchanged")
    left_out: dict[str, list[str]] = {}
    for path, reason in report.skipped:
        left_out.setdefault(reason, []).append(console.shown_path(path))
    for path in report.truncated:
        left_out.setdefault("the end of a piece longer than the model reads", []).append(console.shown_path(path))
    for reason, found in left_out.items():
        more = f" and {len(found) - _NAMED} more (--json lists them)" if len(found) > _NAMED else ""
        console.remark(f"left out, {reason}: {', '.join(found[:_NAMED])}{more}")
