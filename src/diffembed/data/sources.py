"""Sources: what a training stage reads, as functions of the step number.

A source answers "what does draw n use?" from its files and its seed alone. There is no cursor to save: a run that was
killed asks for the same step again and gets the same batch, and the order never depends on how often it was stopped.
Here are the sources of texts, which are read in blocks (``TextSource``); ``example_sources.py`` has those of pairs.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffembed.data.census import FileCount, Report, count_files, left_out
from diffembed.data.rows import text_file
from diffembed.data.texts import SHUFFLE_BYTES, Part, Text, TextSource
from diffembed.errors import InputError
from diffembed.text.batching import IntArray

_CYCLE = 1000  # draws over which the shares of languages come out to the nearest draw


def expand(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Paths that match glob patterns under ``root``, sorted; a pattern that matches nothing is an error."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(str(root / pattern), recursive=True))
        if not matches:
            raise InputError(f"nothing matches '{pattern}' under {root}; correct the recipe's data_root or the source")
        found.update(dict.fromkeys(Path(m) for m in matches))
    return list(found)


def draw(size: int, start: int, count: int, seed: int) -> np.ndarray:
    """Item numbers of draws ``start ... start + count - 1``: epoch after epoch, each a fresh permutation.

    >>> draw(5, 0, 5, seed=1).tolist(), sorted(draw(5, 5, 5, seed=1).tolist())
    ([4, 0, 1, 2, 3], [0, 1, 2, 3, 4])
    >>> draw(5, 3, 4, seed=1).tolist() == [*draw(5, 3, 2, seed=1), *draw(5, 5, 2, seed=1)]
    True
    """
    out = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        epoch, offset = divmod(start + done, size)
        order = np.random.default_rng((seed, epoch)).permutation(size)
        part = order[offset : offset + count - done]
        out[done : done + len(part)] = part
        done += len(part)
    return out


class LanguageMix:
    """Texts of one corpus, drawn language by language in given shares; each language has epochs of its own.

    Attributes:
        streams: one ``TextSource`` a language.
        shares: ``[languages]``, summing to 1.
    """

    def __init__(self, name: str, streams: Sequence[TextSource], shares: Sequence[float]) -> None:
        self.name, self.streams, self.shares = name, tuple(streams), tuple(shares)
        self._turns = turns(shares, max(_CYCLE, 10 * len(shares)))

    def __len__(self) -> int:
        """Texts of an epoch of every language."""
        return sum(len(stream) for stream in self.streams)

    def contents(self) -> list[list[list[str | int]]]:
        """What each language's stream is made of."""
        return [stream.contents() for stream in self.streams]

    def rows(self, start: int, count: int) -> list[str]:
        """The texts of draws ``start ... start + count - 1``."""
        return [text.text for text in self.draws(start, count)]

    def draws(self, start: int, count: int) -> Iterator[Text]:
        """The same, with their places."""
        cycle, inside = divmod(start, len(self._turns))
        languages = self._turns[np.arange(start, start + count) % len(self._turns)]
        drawn = []
        for number, stream in enumerate(self.streams):
            before = cycle * np.count_nonzero(self._turns == number)
            before += np.count_nonzero(self._turns[:inside] == number)
            drawn.append(stream.draws(int(before), int(np.count_nonzero(languages == number))))
        return (next(drawn[language]) for language in languages.tolist())


def turns(shares: Sequence[float], cycle: int) -> IntArray:
    """Who draws in each of ``cycle`` turns: by share to the nearest turn, everybody at least once, spread evenly.

    >>> turns([0.5, 0.3, 0.2], 10).tolist()
    [0, 1, 2, 0, 0, 1, 0, 2, 1, 0]
    """
    wanted = np.asarray(shares, dtype=np.float64) / np.sum(shares) * cycle
    counts = np.maximum(1, np.floor(wanted)).astype(np.int64)
    while counts.sum() < cycle:
        counts[np.argmax(wanted - counts)] += 1
    while counts.sum() > cycle:
        counts[np.argmax(np.where(counts > 1, counts - wanted, -np.inf))] -= 1
    who = np.repeat(np.arange(len(counts)), counts)
    when = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    return who[np.argsort(when, kind="stable")]


def read_texts(
    name: str,
    root: Path,
    patterns: Sequence[str],
    seed: int,
    *,
    part: Part = "train",
    languages: Mapping[str, float] | None = None,
    shuffle_bytes: int = SHUFFLE_BYTES,
    cache: Path | None = None,
    report: Report | None = None,
) -> TextSource | LanguageMix:
    """The texts that match ``patterns`` under ``root``, mixed by language where ``languages`` names shares.

    The languages together hold no more than ``shuffle_bytes`` in memory, as the whole would.

    Args:
        report: told of rows that are left out, and of files that take long to count.

    Raises:
        InputError: nothing matches, a bad line, no text (in one of the languages).
    """
    counts = count_files([text_file(path) for path in expand(root, patterns)], cache, report)
    if report and (words := left_out(counts, languages or ())):
        report(f"source '{name}': {words}")
    return stream_of(name, counts, seed, part=part, languages=languages, shuffle_bytes=shuffle_bytes)


def stream_of(
    name: str,
    counts: Sequence[FileCount],
    seed: int,
    *,
    part: Part,
    languages: Mapping[str, float] | None,
    shuffle_bytes: int,
) -> TextSource | LanguageMix:
    """The stream of files that were counted, of one language mix or as they come."""
    if not languages:
        return TextSource(name, counts, seed, part=part, shuffle_bytes=shuffle_bytes)
    total = sum(languages.values())
    shares = [weight / total for weight in languages.values()]
    streams = [
        TextSource(
            name, counts, seed + i, part=part, languages=frozenset([language]), shuffle_bytes=int(shuffle_bytes * share)
        )
        for i, (language, share) in enumerate(zip(languages, shares, strict=True))
    ]
    return LanguageMix(name, streams, shares)


def held_out_texts(
    root: Path, patterns: Sequence[str], count: int, *, languages: Sequence[str] = (), cache: Path | None = None
) -> list[str]:
    """About ``count`` held-out texts (see ``held_out``), spread evenly over the files that match; maybe none."""
    counts = count_files([text_file(path) for path in expand(root, patterns)], cache)
    try:
        source = TextSource("held-out", counts, 0, part="held-out", languages=frozenset(languages))
    except InputError:  # a small corpus may have none
        return []
    return source.at(range(0, len(source), max(1, len(source) // max(1, count))))


def schedule(weights: Sequence[float], steps: int, seed: int) -> np.ndarray:
    """Which source feeds each step: ``[steps]`` numbers drawn by weight, the same whenever it is asked.

    >>> schedule([1.0, 3.0], 8, seed=0).tolist()
    [1, 0, 1, 1, 0, 1, 1, 1]
    """
    shares = np.asarray(weights, dtype=np.float64)
    return np.random.default_rng((seed, 0x5EED)).choice(len(shares), size=steps, p=shares / shares.sum())
