"""A step as a stage plans it: the same loss and gradients whatever ``micro_tokens``, from data to gradients."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import make_tokenizer
from tests.data.corpora import write_examples, write_texts
from tests.training.contrastive_rows import END, SOURCE, grouped, stage_of, triplets, wide_embedder
from tests.training.tiny import tiny_embedder, tiny_machine
from torch import Tensor

from diffembed.models.backbone import set_causal
from diffembed.training.batches import TextData
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.contrastive_batch import ContrastiveBatch
from diffembed.training.contrastive_data import ContrastiveData
from diffembed.training.plans import contrastive_plan, language_plan
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
    write_examples(folder / "triplet.jsonl", triplets(20))
    write_examples(folder / "contextual.jsonl", grouped(20))
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


class Opened:
    """A contrastive stage over its file of rows."""

    def __init__(self, corpus: Path, kind: str, **keys: Any) -> None:
        source = dataclasses.replace(SOURCE, paths=(f"{kind}.jsonl",))
        self.stage = stage_of(kind, source=(source,), **keys)
        self.data = ContrastiveData(
            self.stage, TOKENIZER, corpus, seed=3, end_token_id=END, mask_token_id=1, max_tokens=64
        )
        self.embedder = wide_embedder()

    def step(self, number: int) -> tuple[int, float, dict[str, Tensor], dict[str, Any]]:
        """Forward passes, loss, gradients and facts."""
        cost = step_cost(self.embedder, causal=False)
        plan = contrastive_plan(self.stage, self.data, dims=(8, 16), machine=tiny_machine(), cost=cost)
        planned, total = plan(number), 0.0
        self.embedder.zero_grad()
        for part in planned.parts:
            loss = part(self.embedder)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        gradients = {n: p.grad.clone() for n, p in self.embedder.named_parameters() if p.grad is not None}
        assert planned.origins() == list(self.data.batch(number).origins)
        return len(planned.parts), total, gradients, {**planned.facts, "flops": planned.flops}


@pytest.mark.parametrize("kind", ["triplet", "contextual"])
def test_a_contrastive_step_is_the_same_whatever_fits_into_memory(kind: str, corpus: Path) -> None:
    passes, whole, gradients, facts = Opened(corpus, kind).step(2)
    assert passes == 1 and max(float(g.abs().max()) for g in gradients.values()) > 0.01
    assert facts["queries"] > 7 and facts["source"] == "rows" and facts["flops"] > 0
    for memory_tokens, micro_tokens, parts in ((65_536, 40, 1), (facts["tokens"], 40, 1), (facts["tokens"] - 1, 40, 4)):
        found = Opened(corpus, kind, memory_tokens=memory_tokens, micro_tokens=micro_tokens).step(2)
        assert (found[0] == 1) == (parts == 1), "as many tokens as fit are read once"
        assert found[1] == pytest.approx(whole, rel=1e-5) and found[3] == facts
        for name, gradient in gradients.items():
            largest = float(gradient.abs().max())
            torch.testing.assert_close(found[2][name], gradient, atol=1e-5 * max(1.0, largest), rtol=1e-5, msg=name)


def test_beta_goes_from_its_first_to_its_last_value(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    found = Opened(corpus, "contextual", steps=5, beta=(0.1, 0.9))

    def noted(queries: Tensor, *_: Tensor, beta: float, **__: Any) -> Tensor:
        seen.append(beta)
        return queries.sum() * 0.0

    monkeypatch.setattr("diffembed.training.contrastive.contextual_loss", noted)
    for number in range(5):
        found.step(number)
    assert seen[::2] == pytest.approx([0.1, 0.1 + 0.8 * (1 - 2**-0.5) / 2, 0.5, 0.9 - 0.8 * (1 - 2**-0.5) / 2, 0.9])


def test_a_step_with_nothing_to_ask_moves_no_weight(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Opened(corpus, "triplet")
    batch = found.data.batch(1)
    none = {name: getattr(batch, name)[:0] for name in ("positives", "gold", "query_ids", "negatives", "scores")}
    empty = dataclasses.replace(batch, sequences=batch.documents, left_out=batch.queries, **none)

    def drawn(self: ContrastiveData, step: int) -> ContrastiveBatch:
        return empty

    monkeypatch.setattr(ContrastiveData, "batch", drawn)
    passes, loss, gradients, facts = found.step(1)
    assert (passes, loss) == (1, 0.0) and facts["queries"] == 0 and facts["left_out"] == 8
    assert len(gradients) == len(list(found.embedder.parameters())), "DDP waits for the gradient of every weight"
    assert not any(gradient.any() for gradient in gradients.values())


def test_a_log_says_what_was_cut_and_left_out(corpus: Path) -> None:
    source = dataclasses.replace(SOURCE, paths=("contextual.jsonl",), query_tokens=2, document_tokens=9)
    found = Opened(corpus, "contextual")
    found.stage = dataclasses.replace(found.stage, source=(source,))
    found.data = ContrastiveData(
        found.stage, TOKENIZER, corpus, seed=3, end_token_id=END, mask_token_id=1, max_tokens=64
    )
    facts, batch = found.step(0)[3], found.data.batch(0)
    assert (facts["cut"], facts["left_out"]) == (batch.cut, batch.left_out) and batch.cut > 8 and batch.left_out
