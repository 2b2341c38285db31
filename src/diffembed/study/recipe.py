"""A study as one TOML file, read into frozen dataclasses and checked like any recipe; an unknown key is an error.

``[run]``, ``[tokenizer]`` and ``[model]`` are those of a recipe. ``[base]``, ``[adapt]`` and ``[tune]`` are stages of
one, without name, kind and parent, which the study gives them: the autoregressive base, what every backbone goes
through after it, and the contrastive tuning of every model. The other tables say what is compared and measured.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from diffembed.data.beir import Split
from diffembed.errors import RecipeError
from diffembed.text.batching import Pooling
from diffembed.training.configs import Converted, ModelShape, RunConfig, StageConfig, TokenizerConfig
from diffembed.training.ranges import Range, check_ranges
from diffembed.training.tables import build
from diffembed.vectors.embeddings import VectorDtype

Backbone = Literal["causal", "opened", "mntp", "diffusion", "diffusion-noshift", "diffusion-aligned"]
Family = Literal["short", "long", "contextual", "reasoning"]
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "mask")
FAMILIES: tuple[Family, ...] = get_args(Family)

_GIVEN = {"base": "causal", "adapt": "diffusion", "tune": "pair"}  # the kinds of the study's stages
_NOT_GIVEN = ("name", "kind", "parent", "order", "pooling", "attention", "shift")

_COUNT: Range = ("at least 1", lambda x: x >= 1)
_SOME: Range = ("at least 0 (0: all)", lambda x: x >= 0)
_STEPS: Range = ("numbers of steps, rising", lambda x: len(x) > 0 and min(x) > 0 and list(x) == sorted(set(x)))
_SEEDS: Range = ("different whole numbers of at least 0", lambda x: x and min(x) >= 0 and len(set(x)) == len(x))
_CELLS: Range = (
    'cells of the grid, as in "causal/last"',
    lambda x: all(cell in {f"{b}/{p}" for b in BACKBONES for p in POOLINGS} for cell in x),
)


@dataclass(frozen=True, slots=True)
class GridConfig:
    """Backbone by pooling, with every seed: base, order of the data and masks follow from the seed.

    ``references`` are the cells that every other one is compared with. ``keep_models = false`` removes the weights of a
    tuned model as soon as it is measured.
    """

    seeds: tuple[int, ...]
    backbones: tuple[Backbone, ...] = BACKBONES
    poolings: tuple[Pooling, ...] = POOLINGS
    references: tuple[str, ...] = ("causal/last",)
    keep_models: bool = True


@dataclass(frozen=True, slots=True)
class SamplesConfig:
    """Scores against the amount of tuning: trainings of their own at fewer ``steps``, each with its whole schedule."""

    steps: tuple[int, ...]
    backbones: tuple[Backbone, ...] = BACKBONES
    poolings: tuple[Pooling, ...] = ("mean",)
    families: tuple[Family, ...] = FAMILIES


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """The attention ablation: each of ``backbones`` tuned under both masks, each of these models read under both.

    ``opened`` stands for the autoregressive weights; tuned under the causal mask they are the grid's ``causal``.
    """

    backbones: tuple[Backbone, ...] = ("opened", "diffusion")
    poolings: tuple[Pooling, ...] = ("last", "mean")
    families: tuple[Family, ...] = FAMILIES


@dataclass(frozen=True, slots=True)
class OperationsConfig:
    """Backbones adapted once more with equal operations: for as many steps as the dearest one of the grid costs."""

    backbones: tuple[Backbone, ...] = BACKBONES
    poolings: tuple[Pooling, ...] = ("mean",)
    families: tuple[Family, ...] = FAMILIES


@dataclass(frozen=True, slots=True)
class SetConfig:
    """One set to measure on: a BEIR folder under ``data_root``.

    ``sections`` cuts long documents at their headings and asks for sections (``data/sections.py``). Sets of family
    ``contextual`` are read twice, every chunk alone and the chunks of a document together. Up to ``queries`` are drawn
    by the seed of ``[measure]``, and up to ``documents`` are searched: those that answer, and others drawn; of chunks,
    whole documents are drawn first, and queries that they answer.
    """

    path: str
    family: Family
    split: Split = "dev"
    sections: bool = False
    queries: int = 0
    documents: int = 0


@dataclass(frozen=True, slots=True)
class MeasureConfig:
    """What is measured, and how: vectors of ``dtype``; intervals of ``draws`` resamples."""

    set: tuple[SetConfig, ...]
    seed: int = 0
    dtype: VectorDtype = "int8"
    draws: int = 4000


@dataclass(frozen=True, slots=True)
class Study:
    """A whole study."""

    run: RunConfig
    model: ModelShape | Converted
    grid: GridConfig
    adapt: StageConfig
    tune: StageConfig
    measure: MeasureConfig
    tokenizer: TokenizerConfig | None = None
    base: StageConfig | None = None
    samples: SamplesConfig | None = None
    attention: AttentionConfig | None = None
    operations: OperationsConfig | None = None

    @property
    def name(self) -> str:
        """What the study is called."""
        return self.run.name


def read_study(path: Path) -> Study:
    """Read and check a study's file.

    Raises:
        RecipeError: no such file, not TOML, a key unknown or missing, a value of the wrong type or out of range, a
            stage that no recipe could have.
    """
    from diffembed.study.arms import seed_recipe

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(
            f"study {path} does not exist; runs/study-tiny.toml is one that comes with diffembed"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} is not a readable TOML file: {error}") from None
    study: Study = build(Study, _named(data, path), str(path))
    _check(study, str(path))
    seed_recipe(study, study.grid.seeds[0], path)  # checks every stage
    return study


def _named(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The stages with the names and kinds that a study gives them."""
    for table, kind in _GIVEN.items():
        if not isinstance(stage := data.get(table), dict):
            continue
        if given := [key for key in _NOT_GIVEN if key in stage]:
            raise RecipeError(f"{path}: [{table}] has {given[0]}, which the study sets for every model; leave it out")
        data = data | {table: {"name": table, "kind": kind} | stage}
    return data


