"""What a corpus file holds, counted once: every line is checked, and marks are set to enter the file in the middle.

The count is what makes a corpus larger than memory readable in any order: rows and bytes of text by language in every
stretch of a few megabytes, with the mark where the stretch begins. It grows by some bytes a stretch, not with the text.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.data.rows import Mark, read_rows
from diffembed.errors import InputError
from diffembed.models.files import atomic_file
from diffembed.text.batching import IntArray

STRETCH_BYTES = 4 << 20  # text in a stretch, which is the finest place that a jump goes to
HELD_OUT_SHARE = 50  # one text in fifty is kept for measuring language-model loss
_FORMAT = 1
_SLOW_BYTES = 200_000_000  # files of this size are announced before they are counted

Report = Callable[[str], None]


def held_out(text: str | bytes) -> bool:
    """Whether a text belongs to the held-out part of a corpus (by its own UTF-8 bytes, so never by order).

    >>> [n for n in range(300) if held_out(f"text {n}")]
    [2, 232, 246, 273]
    """
    return zlib.crc32(text if isinstance(text, bytes) else text.encode()) % HELD_OUT_SHARE == 0


@dataclass(frozen=True, slots=True)
class FileCount:
    """What one file holds.

    Attributes:
        marks: ``[stretches]`` where each begins.
        languages: the ``lang`` values met, an empty string for rows without.
        cells: ``[cells, 5]``: stretch, language number, 1 for held-out texts, rows, bytes of text; no empty cells.
        blank: rows without any text but white space; they are left out.
        checksum: CRC-32 of all its texts in order.
    """

    path: Path
    marks: tuple[Mark, ...]
    languages: tuple[str, ...]
    cells: IntArray
    blank: int
    checksum: int


def count_files(paths: Sequence[Path], cache: Path | None = None, report: Report | None = None) -> list[FileCount]:
    """The counts of files, taken anew only for those that are not in ``cache`` as they are now.

    Args:
        cache: a folder that keeps counts from one run to the next.
        report: told of files that take more than a few seconds.

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
        if (path, state) not in _counts:  # the stages of a recipe read the same files
            _counts[path, state] = _count(path, state, cache, report)
        counts.append(_counts[path, state])
    return counts


_counts: dict[tuple[Path, tuple[int, ...]], FileCount] = {}


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
    rows = blank + sum(int(count.cells[:, 3].sum()) for count in counts)
    parts = [f"{blank:,} are blank"] if blank else []
    parts += [f"{other:,} are of languages other than {', '.join(sorted(languages))}"] if other else []
    return f"of {rows:,} rows {' and '.join(parts)}: left out" if parts else ""


def _count(path: Path, state: tuple[int, ...], cache: Path | None, report: Report | None) -> FileCount:
    kept = cache / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24]}.json" if cache else None
    key: dict[str, Any] = {"format": _FORMAT, "path": str(path.absolute()), "state": list(state)}
    if kept and (found := _read(kept, path, key)):
        return found
    if report and state[1] > _SLOW_BYTES:
        report(f"{path}: {state[1] / 1e9:.1f} GB, checking and counting its lines")
    count = _counted(path)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        marks = [[mark.number, mark.offset] for mark in count.marks]
        values = {"marks": marks, "languages": count.languages, "cells": count.cells.tolist()}
        values |= {"blank": count.blank, "checksum": count.checksum}
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
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _counted(path: Path) -> FileCount:
    marks, languages = [Mark()], dict[str, int]()
    cells: dict[tuple[int, int, int], list[int]] = {}
    checksum = blank = filled = 0
    last = Mark()
    for row in read_rows(path):
        if filled >= STRETCH_BYTES:
            marks.append(last)
            filled = 0
        last = row.end
        filled += len(row.data)
        if not row.data:
            blank += 1
            continue
        checksum = zlib.crc32(row.data, checksum)
        language = languages.setdefault(row.language, len(languages))
        cell = cells.setdefault((len(marks) - 1, language, int(held_out(row.data))), [0, 0])
        cell[0] += 1
        cell[1] += len(row.data)
    table = np.array([[*where, *what] for where, what in cells.items()], dtype=np.int64).reshape(-1, 5)
    return FileCount(path, tuple(marks), tuple(languages), table, blank, checksum)
