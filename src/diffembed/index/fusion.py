"""One ranking from two: chunks by the cosine of their vectors and chunks by the words they share with the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from diffembed.errors import InputError

Fusion = Literal["weighted", "rrf"]
FUSIONS: tuple[str, ...] = get_args(Fusion)
RRF_K = 60
DENSE_WEIGHT = 0.5
"""Share of the cosine in a weighted sum, unless the caller says another one: on average over the sets of
``benchmarks/hybrid.py`` above reciprocal ranks, and within 0.01 of the best of the shares tried."""
DEPTH = 100
"""How many chunks of each ranking are looked at, or twice as many as are asked for if that is more."""


def depth(top: int) -> int:
    """How many chunks of each ranking to fuse for ``top`` results."""
    return max(DEPTH, 2 * top)


def reciprocal_ranks(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    """Sum of ``1 / (60 + rank)`` over the rankings that hold an id (Cormack, Clarke and Buettcher, SIGIR 2009).

    >>> {id_: round(score, 4) for id_, score in reciprocal_ranks([[7, 8], [8, 9]]).items()}
    {7: 0.0164, 8: 0.0325, 9: 0.0161}
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, id_ in enumerate(ranking, start=1):
            scores[id_] = scores.get(id_, 0.0) + 1 / (RRF_K + rank)
    return scores


def weighted_sums(cosines: Mapping[int, float], bm25: Mapping[int, float], weight: float) -> dict[int, float]:
    """``weight * cosine + (1 - weight) * bm25``, each stretched to 0 .. 1 over the ids at hand.

    The least cosine at hand becomes 0; of BM25 it is no shared word that is 0.

    Args:
        cosines: of every id.
        bm25: of those that share words with the query.
        weight: of the cosine, 0 to 1.

    >>> weighted_sums({7: 0.9, 8: 0.5, 9: 0.1}, {8: 4.0, 9: 2.0}, 0.5)
    {7: 0.5, 8: 0.75, 9: 0.25}
    """
    low, high = min(cosines.values(), default=0.0), max(cosines.values(), default=0.0)
    most = max(bm25.values(), default=0.0)
    return {
        id_: weight * ((cosine - low) / (high - low) if high > low else 1.0)
        + (1 - weight) * (bm25.get(id_, 0.0) / most if most > 0 else 0.0)
        for id_, cosine in cosines.items()
    }


def check_fusion(hybrid: str | bool, weight: float) -> Fusion | None:
    """How to fuse, given what the caller asked for; ``None`` for vectors alone.

    Raises:
        InputError: another word than those, or a weight that is no share.
    """
    if not isinstance(hybrid, bool | str) or hybrid not in (True, False, *FUSIONS):
        raise InputError(f"hybrid is {hybrid!r}; choose one of {', '.join(FUSIONS)}, True for the first, or False")
    if not 0 <= weight <= 1:
        raise InputError(f"weight is {weight}; give the share of the cosine, from 0 to 1")
    if hybrid is False:
        return None
    return "rrf" if hybrid == "rrf" else "weighted"


def ranked(scores: Mapping[int, float], top: int) -> list[int]:
    """The ids of the best scores, equal ones by id."""
    return sorted(scores, key=lambda id_: (-scores[id_], id_))[:top]
