"""The scores of a task by parts of its queries: by language, and by the length of the document that is sought.

A query belongs to the part of its *sought* document: the one judged best for it, the longest of equals (a query whose
answer stands in a long text is one that a model of short sight fails). Where the rows of a set are chunks of documents,
the length is that of the whole document.

Lengths are told in tokens of the model's own tokenizer (``length``) or in characters (``characters``), which is the
same for every model. The parts end at powers of two: ``512`` holds 257 to 512.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.evaluation.results import Group, Scores

By = Literal["language", "length", "characters"]
CountTokens = Callable[[Sequence[str]], list[int]]


def breakdown(
    task: RetrievalTask,
    by_query: Mapping[str, Scores],
    *,
    by: Sequence[By] = ("language", "length", "characters"),
    count_tokens: CountTokens | None = None,
    limit: int | None = None,
) -> tuple[Group, ...]:
    """The mean scores of every part, parts in order of language or length.

    Args:
        task: whose queries were asked.
        by_query: query id -> measure -> value, as in ``RetrievalReport.by_query``.
        by: ``language`` (left out where the rows do not say theirs), ``length`` (left out without ``count_tokens``)
            and ``characters``.
        count_tokens: of the model: tokens of each text, special ones included.
        limit: the model's limit in tokens, where documents are read at once; parts above it say so in their ``note``.

    Raises:
        InputError: another word in ``by``.

    >>> task = RetrievalTask("zoo", ("a", "b"), ("owl", "A long text on owls"), {"q": "?", "p": "?"},
    ...     {"q": {"a": 1}, "p": {"b": 1}})
    >>> for part in breakdown(task, {"q": {"ndcg@10": 1.0}, "p": {"ndcg@10": 0.5}}):
    ...     print(part.by, part.value, part.queries, part.scores, part.note)
    characters 4 1 {'ndcg@10': 1.0} 3 to 4 characters
    characters 32 1 {'ndcg@10': 0.5} 17 to 32 characters
    """
    if unknown := [word for word in by if word not in get_args(By)]:
        raise InputError(f"scores cannot be parted by {unknown[0]!r}; give one of: {', '.join(get_args(By))}")
    groups: list[Group] = []
    for word in dict.fromkeys(by):
        if word == "language":
            values: dict[str, str] = languages(task)
            order = sorted(set(values.values()))
            notes = dict.fromkeys(order, "")
        else:
            if word == "length" and count_tokens is None:
                continue
            lengths = sought_lengths(task, count_tokens if word == "length" else None)
            edges = {query: upper_edge(length) for query, length in lengths.items()}
            values = {query: str(edge) for query, edge in edges.items()}
            order = [str(edge) for edge in sorted(set(edges.values()))]
            notes = {edge: _note(int(edge), word, limit) for edge in order}
        for value in order:
            members = [query for query in by_query if values.get(query) == value]
            if members:
                groups.append(Group(word, value, len(members), _means(by_query, members), notes[value]))
    return tuple(groups)


def languages(task: RetrievalTask) -> dict[str, str]:
    """The language of each query: ``de``, or ``de-en`` where the sought document is in another one.

    Empty where neither queries nor documents say theirs.
    """
    asked = dict(zip(task.queries, task.query_langs or [""] * len(task.queries), strict=True))
    rows = {identifier: row for row, identifier in enumerate(task.document_ids)}
    found: dict[str, str] = {}
    for query, sought in sought_documents(task).items():
        theirs = task.document_langs[rows[sought]] if task.document_langs else ""
        mine = asked[query]
        if mine or theirs:
            found[query] = mine or theirs if not (mine and theirs) or mine == theirs else f"{mine}-{theirs}"
    return found


def sought_documents(task: RetrievalTask) -> dict[str, str]:
    """query id -> id of its sought document: the best judged, of equals the longest, of those the first."""
    rows = {identifier: row for row, identifier in enumerate(task.document_ids)}

    def best(judged: Mapping[str, int]) -> str:
        return max(judged, key=lambda document: (judged[document], len(task.texts[rows[document]]), -rows[document]))

    return {query: best(task.qrels[query]) for query in task.queries}


def sought_lengths(task: RetrievalTask, count_tokens: CountTokens | None = None) -> dict[str, int]:
    """query id -> length of its sought document, in characters unless tokens are counted."""
    whole = {row: rows for rows in task.documents() for row in rows}
    position = {identifier: row for row, identifier in enumerate(task.document_ids)}
    sought = {query: tuple(whole[position[document]]) for query, document in sought_documents(task).items()}
    wanted = sorted({row for rows in sought.values() for row in rows})
    texts = [task.texts[row] for row in wanted]
    counts = count_tokens(texts) if count_tokens is not None else [len(text) for text in texts]
    length = dict(zip(wanted, counts, strict=True))
    return {query: sum(length[row] for row in rows) for query, rows in sought.items()}


def upper_edge(length: int) -> int:
    """The power of two at or above a length.

    >>> [upper_edge(n) for n in (0, 1, 2, 3, 512, 513)]
    [1, 1, 2, 4, 512, 1024]
    """
    return 1 << max(length - 1, 0).bit_length()


def _note(edge: int, word: str, limit: int | None) -> str:
    low = edge // 2 + 1
    unit = "tokens" if word == "length" else "characters"
    said = f"{low:,} to {edge:,} {unit}"
    if word != "length" or limit is None or edge <= limit:
        return said
    return f"{said}, {'all' if low > limit else 'some'} over the limit of {limit:,} tokens"


def _means(by_query: Mapping[str, Scores], members: Sequence[str]) -> Scores:
    measures = by_query[members[0]]
    return {name: float(np.mean([by_query[query][name] for query in members])) for name in measures}
