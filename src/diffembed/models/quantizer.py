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


class _ScaledSigns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor) -> Tensor:
        signs = torch.where(mean >= 0, 1.0, -1.0)
        return signs * mean.abs().mean(dim=-1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def scaled_signs(mean: Tensor) -> Tensor:
    """``sign(mean)`` (0 counts as +1, as in packed bits) times the row's mean magnitude; the gradient is the identity.

    The scale changes no cosine. It brings the signs to the length of the vector they stand for, so that the gradients
    of a binary loss and of the INT8 one are of one size (the scaling factor of Rastegari et al. 2016, XNOR-Net).

    >>> x = torch.tensor([[0.5, -0.25, 0.0]], requires_grad=True)
    >>> y = scaled_signs(x); y.tolist()
    [[0.25, -0.25, 0.25]]
    >>> y.sum().backward(); x.grad.tolist()
    [[1.0, 1.0, 1.0]]
    """
    result: Tensor = _ScaledSigns.apply(mean)  # type: ignore[no-untyped-call]
    return result
