"""A recipe small enough to run whole in seconds, over data written on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.data.corpora import write_beir
from tests.training.recipe_parts import PAIRS_AND_SPANS, SHAPE

RECIPE = (
    """
[run]
name = "tiny"
output = "out"
data_root = "data"
seed = 1
threads = 1
precision = "float32"
log_every = 1
save_seconds = {save_seconds}
"""
    + SHAPE
    + """[[stage]]
name = "base"
kind = "causal"
steps = 4
batch = 256
lr = 1e-2
sequence_tokens = 32
[[stage.source]]
name = "texts"
paths = ["texts.jsonl"]
[[stage]]
name = "diffusion"
kind = "diffusion"
steps = {diffusion_steps}
batch = 256
lr = 1e-2
sequence_tokens = 32
warmup = 2
[[stage.source]]
name = "texts"
paths = ["texts.jsonl"]
[[stage]]
name = "pairs"
kind = "pair"
steps = {pair_steps}
batch = 24
lr = 1e-2
warmup = 2
dims = [16, 32]
lexical_start = true
layer_lr = 0.1
"""
    + PAIRS_AND_SPANS
    + """[score]
sets = ["set"]
"""
)


def write_run(folder: Path, *, save_seconds: float = 300.0, diffusion_steps: int = 6, pair_steps: int = 8) -> Path:
    """A recipe and its data in ``folder``; the recipe's path."""
    data = folder / "data"
    write_beir(data / "set")
    words = "owl fox river stone light window garden number letter bridge winter morning".split()
    with (data / "texts.jsonl").open("w", encoding="utf-8") as out:
        for i in range(300):
            text = " ".join(words[(i * 7 + j * j) % len(words)] for j in range(40))
            out.write(json.dumps({"text": f"{i} {text}"}) + "\n")
    recipe = folder / "tiny.toml"
    filled = RECIPE.format(save_seconds=save_seconds, diffusion_steps=diffusion_steps, pair_steps=pair_steps)
    recipe.write_text(filled, encoding="utf-8")
    return recipe


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    return write_run(tmp_path)
