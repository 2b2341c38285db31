"""Rows of all processes put together, with gradients: what lets a contrastive batch be compared as a whole.

Each process may hold another number of rows. Everyone plans the whole step, so everyone knows all counts, and rows
stand in the order of the processes: which row is whose positive follows from the plan, never from the exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: tuple[int, ...], rank: int) -> Tensor:
        ctx.start, ctx.count = sum(counts[:rank]), counts[rank]
        padded = own.new_zeros(max(counts), *own.shape[1:])  # gloo exchanges tensors of one size
        padded[: len(own)] = own
        every = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(every, padded)
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count], None, None


def gather_rows(own: Tensor, counts: Sequence[int], rank: int) -> Tensor:
    """``[sum of counts, ...]``: the rows of all processes, in their order; every process must call it.

    The gradient of a row is the sum of what all processes ask of it, so losses that are shares of one sum give each
    process the gradient of the whole. With one process it is the identity.

    Args:
        own: ``[counts[rank], ...]``.
        counts: rows of every process.

    Raises:
        ValueError: ``own`` has another number of rows than ``counts`` says.
    """
    if len(own) != counts[rank]:
        raise ValueError(f"process {rank} has {len(own)} rows, {counts[rank]} were announced; give equal counts")
    if len(counts) == 1:
        return own
    gathered: Tensor = _GatherRows.apply(own, tuple(counts), rank)  # type: ignore[no-untyped-call]
    return gathered
