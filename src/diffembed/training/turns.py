"""Which source feeds each step of a stage, and which of its rows: functions of stage, seed and step number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffembed.data.sources import schedule
from diffembed.training.configs import StageConfig


class Turns:
    """The turns of a stage's sources, drawn by weight.

    Args:
        stage: its steps and sources.
        counts: rows that a step of each source draws.
        seed: of the stage.

    >>> from diffembed.training.configs import SourceConfig
    >>> two = (SourceConfig("a", ()), SourceConfig("b", (), weight=3.0))
    >>> turns = Turns(StageConfig("s", "pair", steps=8, source=two), counts=[10, 20], seed=0)
    >>> [turns.at(step) for step in range(4)]
    [(1, 0, 20), (0, 0, 10), (1, 20, 20), (1, 40, 20)]
    """

    def __init__(self, stage: StageConfig, counts: Sequence[int], seed: int) -> None:
        self._choices = schedule([s.weight for s in stage.source], stage.steps, seed)
        self._counts = [int(count) for count in counts]
        self._ends = np.zeros((len(self._counts), stage.steps + 1), dtype=np.int64)
        for i, count in enumerate(self._counts):
            self._ends[i, 1:] = np.cumsum((self._choices == i) * count)

    def at(self, step: int) -> tuple[int, int, int]:
        """Number of the step's source, its first draw and how many it draws."""
        choice = int(self._choices[step])
        return choice, int(self._ends[choice, step]), self._counts[choice]

    def drawn(self, source: int) -> int:
        """Rows that the whole stage draws from a source."""
        return int(self._ends[source, -1])


def stage_seed(seed: int, stage: StageConfig) -> int:
    """The seed of a stage's data: stages of one run read in orders of their own, unless they are of one ``order``."""
    return int(np.random.default_rng((seed, *(stage.order or stage.name).encode())).integers(2**31))
