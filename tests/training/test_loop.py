"""The optimiser's groups and the allocator-independent parts of the loop."""

from __future__ import annotations

import dataclasses

from diffembed.models.backbone import build_qwen3
from diffembed.models.embedder import Embedder
from diffembed.training.loop import make_optimizer
from diffembed.training.recipe import StageConfig


def test_layers_may_learn_slower_than_the_token_table() -> None:
    model = Embedder(
        build_qwen3(
            vocab_size=40, hidden_size=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate_size=24,
            max_tokens=16, rope_theta=1e4, pad_token_id=0, eos_token_id=1, seed=0,
        )
    )  # fmt: skip
    stage = StageConfig("s", "pair", steps=1, batch=1, lr=1.0, source=(), layer_lr=0.25)
    groups = make_optimizer(model, stage).param_groups
    table = [g for g in groups if g["scale"] == 1.0]
    assert [p.shape for g in table for p in g["params"]] == [(40, 16)]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert all(g["weight_decay"] == 0.0 for g in groups if any(p.ndim == 1 for p in g["params"]))
    alike = make_optimizer(model, dataclasses.replace(stage, layer_lr=1.0)).param_groups
    assert {g["scale"] for g in alike} == {1.0} and len(alike) == 2
