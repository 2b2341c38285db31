"""Scoring passkey and needle: accuracy against the length of the document, and against the depth of the statement.

No model finds a statement that it does not read. So every length comes with its *ceiling*, the share of the statements
that begin within what the model reads, by its own tokenizer: a score above it is luck, one below it the model's doing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from diffembed.evaluation.generated.haystacks import DOCUMENTS, Haystack, Haystacks
from diffembed.evaluation.generated.reading import characters_read, through_windows
from diffembed.evaluation.metrics import score_queries
from diffembed.evaluation.ranker import Ranker
from diffembed.evaluation.results import Group, Result, ResultFolder, Scores

if TYPE_CHECKING:
    from diffembed.evaluation.ranking import Progress, Ranking

_Ceilings = Mapping[int, float | None]
_SLICES = 10  # of a document's depth
_MAIN = "accuracy@1"


@dataclass(frozen=True, slots=True)
class _Answer:
    """One question: where its statement stands, whether all of its length are read, and how it was answered."""

    query: str
    tokens: int
    depth: float
    field: str
    within: bool
    scores: Scores


def evaluate_haystacks(
    stacks: Haystacks,
    ranker: Ranker,
    *,
    windows: bool = False,
    results: ResultFolder | None = None,
    command: str = "",
    progress: Progress = None,
) -> tuple[Result, bool]:
    """Score a model on passkey or needle: the result, and whether it was there already.

    Args:
        stacks: the texts and questions (``passkeys``, ``needles``).
        ranker: the model (``load_ranker``).
        windows: read documents over the model's limit through windows, instead of cutting them.
        results: where the result is kept; one that is there is given back and nothing is measured.
        command: is written into the file.
        progress: called with (documents read, documents).

    Raises:
        InputError: windows with a model that has none; prose that is shorter than a document.
    """
    ranker = through_windows(ranker) if windows else ranker
    form = {name: value for name, value in ranker.settings.items() if name != "contextual"}
    settings = form | {"lengths": list(stacks.lengths), "over_limit": "windows" if windows else "truncate"}
    settings |= stacks.settings
    if results and (found := results.find(stacks.kind, stacks.kind, ranker.model, ranker.revision, settings)):
        return found, True
    limit = None if windows else ranker.settings.get("max_tokens")
    answers: list[_Answer] = []
    ceilings: dict[int, float | None] = {}
    rankings: list[Ranking] = []
    digest = hashlib.sha256()
    for number, tokens in enumerate(stacks.lengths):
        stack = stacks.make(tokens)
        digest.update(stack.sha256().encode())
        ranking = ranker.rank(stack.task, progress=_from(number * DOCUMENTS, len(stacks.lengths) * DOCUMENTS, progress))
        rankings.append(ranking)
        ceilings[tokens] = _ceiling(stack, ranker)
        answers += _answers(stack, ranking, _is_within(tokens, limit, ceilings[tokens]))
    cut = sum(ranking.truncated_documents for ranking in rankings)
    result = Result(
        benchmark=stacks.kind,
        task=stacks.kind,
        model=ranker.model,
        revision=ranker.revision,
        main=_MAIN,
        scores=_means(answers),
        settings=settings,
        groups=(*_by_length(answers, ceilings, limit), *_by_depth(answers, ceilings, limit), *_by_field(answers)),
        by_query={answer.query: answer.scores for answer in answers},
        counts={"queries": len(answers), "documents": DOCUMENTS * len(rankings), "truncated_documents": cut},
        cost=_cost(rankings),
        data={"source": "generated", "sha256": digest.hexdigest()} | stacks.data,
        notes=(_note(ceilings, limit),),
    )
    if results:
        results.write(result, command)
    return result, False


def _from(before: int, total: int, progress: Progress) -> Progress:
    """Progress in one length as progress in all of them; BM25 counts queries, which nobody waits for."""
    return None if progress is None else lambda done, _: progress(min(before + done, total), total)


def _answers(stack: Haystack, ranking: Ranking, within: bool) -> list[_Answer]:
    scored = score_queries(stack.task.qrels, ranking.run)
    return [
        _Answer(
            f"{stack.kind}-{query}",
            stack.tokens,
            stack.depth(number),
            stack.fields[number],
            within,
            {_MAIN: scored[query]["recall@1"], "ndcg@10": scored[query]["ndcg@10"], "mrr@10": scored[query]["mrr@10"]},
        )
        for number, query in enumerate(stack.task.queries)
    ]


def _ceiling(stack: Haystack, ranker: Ranker) -> float | None:
    """The share of the statements asked for of which the model reads anything."""
    asked = len(stack.task.queries)
    read = characters_read(ranker.encoder, stack.task.texts[:asked])
    if read is None:
        return None
    return sum(start < seen for (start, _), seen in zip(stack.statements[:asked], read, strict=True)) / asked


def _is_within(tokens: int, limit: int | None, ceiling: float | None) -> bool:
    """Whether a model reads every statement of a length; where nobody can tell, its limit is held against the length.

    Nominal tokens are not the model's: documents of 2,048 may be longer than a limit of 2,048.
    """
    if limit is None or ceiling is None:
        return limit is None or tokens <= limit
    return ceiling == 1


def _means(answers: Sequence[_Answer]) -> Scores:
    return {name: float(np.mean([answer.scores[name] for answer in answers])) for name in answers[0].scores}


def _by_length(answers: Sequence[_Answer], ceilings: _Ceilings, limit: int | None) -> Iterator[Group]:
    for tokens, members in groupby(answers, lambda answer: answer.tokens):
        own, ceiling = list(members), ceilings[tokens]
        if limit is None:
            note = "read whole"
        elif ceiling is None:
            note = f"cut to {limit:,} tokens; what that leaves is not known of this model"
        else:
            note = f"{ceiling:.0%} of the statements begin within the {limit:,} tokens that the model reads"
        yield Group("length", str(tokens), len(own), _means(own) | _mean_ceiling([ceiling]), note)


def _by_depth(answers: Sequence[_Answer], ceilings: _Ceilings, limit: int | None) -> Iterator[Group]:
    """Lengths of which every statement is read apart from longer ones, where depth decides what is read."""
    for within in (True, False):
        some = [answer for answer in answers if answer.within == within]
        if not some:
            continue
        by = "depth" if within else "depth beyond the limit"
        lengths = f"lengths up to {some[-1].tokens:,}" if within else f"lengths from {some[0].tokens:,} on"
        if limit is not None:
            scores = _means(some) | _mean_ceiling([ceilings[answer.tokens] for answer in some])
            yield Group("limit", "within" if within else "beyond", len(some), scores, lengths)
        for tenth in range(_SLICES):
            own = [answer for answer in some if min(int(answer.depth * _SLICES), _SLICES - 1) == tenth]
            if own:
                yield Group(
                    by, f"{(tenth + 0.5) / _SLICES:g}", len(own), _means(own), f"the middle of a tenth; {lengths}"
                )


def _by_field(answers: Sequence[_Answer]) -> Iterator[Group]:
    for field in sorted({answer.field for answer in answers} - {""}):
        own = [answer for answer in answers if answer.field == field]
        yield Group("domain", field, len(own), _means(own))


def _mean_ceiling(shares: Sequence[float | None]) -> Scores:
    """Nothing where one of them is not known."""
    known = [share for share in shares if share is not None]
    return {"ceiling": float(np.mean(known))} if len(known) == len(shares) else {}


def _note(ceilings: _Ceilings, limit: int | None) -> str:
    if limit is None:
        return "every document was read whole"
    if None in ceilings.values():
        return f"documents are cut to {limit:,} tokens; which statements that leaves is not known of this model"
    cut = [f"{share:.0%} at {tokens:,}" for tokens, share in ceilings.items() if share is not None and share < 1]
    if not cut:
        return f"all statements begin within the {limit:,} tokens that the model reads"
    return (
        f"documents are cut to {limit:,} tokens: of the statements the model reads {', '.join(cut)} tokens, and all at "
        "other lengths; what it finds beyond that is luck"
    )


def _cost(rankings: Sequence[Ranking]) -> dict[str, float]:
    return {
        "seconds": sum(ranking.seconds for ranking in rankings),
        "encode_seconds": sum(ranking.encode_seconds for ranking in rankings),
        "tokens": float(sum(ranking.tokens for ranking in rankings)),
    }
