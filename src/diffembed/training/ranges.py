"""What the numbers of a recipe may be: by table and key, the allowed range in words and as a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from diffembed.errors import RecipeError

Range = tuple[str, Callable[[Any], bool]]

# A comparison with nan is false, so that nan is in none of them.
_COUNT: Range = ("at least 1", lambda x: x >= 1)
_PAIR_OR_MORE: Range = ("at least 2", lambda x: x >= 2)
_NOT_NEGATIVE: Range = ("at least 0", lambda x: 0 <= x < math.inf)
_ABOVE_0: Range = ("a number above 0", lambda x: 0 < x < math.inf)
_LIMIT: Range = ("above 0 (inf: no limit)", lambda x: x > 0)
_SHARE: Range = ("from 0 to 1", lambda x: 0 <= x <= 1)
_INSIDE: Range = ("above 0 and below 1", lambda x: 0 < x < 1)
_BETAS: Range = ("two numbers from 0 to below 1", lambda x: len(x) == 2 and all(0 <= b < 1 for b in x))
_WEIGHTS: Range = ("weights above 0", lambda x: all(0 < w < math.inf for w in x.values()))

RUN = {
    "seed": _NOT_NEGATIVE,
    "threads": _NOT_NEGATIVE,
    "save_seconds": ("at least 0 (inf: only at the end of a stage)", lambda x: x >= 0),
    "log_every": _COUNT,
    "held_out_every": _NOT_NEGATIVE,
    "keep": _COUNT,
}
SHAPE = {
    **dict.fromkeys(("hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size"), _COUNT),
    "max_tokens": _COUNT,
    "rope_theta": _ABOVE_0,
}
CHECKPOINT = {"max_tokens": _NOT_NEGATIVE}
STAGE = {
    **dict.fromkeys(("steps", "batch", "micro_tokens"), _COUNT),
    # one token is end-of-text alone: nothing is left to predict
    **dict.fromkeys(("sequence_tokens", "shuffle_window"), _PAIR_OR_MORE),
    **dict.fromkeys(("lr", "layer_lr", "temperature"), _ABOVE_0),
    **dict.fromkeys(("warmup", "weight_decay", "lora_rank", "lora_alpha"), _NOT_NEGATIVE),
    **dict.fromkeys(("alignment_weight", "binary_weight"), _NOT_NEGATIVE),
    **dict.fromkeys(("decay_share", "truncate_share", "shuffle_share"), _SHARE),
    "mask_rate": _INSIDE,
    "clip": _LIMIT,
    "betas": _BETAS,
    "margin": ("a number", lambda x: x is None or not math.isnan(x)),
    **dict.fromkeys(("memory_tokens", "distill_weight"), _NOT_NEGATIVE),
    "lora_dropout": ("at least 0 and below 1", lambda x: 0 <= x < 1),
    "negatives": _COUNT,
    "teacher_temperature": _ABOVE_0,
    "alpha": _SHARE,
    "beta": ("two numbers from 0 to 1", lambda x: len(x) == 2 and all(0 <= b <= 1 for b in x)),
}
MERGE = {"sweep": ("at least one number from 0 to 1", lambda x: len(x) > 0 and all(0 <= t <= 1 for t in x))}
MINE = {
    **dict.fromkeys(("negatives", "first", "last"), _COUNT),
    "margin": _NOT_NEGATIVE,
    "relative_margin": ("at least 0 and below 1", lambda x: 0 <= x < 1),
}
SOURCE = {
    **dict.fromkeys(("query_tokens", "document_tokens", "shuffle_megabytes"), _COUNT),
    "weight": _ABOVE_0,
    "batch": _NOT_NEGATIVE,
    "remove_span": _SHARE,
    "languages": _WEIGHTS,
    "questions": _COUNT,
    "chunk_tokens": (
        "smallest and largest number of tokens, at least 1",
        lambda x: not x or (len(x) == 2 and 1 <= x[0] <= x[1]),
    ),
}


def check_ranges(config: Any, ranges: Mapping[str, Range], where: str) -> None:
    """Refuse a value outside its range.

    Args:
        config: has the keys of ``ranges`` as attributes.
        where: file and table, for the message.

    Raises:
        RecipeError: names the first such key, its value and its range.
    """
    for key, (words, holds) in ranges.items():
        if not holds(value := getattr(config, key)):
            shown = list(value) if isinstance(value, tuple) else value
            raise RecipeError(f"{where} has {key} = {shown}; it must be {words}")
