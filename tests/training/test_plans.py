"""A step as a stage plans it: the same loss and gradients whatever ``micro_tokens``, from data to gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import make_tokenizer
from tests.data.corpora import write_texts
from tests.training.tiny import tiny_embedder, tiny_machine
from torch import Tensor

from diffembed.models.backbone import set_causal
from diffembed.training.batches import TextData
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.plans import language_plan
from diffembed.training.throughput import step_cost

TOKENIZER = make_tokenizer()
WORDS = "dog cat fox engine token brown lazy quick search model".split()
DRAWS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "stratified": {"draw": "stratified"},
    "antithetic": {"draw": "antithetic"},
    "mdlm": {"weighting": "mdlm"},
    "masked-mean": {"weighting": "masked-mean"},
    "truncated": {"truncate_share": 0.5},
    "shuffled": {"shuffle_share": 0.3},
    "mntp": {"kind": "mntp"},
    "causal": {"kind": "causal"},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [" ".join(WORDS[(i * 3 + j * j) % 10] for j in range(3 + 7 * i % 40)) for i in range(60)]
    write_texts(folder / "a.jsonl", texts)
    return folder


def step(corpus: Path, micro_tokens: int, **keys: Any) -> tuple[int, float, dict[str, Tensor]]:
    """Forward passes, loss and gradients of one planned step."""
    usual: dict[str, Any] = {"kind": "diffusion", "steps": 4, "batch": 256, "lr": 1.0, "sequence_tokens": 32}
    source = SourceConfig("texts", ("a.jsonl",))
    stage = StageConfig("s", source=(source,), micro_tokens=micro_tokens, **usual | keys)
    embedder = tiny_embedder(vocab_size=TOKENIZER.get_vocab_size())
    with torch.no_grad():
        for parameter in embedder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    causal = stage.kind == "causal"
    set_causal(embedder.backbone, causal)
    cost = step_cost(embedder, causal=causal)
    data = TextData(stage, TOKENIZER, corpus, seed=3, eot_token_id=2)
    planned = language_plan(stage, data, mask_token_id=1, machine=tiny_machine(), cost=cost)(2)
    total = 0.0
    for part in planned.parts:
        loss = part(embedder)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return len(planned.parts), total, {n: p.grad for n, p in embedder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("windows", ["random", "all"])
@pytest.mark.parametrize("draw", DRAWS)
def test_a_step_is_the_same_whatever_micro_tokens(draw: str, windows: str, corpus: Path) -> None:
    passes, whole, gradients = step(corpus, 8192, windows=windows, **DRAWS[draw])
    assert passes == 1 and max(float(g.abs().max()) for g in gradients.values()) > 0.01
    for micro_tokens in (80, 40):
        parts, loss, others = step(corpus, micro_tokens, windows=windows, **DRAWS[draw])
        assert parts > 2
        assert loss == pytest.approx(whole, rel=1e-6), micro_tokens
        for name, gradient in gradients.items():
            largest = float(gradient.abs().max())
            torch.testing.assert_close(others[name], gradient, atol=1e-6 * max(1.0, largest), rtol=1e-5, msg=name)


def test_micro_tokens_change_no_order(corpus: Path) -> None:
    """What ``plan_targets`` counts on: the sequences of a step follow each other alike, wherever batches end."""
    found = []
    for micro_tokens in (8192, 80, 40):
        source = SourceConfig("texts", ("a.jsonl",))
        stage = StageConfig("s", "diffusion", 4, 256, 1.0, (source,), micro_tokens=micro_tokens, sequence_tokens=32)
        batches = TextData(stage, TOKENIZER, corpus, seed=3, eot_token_id=2).batches(1)
        found.append(np.concatenate([batch.token_ids for batch in batches]).tolist())
    assert found[0] == found[1] == found[2]
