"""Decoder families that become backbones by configuration alone, and what a stock config must say to be one.

The packed and the opened form of each is compared with stock ``transformers`` in the tests. Any other architecture that
``transformers`` itself has may be tried (``allow_unproven``): then only the probe stands between it and nonsense.
"""

from __future__ import annotations

from typing import Any

from diffembed.errors import ModelError

FAMILIES: dict[str, str] = {
    "gemma3_text": "Gemma 3",
    "llama": "Llama",
    "mistral": "Mistral",
    "olmo2": "OLMo 2",
    "phi3": "Phi-3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM 3",
}
_OF_THE_CHECKPOINT = (  # says where a config came from, not what the architecture is
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "model_type",
    "_name_or_path",
    "_attn_implementation",
)


def require_family(model_type: str, place: str, *, allow_unproven: bool = False) -> None:
    """Refuse an architecture that nobody has compared with its stock form.

    Raises:
        ModelError: names the families that are known, and the way in for others.
    """
    if model_type not in FAMILIES and not allow_unproven:
        known = ", ".join(FAMILIES.values())
        raise ModelError(
            f"{place} is of type '{model_type}', which is not among the proven families ({known}); "
            "allow_unproven=True takes it if it passes the probe"
        )


def opened(model_type: str, stock: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the stock config class, mask open.

    A Gemma 3 config with its own flag for reading both ways (``use_bidirectional_attention``, as in EmbeddingGemma)
    counts its window from end to end; here every window is what a token sees to either side.

    >>> opened("gemma3_text", {"model_type": "gemma3_text", "use_bidirectional_attention": True, "sliding_window": 512})
    {'use_bidirectional_attention': False, 'sliding_window': 256, 'is_causal': False}
    """
    arguments = {k: v for k, v in stock.items() if k not in _OF_THE_CHECKPOINT}
    if model_type == "gemma3_text" and arguments.get("use_bidirectional_attention"):
        window = arguments.get("sliding_window", 4096)
        arguments |= {"use_bidirectional_attention": False, "sliding_window": window // 2}
    return arguments | {"is_causal": False}
