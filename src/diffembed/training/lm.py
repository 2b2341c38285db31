"""One language-model step: the states that predict, and the loss they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffembed.models.backbone import packed_states, token_embedding
from diffembed.models.embedder import Embedder
from diffembed.objectives.denoising import Targets, linear_cross_entropy, masked_diffusion, next_token
from diffembed.text.batching import PackedBatch
from diffembed.training.recipe import StageConfig
from diffembed.training.tokenizer import MASK_ID


def target_states(embedder: Embedder, batch: PackedBatch, targets: Targets) -> Tensor:
    """States ``[targets, hidden]`` of the positions that predict, after the model has read ``targets.token_ids``."""
    states = packed_states(embedder.backbone, dataclasses.replace(batch, token_ids=targets.token_ids))
    return states[torch.from_numpy(targets.rows).to(states.device)]


def lm_losses(
    embedder: Embedder, batches: list[PackedBatch], stage: StageConfig, rng: np.random.Generator
) -> Iterator[Tensor]:
    """The parts of one step's loss, one a micro-batch; each is divided by the eligible tokens of the whole step."""
    planned = []
    for batch in batches:
        if stage.kind == "causal":
            planned.append(next_token(batch))
        else:
            planned.append(masked_diffusion(batch, rng, mask_token_id=MASK_ID, shift=stage.shift))
    eligible = max(1, sum(t.eligible for t in planned))
    table = token_embedding(embedder.backbone)
    for batch, targets in zip(batches, planned, strict=True):
        if len(targets.rows):
            states = target_states(embedder, batch, targets)
            ids = torch.from_numpy(targets.target_ids).to(states.device)
            weights = torch.from_numpy(targets.weights).to(states.device)
            yield linear_cross_entropy(states, table, ids, weights) / eligible
