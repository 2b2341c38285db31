"""A finished study as the results that ``diffembed report`` draws, under names of benchmarks of their own.

``NAME``            the grid: a system is a cell, its runs are the seeds
``NAME attention``  the ablation: a model is named after the mask of its tuning, its systems after that of the test
``NAME samples``    scores against the amount of tuning, as groups of each result
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from diffembed.evaluation.results import Group, Result, ResultFolder
from diffembed.models.files import atomic_directory
from diffembed.study.arms import ATTENTIONS, Arm, attention_arm, grid_arm, grid_arms, readings_of
from diffembed.study.findings import Findings
from diffembed.study.measure import study_command
from diffembed.study.recipe import FAMILIES
from diffembed.study.summary import samples_of, weights_of

_ALWAYS = ("seed", "dtype", "contextual", "split", "queries", "documents")


def write_results(found: Findings, folder: Path) -> None:
    """Write them into a folder in place of what is in it, all or none."""
    with atomic_directory(folder) as partial:
        results = ResultFolder(partial)
        for kind in (_grid, _attention, _samples):
            for result in kind(found):
                results.write(result, study_command(found.study))


def _grid(found: Findings) -> Iterator[Result]:
    for arm in grid_arms(found.study):
        for reading in readings_of(found.study, FAMILIES, (arm.attention,)):
            yield from found.results(arm, reading)


def _attention(found: Findings) -> Iterator[Result]:
    study, part = found.study, found.study.attention
    for backbone, pooling in ((b, p) for b in part.backbones for p in part.poolings) if part else ():
        for trained in ATTENTIONS:
            arm = attention_arm(study, backbone, pooling, trained)
            model = f"{weights_of(backbone)}/{pooling}, tuned {'causal' if trained == 'causal' else 'open'}"
            for reading in readings_of(study, part.families if part else (), ATTENTIONS):
                for result in found.results(arm, reading):
                    yield _renamed(result, f"{study.name} attention", model, "tested")


def _samples(found: Findings) -> Iterator[Result]:
    study, part = found.study, found.study.samples
    for arm in (grid_arm(study, b, p) for b in part.backbones for p in part.poolings) if part else ():
        for reading in readings_of(study, part.families if part else (), (arm.attention,)):
            amounts = [replace(arm, steps=steps) for steps in (*(part.steps if part else ()), arm.steps)]
            by_amount = [found.results(amount, reading) for amount in amounts]
            for results in zip(*by_amount, strict=True):  # of one seed
                groups = tuple(_group(found, amount, one) for amount, one in zip(amounts, results, strict=True))
                whole = _renamed(results[-1], f"{study.name} samples", arm.name, "backbone", "pooling")
                yield replace(whole, groups=groups)


def _group(found: Findings, arm: Arm, result: Result) -> Group:
    samples = str(samples_of(found.study, arm.steps))
    note = f"{arm.steps} steps, a training of its own"
    return Group("samples", samples, result.counts["queries"], dict(result.scores), note)


def _renamed(result: Result, benchmark: str, model: str, *keys: str) -> Result:
    """With the settings that matter there; the rest would tell systems apart that are one."""
    settings = {key: result.settings[key] for key in (*_ALWAYS, *keys)}
    return replace(result, benchmark=benchmark, model=model, settings=settings, groups=())
