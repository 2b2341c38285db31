"""Language-model objectives against brute force and stock losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from diffembed.objectives.corruption import cart_weights
from diffembed.objectives.denoising import masked_at, masked_diffusion, masked_next_token, next_token
from diffembed.objectives.schedules import Schedule
from diffembed.objectives.targets import Targets, regroup
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack

MASK = 1
OBJECTIVES: dict[str, Callable[..., Targets]] = {
    "linear": masked_diffusion,
    "cosine": partial(masked_diffusion, schedule="cosine"),
    "no shift": partial(masked_diffusion, shift=False),
    "mdlm": partial(masked_diffusion, weighting="mdlm"),
    "cart": partial(masked_diffusion, weighting="cart"),
    "masked-mean": partial(masked_diffusion, weighting="masked-mean"),
    "stratified": partial(masked_diffusion, draw="stratified"),
    "antithetic": partial(masked_diffusion, draw="antithetic"),
    "truncated": partial(masked_diffusion, truncate_share=0.5),
    "at a rate": partial(masked_at, rate=0.4),
    "mntp": partial(masked_next_token, style="all", rate=0.4),
}


def _batch(lengths: tuple[int, ...] = (9, 1, 30)) -> PackedBatch:
    rng = np.random.default_rng(0)
    return pack([TokenizedSequence(tuple(rng.integers(2, 40, n).tolist()), ()) for n in lengths])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_masked_tokens_are_the_targets(name: str) -> None:
    batch = _batch()
    shift = name != "no shift"
    for seed in range(5):
        targets = OBJECTIVES[name](batch, np.random.default_rng(seed), mask_token_id=MASK)
        masked = np.flatnonzero(targets.batch.token_ids == MASK)
        assert (targets.rows == (masked - 1 if shift else masked)).all()
        assert (targets.target_ids == targets.clean_ids[masked]).all()
        untouched = np.setdiff1d(np.arange(targets.batch.tokens), masked)
        assert (targets.batch.token_ids[untouched] == targets.clean_ids[untouched]).all()
        if shift:  # no state stands before a sequence's first token, and none of another sequence predicts it
            assert not np.isin(targets.batch.cu_seqlens[:-1], masked).any()
        can = targets.batch.position_ids > 0 if shift else np.ones(targets.batch.tokens, bool)
        counts_masked = name in ("masked-mean", "mntp")
        assert targets.eligible == (len(masked) if counts_masked else can.sum())
        assert np.isin(targets.rows, targets.aligned).all()
        assert targets.excluded == (MASK if name in ("mdlm", "at a rate") else None)
    assert (batch.token_ids == _batch().token_ids).all(), "an objective leaves the batch as it was"


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_one_rate_a_sequence_and_its_weight(schedule: Schedule) -> None:
    batch = _batch((4000, 4000, 4000))
    targets = masked_diffusion(batch, np.random.default_rng(2), mask_token_id=MASK, schedule=schedule)
    for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        inside = (targets.rows >= start) & (targets.rows < end)
        (weight,) = np.unique(targets.weights[inside])
        # the cosine's weight is pi/2 tan(x) at the rate cos(x)
        rate = 1.0 / weight if schedule == "linear" else np.cos(np.arctan(weight * 2 / np.pi))
        assert abs(inside.sum() / 4000 - rate) < 0.03


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("weighting", ["elbo", "mdlm"])
def test_weights_make_the_expected_count_one_a_token(schedule: Schedule, weighting: Any) -> None:
    """E[w 1(masked)] = the integral of -alpha' = 1 - alpha(0.001): 0.999 linear; MDLM keeps a share of 0.001 more."""
    batch = _batch((64,) * 500)
    objective = partial(masked_diffusion, mask_token_id=MASK, schedule=schedule, weighting=weighting, draw="stratified")
    totals = [t.weights.sum() / t.eligible for s in range(20) for t in [objective(batch, np.random.default_rng(s))]]
    assert float(np.mean(totals)) == pytest.approx(1.0, abs=0.012)


def test_mdlm_leaves_a_share_readable_at_the_end() -> None:
    batch = _batch((4000,) * 20)
    kept = masked_diffusion(batch, np.random.default_rng(0), mask_token_id=MASK, weighting="mdlm", epsilon=0.999)
    assert len(kept.rows) / batch.tokens < 0.0015  # masked at most at the rate 0.001


def test_cart_weights_are_those_of_the_masks() -> None:
    batch = _batch()
    targets = masked_diffusion(batch, np.random.default_rng(1), mask_token_id=MASK, weighting="cart", cart_p=0.5)
    assert targets.weights == pytest.approx(cart_weights(batch, targets.rows + 1, 0.5), rel=1e-6)
    assert len(set(targets.weights.tolist())) > 5


