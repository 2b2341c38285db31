"""Search a folder without naming an index: one is kept for it in the cache folder and refreshed at every search."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.errors import InputError
from diffembed.index.catalog import Catalog
from diffembed.index.encoding import Hit, Progress, TextEncoder, load_encoder
from diffembed.index.filters import Where, parse_filter
from diffembed.index.fusion import DENSE_WEIGHT, Fusion
from diffembed.index.index import Index
from diffembed.index.refresh import RefreshReport, check_chunking, refresh_index
from diffembed.index.schema import FORMAT
from diffembed.index.watch import WATCH_SECONDS, check_interval, watch_index
from diffembed.text.chunking import Strategy
from diffembed.text.walk import resolve_roots

QUERIES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What ``search_paths`` found.

    Attributes:
        hits: best first.
        index: folder of the index that answered.
        refresh: what reading the files came to.
        seconds: of the search alone: query, scan, best sentences; loading and refreshing not included.
    """

    hits: tuple[Hit, ...]
    index: Path
    refresh: RefreshReport
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "hits": [hit.to_dict() for hit in self.hits],
            "index": str(self.index),
            "refresh": self.refresh.to_dict(),
            "search_seconds": self.seconds,
        }


def index_paths(
    paths: Sequence[str | Path],
    into: str | Path,
    *,
    model: str = "default",
    chunking: Strategy | None = None,
    progress: Progress | None = None,
) -> RefreshReport:
    """Index files and folders into a folder, or bring the index there up to date.

    Args:
        paths: files and folders to read.
        into: folder of the index.
        model: model name, directory or hub id.
        chunking: how documents are cut (see ``Chunker``); ``None`` for ``structure``, or what the index there has.
        progress: called with (files done, files to read).

    Raises:
        InputError: a path that is not there, no text to read, an unusable folder.
        IndexStoreError: the index there is damaged, locked, or was made by another model.
    """
    resolve_roots(paths)  # before a model is loaded: a misspelt path should not wait for it
    return refresh_index(
        Path(into), paths, encoder=load_encoder(model), chunking=chunking, progress=progress, require_text=True
    )


def watch_paths(
    paths: Sequence[str | Path],
    into: str | Path,
    *,
    model: str = "default",
    chunking: Strategy | None = None,
    seconds: float = WATCH_SECONDS,
    progress: Progress | None = None,
) -> Iterator[RefreshReport]:
    """``index_paths``, and again whenever files have changed; ends when the caller stops asking (see ``watch.py``)."""
    check_interval(seconds)
    resolve_roots(paths)
    encoder = load_encoder(model)
    yield from watch_index(Path(into), paths, encoder=encoder, chunking=chunking, seconds=seconds, progress=progress)


def search_paths(
    query: str,
    paths: Sequence[str | Path],
    *,
    top: int = 10,
    offset: int = 0,
    min_score: float | None = None,
    where: Where | None = None,
    hybrid: bool | Fusion = False,
    weight: float = DENSE_WEIGHT,
    group: bool = False,
    exact: bool = False,
    neighbours: int = 0,
    model: TextEncoder | str = "default",
    chunking: Strategy | None = None,
    progress: Progress | None = None,
) -> SearchReport:
    """Search files and folders; the first time they are indexed, later only what changed is read.

    The index lives in the cache folder, one for each model and ``chunking`` (``None``: ``structure``) that the paths
    are searched with (see ``index_folder``). If ``paths`` is the folder of an index made by ``index_paths``, that index
    is searched as it is. ``top`` to ``neighbours`` are those of ``Index.search``.

    Raises:
        InputError: an empty query, a path that is not there, no text to read, another chunking than an index has, a
            filter that is none.
        IndexStoreError: the index is damaged, locked, or was made by another model.
    """
    options = {"top": top, "offset": offset, "min_score": min_score, "where": where, "hybrid": hybrid}
    options |= {"weight": weight, "group": group, "exact": exact, "neighbours": neighbours}
    [report] = search_paths_all([query], paths, model=model, chunking=chunking, progress=progress, **options)
    return report


def search_paths_all(
    queries: Sequence[str],
    paths: Sequence[str | Path],
    *,
    model: TextEncoder | str = "default",
    chunking: Strategy | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[SearchReport]:
    """:func:`search_paths` for many queries: the files are read once, the queries encoded and asked some at a time.

    Args:
        queries: what to look for.
        paths, model, chunking, progress: as of ``search_paths``.
        options: its others.

    Yields:
        A report for each query; its seconds are its share of those that went together.
    """
    if not all(query.strip() for query in queries):
        raise InputError("the query is empty; say what to look for")
    if options.get("top", 1) < 1:
        raise InputError(f"top is {options['top']}; ask for at least 1 result")
    if options.get("where") is not None:
        parse_filter(options["where"])  # before a model is loaded and files are read
    roots = resolve_roots(paths)
    if len(roots) > 1 and (found := [root for root in roots if Catalog.exists(root)]):
        raise InputError(f"{found[0]} is an index; search it alone, or name the files it was made from")
    encoder = load_encoder(model) if isinstance(model, str) else model
    refreshed = RefreshReport()
    if len(roots) == 1 and Catalog.exists(roots[0]):
        folder = roots[0]
    else:
        folder = index_folder(roots, encoder.fingerprint, chunking or "structure")
        refreshed = refresh_index(
            folder, roots, encoder=encoder, chunking=chunking, progress=progress, require_text=True
        )
    with Index.open(folder) as index:
        check_chunking(folder, index.settings, chunking)
        for first in range(0, len(queries), QUERIES_AT_ONCE):
            start = time.perf_counter()
            together = queries[first : first + QUERIES_AT_ONCE]
            answers = index.search_all(together, encoder=encoder, **options)
            seconds = (time.perf_counter() - start) / len(together)
            for hits in answers:
                yield SearchReport(tuple(hits), folder, refreshed, seconds)


def watch_search(
    query: str, paths: Sequence[str | Path], *, seconds: float = WATCH_SECONDS, model: str = "default", **options: Any
) -> Iterator[SearchReport]:
    """``search_paths``, and again whenever files under ``paths`` have changed; ends when the caller stops asking.

    Args:
        query, paths: as of ``search_paths``; an index folder cannot be watched.
        seconds: how long to wait between two looks.
        model: name, directory or hub id; loaded once.
        options: those of ``search_paths``.
    """
    check_interval(seconds)
    roots = resolve_roots(paths)
    if len(roots) == 1 and Catalog.exists(roots[0]):
        raise InputError(f"{roots[0]} is an index, not a folder of files; watch the files that it was made from")
    encoder = load_encoder(model)
    yield search_paths(query, paths, model=encoder, **options)
    while True:
        time.sleep(seconds)
        report = search_paths(query, paths, model=encoder, **options)
        if report.refresh.anything:
            yield report


def index_folder(roots: Sequence[Path], fingerprint: str, chunking: Strategy = "structure") -> Path:
    """Where the index of some (resolved) paths, a model and a way to cut documents is kept.

    Under ``$XDG_CACHE_HOME``, else ``~/.cache``.
    """
    # An index of an older format is left alone: another one is made beside it.
    fingerprint = f"{fingerprint} format {FORMAT}"
    made_by = fingerprint if chunking == "structure" else f"{fingerprint} {chunking}"
    key = "\0".join([made_by, *sorted(map(str, roots))])
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "diffembed" / "indexes" / hashlib.sha256(os.fsencode(key)).hexdigest()[:24]
