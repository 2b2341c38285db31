"""Blocks measured in tokens, and cut finer where they are over the limit: sentences, lines, words, characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from diffembed.errors import InputError
from diffembed.text.blocks import LINE, Unit, split_at
from diffembed.text.readers import TextKind
from diffembed.text.sentences import safe_cut, safe_cut_after, sentences, trimmed

CountTokens = Callable[[Sequence[str]], Sequence[int]]

_CHARACTERS_PER_TOKEN = 12
"""A block this many times longer than the token limit is cut before it is tokenized: some tokenizers need quadratic
time for a word of a million letters."""
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a chunk may be. Use :meth:`of`.

    Attributes:
        count_tokens: tokens of each of some texts as the model reads them (``Encoder.count_tokens``).
        max_tokens: of a chunk, with those that the model puts around every text.
        around: how many those are.
    """

    count_tokens: CountTokens
    max_tokens: int
    around: int

    @classmethod
    def of(cls, count_tokens: CountTokens, max_tokens: int) -> Limit:
        """Raises ``InputError`` where ``max_tokens`` is not positive."""
        if max_tokens < 1:
            raise InputError(f"chunks of {max_tokens} tokens: give a positive number, 256 for instance")
        return cls(count_tokens, max_tokens, int(count_tokens([""])[0]))

    @property
    def room(self) -> int:
        """Tokens of text in a chunk."""
        return max(1, self.max_tokens - self.around)

    def measure(self, text: str, units: Iterable[Unit]) -> list[Unit]:
        """Fill in ``tokens`` (at least 1) and ``silent``, and return the units.

        Very long ones are taken as over the limit without tokenizing them.
        """
        measured = list(units)
        asked = []
        for unit in measured:
            unit.tokens, unit.silent = 1, trimmed(text, unit.start, unit.end) is None
            length = unit.end - unit.start - text.count("\r\n", unit.start, unit.end)  # whatever ends its lines
            if length > _CHARACTERS_PER_TOKEN * self.max_tokens and not unit.silent:
                unit.tokens = self.room + 1
            elif not unit.silent:
                asked.append(unit)
        counts = self.count_tokens([text[unit.start : unit.end] for unit in asked]) if asked else []
        for unit, count in zip(asked, counts, strict=True):
            unit.tokens, unit.silent = max(1, int(count) - self.around), int(count) <= self.around
        return measured


def within(text: str, kind: TextKind, units: Iterable[Unit], limit: Limit) -> list[Unit]:
    """Measured units, those over the limit as smaller ones that cover them and (measured one by one) keep it."""
    return [part for unit in units for part in _small_enough(text, kind, unit, limit)]


def _small_enough(text: str, kind: TextKind, unit: Unit, limit: Limit) -> list[Unit]:
    if unit.tokens <= limit.room:
        return [unit]
    parts = [unit]
    for cut in (_cut_sentences, _cut_lines, _cut_words, _cut_characters):
        if all(part.tokens <= limit.room for part in parts):
            break
        finer: list[Unit] = []
        for part in parts:
            finer += [part] if part.tokens <= limit.room else cut(text, kind, part, limit)
        limit.measure(text, [part for part in finer if part.tokens == 0])
        parts = _merged(finer, limit.room)
    while any(part.tokens > limit.room and part.end - part.start > 1 for part in parts):
        halves: list[Unit] = []
        for part in parts:
            whole = part.tokens <= limit.room or part.end - part.start < 2
            halves += [part] if whole else halved(text, part)
        parts = halves
        limit.measure(text, [part for part in parts if part.tokens == 0])
    parts[0].heading, parts[0].must_begin = unit.heading, unit.must_begin
    return parts


def halved(text: str, unit: Unit) -> list[Unit]:
    """A unit of two characters or more as two, cut in the middle of no visible character if that can be had."""
    middle = (unit.start + unit.end) // 2
    safe = safe_cut(text, middle, unit.start)
    if safe <= unit.start:
        safe = safe_cut_after(text, middle + 1, unit.end, unit.start)
    return split_at(unit.start, unit.end, [safe if safe < unit.end else middle])


def _merged(parts: list[Unit], room: int) -> list[Unit]:
    """Neighbouring small parts as one, as long as the sum of their tokens keeps the limit."""
    out: list[Unit] = []
    for part in parts:
        if out and out[-1].tokens + part.tokens <= room:
            out[-1].end = part.end
            out[-1].tokens += part.tokens
            out[-1].silent = out[-1].silent and part.silent
        else:
            out.append(part)
    return out


def sentence_starts(text: str, kind: TextKind, start: int, end: int) -> list[int]:
    """Where the sentences of a part of a text begin (in code: the lines)."""
    return [start + first for first, _ in sentences(text[start:end], kind)]


def _cut_sentences(text: str, kind: TextKind, unit: Unit, _: Limit) -> list[Unit]:
    return split_at(unit.start, unit.end, sentence_starts(text, kind, unit.start, unit.end))


def _cut_lines(text: str, _: TextKind, unit: Unit, __: Limit) -> list[Unit]:
    return split_at(unit.start, unit.end, (match.end() for match in LINE.finditer(text, unit.start, unit.end)))


def _cut_words(text: str, _: TextKind, unit: Unit, __: Limit) -> list[Unit]:
    return split_at(unit.start, unit.end, (match.end() for match in _BLANKS.finditer(text, unit.start, unit.end)))


def _cut_characters(text: str, _: TextKind, unit: Unit, limit: Limit) -> list[Unit]:
    cuts: list[int] = []
    at = unit.start
    end = at + len(text[at : unit.end].rstrip())  # blanks stay with the last piece, however a line ends
    while end - at > limit.max_tokens:
        cut = safe_cut(text, at + limit.max_tokens, at)
        at = cut if cut > at else at + limit.max_tokens
        cuts.append(at)
    return split_at(unit.start, unit.end, cuts)
