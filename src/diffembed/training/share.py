"""Deal the sequences of a step to the processes that share it.

Every process plans the whole step (what to mask is drawn once, for all), then keeps its own sequences. So the loss of a
step is the same on any number of processes, and the tokens that it is divided by are known without asking the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffembed.objectives.targets import Targets, regroup
from diffembed.text.batching import TokenizedSequence, batches_by_tokens, pack
from diffembed.training.grad_cache import Share


def shares(lengths: Sequence[int], world: int) -> list[list[int]]:
    """Which sequences each process computes: the longest first, always to the process with the fewest tokens.

    >>> shares([5, 9, 3, 4, 2], world=2)
    [[1, 2], [0, 3, 4]]
    """
    loads = [(0, rank) for rank in range(world)]
    dealt: list[list[int]] = [[] for _ in range(world)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, rank = heapq.heappop(loads)
        dealt[rank].append(i)
        heapq.heappush(loads, (load + lengths[i], rank))
    return dealt


def deal(planned: Sequence[Targets], *, rank: int, world: int, micro_tokens: int) -> list[Targets]:
    """The micro-batches of one process; every process gets equally many, because sharded models run in step.

    Args:
        planned: the micro-batches of the whole step, the same on every process.
        micro_tokens: bounds the (padded) tokens of one forward pass, as in ``batches_by_tokens``.

    Returns:
        Micro-batches with at least one target each; one that only makes up the number has weight 0.
    """
    if world == 1:
        return [_with_a_target(t) for t in planned if len(t.aligned)]
    sequences = [(t, i) for t in planned for i in range(len(t.batch))]
    if not sequences:
        return []
    lengths = [int(t.batch.lengths[i]) for t, i in sequences]
    groups = []
    for mine in shares(lengths, world):
        packs = batches_by_tokens([lengths[i] for i in mine], micro_tokens)
        groups.append([[mine[i] for i in group] for group in packs])
    own = [regroup([sequences[i] for i in group]) for group in groups[rank]]
    idle = regroup([min(sequences, key=lambda s: int(s[0].batch.lengths[s[1]]))])
    nothing = idle.rows[:0]
    idle = replace(idle, rows=nothing, target_ids=nothing, weights=idle.weights[:0], aligned=nothing)
    return [_with_a_target(t) for t in own + [idle] * (max(map(len, groups)) - len(own))]


def deal_spans(sequences: Sequence[TokenizedSequence], queries: int, rank: int, world: int, micro_tokens: int) -> Share:
    """What one process reads of a contrastive step; every process gets equally many packs.

    Args:
        sequences: of the whole step, the same on every process; the first ``queries`` are queries.
        micro_tokens: bounds the (padded) tokens of one forward pass.
    """
    lengths = [len(s) for s in sequences]
    starts = np.cumsum([0, *(len(s.spans) for s in sequences)])
    packs: list[list[list[int]]] = []
    for mine in shares(lengths, world):
        groups = batches_by_tokens([lengths[i] for i in mine], micro_tokens)
        packs.append([[mine[i] for i in group] for group in groups])
    spans = [[s for group in own for i in group for s in range(starts[i], starts[i + 1])] for own in packs]
    order = np.empty(int(starts[-1]), dtype=np.int64)
    order[np.concatenate([np.array(own, dtype=np.int64) for own in spans])] = np.arange(len(order))
    idle = max(map(len, packs)) - len(packs[rank])
    shortest = pack([min(sequences, key=len)])
    own = [pack([sequences[i] for i in group]) for group in packs[rank]]
    counts = tuple(len(own) for own in spans)
    return Share((*own, *[shortest] * idle), idle, counts, order, np.arange(rank, queries, world), rank)


def _with_a_target(targets: Targets) -> Targets:
    """DDP waits for the gradient of every weight, so a pass without targets predicts one token at weight 0."""
    if len(targets.rows):
        return targets
    token = np.full(1, 1 if targets.excluded == 0 else 0, dtype=np.int64)
    return replace(targets, rows=np.zeros(1, np.int64), target_ids=token, weights=np.zeros(1, targets.weights.dtype))
