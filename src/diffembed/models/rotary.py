"""Rotary positions whose frequencies follow the length of the input, settled once: packed texts must not share them.

``transformers`` picks the frequencies of ``longrope`` (Phi-3 with 128k tokens) and ``dynamic`` from the highest
position of a call. In a pack, or in a padded batch, that is the longest text's, so every other text would change with
its neighbours. Here the config is settled for one length before the model is built. It stays a stock config: wherever
the saved model is loaded, it computes the same.
"""

from __future__ import annotations

import copy
from typing import Any

# Some families read more keys than these into the same type (HunYuan's "alpha"): they are left to the probe.
_DYNAMIC = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}


def settle_rotary(config: Any, max_tokens: int | None = None) -> None:
    """Change a stock config so that its rotary frequencies are those of one length, for texts of every length.

    - ``longrope``: the short factors where ``max_tokens`` is within ``original_max_position_embeddings``, else the long
      ones. Stock gives the same states for a text on that side of the border.
    - ``dynamic``: plain positions up to ``max_position_embeddings``, as stock; for more tokens the base that stock
      takes for a text of ``max_tokens``.

    Args:
        max_tokens: the longest text that will be read; ``None``: as many as the config has positions.

    >>> from transformers import LlamaConfig
    >>> kind = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0}
    >>> config = LlamaConfig(max_position_embeddings=64, head_dim=4, rope_parameters=kind)
    >>> settle_rotary(config, 128)
    >>> config.rope_parameters  # 100 (2 * 128 / 64 - 1) ^ (4 / 2)
    {'rope_type': 'default', 'rope_theta': 900.0}
    """
    found = getattr(config, "rope_parameters", None)
    if not isinstance(found, dict):
        return
    config.rope_parameters = found = copy.deepcopy(found)
    for rope in [v for v in found.values() if isinstance(v, dict)] or [found]:  # Gemma 3 has one for each kind of layer
        longest = max_tokens or config.max_position_embeddings
        if rope.get("rope_type") == "longrope":
            border = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            settled = rope["long_factor" if longest > border else "short_factor"]
            rope["short_factor"], rope["long_factor"] = list(settled), list(settled)
        elif rope.get("rope_type") == "dynamic" and set(rope) <= _DYNAMIC:
            base = _stretched(config, rope, longest)
            rope.clear()
            rope.update(rope_type="default", rope_theta=base)


def _stretched(config: Any, rope: dict[str, Any], longest: int) -> float:
    base, factor, limit = float(rope["rope_theta"]), float(rope["factor"]), config.max_position_embeddings
    if longest <= limit:
        return base
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return float(base * (factor * longest / limit - (factor - 1)) ** (width / (width - 2)))
