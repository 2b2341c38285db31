"""How much of the machine a step uses: floating-point operations of a step, and the peak they are compared with.

Model FLOPs utilisation (MFU) counts what the mathematics of a step needs and nothing that is computed twice, such as
the forward passes that gradient checkpointing repeats (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffembed.models.attention import window_reach
from diffembed.models.embedder import Embedder
from diffembed.models.varlen import Reach
from diffembed.text.batching import IntArray

# Dense bfloat16 rates of the vendors' data sheets, in TFLOP/s, by words of the device's name; the first match counts.
_KNOWN_BF16 = (
    ("B200", 2250.0),
    ("GH200", 989.4),
    ("H200 NVL", 835.0),
    ("H200", 989.4),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.4),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("A10G", 70.0),
)
_MEASURED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class StepCost:
    """Floating-point operations of training steps of one model, forward and backward.

    Attributes:
        token: of all linear layers, a token.
        pair: of attention, a query and a key that it sees, in one layer.
        target: of the output matrix, a predicted token.
        reaches: by layer how many tokens back and ahead a query sees (``window_reach``).
    """

    token: float
    pair: float
    target: float
    reaches: tuple[Reach, ...]

    def of(self, lengths: IntArray, targets: int) -> float:
        """Operations of a step over sequences of these lengths that predicts ``targets`` tokens.

        >>> cost = StepCost(token=600.0, pair=12.0, target=60.0, reaches=((-1, -1), (-1, 0)))
        >>> cost.of(np.array([3, 1]), targets=2)  # 4 x 600 + (9 + 1 pairs open, 6 + 1 causal) x 12 + 2 x 60
        2724.0
        """
        tokens = float(lengths.sum())
        pairs = sum(tokens + _beyond(lengths, back) + _beyond(lengths, ahead) for back, ahead in self.reaches)
        return self.token * tokens + self.pair * pairs + self.target * targets


def _beyond(lengths: IntArray, reach: int) -> float:
    """Tokens that the queries of sequences of these lengths see to one side, themselves not counted; -1: all."""
    seen = np.maximum(lengths - 1, 0) if reach < 0 else np.minimum(reach, np.maximum(lengths - 1, 0))
    return float((seen * lengths - seen * (seen + 1) // 2).sum())  # the outermost see 0, 1, ... of them


def step_cost(embedder: Embedder, *, causal: bool, backward: bool = True) -> StepCost:
    """The cost of a model: 2 operations a weight forward, 2 for the input's gradient, 2 where the weight learns.

    Vectors (norms, biases) are not counted, nor is looking up an embedding. Asks for shapes alone, so a model on the
    meta device will do.

    Args:
        backward: ``False`` counts a forward pass alone.
    """
    config, token = embedder.backbone.config, 0
    table, lookup = embedder.output_table(), embedder.backbone.get_input_embeddings().weight

    def operations(weight: Tensor) -> int:
        return (2 + backward * (2 + 2 * weight.requires_grad)) * weight.numel()

    for parameter in embedder.parameters():
        if parameter.ndim == 2 and parameter is not table and parameter is not lookup:
            token += operations(parameter)
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * int(config.num_hidden_layers)
    window = int(getattr(config, "sliding_window", None) or 0)
    reaches = tuple(window_reach(causal, window if kind == "sliding_attention" and window else None) for kind in kinds)
    pair = (4.0 + 8.0 * backward) * heads * width
    return StepCost(float(token), pair, float(operations(table)), reaches)


def peak_rate(device: torch.device, dtype: torch.dtype, rows: int, inner: int, columns: int) -> tuple[float, str]:
    """Operations a second at best, and where the number is from.

    Args:
        rows, inner, columns: a matrix product that is typical for the model, measured where no data sheet is known.

    Returns:
        FLOP/s, and ``"data sheet"`` or ``"measured"``.
    """
    known = device.type == "cuda" and dtype == torch.bfloat16
    if known and (rate := known_rate(torch.cuda.get_device_name(device))):
        return rate * 1e12, "data sheet"
    return _measured(device, dtype, rows, inner, columns, torch.get_num_threads()), "measured"


def known_rate(name: str) -> float | None:
    """Dense bfloat16 TFLOP/s of a device's data sheet.

    >>> known_rate("NVIDIA L4"), known_rate("NVIDIA L40S"), known_rate("NVIDIA A100-SXM4-80GB")
    (121.0, 362.0, 312.0)
    """
    return next((rate for words, rate in _KNOWN_BF16 if re.search(rf"\b{words}\b", name)), None)


@lru_cache
def _measured(device: torch.device, dtype: torch.dtype, rows: int, inner: int, columns: int, threads: int) -> float:
    a = torch.ones(rows, inner, device=device, dtype=dtype)
    b = torch.ones(inner, columns, device=device, dtype=dtype)
    c = a @ b  # the first call pays for choosing a kernel
    best, end = float("inf"), time.perf_counter() + _MEASURED_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=c)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * inner * columns / best
