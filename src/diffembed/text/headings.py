"""Headings of marked-up text: their words, their levels, and what stands under which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SAID = r"[^#=\-~^\"'`*+:._\s]"  # what is no mark
_WORDS = re.compile(rf"{_SAID}(?:.*{_SAID})?", re.DOTALL)
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]")


def heading_text(heading: str) -> str:
    """The words of a heading, without the marks that make it one.

    >>> heading_text("## Detailed design ##"), heading_text("Scope\\n====="), heading_text("C++ `std`")
    ('Detailed design', 'Scope', 'C++ `std')
    """
    return " ".join(words[0] for line in heading.splitlines() if (words := _WORDS.search(line)))


def heading_levels(headings: Iterable[str]) -> list[int]:
    """The level of each heading of a document, from 1: the count of its ``#``, or the turn in which a line first came.

    reST has no fixed order of underlines (and overlines): what appears first is the highest.

    >>> heading_levels(["# Owls", "### Ears", "# Bats"]), heading_levels(["A\\n---", "B\\n~~~", "C\\n---"])
    ([1, 3, 1], [1, 2, 1])
    """
    ranks: list[str] = []
    levels = []
    for heading in headings:
        rank = _rank(heading)
        if rank not in ranks:
            ranks.append(rank)
        levels.append(len(rank) if rank[0] == "#" else ranks.index(rank) + 1)
    return levels


def heading_paths(words: Sequence[str], levels: Sequence[int]) -> list[tuple[str, ...]]:
    """For each heading the ones it stands under, the highest first, and itself last; one without words is no step.

    >>> heading_paths(["Owls", "Ears", "", "Bats"], [1, 3, 3, 1])
    [('Owls',), ('Owls', 'Ears'), ('Owls',), ('Bats',)]
    """
    paths = []
    path: list[tuple[int, str]] = []
    for heading, level in zip(words, levels, strict=True):
        path = [(above, said) for above, said in path if above < level]
        if heading:
            path.append((level, heading))
        paths.append(tuple(said for _, said in path))
    return paths


def _rank(heading: str) -> str:
    """What tells headings of one level from others: ``##``, or the characters that underline (and overline) it."""
    if found := _ATX.match(heading):
        return found[1]
    lines = [line.strip() for line in heading.strip().splitlines()]
    over = lines[0][0] if len(lines) > 2 and lines[0] and lines[0][0] == lines[-1][0] else ""
    return f"{over}{lines[-1][0]}_" if lines[-1] else "_"
