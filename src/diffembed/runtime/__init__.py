"""Running a model over packed batches: ``onnx`` (no torch) and ``torch`` (GPU, training checkpoints)."""

from __future__ import annotations

from typing import Protocol

from diffembed.text.batching import PackedBatch
from diffembed.vectors.quantize import FloatArray


class Runtime(Protocol):
    """What ``Encoder`` needs of a runtime: span means of one packed batch, before the quantizer."""

    name: str
    precision: str

    def span_means(self, batch: PackedBatch) -> FloatArray:
        """``[spans, hidden]`` float32, in the order of ``batch.spans``."""
        ...
