"""``Targets``: what a model reads and what it must predict; the one thing that every objective makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffembed.text.batching import IntArray, PackedBatch, TokenizedSequence, pack

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Targets:
    """What a model reads and what it must predict.

    Attributes:
        batch: what the model reads: corrupted, and cut where the objective cuts.
        clean_ids: ``[tokens]`` the same tokens before corruption (what a frozen parent reads).
        rows: ``[targets]`` packed positions whose state predicts, ascending.
        target_ids: ``[targets]`` the token each must predict.
        weights: ``[targets]`` weight of each cross-entropy.
        aligned: ``[eligible]`` packed positions, ascending, of the states that the step's loss is a mean over: those of
            every token that could have been a target, or (``masked-mean``, MNTP) of those that are. Alignment compares
            them.
        excluded: a token that is never predicted; its probability is 0 (MDLM's zero masking probability).
    """

    batch: PackedBatch
    clean_ids: IntArray
    rows: IntArray
    target_ids: IntArray
    weights: FloatArray
    aligned: IntArray
    excluded: int | None = None

    @property
    def eligible(self) -> int:
        """This batch's share of what the step's loss is divided by."""
        return len(self.aligned)


Objective = Callable[[PackedBatch, np.random.Generator], Targets]


def regroup(sequences: Sequence[tuple[Targets, int]]) -> Targets:
    """Sequences of several batches, each with its targets, as one batch: sequence ``i`` of each pair's targets.

    >>> b = pack([TokenizedSequence((5, 1), ()), TokenizedSequence((1, 9), ())])
    >>> t = Targets(b, np.array([5, 6, 8, 9]), np.array([1, 2]), np.array([6, 8]), np.ones(2, np.float32), np.arange(4))
    >>> r = regroup([(t, 1)])
    >>> r.batch.token_ids.tolist(), r.clean_ids.tolist(), r.rows.tolist(), r.target_ids.tolist(), r.aligned.tolist()
    ([1, 9], [8, 9], [0], [8], [0, 1])
    """
    packed: list[TokenizedSequence] = []
    clean, rows, ids, weights, aligned = ([] for _ in range(5))
    offset = 0
    for targets, i in sequences:
        batch = targets.batch
        start, end = int(batch.cu_seqlens[i]), int(batch.cu_seqlens[i + 1])
        spans = tuple((int(a) - start, int(b) - start) for a, b in batch.spans[_within(batch.spans[:, 0], start, end)])
        packed.append(TokenizedSequence(batch.token_ids[start:end], spans))
        clean.append(targets.clean_ids[start:end])
        own = _within(targets.rows, start, end)
        rows.append(targets.rows[own] - start + offset)
        ids.append(targets.target_ids[own])
        weights.append(targets.weights[own])
        aligned.append(targets.aligned[_within(targets.aligned, start, end)] - start + offset)
        offset += end - start
    return dataclasses.replace(
        sequences[0][0],
        batch=pack(packed),
        clean_ids=np.concatenate(clean),
        rows=np.concatenate(rows),
        target_ids=np.concatenate(ids),
        weights=np.concatenate(weights),
        aligned=np.concatenate(aligned),
    )


def _within(positions: IntArray, start: int, end: int) -> slice:
    """Which of ascending positions lie in a sequence; a search, because a step may have a thousand sequences."""
    first, last = np.searchsorted(positions, (start, end))
    return slice(int(first), int(last))
