"""Questions that a document asks and answers itself: what a model can learn from text that nobody has labelled.

    heading    the heading of a section, with the document's title as a person would add it -> the section
    question   a sentence that ends in a question mark, a heading of a FAQ -> the passage that follows
    lead       the first sentence of a section, or of a text without headings -> the rest of it
    code       what a docstring or comment says of a definition -> the definition without it (``own_code.py``)

Everything follows from the text alone: nothing is drawn, no model is asked.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from diffembed.data.own_code import documented_definitions
from diffembed.text.blocks import marked_up_blocks
from diffembed.text.headings import heading_levels, heading_paths
from diffembed.text.readers import SourceText
from diffembed.text.sentences import Span, sentences, trimmed

Origin = Literal["heading", "question", "lead", "code"]

_LEAST_ANSWER = 15  # words of an answer, the question's own not counted
_LEAST_AFTER_LEAD = 20
_NEAR, _FIRST = 1500, 4  # characters and sentences of a stretch in which its first running one stands
_LEAST_TITLED = 25  # words under a line of plain text that is taken for a heading
_MOST_HEADING = 16
_LEAD = (5, 30)  # words of a first sentence that can stand for its section
_QUESTION = (4, 30)
_ANSWER_CHARACTERS = 1800  # of the passage after a question inside a text

_WORD = re.compile(r"[^\W_]+(?:['’_-][^\W_]+)*")
_DENSE = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")  # scripts without blanks
_PARTS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}|[^\W\d_a-zA-Z]{3,}")  # of names too: two in CMakeLists, none in CMP0083
_FENCED = re.compile(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<!--.*?-->", re.DOTALL), " "),
    (re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)"), r"\1"),  # [text](address)
    (re.compile(r"\[([^\[\]]+)\]\[[^\[\]]*\]"), r"\1"),  # [text][name]
    (re.compile(r":[\w:+-]+:`([^`<]*?)\s*(?:<[^`>]*>)?`"), r"\1"),  # :role:`text <target>`
    (re.compile(r"`+([^`]*?)(?:\s*<[^`>]*>)?`+_{0,2}"), r"\1"),
    (re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>"), " "),
    (re.compile(r"(?<![^\s(\[\"'])[*_]{1,3}(?=\w)|(?<=[\w.!?])[*_]{1,3}(?![^\s.,;:!?)\]\"'])"), ""),
    (re.compile(r"\{#[\w-]+\}|[¶\ufffc]"), " "),
)
_HEADING_MARKS = re.compile(r"^#{1,6}\s+|\s+#+$|[\s:]+$")
_HEADING_NUMBER = re.compile(r"^(?:\d+(?:\.\d+)+\.?|\d+\.)\s+(?=\S)")
_PROSE = re.compile(r"[^\W_]|[\"'“‘«„(\[`*_:]")  # how a sentence begins; lists, tables and directives do not
_NOT_PROSE = re.compile(r"(?:\.\. |[-*+•|>] |\d{1,3}[.)] |```|~~~|:[\w -]+: |\$ )")
_INDENTED = re.compile(r"[ \t]{2}|\t|[-*+•|>] |\d{1,3}[.)] ")
_ASKS = re.compile(
    r"(?:how|what|why|when|where|which|who|whose|can|could|do|does|did|is|are|should|will|would|may|must)\b.*\s",
    re.IGNORECASE,
)
_QUESTION_MARKS = ("?", "？", "؟")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and where its answer stands in the document's text.

    Attributes:
        answer: ``(start, end)`` in characters, the question's own words included where they stand in it.
        words: where these stand, inside the answer or just before it; ``(0, 0)``: nowhere in it. A test of search
            takes them out, as finding the words of a question in its answer is no test.
    """

    query: str
    answer: Span
    words: Span
    origin: Origin


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a text under one heading, up to the next of whatever rank.

    Attributes:
        above: the headings that it stands under, the highest first.
        heading: its own; empty for what stands before the first.
        start: where the heading begins; ``body``: where the text under it does.
    """

    above: tuple[str, ...]
    heading: str
    start: int
    body: int
    end: int


def ask(source: SourceText, name: str) -> list[Asked]:
    """The questions of a document, in the order of their answers; of two alike the first.

    Args:
        name: what to call a document that has no title (see ``title_of``).

    >>> text = "# Barn owls\\n\\nOwls hunt at night, by ear more than by eye. " + "They turn their heads. " * 8
    >>> for asked in ask(SourceText.plain(text, "markdown"), "owls"):
    ...     print(asked.origin, repr(asked.query), asked.answer, asked.words)
    heading 'Barn owls' (0, 241) (0, 13)
    lead 'Owls hunt at night, by ear more than by eye.' (13, 241) (13, 57)
    """
    if source.kind == "records":
        found = [
            asked
            for start, end in pairwise((0, *source.breaks, len(source.text)))
            for asked in _lead(source, start, end)
        ]
    elif source.kind == "code":
        found = [Asked(plain(d.comment), d.span, d.words, "code") for d in documented_definitions(source.text)]
        found = [a for a in found if size(a.query) >= _LEAD[0]]
    else:
        found = list(_of_sections(source, name))
    seen: set[str] = set()
    unique = [a for a in found if not (key(a.query) in seen or seen.add(key(a.query)))]  # type: ignore[func-returns-value]
    return sorted(unique, key=lambda a: (a.answer, a.words))


def title_of(source: SourceText, name: str) -> str:
    """The first heading of a document, if it stands near its beginning; else ``name``.

    >>> title_of(SourceText.plain("Intro.\\n\\nWorker threads\\n==============\\n\\nText.", "rst"), "workers")
    'Worker threads'
    """
    if source.kind in ("code", "records"):
        return name
    first = next((s for s in sections(source) if s.heading), None)
    return first.heading if first and first.start < 400 else name


def sections(source: SourceText) -> list[Section]:
    """The sections of a text that is no code: by its headings or, where plain text has none, by its title lines."""
    text = source.text
    units = marked_up_blocks(text, fences=source.kind != "rst")
    marks = [unit for unit in units if unit.heading]
    levels = heading_levels(text[mark.start : mark.end] for mark in marks)
    if not marks and source.kind == "prose":
        for unit, following in pairwise(units):
            below = text[following.start : following.end]
            if _is_title(text[unit.start : unit.end]) and size(below) >= _LEAST_TITLED:
                marks.append(unit)
                levels.append(1)
    found = [Section((), "", 0, 0, marks[0].start if marks else len(text))]
    words = [heading_words(text[mark.start : mark.end]) for mark in marks]
    ends = [*(mark.start for mark in marks), len(text)][1:]
    for mark, heading, path, end in zip(marks, words, heading_paths(words, levels), ends, strict=True):
        found.append(Section(path[:-1] if heading else path, heading, mark.start, mark.end, end))
    return [s for s in found if text[s.start : s.end].strip()]


def key(query: str) -> str:
    """The same for questions that differ only in case, spacing and punctuation.

    >>> key("What is  `X`?") == key("what is x")
    True
    """
    return " ".join(_WORD.findall(query.casefold())) or query.strip()


def plain(text: str) -> str:
    """The words of a marked-up line.

    >>> plain("See :ref:`the guide <guide>`, [Owls](owls.md) and ``x_y``"), plain("**Note** _this_ snake_case")
    ('See the guide, Owls and x_y', 'Note this snake_case')
    """
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def heading_words(heading: str) -> str:
    """The words of a heading.

    >>> heading_words("## `fs.open(path[, flags])` ##"), heading_words("Scope\\n====="), heading_words("2.1. C++")
    ('fs.open(path[, flags])', 'Scope', 'C++')
    """
    lines = [line.strip() for line in heading.splitlines() if _WORD.search(line)]
    return _HEADING_NUMBER.sub("", plain(" ".join(_HEADING_MARKS.sub("", line) for line in lines)))


def _of_sections(source: SourceText, name: str) -> Iterator[Asked]:
    title = title_of(source, name)
    for section in sections(source):
        body = trimmed(source.text, section.body, section.end)
        if body is None:
            continue
        query = _heading_query(section, title)
        if query and size(source.text[slice(*body)]) >= _LEAST_ANSWER:
            yield Asked(query, (section.start, body[1]), (section.start, section.body), "heading")
        yield from _lead(source, *body)
        yield from _questions(source, *body)


def _heading_query(section: Section, title: str) -> str:
    """What someone who looks for a section would type: its heading, and where that is needed what it is about."""
    heading = section.heading
    letters = sum(map(str.isalpha, heading))
    if letters < 3 or letters < len(heading) / 3 or size(heading) > _MOST_HEADING:
        return ""  # a number, a date, a version
    # Forms vary by content, so that a model learns no one of them.
    choice = zlib.crc32(f"{title}\n{heading}".encode("utf-8", "surrogatepass"))
    about = section.above[-1] if section.above and choice % 3 == 0 else title
    if key(heading) in key(about) or key(about) in key(heading):
        about = title if key(about) in key(heading) and key(title) not in key(heading) else ""
    if not about or (is_question(heading) and choice % 2) or (size(heading) >= 5 and choice % 4 == 0):
        query = heading
    else:
        forms = (f"{about} {heading}", f"{heading} {about}", f"{heading}: {about}", f"{about}: {heading}")
        query = forms[choice // 12 % len(forms)]
    return query if len(_PARTS.findall(query)) > 1 or _DENSE.search(query) else ""  # a name alone asks nothing


def is_question(text: str) -> bool:
    """Whether a heading asks.

    >>> [is_question(t) for t in ("How do I undo a commit", "Why?", "Howling", "如何安装？", "Is")]
    [True, True, False, True, False]
    """
    return text.rstrip().endswith(_QUESTION_MARKS) or _ASKS.match(text) is not None


def _lead(source: SourceText, start: int, end: int) -> Iterator[Asked]:
    """The first sentence of a stretch, for the rest."""
    text = source.text
    if (span := trimmed(text, start, end)) is None:
        return
    for words in _sentences(text, span[0], min(span[1], span[0] + _NEAR))[:_FIRST]:
        sentence = text[slice(*words)]
        asked = plain(sentence)
        if not _is_sentence(sentence):
            continue  # a directive or a note may stand before it
        if (
            _LEAD[0] <= size(asked) <= _LEAD[1]
            and not asked.endswith((":", *_QUESTION_MARKS))
            and size(text[words[1] : span[1]]) >= _LEAST_AFTER_LEAD
        ):
            yield Asked(asked, (words[0], span[1]), words, "lead")
        return


def _questions(source: SourceText, start: int, end: int) -> Iterator[Asked]:
    """Questions inside a stretch; the passage up to the next one answers."""
    text = source.text
    if not any(mark in text[start:end] for mark in _QUESTION_MARKS):
        return
    spans = _sentences(text, start, end)
    asking = [s for s in spans if text[s[1] - 1] in _QUESTION_MARKS and _is_sentence(text[slice(*s)])]
    for words, following in zip(asking, [*(s[0] for s in asking), end][1:], strict=True):
        answer = trimmed(text, words[1], min(following, words[1] + _ANSWER_CHARACTERS))
        asked = plain(text[slice(*words)])
        if answer and _QUESTION[0] <= size(asked) <= _QUESTION[1] and size(text[slice(*answer)]) >= _LEAST_ANSWER:
            yield Asked(asked, (words[0], answer[1]), words, "question")


def _sentences(text: str, start: int, end: int) -> list[Span]:
    """The sentences of a stretch that are not in code or lists, which are fenced, indented or marked."""
    fences = [(start + m.start(), start + m.end()) for m in _FENCED.finditer(text[start:end])]
    found = []
    for first, last in sentences(text[start:end], "prose"):
        words = (start + first, start + last)
        line = text[text.rfind("\n", 0, words[0]) + 1 : words[1]]
        if not _INDENTED.match(line) and not any(a < words[1] and words[0] < b for a, b in fences):
            found.append(words)
    return found


def _is_sentence(text: str) -> bool:
    """Whether this is running text: no item of a list, no table, directive or code."""
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return bool(_PROSE.match(text)) and not _NOT_PROSE.match(text) and letters >= 0.75 * len(text)


def _is_title(paragraph: str) -> bool:
    """A line of plain text that names what stands below it."""
    line = paragraph.strip()
    return (
        "\n" not in line
        and 0 < len(line) <= 60
        and line[-1] not in ".,;:!。、！”’)]}>"
        and (line[0].isupper() or not line[0].isascii() or is_question(line))
        and sum(c.isalpha() or c.isspace() for c in line) >= 0.8 * len(line)
    )


def size(text: str) -> int:
    """About how many words a text has; two characters of a script without blanks count as one.

    >>> size("An owl's ears"), size("夜に狩りをする")
    (3, 3)
    """
    dense = len(_DENSE.findall(text))
    return len(_WORD.findall(_DENSE.sub(" ", text) if dense else text)) + dense // 2


def without(text: str, spans: Sequence[Span]) -> tuple[str, list[tuple[int, int]]]:
    """The text without some stretches of it, and where it was cut.

    Returns:
        The text, and for every cut ``(offset in the old text after it, characters gone up to there)``, ascending.

    >>> without("one two three", [(4, 8)])
    ('one three', [(8, 4)])
    """
    kept, gone, at = [], [], 0
    total = 0
    for start, end in sorted(spans):
        start = max(start, at)
        if end <= start:
            continue
        kept.append(text[at:start])
        total += end - start
        gone.append((end, total))
        at = end
    return "".join([*kept, text[at:]]), gone
