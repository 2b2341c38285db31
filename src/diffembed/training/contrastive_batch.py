"""``ContrastiveBatch``: the queries and documents of one step, and who belongs to whom.

Every row becomes queries and documents of one form: a pair is a query and a document of one chunk, a triplet adds
documents that no query owns, a grouped row is a document of many chunks with its questions. A document of one chunk
stands once even where several queries of the step want it. Which chunk answers is a number that is made here and never
found again by searching.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from diffembed.data.example_sources import Drawn
from diffembed.data.examples import Grouped, Question, Triplet
from diffembed.errors import InputError
from diffembed.text.batching import IntArray, TokenizedSequence
from diffembed.training.configs import SourceConfig, StageConfig

T = TypeVar("T")
Tokenize = Callable[[list[str], int], tuple[list[list[int]], int]]
"""Texts and a limit -> their token ids, and how many texts were longer than the limit."""


@dataclass(frozen=True, slots=True)
class ContrastiveBatch:
    """One step, tokenized: Q queries, N documents of C chunks in all.

    Attributes:
        sequences: ``[Q + N]``, queries first; a query has one span, a document one a chunk.
        positives: ``[Q]`` each query's document.
        gold: ``[Q]`` the chunk that answers, of all C; -1 where it is not known.
        query_ids: ``[Q]`` equal for copies of a query; ``document_ids`` ``[N]`` and ``chunk_ids`` ``[C]`` likewise.
        negatives: ``[Q, K]`` each query's own hard negatives among the documents, -1 where there are fewer.
        scores: by query a teacher's relevance of the chunks of its document, as the row gives it; empty: none.
        source: its switches.
        origins: where the rows are from.
        cut: texts that were longer than the source's limit, and documents that gave only some of their tokens.
        left_out: queries without a token, or whose document has none, or whose answer is not in the stretch.
    """

    sequences: tuple[TokenizedSequence, ...]
    positives: IntArray
    gold: IntArray
    query_ids: IntArray
    document_ids: IntArray
    chunk_ids: IntArray
    negatives: IntArray
    scores: tuple[tuple[float, ...], ...]
    source: SourceConfig
    origins: tuple[str, ...]
    cut: int
    left_out: int

    @property
    def queries(self) -> int:
        """Q."""
        return len(self.positives)

    @property
    def documents(self) -> tuple[TokenizedSequence, ...]:
        """``[N]`` their sequences."""
        return self.sequences[self.queries :]

    @property
    def chunk_documents(self) -> IntArray:
        """``[C]`` the document of each chunk."""
        return np.repeat(np.arange(len(self.documents)), [len(s.spans) for s in self.documents])

    @property
    def chunk_tokens(self) -> IntArray:
        """``[C]`` tokens of each chunk."""
        return np.array([end - start for s in self.documents for start, end in s.spans], dtype=np.int64)


def from_tokens(
    queries: Sequence[list[int]],
    documents: Sequence[list[int]],
    source: SourceConfig,
    *,
    origins: Sequence[str],
    cut: int,
) -> ContrastiveBatch:
    """Pairs that are tokens already: query i belongs to document i."""
    assembly = _Assembly(end_token_id=-1)
    for row, (query, document) in enumerate(zip(queries, documents, strict=True)):
        assembly.ask(query, (row,), assembly.document([document], (row,), [row]), gold=0)
    return assembly.batch(source, origins, cut, width=0)


def from_rows(
    drawn: Sequence[Drawn],
    stage: StageConfig,
    source: SourceConfig,
    tokenize: Tokenize,
    *,
    end_token_id: int,
    max_tokens: int,
    rng: np.random.Generator,
) -> ContrastiveBatch:
    """The batch of a step's rows.

    Args:
        end_token_id: stands between the chunks of a document and is not pooled.
        max_tokens: that the model reads; limits of the source beyond it count as it.
        rng: chooses questions, negatives, and stretches of long documents.

    Raises:
        InputError: a row that the stage cannot use, named.
    """
    rows = [_as_grouped(d, stage) for d in drawn]
    asked = [_chosen(row.questions, source.questions, rng) for row in rows]
    against = [_chosen(_negatives(d, stage, source), stage.negatives, rng) for d in drawn]
    limit = min(source.document_tokens, max_tokens)
    queries = [_query(question, row, source) for row, own in zip(rows, asked, strict=True) for question in own]
    asked_ids, cut = tokenize(queries, min(source.query_tokens, max_tokens))
    texts = [text for row in rows for text in row.chunks] + [text for own in against for text in own]
    pieces, long = tokenize(texts, limit)
    tokens, read, cut = iter(asked_ids), iter(pieces), cut + long
    length = _piece_length(source, rng)
    assembly = _Assembly(end_token_id)
    wanted: list[tuple[int, tuple[str, ...]]] = []
    for row, questions, negatives in zip(rows, asked, against, strict=True):
        chunks, keys = [next(read) for _ in row.chunks], list[Hashable](row.chunks)
        known = next((q.chunk for q in questions if q.chunk is not None), None)
        first, last = _stretch([max(1, len(c)) for c in chunks], limit, known, rng)
        whole = sum(map(len, chunks))
        chunks, keys = chunks[first:last], keys[first:last]
        if length:
            chunks = _cut_anew(chunks, length, limit)
            keys = [tuple(chunk) for chunk in chunks]
        cut += sum(map(len, chunks)) < whole
        number = assembly.document(chunks, _keys(row.chunks, row.document_id), keys)
        for question in questions:
            ids, gold = next(tokens), -1
            if question.chunk is not None and not length:
                gold = question.chunk - first if first <= question.chunk < last else -2
            query_keys = _keys(_query(question, row, source), question.id)
            asks = assembly.ask(ids, query_keys, number, gold, () if length else question.scores[first:last])
            if asks >= 0:
                wanted.append((asks, negatives))
    found: dict[str, int] = {}
    for own in against:
        for text in own:
            found[text] = assembly.document([next(read)], _keys((text,), ""), [text])
    for query, own in wanted:
        assembly.negatives[query] = [found[text] for text in own if found[text] >= 0]
    return assembly.batch(source, [d.origin for d in drawn], cut, width=stage.negatives if any(against) else 0)


class _Assembly:
    """Grows a batch; everything that is equal gets one number."""

    def __init__(self, end_token_id: int) -> None:
        self.end_token_id = end_token_id
        self.negatives: list[list[int]] = []
        self._queries: list[TokenizedSequence] = []
        self._documents: list[TokenizedSequence] = []
        self._positives, self._gold, self._first_chunks = list[int](), list[int](), list[int]()
        self._scores: list[tuple[float, ...]] = []
        self._query_ids, self._document_ids, self._chunk_ids = _Numbers(), _Numbers(), _Numbers()
        self._alone: dict[tuple[Hashable, Hashable], int] = {}  # documents of one chunk, by a key and their chunk's
        self._left_out = 0

    def document(self, chunks: Sequence[list[int]], keys: Sequence[Hashable], chunk_keys: Sequence[Hashable]) -> int:
        """The number of a document; -1 for one without a token."""
        if not any(chunks):
            return -1
        copies = [(key, chunk_keys[0]) for key in keys] if len(chunks) == 1 else []
        number = next((self._alone[copy] for copy in copies if copy in self._alone), len(self._documents))
        self._alone |= dict.fromkeys(copies, number)
        if number < len(self._documents):
            self._document_ids.join(number, keys)
            return number
        self._document_ids.add(keys)
        self._first_chunks.append(len(self._chunk_ids))
        ids, spans = list[int](), list[tuple[int, int]]()
        for chunk, key in zip(chunks, chunk_keys, strict=True):
            ids += [self.end_token_id] if spans else []
            spans.append((len(ids), len(ids) + max(1, len(chunk))))
            ids += chunk or [self.end_token_id]  # a chunk keeps its number even if no token stands for it
            self._chunk_ids.add([key])
        self._documents.append(TokenizedSequence(tuple(ids), tuple(spans)))
        return number

    def ask(
        self, ids: list[int], keys: Sequence[Hashable], document: int, gold: int, scores: tuple[float, ...] = ()
    ) -> int:
        """The number of a query; -1 where there is nothing to ask or to answer.

        Args:
            gold: the chunk of its document that answers; -1: not known, below: not there.
        """
        if not ids or document < 0 or gold < -1:
            self._left_out += 1
            return -1
        self._query_ids.add(keys)
        self._queries.append(TokenizedSequence(tuple(ids), ((0, len(ids)),)))
        self._positives.append(document)
        self._gold.append(gold if gold < 0 else self._first_chunks[document] + gold)
        self._scores.append(scores)
        self.negatives.append([])
        return len(self._queries) - 1

    def batch(self, source: SourceConfig, origins: Sequence[str], cut: int, *, width: int) -> ContrastiveBatch:
        negatives = np.full((len(self._queries), width), -1, dtype=np.int64)
        for i, own in enumerate(self.negatives if width else ()):
            negatives[i, : len(own)] = own
        return ContrastiveBatch(
            (*self._queries, *self._documents),
            np.array(self._positives, dtype=np.int64),
            np.array(self._gold, dtype=np.int64),
            np.array(self._query_ids.order, dtype=np.int64),
            np.array(self._document_ids.order, dtype=np.int64),
            np.array(self._chunk_ids.order, dtype=np.int64),
            negatives,
            tuple(self._scores),
            source,
            tuple(origins),
            cut,
            self._left_out,
        )


class _Numbers:
    """Numbers for things that are equal if they share one of their keys, be it through a third."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._same: list[int] = []  # by thing, an earlier one that it equals, or itself

    def __len__(self) -> int:
        return len(self._same)

    @property
    def order(self) -> list[int]:
        """The numbers of all things, in the order in which they were added."""
        return [self._first(thing) for thing in range(len(self))]

    def add(self, keys: Sequence[Hashable]) -> None:
        """One more thing."""
        self._same.append(len(self))
        self.join(len(self) - 1, keys)

    def join(self, thing: int, keys: Sequence[Hashable]) -> None:
        """Further keys of a thing."""
        for key in keys:
            first, other = sorted(self._first(t) for t in (thing, self._known.setdefault(key, thing)))
            self._same[other] = first

    def _first(self, thing: int) -> int:
        while self._same[thing] != thing:
            thing = self._same[thing]
        return thing


