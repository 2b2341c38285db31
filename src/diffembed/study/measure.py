"""Scores of a study's models: one result file for each model, seed, set and way of reading it.

``OUTPUT/measured/`` is a ``ResultFolder``. The file of a measurement is named after everything that decides it, so what
is there is not measured again; its ``revision`` is the fingerprint of the stage that tuned the model, made without the
seed, which stands in the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffembed.data.beir import RetrievalTask
from diffembed.encoder import Encoder
from diffembed.evaluation.breakdown import breakdown
from diffembed.evaluation.results import Result, ResultFolder, read_result
from diffembed.evaluation.retrieval import evaluate_encoder
from diffembed.models.checkpoint import Attention, read_model_config
from diffembed.study.arms import Arm, Reading
from diffembed.study.recipe import Study
from diffembed.study.sets import load_set
from diffembed.training.recipe import Recipe

MAIN = "ndcg@10"
_DIGITS = 5


class Measurements:
    """The measurements of a study that are there, and the sets for those that are not.

    Args:
        output: the study's folder.
    """

    def __init__(self, study: Study, output: Path, data_root: Path) -> None:
        self.study, self.data_root = study, data_root
        self.folder = ResultFolder(output / "measured")
        self._tasks: dict[Any, RetrievalTask] = {}
        self._known: dict[Path, Result] = {}

    def find(self, recipe: Recipe, arm: Arm, reading: Reading) -> Result | None:
        """What was measured of a model, or ``None``.

        Args:
            recipe: that of the seed.
        """
        settings = self.settings(recipe, arm, reading)
        file = self.folder.file(self.study.name, task_name(reading), arm.name, revision(recipe, arm), settings)
        if file not in self._known and file.is_file():
            self._known[file] = read_result(file)
        return self._known.get(file)

    def measure(self, recipe: Recipe, arm: Arm, reading: Reading, encoder: Encoder, spent: Mapping[str, float]) -> None:
        """Score a model on one set and keep the result.

        Args:
            encoder: as :func:`load_model` gives it for the mask of ``reading``.
            spent: on its training, kept among the result's costs.
        """
        task = replace(self.task(reading), name=task_name(reading))
        found = evaluate_encoder(
            task, encoder, dtype=self.study.measure.dtype, contextual=reading.together, model=arm.name
        )
        by_query = {query: {MAIN: round(scores[MAIN], _DIGITS)} for query, scores in found.by_query.items()}
        groups = breakdown(task, found.by_query, by=("characters",)) if reading.set.family == "long" else ()
        result = found.to_result(revision(recipe, arm), benchmark=self.study.name, groups=groups)
        result = replace(
            result,
            settings=self.settings(recipe, arm, reading),
            by_query=by_query,
            cost=result.cost | dict(spent),
            data={"source": reading.set.path, "sample_seed": self.study.measure.seed},
        )
        self.folder.write(result, study_command(self.study))

    def task(self, reading: Reading) -> RetrievalTask:
        """The sample of a set, read once."""
        config = reading.set
        key = (config.path, config.sections, config.split, config.queries, config.documents)
        if key not in self._tasks:
            self._tasks[key] = load_set(config, self.data_root, self.study.measure.seed)
        return self._tasks[key]

    def settings(self, recipe: Recipe, arm: Arm, reading: Reading) -> dict[str, Any]:
        """All that tells one measurement from another. A set's family does not: it only says where it is counted."""
        config = reading.set
        return {
            "backbone": arm.backbone,
            "pooling": arm.pooling,
            "seed": recipe.run.seed,
            "trained": arm.attention,
            "tested": reading.attention,
            "steps": arm.steps,
            "equal": arm.equal,
            "dtype": self.study.measure.dtype,
            "contextual": reading.together,
            "split": config.split,
            "queries": config.queries,
            "documents": config.documents,
            "sample_seed": self.study.measure.seed,
        }


def study_command(study: Study) -> str:
    """What makes it all, for manifests and results."""
    return f"diffembed study runs/{study.name}.toml"


def task_name(reading: Reading) -> str:
    """``long-eips sections together``."""
    name = f"{reading.set.path} sections" if reading.set.sections else reading.set.path
    return f"{name} together" if reading.together else name


def revision(recipe: Recipe, arm: Arm) -> str:
    """What decides the weights of a model but for the seed: one model's seeds belong together."""
    stage = next(stage for stage in recipe.stage if stage.name == arm.stage)
    return replace(recipe, run=replace(recipe.run, seed=0)).fingerprint(stage)


def load_model(path: Path, attention: Attention, *, threads: int | None = None) -> Encoder:
    """A model under a mask, on torch; the mask need not be the one that it was tuned under."""
    from diffembed.runtime.torch import TorchRuntime

    config = read_model_config(path)
    runtime = TorchRuntime(
        path,
        threads=threads,
        pad_token_id=config.pad_token_id,
        max_tokens=config.max_tokens,
        attention=attention if attention != config.attention else None,
    )
    return Encoder(str(path), path, replace(config, attention=attention), runtime)


def spent_on(model: Path) -> dict[str, float]:
    """Tokens, operations and seconds of the three phases of a model's training, from its manifest."""
    manifest = read_model_config(model).manifest
    stages = [*manifest["earlier"], manifest]
    names = ("base", "adapt", "tune")[-len(stages) :]
    return {
        f"{name}_{what}": float(stage["training"][what])
        for name, stage in zip(names, stages, strict=True)
        for what in ("tokens", "flops", "seconds")
    }
