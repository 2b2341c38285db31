"""Rows of every kind, small enough to follow by hand, and the batches that a stage makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from tests.conftest import make_tokenizer
from tests.training.tiny import tiny_embedder

from diffembed.data.example_sources import Drawn
from diffembed.data.examples import Example, Grouped, Pair, Question, Triplet
from diffembed.models.backbone import set_causal
from diffembed.models.embedder import Embedder
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.contrastive_batch import ContrastiveBatch, from_rows
from diffembed.training.cutting import tokenized

TOKENIZER = make_tokenizer()
END = 2
MAX_TOKENS = 64
WORDS = "dog cat fox engine token brown lazy quick search model".split()
SOURCE = SourceConfig("rows", ("rows.jsonl",), kind="rows", query_tokens=32, document_tokens=MAX_TOKENS)

tokenize = partial(tokenized, TOKENIZER)


def words(number: int, count: int) -> str:
    """A text of its own for every number."""
    return " ".join([str(number), *(WORDS[(number * 3 + i * i) % 10] for i in range(count))])


def pairs(count: int) -> list[Example]:
    return [Pair(words(i, 1 + i % 4), words(100 + i, 2 + i * 5 % 13)) for i in range(count)]


def triplets(count: int) -> list[Example]:
    """Row i has i % 4 negatives; neighbours share one."""
    return [
        Triplet(words(i, 2), words(100 + i, 2 + i % 7), tuple(words(200 + i + k, 3 + k) for k in range(i % 4)))
        for i in range(count)
    ]


def grouped(count: int) -> list[Example]:
    """Documents of 1 to 4 chunks, each with one or two questions."""
    return [
        Grouped(
            tuple(words(100 * i + k, 3 + (i + k) % 5) for k in range(1 + i % 4)),
            tuple(Question(words(100 * i + 50 + k, 2), (i + k) % (1 + i % 4)) for k in range(1 + i % 2)),
        )
        for i in range(count)
    ]


def stage_of(kind: str, **keys: Any) -> StageConfig:
    usual: dict[str, Any] = {"steps": 8, "batch": 8, "lr": 1e-2, "source": (SOURCE,)}
    return StageConfig("s", kind, **usual | keys)  # type: ignore[arg-type]


def drawn(rows: Sequence[Example]) -> list[Drawn]:
    return [Drawn(row, f"rows.jsonl, line {i + 1}") for i, row in enumerate(rows)]


def batch_of(
    rows: Sequence[Example], stage: StageConfig, source: SourceConfig = SOURCE, *, seed: int = 0, **options: Any
) -> ContrastiveBatch:
    usual: dict[str, Any] = {"end_token_id": END, "max_tokens": MAX_TOKENS}
    rng = np.random.default_rng(seed)
    return from_rows(drawn(rows), stage, source, options.pop("tokenize", tokenize), rng=rng, **usual | options)


def wide_embedder(seed: int = 0) -> Embedder:
    """A bidirectional one whose vectors lie far apart, so that gradients are no rounding errors."""
    embedder = tiny_embedder(seed, vocab_size=TOKENIZER.get_vocab_size())
    with torch.no_grad():
        for parameter in embedder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    set_causal(embedder.backbone, False)
    return embedder
