"""Tiny decoders of every family, batches for them, and the stock computation that they are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedModel

from diffembed.text.batching import TokenizedSequence

VOCAB, WIDTH = 60, 32
LENGTHS = (1, 5, 16, 17, 33, 5, 29)
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # states far enough apart to tell attention patterns from each other
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
_SLIDING = ["sliding_attention", "full_attention"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "llama": ("llama", {"head_dim": 8}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 6}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 5, "layer_types": _SLIDING}),
    "phi3": ("phi3", {}),
    "phi3-window": ("phi3", {"sliding_window": 6}),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "smollm3-window": ("smollm3", {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 6}),
}


def tiny_config(name: str, **changes: Any) -> Any:
    """The stock config of one of ``FAMILIES``."""
    kind, own = FAMILIES[name]
    return CONFIG_MAPPING[kind](**(_SHAPE | own | changes))


def tiny_model(config: Any, seed: int = 0) -> PreTrainedModel:
    """A stock base model with random weights; norms are not all ones, so that dropping one would show."""
    torch.manual_seed(seed)
    kind: Any = MODEL_MAPPING[type(config)]
    model: PreTrainedModel = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(-0.4, 0.4) if config.model_type == "gemma3_text" else parameter.uniform_(0.6, 1.4)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    model.train(False)
    return model


def sequences(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[TokenizedSequence]:
    """Random token sequences with one span each."""
    rng = np.random.default_rng(seed)
    return [TokenizedSequence(tuple(rng.integers(3, VOCAB, n).tolist()), ((0, n),)) for n in lengths]


def stock_states(model: PreTrainedModel, batch: list[TokenizedSequence], *, causal: bool) -> Tensor:
    """States of all tokens end to end, by eager attention under masks written out here, never by a flag.

    A window of W tokens: causal, a token sees itself and W - 1 before it; open, W to either side.
    """
    lengths = [len(s) for s in batch]
    width = max(lengths)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    for i, s in enumerate(batch):
        ids[i, : len(s)] = torch.tensor(s.token_ids)
    ahead = torch.arange(width)[None, :] - torch.arange(width)[:, None]
    real = torch.arange(width)[None, None, :] < torch.tensor(lengths)[:, None, None]
    window = getattr(model.config, "sliding_window", None)
    masks = {}
    for kind in ("full_attention", "sliding_attention"):
        seen = ahead <= 0 if causal else torch.ones_like(ahead, dtype=torch.bool)
        if window and kind == "sliding_attention":
            seen = seen & (ahead > -window if causal else ahead.abs() <= window)
        allowed = (real & seen) | torch.eye(width, dtype=torch.bool)
        masks[kind] = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    by_layer = hasattr(model.config, "layer_types")
    everywhere = masks["sliding_attention" if window else "full_attention"]
    model.set_attn_implementation("eager")
    output = model(input_ids=ids, attention_mask=masks if by_layer else everywhere, use_cache=False)
    return torch.cat([output.last_hidden_state[i, :n] for i, n in enumerate(lengths)])
