"""Cross-entropy of states against an output matrix, a few rows at a time: the logits of a batch never stand at once.

With a vocabulary of 150,000 the logits of 8,192 targets would take 5 GB in float32. Here a chunk of rows is scored,
its gradient made on the way forward and its logits dropped; the rows of a chunk are so many that its logits have the
same size whatever the vocabulary. Logits exist only for the states that predict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Elements of one chunk's logits, by kind of device: 128 MB of float32 on a CPU, 1 GB on an accelerator, whose matrix
# products need more rows to fill it.
_CHUNK_ELEMENTS = {"cpu": 2**25}
_CHUNK_ELEMENTS_ELSEWHERE = 2**28
_MOST_ROWS = 1024


def rows_of_a_chunk(vocabulary: int, device: str) -> int:
    """Rows scored at once: 1,024, fewer when the vocabulary is large.

    >>> rows_of_a_chunk(8192, "cpu"), rows_of_a_chunk(151_936, "cpu"), rows_of_a_chunk(151_936, "cuda")
    (1024, 220, 1024)
    """
    return min(_MOST_ROWS, max(16, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS_ELSEWHERE) // vocabulary))


def _compute_dtype(hidden_ND: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's type on the tensor's own device, else the tensor's."""
    device = hidden_ND.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype


def _log_probs(hidden_ND: Tensor, table_VD: Tensor, excluded: int | None) -> Tensor:
    logits = (hidden_ND @ table_VD.T).float()
    if excluded is not None:
        logits[:, excluded] = -torch.inf
    return torch.log_softmax(logits, dim=-1)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of weighted cross-entropies of ``hidden @ table.T``, in row chunks, its gradient made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        table_VD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        chunk: int,
        excluded: int | None,
    ) -> Tensor:
        table = table_VD.to(_compute_dtype(hidden_ND))
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        # A frozen table (LoRA) needs no gradient: a third of the work and a matrix as large as it are saved.
        grad_hidden = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        # In float32: a sum over many chunks in bfloat16 loses more than each product's own rounding.
        summed = torch.promote_types(table_VD.dtype, torch.float32)
        grad_table = torch.zeros_like(table_VD, dtype=summed) if ctx.needs_input_grad[1] else None
        # One buffer for the logits of every chunk, changed in place into their gradient: on a CPU, asking the system
        # for fresh pages costs as much as the softmax.
        buffer = table.new_empty(min(chunk, hidden_ND.shape[0]), table.shape[0])
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            hidden, targets, weights = hidden_ND[part].to(table.dtype), targets_N[part, None], weights_N[part, None]
            logits = torch.mm(hidden, table.T, out=buffer[: len(hidden)])
            scores = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
            if excluded is not None:
                scores[:, excluded] = -torch.inf
            highest = scores.amax(dim=1, keepdim=True)
            target_scores = scores.gather(1, targets) - highest
            sums = scores.sub_(highest).exp_().sum(dim=1, keepdim=True)
            total += ((sums.log() - target_scores) * weights).sum()
            if grad_hidden is None and grad_table is None:
                continue
            scores.mul_(weights / sums).scatter_add_(1, targets, -weights.to(scores.dtype))
            grad = scores if scores is logits else logits.copy_(scores)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ table
            if grad_table is not None:
                if grad_table.dtype == grad.dtype:
                    grad_table.addmm_(grad.T, hidden)
                else:
                    grad_table += grad.T @ hidden
        ctx.save_for_backward(grad_hidden, None if grad_table is None else grad_table.to(table_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # In place: a copy of the table's gradient would be the largest tensor of all. Autograd refuses a second pass.
        grad_hidden, grad_table = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden.mul_(grad),
            None if grad_table is None else grad_table.mul_(grad),
            None,
            None,
            None,
            None,
        )


def linear_cross_entropy(
    hidden_ND: Tensor,
    table_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    chunk: int | None = None,
    excluded: int | None = None,
) -> Tensor:
    """``sum_n weights_n * CE(hidden_n @ table.T, targets_n)`` without holding all logits at once.

    Memory is that of one chunk's logits whatever the number of targets and the vocabulary. Under autocast the matrix
    products run in its type, the softmax in float32. Returns a float32 scalar in nats.

    Args:
        table_VD: output matrix, the token table or an untied head; both inputs get gradients if they need them.
        chunk: rows at once; by default so many that their logits take the same memory at every vocabulary.
        excluded: a token with probability 0; never a target.

    >>> h, e = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> round(float(linear_cross_entropy(h, e, torch.tensor([0]), torch.tensor([3.0]))), 4)  # 3 ln(1 + e^-2)
    0.3808
    >>> float(linear_cross_entropy(h, e, torch.tensor([0]), torch.tensor([3.0]), excluded=1))  # only one token is left
    0.0
    """
    rows = chunk or rows_of_a_chunk(table_VD.shape[0], hidden_ND.device.type)
    result: Tensor = _LinearCrossEntropy.apply(hidden_ND, table_VD, targets_N, weights_N, rows, excluded)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def token_scores(
    hidden_ND: Tensor, table_VD: Tensor, targets_N: Tensor, *, excluded: int | None = None
) -> tuple[Tensor, Tensor]:
    """Each target's cross-entropy in nats, and whether it is the most probable token. In chunks, without gradient.

    Returns:
        ``[targets]`` float32, ``[targets]`` bool.

    >>> h, e = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> nats, right = token_scores(h, e, torch.tensor([0, 1]))  # ln(1 + e^-2), ln(1 + e^2)
    >>> [round(x, 4) for x in nats.tolist()], right.tolist()
    ([0.1269, 2.1269], [True, False])
    """
    nats, right = [], []
    for log_probs, targets in _scored(hidden_ND, table_VD, targets_N, excluded):
        nats.append(-log_probs.gather(1, targets[:, None])[:, 0])
        right.append(log_probs.argmax(-1) == targets)
    if not nats:
        return hidden_ND.new_zeros(0, dtype=torch.float32), targets_N.new_zeros(0, dtype=torch.bool)
    return torch.cat(nats), torch.cat(right)


def _scored(
    hidden_ND: Tensor, table_VD: Tensor, targets_N: Tensor, excluded: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    table = table_VD.to(_compute_dtype(hidden_ND))
    rows = rows_of_a_chunk(table_VD.shape[0], hidden_ND.device.type)
    for start in range(0, len(targets_N), rows):
        part = slice(start, start + rows)
        yield _log_probs(hidden_ND[part].to(table.dtype), table, excluded), targets_N[part]
