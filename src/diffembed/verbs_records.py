"""The verbs of what an index holds: each calls one public function and shows what it returns, as ``verbs.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed import console
from diffembed.data.jsonl import STDIN
from diffembed.errors import InputError

if TYPE_CHECKING:
    from diffembed.index import Document, Index

_NAMED = 3  # records named where more are meant


def add(folder: Path, files: Sequence[Path], *, model: str | None, new: bool, as_json: bool) -> None:
    """``diffembed index add``: makes the index if there is none."""
    from diffembed.index.catalog import Catalog
    from diffembed.index.exchange import jsonl_records

    _require_files(files, "JSON lines")
    if model is not None and Catalog.exists(folder):
        raise InputError(f"{folder} is an index already, and keeps to its model; leave --model out")
    with console.progress("adding") as tick, _opened(folder, {"model": model}) as opened:
        write = opened.add if new else opened.upsert
        report = write(jsonl_records(files), progress=tick)
    _tell_written(folder, report, as_json)


def import_(
    folder: Path, files: Sequence[Path], options: dict[str, Any], *, create: dict[str, Any] | None, as_json: bool
) -> None:
    """``diffembed index import``: ``options`` as of ``Index.import_parquet``, ``create`` of ``Index.create``."""
    from diffembed.index.catalog import Catalog
    from diffembed.index.exchange import UNKNOWN, stated_fingerprint

    _require_files(files, "Parquet")
    if Catalog.exists(folder) and create is not None:
        raise InputError(f"{folder} is an index already; leave --dims, --model and --vectors-only out")
    if not Catalog.exists(folder) and create is None:
        raise InputError(f"{folder} is no index yet; say what to make: --dims N or --model M, perhaps --vectors-only")
    if create is not None and create["model"] is None and create["dims"] is not None:
        given = stated_fingerprint(files) if options["fingerprint"] is None else options["fingerprint"]
        create = {**create, "fingerprint": "" if given == UNKNOWN else given}
    with console.progress("importing") as tick, _opened(folder, create or {}) as opened:
        report = opened.import_parquet(files, progress=tick, **options)
    _tell_written(folder, report, as_json)


def _require_files(files: Sequence[Path], what: str) -> None:
    missing = [file for file in files if file != STDIN and not file.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such file; name files of {what}")


@contextmanager
def _opened(folder: Path, create: dict[str, Any]) -> Iterator[Index]:
    """The index of a folder, made if it is not there; a new one into which nothing went is taken away again."""
    from diffembed.index import Index
    from diffembed.index.catalog import Catalog
    from diffembed.index.store import discard_empty

    is_new = not Catalog.exists(folder)
    opened = Index.create(folder, **create) if is_new else Index.open(folder)
    try:
        with opened:
            yield opened
    finally:
        if is_new:
            discard_empty(folder)


def _tell_written(folder: Path, report: Any, as_json: bool) -> None:
    if as_json:
        console.emit_json({"index": str(folder), **report.to_dict()})
        return
    console.remark(
        f"records: {report.added:,} added, {report.replaced:,} replaced, {report.described:,} with other metadata, "
        f"{report.unchanged:,} unchanged"
    )
    if report.truncated:
        named = ", ".join(report.truncated[:_NAMED])
        console.remark(f"read in part, a piece is longer than the model reads: {len(report.truncated):,} ({named} ...)")


def export(folder: Path, output: Path, *, as_json: bool) -> None:
    """``diffembed index export``."""
    from diffembed.index import Index

    with console.progress("exporting") as tick, Index.open(folder) as opened:
        report = opened.export(output, progress=tick)
    if as_json:
        console.emit_json({"index": str(folder), **report.to_dict()})
    else:
        ids = f", their ids to {report.ids}" if report.ids else ""
        console.remark(f"{report.rows:,} x {report.dims} vectors written to {report.output}{ids}")


def get(folder: Path, ids: Sequence[str], *, vectors: bool, as_json: bool) -> None:
    """``diffembed index get``: ends with exit code 2 when one is missing."""
    from diffembed.index import Index

    with Index.open(folder) as opened:
        keys = opened.named(ids)
        found = opened.get(keys, vectors=vectors)
    for document in found:
        if as_json:
            console.emit_json_line(_record(document))
            continue
        console.emit(console.printable(_line(document)))
        for chunk in document.chunks:
            console.emit(console.indented(chunk.text))
    there = {document.key for document in found}
    missing = [given for given, key in zip(ids, keys, strict=True) if str(key) not in there]
    if missing:
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise InputError(f"{folder} has no {named}; `diffembed index list {folder}` says what there is")


def list_(folder: Path, where: str | None, options: dict[str, Any], *, as_json: bool) -> None:
    """``diffembed index list``: ``options`` as of ``Index.scroll``."""
    from diffembed.index import Index

    with Index.open(folder) as opened:
        for document in opened.scroll(where, **options):
            if as_json:
                console.emit_json_line(_record(document))
            else:
                console.emit(console.printable(_line(document)))


def _line(document: Document) -> str:
    count = len(document.chunks)
    told = f"{document.key}\t{count} {'chunk' if count == 1 else 'chunks'}"
    metadata = json.dumps(dict(document.metadata), ensure_ascii=False) if document.metadata else ""
    return f"{told}\t{metadata}" if metadata else told


def _record(document: Document) -> dict[str, Any]:
    """As ``diffembed index add`` takes it."""
    record = document.to_record()
    return record if document.vectors is None else {**record, "vectors": document.vectors.tolist()}


def count(folder: Path, where: str | None, *, as_json: bool) -> None:
    """``diffembed index count``."""
    from diffembed.index import Index

    with Index.open(folder) as opened:
        found = opened.count(where)
    if as_json:
        console.emit_json({"index": str(folder), "count": found})
    else:
        console.emit(str(found))


def delete(folder: Path, ids: Sequence[str] | None, where: str | None, *, as_json: bool) -> None:
    """``diffembed index delete``."""
    from diffembed.index import Index

    with Index.open(folder) as opened:
        removed = opened.delete(None if ids is None else opened.named(ids), where=where)
    if as_json:
        console.emit_json({"index": str(folder), "asked": None if ids is None else len(ids), "deleted": removed})
    elif ids is None:
        console.remark(f"deleted {removed:,}")
    else:
        console.remark(f"deleted {removed:,} of {len(ids):,}")
