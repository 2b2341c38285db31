"""Windows of tokens: chunks of exactly so many tokens, with an overlap if one is wanted.

A window ends between two tokens that share no character, and inside nothing that a reader sees as one character
(``safe_cut``); where that, or reading the window by itself, would break the limit, it is a little shorter.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diffembed.errors import InputError
from diffembed.text.batching import IntArray
from diffembed.text.blocks import Unit, regions
from diffembed.text.chunking import Chunk, chunks_of
from diffembed.text.pieces import CountTokens, Limit
from diffembed.text.readers import SourceText
from diffembed.text.sentences import Span, safe_cut

TokenSpans = Callable[[Sequence[str]], Sequence[IntArray]]

_STRETCH = 4096  # characters tokenized together: some tokenizers need quadratic time for a word of a million letters
_STRETCHES = 64  # in one call: what a tokenizer tells of a text is far larger than it


def fixed_chunks(
    source: SourceText,
    *,
    count_tokens: CountTokens,
    token_spans: TokenSpans,
    max_tokens: int = 256,
    overlap: int = 0,
) -> list[Chunk]:
    """Cut a document into windows of ``max_tokens`` tokens, the last one shorter; records are never mixed.

    Args:
        source: the document.
        count_tokens: how many tokens the model makes of each of some texts (``Encoder.count_tokens``).
        token_spans: where the tokens of each of some texts stand in it (``Encoder.token_spans``).
        max_tokens: no chunk has more, but for a single character that alone has more.
        overlap: tokens that a window shares with the one before it; a few more where it would begin inside a character.

    Raises:
        InputError: ``max_tokens`` is not positive, or ``overlap`` is negative or more than half of it.

    >>> def letters(texts):
    ...     return [np.array([(i, i + 1) for i, c in enumerate(t) if not c.isspace()]).reshape(-1, 2) for t in texts]
    >>> count = lambda texts: [len(spans) for spans in letters(texts)]
    >>> source = SourceText.plain("ab cd efgh", "prose")
    >>> chunks = fixed_chunks(source, count_tokens=count, token_spans=letters, max_tokens=5, overlap=2)
    >>> [(c.text, c.start) for c in chunks]
    [('ab cd e', 0), ('d efgh', 4)]
    """
    limit = Limit.of(count_tokens, max_tokens)
    if not 0 <= overlap <= limit.room // 2:
        raise InputError(f"an overlap of {overlap} tokens: give 0 to {limit.room // 2}, half of a chunk")
    stretches = [stretch for region in regions(source) for stretch in _stretches(source.text, *region)]
    tokens = _read(source.text, stretches, token_spans)
    spans = [span for region in regions(source) for span in _windows(source.text, region, tokens, limit, overlap)]
    chunks = chunks_of(source, ([Unit(*span)] for span in spans), limit)
    return _none_inside_another(chunks) if overlap else chunks


def _none_inside_another(chunks: list[Chunk]) -> list[Chunk]:
    """Windows that share their text may be inside each other once the blanks around them are left out."""
    kept: list[Chunk] = []
    for chunk in chunks:
        if kept and chunk.start == kept[-1].start:
            kept.pop()  # in order of start and end: this one is longer
        if not kept or chunk.end > kept[-1].end:
            kept.append(chunk)
    return kept


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Where the tokens of a document begin, ascending, and which of them share no character with those before."""

    starts: list[int]
    apart: list[bool]


def _stretches(text: str, start: int, end: int) -> Iterator[Span]:
    """Parts to tokenize by themselves, each ending before a blank where there is one in its second half."""
    while end - start > _STRETCH:
        cut = start + _STRETCH
        while cut > start + _STRETCH // 2 and not text[cut].isspace():
            cut -= 1
        if not text[cut].isspace():
            safe = safe_cut(text, start + _STRETCH, start)
            cut = safe if safe > start else start + _STRETCH
        yield start, cut
        start = cut
    yield start, end


def _read(text: str, stretches: Sequence[Span], token_spans: TokenSpans) -> _Tokens:
    parts = [np.empty((0, 2), np.int64)]
    for at in range(0, len(stretches), _STRETCHES):
        some = stretches[at : at + _STRETCHES]
        found = token_spans([text[start:end] for start, end in some])
        parts += [spans + start for (start, _), spans in zip(some, found, strict=True)]
    spans_T2 = np.maximum.accumulate(np.concatenate(parts), axis=0)
    starts, ends = spans_T2[:, 0], spans_T2[:, 1]
    apart = np.ones(len(starts), dtype=bool)
    apart[1:] = (starts[1:] >= ends[:-1]) & (starts[1:] > starts[:-1])
    return _Tokens(starts.tolist(), apart.tolist())


def _windows(text: str, region: Span, tokens: _Tokens, limit: Limit, overlap: int) -> Iterator[Span]:
    """Windows that together cover a region, characters without a token included."""
    starts = tokens.starts
    at, last = bisect_left(starts, region[0]), bisect_left(starts, region[1])
    start = region[0]
    while True:
        cut = _border(text, tokens, at, min(at + limit.room, last), last)
        while True:
            end = starts[cut] if cut < last else region[1]
            over = limit.count_tokens([text[start:end].strip()])[0] - limit.max_tokens
            shorter = _border(text, tokens, at, max(at + 1, cut - over), last) if over > 0 else cut
            if shorter >= cut:
                break  # it fits, or cannot be cut
            cut = shorter
        yield start, end
        if cut >= last:
            return
        at = min(cut, _border(text, tokens, at, max(at + 1, cut - overlap), last)) if overlap else cut
        start = starts[at]


def _border(text: str, tokens: _Tokens, at: int, wanted: int, last: int) -> int:
    """The number of the token before which to cut: ``wanted`` or the nearest before it (but after ``at``) that is safe.

    If none is, one that at least shares no character with the token before it; at the worst a later one.
    """
    starts, apart = tokens.starts, tokens.apart
    if wanted >= last:
        return last
    cut = wanted
    while cut > at:
        safe = safe_cut(text, starts[cut], starts[at])
        if apart[cut] and safe == starts[cut]:
            return cut
        cut = min(cut - 1, bisect_right(starts, safe) - 1)
    cut = wanted
    while cut > at and not apart[cut]:
        cut -= 1
    if cut > at:
        return cut
    cut = wanted + 1
    while cut < last and not apart[cut]:
        cut += 1
    return cut
