"""Looking an index over: ``verify`` recounts and compares everything, ``stats`` says how large it is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import DiffembedError
from diffembed.index import lexical
from diffembed.index.catalog import Catalog, IdArray
from diffembed.index.connection import SQLITE_ERRORS
from diffembed.index.encoding import Progress
from diffembed.index.parts import SEGMENTS, live_mask, open_listed, open_sealed
from diffembed.index.schema import (
    CHUNK_COLUMNS,
    DOCUMENT_COLUMNS,
    SCHEMA,
    Settings,
    StoredDocument,
    StoredSegment,
    checked,
    facts_of,
)
from diffembed.index.seal import check_seal, read_seal
from diffembed.index.store import unlisted

_SHOWN = 5  # problems of one kind that are named


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``verify`` found.

    Attributes:
        problems: what is damaged, in words; empty when the index is sound.
        notes: what is odd but does no harm: files that no commit has made part of the index.
        documents, rows, segments: how many were looked at.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    documents: int
    rows: int
    segments: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "problems": list(self.problems), "notes": list(self.notes)}


class _Problems:
    def __init__(self) -> None:
        self.found: list[str] = []

    def say(self, texts: list[str]) -> None:
        """Several problems of one kind: the first few, and how many more there are."""
        self.found += texts[:_SHOWN] + ([f"... and {len(texts) - _SHOWN:,} more like it"] if texts[_SHOWN:] else [])

    def attempt(self, what: str, check: Callable[[], None]) -> None:
        """Whatever a check raises is a problem; values of another type than was stored raise what they like."""
        try:
            check()
        except (*SQLITE_ERRORS, DiffembedError, TypeError, ValueError, OverflowError) as error:
            self.found.append(str(error) if isinstance(error, DiffembedError) else f"{what}: {error}")


def verify_index(catalog: Catalog, progress: Progress | None = None) -> CheckReport:
    """Compare everything.

    Checks SQLite's structure, that the tables are as they were made, every row's checksum, the counts, the full-text
    index and the filters' table against the texts and metadata, every byte of the segments, and that catalog and
    segments hold the same rows.
    """
    problems, settings = _Problems(), catalog.settings()
    sealed = read_seal(catalog.folder)
    with catalog.reading():
        problems.attempt("the catalog", lambda: check_seal(catalog, sealed))
        problems.say([f"the catalog: {row[0]}" for row in catalog.query("PRAGMA integrity_check") if row[0] != "ok"])
        problems.attempt("the catalog", lambda: _check_tables(catalog, problems, settings))
        listed, (documents, rows) = catalog.segments(), catalog.counts()
        ids = _check_segments(catalog, problems, listed, settings, progress)
        if len(ids) != rows:
            problems.say([f"the catalog counts {rows:,} live rows, the segments hold {len(ids):,}"])
        if not settings.vectors_only:
            problems.attempt("the documents", lambda: _check_documents(catalog, problems, documents))
            problems.attempt("the chunks", lambda: _check_chunks(catalog, problems, ids))
    notes = [f"{path.name} belongs to no commit; the next writer removes it" for path in unlisted(catalog)]
    if not settings.vectors_only and catalog.writable:
        problems.attempt("the full-text index", lambda: lexical.check(catalog.connection))
    elif not settings.vectors_only:
        notes.append("the full-text index was not compared: SQLite does that only where it can write")
    return CheckReport(tuple(problems.found), tuple(notes), documents, rows, len(listed))


def _check_tables(catalog: Catalog, problems: _Problems, settings: Settings) -> None:
    """Tables, indexes and views as an index is made with them; those that FTS5 makes itself are compared by it."""
    own = "('lexical_data', 'lexical_idx', 'lexical_docsize', 'lexical_config')"
    wanted = f"SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT IN {own}"
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(SCHEMA + ("" if settings.vectors_only else lexical.SCHEMA))
        lacking = set(made.execute(wanted)) - set(catalog.query(wanted))
    problems.say([f"the catalog: {kind} {name} is not as it was made" for name, kind, _ in sorted(lacking)])


def _check_segments(
    catalog: Catalog,
    problems: _Problems,
    listed: list[StoredSegment],
    settings: Settings,
    progress: Progress | None,
) -> IdArray:
    """Every byte of every segment; returns the ids of the live rows, ascending."""
    live: list[IdArray] = [np.empty(0, np.int64)]
    for number, segment in enumerate(listed):
        problems.attempt("the catalog", lambda s=segment: live.append(_live_ids(catalog, s, settings)))  # type: ignore[misc]
        if progress is not None:
            progress(number + 1, len(listed))
    ids = np.sort(np.concatenate(live))
    twice = np.unique(ids[1:][np.diff(ids) == 0])
    problems.say([f"row {id_} is live in two segments" for id_ in twice.tolist()])
    strange = {row[0] for row in catalog.query("SELECT segment FROM deleted")} - {s.id for s in listed}
    problems.say([f"rows are deleted of segment {id_}, which is not there" for id_ in sorted(strange, key=repr)])
    return ids


def _live_ids(catalog: Catalog, listed: StoredSegment, settings: Settings) -> IdArray:
    segment = open_listed(catalog.folder, listed, settings.dims)
    segment.verify()
    sealed = open_sealed(catalog.folder, listed, settings.dims)
    if sealed is not None:
        sealed.coarse.verify()
    mask = live_mask(segment, catalog.deleted(listed.id))
    return segment.ids if mask is None else segment.ids[mask]


def _rows(catalog: Catalog, sql: str) -> Iterator[tuple[Any, ...]]:
    yield from catalog.connection.execute(sql)


def _check_documents(catalog: Catalog, problems: _Problems, expected: int) -> None:
    """Rows, places of the chunks, and the facts that filters look at."""
    count = facts = 0
    wrong: list[str] = []
    spans: list[tuple[int, int]] = []
    for row in _rows(catalog, f"SELECT {DOCUMENT_COLUMNS} FROM documents ORDER BY key"):
        count += 1
        try:
            document = StoredDocument.of(row)
        except sqlite3.Error as error:
            wrong.append(f"document {row[1]}: {error}")
            continue
        spans.append((document.first_chunk, document.chunks))
        facts += _count_facts(catalog, document, wrong)
    problems.say(wrong)
    if count != expected:
        problems.say([f"the catalog counts {expected:,} documents and holds {count:,}"])
    there = catalog.query("SELECT count(*) FROM facts")[0][0]
    if there != facts:
        problems.say([f"filters know {there:,} values, the metadata has {facts:,}"])
    first_N, count_N = np.array(sorted(spans), np.int64).reshape(-1, 2).T
    if (first_N[1:] < (first_N + count_N)[:-1]).any():
        problems.say(["documents share chunks"])
    if len(first_N) and (first_N + count_N).max() > catalog.next_row():
        problems.say(["the next chunk would get the number of one that is there"])


def _count_facts(catalog: Catalog, document: StoredDocument, wrong: list[str]) -> int:
    facts = set(facts_of(json.loads(document.metadata)))
    for fact in facts:
        sql = "SELECT 1 FROM facts WHERE field = ? AND type = ? AND value = ? AND document = ?"
        if not catalog.query(sql, (*fact, document.id)):
            wrong.append(f"filters do not know {fact[0]} of {document.key}")
    return len(facts)


def _check_chunks(catalog: Catalog, problems: _Problems, live: IdArray) -> None:
    ids: list[int] = []
    damaged: list[str] = []
    for row in _rows(catalog, f"SELECT {CHUNK_COLUMNS} FROM chunks ORDER BY id"):
        ids.append(row[0])
        try:
            checked(row)
        except sqlite3.Error as error:
            damaged.append(f"chunk {row[0]}: {error}")
    problems.say(damaged)
    there = np.array(ids, np.int64)
    problems.say([f"chunk {id_} has no vector" for id_ in np.setdiff1d(there, live).tolist()])
    problems.say([f"the vector of chunk {id_} has no text" for id_ in np.setdiff1d(live, there).tolist()])
    sql = (
        "SELECT d.key FROM documents d WHERE d.chunks != (SELECT count(*) FROM chunks c WHERE c.id >= d.first_chunk "
        "AND c.id < d.first_chunk + d.chunks AND c.document = d.id)"
    )
    problems.say([f"{row[0]} does not have the chunks that it should" for row in catalog.query(sql)])


@dataclass(frozen=True, slots=True)
class SegmentStats:
    """One segment: its rows, how many of them are live, bytes on disk, and what compaction found out about it."""

    name: str
    rows: int
    live: int
    bytes: int
    tuning: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stats:
    """How large an index is and what it holds.

    Attributes:
        model, fingerprint, dims, contextual, chunking, chunk_tokens, vectors_only: what it was made with.
        documents, files, rows: how many it holds; rows are chunks, or vectors.
        deleted: rows that are gone but still take room; ``compact`` frees it.
        generation: grows with every commit.
        catalog_bytes, vector_bytes: on disk.
        fields: for each field of the metadata, how many values it has in all.
        segments: the files of the vectors.
    """

    model: str
    fingerprint: str
    dims: int
    contextual: bool
    chunking: str
    chunk_tokens: int
    vectors_only: bool
    documents: int
    files: int
    rows: int
    deleted: int
    generation: int
    catalog_bytes: int
    vector_bytes: int
    fields: dict[str, int]
    segments: tuple[SegmentStats, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "segments": [asdict(segment) for segment in self.segments]}


def index_stats(catalog: Catalog) -> Stats:
    """Count what an index holds; to be called in a transaction."""
    settings, state = catalog.settings(), catalog.state()
    segments = []
    for listed in catalog.segments():
        files = [catalog.folder / SEGMENTS / name for name in _files_of(catalog.folder / SEGMENTS, listed)]
        live = listed.rows - len(catalog.deleted(listed.id))
        size = sum(path.stat().st_size for path in files)
        segments.append(SegmentStats(listed.name, listed.rows, live, size, json.loads(listed.tuning)))
    return Stats(
        model=settings.model,
        fingerprint=settings.fingerprint,
        dims=settings.dims,
        contextual=settings.contextual,
        chunking=settings.chunking,
        chunk_tokens=settings.chunk_tokens,
        vectors_only=settings.vectors_only,
        documents=state.documents,
        files=catalog.query("SELECT count(*) FROM documents WHERE is_file")[0][0],
        rows=state.rows,
        deleted=sum(segment.rows - segment.live for segment in segments),
        generation=state.generation,
        catalog_bytes=catalog.path.stat().st_size,
        vector_bytes=sum(segment.bytes for segment in segments),
        fields=dict(catalog.query("SELECT field, count(*) FROM facts GROUP BY field ORDER BY field")),
        segments=tuple(segments),
    )


def _files_of(folder: Path, listed: StoredSegment) -> list[str]:
    stem = listed.name.rpartition(".")[0]
    return [path.name for path in folder.glob(f"{stem}.*")]
