"""Span means and the straight-through quantizer."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed.models.embedder import span_means
from diffembed.models.quantizer import tanh_int8
from diffembed.vectors.quantize import quantize


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**16))
def test_span_means_equal_a_loop(lengths: list[int], seed: int) -> None:
    gap = 2  # tokens between spans belong to none
    starts = np.cumsum([0, *[n + gap for n in lengths[:-1]]])
    spans = np.stack([starts, starts + np.array(lengths)], axis=1)
    states = torch.randn(int(spans[-1, 1]) + gap, 5, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([states[a:b].mean(0) for a, b in spans])
    torch.testing.assert_close(span_means(states, spans), expected)


def test_quantizer_forward_is_inference_bit_for_bit_and_its_gradient_is_that_of_tanh() -> None:
    mean = (torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)) * 1.5).requires_grad_()
    hard = tanh_int8(mean)
    served = quantize(mean.detach().numpy(), "int8")
    differing = np.flatnonzero(hard.detach().numpy() != served)
    # numpy's and torch's tanh may differ in the last bit, which moves a value only if it stands on a rounding edge
    edges = 127 * np.tanh(mean.detach().double().numpy().ravel()[differing])
    assert np.all(np.abs(np.abs(edges % 1) - 0.5) < 1e-4) and differing.size <= 3
    mean = mean.detach().double().requires_grad_()
    weights = torch.randn_like(mean)
    (tanh_int8(mean) * weights).sum().backward()
    soft = mean.detach().clone().requires_grad_()
    (127 * torch.tanh(soft) * weights).sum().backward()
    assert mean.grad is not None and soft.grad is not None
    torch.testing.assert_close(mean.grad, soft.grad)