def _check(study: Study, path: str) -> None:
    check_ranges(study.grid, {"seeds": _SEEDS, "references": _CELLS}, f"{path}: [grid]")
    check_ranges(study.measure, {"draws": _COUNT, "seed": _SOME}, f"{path}: [measure]")
    for one in study.measure.set:
        check_ranges(one, {"queries": _SOME, "documents": _SOME}, f"{path}: set '{one.path}' of [measure]")
    if isinstance(study.model, Converted) != (study.base is None):
        raise RecipeError(f"{path}: [base] trains a model given by its shape; a checkpoint is the base by itself")
    if "diffusion-aligned" in study.grid.backbones and not study.adapt.alignment_weight:
        raise RecipeError(f"{path}: backbone diffusion-aligned needs alignment_weight in [adapt]; 1.0 is the paper's")
    _every_set_once(study.measure.set, path)
    parts = (("samples", study.samples), ("attention", study.attention), ("operations", study.operations))
    for cell in study.grid.references:
        backbone, _, pooling = cell.rpartition("/")
        if backbone not in study.grid.backbones or pooling not in study.grid.poolings:
            raise RecipeError(f"{path}: [grid] has references '{cell}', which is no cell of it; add it or leave it out")
    for name, part in parts:
        for key in ("backbones", "poolings") if part is not None else ():
            if absent := [v for v in getattr(part, key) if v not in getattr(study.grid, key)]:
                raise RecipeError(f"{path}: [{name}] has {key} '{absent[0]}', which is not in the grid; add it there")
    if study.samples:
        check_ranges(study.samples, {"steps": _STEPS}, f"{path}: [samples]")
        if study.samples.steps[-1] >= study.tune.steps:
            raise RecipeError(
                f"{path}: [samples] has {study.samples.steps[-1]} steps, and [tune] {study.tune.steps}, which is the "
                "last amount; give fewer"
            )
    if study.attention and "causal" in study.attention.backbones:
        raise RecipeError(f"{path}: [attention] has backbone causal; give opened, which is tuned under both masks")


def _every_set_once(sets: Sequence[SetConfig], path: str) -> None:
    named = [(one.path, one.family, one.sections) for one in sets]
    if not named or len(set(named)) != len(named):
        raise RecipeError(f"{path}: [measure] needs at least one set, and each once in a family")
    for one in sets:
        if one.sections and one.family != "contextual":
            raise RecipeError(f"{path}: set '{one.path}' has sections, which are asked for in family contextual")
