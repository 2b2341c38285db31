"""Packed attention: sequences end to end, no padding between them, registered with ``transformers``.

A backbone whose config says ``_attn_implementation = "diffembed_packed"`` runs ``packed_attention`` in every layer.
The caller passes a ``PackingPlan`` as the model's ``packing`` keyword; ``transformers`` hands it down untouched. Rows
never see another sequence, because each sequence is attended on its own: sequences of similar length share one
fused call, padded only inside that call and only as far as the longest of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from diffembed.text.batching import IntArray

PACKED = "diffembed_packed"
_SHORT = 512  # up to this length plain matrix products beat the fused kernel in bfloat16 on a CPU
_LENGTH_STEP = 16  # sequences whose lengths round up to the same multiple share one fused call


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of one rounded length.

    ``rows_BL`` are packed token numbers (padding repeats a sequence's last token); ``mask`` ``[B, 1, 1, L]`` is true
    where a key is real, ``None`` when nothing is padded; ``kept`` are the positions of the real tokens in the
    flattened ``rows_BL``.
    """

    rows_BL: Tensor
    mask: Tensor | None
    kept: Tensor


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """Which packed tokens attend to which, worked out once a batch and used by every layer."""

    groups: tuple[_Group, ...]
    order: Tensor  # [tokens] position of each packed token in the concatenation of the groups' kept tokens


def plan_packing(cu_seqlens: IntArray, device: torch.device | str = "cpu") -> PackingPlan:
    """Group the sequences of a packed batch by length.

    Args:
        cu_seqlens: ``[sequences + 1]`` as in ``PackedBatch``.
        device: where the index tensors go.
    """
    starts, lengths = cu_seqlens[:-1], np.diff(cu_seqlens)
    if len(lengths) == 0 or int(lengths.min()) < 1:
        raise ValueError("packed attention needs at least one sequence, and at least one token in each")
    rounded = -(-lengths // _LENGTH_STEP) * _LENGTH_STEP
    groups, kept_rows = [], []
    for step in np.unique(rounded):
        members = np.flatnonzero(rounded == step)
        width = int(lengths[members].max())
        columns = np.arange(width)[None, :]
        real = columns < lengths[members][:, None]
        rows = starts[members][:, None] + np.minimum(columns, lengths[members][:, None] - 1)
        kept_rows.append(rows[real])
        mask = None if real.all() else torch.from_numpy(real)[:, None, None, :].to(device)
        kept = torch.from_numpy(np.flatnonzero(real.ravel())).to(device)
        groups.append(_Group(torch.from_numpy(rows).to(device), mask, kept))
    order = np.empty(int(cu_seqlens[-1]), dtype=np.int64)
    order[np.concatenate(kept_rows)] = np.arange(order.shape[0])
    return PackingPlan(tuple(groups), torch.from_numpy(order).to(device))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: PackingPlan,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Block-diagonal attention over packed tokens; causal inside a sequence unless ``config.is_causal`` is false.

    Args:
        query: ``[1, heads, tokens, head_dim]``; ``key`` and ``value`` ``[1, kv_heads, tokens, head_dim]``.
        packing: the batch's plan; ``attention_mask`` is not used.

    Returns:
        ``[1, tokens, heads, head_dim]`` and no weights, as ``transformers`` expects.
    """
    causal = bool(getattr(module.config, "is_causal", True))
    # Under autocast the norms of query and key leave them in float32 while the value is in the compute type.
    padded = [_Unpack.apply(x[0].transpose(0, 1).to(value.dtype), packing) for x in (query, key, value)]  # type: ignore[no-untyped-call]
    outputs = []
    for group, *qkv in zip(packing.groups, *padded, strict=True):
        q, k, v = (x.transpose(1, 2) for x in qkv)
        mask, width = group.mask, group.rows_BL.shape[1]
        if causal:
            lower = torch.ones(width, width, dtype=torch.bool, device=q.device).tril()
            mask = lower if mask is None else mask & lower
        if q.dtype == torch.bfloat16 and q.device.type == "cpu" and width <= _SHORT:
            out = _matmul_attention(q, k, v, mask, scaling or q.shape[-1] ** -0.5)
        else:
            grouped = k.shape[1] != q.shape[1]
            out = scaled_dot_product_attention(q, k, v, mask, dropout, scale=scaling, enable_gqa=grouped)
        outputs.append(out.transpose(1, 2))
    result: Tensor = _Repack.apply(packing, *outputs)  # type: ignore[no-untyped-call]
    return result[None], None


def _unpack(x_THC: Tensor, plan: PackingPlan) -> tuple[Tensor, ...]:
    """``[B, L, heads, head_dim]`` of each group; padding repeats a real row, which no mask lets anyone see."""
    return tuple(x_THC[group.rows_BL] for group in plan.groups)


def _repack(groups: Sequence[Tensor], plan: PackingPlan) -> Tensor:
    """``[tokens, heads, head_dim]``: the real rows of the groups, in packed order."""
    kept = [x.flatten(0, 1)[group.kept] for x, group in zip(groups, plan.groups, strict=True)]
    return torch.cat(kept)[plan.order]


class _Unpack(torch.autograd.Function):
    """Its gradient is a gather, because every token stands in exactly one real place (torch's own would scatter)."""

    @staticmethod
    def forward(ctx: Any, x_THC: Tensor, plan: PackingPlan) -> tuple[Tensor, ...]:
        ctx.plan = plan
        return _unpack(x_THC, plan)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _repack(grads, ctx.plan), None


class _Repack(torch.autograd.Function):
    """The adjoint of ``_Unpack``; padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, plan: PackingPlan, *groups: Tensor) -> Tensor:
        ctx.plan = plan
        return _repack(groups, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = _unpack(grad, ctx.plan)
        for x, group in zip(grads, ctx.plan.groups, strict=True):
            if group.mask is not None:
                x.masked_fill_(~group.mask[:, 0, 0, :, None, None], 0.0)
        return None, *grads


def _matmul_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention as two matrix products, the query heads of one key head stacked as rows of one product.

    On CPUs with bfloat16 instructions this takes a third of the fused kernel's time on short sequences (forward and
    backward, 12 sequences of 96 tokens, 8 heads over 2), which is made for long ones.
    """
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    rows = query.reshape(batch, kv_heads, heads // kv_heads * length, width)
    scores = (rows @ key.transpose(-1, -2)).reshape(batch, heads, length, length) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).reshape(batch, kv_heads, heads // kv_heads * length, length)
    return (weights @ value).reshape(batch, heads, length, width)


AttentionInterface.register(PACKED, packed_attention)
