"""From a document to chunks: exact slices of the text, each at most so many tokens, cut where a reader would cut.

A document is first split into blocks (paragraphs, Markdown or reST sections, fenced code, functions, records), blocks
that are too long into sentences, lines, words and at last characters; then neighbours are packed together again. A
heading stays with what it heads, and a record is never mixed with the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from diffembed.errors import InputError
from diffembed.text.readers import SourceText
from diffembed.text.sentences import Span, safe_cut, sentences, trimmed

CountTokens = Callable[[Sequence[str]], Sequence[int]]

_CHARACTERS_PER_TOKEN = 12
"""A block this many times longer than the token limit is cut before it is tokenized: some tokenizers need quadratic
time for a word of a million letters."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: ``text == document[start:end]``; lines are 1-based and inclusive."""

    text: str
    start: int
    end: int
    line_start: int
    line_end: int


@dataclass(slots=True)
class _Unit:
    """Consecutive characters that packing moves as a whole; units cover the document without gaps."""

    start: int
    end: int
    tokens: int = 0
    heading: bool = False  # belongs to what follows, and is a good place to begin a chunk
    must_begin: bool = False  # a chunk has to begin here (records)


def chunk_document(source: SourceText, *, count_tokens: CountTokens, max_tokens: int = 256) -> list[Chunk]:
    """Cut a document.

    Args:
        source: the document.
        count_tokens: how many tokens the model makes of each of some texts (``Encoder.count_tokens``).
        max_tokens: no chunk has more, but for a single character that alone has more.

    Raises:
        InputError: ``max_tokens`` is not positive.

    >>> source = SourceText.plain("# Owls\\n\\nThey hunt. At night.\\n\\nBy ear.\\n", "markdown")
    >>> words = lambda texts: [len(text.split()) for text in texts]
    >>> [(c.text, c.line_start, c.line_end) for c in chunk_document(source, count_tokens=words, max_tokens=6)]
    [('# Owls\\n\\nThey hunt. At night.', 1, 3), ('By ear.', 5, 5)]
    """
    if max_tokens < 1:
        raise InputError(f"chunks of {max_tokens} tokens: give a positive number, 256 for instance")
    text = source.text
    units = _counted(text, _blocks(source), count_tokens, max_tokens)
    units = [part for unit in units for part in _small_enough(text, source, unit, count_tokens, max_tokens)]
    groups = _pack(units, max_tokens)
    spans = _verified(text, groups, count_tokens, max_tokens)
    return [_chunk(source, start, end) for start, end in spans]


def _chunk(source: SourceText, start: int, end: int) -> Chunk:
    return Chunk(source.text[start:end], start, end, source.line_at(start), source.line_at(end - 1))


# Blocks: the first, coarse cut.

_PARAGRAPH_END = re.compile(r"(?:\r\n|\n|\r)[ \t\f]*(?:\r\n|\n|\r)\s*")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|$)")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_ATX = re.compile(r" {0,3}#{1,6}[ \t]+\S")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+:._])\1{2,}[ \t]*$")
_DEFINITION = re.compile(
    r"(?:export |default |public |private |protected |internal |static |async |abstract |final |pub(?:\([a-z]+\))? "
    r"|unsafe |extern |const |inline |virtual |open |override |suspend )*"
    r"(?:def|class|func|fn|function|impl|trait|struct|enum|interface|type|module|namespace|sub|proc|object|record)\b"
)


def _blocks(source: SourceText) -> list[_Unit]:
    text = source.text
    if source.kind == "records":
        borders = [0, *source.breaks, len(text)]
        return [_Unit(s, e, must_begin=True) for s, e in pairwise(borders) if s < e]
    if source.kind in ("markdown", "rst"):
        return marked_up_blocks(text, fences=source.kind == "markdown")
    units = _cut(0, len(text), (match.end() for match in _PARAGRAPH_END.finditer(text)))
    if source.kind == "code":
        # Indented text after a blank line belongs to the block above it; a definition at the margin begins one.
        units = [_indented_start(text, unit) for unit in units]
        for unit in units:
            unit.heading = _DEFINITION.match(text, unit.start) is not None
        return units
    for unit in units:
        unit.heading = _is_title(text[unit.start : unit.end])
    return units


def _is_title(paragraph: str) -> bool:
    """A short single line without a stop, like a chapter's name."""
    line = paragraph.strip()
    return 0 < len(line) <= 80 and "\n" not in line and line[-1] not in '.,;:!?。、！？”"’)'


