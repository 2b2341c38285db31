"""The quantizer as training sees it: hard values forward, the gradient of tanh backward.

``vectors.quantize`` holds the same arithmetic in numpy for everything that runs without torch; a test keeps the two
bit-equal. Source: pplx-embed (arXiv 2602.11151), quantization-aware contrastive training with a straight-through
estimator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _TanhInt8(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor) -> Tensor:
        soft = torch.tanh(mean)
        ctx.save_for_backward(soft)
        return torch.round(127.0 * soft).clamp_(-127.0, 127.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        soft: Tensor = ctx.saved_tensors[0]
        return grad * 127.0 * (1.0 - soft * soft)


def tanh_int8(mean: Tensor) -> Tensor:
    """``round(127 tanh(mean))`` as floats; the gradient passes as if nothing had been rounded.

    >>> x = torch.tensor([0.0, 0.5, -2.0], requires_grad=True)
    >>> y = tanh_int8(x); y.tolist()
    [0.0, 59.0, -122.0]
    >>> y.sum().backward(); [round(g, 4) for g in x.grad.tolist()]
    [127.0, 99.8789, 8.9727]
    """
    result: Tensor = _TanhInt8.apply(mean)  # type: ignore[no-untyped-call]
    return result


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1.0)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        undecided: Tensor = ctx.saved_tensors[0]
        return grad * undecided


def signs(mean: Tensor) -> Tensor:
    """``sign(mean)`` as -1 and 1 (0 counts as 1, as in packed bits), with the gradient of a hard tanh.

    Rows get a root mean square of 1 first, which changes no sign: the gradient then cannot make a row longer,
    only turn it, and passes where a value is within that size (Hubara et al. 2016, arXiv 1602.02830, section 1.3).

    >>> x = torch.tensor([[0.5, -0.25, 0.0, 2.0]], requires_grad=True)
    >>> y = signs(x); y.tolist()
    [[1.0, -1.0, 1.0, 1.0]]
    >>> (y * torch.tensor([3.0, 2.0, 1.0, 9.0])).sum().backward()  # the 9 does not count: 2.0 is decided
    >>> round((x * x.grad).sum().item(), 6)  # nothing along the row
    0.0
    """
    result: Tensor = _Signs.apply(mean * mean.pow(2).mean(-1, keepdim=True).clamp_min(1e-12).rsqrt())  # type: ignore[no-untyped-call]
    return result
