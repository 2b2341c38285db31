"""Ranks of known targets in a corpus that grows, all of its sizes from one pass over the vectors.

A target's rank is one more than the number of documents that are closer to the query. So nothing has to be sorted
or kept: every distractor is compared with the score of the target and counted under the smallest corpus that holds
it; the ranks in larger corpora are sums. Which distractors a corpus of n holds is random and nested: a fixed function
gives each a 64-bit number, and the n with the smallest are taken.

Equal scores are settled by another such number, so that ties (frequent among bits) favour nobody. A distractor whose
vector equals the target's is taken for the same passage: it is told, and does not count against the target. Its score
may differ in the last digits, as float32 products depend on what is multiplied beside them.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.evaluation.generated.distractors import Vectors
from diffembed.evaluation.ranking import cosines
from diffembed.models.files import atomic_file
from diffembed.vectors.embeddings import Embeddings

if TYPE_CHECKING:
    from diffembed.evaluation.ranking import Progress

_QUERIES, _ROWS = 1024, 16_384  # compared at once: 64 MB of scores; no more targets than queries
_SLACK = np.float32(1e-5)  # scores of equal vectors are nearer than that
_TIES = 1 << 16  # looked at at once
_DRAWN = 1 << 20  # numbers that are drawn at once
_SAVE_SECONDS = 60.0
_JUDGED = 1 << 62  # rows of judged documents are numbered from here on, those of distractors from 0

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Lots = npt.NDArray[np.uint64]


def scattered(first: int, count: int, seed: int) -> Lots:
    """A 64-bit number for each of the rows ``first``, ``first + 1``, ...: no two rows have the same (splitmix64).

    >>> [hex(int(n)) for n in scattered(0, 2, 0)]
    ['0x519665bf91416c4d', '0xd2c3b9900679fff1']
    """
    with np.errstate(over="ignore"):
        mixed = np.arange(first, first + count, dtype=np.uint64)
        mixed += np.uint64((seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def corpus_sizes(judged: int, total: int) -> list[int]:
    """The sizes that are told: the judged documents alone, every power of ten above, and all there are.

    >>> corpus_sizes(4213, 2_500_000)
    [4213, 10000, 100000, 1000000, 2500000]
    """
    steps = [10**power for power in range(1, 19) if judged < 10**power < total]
    return list(dict.fromkeys([judged, *steps, total]))


@dataclass(frozen=True, slots=True)
class Targets:
    """What is sought: queries, judged documents, and which belong together.

    Attributes:
        queries, documents: vectors of the queries, and of the judged documents.
        query_of, document_of: ``[targets]`` row numbers; targets of one query stand together.
        excluded: for each query the documents that are left out of its ranking.
        scores: ``[targets]`` cosine of each target with its query, as the search computes it.
    """

    queries: Embeddings
    documents: Embeddings
    query_of: IntArray
    document_of: IntArray
    excluded: Sequence[frozenset[int]]
    scores: FloatArray = field(repr=False)

    @classmethod
    def of(
        cls,
        queries: Embeddings,
        documents: Embeddings,
        pairs: Sequence[tuple[int, int]],
        excluded: Sequence[frozenset[int]],
    ) -> Targets:
        """``pairs`` of query and document, ordered by query."""
        query_of, document_of = np.array(pairs, np.int64).reshape(-1, 2).T
        scores = np.empty(len(pairs), np.float32)
        everything = np.arange(len(documents.values))
        for rows, members in _slices(query_of, len(queries.values)):
            for low in range(0, len(everything), _ROWS):
                block = everything[low : low + _ROWS]
                here = members[(document_of[members] >= low) & (document_of[members] < low + len(block))]
                if len(here):
                    found = cosines(queries, rows, documents, block)
                    scores[here] = found[query_of[here] - rows.start, document_of[here] - low]
        return cls(queries, documents, query_of, document_of, excluded, scores)


@dataclass(slots=True)
class Ranks:
    """Ranks of the targets at every size.

    Attributes:
        sizes: documents in the corpus.
        ranks: ``[targets, sizes]``, from 1.
        duplicates: distractors that were taken for a target itself.
    """

    sizes: list[int]
    ranks: IntArray
    duplicates: int


def ranks_as_it_grows(
    targets: Targets,
    sources: Sequence[Vectors],
    *,
    seed: int = 0,
    state: Path | None = None,
    progress: Progress = None,
) -> Ranks:
    """The rank of every target in corpora of growing size, by exact search.

    Args:
        targets: the judged documents are in the corpus at all sizes.
        sources: the distractors, in a fixed order.
        seed: of the choice of distractors for the smaller sizes.
        state: a folder; a search that was stopped goes on from what it left there.
        progress: called with (distractors compared, distractors).

    Raises:
        InputError: no distractors, or a vector with values that are not finite.
    """
    total, judged = sum(source.rows for source in sources), len(targets.documents.values)
    if not total:
        raise InputError("there are no distractors; a corpus that is to grow needs some")
    sizes = corpus_sizes(judged, judged + total)
    search = _Search(targets, _edges([size - judged for size in sizes], total, seed), seed)
    if state is not None:
        search.resume(state, [source.files for source in sources])
    row, saved = 0, time.monotonic()
    for source in sources:
        for piece in source.pieces():
            for low in range(0, len(piece), _ROWS):
                block = piece[low : low + _ROWS]
                if row + len(block) > search.done:
                    known = max(0, search.done - row)
                    search.add(block[known:], row + known, source.name)
                    if progress is not None:
                        progress(search.done, total)
                row += len(block)
            if time.monotonic() - saved > _SAVE_SECONDS:
                search.save()
                saved = time.monotonic()
    search.save()
    ranks = 1 + search.closer_judged()[:, None] + np.cumsum(search.closer, axis=1)
    return Ranks(sizes, ranks, int(search.duplicates.sum()))


def _edges(counts: Sequence[int], total: int, seed: int) -> Lots:
    """For each size but the first the largest number (``scattered``) of a distractor that is in it.

    Args:
        counts: distractors at each size, the first 0 and the last ``total``.
    """
    inner = list(counts[1:-1])
    largest = np.uint64(0xFFFFFFFFFFFFFFFF)
    if not inner:
        return np.array([largest], np.uint64)
    numbers = np.empty(total, np.uint64)
    for low in range(0, total, _DRAWN):  # the steps in between need as much memory again
        numbers[low : low + _DRAWN] = scattered(low, min(_DRAWN, total - low), seed)
    numbers.partition([count - 1 for count in inner])
    return np.array([*(numbers[count - 1] for count in inner), largest], np.uint64)


class _Search:
    """How many documents are closer than each target, as far as they have been compared.

    Attributes:
        closer: ``[targets, sizes]`` distractors, each under the smallest size that holds it; none is in the first.
        duplicates: ``[targets]`` distractors that were taken for the target itself.
        done: distractors compared.
    """

    def __init__(self, targets: Targets, edges: Lots, seed: int) -> None:
        self._targets, self._edges, self._seed = targets, edges, seed
        self._lots = scattered(_JUDGED, len(targets.documents.values), seed + 1)
        self._file: Path | None = None
        self.closer = np.zeros((len(targets.scores), len(edges) + 1), np.int64)
        self.duplicates = np.zeros(len(targets.scores), np.int64)
        self.done = 0

    def resume(self, folder: Path, files: Sequence[str]) -> None:
        """Keep the state in a folder, and take up what an earlier search of the same left there."""
        targets = self._targets
        digest = hashlib.sha256(repr((self._seed, list(files))).encode())
        for array in (targets.queries.values, targets.documents.values, targets.query_of, targets.document_of):
            digest.update(np.ascontiguousarray(array).tobytes())
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"search-{digest.hexdigest()[:16]}.npz"
        if not self._file.is_file():
            return
        try:
            with self._file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
                self.closer, self.duplicates = saved["closer"], saved["duplicates"]
                self.done = int(saved["done"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{self._file} cannot be read ({error}); remove it, and the search begins again"
            ) from error

    def save(self) -> None:
        """Whole or not at all."""
        if self._file is not None:
            with atomic_file(self._file) as partial, partial.open("wb") as stream:
                np.savez(stream, closer=self.closer, duplicates=self.duplicates, done=np.int64(self.done))

    def add(self, block: npt.NDArray[Any], first: int, name: str) -> None:
        """Compare a block of distractors, rows ``first`` and following."""
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            raise InputError(f"{name} has a vector with a value that is not finite; mend or leave it out")
        targets = self._targets
        sizes = 1 + np.searchsorted(self._edges, scattered(first, len(block), self._seed))
        order = np.argsort(sizes, kind="stable")
        some = Embeddings(block[order], targets.documents.dtype, targets.documents.dims)
        starts = np.searchsorted(sizes[order], np.arange(1, len(self._edges) + 2))
        lots = scattered(first, len(block), self._seed + 1)[order]
        for rows, members in _slices(targets.query_of, len(targets.queries.values)):
            scores = cosines(targets.queries, rows, some, np.arange(len(block)))
            scores = scores[targets.query_of[members] - rows.start]
            own = targets.scores[members, None]
            closer = scores > own
            self._settle(closer, scores - own, members, some, lots)
            for size, (begin, end) in enumerate(pairwise(starts.tolist()), start=1):
                self.closer[members, size] += closer[:, begin:end].sum(axis=1)
        self.done = first + len(block)

    def _settle(
        self,
        closer: npt.NDArray[np.bool_],
        ahead: FloatArray,
        members: IntArray,
        some: Embeddings,
        lots: Lots,
    ) -> None:
        """(Nearly) equal scores: the target itself once more, or by lot where they are equal.

        Args:
            closer: ``[members, rows]``, changed in place.
            ahead: ``[members, rows]`` by how much a row's score is above the target's.
            members: numbers of the targets.
            some, lots: the rows.
        """
        targets = self._targets
        rows, columns = np.nonzero(np.abs(ahead) <= _SLACK)
        for low in range(0, len(rows), _TIES):
            row, column = rows[low : low + _TIES], columns[low : low + _TIES]
            target = members[row]
            document = targets.document_of[target]
            same = (some.values[column] == targets.documents.values[document]).all(axis=1)
            np.add.at(self.duplicates, target[same], 1)
            wins = (ahead[row, column] > 0) | ((ahead[row, column] == 0) & (lots[column] < self._lots[document]))
            closer[row, column] = ~same & wins

    def closer_judged(self) -> IntArray:
        """``[targets]`` judged documents that are closer than the target; those left out for the query do not count."""
        targets = self._targets
        count = len(targets.documents.values)
        closer = np.zeros(len(targets.scores), np.int64)
        for low in range(0, count, _ROWS):
            block = np.arange(low, min(low + _ROWS, count))
            for rows, members in _slices(targets.query_of, len(targets.queries.values)):
                scores = cosines(targets.queries, rows, targets.documents, block)
                for query in range(rows.start, rows.stop):
                    left_out = [d - low for d in targets.excluded[query] if low <= d < low + len(block)]
                    scores[query - rows.start, left_out] = -np.inf
                scores = scores[targets.query_of[members] - rows.start]
                own = targets.scores[members, None]
                document = targets.document_of[members]
                wins = self._lots[block][None, :] < self._lots[document][:, None]
                ahead = (scores > own) | ((scores == own) & wins)
                here = np.flatnonzero((document >= low) & (document < low + len(block)))
                ahead[here, document[here] - low] = False  # the target itself, should its last digit differ
                closer[members] += ahead.sum(axis=1)
        return closer


def _slices(query_of: IntArray, queries: int) -> list[tuple[slice, IntArray]]:
    """Queries to be compared at once, and the targets that are theirs: not too many of either.

    >>> [(rows.start, rows.stop, members.tolist()) for rows, members in _slices(np.array([0, 0, 2]), 3)]
    [(0, 3, [0, 1, 2])]
    """
    starts = np.searchsorted(query_of, np.arange(queries + 1))
    found, low = [], 0
    while low < queries:
        full = int(np.searchsorted(starts, starts[low] + _QUERIES, side="right")) - 1
        high = max(low + 1, min(low + _QUERIES, full))
        found.append((slice(low, high), np.arange(starts[low], starts[high])))
        low = high
    return found
