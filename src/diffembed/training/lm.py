"""One language-model step: what the stage's objective asks of each micro-batch, and the losses that come of it.

A step is planned first (``plan_targets``), for all its micro-batches and on every process alike, so that the count that
its loss is divided by is known before the first forward pass. A step's loss is

    sum over micro-batches and processes of sum(w * CE)  /  sum over micro-batches and processes of eligible.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from diffembed.models.backbone import packed_layers, packed_states, set_causal
from diffembed.models.embedder import Embedder
from diffembed.objectives.alignment import layer_alignment
from diffembed.objectives.cross_entropy import linear_cross_entropy
from diffembed.objectives.denoising import masked_diffusion, masked_next_token, next_token
from diffembed.objectives.targets import Objective, Targets, regroup
from diffembed.text.batching import PackedBatch, joined
from diffembed.training.configs import PRETRAINING, StageConfig


def make_objective(stage: StageConfig, mask_token_id: int) -> Objective:
    """The objective of a language-model stage, its keys filled in."""
    if stage.kind == "causal":
        return next_token
    if stage.kind == "mntp":
        return partial(masked_next_token, mask_token_id=mask_token_id, rate=stage.mask_rate, style=stage.mask_style)
    return partial(
        masked_diffusion,
        mask_token_id=mask_token_id,
        shift=stage.predicts_next,
        schedule=stage.schedule,
        weighting=stage.weighting,
        draw=stage.draw,
        truncate_share=stage.truncate_share,
        shuffle_share=stage.shuffle_share,
        shuffle_window=stage.shuffle_window,
    )


def objective_facts(stage: StageConfig, mask_token_id: int) -> dict[str, Any]:
    """What a model's manifest says under ``objective``: enough to know how to ask the model for tokens."""
    if stage.kind not in PRETRAINING:
        return {"kind": stage.kind}
    facts: dict[str, Any] = {"kind": stage.kind, "shift": stage.predicts_next}
    if stage.kind == "diffusion":
        names = ("schedule", "weighting", "draw", "truncate_share", "shuffle_share", "alignment_weight")
        facts |= {name: getattr(stage, name) for name in names}
    if stage.kind == "mntp":
        facts |= {"mask_rate": stage.mask_rate, "mask_style": stage.mask_style}
    return facts if stage.kind == "causal" else facts | {"mask_token_id": mask_token_id}


def plan_targets(batches: Sequence[PackedBatch], objective: Objective, rng: np.random.Generator) -> list[Targets]:
    """What each micro-batch of a step reads and predicts.

    Drawn once for all sequences of the step: what is masked follows from their order, not from where batches end, and
    a stratified or antithetic draw reaches over the whole step.
    """
    if not batches:
        return []
    step = objective(joined(batches), rng)
    if len(batches) == 1:
        return [step]
    ends = np.cumsum([len(batch) for batch in batches]).tolist()
    starts = [0, *ends[:-1]]
    return [regroup([(step, i) for i in range(a, b)]) for a, b in zip(starts, ends, strict=True)]


def eligible_tokens(targets: Sequence[Targets]) -> float:
    """What the loss of a whole step is divided by, given the targets of all its micro-batches; never 0."""
    return float(max(1, sum(t.eligible for t in targets)))


def target_states(embedder: Embedder, targets: Targets) -> Tensor:
    """States ``[targets, hidden]`` of the positions that predict, after the model has read ``targets.batch``."""
    states = packed_states(embedder.backbone, targets.batch)
    return states[torch.from_numpy(targets.rows).to(states.device)]


def lm_losses(
    embedder: Embedder,
    targets: Sequence[Targets],
    *,
    eligible_total: float,
    teacher: PreTrainedModel | None = None,
    alignment_weight: float = 0.0,
) -> Iterator[Tensor]:
    """The parts of one step's loss, one for each of ``targets``, each divided by ``eligible_total``.

    Args:
        targets: of this process's micro-batches.
        eligible_total: ``eligible_tokens`` of the whole step, all processes.
        teacher: the frozen parent, where states are aligned to it (``frozen_parent``).
        alignment_weight: times the mean over aligned tokens and layers of 1 - cosine to the teacher's states.
    """
    table = embedder.output_table()
    for planned in targets:
        rows, ids, weights, aligned = (
            torch.from_numpy(x).to(table.device)
            for x in (planned.rows, planned.target_ids, planned.weights, planned.aligned)
        )
        if teacher is None or not alignment_weight:
            states, pull = target_states(embedder, planned), None
        else:
            layers = packed_layers(embedder.backbone, planned.batch)
            with torch.no_grad():
                parent = packed_layers(teacher, dataclasses.replace(planned.batch, token_ids=planned.clean_ids))
            states, pull = layers[-1][rows], layer_alignment(layers, parent, aligned)
        loss = linear_cross_entropy(states, table, ids, weights, excluded=planned.excluded)
        yield (loss if pull is None else loss + alignment_weight * pull) / eligible_total


def frozen_parent(embedder: Embedder) -> PreTrainedModel:
    """A copy of the backbone as it is now, causal again and without gradients: what alignment holds states to."""
    parent: PreTrainedModel = copy.deepcopy(embedder.backbone)
    set_causal(parent, True)
    parent.requires_grad_(False)
    parent.train(False)
    return parent
