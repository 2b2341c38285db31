"""What is done to a clean batch beside masking: sequences cut short, readable tokens shuffled, masked ones weighed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from diffembed.text.batching import IntArray, PackedBatch


def truncate_some(batch: PackedBatch, rng: np.random.Generator, share: float) -> PackedBatch:
    """Cut a ``share`` of the sequences, each to its first n tokens, n uniform from 1 to its length.

    So that the model also learns on short inputs; 1 % in LLaDA (arXiv 2502.09992, section 2.2) and in pplx-embed
    (arXiv 2602.11151).

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> b = pack([TokenizedSequence((5, 6, 7, 8), ((0, 4),)), TokenizedSequence((9, 10), ((0, 2),))])
    >>> cut = truncate_some(b, np.random.default_rng(3), share=1.0)
    >>> cut.token_ids.tolist(), cut.position_ids.tolist(), cut.cu_seqlens.tolist(), cut.spans.tolist()
    ([5, 9, 10], [0, 0, 1], [0, 1, 3], [[0, 1], [1, 3]])
    """
    lengths = batch.lengths
    chosen = rng.random(len(batch)) < share
    kept = np.where(chosen, rng.integers(1, lengths + 1), lengths)
    starts, cu_seqlens = batch.cu_seqlens[:-1], np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    stays = batch.position_ids < np.repeat(kept, lengths)
    owner = np.searchsorted(batch.cu_seqlens, batch.spans[:, 0], side="right") - 1
    spans = np.minimum(batch.spans - starts[owner, None], kept[owner, None]) + cu_seqlens[owner, None]
    spans = spans[spans[:, 1] > spans[:, 0]]
    return PackedBatch(batch.token_ids[stays], batch.position_ids[stays], cu_seqlens, spans)


def shuffle_some(
    batch: PackedBatch, readable: IntArray, rng: np.random.Generator, share: float, window: int
) -> tuple[IntArray, IntArray]:
    """Choose a ``share`` of the ``readable`` tokens and permute them among themselves inside windows.

    An ablation: one digest of pplx-embed (arXiv 2602.11151) names shuffling beside masking. Windows are ``window``
    tokens wide, never cross a sequence, and start at a random offset.

    Returns:
        The places (packed positions, ascending), and for each the place that its token is taken from.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> b = pack([TokenizedSequence((5, 6, 7, 8), ())])
    >>> places, taken = shuffle_some(b, np.array([0, 2, 3]), np.random.default_rng(0), share=1.0, window=100)
    >>> places.tolist(), taken.tolist()
    ([0, 2, 3], [3, 0, 2])
    """
    offset = int(rng.integers(window))
    places = readable[rng.random(len(readable)) < share]
    sequence = np.searchsorted(batch.cu_seqlens, places, side="right") - 1
    block = sequence * (batch.tokens + 1) + (batch.position_ids[places] + offset) // window
    return places, places[np.lexsort((rng.random(len(places)), block))]


def cart_weights(batch: PackedBatch, masked: IntArray, p: float = 0.3) -> npt.NDArray[np.float64]:
    """CART: a masked token weighs more the nearer its readable context, w_n = 1/2 sum_i p (1 - p)^(|n - i| - 1).

    The sum runs over the readable tokens i of the token's own sequence. Source: Dream 7B (arXiv 2508.15487,
    context-adaptive token-level noise rescheduling). Terms below 1e-12 are left out, so time is linear in tokens.

    Args:
        masked: packed positions of the masked tokens.
        p: of the geometric distribution.

    Returns:
        ``[masked]`` weights, at most 1.

    Token 1 of four, 1 and 2 masked, p = 0.5: neighbour 0 gives 0.5, token 3 at distance 2 gives 0.25; half their sum.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> cart_weights(pack([TokenizedSequence((5, 6, 7, 8), ())]), np.array([1, 2]), p=0.5).tolist()
    [0.375, 0.375]
    """
    readable = np.ones(batch.tokens)
    readable[masked] = 0.0
    reach = 1 if p == 1.0 else max(1, math.ceil(math.log(1e-12) / math.log1p(-p)))
    weights = np.empty(batch.tokens)
    for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        width = int(min(reach, max(1, end - start - 1)))
        side = 0.5 * p * (1.0 - p) ** np.arange(width)
        kernel = np.concatenate([side[::-1], [0.0], side])
        weights[start:end] = np.convolve(readable[start:end], kernel)[width : width + end - start]
    return weights[masked]
