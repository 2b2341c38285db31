"""Any loss on vectors at several widths at once, so that the first values of a vector work without the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def matryoshka(
    loss: Callable[..., Tensor],
    quantize: Callable[[Tensor], Tensor],
    tensors: Sequence[Tensor],
    widths: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Weighted mean over widths of ``loss(*tensors)``, the tensors cut to the width and then quantized.

    The cut comes before the rounding, as in everything that stores such vectors. Source: Kusupati et al. 2022 (arXiv
    2205.13147, equation 1).

    Args:
        loss: a function of as many tensors as are given; the rest of its arguments is bound before.
        quantize: of the cut vectors, for example ``tanh_int8``.
        tensors: ``[.., width]`` each, such as queries and documents.
        widths: at least 1 and at most the tensors' width.
        weights: one for each width, at least 0, not all 0; default equal.

    Raises:
        ValueError: nothing given, a width beyond the tensors, or weights that do not fit.

    Sums of the first 1 and of all 3 values, rounded: 1 and 6. Their mean, then with weights 3 and 1.

    >>> x = torch.tensor([1.25, 2.0, 3.0])
    >>> float(matryoshka(torch.sum, torch.round, [x], [1, 3]))
    3.5
    >>> float(matryoshka(torch.sum, torch.round, [x], [1, 3], [3.0, 1.0]))  # (3 * 1 + 1 * 6) / 4
    2.25
    """
    if not tensors or not widths:
        raise ValueError(f"{len(tensors)} tensors and {len(widths)} widths, expected at least one of each")
    most = min(x.shape[-1] for x in tensors)
    if min(widths) < 1 or max(widths) > most:
        raise ValueError(f"widths {tuple(widths)}, expected 1 to {most}, the tensors' width")
    weights = weights if weights is not None else [1.0] * len(widths)
    if len(weights) != len(widths):
        raise ValueError(f"{len(weights)} weights for {len(widths)} widths, expected one each")
    if min(weights) < 0.0 or sum(weights) <= 0.0:
        raise ValueError(f"weights {tuple(weights)}, expected at least 0 each and more than 0 together")
    parts = [w * loss(*(quantize(x[..., :d]) for x in tensors)) for d, w in zip(widths, weights, strict=True)]
    return torch.stack(parts).sum() / sum(weights)
