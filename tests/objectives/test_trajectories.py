"""Thirty training steps of every objective: loss and gradient norm against the committed ``trajectories.json``.

A golden record: it cannot say that the numbers are right (the other tests of this folder do), only that they have
changed. After a change that is meant, write it anew and say why in the commit:

    PYTHONPATH=src python tests/objectives/test_trajectories.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffembed.models.backbone import build_qwen3, set_causal
from diffembed.models.embedder import Embedder
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack
from diffembed.training.configs import StageConfig
from diffembed.training.lm import eligible_tokens, frozen_parent, lm_losses, make_objective, plan_targets

FILE = Path(__file__).with_name("trajectories.json")
STEPS = 30
# Float32 sums in another order (threads, another processor, another chunk size) move these runs by less than 1e-5
# relative; a weight that is off by 1 % moves every one of them by more than 1e-3.
TOLERANCE = 1e-4

OBJECTIVES: dict[str, dict[str, Any]] = {
    "causal": {"kind": "causal"},
    "diffusion": {},
    "diffusion-no-shift": {"shift": False},
    "diffusion-cosine": {"schedule": "cosine"},
    "diffusion-mdlm": {"weighting": "mdlm"},
    "diffusion-cart": {"weighting": "cart"},
    "diffusion-masked-mean": {"weighting": "masked-mean"},
    "diffusion-stratified": {"draw": "stratified"},
    "diffusion-antithetic": {"draw": "antithetic"},
    "diffusion-truncated": {"truncate_share": 0.25},
    "diffusion-shuffled": {"shuffle_share": 0.3, "shuffle_window": 6},
    "diffusion-aligned": {"alignment_weight": 1.0},
    "mntp-bert": {"kind": "mntp"},
    "mntp-all": {"kind": "mntp", "mask_rate": 0.5, "mask_style": "all"},
}


def _batch(step: int) -> PackedBatch:
    """Sequences that count up in steps of 1 to 3: something to learn."""
    rng = np.random.default_rng((7, step))

    def sequence() -> TokenizedSequence:
        first, stride, length = (int(rng.integers(a, b)) for a, b in ((0, 30), (1, 4), (3, 17)))
        return TokenizedSequence(tuple((first + stride * i) % 30 + 2 for i in range(length)), ())

    return pack([sequence() for _ in range(12)])


def _run(name: str, **changed: Any) -> dict[str, list[float]]:
    usual: dict[str, Any] = {"kind": "diffusion", "steps": STEPS, "batch": 1, "lr": 1e-2, "source": ()}
    stage = StageConfig(name, **usual | changed)
    backbone = build_qwen3(
        vocab_size=32,
        hidden_size=32,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=16,
        intermediate_size=48,
        max_tokens=32,
        rope_theta=1000.0,
        pad_token_id=0,
        eos_token_id=0,
        seed=5,
    )
    with torch.no_grad():  # scaled up from transformers' 0.02, so that gradients are not noise around zero
        for parameter in backbone.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    embedder = Embedder(backbone)
    teacher = frozen_parent(embedder) if stage.alignment_weight else None
    set_causal(backbone, stage.kind == "causal")
    objective = make_objective(stage, mask_token_id=1)
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=stage.lr, betas=(0.9, 0.98), eps=1e-4)
    losses, norms = [], []
    for step in range(STEPS):
        targets = plan_targets([_batch(step)], objective, np.random.default_rng((11, step)))
        optimizer.zero_grad()
        total = 0.0
        options: dict[str, Any] = {"teacher": teacher, "alignment_weight": stage.alignment_weight}
        for loss in lm_losses(embedder, targets, eligible_total=eligible_tokens(targets), **options):
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        losses.append(round(total, 6))
        norms.append(round(float(torch.nn.utils.clip_grad_norm_(embedder.parameters(), 1e9)), 6))
        optimizer.step()
    return {"loss": losses, "grad_norm": norms}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_thirty_steps_are_the_committed_ones(name: str) -> None:
    committed = json.loads(FILE.read_text(encoding="utf-8"))[name]
    found = _run(name, **OBJECTIVES[name])
    assert found["loss"] == pytest.approx(committed["loss"], rel=TOLERANCE)
    assert found["grad_norm"] == pytest.approx(committed["grad_norm"], rel=10 * TOLERANCE)


# The others weigh by 1/t: over twelve short sequences a step their loss is mostly noise of the draw.
STEADY = ("causal", "diffusion-masked-mean", "mntp-bert", "mntp-all")


def test_every_objective_has_its_trajectory_and_the_steady_ones_fall() -> None:
    committed = json.loads(FILE.read_text(encoding="utf-8"))
    assert list(committed) == list(OBJECTIVES)
    for name, run in committed.items():
        assert len(run["loss"]) == len(run["grad_norm"]) == STEPS
        assert name not in STEADY or np.mean(run["loss"][-8:]) < 0.95 * np.mean(run["loss"][:8]), name
    assert len({tuple(run["loss"]) for run in committed.values()}) == len(OBJECTIVES), "no two objectives are one"


def test_a_small_regression_breaks_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are 1 % too large, as a wrong normaliser would make them, are seen at once."""
    from diffembed.objectives.targets import Targets
    from diffembed.training import lm

    def heavier(planned: list[Targets]) -> list[Targets]:
        return [replace(t, weights=t.weights * np.float32(1.01)) for t in planned]

    monkeypatch.setitem(globals(), "plan_targets", lambda *args: heavier(lm.plan_targets(*args)))
    committed = json.loads(FILE.read_text(encoding="utf-8"))["diffusion"]
    assert _run("diffusion")["loss"] != pytest.approx(committed["loss"], rel=20 * TOLERANCE)


if __name__ == "__main__":
    runs = {name: _run(name, **options) for name, options in OBJECTIVES.items()}
    lines = [
        f' {json.dumps(name)}: {{\n  "loss": {run["loss"]},\n  "grad_norm": {run["grad_norm"]}\n }}'
        for name, run in runs.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
