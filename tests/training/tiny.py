"""A model of a few thousand weights, its optimiser after one step, and one process to hold them."""

from __future__ import annotations

import torch

from diffembed.models.backbone import build_qwen3
from diffembed.models.embedder import Embedder
from diffembed.training.configs import RunConfig, StageConfig
from diffembed.training.loop import make_optimizer
from diffembed.training.machine import Machine, settle_machine

STAGE = StageConfig("s", "pair", steps=4, batch=1, lr=0.1, source=())


def tiny_machine() -> Machine:
    return settle_machine(RunConfig("tiny", "out", ".", threads=1, precision="float32"))


def tiny_embedder(seed: int = 0, vocab_size: int = 40) -> Embedder:
    return Embedder(
        build_qwen3(
            vocab_size=vocab_size, hidden_size=16, layers=2, heads=2, kv_heads=1, head_dim=8, intermediate_size=24,
            max_tokens=64, rope_theta=1e4, pad_token_id=0, eos_token_id=1, seed=seed,
        )
    )  # fmt: skip


def stepped(embedder: Embedder, stage: StageConfig = STAGE) -> torch.optim.AdamW:
    """An optimiser that has made one step, along gradients that differ by weight."""
    optimizer = make_optimizer(embedder, stage)
    torch.manual_seed(1)
    for parameter in embedder.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer
