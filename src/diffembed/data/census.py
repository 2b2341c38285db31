"""What a corpus file holds, counted once: every line is checked, and marks are set to enter the file in the middle.

The count is what makes a corpus larger than memory readable in any order: rows and bytes of text by language in every
stretch of a few megabytes, with the mark where the stretch begins. It grows by some bytes a stretch, not with the text.
Of examples it also says which rows are bad and which repeat another.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.data.rows import Content, Mark, place, read_rows
from diffembed.errors import InputError
from diffembed.models.files import atomic_file
from diffembed.text.batching import IntArray

STRETCH_BYTES = 4 << 20  # text in a stretch, which is the finest place that a jump goes to
HELD_OUT_SHARE = 50  # one text in fifty is kept for measuring language-model loss
_FORMAT = 2  # another one where a row is judged or spelled otherwise (rows.py, examples.py): kept counts are void then
_SLOW_BYTES = 200_000_000  # files of this size are announced before they are counted
_NAMED = 3  # rows of a kind that are named
_KEYS = 1 << 16  # different rows up to which repeated ones are counted exactly; some megabytes

Report = Callable[[str], None]


def held_out(text: str | bytes) -> bool:
    """Whether a text belongs to the held-out part of a corpus (by its own UTF-8 bytes, so never by order).

    >>> [n for n in range(300) if held_out(f"text {n}")]
    [2, 232, 246, 273]
    """
    return zlib.crc32(text if isinstance(text, bytes) else text.encode()) % HELD_OUT_SHARE == 0


@dataclass(frozen=True, slots=True)
class Noted:
    """Rows that something is the matter with.

    Attributes:
        count: how many; estimated where ``about`` is true.
        first: the first of them, in words.
    """

    count: int = 0
    first: tuple[str, ...] = ()
    about: bool = False

    @property
    def number(self) -> str:
        """``1,234``, or ``about 1,234``."""
        return f"{'about ' if self.about else ''}{self.count:,}"

    @property
    def named(self) -> str:
        """The first of them, with dots where there are more."""
        return "; ".join(self.first) + ("; ..." if self.count > len(self.first) else "")

    @classmethod
    def together(cls, parts: Iterable[Noted]) -> Noted:
        """Those of several files as one."""
        found = [part for part in parts if part.count]
        first = tuple(row for part in found for row in part.first)[:_NAMED]
        return cls(sum(part.count for part in found), first, any(part.about for part in found))


class Repeats:
    """Rows whose key stood before, counted in bounded memory.

    Exact up to ``most`` different keys. Beyond, only keys that end in some zero bits are followed, a sample by content
    (so that a row and its repetitions are in it or not), and the count is the sample's times its share.
    """

    def __init__(self, most: int = _KEYS) -> None:
        self._most, self._mask = most, 0
        self._first: dict[int, int] = {}
        self._again: dict[int, int] = {}
        self._named: list[tuple[int, int]] = []

    def add(self, key: int, number: int) -> None:
        """Row ``number`` has this key."""
        if key & self._mask:
            return
        if key in self._first:
            self._again[key] = self._again.get(key, 0) + 1
            if len(self._named) < _NAMED:
                self._named.append((number, self._first[key]))
            return
        self._first[key] = number
        if len(self._first) > self._most:
            self._mask = 2 * self._mask + 1
            self._first, self._again = (
                {key: value for key, value in known.items() if not key & self._mask}
                for known in (self._first, self._again)
            )

    def noted(self, name: Callable[[int], str]) -> Noted:
        """What was found.

        Args:
            name: of a row, by its number.
        """
        count = max(sum(self._again.values()) * (self._mask + 1), len(self._named))
        return Noted(count, tuple(f"{name(a)} as {name(b)}" for a, b in self._named), self._mask > 0)


@dataclass(frozen=True, slots=True)
class FileCount:
    """What one file holds.

    Attributes:
        marks: ``[stretches]`` where each begins.
        languages: the ``lang`` values met, an empty string for rows without.
        cells: ``[cells, 5]``: stretch, language number, 1 for held-out texts, rows, bytes of text; no empty cells.
        blank: rows without any text but white space; they are left out.
        checksum: CRC-32 of all its texts in order.
        bad: rows that are no examples; they are left out.
        repeated: examples with the query and document of another in the file.
    """

    path: Path
    marks: tuple[Mark, ...]
    languages: tuple[str, ...]
    cells: IntArray
    blank: int
    checksum: int
    content: Content = "texts"
    bad: Noted = Noted()
    repeated: Noted = Noted()

    @property
    def rows(self) -> int:
        """All rows, those that are left out too."""
        return int(self.cells[:, 3].sum()) + self.blank + self.bad.count


def count_files(
    paths: Sequence[Path], cache: Path | None = None, report: Report | None = None, *, content: Content = "texts"
) -> list[FileCount]:
    """The counts of files, taken anew only for those that are not in ``cache`` as they are now.

    Args:
        cache: a folder that keeps counts from one run to the next.
        report: told of files that take more than a few seconds.
        content: what the rows are. A bad text is an error, a bad example is counted.

    Raises:
        InputError: see ``read_rows``.
    """
    counts = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; correct the recipe's source") from error
        state = (STRETCH_BYTES, stat.st_size, stat.st_mtime_ns)
        if (path, content, state) not in _counts:  # the stages of a recipe read the same files
            _counts[path, content, state] = _count(path, content, state, cache, report)
        counts.append(_counts[path, content, state])
    return counts


_counts: dict[tuple[Path, Content, tuple[int, ...]], FileCount] = {}


def left_out(counts: Sequence[FileCount], languages: Collection[str] = ()) -> str:
    """What is not read of the rows of files, in words; empty where all are read.

    Args:
        languages: only texts with these ``lang`` values are read; empty: all.
    """
    blank = sum(count.blank for count in counts)
    other = 0
    for count in counts if languages else ():
        unnamed = [i for i, language in enumerate(count.languages) if language not in languages]
        other += int(count.cells[np.isin(count.cells[:, 1], unnamed), 3].sum())
    bad = Noted.together(count.bad for count in counts)
    parts = [f"{blank:,} are blank"] if blank else []
    parts += [f"{other:,} are of languages other than {', '.join(sorted(languages))}"] if other else []
    parts += [f"{bad.count:,} are bad"] if bad.count else []
    if not parts:
        return ""
    named = f" ({bad.named})" if bad.count else ""
    return f"of {sum(count.rows for count in counts):,} rows {' and '.join(parts)}: left out{named}"


def _count(
    path: Path, content: Content, state: tuple[int, ...], cache: Path | None, report: Report | None
) -> FileCount:
    named = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24]
    kept = cache / f"{named}{'-examples' if content == 'examples' else ''}.json" if cache else None
    key: dict[str, Any] = {"format": _FORMAT, "path": str(path.absolute()), "content": content, "state": list(state)}
    if kept and (found := _read(kept, path, key)):
        return found
    if report and state[1] > _SLOW_BYTES:
        report(f"{path}: {state[1] / 1e9:.1f} GB, checking and counting its lines")
    count = _counted(path, content)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        marks = [[mark.number, mark.offset] for mark in count.marks]
        values = {"marks": marks, "languages": count.languages, "cells": count.cells.tolist()}
        values |= {"blank": count.blank, "checksum": count.checksum}
        values |= {"bad": astuple(count.bad), "repeated": astuple(count.repeated)}
        with atomic_file(kept) as partial:
            partial.write_text(json.dumps(key | values), encoding="utf-8")
    return count


def _read(kept: Path, path: Path, key: dict[str, Any]) -> FileCount | None:
    """The count that was kept, unless the file has changed since or the count cannot be read."""
    try:
        values = json.loads(kept.read_text(encoding="utf-8"))
        if {name: values[name] for name in key} != key:
            return None
        return FileCount(
            path,
            tuple(Mark(*mark) for mark in values["marks"]),
            tuple(values["languages"]),
            np.array(values["cells"], dtype=np.int64).reshape(-1, 5),
            values["blank"],
            values["checksum"],
            key["content"],
            *(Noted(number, tuple(first), about) for number, first, about in (values["bad"], values["repeated"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _counted(path: Path, content: Content) -> FileCount:
    marks, languages = [Mark()], dict[str, int]()
    repeats, problems, bad = Repeats(), list[str](), 0
    cells: dict[tuple[int, int, int], list[int]] = {}
    checksum = blank = filled = 0
    last = Mark()
    for row in read_rows(path, content=content):
        if filled >= STRETCH_BYTES:
            marks.append(last)
            filled = 0
        last = row.end
        filled += len(row.data)
        if row.problem:
            bad += 1
            problems += [row.problem] if bad <= _NAMED else []
            continue
        if not row.data:
            blank += 1
            continue
        if content == "examples":
            repeats.add(row.key, row.end.number)
        checksum = zlib.crc32(row.data, checksum)
        language = languages.setdefault(row.language, len(languages))
        cell = cells.setdefault((len(marks) - 1, language, int(held_out(row.data))), [0, 0])
        cell[0] += 1
        cell[1] += len(row.data)
    table = np.array([[*where, *what] for where, what in cells.items()], dtype=np.int64).reshape(-1, 5)
    noted = Noted(bad, tuple(problems)), repeats.noted(lambda number: place(path, number))
    return FileCount(path, tuple(marks), tuple(languages), table, blank, checksum, content, *noted)
