"""The texts of ``stories/*.toml`` and the marks in them, from which documents are made.

A file holds one language; each of its tables is a kind of document: how such a thing is named, an opening that names
it, and five parts that do not, each with the question that it answers. The marks:

- ``{name}``: the name; ``{stem}`` and ``{first}``, in names, what it is made of
- ``[red|green]``: one of them
- ``{3..9}``: a whole number, both ends included
- ``<she|he>``: the same one throughout
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffembed.errors import InputError
from diffembed.evaluation.generated.draws import Draws

_FOLDER = Path(__file__).parent / "stories"
_MARK = re.compile(r"\[(?P<choice>[^\]]+)\]|\{(?P<low>\d+)\.\.(?P<high>\d+)\}|<(?P<form>[^<>]+\|[^<>]+)>")


@dataclass(frozen=True, slots=True)
class Story:
    """A kind of document in one language.

    Attributes:
        kind: ``company``, ``person``, ...
        name, opening: with marks.
        parts: text and question of each, with marks.
        first_names: of women and of men; empty where it has none.
    """

    kind: str
    name: str
    opening: str
    parts: tuple[tuple[str, str], ...]
    first_names: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Language:
    """All stories of a language, and the halves that its invented names are made of."""

    code: str
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    stories: tuple[Story, ...]

    def stems(self, draws: Draws) -> list[str]:
        """Every name that the halves give, each once, in random order."""
        return draws.shuffled(sorted({start + end for start in self.starts for end in self.ends}))


def languages() -> list[str]:
    """Codes of the languages there are.

    >>> languages()
    ['de', 'en', 'es', 'fr', 'zh']
    """
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def read_language(code: str) -> Language:
    """One of them. Raises ``InputError`` for a language that there is no file of."""
    path = _FOLDER / f"{code}.toml"
    if code not in languages():
        raise InputError(f"there are no texts in language {code!r}; choose among {', '.join(languages())}")
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    stories = tuple(_story(kind, table) for kind, table in values.items() if isinstance(table, dict))
    return Language(code, tuple(values["starts"].split()), tuple(values["ends"].split()), stories)


def _story(kind: str, table: dict[str, Any]) -> Story:
    parts = tuple((text, question) for text, question in table["parts"])
    return Story(kind, table["name"], table["opening"], parts, tuple(map(tuple, table.get("first_names", ()))))


def filled(text: str, draws: Draws, form: int, name: str = "") -> str:
    """A text with its marks settled.

    Args:
        form: which of two forms is meant, 0 or 1.
        name: for ``{name}``.

    >>> filled("<She|He> sailed [home|away] {3..4} times on the {name}.", Draws("x", 5), 0, "MV Fenham")
    'She sailed home 4 times on the MV Fenham.'
    """

    def settle(mark: re.Match[str]) -> str:
        if mark["choice"]:
            return draws.choice(str(mark["choice"]).split("|"))
        if mark["form"]:
            return str(mark["form"]).split("|")[form]
        low, high = int(mark["low"]), int(mark["high"])
        return str(low + draws.below(high - low + 1))

    return _MARK.sub(settle, text).replace("{name}", name)
