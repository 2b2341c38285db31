"""All measurements of a study that is finished, as tables of seeds by queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffembed.evaluation.results import Result
from diffembed.models.checkpoint import Attention
from diffembed.study.arms import Arm, Reading, readings_of
from diffembed.study.intervals import Table, crossed_interval
from diffembed.study.measure import MAIN, Measurements
from diffembed.study.recipe import FAMILIES, Family, Study
from diffembed.training.recipe import Recipe

ALONE, GAIN = "contextual alone", "gain of reading together"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of every model, found by what was asked.

    A *measure* is a family of sets (of ``contextual`` the chunks read together), or what contextual sets show besides:
    ``contextual alone``, and the ``gain of reading together`` over it.
    """

    study: Study
    recipes: Mapping[int, Recipe]
    measured: Measurements

    def results(self, arm: Arm, reading: Reading) -> list[Result]:
        """One a seed, in their order."""
        found = [self.measured.find(recipe, arm, reading) for recipe in self.recipes.values()]
        return [result for result in found if result is not None]  # the study is finished: none is missing

    def table(self, arm: Arm, reading: Reading) -> Table:
        """``[seeds, queries]`` nDCG@10, queries by id."""
        by_seed = [result.by_query for result in self.results(arm, reading)]
        return np.array([[scores[query][MAIN] for query in sorted(by_seed[0])] for scores in by_seed])

    def tables(self, arm: Arm, measure: str, mask: Attention | None = None) -> list[Table]:
        """Of each set of a measure, read under ``mask``, by default that of training."""
        family: Any = "contextual" if measure in (GAIN, ALONE) else measure
        readings = readings_of(self.study, (family,), (mask or arm.attention,))
        alone = [self.table(arm, r) for r in readings if not r.together]
        if measure not in ("contextual", GAIN):
            return alone
        together = [self.table(arm, r) for r in readings if r.together]
        return together if measure == "contextual" else [b - a for a, b in zip(alone, together, strict=True)]

    def row(self, tables: Sequence[Table]) -> Row:
        """The mean of sets, its interval, and the mean of each seed."""
        found = crossed_interval(tables, draws=self.study.measure.draws)
        by_seed = np.mean([table.mean(axis=1) for table in tables], axis=0)
        bounds = {"mean": found.mean, "low": found.low, "high": found.high}
        return {name: round(value, 5) for name, value in bounds.items()} | {
            "by_seed": [round(float(value), 5) for value in by_seed]
        }

    def measures(self, families: Iterable[Family] = FAMILIES) -> list[str]:
        """Those that the study has sets for."""
        there = {one.family for one in self.study.measure.set}
        named: list[str] = [family for family in families if family in there]
        return named + ([ALONE, GAIN] if "contextual" in named else [])
