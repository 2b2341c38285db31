"""Vectors of several processes put together: threads stand for processes here, ``test_parallel.py`` has real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.contrastive_rows import batch_of, grouped, pairs, stage_of, triplets, wide_embedder
from torch import Tensor

from diffembed.models.embedder import Embedder
from diffembed.text.batching import TokenizedSequence
from diffembed.training.contrastive import BatchLoss
from diffembed.training.gather import gather_rows
from diffembed.training.grad_cache import contrastive_parts
from diffembed.training.share import deal_spans

T = TypeVar("T")


class Processes:
    """Threads that exchange tensors as processes do: every collective waits for all, in the same order."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._barrier = threading.Barrier(world, timeout=30)
        self._given: list[Any] = [None] * world
        self._local = threading.local()

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        self._given[self._local.rank] = tensor.clone()
        self._barrier.wait()
        found = list(self._given)
        self._barrier.wait()
        assert len({t.shape for t in found}) == 1, "gloo exchanges tensors of one size"
        return found

    def all_gather(self, into: list[Tensor], own: Tensor) -> None:
        for place, tensor in zip(into, self._exchange(own), strict=True):
            place.copy_(tensor)

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self._exchange(tensor)).sum(0))

    def run(self, work: Callable[[int], T]) -> list[T]:
        """What ``work(rank)`` gives on every one."""

        def started(rank: int) -> T:
            self._local.rank = rank
            return work(rank)

        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(started, range(self.world)))


@contextmanager
def processes(world: int) -> Iterator[Processes]:
    group = Processes(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_gather", group.all_gather)
        patch.setattr(torch.distributed, "all_reduce", group.all_reduce)
        yield group


def test_one_process_keeps_its_rows() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows, [3], 0) is rows


@pytest.mark.parametrize(("counts", "rank"), [([3], 0), ([2, 3], 0), ([2, 3], 1)])
def test_another_number_of_rows_than_announced(counts: list[int], rank: int) -> None:
    count = counts[rank] + 1
    with pytest.raises(ValueError, match=f"process {rank} has {count} rows, {counts[rank]} were announced"):
        gather_rows(torch.zeros(count, 2), counts, rank)


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(any), seed=st.integers(0, 99))
def test_rows_and_gradients_of_any_counts(counts: list[int], seed: int) -> None:
    """Every process takes a share of a loss over all rows; each row gets the gradient of the whole."""
    torch.manual_seed(seed)
    whole = torch.randn(sum(counts), 3)
    shares = torch.randn(len(counts), sum(counts), 3)
    owned = torch.split(whole, counts)

    def work(rank: int) -> tuple[Tensor, Tensor | None]:
        own = owned[rank].clone().requires_grad_()
        gathered = gather_rows(own, counts, rank)
        (gathered.square() * shares[rank]).sum().backward()  # type: ignore[no-untyped-call]
        return gathered.detach(), own.grad

    with processes(len(counts)) as group:
        found = group.run(work)
    expected = torch.split(2 * whole * shares.sum(0), counts)
    for (gathered, gradient), wanted in zip(found, expected, strict=True):
        assert torch.equal(gathered, whole)
        assert gradient is not None
        torch.testing.assert_close(gradient, wanted)


ROWS: dict[str, Any] = {"pair": pairs, "triplet": triplets, "contextual": grouped}


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["pair", "triplet", "contextual"]),
    gold=st.booleans(),
    count=st.integers(1, 7),
    world=st.integers(2, 4),
    micro_tokens=st.sampled_from([1, 40, 5000]),
    keep=st.booleans(),
)
def test_processes_share_a_step(kind: str, gold: bool, count: int, world: int, micro_tokens: int, keep: bool) -> None:
    """Their losses and gradients add up to those of one, also where some have no query, or nothing at all to read."""
    keys = {"gold": gold} if kind == "contextual" else {}
    stage = stage_of(kind, **keys)
    batch = batch_of(ROWS[kind](count), stage)
    loss = BatchLoss.of(batch, stage, (8, 16), progress=0.5, device=torch.device("cpu"))

    def stepped(rank: int, world: int) -> tuple[int, float, dict[str, Tensor]]:
        share = deal_spans(batch.sequences, batch.queries, rank, world, micro_tokens)
        embedder: Embedder = wide[rank]
        embedder.zero_grad()
        parts = contrastive_parts(share, loss, keep=keep, columns=len(share.order))
        total = 0.0
        for part in parts:
            value = part(embedder)
            total += float(value.detach())
            value.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad.clone() for n, p in embedder.named_parameters() if p.grad is not None}
        assert len(gradients) == len(list(embedder.parameters())), "DDP waits for the gradient of every weight"
        return len(parts), total, gradients

    wide = [wide_embedder() for _ in range(world)]
    _, value, expected = stepped(0, 1)
    with processes(world) as group:
        found = group.run(lambda rank: stepped(rank, world))
    assert len({parts for parts, _, _ in found}) == 1, "sharded models run in step"
    assert sum(part for _, part, _ in found) == pytest.approx(value, rel=1e-5, abs=1e-6)
    for name, gradient in expected.items():
        together = torch.stack([gradients[name] for _, _, gradients in found]).sum(0)
        bound = 1e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(together, gradient, atol=bound, rtol=1e-5, msg=name)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    world=st.integers(1, 5),
    micro_tokens=st.integers(1, 30),
    data=st.data(),
)
def test_dealing_spans_loses_nothing(lengths: list[int], world: int, micro_tokens: int, data: st.DataObject) -> None:
    queries = data.draw(st.integers(1, len(lengths) - 1))
    sequences = []
    for number, length in enumerate(lengths):
        cuts = sorted(data.draw(st.sets(st.integers(0, length), min_size=2, max_size=4)) | {0, length})
        spans = tuple(pairwise(cuts)) if number >= queries else ((0, length),)
        sequences.append(TokenizedSequence(tuple(100 * number + i for i in range(length)), spans))
    shares = [deal_spans(sequences, queries, rank, world, micro_tokens) for rank in range(world)]
    assert len({len(share.packs) for share in shares}) == 1 and len({share.counts for share in shares}) == 1
    assert sorted(np.concatenate([s.rows for s in shares]).tolist()) == list(range(queries))
    every = []
    for share in shares:
        own = [p.token_ids[a:b].tolist() for p in share.packs[: len(share.packs) - share.idle] for a, b in p.spans]
        assert len(own) == share.counts[share.rank]
        every += own
    assert all((s.order == shares[0].order).all() for s in shares)
    planned = [list(s.token_ids[a:b]) for s in sequences for a, b in s.spans]
    assert [every[i] for i in shares[0].order.tolist()] == planned
