"""Chunk borders that the model chooses: where what it made of neighbouring sentences stops being alike.

The model reads the document once and gives a vector for each sentence (or block of code, or piece of a sentence over
the limit). With u_i these vectors at unit length and m_c their mean in a chunk c, the borders are those that minimise

    sum over chunks c of ( sum over i in c of |u_i - m_c|^2  +  penalty )

with every chunk within the limit: how much is lost when what a chunk says is represented by one vector, against the
number of vectors. The inner sum is n_c - |S_c|^2 / n_c for n_c sentences whose vectors sum to S_c, so the cost of a
chunk needs dot products of neighbours only, and dynamic programming finds the best borders of n sentences in O(n m), m
the most that fit into a chunk (optimal partitioning, as in the detection of change points: Killick, Fearnhead and
Eckley, arXiv 1101.1438).

The penalty is measured on the document. Where sentences differ by chance alone, with a variance of s^2, a cut saves s^2
on average, wherever it is. So a chunk costs ``PENALTY`` s^2, where s^2 is the median of |u_i - u_i+1|^2 / 2: most
neighbours belong together. No threshold is a cosine, and what all vectors of a model have in common cancels out. Where
there are paragraphs, a chunk that begins inside one costs more, by the share ``INSIDE``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from diffembed.text.batching import IntArray
from diffembed.text.blocks import FENCE, Unit, source_blocks, split_at
from diffembed.text.chunking import Chunk, chunks_of
from diffembed.text.pieces import CountTokens, Limit, sentence_starts, within
from diffembed.text.readers import SourceText
from diffembed.vectors.quantize import FloatArray, unit

SpanVectors = Callable[[Sequence[Sequence[str]]], Sequence[npt.NDArray[np.generic]]]

PENALTY = 1.5  # of a chunk, in units of what cutting at random saves
INSIDE = 0.5  # how much dearer a chunk is that begins inside a paragraph
SHORTEST = 8  # a chunk has at least 1 / SHORTEST of the limit, where that can be had
_TOO_SHORT = 1e6  # penalties of a chunk under that
_LEAST_VARIANCE = 1e-4  # rounding errors do not cut a document that says one thing over and over


def adaptive_chunks(
    source: SourceText, *, count_tokens: CountTokens, span_vectors: SpanVectors, max_tokens: int = 256
) -> list[Chunk]:
    """Cut a document where the model sees its subject change; see the module.

    Headings stay with what they head, records are never mixed. A document of one sentence is not given to the model.

    Args:
        source: the document.
        count_tokens: how many tokens the model makes of each of some texts (``Encoder.count_tokens``).
        span_vectors: ``[spans, dims]`` for each of some documents, given as their consecutive spans.
        max_tokens: no chunk has more, but for a single character that alone has more.

    Raises:
        InputError: ``max_tokens`` is not positive.

    >>> source = SourceText.plain("Owls hunt. Owls hear. Owls sleep. Bread rises. Bread bakes. Bread cools.", "prose")
    >>> words = lambda texts: [len(text.split()) for text in texts]
    >>> def first_words(documents):
    ...     return [np.array([[s.startswith("Owls"), s.startswith("Bread")] for s in d], float) for d in documents]
    >>> chunks = adaptive_chunks(source, count_tokens=words, span_vectors=first_words, max_tokens=16)
    >>> [chunk.text for chunk in chunks]
    ['Owls hunt. Owls hear. Owls sleep.', 'Bread rises. Bread bakes. Bread cools.']
    """
    limit = Limit.of(count_tokens, max_tokens)
    text = source.text
    opening, stretches = _spans(source, limit)
    asked = [spans for spans in stretches if len(spans) > 1]
    vectors = iter(span_vectors([[text[s.start : s.end].strip() for s in spans] for spans in asked]) if asked else ())
    groups: list[list[Unit]] = []
    for spans in stretches:
        firsts = [0]
        if len(spans) > 1:
            tokens_N = np.array([span.tokens for span in spans], np.int64)
            opens_N = np.array([at == 0 or span.start in opening for at, span in enumerate(spans)])
            firsts = choose_borders(unit(next(vectors)), tokens_N, opens_N, room=limit.room)
        groups += [spans[a:b] for a, b in zip(firsts, [*firsts[1:], len(spans)], strict=True)]
    return chunks_of(source, groups, limit)


def choose_borders(
    vectors_ND: FloatArray, tokens_N: IntArray, opens_N: npt.NDArray[np.bool_], *, room: int
) -> list[int]:
    """The first span of each chunk, by the objective of the module.

    Args:
        vectors_ND: of the spans of a document, in order, at unit length.
        tokens_N: their tokens; at least 1.
        opens_N: which of them begin a paragraph; where only the first does, it makes no difference.
        room: most tokens of a chunk; only a span that has more by itself may exceed it.

    >>> vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    >>> choose_borders(vectors, np.full(5, 10), np.ones(5, bool), room=100)
    [0, 2]
    """
    count = len(vectors_ND)
    variance = float(np.median(1 - np.einsum("nd,nd->n", vectors_ND[1:], vectors_ND[:-1], dtype=np.float64)))
    penalty = PENALTY * max(variance, _LEAST_VARIANCE)
    prices_N = penalty * np.where(opens_N | (opens_N.sum() <= 1), 1.0, 1.0 + INSIDE)
    before = np.concatenate([[0], np.cumsum(tokens_N)])  # tokens before each span
    firsts = np.minimum(np.searchsorted(before, before[1:] - room), np.arange(count))  # first span a chunk may have
    square = np.zeros(count)  # |S|^2 of the chunk from each span to the current one
    best = np.zeros(count + 1)  # cost of the best chunks of the spans before each border
    begin = np.zeros(count, dtype=np.int64)
    for last in range(count):
        a, end = int(firsts[last]), last + 1
        dots = (vectors_ND[a:last] @ vectors_ND[last]).astype(np.float64)
        square[a:last] += 2 * np.cumsum(dots[::-1])[::-1]
        square[a:end] += 1
        size = np.arange(end - a, 0, -1)
        cost = best[a:end] + size - square[a:end] / size + prices_N[a:end]
        cost[before[end] - before[a:end] < room / SHORTEST] += _TOO_SHORT * penalty
        begin[last] = a + int(np.argmin(cost))  # of equals the longest chunk
        best[end] = cost[begin[last] - a]
    found = []
    end = count
    while end:
        end = int(begin[end - 1])
        found.append(end)
    return found[::-1]


def _spans(source: SourceText, limit: Limit) -> tuple[set[int], list[list[Unit]]]:
    """What the model is shown: where blocks begin, and the spans of each stretch that is cut by itself.

    Spans are sentences, pieces of those over the limit, and whole blocks of code. A heading is one with what it heads,
    characters that the model does not read are with their neighbours. A stretch ends with a record, and at blanks
    that are longer than a chunk.
    """
    text = source.text
    opening = set()
    units: list[Unit] = []
    for block in source_blocks(source):
        opening.add(block.start)
        whole = source.kind == "code" or (source.kind == "markdown" and FENCE.match(text, block.start) is not None)
        cuts = () if whole else sentence_starts(text, source.kind, block.start, block.end)
        parts = split_at(block.start, block.end, cuts)
        parts[0].heading, parts[0].must_begin = block.heading and source.kind != "code", block.must_begin
        units += parts
    stretches: list[list[Unit]] = []
    begin = True
    for span in within(text, source.kind, limit.measure(text, units), limit):
        begin = begin or span.must_begin
        if span.silent and not text[span.start : span.end].strip():
            begin = True
        elif begin:
            stretches.append([span])
            begin = False
        elif _belongs(stretches[-1][-1], span, limit.room):
            above = stretches[-1][-1]
            above.end, above.tokens = span.end, above.tokens + span.tokens
            above.heading = above.heading and (span.heading or span.silent)
            above.silent = above.silent and span.silent
        else:
            stretches[-1].append(span)
    return opening, stretches


def _belongs(above: Unit, span: Unit, room: int) -> bool:
    return above.silent or span.silent or (above.heading and above.tokens + span.tokens <= room)
