"""From a stage's data to the steps that the loop runs: a plan for language modelling, one for contrastive stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from diffembed.models.embedder import Embedder
from diffembed.objectives.targets import Targets
from diffembed.text.batching import pack
from diffembed.training.batches import TextData, whole
from diffembed.training.configs import StageConfig
from diffembed.training.contrastive import BatchLoss
from diffembed.training.contrastive_data import ContrastiveData
from diffembed.training.grad_cache import contrastive_parts
from diffembed.training.lm import eligible_tokens, lm_losses, make_objective, plan_targets
from diffembed.training.loop import Step
from diffembed.training.machine import Machine
from diffembed.training.share import deal, deal_spans
from diffembed.training.teacher import Teacher
from diffembed.training.throughput import StepCost, step_cost


def language_plan(
    stage: StageConfig,
    data: TextData,
    *,
    mask_token_id: int,
    machine: Machine,
    cost: StepCost,
    teacher: PreTrainedModel | None = None,
) -> Callable[[int], Step]:
    """Steps of a language-model stage: what to mask is drawn for the whole step, then the sequences are dealt out.

    Args:
        teacher: the frozen parent that states are aligned to; its passes count among the operations.
    """
    objective = make_objective(stage, mask_token_id)
    reading = step_cost(Embedder(teacher), causal=True, backward=False) if teacher is not None else None

    def loss(targets: Targets, total: float, embedder: Embedder) -> Tensor:
        return next(
            lm_losses(
                embedder, [targets], eligible_total=total, teacher=teacher, alignment_weight=stage.alignment_weight
            )
        )

    def plan(step: int) -> Step:
        rng = np.random.default_rng((data.seed, step, 1))
        planned = plan_targets(data.batches(step), objective, rng)
        total = eligible_tokens(planned)
        own = deal(planned, rank=machine.rank, world=machine.world, micro_tokens=stage.micro_tokens)
        lengths = np.concatenate([t.batch.lengths for t in planned]) if planned else np.zeros(0, np.int64)
        facts = {"tokens": int(lengths.sum()), "source": data.source_of(step)}
        flops = cost.of(lengths, sum(len(t.rows) for t in planned)) + (reading.of(lengths, 0) if reading else 0.0)
        return Step([partial(loss, t, total) for t in own], facts, flops, partial(data.origins, step))

    return plan


def contrastive_plan(
    stage: StageConfig,
    data: ContrastiveData,
    *,
    dims: tuple[int, ...],
    machine: Machine,
    cost: StepCost,
    teacher: Teacher | None = None,
) -> Callable[[int], Step]:
    """Steps of a contrastive stage: sequences are dealt out, vectors put together, and every process takes the loss of
    its share of the queries against all that the step holds.

    Args:
        dims: Matryoshka widths.
        teacher: judges what the stage distils.
    """

    def plan(step: int) -> Step:
        batch = data.batch(step)
        lengths = np.array([len(s) for s in batch.sequences], dtype=np.int64)
        facts: dict[str, Any] = {"tokens": int(lengths.sum()), "source": batch.source.name, "queries": batch.queries}
        facts |= {name: n for name, n in (("cut", batch.cut), ("left_out", batch.left_out)) if n}
        if not batch.queries:  # every row of the step lacked what it needs: nothing to learn, and the log says so
            return Step([_nothing], facts, 0.0, lambda: list(batch.origins))
        share = deal_spans(batch.sequences, batch.queries, machine.rank, machine.world, stage.micro_tokens)
        progress = step / max(1, stage.steps - 1)
        loss = BatchLoss.of(batch, stage, dims, progress=progress, device=machine.device, teacher=teacher)
        keep = int(lengths.sum()) <= stage.memory_tokens * machine.world
        parts = contrastive_parts(share, loss, keep=keep, columns=len(batch.sequences) + len(batch.chunk_ids))
        return Step(parts, facts, cost.of(lengths, 0), lambda: list(batch.origins))

    return plan


def _nothing(embedder: Embedder) -> Tensor:
    """A loss of 0 that every weight takes part in; by a forward pass, as the weights may be shards."""
    mean: Tensor = embedder(pack([whole([0])]))
    return mean.sum() * 0.0
