"""From a document to chunks: exact slices of the text, each at most so many tokens, cut where a reader would cut.

A document is first split into blocks (``blocks.py``), blocks that are too long into finer pieces (``pieces.py``); then
neighbours are packed together again. What may share a chunk, and where one has to begin, is up to the strategy. Windows
of tokens (``fixed.py``) and borders that a model chooses (``adaptive.py``) go through the same check at the end.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from diffembed.errors import InputError
from diffembed.text.blocks import Definitions, Unit, marked_up_blocks, regions, source_blocks, split_at
from diffembed.text.headings import heading_levels, heading_paths, heading_text
from diffembed.text.pieces import CountTokens, Limit, halved, sentence_starts, within
from diffembed.text.readers import SourceText
from diffembed.text.sentences import Span, trimmed

Strategy = Literal["structure", "fixed", "sentence", "markdown", "code", "adaptive"]
"""By name: ``structure`` packs paragraphs, sections, definitions or records, whatever the document has; ``sentence``
whole sentences; ``markdown`` never lets two sections share a chunk, ``code`` no two definitions (documents of another
kind they cut as ``structure`` does); ``fixed`` are windows of tokens; ``adaptive`` asks the model."""
STRATEGIES: tuple[str, ...] = get_args(Strategy)
CountingStrategy = Literal["structure", "sentence", "markdown", "code"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: ``text == document[start:end]``; lines are 1-based and inclusive.

    Attributes:
        headings: what its text stands under (its own heading last), the highest first; Markdown and reST only, and not
            kept in an index.
    """

    text: str
    start: int
    end: int
    line_start: int
    line_end: int
    headings: tuple[str, ...] = ()


def chunk_document(
    source: SourceText,
    *,
    count_tokens: CountTokens,
    max_tokens: int = 256,
    strategy: CountingStrategy = "structure",
) -> list[Chunk]:
    """Cut a document by what it looks like.

    Args:
        source: the document.
        count_tokens: how many tokens the model makes of each of some texts (``Encoder.count_tokens``).
        max_tokens: no chunk has more, but for a single character that alone has more.
        strategy: see ``Strategy``.

    Raises:
        InputError: ``max_tokens`` is not positive, or the strategy needs more than counts.

    >>> source = SourceText.plain("# Owls\\n\\nThey hunt. At night.\\n\\n## Ears\\n\\nBy ear.\\n", "markdown")
    >>> words = lambda texts: [len(text.split()) for text in texts]
    >>> [(c.text, c.line_start, c.line_end) for c in chunk_document(source, count_tokens=words, max_tokens=7)]
    [('# Owls\\n\\nThey hunt. At night.', 1, 3), ('## Ears\\n\\nBy ear.', 5, 7)]
    >>> sections = chunk_document(source, count_tokens=words, max_tokens=99, strategy="markdown")
    >>> [chunk.headings for chunk in sections]
    [('Owls',), ('Owls', 'Ears')]
    """
    if strategy not in get_args(CountingStrategy):
        raise InputError(f"strategy {strategy!r} is not one of {', '.join(get_args(CountingStrategy))}; see Chunker")
    limit = Limit.of(count_tokens, max_tokens)
    text = source.text
    if strategy == "sentence":
        units = _sentence_units(source)
    elif strategy == "code" and source.kind == "code":
        units = _definitions_apart(source, limit)
    else:
        units = source_blocks(source)
        if strategy == "markdown" and source.kind in ("markdown", "rst"):
            for above, unit in pairwise(units):
                unit.must_begin = unit.heading and not above.heading
    units = within(text, source.kind, limit.measure(text, units), limit)
    return chunks_of(source, _pack(units, limit.room), limit)


def _sentence_units(source: SourceText) -> list[Unit]:
    units: list[Unit] = []
    for start, end in regions(source):
        units += _begun(split_at(start, end, sentence_starts(source.text, source.kind, start, end)))
    return units


def _definitions_apart(source: SourceText, limit: Limit) -> list[Unit]:
    """Each definition begins a unit: outer ones that fit, inner ones of those that do not, blocks of the rest."""
    text = source.text
    blocks = [unit.start for unit in source_blocks(source)]
    definitions = Definitions(text)
    units: list[Unit] = []
    pending = limit.measure(text, definitions.blocks(0, len(text)))
    while pending:
        deeper: list[Unit] = []
        for unit in pending:
            parts = [unit] if unit.tokens <= limit.room else _inner_definitions(definitions, unit)
            if len(parts) > 1:
                deeper += parts
            elif unit.tokens > limit.room:
                inside = slice(bisect.bisect(blocks, unit.start), bisect.bisect_left(blocks, unit.end))
                units += _begun(split_at(unit.start, unit.end, blocks[inside]))
            else:
                units += _begun([unit])
        pending = limit.measure(text, deeper)
    return sorted(units, key=lambda unit: unit.start)


