"""Representation alignment: a diffusion model's states held to those of its frozen autoregressive parent.

Source: Repr-Align (Peng et al. 2026, arXiv 2605.06885): beside the denoising loss, one minus the cosine between the
hidden states of the model, which reads the masked text both ways, and of the frozen parent, which reads the clean text
left to right, at every layer; up to four times fewer steps, most with little data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def layer_alignment(student: Sequence[Tensor], parent: Sequence[Tensor], rows_N: Tensor) -> Tensor:
    """Sum over rows of the mean over layers of 1 - cos(student state, parent state), float32.

    Args:
        student: ``[tokens, hidden]`` of each layer; gradients flow here only.
        parent: the same of the frozen model.
        rows_N: which tokens are compared.

    Two layers, one token: cosines 1 and 0, so (0 + 1) / 2; a second token agrees in both and adds nothing.

    >>> s = [torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])]
    >>> p = [torch.tensor([[1.0, 0.0], [3.0, 3.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])]
    >>> round(float(layer_alignment(s, p, torch.tensor([0, 1]))), 6)
    0.5
    """
    if len(student) != len(parent):
        raise ValueError(f"{len(student)} layers against {len(parent)}: alignment needs models of one shape")
    parts = [
        (1.0 - cosine_similarity(s[rows_N].float(), p[rows_N].detach().float(), dim=-1)).sum()
        for s, p in zip(student, parent, strict=True)
    ]
    return torch.stack(parts).mean()
