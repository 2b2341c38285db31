"""From a stage's data to the steps that the loop runs: one plan for stages that model language, one for pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from diffembed.models.embedder import Embedder
from diffembed.models.quantizer import signs, tanh_int8
from diffembed.objectives.contrastive import matryoshka, pair_info_nce
from diffembed.objectives.targets import Targets
from diffembed.training.batches import PairBatch, StageData
from diffembed.training.configs import StageConfig
from diffembed.training.lm import eligible_tokens, lm_losses, make_objective, plan_targets
from diffembed.training.loop import Step
from diffembed.training.machine import Machine
from diffembed.training.share import deal
from diffembed.training.throughput import StepCost


def language_plan(
    stage: StageConfig,
    data: StageData,
    *,
    mask_token_id: int,
    machine: Machine,
    cost: StepCost,
    teacher: PreTrainedModel | None = None,
) -> Callable[[int], Step]:
    """Steps of a language-model stage: what to mask is drawn for the whole step, then the sequences are dealt out."""
    objective = make_objective(stage, mask_token_id)

    def loss(targets: Targets, total: float, embedder: Embedder) -> Tensor:
        return next(
            lm_losses(
                embedder, [targets], eligible_total=total, teacher=teacher, alignment_weight=stage.alignment_weight
            )
        )

    def plan(step: int) -> Step:
        rng = np.random.default_rng((data.seed, step, 1))
        planned = plan_targets(data.text_batches(step), objective, rng)
        total = eligible_tokens(planned)
        own = deal(planned, rank=machine.rank, world=machine.world, micro_tokens=stage.micro_tokens)
        lengths = np.concatenate([t.batch.lengths for t in planned]) if planned else np.zeros(0, np.int64)
        facts = {"tokens": int(lengths.sum()), "source": data.source_of(step)}
        flops = cost.of(lengths, sum(len(t.rows) for t in planned))
        return Step([partial(loss, t, total) for t in own], facts, flops, partial(data.text_origins, step))

    return plan


def pair_plan(stage: StageConfig, data: StageData, *, dims: tuple[int, ...], cost: StepCost) -> Callable[[int], Step]:
    """Steps of a pair stage: one part, because every query is compared with every document of the batch."""

    def plan(step: int) -> Step:
        batch = data.pair_batch(step)
        numbers = batch.document_ids.tolist()
        facts = {"tokens": batch.tokens, "source": batch.source, "pairs": len(numbers), "cut": batch.cut}
        return Step(
            [lambda embedder: pair_loss(embedder, batch, stage, dims)],
            facts,
            cost.of(np.concatenate([p.lengths for p in batch.packs]), 0),
            lambda: [f"{batch.source}: document {n}" for n in numbers],
        )

    return plan


def pair_loss(embedder: Embedder, batch: PairBatch, stage: StageConfig, dims: tuple[int, ...]) -> Tensor:
    """The pair stage's loss: span means, then at every width cut, quantizer and masked InfoNCE."""
    means = torch.cat([embedder(p) for p in batch.packs])
    with torch.autocast(means.device.type, enabled=False):
        ordered = means[torch.from_numpy(batch.order).to(means.device)]
        count = len(batch.document_ids)
        ids = torch.from_numpy(batch.document_ids).to(means.device)

        def loss(queries: Tensor, documents: Tensor) -> Tensor:
            return pair_info_nce(queries, documents, ids, temperature=stage.temperature, margin=stage.margin)

        total = matryoshka(loss, tanh_int8, ordered[:count], ordered[count:], dims)
        if stage.binary_weight:
            binary = matryoshka(loss, signs, ordered[:count], ordered[count:], dims)
            total = total + stage.binary_weight * binary
        return total