def _keys(text: Hashable, identifier: str) -> tuple[Hashable, ...]:
    return (("text", text), *([("id", identifier)] if identifier else []))


def _as_grouped(drawn: Drawn, stage: StageConfig) -> Grouped:
    """A row as a document with questions, whatever its form."""
    row = drawn.example
    if isinstance(row, Grouped):
        if stage.kind != "contextual" and len(row.chunks) > 1:
            raise InputError(
                f"{drawn.origin} is a document of {len(row.chunks)} chunks; a {stage.kind} stage reads pairs and "
                "triplets: use a contextual stage, or one row a chunk"
            )
        if stage.kind == "contextual" and stage.gold and any(q.chunk is None for q in row.questions):
            raise InputError(
                f"{drawn.origin} has a query without a chunk, and stage '{stage.name}' asks which chunk answers; say "
                "which, or set gold = false in the stage"
            )
        return row
    question = Question(row.query, 0, id=row.id)
    return Grouped((row.document,), (question,), row.id, row.document_id, row.language, row.instruction, row.source)


def _negatives(drawn: Drawn, stage: StageConfig, source: SourceConfig) -> tuple[str, ...]:
    found = drawn.example.negatives if stage.kind == "triplet" and isinstance(drawn.example, Triplet) else ()
    if not found and not source.in_batch:
        raise InputError(
            f"{drawn.origin} has no negatives, and source '{source.name}' compares with nothing else "
            "(in_batch = false); give it some or remove it"
        )
    return found