def test_a_token_that_is_the_mask_is_never_a_target() -> None:
    batch = pack([TokenizedSequence((5, MASK, 6, MASK), ())])
    targets = masked_at(batch, np.random.default_rng(0), mask_token_id=MASK, rate=1.0)
    assert targets.target_ids.tolist() == [6] and targets.eligible == 1


@pytest.mark.parametrize("shift", [True, False])
def test_shuffled_tokens_are_targets_too(shift: bool) -> None:
    batch = _batch((60, 60))
    objective = partial(masked_diffusion, mask_token_id=MASK, shift=shift, shuffle_share=0.5, shuffle_window=6)
    for seed in range(5):
        targets = objective(batch, np.random.default_rng(seed))
        plain = masked_diffusion(batch, np.random.default_rng(seed), mask_token_id=MASK, shift=shift)
        predicted = targets.rows + int(shift)
        masked = targets.batch.token_ids == MASK
        assert (masked == (plain.batch.token_ids == MASK)).all(), "the masks are those drawn without shuffling"
        assert (np.diff(targets.rows) > 0).all() and (targets.target_ids == batch.token_ids[predicted]).all()
        changed = np.flatnonzero(targets.batch.token_ids != batch.token_ids)
        assert np.isin(changed, predicted).all(), "nothing is corrupted that is not reconstructed"
        shuffled = ~masked[predicted]
        assert (targets.weights[shuffled] == 1.0).all()
        assert targets.weights[~shuffled] == pytest.approx(plain.weights)
        assert targets.eligible == plain.eligible
        assert np.bincount(targets.batch.token_ids[~masked]).tolist() == np.bincount(batch.token_ids[~masked]).tolist()


def test_mntp_rates_and_fates() -> None:
    batch = _batch((20_000,))
    targets = masked_next_token(batch, np.random.default_rng(0), mask_token_id=MASK, rate=0.2, style="bert")
    assert len(targets.rows) / batch.tokens == pytest.approx(0.2, abs=0.01)
    given = targets.batch.token_ids[targets.rows + 1]
    assert (given == MASK).mean() == pytest.approx(0.8, abs=0.02)
    # 38 kinds of token: one of the batch is by chance the token itself in 1 of 38 cases
    assert (given == targets.target_ids).mean() == pytest.approx(0.1 + 0.1 / 38, abs=0.015)
    assert targets.eligible == len(targets.rows) and (targets.weights == 1.0).all()


def test_mntp_equals_the_stock_masked_loss_with_labels_moved_by_one() -> None:
    batch = _batch((9, 30))
    logits = torch.randn(batch.tokens, 40, generator=torch.Generator().manual_seed(0))
    targets = masked_next_token(batch, np.random.default_rng(3), mask_token_id=MASK, rate=0.5, style="all")
    ours = cross_entropy(logits[targets.rows], torch.from_numpy(targets.target_ids), reduction="sum") / targets.eligible
    labels = torch.full((batch.tokens,), -100)
    for i in np.flatnonzero(targets.batch.token_ids == MASK).tolist():
        labels[i - 1] = int(batch.token_ids[i])
    assert torch.isclose(ours, cross_entropy(logits, labels, ignore_index=-100))


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


def test_the_default_objective_draws_as_it_always_did() -> None:
    """The generator's stream decides old runs: t by one uniform draw a sequence, then one number an eligible token."""
    batch, rng = _batch((9, 1, 30)), np.random.default_rng(5)
    targets = masked_diffusion(batch, np.random.default_rng(5), mask_token_id=MASK)
    t = np.repeat(rng.uniform(1e-3, 1.0, 3), batch.lengths)
    can = np.flatnonzero(batch.position_ids > 0)
    masked = can[rng.random(len(can)) < t[can]]
    assert targets.rows.tolist() == (masked - 1).tolist()
    assert targets.weights.tolist() == (1.0 / t[masked]).astype(np.float32).tolist()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_regrouping_sequences_keeps_every_target(name: str) -> None:
    targets = OBJECTIVES[name](_batch((9, 1, 30, 4)), np.random.default_rng(2), mask_token_id=MASK)
    parts = [regroup([(targets, i) for i in group]) for group in ([3, 0], [1], [2])]
    assert sum(p.eligible for p in parts) == targets.eligible
    whole = regroup([(parts[0], 1), (parts[1], 0), (parts[2], 0), (parts[0], 0)])
    for name in ("rows", "target_ids", "weights", "aligned", "clean_ids"):
        assert getattr(whole, name).tolist() == getattr(targets, name).tolist()
    assert whole.batch.token_ids.tolist() == targets.batch.token_ids.tolist()
    assert whole.batch.cu_seqlens.tolist() == targets.batch.cu_seqlens.tolist()
