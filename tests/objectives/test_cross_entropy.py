"""The chunked cross-entropy against torch's own, and its memory against the vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from diffembed.objectives import cross_entropy as module
from diffembed.objectives.cross_entropy import linear_cross_entropy, token_scores

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


def _inputs(dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 6, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
    table = torch.randn(11, 6, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
    targets = torch.randint(0, 10, (23,), generator=generator).to(device)
    return hidden, table, targets, torch.rand(23, generator=generator).to(device)


@pytest.mark.parametrize("chunk", [1, 7, 1000, None])
@pytest.mark.parametrize("excluded", [None, 10])
def test_value_and_gradients_equal_torch(chunk: int | None, excluded: int | None) -> None:
    hidden, table, targets, weights = _inputs()
    ours = linear_cross_entropy(hidden, table, targets, weights, chunk=chunk, excluded=excluded)
    grads = torch.autograd.grad(3.0 * ours, (hidden, table))
    logits = hidden @ (table if excluded is None else table[:excluded]).T  # the excluded one is the last
    stock = (cross_entropy(logits, targets, reduction="none") * weights).sum()
    expected = torch.autograd.grad(3.0 * stock, (hidden, table))
    torch.testing.assert_close(ours.double(), stock, atol=1e-5, rtol=1e-5)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("learning", [(True, False), (False, True), (False, False)])
def test_what_is_frozen_gets_no_gradient(learning: tuple[bool, bool]) -> None:
    hidden, table, targets, weights = _inputs()
    hidden, table = (x.detach().requires_grad_(on) for x, on in zip((hidden, table), learning, strict=True))
    loss = linear_cross_entropy(hidden, table, targets, weights)
    stock = (cross_entropy(hidden @ table.T, targets, reduction="none") * weights).sum()
    torch.testing.assert_close(loss.double(), stock, atol=1e-5, rtol=1e-5)
    assert loss.requires_grad == any(learning)
    if any(learning):
        loss.backward()  # type: ignore[no-untyped-call]
        mine = [x.grad for x in (hidden, table)]
        assert [g is not None for g in mine] == list(learning)
        (expected,) = torch.autograd.grad(stock, [x for x in (hidden, table) if x.requires_grad])
        torch.testing.assert_close(next(g for g in mine if g is not None), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_runs_the_products_in_its_type_and_the_softmax_in_float32(device: str) -> None:
    """Value and gradients equal those of inputs rounded to bfloat16, up to the rounding of the logits."""
    hidden, table, targets, weights = _inputs(torch.float32, device)
    with torch.autocast(device, torch.bfloat16):
        loss = linear_cross_entropy(hidden, table, targets, weights, chunk=5)
    assert loss.dtype == torch.float32
    grads = torch.autograd.grad(loss, (hidden, table))
    rounded = [x.detach().bfloat16().double().requires_grad_() for x in (hidden, table)]
    logits = (rounded[0] @ rounded[1].T).bfloat16().double()  # what a bfloat16 product gives
    stock = (cross_entropy(logits, targets, reduction="none") * weights).sum()
    torch.testing.assert_close(loss.double(), stock, atol=2e-3, rtol=2e-3)
    exact = torch.autograd.grad(
        (cross_entropy(rounded[0] @ rounded[1].T, targets, reduction="none") * weights).sum(), rounded
    )
    for mine, expected in zip(grads, exact, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), expected, atol=0.03, rtol=0.03)


def test_the_gradient_of_a_bfloat16_table_does_not_worsen_with_its_chunks() -> None:
    """Summed in bfloat16, 512 chunks of two rows give four times the error of one chunk."""
    generator = torch.Generator().manual_seed(0)
    hidden, table = (torch.randn(n, 16, generator=generator).bfloat16().requires_grad_() for n in (1024, 50))
    targets = torch.randint(0, 50, (1024,), generator=generator)
    rounded = [x.detach().double().requires_grad_() for x in (hidden, table)]
    cross_entropy(rounded[0] @ rounded[1].T, targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
    exact = rounded[1].grad
    assert exact is not None

    def error(chunk: int) -> float:
        loss = linear_cross_entropy(hidden, table, targets, torch.ones(1024), chunk=chunk)
        (grad,) = torch.autograd.grad(loss, table)
        assert grad.dtype == torch.bfloat16
        return float((grad.double() - exact).norm() / exact.norm())

    assert error(2) < 1.2 * error(1024) and error(1024) < 0.01


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements of a tensor made while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return out


@pytest.mark.parametrize("vocabulary", [500, 2000, 4000])
def test_memory_is_flat_in_vocabulary_and_targets(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._CHUNK_ELEMENTS, "cpu", 2**16)
    table = torch.randn(vocabulary, 4, requires_grad=True)
    for count in (200, 800):
        hidden = torch.randn(count, 4, requires_grad=True)
        targets, weights = torch.zeros(count, dtype=torch.int64), torch.ones(count)
        with _Largest() as seen:
            linear_cross_entropy(hidden, table, targets, weights).backward()  # type: ignore[no-untyped-call]
            token_scores(hidden, table, targets)
        assert seen.elements <= 2**16 < count * vocabulary


def test_the_default_chunk_bounds_the_logits_at_every_vocabulary() -> None:
    for vocabulary in (300, 8192, 32_768, 151_936, 262_144):
        assert module.rows_of_a_chunk(vocabulary, "cpu") * vocabulary <= 2**25
        assert 64 <= module.rows_of_a_chunk(vocabulary, "cpu") <= 1024


def test_token_scores_equal_torch() -> None:
    hidden, table, targets, _ = _inputs()
    nats, right = token_scores(hidden, table, targets)
    logits = hidden @ table.T
    torch.testing.assert_close(nats.double(), cross_entropy(logits, targets, reduction="none"), atol=1e-5, rtol=1e-5)
    assert right.tolist() == (logits.argmax(-1) == targets).tolist()
    nats, right = token_scores(hidden[:0], table, targets[:0])
    assert nats.shape == right.shape == (0,)
