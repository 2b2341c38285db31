"""The texts that benchmarks/encode.py reads: cut from a folder's words with fixed seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SHORTEST, LONGEST, QUERY_TOKENS = 6, 300, 10

CountTokens = Callable[[Sequence[str]], list[int]]


def token_counter(path: Path) -> CountTokens:
    """As ``Encoder.count_tokens``, for a directory whose model need not be loaded."""
    from diffembed.models.checkpoint import load_tokenizer, read_model_config

    config, tokenizer = read_model_config(path), load_tokenizer(path)
    around = len(config.prefix_ids) + len(config.suffix_ids)
    return lambda texts: [
        len(e.ids) + around for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def mixed_texts(words: list[str], count: int) -> list[str]:
    """Texts of log-uniform length, drawn with a fixed seed."""
    return list(draw(words, count, lambda rng: round(SHORTEST * (LONGEST / SHORTEST) ** rng.random()), seed=1))


def short_queries(words: list[str], count: int, count_tokens: CountTokens) -> list[str]:
    """Queries of ``QUERY_TOKENS`` tokens, special ones included."""
    drawn = list(draw(words, 60 * count, lambda rng: rng.randint(2, QUERY_TOKENS), seed=2))
    found = [query for query, tokens in zip(drawn, count_tokens(drawn), strict=True) if tokens == QUERY_TOKENS]
    if len(found) < count:
        raise SystemExit(f"only {len(found)} of {len(drawn)} drawn queries have {QUERY_TOKENS} tokens; give --texts")
    return found[:count]


def draw(words: list[str], count: int, length: Callable[[random.Random], int], *, seed: int) -> Iterator[str]:
    """Texts of so many words from random places."""
    rng = random.Random(seed)
    for _ in range(count):
        size = length(rng)
        start = rng.randrange(len(words) - size)
        yield " ".join(words[start : start + size])
