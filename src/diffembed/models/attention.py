"""Packed attention: sequences end to end, no padding between them, registered with ``transformers``.

A backbone whose config says ``_attn_implementation = "diffembed_packed"`` runs ``packed_attention`` in every layer.
The caller passes a ``PackingPlan`` as the model's ``packing`` keyword; ``transformers`` hands it down untouched. Rows
never see another sequence, because each sequence is attended on its own: on a CPU sequences of similar length share
one fused call, padded only inside that call and only as far as the longest of the group; on CUDA torch's varlen kernel
takes the whole pack where it works (``models/varlen.py``). Memory grows linearly with a sequence's length, in every
layer: a causal or windowed layer never holds a mask over all pairs of a long sequence.

A sliding window of W tokens means what it means in ``transformers``: causal, a token sees itself and the W - 1 before
it; opened, it sees W to either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from diffembed.errors import ModelError
from diffembed.models import varlen
from diffembed.models.varlen import Reach
from diffembed.text.batching import IntArray

PACKED = "diffembed_packed"
_SHORT = 512  # up to this length plain matrix products beat the fused kernel in bfloat16 on a CPU
_LENGTH_STEP = 16  # sequences whose lengths round up to the same multiple share one fused call
_BLOCK = (128, 2048)  # fewest and most queries of one block of a windowed sequence
_FOREIGN = ("softcap", "s_aux", "position_bias")  # arithmetic of other families, which this function does not know


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


class PackingPlan:
    """Which packed tokens attend to which, worked out once a batch and used by every layer.

    Attributes:
        longest: tokens of the longest sequence.
    """

    def __init__(self, cu_seqlens: IntArray, device: torch.device | str) -> None:
        self._cu_seqlens, self._device = cu_seqlens, device
        self.longest = int(np.diff(cu_seqlens).max())

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """``[sequences + 1]`` int32, as the varlen kernel reads it."""
        return torch.from_numpy(self._cu_seqlens).to(self._device, torch.int32)

    @property
    def groups(self) -> tuple[_Group, ...]:
        """Sequences by rounded length."""
        return self._layout[0]

    @property
    def order(self) -> Tensor:
        """``[tokens]`` position of each packed token in the concatenation of the groups' kept tokens."""
        return self._layout[1]

    @cached_property
    def _layout(self) -> tuple[tuple[_Group, ...], Tensor]:
        starts, lengths = self._cu_seqlens[:-1], np.diff(self._cu_seqlens)
        rounded = -(-lengths // _LENGTH_STEP) * _LENGTH_STEP
        groups, kept_rows = [], []
        for step in np.unique(rounded):
            members = np.flatnonzero(rounded == step)
            width = int(lengths[members].max())
            columns = np.arange(width)[None, :]
            real = columns < lengths[members][:, None]
            rows = starts[members][:, None] + np.minimum(columns, lengths[members][:, None] - 1)
            kept_rows.append(rows[real])
            mask = None if real.all() else torch.from_numpy(real)[:, None, None, :].to(self._device)
            kept = torch.from_numpy(np.flatnonzero(real.ravel())).to(self._device)
            groups.append(_Group(torch.from_numpy(rows).to(self._device), mask, kept))
        order = np.empty(int(self._cu_seqlens[-1]), dtype=np.int64)
        order[np.concatenate(kept_rows)] = np.arange(order.shape[0])
        return tuple(groups), torch.from_numpy(order).to(self._device)


def plan_packing(cu_seqlens: IntArray, device: torch.device | str = "cpu") -> PackingPlan:
    """The plan of a packed batch.

    Args:
        cu_seqlens: ``[sequences + 1]`` as in ``PackedBatch``.
        device: where the index tensors go.

    Raises:
        ValueError: no sequence, or an empty one.
    """
    lengths = np.diff(cu_seqlens)
    if len(lengths) == 0 or int(lengths.min()) < 1:
        raise ValueError("packed attention needs at least one sequence, and at least one token in each")
    return PackingPlan(cu_seqlens, device)


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
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Block-diagonal attention over packed tokens; causal inside a sequence unless ``config.is_causal`` is false.

    Args:
        query: ``[1, heads, tokens, head_dim]``; ``key`` and ``value`` ``[1, kv_heads, tokens, head_dim]``.
        packing: the batch's plan; ``attention_mask`` is not used.
        sliding_window: the layer's window; ``None`` sees the whole sequence.

    Returns:
        ``[1, tokens, heads, head_dim]`` and no weights, as ``transformers`` expects.

    Raises:
        ModelError: the layer asks for arithmetic that is not done here (soft-capped scores, attention sinks).
    """
    if asked := [name for name in _FOREIGN if others.get(name) is not None]:
        raise ModelError(f"packed attention does not know {asked[0]}; load the model with attn_implementation='eager'")
    causal = bool(getattr(module.config, "is_causal", True))
    reach = window_reach(causal, sliding_window)
    # Under autocast the norms of query and key leave them in float32 while the value is in the compute type.
    rows = [x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value)]
    if varlen.usable(rows[0], dropout):
        out = varlen.varlen_attention(rows[0], rows[1], rows[2], packing.cu_seqlens, packing.longest, reach, scaling)
        return out[None], None
    padded = [_Unpack.apply(x, packing) for x in rows]  # type: ignore[no-untyped-call]
    outputs = []
    for group, *qkv in zip(packing.groups, *padded, strict=True):
        q, k, v = (x.transpose(1, 2) for x in qkv)
        outputs.append(_group_attention(q, k, v, group.mask, reach, scaling, dropout).transpose(1, 2))
    result: Tensor = _Repack.apply(packing, *outputs)  # type: ignore[no-untyped-call]
    return result[None], None


def window_reach(causal: bool, window: int | None) -> Reach:
    """How many tokens back and ahead a token sees (-1: all), itself not counted.

    >>> window_reach(True, None), window_reach(False, None), window_reach(True, 4), window_reach(False, 4)
    ((-1, 0), (-1, -1), (3, 0), (4, 4))
    """
    if window is None:
        return -1, 0 if causal else -1
    return (window - 1, 0) if causal else (window, window)


def _group_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, reach: Reach, scale: float | None, dropout: float
) -> Tensor:
    """Attention of sequences of one length ``[B, heads, L, head_dim]``; what padded rows give is never used."""
    width = q.shape[2]
    back, ahead = reach
    windowed = 0 <= back < width - 1
    if width > _SHORT and windowed:
        return _banded_attention(q, k, v, mask, reach, scale, dropout)
    if width > _SHORT and ahead == 0:  # padding stands last, where no real row looks
        return _fused_attention(q, k, v, None, scale, dropout, causal=True)
    if windowed or ahead == 0:
        band = _band(width, width, back, ahead, 0, q.device)
        mask = band if mask is None else mask & band
        if windowed:  # a padded row far behind the last real token would see nothing, and nothing has no softmax
            mask = mask | torch.eye(width, dtype=torch.bool, device=q.device)
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and width <= _SHORT and not dropout:
        return _matmul_attention(q, k, v, mask, scale or q.shape[-1] ** -0.5)
    return _fused_attention(q, k, v, mask, scale, dropout)


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, dropout: float, causal: bool = False
) -> Tensor:
    """torch's fused attention, by a kernel whose memory is linear.

    On CUDA only the flash kernel shares key heads, and it takes neither float32 nor a mask: torch would fall back on
    plain products, which hold every score. The memory-efficient kernel takes both, given a key head a query head.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and q.device.type == "cuda":
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    shared = k.shape[1] != q.shape[1]
    return scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal, scale=scale, enable_gqa=shared)


