"""``PackedBatch``: the one batch type, from pretraining to the server.

Token ids of several sequences stand end to end without padding; ``cu_seqlens`` says where each begins, ``spans``
which token ranges become a vector. A text is a sequence with one span; a document cut into chunks is a sequence
with a span a chunk. Spans are made here, while tokenizing, and never found again by searching for an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Pooling = Literal["mean", "last", "mask"]
"""What of a span becomes its vector: the mean over its tokens, or the end token or mask token that is its last."""


@dataclass(frozen=True, slots=True)
class TokenizedSequence:
    """One sequence before packing: its ids, and its spans as ``(start, end)`` token ranges inside it."""

    token_ids: tuple[int, ...] | IntArray
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences end to end.

    Attributes:
        token_ids: ``[tokens]``.
        position_ids: ``[tokens]``, counting from 0 in each sequence.
        cu_seqlens: ``[sequences + 1]``; sequence ``i`` is ``token_ids[cu_seqlens[i]:cu_seqlens[i + 1]]``.
        spans: ``[spans, 2]`` start and end of each span, in packed token coordinates, in sequence order.
    """

    token_ids: IntArray
    position_ids: IntArray
    cu_seqlens: IntArray
    spans: IntArray

    @property
    def tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.cu_seqlens)

    def __len__(self) -> int:
        return int(self.cu_seqlens.shape[0]) - 1


def pack(sequences: Sequence[TokenizedSequence]) -> PackedBatch:
    """Put sequences end to end.

    >>> b = pack([TokenizedSequence((5, 6, 7), ((0, 3),)), TokenizedSequence((8, 9), ((0, 1), (1, 2)))])
    >>> b.token_ids.tolist(), b.position_ids.tolist(), b.cu_seqlens.tolist(), b.spans.tolist()
    ([5, 6, 7, 8, 9], [0, 1, 2, 0, 1], [0, 3, 5], [[0, 3], [3, 4], [4, 5]])
    """
    if not sequences:
        raise ValueError("pack() was given no sequences; a batch needs at least one")
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    cu_seqlens = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    token_ids = np.concatenate([np.asarray(s.token_ids, dtype=np.int64) for s in sequences])
    position_ids = np.arange(token_ids.shape[0], dtype=np.int64) - np.repeat(cu_seqlens[:-1], lengths)
    spans = [
        (start + offset, end + offset)
        for s, offset in zip(sequences, cu_seqlens[:-1].tolist(), strict=True)
        for start, end in s.spans
    ]
    return PackedBatch(token_ids, position_ids, cu_seqlens, np.array(spans, dtype=np.int64).reshape(-1, 2))


def read_out(batch: PackedBatch, pooling: str) -> PackedBatch:
    """The batch with the spans that a model of this ``pooling`` averages: whole ones, or the last token of each.

    That token stands at the end of every text and chunk to be read (:func:`readout`).

    >>> b = pack([TokenizedSequence((5, 6, 7), ((0, 3),)), TokenizedSequence((8, 9), ((0, 1), (1, 2)))])
    >>> read_out(b, "last").spans.tolist()
    [[2, 3], [3, 4], [4, 5]]
    """
    if pooling not in ("last", "mask"):
        return batch
    ends = batch.spans[:, 1:]
    return replace(batch, spans=np.concatenate([ends - 1, ends], axis=1))


def readout(pooling: str, *, end_token_id: int, mask_token_id: int | None) -> tuple[int, ...]:
    """What is put after every text and chunk to be its vector: nothing where the states of its own tokens are averaged.

    A text that ends in a word would be read at the state of that word. So last-token embedders end it with the end
    token, and read that (RepLLaMA, arXiv 2310.08319; E5-Mistral, arXiv 2401.00368).

    >>> [readout(pooling, end_token_id=2, mask_token_id=1) for pooling in ("mean", "last", "mask")]
    [(), (2,), (1,)]
    """
    token = {"last": end_token_id, "mask": mask_token_id}.get(pooling)
    return () if token is None else (token,)


def joined(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Batches end to end, as one.

    >>> a = pack([TokenizedSequence((5, 6), ((0, 2),))])
    >>> b = joined([a, a])
    >>> b.token_ids.tolist(), b.position_ids.tolist(), b.cu_seqlens.tolist(), b.spans.tolist()
    ([5, 6, 5, 6], [0, 1, 0, 1], [0, 2, 4], [[0, 2], [2, 4]])
    """
    starts = np.cumsum([0, *(batch.tokens for batch in batches)])
    shifted = list(zip(batches, starts[:-1], strict=True))
    return PackedBatch(
        np.concatenate([batch.token_ids for batch in batches]),
        np.concatenate([batch.position_ids for batch in batches]),
        np.concatenate([*(batch.cu_seqlens[:-1] + start for batch, start in shifted), starts[-1:]]),
        np.concatenate([batch.spans + start for batch, start in shifted]),
    )


def batches_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group sequence numbers, shortest first, so that the *padded* size of a group stays within ``budget`` tokens.

    Sorting by length makes the padding that a padded runtime adds negligible, and a packed one loses nothing by
    it. A sequence longer than the budget gets a group of its own.

    >>> list(batches_by_tokens([3, 50, 4, 3], budget=12))
    [[0, 3, 2], [1]]
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * lengths[i] > budget:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def blocks(documents: Sequence[Sequence[str]], most: int, characters: int) -> Iterator[tuple[int, int]]:
    """Consecutive documents to hold in memory together: at most ``most`` and (but for a single one) so many characters.

    >>> list(blocks([["ab"], ["c", "d"], ["efghij"], ["k"]], most=2, characters=4))
    [(0, 2), (2, 3), (3, 4)]
    """
    start = size = 0
    for number, document in enumerate(documents):
        own = sum(map(len, document))
        if number > start and (number - start >= most or size + own > characters):
            yield start, number
            start, size = number, 0
        size += own
    if start < len(documents):
        yield start, len(documents)
