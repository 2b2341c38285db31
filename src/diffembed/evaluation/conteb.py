"""ConTEB: finding chunks that only make sense within their documents (arXiv 2505.24782).

Eight sets of the hub's ``illuin-conteb``, each with two configurations:

    documents   {"chunk_id": "<document>_<index>", "chunk"}
    queries     {"query", "chunk_id"}, or "chunk_ids" where several chunks answer

Every query is searched in all chunks of its set; the figure is nDCG@10. The split is ``test`` where a set has one, else
``validation``, else ``train``, as the data's page says. Three sets are of the kinds that the authors' own model was
trained on (in-domain), five are not.

A contextual model reads the chunks of a document together, in the order of their indexes; any other reads them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.evaluation.breakdown import breakdown
from diffembed.evaluation.hub_rows import HubFolder, Row, hub_folder
from diffembed.evaluation.ranker import Ranker
from diffembed.evaluation.results import Group, Result, ResultFolder, Scores
from diffembed.evaluation.retrieval import report_on
from diffembed.evaluation.sets import means_of_parts, settings_of

Progress = Callable[[int, int], None] | None
Domain = Literal["in-domain", "out-of-domain"]

BENCHMARK = "ConTEB"
SPLITS = ("test", "validation", "train")
_DOCUMENTS, _QUERIES = "documents", "queries"


@dataclass(frozen=True, slots=True)
class ContebSet:
    """One set: its name here, its repository on the hub, and whether ConTEB's own training data are of its kind."""

    name: str
    repository: str
    domain: Domain

    @property
    def names(self) -> tuple[str, ...]:
        """What a copy on disk may be called."""
        own = self.repository.partition("/")[2]
        return (self.name,) if own == self.name else (self.name, own)


SETS: Mapping[str, ContebSet] = {
    each.name: each
    for each in (
        ContebSet("mldr", "illuin-conteb/mldr-conteb-eval", "in-domain"),
        ContebSet("squad", "illuin-conteb/squad-conteb-eval", "in-domain"),
        ContebSet("narrative-qa", "illuin-conteb/narrative-qa", "in-domain"),
        ContebSet("covid-qa", "illuin-conteb/covid-qa", "out-of-domain"),
        ContebSet("esg-reports", "illuin-conteb/esg-reports", "out-of-domain"),
        ContebSet("football", "illuin-conteb/football", "out-of-domain"),
        ContebSet("geography", "illuin-conteb/geography", "out-of-domain"),
        ContebSet("insurance", "illuin-conteb/insurance", "out-of-domain"),
    )
}


@dataclass(frozen=True, slots=True)
class ContebTask:
    """A set as it was read.

    Attributes:
        task: chunks as documents; ``doc_ids`` and ``chunk_idx`` say what belongs together. Queries have no ids of
            their own in the data: they are numbered, ``query-0`` being the first row.
        split: which one was read.
        repeated: rows that give a chunk a second time, word for word; they are read once.
        data: ``source`` and ``sha256``, for result files.
    """

    task: RetrievalTask
    split: str
    repeated: int
    data: dict[str, Any]


def load_conteb(name: str, data: Path | None = None) -> ContebTask:
    """Read a set: a copy below ``data``, or without it from the hub (see ``hub_rows.py``).

    Raises:
        InputError: an unknown set, data that is not there, a chunk id that is no ``<document>_<index>``, a chunk given
            twice with different texts, or a query that names an unknown chunk.
    """
    if name not in SETS:
        raise InputError(f"ConTEB has no set {name!r}; its sets are: {', '.join(SETS)}")
    which = SETS[name]
    folder = hub_folder(which.repository, which.names, data, (_DOCUMENTS, _QUERIES))
    split = _split(folder)
    chunks, repeated = _chunks(folder.rows(_DOCUMENTS, split, ("chunk_id", "chunk")))
    queries, qrels = _queries(folder.rows(_QUERIES, split, ("query", "chunk_id", "chunk_ids")), chunks)
    if not queries:
        raise InputError(f"{folder.path} has no queries in split {split!r}")
    places = [_place(identifier, "") for identifier in chunks]
    task = RetrievalTask(
        name=name,
        document_ids=tuple(chunks),
        texts=tuple(chunks.values()),
        queries=queries,
        qrels=qrels,
        doc_ids=tuple(owner for owner, _ in places),
        chunk_idx=tuple(index for _, index in places),
    )
    digest = folder.sha256((_DOCUMENTS, split), (_QUERIES, split))
    return ContebTask(task, split, repeated, {"source": folder.source, "sha256": digest})


