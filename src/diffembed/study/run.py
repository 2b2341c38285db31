"""Run a study: train and measure one model after the other, each once, and put the figures together at the end.

OUTPUT/seed-1/...         a run of stages like any other (``training/run.py``), one a seed
OUTPUT/measured/...       a result file for each model, seed and set
OUTPUT/results/...        what ``diffembed report`` draws
OUTPUT/summary.json       all figures with their intervals, and what every model has cost

A model whose measurements are all there is not touched again, a training that was cut short goes on from its last
checkpoint: after a kill the same command goes on where it was.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.errors import InputError, UnfinishedError
from diffembed.study.arms import Job, jobs, seed_recipe
from diffembed.study.findings import Findings
from diffembed.study.measure import Measurements, load_model, spent_on, study_command, task_name
from diffembed.study.presented import write_results
from diffembed.study.recipe import Study, read_study
from diffembed.study.summary import SUMMARY, summarise
from diffembed.training.recipe import Recipe

if TYPE_CHECKING:
    from diffembed.training.loop import Progress

_DONE = ": complete, skipped"  # a run says so of every stage before the one that it trains


@dataclass(slots=True)
class _Clock:
    """The time that a call was given. It does at least one piece of work, so that calling it again comes to an end."""

    until: float
    begun: bool = False

    def begin(self) -> None:
        """Ask whether there is time for another piece of work.

        Raises:
            UnfinishedError: there is not.
        """
        if self.begun and time.monotonic() >= self.until:
            raise UnfinishedError("the time is over")
        self.begun = True


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_study(
    path: Path,
    *,
    minutes: float | None = None,
    report: Callable[[str], None] = _stderr,
    watch: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Do what is left of the study at ``path``; its relative paths are relative to its folder.

    Args:
        minutes: stop after so long, at the end of a training step or a measurement; one is always made.
        report: told in lines what happens.
        watch: told of every logged step, in place of a line.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UnfinishedError: ``minutes`` are over; the same call goes on.
        RecipeError, InputError, TrainingError: one line that says what to mend.
        StoppedError: SIGTERM came while a model trained.
    """
    path = Path(path)
    clock = _Clock(math.inf if minutes is None else time.monotonic() + 60 * minutes)
    study = read_study(path)
    folder = path.resolve().parent
    output = (folder / study.run.output).resolve()
    found, recipes = _opened(study, path)
    listed = jobs(study)
    for number, job in enumerate(listed):
        recipe = recipes[job.seed]
        missing = [r for r in job.readings if found.find(recipe, job.arm, r) is None]
        if not missing:
            continue
        said = f"model {number + 1} of {len(listed)}: {job.arm.name}, seed {job.seed}"
        model = output / f"seed-{job.seed}" / job.arm.stage / "model"
        try:
            if not model.is_dir():
                clock.begin()
            _train(study, recipe, folder, job, clock.until, report, watch)
            report(f"{said}: measuring {', '.join(dict.fromkeys(map(task_name, missing)))}")
            _measure(study, recipe, job, model, found, clock)
        except UnfinishedError as error:
            raise UnfinishedError(
                f"{study.name} is not finished ({said}: {error}); what is done is kept, run the same command to go on"
            ) from None
        if not study.grid.keep_models:
            shutil.rmtree(model)
    findings = Findings(study, recipes, found)
    write_results(findings, output / "results")
    return summarise(findings, output)


def plan_study(path: Path) -> dict[str, Any]:
    """What the study at ``path`` trains and measures: the stages of one seed with their cost, and how many of them.

    Raises:
        RecipeError, ModelError: as :func:`run_study`; a checkpoint whose shape is not known here.
    """
    from diffembed.training.estimate import estimate_stages

    path = Path(path)
    study = read_study(path)
    found, recipes = _opened(study, path)
    listed = jobs(study)
    recipe = recipes[study.grid.seeds[0]]
    stages = estimate_stages(recipe, path.resolve().parent, recipe.stage).stages
    there = [found.find(recipes[job.seed], job.arm, reading) for job in listed for reading in job.readings]
    keys = ("name", "kind", "steps", "tokens", "flops")
    return {
        "study": study.name,
        "seeds": len(recipes),
        "models": len(listed),
        "measurements": len(there),
        "measured": sum(result is not None for result in there),
        "stages": [{("stage" if key == "name" else key): getattr(s, key) for key in keys} for s in stages],
    }


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of the study at ``path``, if it is finished.

    Raises:
        RecipeError: as :func:`run_study`.
        InputError: it is not finished.
    """
    path = Path(path)
    study = read_study(path)
    file = (path.resolve().parent / study.run.output).resolve() / SUMMARY
    if not file.is_file():
        raise InputError(f"{file} is not there: the study is not finished; run: diffembed study {path}")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _opened(study: Study, path: Path) -> tuple[Measurements, dict[int, Recipe]]:
    """The measurements that are there, and the recipe of each seed."""
    folder = path.resolve().parent
    output, data_root = ((folder / place).resolve() for place in (study.run.output, study.run.data_root))
    return Measurements(study, output, data_root), {s: seed_recipe(study, s, path) for s in study.grid.seeds}


def _train(
    study: Study,
    recipe: Recipe,
    folder: Path,
    job: Job,
    until: float,
    report: Callable[[str], None],
    watch: Callable[[Progress], None] | None,
) -> None:
    """The job's stage, and before it those of its parents that no job before has asked for."""
    from diffembed.training.run import run_stages

    stage = next(stage for stage in recipe.stage if stage.name == job.arm.stage)
    chain = [stage]
    while parent := recipe.parent_of(chain[-1]):
        chain.append(parent)

    def line(text: str) -> None:
        if not text.endswith(_DONE):
            report(text)

    names = [stage.name for stage in chain]
    command = study_command(study)
    run_stages(recipe, folder, names, command=command, until=until, report=line, watch=watch)


def _measure(study: Study, recipe: Recipe, job: Job, model: Path, found: Measurements, clock: _Clock) -> None:
    spent = spent_on(model)
    for mask in dict.fromkeys(reading.attention for reading in job.readings):
        encoder = None
        for reading in job.readings:
            if reading.attention != mask or found.find(recipe, job.arm, reading) is not None:
                continue
            clock.begin()
            encoder = encoder or load_model(model, mask, threads=study.run.threads or None)
            found.measure(recipe, job.arm, reading, encoder, spent)
