"""What a study trains: its models, what is read with each, and the ordinary recipe that makes those of one seed.

A seed has one recipe, and all that a seed's models share stands in it once:

    base -> continued | mntp | diffusion | diffusion-noshift | diffusion-aligned -> one tuning a model

``continued`` goes on with causal language modelling for as many tokens as the others spend on their adaptation, and is
the backbone of both ``causal`` and ``opened``: no backbone has read more than another. Stages of one kind have one
``order``, so that all backbones are adapted on the same windows and all models tuned on the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from diffembed.models.checkpoint import Attention
from diffembed.study.recipe import FAMILIES, Backbone, Family, SetConfig, Study
from diffembed.text.batching import Pooling
from diffembed.training.checks import check_recipe, keys_for_others
from diffembed.training.configs import BEGINNING, StageConfig, StageKind
from diffembed.training.recipe import Recipe

Equal = Literal["tokens", "operations"]
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)

_KINDS: dict[str, StageKind] = {"continued": "causal", "mntp": "mntp"}  # of adaptations; else diffusion
_COSTLY = "-operations"  # ends the name of an adaptation of equal cost
_CONTINUED: tuple[Backbone, ...] = ("causal", "opened")


@dataclass(frozen=True, slots=True)
class Arm:
    """One model of every seed.

    Attributes:
        backbone, pooling: its cell of the grid.
        attention: its mask while it is tuned.
        steps: of its tuning.
        equal: what its adaptation had as much of as the other backbones'.
    """

    backbone: Backbone
    pooling: Pooling
    attention: Attention
    steps: int
    equal: Equal = "tokens"

    @property
    def name(self) -> str:
        """The cell: ``diffusion/mean``."""
        return f"{self.backbone}/{self.pooling}"

    @property
    def adaptation(self) -> str:
        """The stage that it is tuned from."""
        name = "continued" if self.backbone in _CONTINUED else self.backbone
        return name if self.equal == "tokens" else f"{name}{_COSTLY}"

    @property
    def stage(self) -> str:
        """The stage that tunes it; ``causal`` is ``opened`` tuned under the causal mask."""
        return f"{self.adaptation}.{self.attention}.{self.pooling}.{self.steps}"


@dataclass(frozen=True, slots=True)
class Reading:
    """A set read in one way: chunks ``together`` or alone, under a mask that need not be that of training."""

    set: SetConfig
    together: bool
    attention: Attention


@dataclass(frozen=True, slots=True)
class Job:
    """A model to tune with one seed, and what to measure it on."""

    seed: int
    arm: Arm
    readings: tuple[Reading, ...]


def grid_arm(study: Study, backbone: Backbone, pooling: Pooling) -> Arm:
    """A cell of the grid."""
    attention: Attention = "causal" if backbone == "causal" else "bidirectional"
    return Arm(backbone, pooling, attention, study.tune.steps)


def grid_arms(study: Study) -> list[Arm]:
    """All cells, by backbone."""
    return [grid_arm(study, b, p) for b in study.grid.backbones for p in study.grid.poolings]


def attention_arm(study: Study, backbone: Backbone, pooling: Pooling, mask: Attention) -> Arm:
    """A backbone tuned under a mask; the autoregressive one under the causal mask is the grid's ``causal``."""
    known: Backbone = "causal" if (backbone, mask) == ("opened", "causal") else backbone
    return Arm(known, pooling, mask, study.tune.steps)


def attention_arms(study: Study) -> list[Arm]:
    """The models of the attention ablation: every backbone of it under both masks."""
    part = study.attention
    if part is None:
        return []
    cells = [(b, p) for b in part.backbones for p in part.poolings]
    return [attention_arm(study, b, p, mask) for b, p in cells for mask in ATTENTIONS]


def sample_arms(study: Study) -> list[Arm]:
    """The trainings with fewer steps."""
    part = study.samples
    if part is None:
        return []
    cells = [grid_arm(study, b, p) for b in part.backbones for p in part.poolings]
    return [replace(arm, steps=steps) for arm in cells for steps in part.steps]


def operation_arms(study: Study) -> list[Arm]:
    """The models whose adaptations cost the same."""
    part = study.operations
    if part is None:
        return []
    return [replace(grid_arm(study, b, p), equal="operations") for b in part.backbones for p in part.poolings]


