"""Scoring contextual documents: chunks read together, alone, or each with its document's opening before it.

nDCG@10 is over all chunks of all documents. Beside it stands what the first hit is worth: the gold chunk (``chunk@1``),
at least a chunk of the gold document (``document@1``: the name was found), at least a chunk that tells what was asked,
of whatever document (``part@1``: the question was understood). A model that reads chunks alone can have either of the
latter two, but hardly both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation.generated.contextual import ContextualSet
from diffembed.evaluation.metrics import score_queries
from diffembed.evaluation.ranker import Ranker
from diffembed.evaluation.results import Group, Result, ResultFolder, Scores

if TYPE_CHECKING:
    from diffembed.evaluation.ranking import Progress

Reading = Literal["together", "alone", "prepended"]
READINGS: tuple[Reading, ...] = get_args(Reading)
_MAIN = "ndcg@10"


def readings_of(ranker: Ranker) -> list[Reading]:
    """The ways in which a model can read chunks: together only where vectors are means over spans of a longer text.

    >>> from diffembed.evaluation.ranker import load_ranker
    >>> readings_of(load_ranker("bm25"))
    ['alone', 'prepended']
    """
    encoder = ranker.encoder
    spans = isinstance(encoder, Encoder) and encoder.config.pooling != "modules"
    spans = spans or bool(getattr(encoder, "contextual", False))
    return [reading for reading in READINGS if reading != "together" or spans]


def evaluate_contextual(
    made: ContextualSet,
    ranker: Ranker,
    reading: Reading,
    *,
    results: ResultFolder | None = None,
    command: str = "",
    progress: Progress = None,
) -> tuple[Result, bool]:
    """Score a model on contextual documents: the result, and whether it was there already.

    Args:
        made: documents and questions (``contextual``).
        ranker: the model (``load_ranker``).
        reading: ``together``: the chunks of a document as one text; ``alone``; ``prepended``: alone, each but the first
            with the document's first chunk before it.
        results: where the result is kept; one that is there is given back and nothing is measured.
        command: is written into the file.
        progress: called with (chunks or documents read, of how many).

    Raises:
        InputError: ``together`` with a model that cannot.
    """
    if reading not in readings_of(ranker):
        raise InputError(f"{ranker.model} cannot read chunks {reading}; choose {' or '.join(readings_of(ranker))}")
    form = {name: value for name, value in ranker.settings.items() if name != "contextual"}
    settings = form | {"reading": reading} | made.settings
    name = made.task.name
    if results and (found := results.find(name, name, ranker.model, ranker.revision, settings)):
        return found, True
    task = made.prepended() if reading == "prepended" else made.task
    asked = replace(ranker, settings=ranker.settings | {"contextual": reading == "together"})
    ranking = asked.rank(task, progress=progress)
    by_query = _scores(made, ranking.run)
    result = Result(
        benchmark=name,
        task=name,
        model=ranker.model,
        revision=ranker.revision,
        main=_MAIN,
        scores=_means(list(by_query.values())),
        settings=settings,
        groups=tuple(_groups(made, by_query)),
        by_query=by_query,
        counts={
            "queries": len(by_query),
            "documents": len(made.task.documents()),
            "chunks": len(made.task.texts),
            "truncated_documents": ranking.truncated_documents,
        },
        cost={
            "seconds": ranking.seconds,
            "encode_seconds": ranking.encode_seconds,
            "tokens": float(ranking.tokens),
        },
        data={"source": "generated", "sha256": made.sha256()},
        notes=(
            f"in each language {made.settings['documents']} chunks tell the same thing of as many documents; a reader "
            f"of chunks alone can do no better than guess among them",
        ),
    )
    if results:
        results.write(result, command)
    return result, False


def _scores(made: ContextualSet, run: Mapping[str, Mapping[str, float]]) -> dict[str, Scores]:
    """Of every question: trec_eval's measures, and what its first hit is worth (equal scores by id, as trec_eval)."""
    task, owners = made.task, made.task.doc_ids or ()
    row = {identifier: number for number, identifier in enumerate(task.document_ids)}
    found: dict[str, Scores] = {}
    for query, scores in score_queries(task.qrels, run).items():
        gold = row[next(iter(task.qrels[query]))]
        ranked = sorted((-score, chunk) for chunk, score in run.get(query, {}).items())
        hit = row[max(chunk for score, chunk in ranked if score == ranked[0][0])] if ranked else None
        same_part = hit is not None and (made.kinds[hit], made.parts[hit]) == (made.kinds[gold], made.parts[gold])
        found[query] = {
            _MAIN: scores[_MAIN],
            "chunk@1": float(hit == gold),
            "document@1": float(hit is not None and owners[hit] == owners[gold]),
            "part@1": float(same_part),
            "recall@10": scores["recall@10"],
            "mrr@10": scores["mrr@10"],
        }
    return found


def _groups(made: ContextualSet, by_query: Mapping[str, Scores]) -> Iterator[Group]:
    """By language, by kind of document, and by how many chunks after the name the gold one stands."""
    task = made.task
    row = {identifier: number for number, identifier in enumerate(task.document_ids)}
    gold = {query: row[next(iter(task.qrels[query]))] for query in by_query}
    places = task.chunk_idx or ()
    ways = {
        "language": ("", {query: task.document_langs[gold[query]] for query in gold}),
        "domain": ("kind of document", {query: made.kinds[gold[query]] for query in gold}),
        "chunk": ("chunks after the one with the name", {query: str(places[gold[query]]) for query in gold}),
    }
    for by, (note, values) in ways.items():
        for value in sorted(set(values.values())):
            own = [by_query[query] for query in by_query if values[query] == value]
            yield Group(by, value, len(own), _means(own), note)


def _means(scores: Sequence[Scores]) -> Scores:
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
