"""``TextSource``: the texts of a corpus of any size as an endless stream that can be entered anywhere.

The texts of files with examples are their rows, as lines of JSON (``example_sources.py`` reads them).

Epoch after epoch, every text once. A corpus that fits in memory (``shuffle_bytes`` of text) is permuted as a whole. A
larger one is read in blocks of that size: the order of the files and the order within each block are drawn anew for
every epoch. What stands at a place of the stream depends on the files and the seed alone, so there is no cursor to
save; going to the next text is cheap, and a jump reads one block.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from diffembed.data.census import FileCount, held_out
from diffembed.data.jsonl import COMPRESSED
from diffembed.data.rows import Row, place, read_rows
from diffembed.errors import InputError
from diffembed.text.batching import IntArray

Part = Literal["train", "held-out", "all"]
SHUFFLE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a stream.

    Attributes:
        path, number: its file, and its line or row in it.
        begin, size: the bytes that it takes in the stream, all epochs end to end.
    """

    text: str
    path: Path
    number: int
    begin: int
    size: int

    @property
    def origin(self) -> str:
        """``FILE, line N``."""
        return place(self.path, self.number)


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The order of one epoch: ``stretches`` in reading order; block ``b`` is ``stretches[cuts[b]:cuts[b + 1]]``.

    ``rows`` and ``sizes`` (``[blocks + 1]``) count texts and bytes before each block.
    """

    number: int
    stretches: IntArray
    cuts: IntArray
    rows: IntArray
    sizes: IntArray


@dataclass(frozen=True, slots=True)
class _Block:
    """Texts of a block in file order, as bytes end to end: text ``i`` is ``data[ends[i - 1]:ends[i]]``."""

    data: bytearray
    ends: IntArray
    files: IntArray
    numbers: IntArray


class TextSource:
    """Raw texts, for language modelling and for pairs cut out of one text.

    Args:
        name: what errors call it.
        counts: of the corpus files, in the order of an epoch that is not shuffled.
        seed: decides the order of every epoch.
        part: the training texts, the held-out ones (see ``held_out``) or both.
        languages: only texts with these ``lang`` values; empty: all.
        shuffle_bytes: how much text is held and permuted at a time.

    Raises:
        InputError: nothing is left to read.
    """

    def __init__(
        self,
        name: str,
        counts: Sequence[FileCount],
        seed: int,
        *,
        part: Part = "train",
        languages: frozenset[str] = frozenset(),
        shuffle_bytes: int = SHUFFLE_BYTES,
    ) -> None:
        self.name, self.seed, self.shuffle_bytes = name, seed, shuffle_bytes
        self._counts, self._part, self.languages = tuple(counts), part, languages
        table = [_stretches(number, count, part, languages) for number, count in enumerate(self._counts)]
        merged = np.concatenate(table) if table else np.empty((0, 4), dtype=np.int64)
        self._file, self._stretch, self._rows, self._sizes = merged.T  # each [stretches that hold such texts]
        self.size = int(self._sizes.sum())
        """Bytes of an epoch."""
        if not self.size:
            found = sorted({language or "none" for count in self._counts for language in count.languages})
            wanted = f" in {', '.join(sorted(languages))} (the corpus has: {', '.join(found)})" if languages else ""
            what = "row" if any(count.content == "examples" for count in self._counts) else "text"
            raise InputError(f"source '{name}' has no {what}{wanted} in {_listed(self._counts)}; correct the recipe")
        self._reader = _Reader(self._counts, languages)
        self._epochs: dict[int, _Epoch] = {}
        self._loaded: tuple[bytes, _Block] | None = None
        self._order: tuple[tuple[int, int], IntArray, IntArray] | None = None

    def __len__(self) -> int:
        """Texts of an epoch."""
        return int(self._rows.sum())

    def rows(self, start: int, count: int) -> list[str]:
        """The texts of draws ``start ... start + count - 1``."""
        return [text.text for text in self.draws(start, count)]

    def draws(self, start: int, count: int) -> Iterator[Text]:
        """The same, with their places."""
        epoch, inside = divmod(start, len(self))
        while count > 0:
            plan = self._epoch(epoch)
            block = int(np.searchsorted(plan.rows, inside, side="right")) - 1
            first = inside - int(plan.rows[block])
            for text in itertools.islice(self._texts(plan, block, first), count):
                yield text
                count -= 1
                inside += 1
            if inside == len(self):
                epoch, inside = epoch + 1, 0

    def documents(self, start: int, end: int) -> Iterator[Text]:
        """The texts that reach into bytes ``start ... end - 1`` of the stream, in its order."""
        while start < end:
            epoch, inside = divmod(start, self.size)
            plan = self._epoch(epoch)
            block = int(np.searchsorted(plan.sizes, inside, side="right")) - 1
            ends = self._ordered(plan, block)[1]
            first = int(np.searchsorted(ends, inside - plan.sizes[block], side="right"))
            for text in self._texts(plan, block, first):
                if text.begin >= end:
                    return
                yield text
            start = epoch * self.size + int(plan.sizes[block + 1])

    def at(self, numbers: Sequence[int]) -> list[str]:
        """The texts with these numbers in file order (ascending); reads only the stretches that hold them."""
        ends = np.cumsum(self._rows)
        found = []
        for stretch, wanted in itertools.groupby(numbers, lambda n: int(np.searchsorted(ends, n, side="right"))):
            first = int(ends[stretch] - self._rows[stretch])
            chosen = {n - first for n in wanted}
            rows = itertools.islice(self._stretch_rows(stretch), max(chosen) + 1)
            found += [row.data.decode() for i, row in enumerate(rows) if i in chosen]
        return found

    def sample(self, count: int) -> list[str]:
        """About ``count`` texts that stand for the source: drawn evenly, or from the heads of files of a large one."""
        if self.size <= self.shuffle_bytes:
            return self.rows(0, min(count, len(self)))
        heads = np.unique(self._file, return_index=True)[1]
        heads = heads[np.unique(np.linspace(0, len(heads) - 1, 8).astype(np.int64))]
        share = -(-count // len(heads))
        first = np.cumsum(self._rows) - self._rows
        return self.at([int(first[h]) + i for h in heads for i in range(min(share, int(self._rows[h])))])

    def contents(self) -> list[list[str | int]]:
        """File name, texts, bytes and checksum of every file: what the stream is made of."""
        result: list[list[str | int]] = []
        for number, count in enumerate(self._counts):
            mine = self._file == number
            rows, size = int(self._rows[mine].sum()), int(self._sizes[mine].sum())
            result.append([count.path.name, rows, size, count.checksum])
        return result

    @property
    def label(self) -> str:
        """What reports call it: its name, and the languages where it is only some of a corpus."""
        return f"'{self.name}'" + (f" ({', '.join(sorted(self.languages))})" if self.languages else "")

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            self._epochs = {n: e for n, e in self._epochs.items() if n == number - 1}
            self._epochs[number] = self._planned(number)
        return self._epochs[number]

    def _planned(self, number: int) -> _Epoch:
        stretches = np.arange(len(self._file))
        cuts = [0]
        if self.size > self.shuffle_bytes:
            ranks = np.random.default_rng((self.seed, number, len(self._counts))).permutation(len(self._counts))
            stretches = np.argsort(ranks[self._file], kind="stable")
            held = 0
            for at, size in enumerate(self._sizes[stretches].tolist()):
                if held and held + size > self.shuffle_bytes:
                    cuts.append(at)
                    held = 0
                held += size
        cuts.append(len(stretches))
        rows, sizes = (np.concatenate([[0], np.cumsum(c[stretches])])[cuts] for c in (self._rows, self._sizes))
        return _Epoch(number, stretches, np.array(cuts), rows, sizes)

    def _ordered(self, plan: _Epoch, block: int) -> tuple[IntArray, IntArray]:
        """The order of a block's texts in this epoch, and where each ends in it, in bytes."""
        key = (plan.number, block)
        if self._order is None or self._order[0] != key:
            ends = self._block(plan, block).ends
            # numpy takes (seed, epoch) and (seed, epoch, 0) for the same seed: one block is one permutation
            order = np.random.default_rng((self.seed, plan.number, block)).permutation(len(ends))
            self._order = key, order, np.cumsum(np.diff(ends, prepend=0)[order])
        return self._order[1], self._order[2]

    def _block(self, plan: _Epoch, block: int) -> _Block:
        stretches = plan.stretches[plan.cuts[block] : plan.cuts[block + 1]]
        key = stretches.tobytes()
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = self._order = None  # free it before the next is read
            self._loaded = key, self._load(stretches)
        return self._loaded[1]

    def _load(self, stretches: IntArray) -> _Block:
        size, rows = int(self._sizes[stretches].sum()), int(self._rows[stretches].sum())
        data = bytearray(size)
        ends, files, numbers = (np.empty(rows, dtype=np.int64) for _ in range(3))
        at = end = 0
        for stretch in stretches.tolist():
            for row in self._stretch_rows(stretch):
                data[end : end + len(row.data)] = row.data
                end += len(row.data)
                ends[at], files[at], numbers[at] = end, self._file[stretch], row.end.number
                at += 1
        return _Block(data, ends, files, numbers)

    def _stretch_rows(self, stretch: int) -> Iterator[Row]:
        file, number = int(self._file[stretch]), int(self._stretch[stretch])
        rows = size = 0
        for row in self._reader.rows(file, number):
            if row.data and (self._part == "all" or held_out(row.data) == (self._part == "held-out")):
                rows, size = rows + 1, size + len(row.data)
                if rows > self._rows[stretch]:
                    break
                yield row
        if (rows, size) != (self._rows[stretch], self._sizes[stretch]):
            raise InputError(
                f"{self._counts[file].path} has changed while it was in use; start again, and leave the file as it is"
            )

    def _texts(self, plan: _Epoch, block: int, first: int) -> Iterator[Text]:
        order, ends = self._ordered(plan, block)
        held = self._block(plan, block)
        base = plan.number * self.size + int(plan.sizes[block])
        for draw in range(first, len(order)):
            i = int(order[draw])
            data = held.data[held.ends[i - 1] if i else 0 : held.ends[i]]
            path = self._counts[held.files[i]].path
            yield Text(data.decode(), path, int(held.numbers[i]), base + int(ends[draw]) - len(data), len(data))


