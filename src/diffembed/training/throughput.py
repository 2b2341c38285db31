"""How much of the machine a step uses: floating-point operations of a step, and the peak they are compared with.

Model FLOPs utilisation (MFU) counts what the mathematics of a step needs and nothing that is computed twice, such as
the forward passes that gradient checkpointing repeats (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from diffembed.models.embedder import Embedder
from diffembed.text.batching import IntArray

# Dense bfloat16 rates of the vendors' data sheets, in TFLOP/s, by a part of the device's name; the first match counts.
_KNOWN_BF16 = (
    ("B200", 2250.0),
    ("H200", 989.4),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.4),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("A10G", 70.0),
)
_MEASURED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class StepCost:
    """Floating-point operations of training steps of one model, forward and backward.

    Attributes:
        token: of all linear layers, a token.
        pair: of attention, a query-key pair of every layer (``windows`` bounds the keys a query sees).
        target: of the output matrix, a predicted token.
        windows: by layer how many keys a query can see at most; 0: all.
        causal: half of the pairs are masked.
    """

    token: float
    pair: float
    target: float
    windows: tuple[int, ...]
    causal: bool

    def of(self, lengths: IntArray, targets: int) -> float:
        """Operations of a step over sequences of these lengths that predicts ``targets`` tokens.

        >>> cost = StepCost(token=600.0, pair=12.0, target=60.0, windows=(0, 0), causal=False)
        >>> cost.of(np.array([3, 1]), targets=2)  # 4 x 600 + 2 layers x (9 + 1) pairs x 12 + 2 x 60
        2760.0
        """
        squares = 0.0
        for window in self.windows:
            seen = np.minimum(lengths, window) if window else lengths
            squares += float(lengths @ seen)
        return self.token * float(lengths.sum()) + self.pair * squares / (1 + self.causal) + self.target * targets


def step_cost(embedder: Embedder, *, causal: bool) -> StepCost:
    """The cost of a model: 2 operations a weight forward, 2 for the input's gradient, 2 where the weight learns.

    Vectors (norms, biases) are not counted, nor is looking up an embedding.
    """
    config, token = embedder.backbone.config, 0
    table, lookup = embedder.output_table(), embedder.backbone.get_input_embeddings().weight
    for parameter in embedder.parameters():
        if parameter.ndim == 2 and parameter is not table and parameter is not lookup:
            token += (4 + 2 * parameter.requires_grad) * parameter.numel()
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * int(config.num_hidden_layers)
    window = int(getattr(config, "sliding_window", None) or 0)
    windows = tuple(2 * window - 1 if kind == "sliding_attention" and window else 0 for kind in kinds)
    target = (4 + 2 * table.requires_grad) * table.numel()
    return StepCost(float(token), 12.0 * heads * width, float(target), windows, causal)


def peak_rate(device: torch.device, dtype: torch.dtype, rows: int, inner: int, columns: int) -> tuple[float, str]:
    """Operations a second at best, and where the number is from.

    Args:
        rows, inner, columns: a matrix product that is typical for the model, measured where no data sheet is known.

    Returns:
        FLOP/s, and ``"data sheet"`` or ``"measured"``.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, rate in _KNOWN_BF16:
            if part in name:
                return rate * 1e12, "data sheet"
    return _measured(device, dtype, rows, inner, columns, torch.get_num_threads()), "measured"


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
