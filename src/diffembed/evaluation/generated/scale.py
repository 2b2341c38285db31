"""Queries with known targets in a corpus that grows to millions: recall@10, @100 and @1000 against its size.

The idea of PPLXQuery2Doc (arXiv 2602.11151), with data of one's own: the judged queries and documents of any sets, and
as many passages beside them as there are. What a model loses from one size to the next is what small benchmarks hide.

A distractor may of course answer a query too; nobody has judged that. Recall at large sizes is therefore a lower bound,
for every model alike; passages whose vector is the target's own are told and not counted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffembed.data.beir import RetrievalTask, Split, load_beir
from diffembed.errors import InputError
from diffembed.evaluation.generated.distractors import Vectors, distractors
from diffembed.evaluation.generated.growing import Ranks, Targets, ranks_as_it_grows
from diffembed.evaluation.ranker import Ranker
from diffembed.evaluation.results import Group, Result, ResultFolder, Scores
from diffembed.evaluation.sets import data_digest, find_sets

if TYPE_CHECKING:
    from diffembed.evaluation.ranking import Progress

CUTS = (10, 100, 1000)
_MAIN = "recall@100"
_BENCHMARK = "scale"
_BYTES = {"float32": 4.0, "int8": 1.0, "binary": 0.125}  # of one dimension


@dataclass(frozen=True, slots=True)
class _Judged:
    """The queries and documents of all sets, under names that no two share.

    Attributes:
        name: of the sets together.
        texts: of the judged documents that have any.
        queries: id -> text; ``relevant`` says how many documents each has, those without text included.
        pairs: of query and document number, ordered by query; ``excluded`` numbers of documents for each query.
        digest: of the files.
    """

    name: str
    texts: list[str]
    queries: dict[str, str]
    relevant: list[int]
    pairs: list[tuple[int, int]]
    excluded: list[frozenset[int]]
    digest: str


def evaluate_scale(
    ranker: Ranker,
    data: Sequence[Path],
    places: Sequence[Path],
    *,
    work: Path | None = None,
    split: Split = "all",
    seed: int = 0,
    results: ResultFolder | None = None,
    command: str = "",
    progress: Progress = None,
) -> tuple[Result, bool]:
    """Score a model on judged queries in a growing corpus: the result, and whether it was there already.

    Every passage is read alone, those of the judged sets too.

    Args:
        ranker: the model.
        data: sets in BEIR layout, or folders that hold some.
        places: distractors (``distractors``).
        work: where distractor texts are encoded into, and where the search keeps how far it is; one for each model.
        split: which queries of the sets are asked.
        seed: of the choice of distractors for the smaller sizes.
        results: where the result is kept; one of the same data is given back.
        command: is written into the file.
        progress: called with (passages read or compared, passages).

    Raises:
        InputError: bm25, unusable data, no distractors, or vectors that are not this model's.
    """
    if ranker.encoder is None:
        raise InputError(f"{ranker.model} has no vectors, and this compares vectors; name a model")
    start = time.perf_counter()
    judged = _judged(data, split)
    form = {"dtype": ranker.settings["dtype"], "dims": ranker.settings["dims"], "truncate": True}
    width = ranker.encoder.encode_documents(judged.texts[:1], **form).dims
    sources = distractors(places, ranker, width, work, progress)
    total = len(judged.texts) + sum(source.rows for source in sources)
    settings = {name: value for name, value in ranker.settings.items() if name != "contextual"}
    settings |= {"dims": width, "split": split, "seed": seed, "documents": total}
    made_of = _data(judged, sources)
    kept = results.find(_BENCHMARK, judged.name, ranker.model, ranker.revision, settings) if results else None
    if kept is not None and kept.data == made_of:
        return kept, True
    documents = ranker.encoder.encode_documents(judged.texts, progress=progress, **form)
    asked = form | {"dtype": ranker.settings["query_dtype"]}
    queries = ranker.encoder.encode_queries(list(judged.queries.values()), **asked)
    encoded = time.perf_counter()
    targets = Targets.of(queries, documents, judged.pairs, judged.excluded)
    ranks = ranks_as_it_grows(targets, sources, seed=seed, state=work, progress=progress)
    result = _result(ranker, judged, sources, ranks, settings, made_of)
    seconds = {"seconds": time.perf_counter() - start, "encode_seconds": encoded - start}
    result.cost.update(seconds, bytes_per_document=width * _BYTES[documents.dtype])
    result.counts.update(truncated_queries=len(queries.truncated), truncated_judged=len(documents.truncated))
    if results:
        results.write(result, command)
    return result, False


def _result(
    ranker: Ranker,
    judged: _Judged,
    sources: Sequence[Vectors],
    ranks: Ranks,
    settings: dict[str, object],
    data: dict[str, object],
) -> Result:
    by_size = [_recalls(judged, ranks, column) for column in range(len(ranks.sizes))]
    groups = [
        Group("documents", str(size), len(scores), _means(scores.values()), f"{size - ranks.sizes[0]:,} distractors")
        for size, scores in zip(ranks.sizes, by_size, strict=True)
    ]
    return Result(
        benchmark=_BENCHMARK,
        task=judged.name,
        model=ranker.model,
        revision=ranker.revision,
        main=_MAIN,
        scores=groups[-1].scores,
        settings=settings,
        groups=tuple(groups),
        by_query=by_size[-1],
        counts={
            "queries": len(judged.queries),
            "documents": ranks.sizes[-1],
            "judged_documents": ranks.sizes[0],
            "duplicates_of_targets": ranks.duplicates,
            "distractors_left_out": sum(source.left_out for source in sources),
            "truncated_documents": sum(source.truncated for source in sources),
        },
        data=data,
        notes=("exact search; every smaller corpus is a random part of the larger ones; distractors were not judged",),
    )


def _data(judged: _Judged, sources: Sequence[Vectors]) -> dict[str, object]:
    """What was asked: ``sha256`` of the texts, the same for all models, and ``vectors_sha256`` of what was read."""
    return {
        "source": judged.name,
        "sha256": _digest([judged.digest, *(source.made_of for source in sources)]),
        "vectors_sha256": _digest([source.files for source in sources]),
        "distractors": [source.name for source in sources],
    }


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _recalls(judged: _Judged, ranks: Ranks, column: int) -> dict[str, Scores]:
    """Recall of every query at one size: the share of its relevant documents among the first so many."""
    hits = np.zeros((len(judged.queries), len(CUTS)))
    for (query, _), rank in zip(judged.pairs, ranks.ranks[:, column].tolist(), strict=True):
        hits[query] += [rank <= cut for cut in CUTS]
    shares = hits / np.array(judged.relevant)[:, None]
    names = [f"recall@{cut}" for cut in CUTS]
    return {
        query: dict(zip(names, row.tolist(), strict=True)) for query, row in zip(judged.queries, shares, strict=True)
    }


def _means(scores: Iterable[Scores]) -> Scores:
    rows = list(scores)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _judged(data: Sequence[Path], split: Split) -> _Judged:
    """All sets as one corpus; ids are told apart by the sets' names."""
    sets = [found for root in data for found in find_sets(root)]
    names = [name for name, _ in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two sets are called {twice[0]}; give folders of different names")
    judged = _Judged("+".join(names), [], {}, [], [], [], "")
    digest = hashlib.sha256()
    for name, folder in sets:
        _join(judged, name, load_beir(folder, split), alone=len(sets) == 1)
        digest.update(f"{name} {data_digest(folder)} {split}\n".encode())
    if not judged.texts:
        raise InputError(f"every document of {judged.name} is empty; nothing can be found in it")
    return replace(judged, digest=digest.hexdigest())


def _join(judged: _Judged, name: str, task: RetrievalTask, *, alone: bool) -> None:
    rows: dict[str, int] = {}
    for identifier, text in zip(task.document_ids, task.texts, strict=True):
        if text.strip():
            rows[identifier] = len(judged.texts)
            judged.texts.append(text)
    for query, text in task.queries.items():
        number = len(judged.queries)
        judged.queries[query if alone else f"{name}/{query}"] = text
        judged.relevant.append(len(task.qrels[query]))
        judged.pairs.extend((number, rows[document]) for document in task.qrels[query] if document in rows)
        left_out = (rows[document] for document in task.excluded.get(query, ()) if document in rows)
        judged.excluded.append(frozenset(left_out))
