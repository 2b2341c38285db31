"""Definitions of source code that say in words what they do: docstrings inside them, comments above them.

By lines and their indentation, no parser: it reads most languages a little, and a file that does not compile as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diffembed.text.sentences import Span

_KEYWORDS = (
    r"(?:export |default |public |private |protected |internal |static |async |abstract |final |pub(?:\([a-z]+\))? "
    r"|unsafe |extern |const |inline |virtual |open |override |suspend )*"
    r"(?:def|class|func|fn|function|impl|trait|struct|enum|interface|module|namespace|sub|proc|object|record|macro)\b"
)
_DEFINITION = re.compile(rf"[ \t]*{_KEYWORDS}[ \t*(]*[\w$]")
_CALLABLE = re.compile(
    r"[ \t]*(?!if\b|for\b|while\b|switch\b|return\b|else\b|case\b)[A-Za-z_$][\w$:<>,*&~\[\] .=?]*\([^;]*$"
)
_PYTHON = re.compile(r"[ \t]*(?:async )?(?:def|class) ")
_DOCSTRING = re.compile(r"[ \t]*[rRuUbB]{0,2}(\"\"\"|''')")
_COMMENT = re.compile(r"[ \t]*(?:///?|//!|#(?![\[!]|\s*(?:include|define|if|endif|pragma|else|undef)\b)|--|;;|\*|/\*)")
_BETWEEN = re.compile(r"[ \t]*(?:@\w|#\[|\[\w)")  # decorators and attributes
_MARKS = re.compile(r"^[ \t]*(?:/\*+!?|\*+/|\*|///?|//!|#+|--+|;;+)?[ \t]?|[ \t]*\*+/[ \t]*$")
_QUOTES = re.compile(r"^[rRuUbB]{0,2}(?:\"\"\"|''\')|(?:\"\"\"|''\')$")
_STOPS = re.compile(
    r"(?:[@\\](?:param|return|brief|throws|see|since|note|example)|:\w+.*:|>>>|\.\. |[=~-]{3,}|```|"
    r"(?:args|arguments|parameters|params|returns?|raises|yields|examples?|notes?|see also|attributes|safety|panics)"
    r"\s*:?\s*$)",
    re.IGNORECASE,
)
_NO_WORDS = re.compile(
    r"copyright|licen[sc]e|SPDX|all rights reserved|eslint|pylint|noqa|@ts-|clang-format|TODO|FIXME", re.I
)
_SIGNATURE_LINES = 40
_LONGEST = 4000  # characters of a definition
_MOST_WORDS = 60
_LEAST_BODY = 8  # words of a definition besides its comment


@dataclass(frozen=True, slots=True)
class Definition:
    """A function, class or the like.

    Attributes:
        comment: the first paragraph of what is said of it.
        span: where it stands with that; ``words``: where that stands.
    """

    comment: str
    span: Span
    words: Span


def documented_definitions(text: str) -> list[Definition]:
    """The definitions of a source file that have a docstring or a comment, in order.

    >>> text = "// Adds two numbers up.\\nint add(int a, int b) {\\n  return a + b; // as the machine does it\\n}\\n"
    >>> [(d.comment, d.span == (0, len(text))) for d in documented_definitions(text)]
    [('Adds two numbers up.', True)]
    """
    lines = text.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    found = []
    for number, line in enumerate(lines):
        definition = _DEFINITION.match(line)
        if not definition and not _CALLABLE.match(line):
            continue
        place = _docstring(lines, number) if _PYTHON.match(line) else None
        place = place or _comment_above(lines, number, certain=definition is not None)
        if place is None:
            continue
        first, last, begin = place  # lines of the words, and the first line of all
        end = _end(lines, number, max(number, last))
        words = (offsets[first], offsets[last])
        span = (offsets[begin], offsets[end])
        comment = _said(lines[first:last])
        rest = text[span[0] : words[0]] + text[words[1] : span[1]]
        if comment and len(re.findall(r"\w+", rest[:_LONGEST])) >= _LEAST_BODY and span[1] > words[1]:
            span = (span[0], min(span[1], max(words[1], span[0]) + _LONGEST))
            found.append(Definition(comment, span, words))
    return found


def _docstring(lines: Sequence[str], number: int) -> tuple[int, int, int] | None:
    """First and last line (exclusive) of the docstring of the definition in line ``number``."""
    at = number
    while at < len(lines) and not lines[at].split("#")[0].rstrip().endswith(":"):
        at += 1
        if at == number + _SIGNATURE_LINES or (at < len(lines) and _PYTHON.match(lines[at])):
            return None
    at += 1
    if at >= len(lines) or (opening := _DOCSTRING.match(lines[at])) is None:
        return None
    quotes, last = opening[1], at
    rest = lines[at][opening.end() :]
    while quotes not in rest:
        last += 1
        if last == len(lines):
            return None
        rest = lines[last]
    return at, last + 1, number


def _comment_above(lines: Sequence[str], number: int, *, certain: bool) -> tuple[int, int, int] | None:
    """The comment that ends right above the definition in line ``number``, attributes and decorators apart."""
    last = number
    while last and _BETWEEN.match(lines[last - 1]):
        last -= 1
    first = last
    while first and lines[first - 1].strip() and _COMMENT.match(lines[first - 1]):
        first -= 1
    if first == last or (not certain and not any("{" in line for line in lines[number : number + 6])):
        return None
    return first, last, first


def _end(lines: Sequence[str], number: int, after: int) -> int:
    """The line (exclusive) where the definition in line ``number`` ends; it goes on to ``after`` at least."""
    indent = _indent(lines[number])
    at = after if after > number else number + 1
    while at < len(lines):
        line = lines[at].strip()
        if line and _indent(lines[at]) <= indent:
            if line[0] in "})]" or line == "end" or line.startswith("end "):
                at += 1
                if line.endswith(("{", ":", ",")):
                    continue  # a closing bracket of the signature
                return at
            if line[0] != "{":
                break
        at += 1
    while at > number + 1 and not lines[at - 1].strip():
        at -= 1
    return at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _said(lines: Sequence[str]) -> str:
    """The first paragraph of a comment without its marks; empty where it says nothing of what is defined."""
    words: list[str] = []
    for line in lines:
        plain = _MARKS.sub("", _QUOTES.sub("", line.strip())).strip()
        if _STOPS.match(plain) or (not plain and words):
            break
        words += plain.split()
    comment = " ".join(words)
    return "" if _NO_WORDS.search(comment) or len(words) > _MOST_WORDS else comment
