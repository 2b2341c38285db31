"""The ELBO estimate of a tiny model against exhaustive summation over all masks of a short sequence.

The reference knows neither t nor weights. Masked diffusion's bound in continuous time is the mean, over all orders in
which the tokens can be filled in, of the autoregressive negative log-likelihood in that order (Ou et al. 2025, arXiv
2406.03736, theorem 2); a short sequence has few orders, and few masks to run the model on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from diffembed.models.backbone import build_qwen3, set_causal
from diffembed.models.embedder import Embedder
from diffembed.objectives.denoising import masked_at, masked_diffusion
from diffembed.objectives.schedules import Draw, Schedule
from diffembed.objectives.targets import Targets
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack
from diffembed.training.heldout import STRATA, HeldOut, denoising_losses
from diffembed.training.lm import lm_losses

MASK, VOCABULARY = 1, 9
SEQUENCE = (3, 7, 3, 5, 2)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """A random model far from uniform: what it predicts depends on what it reads."""
    backbone = build_qwen3(
        vocab_size=VOCABULARY,
        hidden_size=16,
        layers=1,
        heads=2,
        kv_heads=1,
        head_dim=8,
        intermediate_size=24,
        max_tokens=16,
        rope_theta=100.0,
        pad_token_id=0,
        eos_token_id=2,
        seed=3,
    )
    set_causal(backbone, False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return Embedder(backbone)


@torch.no_grad()
def _losses_of_every_mask(embedder: Embedder, shift: bool, excluded: int | None) -> dict[tuple[int, ...], list[float]]:
    """By set of masked places: each one's cross-entropy, from stock attention over a plain batch and torch's loss."""
    first = 1 if shift else 0
    places = range(first, len(SEQUENCE))
    masks = [m for k in range(1, len(places) + 1) for m in itertools.combinations(places, k)]
    inputs = torch.tensor([[MASK if i in m else x for i, x in enumerate(SEQUENCE)] for m in masks])
    own = embedder.backbone.config._attn_implementation
    embedder.backbone.set_attn_implementation("eager")
    try:
        everything = torch.zeros(len(masks), 1, len(SEQUENCE), len(SEQUENCE))
        states = embedder.backbone(input_ids=inputs, attention_mask=everything).last_hidden_state
    finally:
        embedder.backbone.set_attn_implementation(own)
    logits = states @ embedder.output_table().T
    if excluded is not None:
        logits[..., excluded] = -torch.inf
    nats = -torch.log_softmax(logits.double(), -1)
    return {m: [float(nats[b, i - first, SEQUENCE[i]]) for i in m] for b, m in enumerate(masks)}


def _mean_over_orders(losses: dict[tuple[int, ...], list[float]]) -> float:
    """Negative log-likelihood of filling in one token after the other, averaged over all orders."""
    places = max(losses, key=len)
    totals = []
    for order in itertools.permutations(places):
        total = 0.0
        for done, place in enumerate(order):
            masked = tuple(sorted(order[done:]))
            total += losses[masked][masked.index(place)]
        totals.append(total)
    return float(np.mean(totals))


Objective = Callable[[PackedBatch, np.random.Generator], Targets]


class _Summed:
    """Sums of weighted losses over copies of the sequence, looked up by mask instead of run."""

    def __init__(self, losses: dict[tuple[int, ...], list[float]]) -> None:
        self.by_mask = np.full((2 ** len(SEQUENCE), len(SEQUENCE)), np.nan)
        for masked, values in losses.items():
            self.by_mask[sum(1 << i for i in masked), list(masked)] = values

    def a_copy(self, objective: Objective, copies: int, seed: Any, shift: bool) -> float:
        """The mean over ``copies`` of the sequence of what the objective's masks and weights sum up to."""
        targets = objective(pack([TokenizedSequence(SEQUENCE, ())] * copies), np.random.default_rng(seed))
        masked_BL = (targets.batch.token_ids == MASK).reshape(copies, -1)
        copy, place = np.divmod(targets.rows + int(shift), len(SEQUENCE))
        nats = self.by_mask[(masked_BL << np.arange(len(SEQUENCE))).sum(1)[copy], place]
        return float((nats * targets.weights).sum() / copies)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize(("weighting", "draw"), [("elbo", "uniform"), ("elbo", "stratified"), ("mdlm", "antithetic")])
