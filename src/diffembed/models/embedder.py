"""The embedder: a backbone, what it reads out of each span, and the quantizer that belongs to it."""

from __future__ import annotations

import numpy as np  # noqa: F401 (doctest)
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffembed.models.backbone import packed_states, token_embedding
from diffembed.models.quantizer import tanh_int8
from diffembed.text.batching import IntArray, PackedBatch, Pooling, read_out


def span_means(states_TD: Tensor, spans: IntArray) -> Tensor:
    """Mean state of each span, in float32.

    Args:
        states_TD: ``[tokens, hidden]``.
        spans: ``[spans, 2]`` start and end in packed token coordinates; none empty.

    Returns:
        ``[spans, hidden]``.

    >>> span_means(torch.tensor([[1., 0.], [3., 2.], [5., 5.]]), np.array([[0, 2], [2, 3]])).tolist()
    [[2.0, 1.0], [5.0, 5.0]]
    """
    starts, ends = (torch.from_numpy(x.copy()).to(states_TD.device) for x in (spans[:, 0], spans[:, 1]))
    lengths = ends - starts
    rows = torch.repeat_interleave(torch.arange(len(spans), device=states_TD.device), lengths)
    offsets = torch.arange(rows.shape[0], device=rows.device) - torch.repeat_interleave(
        lengths.cumsum(0) - lengths, lengths
    )
    tokens = starts[rows] + offsets
    if rows.shape[0] < states_TD.shape[0] or not bool(
        (tokens == torch.arange(len(tokens), device=tokens.device)).all()
    ):
        states_TD = states_TD[tokens]  # not needed where spans cover the batch; its gradient is a serial scatter
    sums = torch.zeros(len(spans), states_TD.shape[1], dtype=torch.float32, device=states_TD.device)
    return sums.index_add(0, rows, states_TD.float()) / lengths[:, None]


class Embedder(nn.Module):
    """Backbone and pooling; ``forward`` gives a vector a span before the quantizer, ``quantized`` after it.

    Args:
        head: ``[vocab, hidden]`` output matrix of a backbone whose own is not tied to its token table.
        pooling: ``last`` and ``mask`` read the last token of a span, which is put there where texts are tokenized.
    """

    def __init__(self, backbone: PreTrainedModel, head: Tensor | None = None, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.head = None if head is None else nn.Parameter(head)

    def output_table(self) -> Tensor:
        """What scores tokens against states, ``[vocab, hidden]``: the head, or the token table where they are tied."""
        return token_embedding(self.backbone) if self.head is None else self.head

    def forward(self, batch: PackedBatch) -> Tensor:
        """``[spans, hidden]`` before tanh, float32: means of the spans, or the states of their last tokens."""
        return span_means(packed_states(self.backbone, batch), read_out(batch, self.pooling).spans)

    def quantized(self, batch: PackedBatch, dims: int) -> Tensor:
        """INT8-valued floats ``[spans, dims]``: Matryoshka cut first, then tanh and rounding (straight-through)."""
        return tanh_int8(self(batch)[:, :dims])
