"""Recipes: a training run as one TOML file, read into frozen dataclasses; an unknown key is an error.

A recipe names a tokenizer, a model shape and stages; each stage names its parent (the stage before it by default).
Everything that decides the weights stands here, so the hash of a stage and its parents says what a checkpoint is.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from diffembed.errors import RecipeError
from diffembed.training.checks import check_recipe
from diffembed.training.configs import (
    BEGINNING,
    PRETRAINING,
    Converted,
    ExportConfig,
    ModelShape,
    RunConfig,
    ScoreConfig,
    StageConfig,
    TokenizerConfig,
)
from diffembed.training.tables import build


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run."""

    run: RunConfig
    model: ModelShape | Converted
    stage: tuple[StageConfig, ...]
    tokenizer: TokenizerConfig | None = None
    score: ScoreConfig = field(default_factory=ScoreConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def parents_of(self, stage: StageConfig) -> tuple[StageConfig, ...]:
        """The stages whose weights this one starts from or merges; none: fresh weights."""
        names = [s.name for s in self.stage]
        if stage.kind == "merge":
            return tuple(self.stage[names.index(name)] for name in stage.parents)
        if stage.parent == BEGINNING:
            return ()
        if stage.parent:
            return (self.stage[names.index(stage.parent)],)
        at = names.index(stage.name)
        return (self.stage[at - 1],) if at else ()

    def parent_of(self, stage: StageConfig) -> StageConfig | None:
        """The stage whose weights this one starts from (of a merge, the first); ``None``: fresh weights."""
        return next(iter(self.parents_of(stage)), None)

    def shift_after(self, stage: StageConfig | None, base: bool) -> bool:
        """Whether a state of the model that ``stage`` leaves predicts the next token.

        Args:
            stage: ``None``: before the first.
            base: whether a state of the model does so that the recipe begins with.
        """
        if stage is None:
            return base
        if stage.kind not in PRETRAINING or (stage.kind == "diffusion" and stage.shift is None):
            return self.shift_after(self.parent_of(stage), base)
        return stage.predicts_next

    def with_shift(self, base: bool) -> Recipe:
        """The recipe with the ``shift`` of every diffusion stage settled: as given, else as its parent has it."""
        settled = [replace(s, shift=self.shift_after(s, base)) if s.kind == "diffusion" else s for s in self.stage]
        return replace(self, stage=tuple(settled))

    def fingerprint(self, stage: StageConfig) -> str:
        """Hash of everything that decides this stage's weights: tokenizer, shape, seed, it and its parents.

        Only what differs from the defaults counts, so that a new option does not disown the checkpoints before it.
        For the same reason a ``shift`` that is true counts as one that is not given: true was once the default.
        """
        decides = [self.run.seed, self.run.data_root, _chosen(self.tokenizer), _chosen(self.model), self._chain(stage)]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def _chain(self, stage: StageConfig) -> list[Any]:
        same = replace(stage, memory_tokens=StageConfig("", "pair").memory_tokens)  # which decides memory alone
        own = _chosen(replace(same, shift=None) if stage.shift else same)
        if stage.kind != "merge":
            parent = self.parent_of(stage)
            return [own, *(self._chain(parent) if parent else [])]
        judges = _chosen(replace(self.score, untrained=True)) if len(stage.sweep) > 1 else {}
        return [own, judges, *(self._chain(parent) for parent in self.parents_of(stage))]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: no such file, not TOML, a key unknown or missing, a value of the wrong type or out of range.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"recipe {path} does not exist; runs/ holds the ones that come with diffembed") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} is not a readable TOML file: {error}") from None
    recipe: Recipe = build(Recipe, data, f"{path}")
    check_recipe(recipe, str(path))
    return recipe


def _chosen(config: Any) -> Any:
    if isinstance(config, tuple):
        return [_chosen(c) for c in config]
    if not is_dataclass(config):
        return config
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    usual = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(config)}
    return {name: _chosen(value) for name, value in values.items() if value != usual[name]}
