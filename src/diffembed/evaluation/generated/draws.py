"""Pseudo-random choices that are the same on every machine and in every version of Python.

``random`` promises that of its floats alone, not of ``shuffle`` or ``choice``; texts that are named by a seed need
more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of choices that depends on the key alone.

    Args:
        key: what is drawn for: a seed, a name, a length, ... Streams of different keys are independent.

    >>> draws = Draws("passkey", 256, 0)
    >>> draws.below(100_000), round(draws.uniform(), 4), draws.shuffled("abcdef")
    (18318, 0.3817, ['a', 'b', 'd', 'c', 'e', 'f'])
    """

    def __init__(self, *key: object) -> None:
        self._key = "\x1f".join(map(str, key)).encode()
        self._drawn = 0

    def below(self, count: int) -> int:
        """One of 0 .. ``count - 1``; 64 bits are drawn, so that no count in use is visibly favoured."""
        digest = hashlib.sha256(self._key + b"\x1f" + str(self._drawn).encode()).digest()
        self._drawn += 1
        return int.from_bytes(digest[:8], "big") * count >> 64

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self.below(1 << 53) / (1 << 53)

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in another order."""
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed

    def depths(self, count: int) -> list[float]:
        """``count`` numbers in [0, 1), one from each of as many equal slices, in random order.

        Each is uniform, and together they are spread more evenly than single draws: a share of them that lies below
        some limit is then nearly the limit itself.
        """
        return self.shuffled([(slice_ + self.uniform()) / count for slice_ in range(count)])
