"""A loss over all vectors of a step, with the activations of one forward pass in memory at a time.

GradCache (Gao et al. 2021, arXiv 2101.06983): read everything once without activations and keep the span means; take
the loss and its gradient by them; read each pack again, this time to carry its share of that gradient on to the
weights. The second reading uses the random numbers of the first, so dropout is the same and the gradient is that of
the direct computation. Steps that are small enough keep their activations and are read once.

The loss itself is taken in blocks of queries, so that its similarity matrices do not grow with the square of the batch
either. It sees means before any quantizer and may be any function of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffembed.models.embedder import Embedder
from diffembed.text.batching import IntArray, PackedBatch
from diffembed.training.gather import gather_rows
from diffembed.training.loop import Part

Loss = Callable[[Tensor, Tensor], Tensor]
"""(means of all spans ``[S, D]``, numbers of the queries to sum over) -> their share of the step's loss."""

BLOCK_ELEMENTS = 8_000_000  # of a similarity matrix that the loss may hold at a time


@dataclass(frozen=True, slots=True)
class Share:
    """What one process reads of a step, and where its vectors belong.

    Attributes:
        packs: what this process reads; at least one.
        idle: how many of them, at the end, only make up the number: others have more, and sharded models run in step.
        counts: spans that count, by process.
        order: ``[S]`` where span s of the step stands among the spans of all processes, in their order.
        rows: queries that this process sums the loss over.
        rank: this process.
    """

    packs: tuple[PackedBatch, ...]
    idle: int
    counts: tuple[int, ...]
    order: IntArray
    rows: IntArray
    rank: int = 0


def contrastive_parts(share: Share, loss: Loss, *, keep: bool, columns: int) -> list[Part]:
    """The parts of a contrastive step, for the loop: one if activations are kept, else one a pack.

    Args:
        keep: read once and keep the activations of all packs.
        columns: what every query is compared with, for the size of blocks.
    """
    evaluated = _Evaluated(share, loss, max(1, BLOCK_ELEMENTS // max(1, columns)))
    if keep:
        return [evaluated.all_at_once]
    cache = _Cache(share, evaluated)
    return [_Pack(cache, i) for i in range(len(share.packs))]


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """The loss and its gradient by this process's means."""

    share: Share
    loss: Loss
    block: int

    def __call__(self, means: Tensor) -> tuple[Tensor, Tensor]:
        """This process's share of the loss; the gradient of the whole by its ``means`` ``[own spans, D]``."""
        share = self.share
        with torch.enable_grad(), torch.autocast(means.device.type, enabled=False):
            own = means.detach().float().requires_grad_()
            order, rows = (torch.from_numpy(x).to(own.device) for x in (share.order, share.rows))
            gathered = gather_rows(own, share.counts, share.rank)[order]
            leaf = gathered.detach().requires_grad_()
            total = torch.zeros((), device=own.device)
            for some in torch.split(rows, self.block) if len(rows) else ():
                part = self.loss(leaf, some)
                torch.autograd.backward(part)
                total += part.detach()
            torch.autograd.backward(gathered, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
        assert own.grad is not None
        return total, own.grad

    def all_at_once(self, embedder: Embedder) -> Tensor:
        """One forward pass over everything, activations kept."""
        count = self.share.counts[self.share.rank]
        means = torch.cat([embedder(pack) for pack in self.share.packs])
        value, gradient = self(means[:count])
        return _carrier(means[:count], gradient, means[count:]) + value


@dataclass(slots=True)
class _Cache:
    """The first reading of a step, taken when its first part is asked for."""

    share: Share
    evaluated: _Evaluated
    value: Tensor | None = None
    gradients: list[Tensor] = field(default_factory=list)
    states: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def fill(self, embedder: Embedder) -> None:
        device = next(embedder.parameters()).device
        found = []
        # autocast would hand the casts of weights that are made here, without gradients, to the second reading
        with torch.no_grad(), _uncached(device):
            for pack in self.share.packs:
                self.states.append(_random_state(device))
                found.append(embedder(pack))
        count = self.share.counts[self.share.rank]
        means = torch.cat(found)
        self.value, gradient = self.evaluated(means[:count])
        idle = torch.zeros(len(means) - count, means.shape[1], device=means.device)
        self.gradients = list(torch.split(torch.cat([gradient, idle]), [len(f) for f in found]))


@dataclass(frozen=True, slots=True)
class _Pack:
    """One pack of a cached step as a part of it; the first carries the loss."""

    cache: _Cache
    number: int

    def __call__(self, embedder: Embedder) -> Tensor:
        cache = self.cache
        if self.number == 0:
            cache.fill(embedder)
        assert cache.value is not None
        with _replayed(cache.states[self.number], next(embedder.parameters()).device):
            means = embedder(cache.share.packs[self.number])
        carrier = _carrier(means, cache.gradients[self.number], means[:0])
        return carrier + cache.value if self.number == 0 else carrier


def _carrier(means: Tensor, gradient: Tensor, idle: Tensor) -> Tensor:
    """0, with ``gradient`` by ``means``."""
    carried = (means.float() * gradient).sum() + 0.0 * idle.sum()
    return carried - carried.detach()


@contextmanager
def _uncached(device: torch.device) -> Iterator[None]:
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False):
        yield


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """The random numbers of an earlier time; afterwards those of now go on."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        yield
