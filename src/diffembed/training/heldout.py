"""How well a backbone predicts held-out text: cross-entropy by mask rate, and the diffusion bound on likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from diffembed.data.sources import expand, held_out, read_texts
from diffembed.models.backbone import token_embedding
from diffembed.models.embedder import Embedder
from diffembed.objectives.denoising import Targets, linear_cross_entropy, masked_diffusion, next_token
from diffembed.text.batching import PackedBatch, batches_by_tokens, pack
from diffembed.training.batches import whole
from diffembed.training.lm import target_states
from diffembed.training.recipe import StageConfig
from diffembed.training.tokenizer import EOT_ID, MASK_ID

Objective = Callable[[PackedBatch, np.random.Generator], Targets]
MASK_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)


def held_out_batches(stage: StageConfig, tokenizer: Tokenizer, data_root: Path, texts: int = 60) -> list[PackedBatch]:
    """Beginnings of held-out texts, spread evenly over the stage's sources."""
    sequences = []
    for source in stage.source:
        found = [t for path in expand(data_root, source.paths) for t in _held_out_texts(path)]
        for text in found[:: max(1, len(found) // max(1, texts // len(stage.source)))][:texts]:
            ids = tokenizer.encode(text[: stage.sequence_tokens * 10], add_special_tokens=False).ids
            sequences.append(whole([*ids[: stage.sequence_tokens - 1], EOT_ID]))
    groups = batches_by_tokens([len(s) for s in sequences], stage.micro_tokens)
    return [pack([sequences[i] for i in group]) for group in groups]


def _held_out_texts(path: Path) -> list[str]:
    return [t for t in read_texts(path.parent, [path.name]) if held_out(t)]


@torch.no_grad()
def denoising_losses(
    embedder: Embedder, batches: Sequence[PackedBatch], *, shift: bool, seed: int = 0
) -> dict[str, float]:
    """Cross-entropy in nats a masked token by mask rate, and the negative ELBO in nats a token.

    The bound integrates (1/t) x the summed cross-entropy over t with 16 stratified mask rates, the same masks at every
    call.
    """
    result = {}
    for rate in MASK_RATES:
        objective = partial(masked_diffusion, mask_token_id=MASK_ID, shift=shift, mask_rate=rate)
        result[f"mask_{rate:.1f}"] = _mean(embedder, batches, objective, seed)
    strata = (np.arange(16) + 0.5) / 16
    bound = eligible = 0.0
    for rate in strata:
        generator = np.random.default_rng((seed, int(rate * 1000)))
        for batch in batches:
            targets = masked_diffusion(batch, generator, mask_token_id=MASK_ID, shift=shift, mask_rate=float(rate))
            bound += _loss(embedder, batch, targets)
            eligible += targets.eligible
    result["elbo_nats_per_token"] = bound / eligible
    return result


@torch.no_grad()
def causal_loss(embedder: Embedder, batches: Sequence[PackedBatch]) -> dict[str, float]:
    """Next-token cross-entropy in nats a token."""
    return {"next_token_nats": _mean(embedder, batches, lambda batch, _: next_token(batch), 0)}


def _mean(embedder: Embedder, batches: Sequence[PackedBatch], objective: Objective, seed: int) -> float:
    """Unweighted cross-entropy a target."""
    generator = np.random.default_rng(seed)
    total = count = 0.0
    for batch in batches:
        targets = objective(batch, generator)
        total += _loss(embedder, batch, dataclasses.replace(targets, weights=np.ones_like(targets.weights)))
        count += len(targets.rows)
    return total / count


def _loss(embedder: Embedder, batch: PackedBatch, targets: Targets) -> float:
    if not len(targets.rows):
        return 0.0
    states = target_states(embedder, batch, targets)
    device = states.device
    loss = linear_cross_entropy(
        states,
        token_embedding(embedder.backbone),
        torch.from_numpy(targets.target_ids).to(device),
        torch.from_numpy(targets.weights).to(device),
    )
    return float(loss)