def _chosen(items: tuple[T, ...], count: int, rng: np.random.Generator) -> tuple[T, ...]:
    """At most ``count`` of them, drawn; in their order."""
    if len(items) <= count:
        return items
    return tuple(items[i] for i in sorted(rng.choice(len(items), count, replace=False).tolist()))


def _query(question: Question, row: Grouped, source: SourceConfig) -> str:
    instruction = row.instruction or source.instruction
    if not instruction:
        return question.query
    return source.instruction_format.replace("{instruction}", instruction).replace("{query}", question.query)


def _piece_length(source: SourceConfig, rng: np.random.Generator) -> int:
    """How long the chunks of this step are, drawn evenly on a logarithmic scale; 0: as the rows have them."""
    if not source.chunk_tokens:
        return 0
    low, high = np.log(np.array(source.chunk_tokens, dtype=np.float64))
    return round(float(np.exp(rng.uniform(low, high))))


def _cut_anew(chunks: Sequence[list[int]], length: int, limit: int) -> list[list[int]]:
    """The tokens of all chunks in pieces of ``length``, as many as fit with a separator between them."""
    tokens = [token for chunk in chunks for token in chunk]
    whole = -(-limit // (length + 1)) if length < limit else 1
    pieces = [tokens[i : i + length] for i in range(0, len(tokens), length)][:whole]
    over = sum(map(len, pieces)) + len(pieces) - 1 - limit
    if over > 0:
        pieces[-1] = pieces[-1][:-over]
    return [piece for piece in pieces if piece]


def _stretch(lengths: Sequence[int], limit: int, wanted: int | None, rng: np.random.Generator) -> tuple[int, int]:
    """First chunk and the one after the last of as many consecutive ones as fit, around a wanted or a random one."""
    if sum(lengths) + len(lengths) - 1 <= limit:
        return 0, len(lengths)
    first = int(rng.integers(len(lengths))) if wanted is None else wanted
    last, room = first + 1, limit - lengths[first]
    while True:
        sides = []
        if first > 0 and lengths[first - 1] + 1 <= room:
            sides.append(-1)
        if last < len(lengths) and lengths[last] + 1 <= room:
            sides.append(1)
        if not sides:
            return first, last
        side = sides[int(rng.integers(len(sides)))]
        room -= 1 + (lengths[first - 1] if side < 0 else lengths[last])
        first, last = (first - 1, last) if side < 0 else (first, last + 1)
