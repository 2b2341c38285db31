"""The torch runtime: checkpoints without an ONNX graph, and GPUs.

Decoders run packed (no padding) through ``models/attention.py``; other families run padded on torch's fused attention.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffembed.errors import MissingExtraError
from diffembed.models.checkpoint import TORCH_HINT, load_backbone, read_stock_config
from diffembed.models.families import FAMILIES
from diffembed.text.batching import PackedBatch
from diffembed.vectors.quantize import FloatArray


class TorchRuntime:
    """A stock ``transformers`` model in float32.

    Args:
        root: the model directory.
        device: ``auto`` takes a CUDA GPU if there is one.
        threads: CPU threads of torch, for the whole process; ``None`` leaves them.
        pad_token_id: fills padded places.
        packed: run without padding; ``None`` decides by the family.

    Raises:
        ModelError: the directory is damaged.
        MissingExtraError: torch is not installed.
    """

    name = "torch"
    precision = "fp32"

    def __init__(
        self,
        root: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        pad_token_id: int = 0,
        packed: bool | None = None,
    ) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtraError(TORCH_HINT) from None
        from diffembed.models.attention import PACKED
        from diffembed.models.backbone import require_bidirectional

        if threads is not None:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.packed = read_stock_config(root).get("model_type") in FAMILIES if packed is None else packed
        model = load_backbone(root, attn_implementation=PACKED if self.packed else "sdpa")
        if device != "cpu":  # other kernels run there than those that were probed on loading
            model.to(device)  # type: ignore[arg-type]
            require_bidirectional(model)
        self._model = model
        self._pad = pad_token_id

    def span_means(self, batch: PackedBatch) -> FloatArray:
        """``[spans, hidden]`` float32."""
        import torch

        from diffembed.models.backbone import packed_states
        from diffembed.models.embedder import span_means
        from diffembed.runtime.onnx import padded_inputs

        with torch.inference_mode():
            if self.packed:
                states = packed_states(self._model, batch)
            else:
                inputs = padded_inputs(batch, self._pad)
                ids, mask = (
                    torch.from_numpy(inputs[k]).to(self._model.device) for k in ("input_ids", "attention_mask")
                )
                states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
            means: FloatArray = span_means(states, batch.spans).cpu().numpy()
        return np.ascontiguousarray(means)
