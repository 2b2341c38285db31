"""Sentences with exact character offsets, for marking the best one of a hit and for cutting long paragraphs.

Rules, no model: Latin, Cyrillic, Greek, Arabic and Indic full stops need a blank after them, CJK ones do not. A blank
line, a list item and a heading line end a sentence too. In code a line is a sentence.
"""

from __future__ import annotations

import re
import unicodedata

from diffembed.text.readers import TextKind

Span = tuple[int, int]

_CLOSERS = "\"'”’»›)\\]}』」】〉》）］｝〞〟*_`"
_STOPS = ".!?…؟۔।॥։።"
_END = re.compile(  # possessive, and a run of stops is begun at its first: a million of them take no second look
    rf"(?P<cjk>[。！？．｡]+[{_CLOSERS}]*)"
    rf"|(?P<stop>(?<![{_STOPS}])[{_STOPS}]++[{_CLOSERS}]*+)(?=\s|$)"
    r"|(?P<gap>(?>\r\n|\n|\r)(?=[ \t]*+(?:\r\n|\n|\r|[-*+•] |\d{1,3}[.)] |#{1,6} |>|\|)))"
)
_HEADING_LINE = re.compile(r"#{1,6} [^\r\n]*")
_LAST_WORD = re.compile(r"[^\s(\[“\"'‘«„]+$")
_NEXT_WORD = re.compile(r"\s*[\"'“‘«„(\[*_`]*(\S)")
_ABBREVIATIONS_LISTED = """
mr mrs ms dr prof st sr jr vs etc cf al fig figs eq no nos vol ed eds pp p ch sec e.g i.e approx dept est
inc ltd co corp gen col capt lt sgt rev hon gov jan feb mar apr jun jul aug sep sept oct nov dec bzw z.b
d.h usw ca nr bd evtl ggf sog vgl m mme mlle mm sra srta ud uds pág págs ej núm aprox т.е т.д т.п др г гг
"""
_ABBREVIATIONS = frozenset(_ABBREVIATIONS_LISTED.split())


def sentences(text: str, kind: TextKind = "prose") -> list[Span]:
    """``(start, end)`` of each sentence, blanks around it left out, in order; every other character is inside one.

    >>> text = "Dr. Ito said: “Go.” 彼は走った。雨だ！ Version 3.5 works."
    >>> [text[start:end] for start, end in sentences(text)]
    ['Dr. Ito said: “Go.”', '彼は走った。', '雨だ！', 'Version 3.5 works.']
    """
    ends = _line_ends(text) if kind == "code" else _prose_ends(text)
    spans = []
    start = 0
    for end in (*ends, len(text)):
        span = trimmed(text, start, end)
        if span is not None:
            spans.append(span)
        start = end
    return spans


def trimmed(text: str, start: int, end: int) -> Span | None:
    """``text[start:end]`` without the blanks around it, or ``None`` if nothing else is there.

    >>> trimmed("  a b ", 0, 6), trimmed("   ", 0, 3)
    ((2, 5), None)
    """
    piece = text[start:end].lstrip()
    first = end - len(piece)
    return (first, first + len(piece.rstrip())) if piece else None


def safe_cut(text: str, at: int, least: int = 0) -> int:
    """The nearest place at or before ``at`` that cuts no visible character in two.

    Keeps combining marks, variation selectors, joined emoji (zero-width joiner), skin tones, pairs of regional
    indicators (flags) and CRLF together. Looks back no further than ``least`` (itself such a place, or the start of
    what is cut), and returns it if there is no place after it.

    >>> family = "ok 👩\\u200d👩\\u200d👧"
    >>> safe_cut(family, 5), safe_cut("cafe\\u0301", 4), safe_cut("plain", 3), safe_cut("a" + "\\u0301" * 9, 8, 4)
    (3, 3, 3, 4)
    """
    while least < at < len(text) and _joined(text, at, least):
        at -= 1
    return at


def safe_cut_after(text: str, at: int, most: int, least: int = 0) -> int:
    """The nearest place at or after ``at`` that cuts no visible character in two, ``most`` if there is none before it.

    ``least`` is such a place before ``at``, or the start of what is cut.

    >>> safe_cut_after("cafe\\u0301s", 4, 6)
    5
    """
    while at < most and _joined(text, at, least):
        at += 1
    return at


def _joined(text: str, at: int, least: int) -> bool:
    before, after = text[at - 1], text[at]
    if before == "\r" and after == "\n":
        return True
    if before < "\u0300" and after < "\u0300":
        return False
    if after == "\u200d" or before == "\u200d":
        return True
    if unicodedata.category(after) in ("Mn", "Me", "Mc") or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    if _is_flag(before) and _is_flag(after):
        run = 0
        while run < at - least and _is_flag(text[at - 1 - run]):
            run += 1
        return run % 2 == 1
    return False


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _line_ends(text: str) -> list[int]:
    return [match.end() for match in re.finditer(r"\r\n|\n|\r", text)]


def _prose_ends(text: str) -> list[int]:
    ends = [match.end() for match in _END.finditer(text) if match.lastgroup != "stop" or _is_full_stop(text, match)]
    # a heading line is a sentence of its own, whatever follows it
    ends += [m.end() for m in _HEADING_LINE.finditer(text) if m.start() == 0 or text[m.start() - 1] in "\r\n"]
    return sorted(set(ends))


def _is_full_stop(text: str, match: re.Match[str]) -> bool:
    """Whether a stop followed by a blank ends the sentence: not after abbreviations, initials and list numbers."""
    if match["stop"][0] != "." or match["stop"].startswith(".."):
        return True
    following = _NEXT_WORD.match(text, match.end())
    if following is None:
        return True
    word_match = _LAST_WORD.search(text, max(0, match.start() - 24), match.start())
    word = word_match[0] if word_match else ""
    if len(word) == 1 and word.isalpha() and word.isupper():
        return False
    if word.isdigit() and len(word) <= 3:
        # "1. First" at the start of a line numbers an item; "in 1999. Then" ends a sentence
        before = match.start() - len(word)
        while before and text[before - 1].isspace() and text[before - 1] not in "\r\n":
            before -= 1
        if not before or text[before - 1] in "\r\n":
            return False
    if word.lower() in _ABBREVIATIONS:
        return False
    return not following[1].islower()
