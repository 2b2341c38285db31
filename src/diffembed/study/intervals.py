"""What a mean could have been with other seeds and other queries: the crossed bootstrap.

Every seed's model answers the same queries, so scores stand in a table of seeds by queries. A resample draws seeds and,
apart from them, queries, both with replacement (Owen 2007, "The pigeonhole bootstrap"); its value is the mean over the
drawn rows and columns, and every set counts the same. The middle 95% of the values are the interval. Where
queries differ more than seeds it errs on the wide side; where seeds differ more, an interval of three of them is too
narrow (it reaches from the lowest to the highest): the by-seed values stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diffembed.evaluation.compare import Interval

Table = npt.NDArray[np.float64]


def crossed_interval(tables: Sequence[Table], *, draws: int, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of sets and its interval.

    Args:
        tables: ``[seeds, queries]`` of each set, the same seeds in all; of a difference, those of the differences.
        draws: resamples.

    >>> table = np.array([[0.0, 1.0] * 50, [0.2, 1.0] * 50])
    >>> found = crossed_interval([table, table], draws=1000)
    >>> round(found.mean, 3), 0.45 < found.low < 0.5, 0.6 < found.high < 0.65
    (0.55, True, True)
    """
    rng = np.random.default_rng(seed)
    values = np.zeros(draws)
    seeds = len(tables[0])
    drawn = _counts(rng, draws, seeds)
    for table in tables:
        queries = _counts(rng, draws, table.shape[1])
        values += np.einsum("bs,sq,bq->b", drawn, table, queries, optimize=True) / (table.size * len(tables))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([table.mean() for table in tables]))
    return Interval(mean, float(low), float(high), level)


def _counts(rng: np.random.Generator, draws: int, items: int) -> Table:
    """``[draws, items]`` how often each item is drawn."""
    found: Table = rng.multinomial(items, np.full(items, 1.0 / items), size=draws).astype(np.float64)
    return found
