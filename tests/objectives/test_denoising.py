"""Language-model objectives against stock torch losses and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from diffembed.objectives.denoising import linear_cross_entropy, masked_diffusion, next_token
from diffembed.text.batching import TokenizedSequence, pack

MASK = 1


def _batch(lengths: tuple[int, ...] = (9, 1, 30)):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    return pack([TokenizedSequence(tuple(rng.integers(2, 40, n).tolist()), ()) for n in lengths])


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_linear_cross_entropy_equals_torch(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (23,), generator=generator)
    weights = torch.rand(23, generator=generator)
    ours = linear_cross_entropy(hidden, table, targets, weights, chunk=chunk)
    grads = torch.autograd.grad(3.0 * ours, (hidden, table))
    stock = (cross_entropy(hidden @ table.T, targets, reduction="none") * weights).sum()
    expected = torch.autograd.grad(3.0 * stock, (hidden, table))
    torch.testing.assert_close(ours.double(), stock, atol=1e-5, rtol=1e-5)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [True, False])
def test_masked_tokens_are_the_targets(shift: bool) -> None:
    batch = _batch()
    targets = masked_diffusion(batch, np.random.default_rng(1), mask_token_id=MASK, shift=shift)
    masked = np.flatnonzero(targets.token_ids == MASK)
    assert (targets.rows == (masked - 1 if shift else masked)).all()
    assert (targets.target_ids == batch.token_ids[masked]).all()
    untouched = np.setdiff1d(np.arange(batch.tokens), masked)
    assert (targets.token_ids[untouched] == batch.token_ids[untouched]).all()
    assert targets.eligible == batch.tokens - (3 if shift else 0)
    if shift:  # no state stands before a sequence's first token, and none of another sequence predicts it
        assert not np.isin(batch.cu_seqlens[:-1], masked).any()


def test_one_rate_a_sequence_and_weight_one_over_t() -> None:
    batch = _batch((4000, 4000, 4000))
    targets = masked_diffusion(batch, np.random.default_rng(2), mask_token_id=MASK)
    for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        inside = (targets.rows >= start) & (targets.rows < end)
        t = np.unique(1.0 / targets.weights[inside])
        assert len(t) == 1
        assert abs(inside.sum() / 4000 - t[0]) < 0.04


def test_weights_make_the_expected_count_one_a_token() -> None:
    batch = _batch((64,) * 50)
    totals = [
        targets.weights.sum() / targets.eligible
        for seed in range(40)
        for targets in [masked_diffusion(batch, np.random.default_rng(seed), mask_token_id=MASK)]
    ]
    assert abs(float(np.mean(totals)) - 1.0) < 0.05


def test_next_token_equals_the_stock_causal_loss() -> None:
    batch = _batch((9, 30))
    logits = torch.randn(batch.tokens, 40, generator=torch.Generator().manual_seed(0))
    targets = next_token(batch)
    ours = cross_entropy(logits[targets.rows], torch.from_numpy(targets.target_ids), reduction="sum") / targets.eligible
    parts = []
    for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        ids = torch.from_numpy(batch.token_ids[start:end])
        parts.append(cross_entropy(logits[start : end - 1], ids[1:], reduction="sum"))
    assert torch.isclose(ours, torch.stack(parts).sum() / (batch.tokens - 2))
