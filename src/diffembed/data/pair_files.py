"""What mining reads: pairs and the documents around them, from a BEIR folder, a file of rows, or a list in memory.

A file of rows is read twice: once for keys and places, once more in order while its triplets are written. Its texts are
not held: a document is read again, at its place in the file, when it has become a negative. (A compressed file is
unpacked into the run's temporary folder first.) ``load_beir`` holds the texts of a BEIR folder in memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffembed.data.beir import Split, load_beir, split_of
from diffembed.data.candidates import NO_KEY, Entries, IntArray, KeyArray, Table, TakeTexts, text_key
from diffembed.data.examples import Grouped, Pair, Triplet, parse_example
from diffembed.data.jsonl import COMPRESSED, decode, jsonl_file, parse_object, raw_lines
from diffembed.data.negatives import Asked, asked_text
from diffembed.errors import InputError


@dataclass(frozen=True, slots=True)
class PairData:
    """Pairs to find negatives for.

    Attributes:
        table: all pairs and documents, by number.
        texts: the documents of the table.
        read: the pairs of the split, in order.
        asked: how many those are.
        outside_split: pairs of the other split: their documents are searched, their queries not asked.
        blank_documents: documents without text: not searched.
        blank_positives: pairs left out, as their document has no text.
        duplicate_documents: documents of a corpus with the text of an earlier one: searched once.
        fingerprint: SHA-256 of each file.
    """

    table: Table
    texts: TakeTexts
    read: Callable[[], Iterator[Asked]]
    asked: int
    outside_split: int = 0
    blank_documents: int = 0
    blank_positives: int = 0
    duplicate_documents: int = 0
    fingerprint: Mapping[str, str] = field(default_factory=dict)


def pairs_in_memory(
    pairs: Sequence[Pair],
    corpus: Sequence[str] | None = None,
    *,
    corpus_ids: Sequence[str] = (),
    part_of: Sequence[str] = (),
    barred: tuple[Sequence[str], Sequence[int]] = ((), ()),
    asked: Sequence[bool] = (),
) -> tuple[Table, TakeTexts, Callable[[], Iterator[Asked]]]:
    """The table, texts and reader of pairs that are at hand.

    Args:
        corpus: the documents to search, none blank; ``None`` for those of the pairs.
        corpus_ids: what each of them is part of.
        part_of: what the document of each pair is part of; its ``document_id`` unless given.
        barred: ``(queries, rows of the corpus)`` that do not belong together and are no negatives either.
        asked: which pairs the reader gives; all unless given.
    """
    queries = _keys(asked_text(pair) for pair in pairs)
    positives = Entries(_keys(pair.document for pair in pairs), _ids(part_of or [p.document_id for p in pairs]))
    own = corpus if corpus is not None else ()
    searched = Entries(_keys(own), _ids(corpus_ids or [""] * len(own))) if corpus is not None else None
    excluded = (_keys(barred[0]), np.array(barred[1], np.int64))
    table = Table(searched, positives, queries, excluded)

    def texts(numbers: Sequence[int]) -> list[str]:
        entries = table.first[np.asarray(numbers, np.int64)].tolist()
        return [own[i] if i < len(own) else pairs[i - len(own)].document for i in entries]

    def read() -> Iterator[Asked]:
        for i, pair in enumerate(pairs):
            if not asked or asked[i]:
                yield Asked(i, pair, int(queries[i]), int(table.document[i]))

    return table, texts, read


def pairs_of_beir(folder: Path, split: Split) -> PairData:
    """A pair for every query of the split and every document judged relevant for it, in the order of the queries.

    Documents with one ``doc_id`` are chunks of one: none of them is a negative where another answers. Ids get the
    folder's name before them, as in ``example_sources.py``.
    """
    task = load_beir(folder)
    rows = [row for row, text in enumerate(task.texts) if text.strip()]
    row_of = {task.document_ids[row]: i for i, row in enumerate(rows)}
    part = [(task.doc_ids[row] if task.doc_ids else None) or task.document_ids[row] for row in rows]
    pairs: list[Pair] = []
    part_of: list[str] = []
    asked: list[bool] = []
    blank = 0
    for (query, judged), language in zip(task.qrels.items(), task.query_langs, strict=True):
        side = split == "all" or split_of(query) == split
        for document in judged:
            if (row := row_of.get(document)) is None:
                blank += side
                continue
            text, key = task.texts[rows[row]], f"{task.name}/{query}"
            pairs.append(Pair(task.queries[query], text, key, f"{task.name}/{document}", language, source=task.name))
            part_of.append(part[row])
            asked.append(side)
    count = sum(asked)
    if not count:
        raise InputError(
            f"{folder} has no pair in split {split!r} ({len(pairs)} in all, {blank} with an empty document); "
            "use --split all"
        )
    barred = [(task.queries[q], row_of[d]) for q, out in task.excluded.items() for d in sorted(out) if d in row_of]
    table, texts, read = pairs_in_memory(
        pairs,
        [task.texts[row] for row in rows],
        corpus_ids=part,
        part_of=part_of,
        barred=([query for query, _ in barred], [row for _, row in barred]),
        asked=asked,
    )
    qrels = [folder / "qrels.tsv", *sorted((folder / "qrels").glob("*.tsv")), folder / "exclude.tsv"]
    files = [jsonl_file(folder, "corpus"), jsonl_file(folder, "queries"), *filter(Path.is_file, qrels)]
    return PairData(
        table,
        texts,
        read,
        asked=count,
        outside_split=len(pairs) - count,
        blank_documents=len(task.texts) - len(rows),
        blank_positives=blank,
        duplicate_documents=len(rows) - table.searchable,
        fingerprint=_fingerprint({path.relative_to(folder).as_posix(): path for path in files}),
    )


def pairs_of_rows(file: Path, corpus: Path | None, split: Split, folder: Path) -> PairData:
    """The pairs of a JSONL file; the corpus is that of ``corpus`` or their own documents.

    The split of a row is that of its ``id``, where it has none of its query (``split_of``). A row's document that is
    not in ``corpus`` answers its query and is no candidate.

    Args:
        folder: where compressed files are unpacked.

    Raises:
        InputError: a row that is no pair, a file that cannot be read, named with the line.
    """
    documents = _scan_corpus(_unpacked(corpus, folder / "corpus.jsonl"), corpus) if corpus else None
    plain = _unpacked(file, folder / "pairs.jsonl")
    state = plain.stat()
    pairs = _Lines(plain, file)
    queries, sides = array("Q"), array("b")
    for where, offset, record in _objects(plain, file):
        pair = _pair(record, where)
        pairs.add(where, offset, pair.document, pair.document_id)
        queries.append(_key(asked_text(pair), where))
        sides.append(split == "all" or split_of(pair.id or pair.query) == split)
    asked = sum(sides)
    if not asked:
        what = f"{file} has no rows" if not queries else f"{file} has no row in split {split!r} ({len(queries)} in all)"
        raise InputError(f"{what}; give it rows, or use --split all")
    parts = [part for part in (documents, pairs) if part is not None]
    keys = np.frombuffer(queries, np.uint64)
    table = Table(documents.entries() if documents else None, pairs.entries(), keys)

    def texts(numbers: Sequence[int]) -> list[str]:
        entries = table.first[np.asarray(numbers, np.int64)]
        found = [""] * len(entries)
        base = 0
        for part in parts:
            here = np.flatnonzero((entries >= base) & (entries < base + len(part.offsets)))
            for i, text in part.texts(here, entries[here] - base):
                found[i] = text
            base += len(part.offsets)
        return found

    def read() -> Iterator[Asked]:
        for i, (where, _, record) in enumerate(_objects(plain, file)):
            if i == len(sides):
                break  # lines were added
            if sides[i]:
                yield Asked(i, _pair(record, where), queries[i], int(table.document[i]))
        now = plain.stat()
        if (now.st_size, now.st_mtime_ns) != (state.st_size, state.st_mtime_ns):
            raise InputError(f"{file} was changed while it was read; run again when it is written")

    return PairData(
        table,
        texts,
        read,
        asked=asked,
        outside_split=len(queries) - asked,
        blank_documents=documents.blank if documents else 0,
        duplicate_documents=len(documents.offsets) - table.searchable if documents else 0,
        fingerprint=_fingerprint({"pairs": file} | ({"corpus": corpus} if corpus else {})),
    )


class _Lines:
    """Where the documents of a JSONL file stand, and their keys."""

    def __init__(self, plain: Path, name: Path, kind: Literal["pairs", "corpus"] = "pairs") -> None:
        self._plain, self._name, self._kind = plain, name, kind
        self.offsets, self._texts, self._ids = array("q"), array("Q"), array("Q")
        self.blank = 0

    def add(self, where: str, offset: int, text: str, identifier: str) -> None:
        self.offsets.append(offset)
        self._texts.append(_key(text, where))
        self._ids.append(_key(identifier, where) if identifier else NO_KEY)

    def entries(self) -> Entries:
        return Entries(np.frombuffer(self._texts, np.uint64), np.frombuffer(self._ids, np.uint64))

    def texts(self, places: IntArray, rows: IntArray) -> Iterator[tuple[int, str]]:
        """``(place, text)`` of rows, in the order of the file."""
        if not len(rows):
            return
        with self._plain.open("rb") as stream:
            for i in np.argsort(rows).tolist():
                offset = self.offsets[int(rows[i])]
                stream.seek(offset)
                where = f"{self._name}, byte {offset}"
                record = parse_object(where, decode(self._name, 1 if offset == 0 else 2, stream.readline()))
                text = _pair(record, where).document if self._kind == "pairs" else _corpus_text(record, where)
                yield int(places[i]), text


def _scan_corpus(plain: Path, name: Path) -> _Lines:
    lines = _Lines(plain, name, "corpus")
    for where, offset, record in _objects(plain, name):
        identifier = record.get("_id")
        if isinstance(identifier, bool) or not isinstance(identifier, (str, int)) or identifier == "":
            raise InputError(f'{where} needs an "_id", a string or a whole number; found {identifier!r}')
        text = _corpus_text(record, where)
        if text.strip():
            lines.add(where, offset, text, str(identifier))
        else:
            lines.blank += 1
    if not len(lines.offsets):
        raise InputError(f'{name} has no document with text; expected objects with "_id" and "text", one a line')
    return lines


def _corpus_text(record: Mapping[str, Any], where: str) -> str:
    title, text = record.get("title") or "", record.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise InputError(f'{where} needs a "text" that is a string (and "title", if it has one)')
    return "\n".join(part for part in (title, text) if part.strip())


def _pair(record: Mapping[str, Any], where: str) -> Pair:
    example = parse_example(record, where)
    if isinstance(example, Grouped):
        raise InputError(f"{where} is a document in chunks; mining reads pairs of query and document")
    if isinstance(example, Triplet):
        if example.negatives:
            raise InputError(f"{where} has negatives already; mining reads pairs, give the rows without them")
        return Pair(
            example.query,
            example.document,
            example.id,
            example.document_id,
            example.language,
            example.instruction,
            example.source,
        )
    return example


def _objects(plain: Path, name: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """``(file, line N``, byte offset, object) of every line that is not blank."""
    start = 0
    for number, end, line in raw_lines(plain):
        text = decode(name, number, line)
        if text.strip():
            where = f"{name}, line {number}"
            yield where, start, parse_object(where, text)
        start = end


def _unpacked(file: Path, copy: Path) -> Path:
    """The file itself, or a copy of a compressed one whose lines can be found by their place."""
    if file.suffix not in COMPRESSED:
        return file
    with copy.open("wb") as out:
        out.writelines(line for _, _, line in raw_lines(file))
    return copy


def _key(text: str, where: str) -> int:
    try:
        return text_key(text)
    except UnicodeEncodeError as error:
        raise InputError(f"{where} holds half of a surrogate pair ({error.reason}); mend the text") from None


def _keys(texts: Iterator[str] | Sequence[str]) -> KeyArray:
    return np.fromiter((_key(text, f"text {i}") for i, text in enumerate(texts)), np.uint64)


def _ids(identifiers: Sequence[str]) -> KeyArray:
    return np.fromiter((_key(i, f"id {i!r}") if i else NO_KEY for i in identifiers), np.uint64)


def _fingerprint(files: Mapping[str, Path]) -> dict[str, str]:
    found = {}
    for name, file in files.items():
        with file.open("rb") as stream:
            found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
