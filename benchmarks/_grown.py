"""Large sets of vectors grown from real ones, so that neighbours are not trivial, with exact answers and difficulty.

    v = normalise(a + t (b - a) + s (c - d))

a is a random real vector, b one of its 8 near real neighbours, t ~ U(0, 0.5); c - d is the difference of another real
vector and one of its neighbours, s ~ U(0.5, 1). The first rows of a set are the real vectors themselves. Rows are INT8,
each stretched so that its largest value is 127 (`scaled_int8`); block n of a set is drawn with seed (20261122, n), so
any part can be made again and a larger set begins with a smaller one. Queries are real and not in the base: half are
held-out passages, half questions of the sets, in turns.

Width decides what is grown: 384 is MiniLM, 256 and 512 are the embedded model (256 its Matryoshka cut), 1,024 puts
three views side by side (`_passages.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from _common import progress
from _passages import HELD_OUT, FloatArray, real_vectors, unit
from diffembed.vectors.quantize import scaled_int8

BLOCK = 65_536
NEIGHBOURS = 8
KINDS = {256: "default", 384: "minilm", 512: "default", 1024: "views"}
EXACT_TOP = 100
_SEED = 20261122

Int8Rows = npt.NDArray[np.int8]
IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grown:
    """A set of ``rows`` INT8 vectors of ``dims``, grown from ``real`` real ones kept under ``work``."""

    work: Path
    dims: int
    rows: int
    real: int

    @cached_property
    def base(self) -> FloatArray:
        """``[real, dims]`` unit vectors."""
        return self._cut("base")

    @cached_property
    def queries(self) -> Int8Rows:
        """``[2 * HELD_OUT, dims]``: a held-out passage, a question, and so on."""
        both = np.stack([self._cut("held-out")[:HELD_OUT], self._cut("queries")[:HELD_OUT]], axis=1)
        return scaled_int8(both.reshape(-1, self.dims))

    def _cut(self, part: str) -> FloatArray:
        return unit(real_vectors(self.work, KINDS[self.dims], self.real, part)[:, : self.dims])

    @cached_property
    def near(self) -> npt.NDArray[np.int32]:
        """``[real, 8]`` near real neighbours of every real vector, kept on disk."""
        path = self.work / f"near-{self.dims}-{self.real}.npy"
        if not path.is_file():
            progress(f"{self.dims} dims: the neighbours of {self.real} real vectors")
            found = _neighbours(self.base)
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.save(file, found)
            path.with_suffix(".tmp").rename(path)
        loaded: npt.NDArray[np.int32] = np.load(path)
        return loaded

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.rows // BLOCK)

    def block(self, number: int) -> Int8Rows:
        """Rows ``number * BLOCK`` and on."""
        start = number * BLOCK
        count = min(BLOCK, self.rows - start)
        chance = np.random.default_rng((_SEED, number))
        a, c = chance.integers(self.real, size=(2, BLOCK))
        b, d = (self.near[of, chance.integers(NEIGHBOURS, size=BLOCK)] for of in (a, c))
        t, s = (chance.uniform(*span, size=(BLOCK, 1)).astype(np.float32) for span in ((0, 0.5), (0.5, 1)))
        real = max(0, min(count, self.real - start))
        rows = np.empty((count, self.dims), np.int8)
        rows[:real] = scaled_int8(self.base[start : start + real])
        for at in range(real, count, 8192):
            part = slice(at, min(at + 8192, count))
            base_a = self.base[a[part]]
            grown = base_a + t[part] * (self.base[b[part]] - base_a)
            grown += s[part] * (self.base[c[part]] - self.base[d[part]])
            rows[part] = scaled_int8(grown)  # a row's own scale: its length before does not matter
        return rows

    def each(self) -> Iterator[tuple[int, Int8Rows]]:
        """``(first row, rows)`` of every block."""
        for number in range(self.blocks):
            yield number * BLOCK, self.block(number)

    def exact(self, count: int) -> tuple[IdArray, FloatArray]:
        """``[count, 100]`` rows of highest cosine for the first queries, and these cosines; by plain matrix products.

        Kept on disk every 64 blocks, so that a run that was stopped goes on.
        """
        path = self.work / f"exact-{self.dims}-{self.rows}-{self.real}-{count}.npz"
        ids = np.full((count, EXACT_TOP), -1, np.int64)
        cosines = np.full((count, EXACT_TOP), -np.inf, np.float32)
        first = 0
        if path.is_file():
            with np.load(path) as kept:
                ids, cosines, first = kept["ids"], kept["cosines"], int(kept["blocks"])
        queries = unit(self.queries[:count].astype(np.float32))
        for number in range(first, self.blocks):
            rows = self.block(number)
            for at in range(0, len(rows), 8192):
                ids, cosines = _merged(ids, cosines, queries, rows[at : at + 8192], number * BLOCK + at)
            if number % 64 == 63 or number + 1 == self.blocks:
                progress(f"{self.dims} dims: exact answers, block {number + 1} of {self.blocks}")
                with open(path.with_suffix(".tmp"), "wb") as file:
                    np.savez(file, ids=ids, cosines=cosines, blocks=number + 1)
                path.with_suffix(".tmp").rename(path)
        return ids, cosines

    def difficulty(self, count: int, hamming: Callable[[Int8Rows, int], IdArray] | None = None) -> dict[str, float]:
        """How hard the set is: cosines of the 1st and 10th neighbour, local intrinsic dimension, share of real rows.

        ``hamming`` (queries, how many -> ids) adds the recall of plain binary: the share of the exact ten that is among
        the 10, 100 and 400 nearest by Hamming distance.
        """
        ids, cosines = self.exact(count)
        radii = np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 1e-12))
        # the maximum likelihood estimate of Levina and Bickel over the 100 nearest
        logs = np.log(radii[:, -1:] / radii[:, :-1])
        figures = {
            "cosine_top1": float(cosines[:, 0].mean()),
            "cosine_top10": float(cosines[:, 9].mean()),
            "gap_top1_top10": float((cosines[:, 0] - cosines[:, 9]).mean()),
            "intrinsic_dimension": float(np.median((EXACT_TOP - 2) / logs.sum(axis=1))),
            "real_rows_in_top10": float((ids[:, :10] < self.real).mean()),
        }
        if hamming is not None:
            near = hamming(self.queries[:count], 400)
            for top in (10, 100, 400):
                figures[f"plain_binary_recall_{top}"] = recall(near[:, :top], ids[:, :10])
        return figures


def _neighbours(base: FloatArray) -> npt.NDArray[np.int32]:
    """``[rows, 8]`` near rows of every row, itself left out: the nearest of those in the 32 nearest of 1,024 lists.

    That all eight are the very nearest does not matter to what is grown; looking at all pairs would take an hour.
    """
    import faiss

    index = faiss.index_factory(base.shape[1], f"IVF{min(1024, len(base) // 40)},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(base)
    index.add(base)
    index.nprobe = 32
    near = index.search(base, NEIGHBOURS + 1)[1]
    others = near != np.arange(len(base))[:, None]
    others[others.all(axis=1), -1] = False  # a row among nine equal ones may not have found itself
    found: npt.NDArray[np.int32] = near[others].reshape(len(base), NEIGHBOURS).astype(np.int32)
    if (found < 0).any():
        raise SystemExit(f"{len(base)} real vectors are too few to find {NEIGHBOURS} neighbours of each")
    return found


def recall(found: IdArray, exact: IdArray) -> float:
    """The share of the exact answers that was found, over all queries."""
    hits = [len(set(f) & set(e)) for f, e in zip(found.tolist(), exact.tolist(), strict=True)]
    return float(np.mean(hits)) / exact.shape[1]


def _merged(
    ids: IdArray, cosines: FloatArray, queries: FloatArray, rows: Int8Rows, start: int
) -> tuple[IdArray, FloatArray]:
    new = queries @ unit(rows.astype(np.float32)).T
    asked, better = np.nonzero(new > cosines[:, -1:])  # few, after the first blocks
    counts = np.bincount(asked, minlength=len(queries))
    place = np.arange(len(asked)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = len(queries), int(counts.max())
    new_ids, new_cosines = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
    new_ids[asked, place], new_cosines[asked, place] = better + start, new[asked, better]
    all_ids, all_cosines = np.hstack([ids, new_ids]), np.hstack([cosines, new_cosines])
    order = np.argsort(-all_cosines, axis=1, kind="stable")[:, :EXACT_TOP]
    return np.take_along_axis(all_ids, order, axis=1), np.take_along_axis(all_cosines, order, axis=1)
