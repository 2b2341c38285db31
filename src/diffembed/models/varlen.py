"""The variable-length attention kernel of torch on CUDA: all sequences of a pack in one call, nothing padded.

Whether it can be used is not read off version numbers: the first time a device, type and head size meet, the kernel
runs on a toy pack, forward and backward, with every kind of window, and is compared with plain attention. Where it is
absent, raises or disagrees, packed attention stays with fused attention a sequence group (``models/attention.py``).
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffembed.text.batching import IntArray

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch built without it
    varlen_attn = None  # type: ignore[assignment]

Reach = tuple[int, int]  # how many tokens back and ahead a token sees, itself not counted; -1: all of its sequence
_TOLERANCE = 0.05  # of values near 1, in 8 bits of mantissa
_LENGTHS = (1, 7, 3)


def usable(query: Tensor, dropout: float) -> bool:
    """Whether the kernel serves these queries: half precision on CUDA, no dropout, and its own trial passed."""
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16) or dropout:
        return False
    return trial(query.device, query.dtype, query.shape[-1])


def varlen_attention(
    query_THC: Tensor,
    key_TGC: Tensor,
    value_TGC: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    reach: Reach,
    scale: float | None,
) -> Tensor:
    """Attention within each sequence, ``[tokens, heads, head_dim]``.

    Args:
        query_THC: ``[tokens, heads, head_dim]``; keys and values may have fewer heads, a divisor of the queries'.
        cu_seqlens: int32 ``[sequences + 1]`` on the same device.
        longest: tokens of the longest sequence.
        reach: tokens back and ahead that a token sees; the kernel counts the same way, both ends included.
    """
    out = varlen_attn(
        query_THC,
        key_TGC,
        value_TGC,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scale,
        window_size=reach,
        enable_gqa=key_TGC.shape[1] != query_THC.shape[1],
    )
    assert isinstance(out, Tensor)  # a tuple only where auxiliary outputs are asked for
    return out


@lru_cache(maxsize=32)
def trial(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Run the kernel once against ``reference_attention``; a warning says why where it is not used."""
    try:
        for reach in ((-1, -1), (-1, 0), (2, 2), (1, 0)):
            _compare(device, dtype, head_dim, reach)
    except Exception as error:  # whatever the kernel raises, the answer is the same: do without it
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"torch's varlen attention is not used for {dtype} heads of {head_dim} on {device} ({first}); "
            "packed attention runs on fused attention instead",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _compare(device: torch.device, dtype: torch.dtype, head_dim: int, reach: Reach) -> None:
    cu_seqlens = np.concatenate([[0], np.cumsum(_LENGTHS)]).astype(np.int64)
    generator = torch.Generator().manual_seed(0)
    # The first call may come from within inference mode or autocast, which the trial is not about.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        parts = [torch.randn(int(cu_seqlens[-1]), h, head_dim, generator=generator) for h in (4, 2, 2)]
        ours = [p.to(device, dtype).requires_grad_() for p in parts]
        theirs = [p.detach().float().requires_grad_() for p in ours]
        cu = torch.from_numpy(cu_seqlens).to(device, torch.int32)
        outs = (
            varlen_attention(ours[0], ours[1], ours[2], cu, max(_LENGTHS), reach, None),
            reference_attention(theirs[0], theirs[1], theirs[2], cu_seqlens, reach),
        )
        weights = torch.randn(outs[1].shape, generator=generator).to(device)
        for out in outs:
            (out.float() * weights).sum().backward()  # type: ignore[no-untyped-call]
    for name, a, b in [("forward", *outs)] + [
        ("backward", x.grad, y.grad)
        for x, y in zip(ours, theirs, strict=True)
        if x.grad is not None and y.grad is not None
    ]:
        worst = float(((a.float() - b).abs().max() / b.abs().max().clamp_min(1.0)).detach())
        if not worst < _TOLERANCE:
            raise ValueError(f"its {name} pass with window {reach} is off by {worst:.2g}")


def reference_attention(
    query_THC: Tensor, key_TGC: Tensor, value_TGC: Tensor, cu_seqlens: IntArray, reach: Reach
) -> Tensor:
    """Plain attention over the whole pack with an explicit mask: quadratic, for comparison only."""
    tokens = query_THC.shape[0]
    document = torch.from_numpy(np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens)))
    ahead = torch.arange(tokens)[None, :] - torch.arange(tokens)[:, None]
    allowed = document[:, None] == document[None, :]
    back, forward = reach
    if back >= 0:
        allowed &= ahead >= -back
    if forward >= 0:
        allowed &= ahead <= forward
    groups = query_THC.shape[1] // key_TGC.shape[1]
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (key_TGC, value_TGC))
    scores = torch.einsum("qhc,khc->hqk", query_THC, keys) * query_THC.shape[-1] ** -0.5
    weights = scores.masked_fill(~allowed.to(scores.device), -torch.inf).softmax(-1)
    return torch.einsum("hqk,khc->qhc", weights, values)
