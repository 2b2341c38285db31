"""Needle: which of a hundred long pieces of prose holds the fact that this question asks for?

LongEmbed's second synthetic task (arXiv 2404.12096): a fact is put at a random place of long prose, and a question asks
for it. The facts and questions are ours (``needle.toml``: ten fields, ten facts each), and so is the choice of prose:
chapters of novels and treatises that are in the public domain. Unlike passkey, the text around the fact means
something, and a model that blends the whole text into one vector loses the fact in it.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffembed.data.jsonl import COMPRESSED, read_objects
from diffembed.errors import InputError
from diffembed.evaluation.generated.draws import Draws
from diffembed.evaluation.generated.haystacks import (
    DOCUMENTS,
    LENGTHS,
    QUERIES,
    Haystack,
    Haystacks,
    Span,
    build,
    check_lengths,
    insert,
)
from diffembed.text.sentences import sentences

# Characters of the published documents.
CHARACTERS = {
    256: 1013,
    512: 2010,
    1024: 4070,
    2048: 8454,
    4096: 17395,
    8192: 35203,
    16384: 72055,
    32768: 141770,
}
_FACTS = Path(__file__).parent / "needle.toml"
_BOOKS = Path("samples") / "books"
_LEAST = 400  # characters of a text that is prose and no title page


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement, the question that it answers, and what it is about."""

    field: str
    text: str
    question: str


@dataclass(frozen=True, slots=True)
class Prose:
    """Long text to hide facts in.

    Attributes:
        source: where it was read.
        sentences: all of it in order, with single blanks inside.
    """

    source: str
    sentences: tuple[str, ...]

    @property
    def characters(self) -> int:
        """With a blank after each sentence."""
        return sum(map(len, self.sentences)) + len(self.sentences)

    def sha256(self) -> str:
        """Of the text."""
        return hashlib.sha256("\n".join(self.sentences).encode()).hexdigest()


@cache
def facts() -> tuple[Fact, ...]:
    """All of ``needle.toml``, field by field.

    >>> len(facts()), len({fact.field for fact in facts()}), facts()[10].question
    (100, 10, 'What is the deepest lake in the world?')
    """
    fields = tomllib.loads(_FACTS.read_text(encoding="utf-8"))
    return tuple(Fact(field, text, question) for field, rows in fields.items() for text, question in rows)


def read_prose(source: Path | None = None) -> Prose:
    """Prose of a ``.txt`` file, a ``.jsonl`` file (``.gz``, ``.zst``) with a ``text`` a row, or a folder of either.

    Args:
        source: ``None`` takes ``samples/books`` of the current folder or of the checkout that this module stands in.

    Raises:
        InputError: nothing there, or nothing that can be read.
    """
    found = _default_prose() if source is None else source
    texts = [text for text in _texts(found) if len(text) >= _LEAST]
    if not texts:
        raise InputError(f"{found} holds no prose; give a .txt or .jsonl file, or a folder of them (--prose)")
    whole = [" ".join(text[start:end].split()) for text in texts for start, end in sentences(text)]
    return Prose(str(found), tuple(whole))


def needles(prose: Prose, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Haystacks:
    """All lengths (see :func:`needle`)."""
    digest = prose.sha256()
    return Haystacks(
        "needle",
        check_lengths(lengths),
        lambda tokens: needle(tokens, prose, seed),
        {"seed": seed, "prose": digest[:16]},
        {"prose": prose.source, "prose_sha256": digest},
    )


def needle(tokens: int, prose: Prose, seed: int = 0) -> Haystack:
    """The documents and questions of one length.

    Every document is a stretch of the prose, whole sentences of about the published number of characters, from a random
    sentence on; at its end the prose begins again. The facts asked for are five of each field, the same at all lengths.

    Args:
        tokens: one of ``LENGTHS``.
        prose: what the facts stand in.
        seed: another one gives other stretches, places and questions.

    Raises:
        InputError: a length that was not published, prose that is shorter than one document.
    """
    check_lengths([tokens])
    size = CHARACTERS[tokens]
    if prose.characters < size:
        raise InputError(
            f"{prose.source} has {prose.characters:,} characters of prose, a document of {tokens:,} tokens needs "
            f"{size:,}; give more prose (--prose) or leave that length out"
        )
    chosen = _order(seed)
    draws = Draws("needle", tokens, seed)
    depths = draws.depths(QUERIES) + draws.depths(DOCUMENTS - QUERIES)
    texts: list[str] = []
    places: list[Span] = []
    for fact, depth in zip(chosen, depths, strict=True):
        stretch = _stretch(prose, draws.below(len(prose.sentences)), size - len(fact.text) - 1)
        text, place = insert(stretch, fact.text, depth)
        texts.append(text)
        places.append(place)
    asked = chosen[:QUERIES]
    return build("needle", tokens, texts, places, [fact.question for fact in asked], [fact.field for fact in asked])


def _order(seed: int) -> list[Fact]:
    """All facts in random order, with as many of every field among those that are asked for."""
    draws = Draws("needle facts", seed)
    asked: list[Fact] = []
    others: list[Fact] = []
    fields = list(dict.fromkeys(fact.field for fact in facts()))
    for field in fields:
        mixed = draws.shuffled([fact for fact in facts() if fact.field == field])
        asked += mixed[: QUERIES // len(fields)]
        others += mixed[QUERIES // len(fields) :]
    return draws.shuffled(asked) + draws.shuffled(others)


def _stretch(prose: Prose, first: int, characters: int) -> list[str]:
    """Sentences from number ``first`` on, as many as are nearest to so many characters; the last one may be cut."""
    taken: list[str] = []
    number, left = first, characters
    while left > 0:
        sentence = prose.sentences[number % len(prose.sentences)]
        taken.append(sentence if len(sentence) <= left else sentence[:left].rpartition(" ")[0])
        left -= len(sentence) + 1
        number += 1
    return [sentence for sentence in taken if sentence]


def _default_prose() -> Path:
    places = [_BOOKS, Path(__file__).parents[4] / _BOOKS]
    for place in places:
        if place.is_dir():
            return place
    raise InputError(
        f"needle hides its facts in prose, and {_BOOKS} of a checkout of diffembed is not here; name a .txt or .jsonl "
        "file, or a folder of them, with long texts that you may use: --prose PATH"
    )


def _texts(source: Path) -> Iterator[str]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file() and _kind(path):
                yield from _texts(path)
        return
    kind = _kind(source)
    if not source.is_file() or not kind:
        problem = "is neither .txt nor .jsonl" if source.is_file() else "does not exist"
        raise InputError(f"{source} {problem}; give prose as a .txt or .jsonl file, or a folder of them")
    if kind == ".txt":
        try:
            yield source.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{source} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
        return
    for where, row in read_objects(source):
        text = row.get("text")
        if not isinstance(text, str):
            raise InputError(f'{where} has no "text" that is a string; every row of prose needs one')
        yield text


def _kind(path: Path) -> str:
    """``.txt``, ``.jsonl`` (packed or not), or nothing for files that hold no prose."""
    packed = path.suffix in COMPRESSED
    suffix = path.with_suffix("").suffix if packed else path.suffix
    return suffix if suffix == ".jsonl" or (suffix == ".txt" and not packed) else ""