def evaluate_conteb(
    name: str,
    ranker: Ranker,
    *,
    data: Path | None = None,
    into: ResultFolder | None = None,
    command: str = "",
    progress: Progress = None,
) -> tuple[Result, bool]:
    """One set: its result, and whether it was there already, for this model and these data.

    Raises:
        InputError: as :func:`load_conteb`.
    """
    read = load_conteb(name, data)
    settings = settings_of(ranker, read.task) | {"split": read.split}
    if into is not None:
        kept = into.find(BENCHMARK, name, ranker.model, ranker.revision, settings)
        if kept is not None and kept.data == read.data:
            return kept, True
    ranking = ranker.rank(read.task, progress=progress)
    report = report_on(read.task, ranking, model=ranker.model, split=read.split)
    count_tokens = getattr(ranker.encoder, "count_tokens", None)
    limit = ranker.settings.get("max_tokens")
    groups = breakdown(read.task, report.by_query, by=("length",), count_tokens=count_tokens, limit=limit)
    result = report.to_result(
        ranker.revision,
        benchmark=BENCHMARK,
        settings=settings,
        data=read.data,
        groups=groups + by_chunk(read.task, report.by_query),
    )
    domain = Group("domain", SETS[name].domain, result.counts["queries"], dict(result.scores))
    counts = {"repeated_chunks": read.repeated, "empty_queries": ranking.empty_queries}
    notes = (*result.notes, *_notes(result, counts))
    result = replace(result, groups=(domain, *result.groups), counts=result.counts | counts, notes=notes)
    if into is not None:
        into.write(result, command)
    return result, False


def means(results: Sequence[Result]) -> dict[str, Scores]:
    """The benchmark's own figures, over ``all`` eight sets, ``in-domain`` and ``out-of-domain``; all sets count alike.

    Empty while a set is missing: a mean over others could be mistaken for these.
    """
    return means_of_parts(results, {name: which.domain for name, which in SETS.items()})


def by_chunk(task: RetrievalTask, by_query: Mapping[str, Scores]) -> tuple[Group, ...]:
    """The scores by where in its document the sought chunk stands, from 0; parts begin at powers of two.

    A model without context does well on the first chunks, which name what the document is about.
    """
    assert task.chunk_idx is not None
    position = dict(zip(task.document_ids, task.chunk_idx, strict=True))
    parts: dict[int, list[str]] = {}
    for query in by_query:
        index = min(position[chunk] for chunk in task.qrels[query])
        parts.setdefault(1 << index.bit_length() >> 1, []).append(query)
    groups = []
    for start, members in sorted(parts.items()):
        scores = {
            measure: sum(by_query[query][measure] for query in members) / len(members)
            for measure in by_query[members[0]]
        }
        last = max(2 * start - 1, 0)
        note = f"chunk {start}" if last <= start else f"chunks {start} to {last}"
        groups.append(Group("chunk", str(start), len(members), scores, note))
    return tuple(groups)


def _split(folder: HubFolder) -> str:
    for split in SPLITS:
        if folder.files(_DOCUMENTS, split) and folder.files(_QUERIES, split):
            return split
    raise InputError(
        f"{folder.path} has no split with both documents and queries; expected documents/test-*.parquet and "
        f"queries/test-*.parquet (or validation, or train), as the hub's {folder.repository} has them"
    )


def _chunks(rows: Iterable[Row]) -> tuple[dict[str, str], int]:
    chunks: dict[str, str] = {}
    repeated = 0
    for where, row in rows:
        identifier, text = _text(row, "chunk_id", where), _text(row, "chunk", where)
        _place(identifier, where)
        if chunks.setdefault(identifier, text) != text:
            raise InputError(
                f"{where}: the chunk {identifier!r} was given before with another text; ids must be unique"
            )
        repeated += 1
    return chunks, repeated - len(chunks)


def _queries(rows: Iterable[Row], chunks: Mapping[str, str]) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number, (where, row) in enumerate(rows):
        name = f"query-{number}"
        queries[name] = _text(row, "query", where)
        gold = _gold((where, row))
        if unknown := [chunk for chunk in gold if chunk not in chunks]:
            raise InputError(f"{where} names the chunk {unknown[0]!r}, which is not among the documents")
        qrels[name] = dict.fromkeys(gold, 1)
    return queries, qrels


def _gold(row: Row) -> list[str]:
    where, values = row
    gold = values.get("chunk_ids") if values.get("chunk_ids") is not None else values.get("chunk_id")
    gold = [gold] if isinstance(gold, str) else gold
    if not isinstance(gold, list) or not gold or not all(isinstance(chunk, str) for chunk in gold):
        raise InputError(f'{where}: "chunk_id" or "chunk_ids" must name the chunks that answer, not {gold!r}')
    return gold


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise InputError(f'{where}: "{name}" must be a string, not {type(value).__name__}')
    return value


def _place(identifier: str, where: str) -> tuple[str, int]:
    """The document of a chunk and its place there.

    >>> _place("rome_wiki_12", "")
    ('rome_wiki', 12)
    """
    owner, mark, index = identifier.rpartition("_")
    if not mark or not owner or not (index.isascii() and index.isdigit()):
        raise InputError(f"{where}: the chunk id {identifier!r} is not of the form <document>_<index>")
    return owner, int(index)


def _notes(result: Result, counts: Mapping[str, int]) -> tuple[str, ...]:
    said = []
    if cut := result.counts["truncated_documents"]:
        said.append(f"{cut:,} documents (or chunks, where they are read alone) were cut to the model's limit.")
    if counts["empty_queries"]:
        said.append(f"{counts['empty_queries']:,} queries have no text; they score 0.")
    if counts["repeated_chunks"]:
        said.append(f"{counts['repeated_chunks']:,} chunks stand twice in the data, word for word, and count once.")
    return tuple(said)
