"""What a dry run knows without asking anyone: shapes of published checkpoints, and accelerators with their memory.

The configs hold what decides parameters and operations, with the keys of the published ``config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffembed.training.throughput import known_rate

MFU = 0.4  # share of the data sheet's rate that is assumed to be reached
USABLE = 0.9  # share of an accelerator's memory that is planned with; context, fragments and communication need some


@dataclass(frozen=True, slots=True)
class Gpu:
    """An accelerator: its data sheet's memory in GB (1e9 bytes), and its name as the driver gives it."""

    name: str
    gigabytes: float
    device: str

    @property
    def rate(self) -> float:
        """Dense bfloat16 operations a second, by the data sheet.

        >>> GPUS[0].name, GPUS[0].rate
        ('A100-80', 312000000000000.0)
        """
        found = known_rate(self.device)
        assert found is not None, self.device
        return found * 1e12

    @property
    def budget(self) -> float:
        """Bytes that are planned with."""
        return USABLE * self.gigabytes * 1e9


GPUS = (
    Gpu("A100-80", 80.0, "NVIDIA A100-SXM4-80GB"),
    Gpu("H100", 80.0, "NVIDIA H100 80GB HBM3"),
    Gpu("H200", 141.0, "NVIDIA H200"),
    Gpu("B200", 180.0, "NVIDIA B200"),
    Gpu("L40S", 48.0, "NVIDIA L40S"),
)

_QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": True,
}
_QWEN3_SMALL = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072}
_QWEN3_4B = {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728}
_DREAM: dict[str, Any] = {
    "model_type": "Dream",
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18_944,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
    "mask_token_id": 151_666,
    "pad_token_id": 151_643,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B-Base": _QWEN3 | _QWEN3_SMALL | {"max_position_embeddings": 32_768},
    "Qwen/Qwen3-0.6B": _QWEN3 | _QWEN3_SMALL | {"max_position_embeddings": 40_960},
    "Qwen/Qwen3-4B-Base": _QWEN3 | _QWEN3_4B | {"max_position_embeddings": 32_768},
    "Dream-org/Dream-v0-Base-7B": _DREAM,
    "Dream-org/Dream-v0-Instruct-7B": _DREAM,
}
