"""Texts cut to what a step reads of them: windows of long texts, token ids up to a limit."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

_CHARACTERS_PER_TOKEN = 10  # texts are cut to this many characters a token before tokenizing; ids are cut exactly

_AT_ONCE = 1024  # texts; what the tokenizer says of a token beside its id is twenty times the id


def tokenized(tokenizer: Tokenizer, texts: list[str], limit: int) -> tuple[list[list[int]], int]:
    """The first ``limit`` token ids of each text, and how many texts were longer."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), _AT_ONCE):
        some = [t[: limit * _CHARACTERS_PER_TOKEN] for t in texts[start : start + _AT_ONCE]]
        ids += [e.ids for e in tokenizer.encode_batch_fast(some, add_special_tokens=False)]
    cut = sum(len(i) > limit or len(t) > limit * _CHARACTERS_PER_TOKEN for i, t in zip(ids, texts, strict=True))
    return [i[:limit] for i in ids], cut


def window(text: str, characters: int, rng: np.random.Generator) -> str:
    """A stretch of a long text, begun after white space where there is some nearby."""
    if len(text) <= characters:
        return text
    start = int(rng.integers(0, len(text) - characters // 2))
    space = text.find(" ", start, start + 40)
    return text[space + 1 if start and space >= 0 else start :][:characters]