def _inner_definitions(definitions: Definitions, unit: Unit) -> list[Unit]:
    parts = definitions.blocks(unit.start, unit.end)
    return parts if len(parts) > 1 else definitions.blocks(unit.start, unit.end, nested=True)


def _begun(units: list[Unit]) -> list[Unit]:
    units[0].must_begin = True
    return units


# Packing.


def _pack(units: list[Unit], room: int) -> list[list[Unit]]:
    """Greedy: neighbours share a chunk while they fit; a heading begins a new one once the last is a quarter full."""
    groups: list[list[Unit]] = []
    group: list[Unit] = []
    total = 0
    bare = True  # nothing but headings in the group
    for unit in units:
        at_heading = unit.heading and not bare and total >= room / 4
        if group and (unit.must_begin or at_heading or total + unit.tokens > room):
            # Headings without text, a table of contents for instance, are packed like text: none moves on to the next.
            carried = 0 if unit.must_begin or (bare and unit.heading) else _headings_at_end(group, room - unit.tokens)
            at = len(group) - carried
            groups.append(group[:at])
            group, bare = group[at:], True
            total = sum(u.tokens for u in group)
        group.append(unit)
        total += unit.tokens
        bare = bare and unit.heading
    return [*groups, group] if group else groups


def _headings_at_end(group: list[Unit], room: int) -> int:
    """How many headings at the end of a group (never all of it) fit into so many tokens."""
    count = tokens = 0
    while count < len(group) - 1 and group[-1 - count].heading:
        tokens += group[-1 - count].tokens
        if tokens > room:
            break
        count += 1
    return count


def chunks_of(source: SourceText, groups: Iterable[list[Unit]], limit: Limit) -> list[Chunk]:
    """Chunks of groups of neighbouring units, in order; a group of which nothing is left to read gives none.

    Each is checked as a whole text, since pieces may have more tokens together than one by one, and halved if need be.
    What has no tokens at all (blanks, characters that the tokenizer drops) is left out: a model has no vector of it.
    """
    text = source.text
    done: list[Span] = []
    pending = list(groups)
    while pending:
        spans = [_trimmed_lines(text, group[0].start, group[-1].end) for group in pending]
        kept = [(span, group) for span, group in zip(spans, pending, strict=True) if span is not None]
        counts = limit.count_tokens([text[start:end] for (start, end), _ in kept]) if kept else []
        pending = []
        for (span, group), count in zip(kept, counts, strict=True):
            if count <= limit.around:
                continue
            if count <= limit.max_tokens or span[1] - span[0] < 2:
                done.append(span)
                continue
            if len(group) == 1:
                group = halved(text, Unit(*span))
            half = len(group) // 2
            pending += [group[:half], group[half:]]
    headings = _headings(source)
    return [
        Chunk(text[s:e], s, e, source.line_at(s), source.line_at(e - 1), _under(headings, text, s, e))
        for s, e in sorted(done)
    ]


def _trimmed_lines(text: str, start: int, end: int) -> Span | None:
    """Blanks at the ends left out, but the indentation of the first line kept: it is meaning in code."""
    span = trimmed(text, start, end)
    if span is None:
        return None
    first = span[0]
    while first > start and text[first - 1] in " \t":
        first -= 1
    at_line_start = first == 0 or text[first - 1] in "\r\n"
    return (first if at_line_start else span[0], span[1])


@dataclass(frozen=True, slots=True)
class _Headings:
    starts: list[int]
    ends: list[int]
    paths: list[tuple[str, ...]]


def _headings(source: SourceText) -> _Headings:
    if source.kind not in ("markdown", "rst"):
        return _Headings([], [], [])
    text = source.text
    found = [unit for unit in marked_up_blocks(text, fences=source.kind == "markdown") if unit.heading]
    marked = [text[unit.start : unit.end] for unit in found]
    paths = heading_paths([heading_text(heading) for heading in marked], heading_levels(marked))
    return _Headings([unit.start for unit in found], [unit.end for unit in found], paths)


def _under(headings: _Headings, text: str, start: int, end: int) -> tuple[str, ...]:
    """The headings over the first text of a chunk that is none itself."""
    last = bisect.bisect_right(headings.starts, start) - 1
    while last + 1 < len(headings.starts) and headings.starts[last + 1] < end:
        begin = max(start, headings.ends[last] if last >= 0 else 0)
        if text[begin : headings.starts[last + 1]].strip():
            break
        last += 1
    return headings.paths[last] if last >= 0 else ()
