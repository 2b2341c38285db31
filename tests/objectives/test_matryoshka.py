"""The sum over widths: what each width sees, its weights, and where the gradient goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffembed.models.quantizer import signs, tanh_int8
from diffembed.objectives.contrastive import info_nce
from diffembed.objectives.matryoshka import matryoshka


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("quantize", [tanh_int8, signs])
def test_each_width_is_seen_through_the_quantizer(quantize: Callable[[Tensor], Tensor]) -> None:
    q, d = _random(5, 16), _random(5, 16, seed=1)
    hard = (lambda x: torch.round(127 * torch.tanh(x))) if quantize is tanh_int8 else (lambda x: 2.0 * (x >= 0) - 1.0)
    apart = [float(info_nce(hard(q[:, :w]), hard(d[:, :w]))) for w in (4, 8, 16)]
    assert float(matryoshka(info_nce, quantize, [q, d], (4, 8, 16))) == pytest.approx(sum(apart) / 3, rel=1e-5)
    weighted = matryoshka(info_nce, quantize, [q, d], (4, 8, 16), [1.0, 0.0, 3.0])
    assert float(weighted) == pytest.approx((apart[0] + 3 * apart[2]) / 4, rel=1e-5)


def test_the_cut_comes_before_the_quantizer() -> None:
    seen = []

    def quantize(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x

    matryoshka(lambda a, b, c: a.sum() + b.sum() + c.sum(), quantize, [_random(n, 8) for n in (2, 3, 4)], [8, 3])
    assert seen == [(2, 8), (3, 8), (4, 8), (2, 3), (3, 3), (4, 3)]


def test_gradients_reach_every_value_that_a_width_holds() -> None:
    x = _random(3, 8).requires_grad_()
    torch.autograd.backward([matryoshka(lambda a: a.pow(2).sum(), lambda a: a, [x], [2, 6], [3.0, 1.0])])
    expected = 2 * x.detach() * torch.tensor([1.0, 1.0, 0.25, 0.25, 0.25, 0.25, 0.0, 0.0])
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize(
    ("tensors", "widths", "weights", "message"),
    [
        ([8], [4, 9], None, r"widths \(4, 9\), expected 1 to 8"),
        ([8, 6], [7], None, "expected 1 to 6"),
        ([8], [0], None, "expected 1 to 8"),
        ([8], [], None, "1 tensors and 0 widths"),
        ([], [4], None, "0 tensors and 1 widths"),
        ([8], [4, 8], [1.0], "1 weights for 2 widths"),
        ([8], [4, 8], [1.0, -1.0], "expected at least 0 each"),
        ([8], [4, 8], [0.0, 0.0], "more than 0 together"),
    ],
)
def test_arguments_that_do_not_fit(tensors: list[int], widths: list[int], weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matryoshka(torch.sum, tanh_int8, [torch.ones(2, n) for n in tensors], widths, weights)