def readings_of(study: Study, families: tuple[Family, ...], masks: tuple[Attention, ...]) -> list[Reading]:
    """Every set of the families, under each mask; those of chunks alone and together."""
    return [
        Reading(one, together, mask)
        for mask in masks
        for one in study.measure.set
        if one.family in families
        for together in ((False, True) if one.family == "contextual" else (False,))
    ]


def jobs(study: Study) -> list[Job]:
    """All models, each once, with all that is measured of them: first the grid, seed by seed, then the other parts."""
    found: dict[tuple[int, str], Job] = {}
    for seed, arm, readings in _asked(study):
        before = found[seed, arm.stage].readings if (seed, arm.stage) in found else ()
        found[seed, arm.stage] = Job(seed, arm, tuple(dict.fromkeys((*before, *readings))))
    return list(found.values())


def _asked(study: Study) -> Iterator[tuple[int, Arm, list[Reading]]]:
    seeds = study.grid.seeds
    yield from ((s, a, readings_of(study, FAMILIES, (a.attention,))) for s in seeds for a in grid_arms(study))
    if part := study.attention:
        both = readings_of(study, part.families, ATTENTIONS)
        yield from ((s, a, both) for s in seeds for a in attention_arms(study))
    for few, arms in ((study.samples, sample_arms(study)), (study.operations, operation_arms(study))):
        if few is not None:
            yield from ((s, a, readings_of(study, few.families, (a.attention,))) for s in seeds for a in arms)


def seed_recipe(study: Study, seed: int, path: Path) -> Recipe:
    """The recipe of one seed: the base, every adaptation and every tuning that some job needs.

    Args:
        path: the study's file, for messages and for a checkpoint beside it.

    Raises:
        RecipeError: no recipe could have such a stage.
    """
    arms = list(dict.fromkeys(job.arm for job in jobs(study) if job.seed == study.grid.seeds[0]))
    wanted = list(dict.fromkeys(arm.adaptation for arm in arms))
    start = () if study.base is None else (study.base,)
    equal = [_adaptation(study, name) for name in wanted if not name.endswith(_COSTLY)]
    recipe = Recipe(
        replace(study.run, name=f"{study.name}-{seed}", output=f"{study.run.output}/seed-{seed}", seed=seed),
        study.model,
        (*start, *equal),
        study.tokenizer,
    )
    if costly := [name.removesuffix(_COSTLY) for name in wanted if name.endswith(_COSTLY)]:
        again = _of_equal_cost(recipe, equal, path.resolve().parent)
        recipe = replace(recipe, stage=(*recipe.stage, *(again[name] for name in costly)))
    tuned = {arm.stage: _tuning(study, arm) for arm in arms}
    recipe = replace(recipe, stage=(*recipe.stage, *tuned.values()))
    check_recipe(recipe, str(path))
    return recipe


def _adaptation(study: Study, name: str) -> StageConfig:
    """The keys of ``[adapt]``, as far as a stage of this kind has them."""
    kind = _KINDS.get(name, "diffusion")
    usual = {f.name: f.default for f in fields(StageConfig)}
    own = replace(
        study.adapt,
        name=name,
        kind=kind,
        order="adapt",
        parent=BEGINNING if study.base is None else study.base.name,
        alignment_weight=study.adapt.alignment_weight if name == "diffusion-aligned" else 0.0,
        **{key: usual[key] for key in keys_for_others(kind)},  # type: ignore[arg-type]
    )
    return replace(own, shift=name != "diffusion-noshift") if kind == "diffusion" else own


def _of_equal_cost(recipe: Recipe, stages: list[StageConfig], folder: Path) -> dict[str, StageConfig]:
    """Each adaptation with as many steps as make its operations those of the dearest one."""
    from diffembed.training.estimate import estimate_stages

    costs = [found.flops for found in estimate_stages(recipe, folder, stages).stages]
    return {
        stage.name: replace(stage, name=f"{stage.name}{_COSTLY}", steps=round(stage.steps * max(costs) / cost))
        for stage, cost in zip(stages, costs, strict=True)
    }


def _tuning(study: Study, arm: Arm) -> StageConfig:
    """The keys of ``[tune]``; with fewer steps the whole schedule is shorter, its warmup too."""
    return replace(
        study.tune,
        name=arm.stage,
        order="tune",
        parent=arm.adaptation,
        pooling=arm.pooling,
        attention=arm.attention,
        steps=arm.steps,
        warmup=round(study.tune.warmup * arm.steps / study.tune.steps),
    )
