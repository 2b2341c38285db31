"""A recipe with a stage of every kind, small enough to be run in a test."""

from __future__ import annotations

from pathlib import Path

from tests.data.corpora import write_beir, write_examples, write_texts
from tests.training.contrastive_rows import words
from tests.training.recipe_parts import PAIRS_AND_SPANS, SHAPE
from tests.training.test_contrastive_data import write_chunks

from diffembed.data.examples import Grouped, Question

RECIPE = (
    """
[run]
name = "all"
output = "out"
data_root = "data"
seed = 1
threads = 1
precision = "float32"
log_every = 1
save_seconds = 300.0
"""
    + SHAPE
    + """[[stage]]
name = "base"
kind = "causal"
steps = 2
batch = 256
lr = 1e-2
sequence_tokens = 32
[[stage.source]]
name = "texts"
paths = ["texts.jsonl"]
[[stage]]
name = "pairs"
kind = "pair"
steps = 8
batch = 16
lr = 1e-2
warmup = 2
dims = [16, 32]
"""
    + PAIRS_AND_SPANS
    + """[[stage]]
name = "contextual"
kind = "contextual"
parent = "pairs"
steps = 6
batch = 6
lr = 1e-2
warmup = 2
dims = [16, 32]
memory_tokens = 0
micro_tokens = 100
[[stage.source]]
name = "groups"
kind = "rows"
paths = ["groups.jsonl"]
document_tokens = 60
[[stage.source]]
name = "chunks"
kind = "groups"
paths = ["chunks"]
[[stage]]
name = "triplet"
kind = "triplet"
parent = "pairs"
steps = 4
batch = 8
lr = 1e-2
warmup = 2
teacher = "out/pairs/model"
[stage.mine]
negatives = 2
last = 20
relative_margin = 0.0
[[stage.source]]
name = "judged"
kind = "pairs"
paths = ["set"]
[[stage]]
name = "merged"
kind = "merge"
parents = ["contextual", "triplet"]
sweep = [0.2, 0.9]
[[stage]]
name = "after"
kind = "pair"
steps = 2
batch = 8
lr = 1e-3
[[stage.source]]
name = "judged"
kind = "pairs"
paths = ["set"]
[[stage]]
name = "free"
kind = "contextual"
gold = false
parent = "pairs"
steps = 3
batch = 6
lr = 1e-3
quantize = "none"
teacher = "out/pairs/model"
distill = "chunks"
[[stage.source]]
name = "groups"
kind = "rows"
paths = ["groups.jsonl"]
chunk_tokens = [5, 20]
[score]
sets = ["set"]
contextual = ["chunks"]
untrained = false
"""
)


def write_run(folder: Path) -> Path:
    data = folder / "data"
    write_beir(data / "set")
    write_chunks(data / "chunks", 20)
    write_texts(data / "texts.jsonl", [words(i, 40) for i in range(300)])
    rows = [
        Grouped(
            tuple(words(1000 + 10 * i + k, 6) for k in range(2 + i % 4)),
            tuple(Question(words(1000 + 10 * i + k, 2), k) for k in range(2 + i % 4)),
        )
        for i in range(30)
    ]
    write_examples(data / "groups.jsonl", rows)
    recipe = folder / "all.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return recipe
