"""Language-model objectives: masked diffusion and next-token prediction, one signature for both.

An objective looks at a packed batch and says what the model reads and what it must predict: ``Targets``. The loss is
``linear_cross_entropy`` over the states it names, divided by the number of *eligible* tokens of the whole step, so the
value does not change with gradient accumulation or with the number of processes.

Masked diffusion (absorbing state, linear schedule): t ~ U(eps, 1) once a sequence; each eligible token is replaced
by the mask token independently with probability t; masked tokens weigh 1/t. Its expectation is an upper bound on the
negative log-likelihood (negative ELBO; Gong et al. 2025, arXiv 2410.17891, as used by pplx-embed, arXiv 2602.11151).
With ``shift`` the state at i predicts token i + 1, as the autoregressive parent did; the first token of a sequence has
no state before it and is never masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffembed.text.batching import IntArray, PackedBatch

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Targets:
    """What a model reads and what it must predict.

    Attributes:
        token_ids: ``[tokens]`` what the model reads (masked for diffusion).
        rows: ``[targets]`` packed positions whose state predicts.
        target_ids: ``[targets]`` the token each must predict.
        weights: ``[targets]`` weight of each cross-entropy.
        eligible: how many tokens could have been targets; the loss is divided by their sum over the step.
    """

    token_ids: IntArray
    rows: IntArray
    target_ids: IntArray
    weights: FloatArray
    eligible: int


def _eligible_rows(batch: PackedBatch, shift: bool) -> IntArray:
    return np.flatnonzero(batch.position_ids > 0) if shift else np.arange(batch.tokens)


def next_token(batch: PackedBatch) -> Targets:
    """The autoregressive objective: state i predicts token i + 1 of its own sequence.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> t = next_token(pack([TokenizedSequence((5, 6, 7), ()), TokenizedSequence((8, 9), ())]))
    >>> t.rows.tolist(), t.target_ids.tolist(), t.eligible
    ([0, 1, 3], [6, 7, 9], 3)
    """
    positions = _eligible_rows(batch, shift=True)
    targets = batch.token_ids[positions]
    return Targets(batch.token_ids, positions - 1, targets, np.ones(len(targets), np.float32), len(positions))


def masked_diffusion(
    batch: PackedBatch,
    rng: np.random.Generator,
    *,
    mask_token_id: int,
    shift: bool = True,
    epsilon: float = 1e-3,
    mask_rate: float | None = None,
) -> Targets:
    """Mask tokens at random; masked ones are targets with weight 1/t.

    Args:
        batch: clean sequences.
        rng: draws t and the masks.
        mask_token_id: what a masked token becomes.
        shift: state i predicts token i + 1 (kept from the autoregressive parent).
        epsilon: smallest t.
        mask_rate: fixes t for every sequence instead of drawing it (evaluation by bin).

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> b = pack([TokenizedSequence((5, 6, 7, 8), ())])
    >>> t = masked_diffusion(b, np.random.default_rng(0), mask_token_id=1, mask_rate=0.5)
    >>> t.token_ids.tolist(), t.rows.tolist(), t.target_ids.tolist(), t.weights.tolist(), t.eligible
    ([5, 6, 1, 1], [1, 2], [7, 8], [2.0, 2.0], 3)
    """
    t = rng.uniform(epsilon, 1.0, len(batch)) if mask_rate is None else np.full(len(batch), mask_rate)
    t_of_token = np.repeat(t, batch.lengths)
    eligible = _eligible_rows(batch, shift)
    masked = eligible[rng.random(len(eligible)) < t_of_token[eligible]]
    token_ids = batch.token_ids.copy()
    token_ids[masked] = mask_token_id
    rows = masked - 1 if shift else masked
    weights = (1.0 / t_of_token[masked]).astype(np.float32)
    return Targets(token_ids, rows, batch.token_ids[masked], weights, len(eligible))


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of weighted cross-entropies of ``hidden @ table.T``, in row chunks, its gradient made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, table_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
    ) -> Tensor:
        compute = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_ND.dtype
        table = table_VD.to(compute)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        learning = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden_ND) if learning else hidden_ND
        grad_table = torch.zeros_like(table_VD) if learning else table_VD
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            hidden, targets, weights = hidden_ND[part].to(compute), targets_N[part], weights_N[part]
            log_probs = torch.log_softmax((hidden @ table.T).float(), dim=-1)
            total -= (log_probs.gather(1, targets[:, None])[:, 0] * weights).sum()
            if not learning:
                continue
            grad = log_probs.exp_()
            grad[torch.arange(len(targets), device=grad.device), targets] -= 1.0
            grad = (grad * weights[:, None]).to(compute)
            grad_hidden[part] = (grad @ table).to(grad_hidden.dtype)
            grad_table += grad.T @ hidden
        ctx.save_for_backward(grad_hidden, grad_table)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_table = ctx.saved_tensors
        return grad_hidden * grad, grad_table * grad, None, None, None


def linear_cross_entropy(
    hidden_ND: Tensor, table_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, chunk: int = 1024
) -> Tensor:
    """``sum_n weights_n * CE(hidden_n @ table.T, targets_n)`` without holding all logits at once.

    Memory is ``chunk x vocabulary`` whatever the number of targets. Returns a float32 scalar in nats.

    >>> h, e = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> round(float(linear_cross_entropy(h, e, torch.tensor([0]), torch.tensor([3.0]))), 4)  # 3 ln(1 + e^-2)
    0.3808
    """
    result: Tensor = _LinearCrossEntropy.apply(hidden_ND, table_VD, targets_N, weights_N, chunk)  # type: ignore[no-untyped-call]
    return result