class _Reader:
    """Rows of a stretch of a file; goes on where it stands when asked for what comes next."""

    def __init__(self, counts: Sequence[FileCount], languages: frozenset[str]) -> None:
        self._counts, self._languages = counts, languages
        self._file, self._at = -1, 0
        self._rows: Iterator[Row] = iter(())
        self._ahead: Row | None = None  # read, and found to be of the next stretch

    def rows(self, file: int, stretch: int) -> Iterator[Row]:
        count = self._counts[file]
        start = count.marks[stretch]
        last = count.marks[stretch + 1].number if stretch + 1 < len(count.marks) else sys.maxsize
        # To reopen a compressed file is to decompress its beginning again.
        onward = self._at <= start.number if count.path.suffix in COMPRESSED else self._at == start.number
        if file != self._file or not onward:
            self._rows, self._ahead = read_rows(count.path, start, self._languages, count.content), None
        self._file, self._at = file, start.number
        while row := self._ahead or next(self._rows, None):
            self._ahead = row
            if row.end.number > last:
                break
            self._ahead = None
            if row.end.number > start.number:  # else of a stretch that was passed over
                self._at = row.end.number
                yield row
        self._at = last


def _stretches(number: int, count: FileCount, part: Part, languages: frozenset[str]) -> IntArray:
    """``[stretches, 4]``: file number, stretch, texts and bytes of what is asked for; none without texts."""
    cells = count.cells
    keep = np.ones(len(cells), dtype=bool)
    if part != "all":
        keep &= cells[:, 2] == (part == "held-out")
    if languages:
        keep &= np.isin(cells[:, 1], [i for i, language in enumerate(count.languages) if language in languages])
    totals = np.zeros((len(count.marks), 4), dtype=np.int64)
    totals[:, 0], totals[:, 1] = number, np.arange(len(count.marks))
    np.add.at(totals, cells[keep, 0], np.pad(cells[keep, 3:], ((0, 0), (2, 0))))
    return totals[totals[:, 2] > 0]


def _listed(counts: Sequence[FileCount]) -> str:
    names = [str(count.path) for count in counts[:3]]
    return ", ".join(names) + (f" and {len(counts) - 3} more" if len(counts) > 3 else "")
