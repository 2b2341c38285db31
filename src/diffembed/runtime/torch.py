"""The torch runtime: checkpoints without an ONNX graph, and GPUs.

Decoders run packed (no padding) through ``models/attention.py``; other families run padded on torch's fused attention.
Weights and activations are in the precision that was asked for; means of spans are always added up in float32. Values
that a narrow type cannot hold come out as they are, not finite: the Encoder refuses them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffembed.errors import InputError, MissingExtraError
from diffembed.models.checkpoint import TORCH_HINT, Attention
from diffembed.models.families import FAMILIES
from diffembed.models.foreign import find_source
from diffembed.models.stack import EAGER
from diffembed.text.batching import PackedBatch
from diffembed.vectors.quantize import FloatArray

if TYPE_CHECKING:
    import torch

DTYPES: dict[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class TorchRuntime:
    """A stock ``transformers`` model.

    Args:
        root: the model directory, of any layout but a stack of sentence-transformers modules.
        precision: ``fp32``, ``bf16`` or ``fp16`` of weights and activations; ``auto`` is fp32 on every device.
        device: ``cpu``, ``cuda``, or ``auto`` for a CUDA GPU if there is one.
        threads: CPU threads of torch, for the whole process; ``None`` leaves them.
        pad_token_id: fills padded places.
        packed: run without padding; ``None`` decides by the family.
        max_tokens: the longest text that will be read, where rotary frequencies depend on it.
        attention: of a decoder, other than that it was trained with; ``None``: as the directory says.

    Raises:
        ModelError: the directory is damaged; a late token changes no early state, or does under causal attention.
        InputError: a device that is not there, a precision that is not known.
        MissingExtraError: torch is not installed.
    """

    name = "torch"

    def __init__(
        self,
        root: Path,
        *,
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        pad_token_id: int = 0,
        packed: bool | None = None,
        max_tokens: int | None = None,
        attention: Attention | None = None,
    ) -> None:
        self.precision, dtype, self.device = settle_torch(precision, device, threads)
        from diffembed.models.attention import PACKED
        from diffembed.models.backbone import require_attention, set_causal
        from diffembed.models.pretrained import load_source

        source = find_source(root)
        self.packed = source.model_type in FAMILIES if packed is None else packed
        kernel = PACKED if self.packed else "eager" if source.model_type in EAGER else "sdpa"
        model = load_source(source, attn_implementation=kernel, dtype=dtype, max_tokens=max_tokens)
        if attention is not None:
            set_causal(model, attention == "causal")
        if self.device != "cpu" or attention is not None:  # what was probed on loading runs on other kernels
            model.to(self.device)  # type: ignore[arg-type]
            require_attention(model, causal=model.config.is_causal is True)
        self._model = model
        self._pad = pad_token_id

    def span_means(self, batch: PackedBatch) -> FloatArray:
        """``[spans, hidden]`` float32; not finite where the precision's range was left."""
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


def settle_torch(precision: str, device: str, threads: int | None) -> tuple[str, torch.dtype, str]:
    """Precision, torch's name of it and the device that were asked for; sets the threads.

    Raises:
        InputError: a device that is not there, a precision that torch does not run here.
        MissingExtraError: torch is not installed.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError:
        raise MissingExtraError(TORCH_HINT) from None
    precision = "fp32" if precision == "auto" else precision
    if precision not in DTYPES:
        raise InputError(f"precision {precision!r} is none of the torch runtime's; choose from {', '.join(DTYPES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, and torch sees no CUDA GPU here; use device='cpu' or 'auto'")
    if threads is not None:
        torch.set_num_threads(threads)
    return precision, getattr(torch, DTYPES[precision]), device
