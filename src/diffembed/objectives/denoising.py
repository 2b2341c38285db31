"""Language-model objectives: masked diffusion, MNTP and next-token prediction, one signature for all.

An objective looks at a packed batch and says what the model reads and what it must predict: ``Targets``. The loss is
``linear_cross_entropy`` over the states it names, divided by the ``eligible`` of the whole step, all its micro-batches
and processes, so the value does not change with gradient accumulation or with the number of processes.

Masked diffusion (absorbing state): t once a sequence; each eligible token is replaced by the mask token independently
with probability 1 - alpha(t), t itself for the linear schedule; masked tokens are weighed as ``Weighting`` says. With
``elbo`` the expectation is an upper bound on the negative log-likelihood (Gong et al. 2025, arXiv 2410.17891, as used
by pplx-embed, arXiv 2602.11151). With ``shift`` the state at i predicts token i + 1, as the autoregressive parent did;
the first token of a sequence has no state before it and is never masked.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from diffembed.objectives.corruption import cart_weights, shuffle_some, truncate_some
from diffembed.objectives.schedules import (
    EPSILON,
    Draw,
    Schedule,
    draw_times,
    elbo_weight,
    mask_rate,
    mdlm_mask_rate,
    mdlm_weight,
)
from diffembed.objectives.targets import Targets
from diffembed.text.batching import IntArray, PackedBatch

Weighting = Literal["elbo", "mdlm", "cart", "masked-mean"]


def _eligible_rows(batch: PackedBatch, shift: bool, mask_token_id: int | None = None) -> IntArray:
    """Tokens that can be targets: all, or with ``shift`` all but first ones; never one that is the mask already."""
    can = batch.position_ids > 0 if shift else np.ones(batch.tokens, dtype=bool)
    if mask_token_id is not None:
        can &= batch.token_ids != mask_token_id
    return np.flatnonzero(can)


def next_token(batch: PackedBatch, rng: np.random.Generator | None = None) -> Targets:
    """The autoregressive objective: state i predicts token i + 1 of its own sequence; nothing is drawn.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> t = next_token(pack([TokenizedSequence((5, 6, 7), ()), TokenizedSequence((8, 9), ())]))
    >>> t.rows.tolist(), t.target_ids.tolist(), t.eligible
    ([0, 1, 3], [6, 7, 9], 3)
    """
    positions = _eligible_rows(batch, shift=True)
    ids, rows = batch.token_ids, positions - 1
    return Targets(batch, ids, rows, ids[positions], np.ones(len(rows), np.float32), rows)


def masked_diffusion(
    batch: PackedBatch,
    rng: np.random.Generator,
    *,
    mask_token_id: int,
    shift: bool = True,
    schedule: Schedule = "linear",
    weighting: Weighting = "elbo",
    draw: Draw = "uniform",
    epsilon: float = EPSILON,
    cart_p: float = 0.3,
    truncate_share: float = 0.0,
    shuffle_share: float = 0.0,
    shuffle_window: int = 8,
) -> Targets:
    """Mask tokens at random, at a rate drawn once a sequence; masked ones are targets.

    Args:
        batch: clean sequences.
        rng: draws t and the masks.
        mask_token_id: what a masked token becomes.
        shift: state i predicts token i + 1 (kept from the autoregressive parent).
        schedule: mask rate by t.
        weighting: ``elbo``: -alpha'/(1 - alpha), 1/t when linear. ``mdlm``: the same bound in MDLM's form: a share
            ``epsilon`` stays readable at t = 1, and the mask token is never predicted (arXiv 2406.07524). ``cart``:
            weights by near context (Dream). These three are divided by the eligible tokens. ``masked-mean``: the plain
            mean over masked tokens (DiffuGPT, arXiv 2410.17891).
        draw: how t is drawn over the sequences of a batch.
        epsilon: smallest t.
        cart_p: of CART's geometric distribution.
        truncate_share: of the sequences, cut to a random length first.
        shuffle_share: of the readable tokens, permuted within ``shuffle_window`` and predicted too, with weight 1.

    The generator draws t = 0.637, then masks all three tokens that can be: each weighs 1/0.637 = 1.57.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> b = pack([TokenizedSequence((5, 6, 7, 8), ())])
    >>> t = masked_diffusion(b, np.random.default_rng(0), mask_token_id=1)
    >>> t.batch.token_ids.tolist(), t.rows.tolist(), t.target_ids.tolist(), t.eligible
    ([5, 1, 1, 1], [0, 1, 2], [6, 7, 8], 3)
    >>> [round(float(w), 2) for w in t.weights]
    [1.57, 1.57, 1.57]
    """
    if truncate_share:
        batch = truncate_some(batch, rng, truncate_share)
    t = draw_times(len(batch), draw, rng, epsilon)
    rates = mdlm_mask_rate(t, schedule, epsilon) if weighting == "mdlm" else mask_rate(t, schedule)
    eligible = _eligible_rows(batch, shift, mask_token_id)
    hit = rng.random(len(eligible)) < np.repeat(rates, batch.lengths)[eligible]
    masked = eligible[hit]
    if weighting == "cart":
        weights = cart_weights(batch, masked, cart_p)
    elif weighting == "masked-mean":
        weights = np.ones(len(masked))
    else:
        by_sequence = elbo_weight(t, schedule) if weighting == "elbo" else mdlm_weight(t, schedule, epsilon)
        weights = np.repeat(by_sequence, batch.lengths)[masked]
    targets = _masked(batch, eligible, masked, weights, mask_token_id, shift)
    if shuffle_share:
        targets = _shuffled(targets, eligible[~hit], rng, shuffle_share, shuffle_window, shift)
    if weighting == "masked-mean":
        targets = dataclasses.replace(targets, aligned=targets.rows)
    return dataclasses.replace(targets, excluded=mask_token_id) if weighting == "mdlm" else targets


def masked_at(
    batch: PackedBatch, rng: np.random.Generator, *, mask_token_id: int, rate: float, shift: bool = True
) -> Targets:
    """Masked diffusion at one fixed mask rate, weights 1/rate: what the held-out evaluation integrates over rates.

    The mask token is excluded: the figures of a model that was trained with it (``mdlm``) and of one that was not
    mean the same.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> b = pack([TokenizedSequence((5, 6, 7, 8), ())])
    >>> t = masked_at(b, np.random.default_rng(0), mask_token_id=1, rate=0.5)
    >>> t.batch.token_ids.tolist(), t.rows.tolist(), t.target_ids.tolist(), t.weights.tolist(), t.eligible
    ([5, 6, 1, 1], [1, 2], [7, 8], [2.0, 2.0], 3)
    """
    eligible = _eligible_rows(batch, shift, mask_token_id)
    masked = eligible[rng.random(len(eligible)) < rate]
    targets = _masked(batch, eligible, masked, np.full(len(masked), 1.0 / rate), mask_token_id, shift)
    return dataclasses.replace(targets, excluded=mask_token_id)


def masked_next_token(
    batch: PackedBatch,
    rng: np.random.Generator,
    *,
    mask_token_id: int,
    rate: float = 0.2,
    style: Literal["bert", "all"] = "bert",
) -> Targets:
    """MNTP (LLM2Vec, arXiv 2404.05961): choose tokens at one rate, predict token i from state i - 1.

    The loss is the plain mean over the chosen tokens. ``bert``: 80 % of them become the mask token, 10 % another token
    (one of the batch, where LLM2Vec draws from the vocabulary), 10 % stay. ``all``: every one becomes the mask token.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> b = pack([TokenizedSequence((5, 6, 7, 8), ())])
    >>> t = masked_next_token(b, np.random.default_rng(0), mask_token_id=1, rate=0.5, style="all")
    >>> t.batch.token_ids.tolist(), t.rows.tolist(), t.target_ids.tolist(), t.weights.tolist(), t.eligible
    ([5, 6, 1, 1], [1, 2], [7, 8], [1.0, 1.0], 2)
    """
    eligible = _eligible_rows(batch, True, mask_token_id)
    chosen = eligible[rng.random(len(eligible)) < rate]
    targets = _masked(batch, chosen, chosen, np.ones(len(chosen)), mask_token_id, shift=True)
    if style == "bert":
        fate = rng.random(len(chosen))
        drawn = batch.token_ids[rng.integers(batch.tokens, size=len(chosen))]
        instead = np.where(fate < 0.8, mask_token_id, np.where(fate < 0.9, drawn, batch.token_ids[chosen]))
        targets.batch.token_ids[chosen] = instead
    return targets


def _masked(
    batch: PackedBatch,
    eligible: IntArray,
    masked: IntArray,
    weights: npt.NDArray[np.float64],
    mask_token_id: int,
    shift: bool,
) -> Targets:
    token_ids = batch.token_ids.copy()
    token_ids[masked] = mask_token_id
    back = int(shift)
    return Targets(
        batch=dataclasses.replace(batch, token_ids=token_ids),
        clean_ids=batch.token_ids,
        rows=masked - back,
        target_ids=batch.token_ids[masked],
        weights=weights.astype(np.float32),
        aligned=eligible - back,
    )


def _shuffled(
    targets: Targets, readable: IntArray, rng: np.random.Generator, share: float, window: int, shift: bool
) -> Targets:
    """The same targets and the shuffled tokens, in packed order."""
    places, taken = shuffle_some(targets.batch, readable, rng, share, window)
    token_ids = targets.batch.token_ids.copy()
    token_ids[places] = targets.clean_ids[taken]
    rows = np.concatenate([targets.rows, places - int(shift)])
    order = np.argsort(rows)
    return dataclasses.replace(
        targets,
        batch=dataclasses.replace(targets.batch, token_ids=token_ids),
        rows=rows[order],
        target_ids=np.concatenate([targets.target_ids, targets.clean_ids[places]])[order],
        weights=np.concatenate([targets.weights, np.ones(len(places), np.float32)])[order],
    )
