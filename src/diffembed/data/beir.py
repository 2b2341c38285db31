"""Retrieval tasks read from a folder in BEIR layout, every line checked.

    corpus.jsonl[.gz]    {"_id", "title"?, "text", "lang"?, "doc_id"?, "chunk_idx"?}
    queries.jsonl[.gz]   {"_id", "text", "lang"?}
    qrels.tsv            query-id TAB corpus-id TAB score, with or without a header line;
    or qrels/*.tsv       several such files, read together
    exclude.tsv          optional: query-id TAB corpus-id, pairs to leave out of ranking and judgements

Rows that share a ``doc_id`` are the consecutive chunks of one document, in the order of ``chunk_idx``.

Splits are a rule, not files: a query is *dev* when ``zlib.crc32(_id) % 10 == 0`` and *train* otherwise; the corpus is
shared. The rule looks at the query's id, in every set; all figures of this project are by it. In a set with ``doc_id``
two queries about one article can thus be on both sides. Who wants whole articles apart asks for
``split_by="doc_id"``, which hashes the ``doc_id`` of the query's best-judged document in the same way.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from diffembed.data.jsonl import jsonl_file, read_lines, read_objects
from diffembed.errors import InputError

Split = Literal["all", "train", "dev"]
SplitBy = Literal["query", "doc_id"]
_EXCLUDE_HEADS = {"query-id", "query_id", "qid", "query"}


@dataclass(frozen=True, slots=True)
class RetrievalTask:
    """Queries, documents and which belong together.

    Attributes:
        name: the folder's name.
        document_ids: ``[documents]``.
        texts: ``[documents]``; title, a newline and the text where there is a title. May be empty strings.
        doc_ids: ``[documents]`` id of the whole document that a chunk belongs to, or ``None`` where no row has one; a
            row without one in a mixed corpus is a document of its own.
        chunk_idx: ``[documents]`` position of the chunk in it; ``None`` where ``doc_ids`` is.
        queries: query id -> text, those of the split that have a relevant document.
        qrels: query id -> document id -> score (above 0), the same queries.
        excluded: query id -> ids of documents to leave out of its ranking.
        unjudged: number of queries of the split without a relevant document; they are not asked.
        document_langs, query_langs: ``lang`` of each row (empty where not given), in the order of ``document_ids``
            and ``queries``.
    """

    name: str
    document_ids: tuple[str, ...]
    texts: tuple[str, ...]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    doc_ids: tuple[str | None, ...] | None = None
    chunk_idx: tuple[int, ...] | None = None
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unjudged: int = 0
    document_langs: tuple[str, ...] = ()
    query_langs: tuple[str, ...] = ()

    def documents(self) -> list[list[int]]:
        """Row numbers grouped into whole documents: chunks in reading order, documents by their first row."""
        if self.doc_ids is None or self.chunk_idx is None:
            return [[row] for row in range(len(self.texts))]
        groups: dict[object, list[int]] = {}
        for row, doc_id in enumerate(self.doc_ids):
            groups.setdefault(row if doc_id is None else doc_id, []).append(row)
        position = self.chunk_idx
        return [sorted(rows, key=lambda row: position[row]) for rows in groups.values()]


def split_of(identifier: str) -> Literal["train", "dev"]:
    """The side of the hash rule on which an id falls.

    >>> [split_of(i) for i in ("q7", "q8", "q9")]
    ['train', 'dev', 'train']
    """
    return "dev" if zlib.crc32(identifier.encode("utf-8")) % 10 == 0 else "train"


def load_beir(data: Path, split: Split = "all", *, split_by: SplitBy = "query") -> RetrievalTask:
    """Read a folder in BEIR layout (see the module).

    A query whose id is also the id of a document is that document in some sets (related entries, problems of one
    kind). Where *every* query id of a folder is a document id and no such pair is judged, the pairs are left out of
    the ranking, as BEIR does; ``excluded`` holds them.

    Raises ``InputError`` naming file and line for a line that cannot be read, an id given twice, a judgement of
    an unknown id, and naming the folder for a missing file or a split without judged queries.
    """
    data = Path(data)
    if split not in get_args(Split):
        raise InputError(f"unknown split {split!r}; give one of: {', '.join(get_args(Split))}")
    if not data.is_dir():
        raise InputError(
            f"{data} is not a folder; give one with corpus.jsonl, queries.jsonl and qrels.tsv (.gz allowed)"
        )
    documents = _rows(jsonl_file(data, "corpus"))
    queries = _rows(jsonl_file(data, "queries"), texts_required=True)
    doc_ids, chunk_idx = _chunks(documents)
    qrels, negative = _read_qrels(data, queries, documents)
    excluded = _read_excluded(data, queries, documents)
    judged_itself = any(query in qrels.get(query, ()) or query in negative.get(query, ()) for query in queries)
    if not judged_itself and all(query in documents for query in queries):
        for query in queries:
            excluded.setdefault(query, set()).add(query)
    for query, left_out in excluded.items():
        if query in qrels:
            qrels[query] = {document: gain for document, gain in qrels[query].items() if document not in left_out}
    position = {identifier: row for row, identifier in enumerate(documents)}

    def side(query: str) -> str:
        if split_by == "query" or doc_ids is None or not qrels.get(query):
            return split_of(query)
        best = max(qrels[query].items(), key=lambda item: (item[1], -position[item[0]]))[0]
        return split_of(doc_ids[position[best]] or best)

    in_split = [query for query in queries if split == "all" or side(query) == split]
    asked = [query for query in in_split if qrels.get(query)]
    if not asked:
        raise InputError(
            f"{data} has no judged query in split {split!r} ({len(queries)} queries in all); use --split all"
        )
    return RetrievalTask(
        name=data.resolve().name,
        document_ids=tuple(documents),
        texts=tuple(row.text for row in documents.values()),
        queries={query: queries[query].text for query in asked},
        qrels={query: qrels[query] for query in asked},
        doc_ids=doc_ids,
        chunk_idx=chunk_idx,
        excluded={query: frozenset(excluded[query]) for query in asked if query in excluded},
        unjudged=len(in_split) - len(asked),
        document_langs=tuple(row.lang for row in documents.values()),
        query_langs=tuple(queries[query].lang for query in asked),
    )


def load_corpus(data: Path) -> RetrievalTask:
    """The documents of a folder alone: a task without queries. Only ``corpus.jsonl`` is read, and checked as ever."""
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give one with corpus.jsonl (.gz allowed)")
    documents = _rows(jsonl_file(data, "corpus"))
    doc_ids, chunk_idx = _chunks(documents)
    return RetrievalTask(
        name=data.resolve().name,
        document_ids=tuple(documents),
        texts=tuple(row.text for row in documents.values()),
        queries={},
        qrels={},
        doc_ids=doc_ids,
        chunk_idx=chunk_idx,
        document_langs=tuple(row.lang for row in documents.values()),
    )


def write_beir(
    folder: Path,
    task: RetrievalTask,
    *,
    documents: Mapping[str, Sequence[object]] | None = None,
    queries: Mapping[str, Sequence[object]] | None = None,
) -> None:
    """Write a task as a folder that ``load_beir`` reads. Files of these names are replaced.

    Args:
        documents, queries: further keys of the rows, each with one value a row.

    Raises:
        InputError: the folder cannot be made or written.
    """
    corpus: dict[str, Sequence[object]] = {"_id": task.document_ids, "text": task.texts, "lang": task.document_langs}
    if task.doc_ids is not None and task.chunk_idx is not None:
        places = [None if owner is None else at for owner, at in zip(task.doc_ids, task.chunk_idx, strict=True)]
        corpus |= {"doc_id": task.doc_ids, "chunk_idx": places}
    asked: dict[str, Sequence[object]] = {"_id": list(task.queries), "text": list(task.queries.values())}
    asked |= {"lang": task.query_langs}
    judged = [f"{q}\t{d}\t{gain}" for q, gains in task.qrels.items() for d, gain in gains.items()]
    left_out = [f"{query}\t{document}" for query, pairs in task.excluded.items() for document in sorted(pairs)]
    files = {
        "corpus.jsonl": _json_rows(corpus | dict(documents or {})),
        "queries.jsonl": _json_rows(asked | dict(queries or {})),
        "qrels.tsv": ["query-id\tcorpus-id\tscore", *judged],
    } | ({"exclude.tsv": ["query-id\tcorpus-id", *left_out]} if left_out else {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in files.items():
            with (folder / name).open("w", encoding="utf-8", newline="\n") as stream:
                stream.writelines(line + "\n" for line in lines)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another folder") from error


def _json_rows(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """One object a row; a column without values is left out, and so is a value that is ``None``."""
    filled = {name: values for name, values in columns.items() if len(values)}
    rows = (dict(zip(filled, row, strict=True)) for row in zip(*filled.values(), strict=True))
    plain = ({name: value for name, value in row.items() if value is not None} for row in rows)
    return [json.dumps(row, ensure_ascii=False) for row in plain]


@dataclass(frozen=True, slots=True)
class _Row:
    text: str
    lang: str
    doc_id: str | None
    chunk_idx: int | None
    where: str


def _rows(path: Path, *, texts_required: bool = False) -> dict[str, _Row]:
    rows: dict[str, _Row] = {}
    for where, record in read_objects(path):
        identifier = _identifier(record, "_id", where)
        if identifier is None:
            raise InputError(f'{where} has no "_id"; every row needs one')
        if identifier in rows:
            raise InputError(
                f"{where}: the id {identifier!r} was given before ({rows[identifier].where}); ids must be unique"
            )
        rows[identifier] = _row(record, where)
        if texts_required and not rows[identifier].text.strip():
            raise InputError(f"{where}: the text of query {identifier!r} is empty; give it a text or remove it")
    if not rows:
        raise InputError(f"{path} holds no rows; expected one JSON object a line")
    return rows


def _row(record: dict[str, Any], where: str) -> _Row:
    parts: dict[str, str] = {}
    for name in ("title", "text", "lang"):
        value = record.get(name)
        if value is None and name != "text":
            value = ""
        if not isinstance(value, str):
            raise InputError(f'{where}: "{name}" must be a string, not {type(value).__name__}')
        parts[name] = value
    doc_id, chunk_idx = _identifier(record, "doc_id", where), record.get("chunk_idx")
    if chunk_idx is not None and (isinstance(chunk_idx, bool) or not isinstance(chunk_idx, int)):
        raise InputError(f'{where}: "chunk_idx" must be a whole number, not {chunk_idx!r}')
    if (doc_id is None) != (chunk_idx is None):
        raise InputError(f'{where}: "doc_id" and "chunk_idx" belong together; give both or neither')
    text = "\n".join(part for part in (parts["title"], parts["text"]) if part.strip())
    return _Row(text, parts["lang"], doc_id, chunk_idx, where)


def _identifier(record: dict[str, Any], name: str, where: str) -> str | None:
    """Ids are strings; a whole number is taken as one. Tabs would break qrels, so they are refused here."""
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f'{where}: "{name}" must be a string or a whole number, not {value!r}')
    text = str(value)
    if not text or "\t" in text or "\n" in text:
        raise InputError(f'{where}: "{name}" must not be empty or hold a tab or a newline: {text!r}')
    return text


def _chunks(rows: Mapping[str, _Row]) -> tuple[tuple[str | None, ...] | None, tuple[int, ...] | None]:
    if all(row.doc_id is None for row in rows.values()):
        return None, None
    seen: dict[tuple[str, int], str] = {}
    for row in rows.values():
        if row.doc_id is None or row.chunk_idx is None:
            continue
        key = (row.doc_id, row.chunk_idx)
        if key in seen:
            message = f"{row.where}: chunk {row.chunk_idx} of {row.doc_id!r} was given before ({seen[key]})"
            raise InputError(f"{message}; each chunk_idx stands once in a document")
        seen[key] = row.where
    return tuple(row.doc_id for row in rows.values()), tuple(row.chunk_idx or 0 for row in rows.values())


def _read_qrels(
    data: Path, queries: Mapping[str, _Row], documents: Mapping[str, _Row]
) -> tuple[dict[str, dict[str, int]], dict[str, set[str]]]:
    """Judgements above 0, and the pairs judged 0 or below."""
    single, folder = data / "qrels.tsv", data / "qrels"
    files = ([single] if single.is_file() else []) + sorted(folder.glob("*.tsv"))
    if not files:
        raise InputError(f"{data} has neither qrels.tsv nor qrels/*.tsv; judgements are needed to score")
    if single in files and len(files) > 1:
        raise InputError(f"{data} has both qrels.tsv and qrels/*.tsv; remove the one that is not meant")
    seen: dict[tuple[str, str], int] = {}
    for path in files:
        for order, (where, line) in enumerate(read_lines(path)):
            fields = line.split("\t")
            if len(fields) != 3:
                raise InputError(f"{where} has {len(fields)} fields; expected query-id TAB corpus-id TAB score")
            query, document, score = (field.strip() for field in fields)
            gain = _whole(score)
            if gain is None:
                if order == 0 and query not in queries and document not in documents:
                    continue  # the header
                raise InputError(f"{where}: the score {score!r} is not a whole number")
            _known(where, query, queries, document, documents)
            if seen.setdefault((query, document), gain) != gain:
                raise InputError(
                    f"{where}: query {query!r} and document {document!r} were judged {seen[query, document]} before"
                )
    qrels: dict[str, dict[str, int]] = {}
    negative: dict[str, set[str]] = {}
    for (query, document), gain in seen.items():
        if gain > 0:
            qrels.setdefault(query, {})[document] = gain
        else:
            negative.setdefault(query, set()).add(document)
    return qrels, negative


def _read_excluded(data: Path, queries: Mapping[str, _Row], documents: Mapping[str, _Row]) -> dict[str, set[str]]:
    excluded: dict[str, set[str]] = {}
    path = data / "exclude.tsv"
    for order, (where, line) in enumerate(read_lines(path) if path.is_file() else ()):
        fields = line.split("\t")
        if len(fields) < 2:
            raise InputError(f"{where} has one field; expected query-id TAB corpus-id")
        query, document = fields[:2]
        if order == 0 and query.lower() in _EXCLUDE_HEADS and query not in queries:
            continue
        _known(where, query, queries, document, documents)
        excluded.setdefault(query, set()).add(document)
    return excluded


def _known(where: str, query: str, queries: Mapping[str, _Row], document: str, documents: Mapping[str, _Row]) -> None:
    for stem, identifier, known in (("queries", query, queries), ("corpus", document, documents)):
        if identifier not in known:
            raise InputError(
                f"{where} names the id {identifier!r}, which is in no row of {stem}.jsonl; mend or remove it"
            )


def _whole(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None
