"""The first, coarse cut of a document: paragraphs, headings, fenced code, records; definitions of source code.

Blocks stand end to end without gaps. What to make of them (pack, cut finer, keep apart) is the business of
``chunking.py`` and its strategies.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from diffembed.text.readers import SourceText
from diffembed.text.sentences import Span

LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|$)")
_PARAGRAPH_END = re.compile(r"(?>\r\n|\n|\r)[ \t\f]*+(?:\r\n|\n|\r)\s*")
FENCE = re.compile(r" {0,3}(```+|~~~+)")
_ATX = re.compile(r" {0,3}#{1,6}[ \t]+\S")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+:._])\1{2,}[ \t]*$")
_DEFINITION = re.compile(
    r"(?:export |default |public |private |protected |internal |static |async |abstract |final |pub(?:\([a-z]+\))? "
    r"|unsafe |extern |const |inline |virtual |open |override |suspend )*"
    r"(?:def|class|func|fn|function|impl|trait|struct|enum|interface|type|module|namespace|sub|proc|object|record)\b"
)
# What follows the keyword of a definition; in running text ("class names are ...") other words do.
_DEFINED = re.compile(
    r"[ \t*]*(?:(?:class |struct )?[^\W\d][\w$.:!?~]*[ \t]*"
    r"(?:$|[({\[<>=:;,&*|]|(?:extends|implements|struct|interface|func|for|where|is|as|on)\b)|[({<])"
)
_CALLABLE = re.compile(
    r"(?!(?:if|for|while|switch|return|else|case|do|catch|try|with|elif|except|assert|raise|throw|new|typedef)\b)"
    r"(?:(?:export |default )*(?:const|let|var) [\w$]+\s*=\s*(?:async )?(?:function\b|\([^()]*\)\s*=>)|"
    r"[^\W\d][\w:<>,*&~\[\] \t]*\([^;={}]*(?:\{|$))"
)
_RETURNED = re.compile(
    r"(?!(?:end|fi|done|esac)\b)[A-Za-z_][\w:<>,*& \t]*$"
)  # the type of a C function on a line of its own
_ABOVE = re.compile(r"[ \t]*(?:///?|//!|#|--|;;|\*|/\*|@\w|\[\w)")  # comments, decorators, attributes
_CLOSES = re.compile(r"[)\]}{]|end\b|else\b|elif\b|elsif\b|except\b|finally\b|catch\b")


@dataclass(slots=True)
class Unit:
    """Consecutive characters that packing moves as a whole; units cover the document without gaps."""

    start: int
    end: int
    tokens: int = 0
    heading: bool = False  # belongs to what follows, and is a good place to begin a chunk
    must_begin: bool = False  # a chunk has to begin here (records, sections that are kept apart)
    silent: bool = False  # nothing in it that a model would read: blanks, characters that its tokenizer drops


def split_at(start: int, end: int, at: Iterable[int]) -> list[Unit]:
    """``start:end`` cut at those of some ascending places that lie inside it.

    >>> [(unit.start, unit.end) for unit in split_at(2, 9, [0, 4, 9])]
    [(2, 4), (4, 9)]
    """
    borders = [start, *(cut for cut in at if start < cut < end), end]
    return [Unit(s, e) for s, e in pairwise(borders) if s < e]


def regions(source: SourceText) -> list[Span]:
    """The stretches that no chunk reaches over: each record, or the whole text."""
    return [(s, e) for s, e in pairwise([0, *source.breaks, len(source.text)]) if s < e]


def source_blocks(source: SourceText) -> list[Unit]:
    """Paragraphs of prose and code, marked-up blocks, or records."""
    text = source.text
    if source.kind == "records":
        return [Unit(s, e, must_begin=True) for s, e in regions(source)]
    if source.kind in ("markdown", "rst"):
        return marked_up_blocks(text, fences=source.kind == "markdown")
    units = split_at(0, len(text), (match.end() for match in _PARAGRAPH_END.finditer(text)))
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
    return 0 < len(line) <= 80 and not re.search(r"[\r\n]", line) and line[-1] not in '.,;:!?。、！？”"’)'


def _indented_start(text: str, unit: Unit) -> Unit:
    # The separator match swallows the indentation of the next block: give it back, indentation is meaning in code.
    while unit.start > 0 and text[unit.start - 1] in " \t":
        unit.start -= 1
    end = unit.end
    while end < len(text) and end > unit.start and text[end - 1] in " \t":
        end -= 1
    unit.end = end
    return unit


def marked_up_blocks(text: str, *, fences: bool) -> list[Unit]:
    """Paragraphs, with headings (ATX and underlined) as units of their own and fenced code kept whole."""
    units: list[Unit] = []
    lines = [match.span() for match in LINE.finditer(text) if match.end() > match.start()]
    fence: str | None = None
    start = 0

    def close(at: int, *, heading: bool = False) -> None:
        nonlocal start
        if units and not text[start:at].strip():
            units[-1].end = start = at  # blank lines belong to what stands above them
        elif at > start:
            units.append(Unit(start, at, heading=heading))
            start = at

    previous_blank = True
    for number, (begin, end) in enumerate(lines):
        line = text[begin:end].rstrip()
        opening = FENCE.match(line) if fences else None
        if fence is None and opening is not None and _is_rest_title(_above(text, lines, number, start), line):
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
        elif _UNDERLINE.match(line) and begin > start and _underlines(_above(text, lines, number, start), line):
            close(end, heading=True)
        elif _is_underlined(line, following) and not _UNDERLINE.match(_above(text, lines, number, start).strip()):
            close(begin)  # a title begins here, unless reST's line above it has already begun the block
    close(len(text))
    return units


def _above(text: str, lines: list[Span], number: int, start: int) -> str:
    """What stands above a line in its block, or in a longer one (of which every line would look) three lines."""
    return text[start : lines[number][0]] if start >= lines[max(0, number - 3)][0] else "no\ntitle\nhere\n"


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


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    indent: int
    said: str  # without blanks around it


class Definitions:
    """The definitions of a source text (functions, classes and the like), found once by its lines and indentation.

    No parser. A definition has the comments and decorators right above it, and goes on to the next one of its
    indentation, or to loose code after a blank line.

    >>> text = "import os\\n\\n# Adds.\\ndef add(a):\\n    return a\\n\\nclass B:\\n    x = 1\\n\\nprint(B)\\n"
    >>> [text[u.start : u.end].strip() for u in Definitions(text).blocks(0, len(text))]
    ['import os', '# Adds.\\ndef add(a):\\n    return a', 'class B:\\n    x = 1', 'print(B)']
    """

    def __init__(self, text: str) -> None:
        lines = [_line(text, m.start(), m.end()) for m in LINE.finditer(text) if m.end() > m.start()]
        self._starts = [line.start for line in lines]
        self._indents = [line.indent for line in lines]
        self._defined = [number for number, line in enumerate(lines) if line.said and _defines(lines, number)]
        self._first = {number: _first_line(lines, number) for number in self._defined}
        self._loose = [number for number in range(1, len(lines)) if _is_loose(lines, number)]

    def blocks(self, start: int, end: int, *, nested: bool = False) -> list[Unit]:
        """Definitions as units, and what stands between them as units of its own.

        Args:
            start, end: the part of the text to cut; where a line begins.
            nested: cut at the definitions inside the outermost ones (methods of a class).

        Returns:
            Units that cover ``start:end`` without gaps; a single one where nothing is defined.
        """
        part = bisect_left(self._starts, start), bisect_left(self._starts, end)
        inside = _between(self._defined, *part)
        levels = sorted({self._indents[number] for number in inside})[int(nested) :]
        if not levels:
            return split_at(start, end, ())
        level = levels[0]
        begins = {self._first[number]: number for number in inside if self._indents[number] == level}
        loose = (number for number in _between(self._loose, *part) if self._indents[number] <= level)
        cuts = []
        last = -1  # line up to which the definition above has been read
        defined = False  # whether the last cut began a definition
        for number in sorted({*begins, *loose}):
            if number in begins and number > last:
                last, defined = begins[number], True
            elif defined and number > last + 1:
                defined = False
            else:
                continue
            cuts.append(self._starts[number])
        return split_at(start, end, cuts)


def _between(ascending: list[int], first: int, last: int) -> list[int]:
    return ascending[bisect_left(ascending, first) : bisect_left(ascending, last)]


def _line(text: str, start: int, end: int) -> _Line:
    raw = text[start:end].rstrip()
    said = raw.lstrip(" \t")
    return _Line(start, len(raw[: len(raw) - len(said)].expandtabs(4)), said)


def _defines(lines: list[_Line], number: int) -> bool:
    said = lines[number].said
    keyword = _DEFINITION.match(said)
    if keyword is not None:
        return _DEFINED.match(said, keyword.end()) is not None
    if _CALLABLE.match(said) is None:
        return False
    if said.endswith(("{", "=>")):
        return True
    following = next((line for line in lines[number + 1 : number + 4] if line.said), None)
    return said.endswith(")") and following is not None and following.said.startswith("{")


def _first_line(lines: list[_Line], number: int) -> int:
    """The first line of a definition: that of the comments, decorators and return type right above it."""
    indent = lines[number].indent
    first = number
    plain = _DEFINITION.match(lines[number].said) is None
    if plain and number and lines[number - 1].indent == indent and _RETURNED.match(lines[number - 1].said):
        first -= 1
    while first and lines[first - 1].said and _ABOVE.match(lines[first - 1].said) and lines[first - 1].indent >= indent:
        first -= 1
    return first


def _is_loose(lines: list[_Line], at: int) -> bool:
    """Whether a line can stand outside the definition above it: below a blank line, and closing nothing."""
    line = lines[at]
    return bool(line.said) and not lines[at - 1].said and not _CLOSES.match(line.said)
