"""The verbs of a cluster: each calls one public function and shows what it returns (see ``verbs.py``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from diffembed import console


def push(
    folder: Path,
    url: str,
    collection: str,
    *,
    form: Mapping[str, Any],
    shard_key: str | None,
    part: tuple[int, int],
    timeout: int,
    as_json: bool,
) -> None:
    """``diffembed cluster push``: ``form`` as of ``CollectionSettings``."""
    from diffembed.index import Index
    from diffembed.index.qdrant import QdrantIndex

    with (
        console.progress("writing") as tick,
        Index.open(folder) as index,
        QdrantIndex.open_for(
            index.settings, url, collection, form=form, shard_key=shard_key, timeout=timeout
        ) as target,
    ):
        report = index.copy_to(target, part=part, progress=tick)
        place = target.place
    if as_json:
        console.emit_json({"into": place, **report.to_dict()})
        return
    documents = f"{report.documents:,} documents, " if report.documents else ""
    skipped = f", {report.skipped:,} were there already" if report.skipped else ""
    retried = f", {report.retried:,} requests had to be repeated" if report.retried else ""
    console.remark(f"{place}: {documents}{report.chunks:,} vectors written in {report.seconds:.1f} s{skipped}{retried}")


def search(
    query: str,
    url: str,
    collection: str,
    options: dict[str, Any],
    *,
    shard_key: str | None,
    timeout: int,
    as_json: bool,
) -> None:
    """``diffembed cluster search``: ``options`` as of ``QdrantIndex.search``."""
    from diffembed.index.qdrant import QdrantIndex

    start = time.perf_counter()
    with QdrantIndex.open(url, collection, shard_key=shard_key, timeout=timeout) as index:
        hits = index.search(query, **options)
    if as_json:
        seconds = time.perf_counter() - start
        console.emit_json({"query": query, "seconds": seconds, "hits": [hit.to_dict() for hit in hits]})
        return
    console.show_hits(hits, first=1 + options["offset"])
    if not hits:
        console.remark("no hits: nothing passes the filter" if options["where"] else "no hits: no text there")


def stats(url: str, collection: str, *, shard_key: str | None, timeout: int, as_json: bool) -> None:
    """``diffembed cluster stats``."""
    from diffembed.index.qdrant import QdrantIndex

    with QdrantIndex.open(url, collection, shard_key=shard_key, timeout=timeout) as index:
        found = index.stats().to_dict()
    if as_json:
        console.emit_json(found)
        return
    console.emit(console.table(["what", "value"], [[name, str(value)] for name, value in found.items()]))


def size(
    rows: int,
    dims: int,
    *,
    payload_bytes: int,
    replicas: int,
    prices: tuple[float, float] | None,
    as_json: bool,
) -> None:
    """``diffembed cluster size``: every form, by what it takes of memory."""
    from diffembed.index.qdrant_forms import CollectionSettings, Quantization, VectorForm, size_of

    told = []
    for vectors in get_args(VectorForm):
        for quantization in get_args(Quantization):
            settings = CollectionSettings(vectors, quantization, replicas=replicas)
            need = size_of(rows, dims, settings, payload_bytes=payload_bytes)
            line = {"vectors": vectors, "quantization": quantization}
            line |= {"memory_gb": round(need.memory / 1e9, 1), "disk_gb": round(need.disk / 1e9, 1)}
            if prices is not None:
                line["cost"] = round(need.memory / 1e9 * prices[0] + need.disk / 1e9 * prices[1])
            told.append(line)
    if as_json:
        console.emit_json({"rows": rows, "dims": dims, "replicas": replicas, "forms": told})
        return
    head = ["vectors", "quantization", "memory GB", "disk GB", *(["a month"] if prices is not None else [])]
    console.emit(console.table(head, [[str(value) for value in line.values()] for line in told]))