def test_the_estimate_agrees_with_exhaustive_summation(
    embedder: Embedder, schedule: Schedule, shift: bool, weighting: Any, draw: Draw
) -> None:
    losses = _losses_of_every_mask(embedder, shift, MASK if weighting == "mdlm" else None)
    exact = _mean_over_orders(losses)
    options = {"mask_token_id": MASK, "shift": shift, "schedule": schedule, "weighting": weighting, "draw": draw}
    objective = partial(masked_diffusion, **options)
    found = [_Summed(losses).a_copy(objective, 10_000, seed, shift) for seed in range(10)]
    error = float(np.std(found, ddof=1)) / len(found) ** 0.5
    assert error < 0.012 * exact, "the estimate is sharp enough to tell a wrong weight"
    # t starts at 0.001, not at 0: that is worth up to a thousandth
    assert float(np.mean(found)) == pytest.approx(exact, abs=3.5 * error + 0.001 * exact)


@pytest.mark.parametrize("shift", [True, False])
def test_our_states_give_the_losses_of_stock_attention_for_every_mask(embedder: Embedder, shift: bool) -> None:
    losses = _losses_of_every_mask(embedder, shift, None)
    back = int(shift)
    for masked, expected in losses.items():
        ids = np.array([MASK if i in masked else x for i, x in enumerate(SEQUENCE)])
        batch = pack([TokenizedSequence(tuple(ids.tolist()), ())])
        rows, weights = np.array(masked) - back, np.ones(len(masked), np.float32)
        target_ids = np.array([SEQUENCE[i] for i in masked])
        targets = Targets(batch, np.array(SEQUENCE), rows, target_ids, weights, rows)
        with torch.no_grad():
            (loss,) = lm_losses(embedder, [targets], eligible_total=1.0)
        assert float(loss) == pytest.approx(sum(expected), rel=1e-4)


@pytest.mark.parametrize("shift", [True, False])
def test_the_held_out_bound_agrees_with_exhaustive_summation(embedder: Embedder, shift: bool) -> None:
    losses = _losses_of_every_mask(embedder, shift, MASK)
    places = len(SEQUENCE) - int(shift)
    exact = _mean_over_orders(losses)
    midpoints = (np.arange(STRATA) + 0.5) / STRATA
    quadrature = sum(  # the integral that the strata stand for, mask by mask
        sum(ce) * float(np.mean(midpoints ** (len(m) - 1) * (1.0 - midpoints) ** (places - len(m))))
        for m, ce in losses.items()
    )
    assert quadrature == pytest.approx(exact, rel=0.003), "16 midpoints are enough"
    summed, at = _Summed(losses), partial(masked_at, mask_token_id=MASK, shift=shift)
    many = [summed.a_copy(partial(at, rate=r), 20_000, i, shift) for i, r in enumerate(midpoints.tolist())]
    assert np.mean(many) == pytest.approx(exact, rel=0.01)

    found = HeldOut((pack([TokenizedSequence(SEQUENCE, ())] * 60),), bytes=60 * 12, bytes_after_first=60 * 10)
    figures = denoising_losses(embedder, found, mask_token_id=MASK, shift=shift)
    same = [summed.a_copy(partial(at, rate=r), 60, (0, int(r * 1000)), shift) for r in midpoints.tolist()]
    assert figures["elbo_nats_per_token"] == pytest.approx(np.mean(same) / places, rel=1e-4)
    bits = figures["elbo_nats_per_token"] * places / np.log(2) / (10 if shift else 12)
    assert figures["elbo_bits_per_byte"] == pytest.approx(bits, rel=1e-6)


def test_the_bound_is_above_the_likelihood_of_every_mixture_of_orders(embedder: Embedder) -> None:
    """Jensen: the mean over orders of -log p is at least -log of the mean over orders of p."""
    losses = _losses_of_every_mask(embedder, True, None)
    places = max(losses, key=len)
    likelihoods = []
    for order in itertools.permutations(places):
        steps = [tuple(sorted(order[done:])) for done in range(len(order))]
        likelihoods.append(np.exp(-sum(losses[m][m.index(p)] for m, p in zip(steps, order, strict=True))))
    likelihood = -float(np.log(np.mean(likelihoods)))
    batch = pack([TokenizedSequence(SEQUENCE, ())] * 1000)
    targets = masked_diffusion(batch, np.random.default_rng(0), mask_token_id=MASK, draw="stratified")
    with torch.no_grad():
        (loss,) = lm_losses(embedder, [targets], eligible_total=1000.0)
    assert float(loss) > likelihood + 0.05