def _indented_start(text: str, unit: _Unit) -> _Unit:
    # The separator match swallows the indentation of the next block: give it back, indentation is meaning in code.
    while unit.start > 0 and text[unit.start - 1] in " \t":
        unit.start -= 1
    end = unit.end
    while end < len(text) and end > unit.start and text[end - 1] in " \t":
        end -= 1
    unit.end = end
    return unit


def marked_up_blocks(text: str, *, fences: bool) -> list[_Unit]:
    """Paragraphs, with headings (ATX and underlined) as units of their own and fenced code kept whole."""
    units: list[_Unit] = []
    lines = [match.span() for match in _LINE.finditer(text) if match.end() > match.start()]
    fence: str | None = None
    start = 0

    def close(at: int, *, heading: bool = False) -> None:
        nonlocal start
        if units and not text[start:at].strip():
            units[-1].end = start = at  # blank lines belong to what stands above them
        elif at > start:
            units.append(_Unit(start, at, heading=heading))
            start = at

    previous_blank = True
    for number, (begin, end) in enumerate(lines):
        line = text[begin:end].rstrip()
        opening = _FENCE.match(line) if fences else None
        if fence is None and opening is not None and _is_rest_title(text[start:begin], line):
            opening = None
        if fence is not None:
            if opening is not None and line.lstrip().startswith(fence) and line.strip(" `~") == "":
                fence = None
            previous_blank = False
            continue
        if not line:
            previous_blank = True
            continue
        if previous_blank:
            close(begin)
        previous_blank = False
        if opening is not None:
            fence = opening[1]
            continue
        following = text[slice(*lines[number + 1])].rstrip() if number + 1 < len(lines) else ""
        if fences and _ATX.match(line):
            close(begin)
            close(end, heading=True)
        elif _UNDERLINE.match(line) and begin > start and _underlines(text[start:begin], line):
            close(end, heading=True)
        elif _is_underlined(line, following) and not _UNDERLINE.match(text[start:begin].strip()):
            close(begin)  # a title begins here, unless reST's line above it has already begun the block
    close(len(text))
    return units


def _is_underlined(line: str, following: str) -> bool:
    return bool(_UNDERLINE.match(following)) and not line[0].isspace() and len(following) >= min(len(line), 4)


def _is_rest_title(above: str, line: str) -> bool:
    """Whether a line of tildes underlines the title above it, as reST has it, and opens no fence."""
    titled = len(above.splitlines()) == 1 and len(line) >= max(4, len(above.rstrip()))
    return titled and line.strip("~") == "" and _underlines(above, line)


def _underlines(above: str, line: str) -> bool:
    rows = [row for row in above.splitlines() if row.strip()]
    titles = [row for row in rows if not _UNDERLINE.match(row.strip())]
    return len(titles) == 1 and len(rows) <= 2 and len(line) >= min(len(titles[0].rstrip()), 4)


# Long blocks: finer and finer cuts.


def _small_enough(
    text: str, source: SourceText, unit: _Unit, count_tokens: CountTokens, max_tokens: int
) -> list[_Unit]:
    """The unit, or smaller units that cover it and (measured one by one) keep the limit."""
    if unit.tokens <= max_tokens:
        return [unit]
    parts: list[_Unit] = [unit]
    for cut in (_cut_sentences, _cut_lines, _cut_words, _cut_characters):
        if all(part.tokens <= max_tokens for part in parts):
            break
        finer: list[_Unit] = []
        for part in parts:
            finer += [part] if part.tokens <= max_tokens else cut(text, source, part, max_tokens)
        fresh = [part for part in finer if part.tokens == 0]
        _counted(text, fresh, count_tokens, max_tokens)
        parts = _merged(finer, max_tokens)
    while any(part.tokens > max_tokens and part.end - part.start > 1 for part in parts):
        halves: list[_Unit] = []
        for part in parts:
            middle = (part.start + part.end) // 2
            if part.tokens <= max_tokens or part.end - part.start < 2:
                halves.append(part)
            else:
                safe = safe_cut(text, middle)
                halves += _cut(part.start, part.end, [safe if safe > part.start else middle])
        parts = halves
        _counted(text, [part for part in parts if part.tokens == 0], count_tokens, max_tokens)
    parts[0].heading, parts[0].must_begin = unit.heading, unit.must_begin
    return parts