def _band(queries: int, keys: int, back: int, ahead: int, first_key: int, device: torch.device) -> Tensor:
    """``[queries, keys]``: whether query i sees key j, which stands at position ``j + first_key`` (-1: no limit)."""
    distance = torch.arange(keys, device=device)[None, :] + first_key - torch.arange(queries, device=device)[:, None]
    seen = distance <= ahead if ahead >= 0 else torch.ones_like(distance, dtype=torch.bool)
    return seen & (distance >= -back) if back >= 0 else seen


def _banded_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, reach: Reach, scale: float | None, dropout: float
) -> Tensor:
    """A sliding window over long sequences: blocks of queries against the keys within their reach, linear in length.

    The overlapping key blocks are views of one tensor (``unfold``), so that the backward pass adds them up in one go;
    all blocks but those at the ends share one mask.
    """
    (back, ahead), length = reach, q.shape[2]
    block = min(max(back, _BLOCK[0]), _BLOCK[1])
    tail, span = -length % block, back + block + ahead
    real = torch.ones(1, length, dtype=torch.bool, device=q.device) if mask is None else mask[:, 0, 0]
    whole = length if mask is None else length - _LENGTH_STEP + 1  # padding is shorter than a step
    queries = pad(q, (0, 0, 0, tail)).split(block, dim=2)  # type: ignore[no-untyped-call]
    keys, values = (pad(x, (0, 0, back, ahead + tail)).unfold(2, span, block).unbind(2) for x in (k, v))
    reals = pad(real, (back, ahead + tail)).unfold(1, span, block).unbind(1)
    band = _band(block, span, back, ahead, -back, q.device)
    itself = _band(block, span, 0, 0, -back, q.device)  # padded rows see themselves: no softmax over nothing
    inner = torch.zeros(block, span, dtype=q.dtype, device=q.device).masked_fill_(~band, -torch.inf)
    outputs = []
    for i, (qs, ks, vs, seen) in enumerate(zip(queries, keys, values, reals, strict=True)):
        start, end = i * block - back, (i + 1) * block + ahead
        allowed = inner if start >= 0 and end <= whole else (band & seen[:, None, None, :]) | itself
        ks, vs = ks.transpose(-1, -2), vs.transpose(-1, -2)
        outputs.append(_fused_attention(qs, ks, vs, allowed, scale, dropout))
    return torch.cat(outputs, dim=2)[:, :, :length]


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
