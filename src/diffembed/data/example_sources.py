"""Sources of contrastive rows (pairs, triplets, grouped rows), as functions of the draw number.

``pairs`` and ``groups`` are made from folders in BEIR layout and held in memory, every text once; ``rows`` are read in
blocks from JSONL or Parquet files of any size, as texts are (``TextSource``). In each case draw n follows from the
files and the seed alone, epoch after epoch, every row once an epoch: there is no cursor to save.
"""

from __future__ import annotations

import itertools
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from diffembed.data.beir import RetrievalTask, SplitBy, load_beir, split_of
from diffembed.data.census import FileCount, Noted, Repeats, Report, count_files, left_out
from diffembed.data.examples import Example, Grouped, Pair, Question, Triplet, content_key, parse_example
from diffembed.data.sections import section_rows
from diffembed.data.sources import LanguageMix, draw, expand, stream_of
from diffembed.data.texts import SHUFFLE_BYTES, TextSource
from diffembed.errors import InputError

Kind = Literal["pairs", "groups", "sections", "rows"]
BadRows = Literal["stop", "skip"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One draw.

    Attributes:
        origin: ``FILE, line N`` or ``FOLDER: query ID, document ID`` (of a grouped row, ``FOLDER: document ID``).
    """

    example: Example
    origin: str


class ExampleSource(Protocol):
    """Contrastive rows, endlessly."""

    @property
    def name(self) -> str:
        """What the recipe calls it."""

    def __len__(self) -> int:
        """Rows of an epoch."""

    def draws(self, start: int, count: int) -> list[Drawn]:
        """Draws ``start ... start + count - 1``."""

    def contents(self) -> list[Any]:
        """What the source is made of, for JSON: other files, other contents."""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Rows made from folders in BEIR layout.

    Attributes:
        examples: pairs or grouped rows; rows of one document or query refer to one string.
        folders: by the name that begins the ids of their rows.
    """

    name: str
    examples: tuple[Pair | Grouped, ...]
    folders: Mapping[str, Path]
    seed: int

    def __len__(self) -> int:
        return len(self.examples)

    def draws(self, start: int, count: int) -> list[Drawn]:
        """Draws ``start ... start + count - 1``."""
        return [Drawn(self.examples[i], self.origin(i)) for i in draw(len(self), start, count, self.seed).tolist()]

    def origin(self, number: int) -> str:
        """Where a row is from."""
        example = self.examples[number]
        document = f"document {example.document_id.removeprefix(f'{example.source}/')}"
        query = f"query {example.id.removeprefix(f'{example.source}/')}, " if isinstance(example, Pair) else ""
        return f"{self.folders[example.source]}: {query}{document}"

    def contents(self) -> list[int]:
        """Rows and a checksum of them."""
        checksum = 0
        for text in _texts(self.examples):
            checksum = zlib.crc32(text.encode("utf-8", "surrogatepass"), checksum)
        return [len(self), checksum]


@dataclass(frozen=True, slots=True)
class FileSource:
    """Rows of JSONL and Parquet files.

    Attributes:
        lines: their stream, each row as a line of JSON; of a mix, one stream a language.
    """

    name: str
    lines: TextSource | LanguageMix

    def __len__(self) -> int:
        return len(self.lines)

    def draws(self, start: int, count: int) -> list[Drawn]:
        """Draws ``start ... start + count - 1``."""
        lines = self.lines.draws(start, count)
        return [Drawn(parse_example(json.loads(line.text), line.origin), line.origin) for line in lines]

    def contents(self) -> list[Any]:
        """What the streams are made of."""
        return self.lines.contents()


def read_examples(
    name: str,
    root: Path,
    patterns: Sequence[str],
    seed: int,
    *,
    kind: Kind,
    split_by: SplitBy = "query",
    languages: Mapping[str, float] | None = None,
    shuffle_bytes: int = SHUFFLE_BYTES,
    bad_rows: BadRows = "stop",
    cache: Path | None = None,
    report: Report | None = None,
) -> ExampleSource:
    """The rows that match ``patterns`` under ``root``.

    Args:
        kind: ``pairs``: every judged pair of BEIR folders, on the train side of the hash rule. ``groups``: their
            documents, each with its train queries as questions; rows that share a ``doc_id`` are the chunks of one
            document, others documents of one chunk. ``sections``: their documents cut at headings, with questions for
            the sections (``sections.py``). ``rows``: files of pairs, triplets and grouped rows
            (``examples.py``), all of them.
        split_by: of folders, what the hash rule looks at; by ``doc_id``, nothing is read of a document of the dev side.
        languages: of ``rows``, the share of each language; rows of others are left out.
        shuffle_bytes: how much of the ``rows`` is held and permuted at a time.
        bad_rows: what to do where some of the ``rows`` are no examples: ``stop``, or ``skip`` them and say so.
        cache: a folder that keeps the counts of files from one run to the next.
        report: told what is left out, and of rows that repeat the query and document of another: all of those in
            memory; of ``rows`` those within a file (from 65,536 different rows on an estimate from a sample, which
            keeps the memory bounded), and files that hold the same as another.

    Raises:
        InputError: nothing matches, a folder or file that is not as ``kind`` expects, bad rows, no row at all, a single
            row that has nothing to be contrasted with.
    """
    paths = expand(root, patterns)
    source: FileSource | FolderSource
    if kind == "rows":
        _refuse(name, kind, "split_by", split_by != "query", "for pairs and groups, which have a dev side")
        lines = _lines(name, paths, seed, languages, shuffle_bytes, bad_rows, cache, report)
        source = FileSource(name, lines)
    else:
        _refuse(name, kind, "languages", bool(languages), "for rows, texts and spans")
        _refuse(name, kind, "bad_rows", bad_rows != "stop", "for rows; a bad line of a folder is always an error")
        folders = _labelled(name, kind, paths)
        made: Sequence[Pair | Grouped]
        if kind == "sections":
            made = [
                replace(row, document_id=f"{label}/{document}", source=label)
                for label, folder in folders.items()
                for document, row in section_rows(folder, side="train").items()
            ]
        else:
            made = (_pairs if kind == "pairs" else _groups)(name, folders, split_by, report)
        source = FolderSource(name, tuple(made), folders, seed)
        if report:
            repeats = Repeats(sys.maxsize)
            for number, example in enumerate(source.examples):
                repeats.add(content_key(example), number)
            _report_repeated(name, len(source), repeats.noted(source.origin), report)
    _check_contrast(source)
    return source


def _lines(
    name: str,
    paths: Sequence[Path],
    seed: int,
    languages: Mapping[str, float] | None,
    shuffle_bytes: int,
    bad_rows: BadRows,
    cache: Path | None,
    report: Report | None,
) -> TextSource | LanguageMix:
    if folder := next((path for path in paths if path.is_dir()), None):
        raise InputError(
            f"source '{name}': {folder} is a folder, and kind = \"rows\" reads JSONL or Parquet files; name the files "
            f'({folder.name}/*.jsonl), or take kind = "pairs" or "groups" for a folder in BEIR layout'
        )
    counts = count_files(paths, cache, report, content="examples")
    rows, bad = sum(count.rows for count in counts), Noted.together(count.bad for count in counts)
    if bad.count and bad_rows != "skip":
        raise InputError(
            f"source '{name}': of {rows:,} rows {bad.count:,} are bad: {bad.named}. Mend or remove them, or set "
            'bad_rows = "skip" to leave them out'
        )
    if report:
        if words := left_out(counts, languages or ()):
            report(f"source '{name}': {words}")
        _report_repeated(name, rows - bad.count, Noted.together(count.repeated for count in counts), report)
        _report_same(name, counts, report)
    return stream_of(name, counts, seed, part="all", languages=languages, shuffle_bytes=shuffle_bytes)


def _pairs(name: str, folders: Mapping[str, Path], split_by: SplitBy, report: Report | None) -> list[Pair]:
    pairs: list[Pair] = []
    found: Counter[str] = Counter()
    for label, folder in folders.items():
        task = load_beir(folder, "train", split_by=split_by)
        row_of = {key: row for row, key in enumerate(task.document_ids)}
        ids = [f"{label}/{key}" for key in task.document_ids]
        apart = _dev_rows(task, split_by)
        for (query_id, judged), language in zip(task.qrels.items(), task.query_langs, strict=True):
            key = f"{label}/{query_id}"
            for row in (row_of[document_id] for document_id in judged):
                if row in apart:
                    found["have a document of the dev side"] += 1
                elif not task.texts[row].strip():  # a blank query is an error of the file
                    found["have a blank document"] += 1
                else:
                    pairs.append(Pair(task.queries[query_id], task.texts[row], key, ids[row], language, source=label))
    _report_left(name, len(pairs) + found.total(), "pairs", found, report)
    return pairs


def _groups(name: str, folders: Mapping[str, Path], split_by: SplitBy, report: Report | None) -> list[Grouped]:
    groups: list[Grouped] = []
    documents, chunks, judged = Counter[str](), Counter[str](), Counter[str]()  # all of them (""), and what is left out
    for label, folder in folders.items():
        task = load_beir(folder, "train", split_by=split_by)
        apart = _dev_rows(task, split_by)
        asked, language_of = _asked(task), dict(zip(task.queries, task.query_langs, strict=True))
        for rows in task.documents():
            kept = [row for row in rows if task.texts[row].strip()]
            queries, answered = (sum(len(asked[row]) for row in some if row in asked) for some in (rows, kept))
            documents[""] += 1
            judged[""] += queries
            if rows[0] in apart:
                documents["are of the dev side"] += 1
                judged["are of documents of the dev side"] += queries
                continue
            judged["are blank"] += queries - answered
            if not answered:
                documents["have no query of the train side"] += 1
                continue
            chunks[""] += len(rows)
            chunks["are blank"] += len(rows) - len(kept)
            groups.append(_group(task, label, kept, asked, language_of))
    for what, found in (("documents", documents), ("chunks", chunks), ("judged chunks", judged)):
        _report_left(name, found.pop("", 0), what, found, report)
    return groups


def _asked(task: RetrievalTask) -> dict[int, list[str]]:
    """Row of a chunk -> ids of the queries that it answers."""
    row_of = {key: row for row, key in enumerate(task.document_ids)}
    asked: dict[int, list[str]] = {}
    for query_id, judged in task.qrels.items():
        for document_id in judged:
            asked.setdefault(row_of[document_id], []).append(query_id)
    return asked


def _group(
    task: RetrievalTask,
    label: str,
    rows: Sequence[int],
    asked: Mapping[int, Sequence[str]],
    language_of: Mapping[str, str],
) -> Grouped:
    queries = [(query_id, number) for number, row in enumerate(rows) for query_id in asked.get(row, ())]
    languages = {language_of[query_id] for query_id, _ in queries}
    return Grouped(
        tuple(task.texts[row] for row in rows),
        tuple(Question(task.queries[query_id], number, id=f"{label}/{query_id}") for query_id, number in queries),
        document_id=f"{label}/{_document(task, rows[0])}",
        language=languages.pop() if len(languages) == 1 else "",
        source=label,
    )


def _labelled(name: str, kind: Kind, paths: Sequence[Path]) -> dict[str, Path]:
    """Folders by names that tell them apart."""
    if file := next((path for path in paths if not path.is_dir()), None):
        raise InputError(
            f"source '{name}': {file} is not a folder, and kind = \"{kind}\" reads folders in BEIR layout "
            '(corpus.jsonl, queries.jsonl, qrels.tsv); name the folder, or take kind = "rows" for a file of rows'
        )
    names = Counter(path.name for path in paths)
    return {path.name if names[path.name] == 1 else str(path): path for path in paths}


def _document(task: RetrievalTask, row: int) -> str:
    """The id of the whole document that a row belongs to."""
    return (task.doc_ids[row] if task.doc_ids else None) or task.document_ids[row]


def _dev_rows(task: RetrievalTask, split_by: SplitBy) -> frozenset[int]:
    """The rows of documents that stay out as a whole."""
    if split_by == "query" or task.doc_ids is None:
        return frozenset()
    return frozenset(row for row in range(len(task.texts)) if split_of(_document(task, row)) == "dev")


def _texts(examples: Sequence[Pair | Grouped]) -> Iterable[str]:
    pairs = [example for example in examples if isinstance(example, Pair)]
    yield from itertools.chain((pair.query for pair in pairs), (pair.document for pair in pairs))
    for example in examples:
        if isinstance(example, Grouped):
            yield from (*example.chunks, *(f"{q.chunk} {q.query}" for q in example.questions))


def _check_contrast(source: FolderSource | FileSource) -> None:
    if not len(source):
        raise InputError(f"source '{source.name}' has no row to train on; correct the recipe")
    if len(source) > 1:
        return
    (only,) = source.draws(0, 1)
    match only.example:
        case Grouped(chunks=texts) if len(texts) > 1:
            return
        case Triplet(negatives=texts) if texts:
            return
        case _:
            raise InputError(
                f"source '{source.name}' has a single row ({only.origin}), and contrast needs at least two documents; "
                "add rows, or negatives to this one"
            )


def _refuse(name: str, kind: Kind, option: str, given: bool, meant: str) -> None:
    if given:
        raise InputError(f"source '{name}' is of kind '{kind}'; {option} is {meant}: leave it out")


def _report_left(name: str, rows: int, what: str, reasons: Counter[str], report: Report | None) -> None:
    if report and (parts := [f"{count:,} {reason}" for reason, count in reasons.items() if count]):
        report(f"source '{name}': of {rows:,} {what} {' and '.join(parts)}: left out")


def _report_repeated(name: str, rows: int, found: Noted, report: Report) -> None:
    if found.count:
        report(
            f"source '{name}': of {rows:,} rows {found.number} repeat the query and document of another ({found.named})"
        )


def _report_same(name: str, counts: Sequence[FileCount], report: Report) -> None:
    first: dict[tuple[int, int], Path] = {}
    for count in counts:
        rows = count.rows - count.bad.count
        before = first.setdefault((rows, count.checksum), count.path)
        if rows and before != count.path:
            report(f"source '{name}': {count.path} holds the same {rows:,} rows as {before}; one of them is enough")