def _merged(parts: list[_Unit], max_tokens: int) -> list[_Unit]:
    """Neighbouring small parts as one, as long as the sum of their tokens keeps the limit."""
    out: list[_Unit] = []
    for part in parts:
        if out and out[-1].tokens + part.tokens <= max_tokens:
            out[-1].end = part.end
            out[-1].tokens += part.tokens
        else:
            out.append(part)
    return out


def _cut(start: int, end: int, at: Iterable[int]) -> list[_Unit]:
    borders = [start, *(cut for cut in at if start < cut < end), end]
    return [_Unit(s, e) for s, e in pairwise(borders) if s < e]


def _cut_sentences(text: str, source: SourceText, unit: _Unit, _: int) -> list[_Unit]:
    piece = text[unit.start : unit.end]
    return _cut(unit.start, unit.end, (unit.start + start for start, _ in sentences(piece, source.kind)))


def _cut_lines(text: str, _: SourceText, unit: _Unit, __: int) -> list[_Unit]:
    return _cut(unit.start, unit.end, (match.end() for match in _LINE.finditer(text, unit.start, unit.end)))


def _cut_words(text: str, _: SourceText, unit: _Unit, __: int) -> list[_Unit]:
    return _cut(unit.start, unit.end, (m.end() for m in re.compile(r"\s+").finditer(text, unit.start, unit.end)))


def _cut_characters(text: str, _: SourceText, unit: _Unit, max_tokens: int) -> list[_Unit]:
    cuts: list[int] = []
    at = unit.start
    while unit.end - at > max_tokens:
        cut = safe_cut(text, at + max_tokens)
        at = cut if cut > at else at + max_tokens
        cuts.append(at)
    return _cut(unit.start, unit.end, cuts)


def _counted(text: str, units: list[_Unit], count_tokens: CountTokens, max_tokens: int) -> list[_Unit]:
    """Fill in ``tokens``. Blank units count 1; very long ones are taken as over the limit without tokenizing them."""
    asked = []
    for unit in units:
        unit.tokens = 1
        if trimmed(text, unit.start, unit.end) is None:
            continue
        if unit.end - unit.start > _CHARACTERS_PER_TOKEN * max_tokens:
            unit.tokens = max_tokens + 1
        else:
            asked.append(unit)
    counts = count_tokens([text[unit.start : unit.end] for unit in asked]) if asked else []
    for unit, count in zip(asked, counts, strict=True):
        unit.tokens = max(1, int(count))
    return units


# Packing.


def _pack(units: list[_Unit], max_tokens: int) -> list[list[_Unit]]:
    """Greedy: neighbours share a chunk while they fit; a heading begins a new one once the last is a quarter full."""
    groups: list[list[_Unit]] = []
    group: list[_Unit] = []
    total = 0
    for unit in units:
        at_heading = unit.heading and not all(u.heading for u in group) and total >= max_tokens / 4
        if group and (unit.must_begin or at_heading or total + unit.tokens > max_tokens):
            carried = _trailing_headings(group) if not unit.must_begin else []
            if sum(u.tokens for u in carried) + unit.tokens > max_tokens:
                carried = []
            groups.append(group[: len(group) - len(carried)])
            group = carried
            total = sum(u.tokens for u in group)
        group.append(unit)
        total += unit.tokens
    return [*groups, group] if group else groups


def _trailing_headings(group: list[_Unit]) -> list[_Unit]:
    count = 0
    while count < len(group) - 1 and group[len(group) - 1 - count].heading:
        count += 1
    return group[len(group) - count :] if count else []


def _verified(text: str, groups: list[list[_Unit]], count_tokens: CountTokens, max_tokens: int) -> list[Span]:
    """Spans of the groups, checked as whole texts: pieces may have more tokens together than one by one."""
    done: list[tuple[Span, list[_Unit]]] = []
    pending = groups
    while pending:
        spans = [_trimmed_lines(text, group[0].start, group[-1].end) for group in pending]
        kept = [(span, group) for span, group in zip(spans, pending, strict=True) if span is not None]
        counts = count_tokens([text[start:end] for (start, end), _ in kept]) if kept else []
        pending = []
        for (span, group), count in zip(kept, counts, strict=True):
            if count <= max_tokens or span[1] - span[0] < 2:
                done.append((span, group))
                continue
            if len(group) == 1:
                middle = (span[0] + span[1]) // 2
                safe = safe_cut(text, middle)
                group = _cut(span[0], span[1], [safe if safe > span[0] else middle])
            half = len(group) // 2
            pending += [group[:half], group[half:]]
    return sorted(span for span, _ in done)


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
