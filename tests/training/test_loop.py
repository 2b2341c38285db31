"""The loop's parts: optimiser groups, signals, accumulation, recomputed activations, adapters, what a step costs."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.tiny import tiny_embedder, tiny_machine
from torch import Tensor
from transformers import PreTrainedModel

from diffembed.errors import RecipeError, StoppedError, TrainingError
from diffembed.models.backbone import set_causal
from diffembed.models.embedder import Embedder
from diffembed.objectives.denoising import masked_diffusion
from diffembed.objectives.targets import regroup
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.training.adapters import add_adapters, merge_adapters
from diffembed.training.configs import RunConfig, StageConfig
from diffembed.training.lm import eligible_tokens, frozen_parent, lm_losses
from diffembed.training.loop import Progress, Step, _Routed, make_optimizer, recompute_activations, train
from diffembed.training.machine import settle_machine

STAGE = StageConfig("s", "diffusion", steps=6, batch=1, lr=1e-2, source=(), warmup=2, clip=1e9)
RUN = RunConfig("tiny", "out", ".", log_every=1, save_seconds=0.0)
MASK = 2


def planner(pieces: int = 1, teacher: PreTrainedModel | None = None) -> Callable[[int], Step]:
    """Steps over 8 sequences of 5 to 12 tokens in so many micro-batches; the masks are the same however many."""

    def plan(step: int) -> Step:
        rng = np.random.default_rng((7, step))
        sequences = [TokenizedSequence(tuple(rng.integers(3, 40, n).tolist()), ()) for n in range(5, 13)]
        targets = [masked_diffusion(pack([s]), rng, mask_token_id=MASK) for s in sequences]
        groups = [regroup([(t, 0) for t in targets[i::pieces]]) for i in range(pieces)]
        total = eligible_tokens(groups)

        def part(group: Any) -> Callable[[Embedder], Tensor]:
            options: dict[str, Any] = {"eligible_total": total, "teacher": teacher, "alignment_weight": 0.5}
            return lambda embedder: next(lm_losses(embedder, [group], **options))

        return Step(
            [part(g) for g in groups if len(g.rows)], {"tokens": 68, "source": "x"}, 0.0, lambda: ["x: file, line 3"]
        )

    return plan


def bidirectional(seed: int = 0) -> Embedder:
    embedder = tiny_embedder(seed)
    set_causal(embedder.backbone, False)
    return embedder


def run(
    embedder: Embedder, folder: Path, plan: Callable[[int], Step], stage: StageConfig = STAGE, **options: Any
) -> list[Progress]:
    seen: list[Progress] = []
    watch, peak = options.pop("watch", seen.append), options.pop("peak", 0.0)
    train(
        embedder, stage, plan, run=dataclasses.replace(RUN, **options), machine=tiny_machine(), folder=folder,
        expected={"fingerprint": "f"}, report=lambda _: None, watch=watch, peak=peak,
    )  # fmt: skip
    return seen


def test_layers_may_learn_slower_than_the_token_table() -> None:
    model = tiny_embedder()
    stage = StageConfig("s", "pair", steps=1, batch=1, lr=1.0, source=(), layer_lr=0.25)
    optimizer = make_optimizer(model, stage)
    groups = optimizer.param_groups
    table = [g for g in groups if g["scale"] == 1.0]
    assert [p.shape for g in table for p in g["params"]] == [(40, 16)]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert all(g["weight_decay"] == 0.0 for g in groups if any(p.ndim == 1 for p in g["params"]))
    assert optimizer.defaults["fused"]
    alike = make_optimizer(model, dataclasses.replace(stage, layer_lr=1.0)).param_groups
    assert {g["scale"] for g in alike} == {1.0} and len(alike) == 2


def test_accumulating_gradients_changes_nothing(tmp_path: Path) -> None:
    whole, parts = bidirectional(), bidirectional()
    a = run(whole, tmp_path / "a", planner(1))
    b = run(parts, tmp_path / "b", planner(4))
    assert np.allclose([x.loss for x in a], [x.loss for x in b], atol=1e-6)
    for (name, p), q in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0, msg=name)


def test_the_step_is_adamw_on_the_mean_over_eligible_tokens(tmp_path: Path) -> None:
    """Against plain torch: cross-entropy of the whole logits, its own AdamW, clipping and schedule by hand."""
    ours, theirs = bidirectional(), bidirectional()
    stage = dataclasses.replace(STAGE, steps=2, clip=0.5, decay_share=0.0, weight_decay=0.1)
    seen = run(ours, tmp_path, planner(2), stage)
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98), eps=1e-8
    )
    for step, rate in enumerate((0.5e-2, 1e-2)):
        rng = np.random.default_rng((7, step))
        sequences = [rng.integers(3, 40, n) for n in range(5, 13)]
        loss, eligible = torch.zeros(()), 0
        for clean in sequences:
            t = masked_diffusion(pack([TokenizedSequence(tuple(clean.tolist()), ())]), rng, mask_token_id=MASK)
            batch = torch.from_numpy(t.batch.token_ids)[None]
            model = theirs.backbone
            mask = torch.ones(1, 1, batch.shape[1], batch.shape[1], dtype=torch.bool)
            model.set_attn_implementation("sdpa")
            states = model(input_ids=batch, attention_mask=mask).last_hidden_state[0]
            logits = states @ model.get_input_embeddings().weight.T
            for row, target, weight in zip(t.rows, t.target_ids, t.weights, strict=True):
                loss = loss + float(weight) * torch.nn.functional.cross_entropy(logits[row], torch.tensor(target))
            eligible += len(clean) - 1
        optimizer.zero_grad()
        (loss / eligible).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        assert seen[step].loss == pytest.approx(float(loss.detach()) / eligible, abs=2e-6)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=0, msg=name)


@pytest.mark.parametrize("aligned", [False, True])
def test_bfloat16_trains_almost_as_float32(aligned: bool, tmp_path: Path) -> None:
    rows = []
    for precision in ("float32", "bfloat16"):
        machine = settle_machine(dataclasses.replace(RUN, threads=1, precision=precision))
        assert machine.dtype == getattr(torch, precision)
        embedder = tiny_embedder()
        teacher = frozen_parent(embedder) if aligned else None
        set_causal(embedder.backbone, False)
        train(
            embedder, STAGE, planner(2, teacher), run=RUN, machine=machine, folder=tmp_path / precision,
            expected={"fingerprint": "f"}, report=lambda _: None,
        )  # fmt: skip
        assert {p.dtype for p in embedder.parameters()} == {torch.float32}
        text = (tmp_path / precision / "log.jsonl").read_text(encoding="utf-8")
        rows.append([json.loads(line) for line in text.splitlines()])
    assert len(rows[0]) == STAGE.steps
    for full, half in zip(*rows, strict=True):
        assert half["loss"] == pytest.approx(full["loss"], abs=0.02)
        assert half["grad_norm"] == pytest.approx(full["grad_norm"], rel=0.1)
    assert rows[0][0]["loss"] != rows[1][0]["loss"], "the products of the second were in bfloat16"


def test_only_layers_that_are_there_become_shard_groups() -> None:
    embedder = tiny_embedder()
    assert _Routed(embedder)._no_split_modules == ["Qwen3DecoderLayer"]
    embedder.backbone._no_split_modules = {"Qwen3DecoderLayer", "VisionLayer"}  # accelerate would refuse this one
    assert _Routed(embedder)._no_split_modules == ["Qwen3DecoderLayer"]


def test_recomputed_activations_give_the_same_weights(tmp_path: Path) -> None:
    plain, lean = bidirectional(), bidirectional()
    run(plain, tmp_path / "a", planner())
    recompute_activations(lean.backbone, True)
    calls = []
    lean.backbone.get_submodule("layers.0.self_attn.q_proj").register_forward_hook(lambda *_: calls.append(1))
    run(lean, tmp_path / "b", planner())
    assert len(calls) == 2 * STAGE.steps, "every layer runs again on the way back"
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), lean.parameters(), strict=True))


def test_sigterm_finishes_the_step_and_the_rest_comes_later(tmp_path: Path) -> None:
    straight, cut = bidirectional(), bidirectional()
    run(straight, tmp_path / "a", planner())
    before = signal.getsignal(signal.SIGTERM)

    def watch(at: Progress) -> None:
        if at.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="stopped by SIGTERM after step 4 of 6") as caught:
        run(cut, tmp_path / "b", planner(), watch=watch, save_seconds=1e9)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    again = bidirectional(seed=3)  # its weights come from the checkpoint
    rest = run(again, tmp_path / "b", planner(), save_seconds=1e9)
    assert [x.step for x in rest] == [5, 6]
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), again.parameters(), strict=True))


def test_dropout_follows_from_the_step(tmp_path: Path) -> None:
    """A run that stopped goes on with the numbers that it would have drawn."""
    stage = dataclasses.replace(STAGE, lora_rank=2, lora_dropout=0.5)

    def adapted(dropout: float = 0.5) -> Embedder:
        embedder = bidirectional()
        add_adapters(embedder, dataclasses.replace(stage, lora_dropout=dropout), seed=0)
        return embedder

    def watch(at: Progress) -> None:
        if at.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    straight, again = adapted(), adapted()
    losses = [x.loss for x in run(straight, tmp_path / "a", planner(2), stage)]
    with pytest.raises(StoppedError):
        run(adapted(), tmp_path / "b", planner(2), stage, watch=watch, save_seconds=1e9)
    torch.manual_seed(99)
    assert [x.loss for x in run(again, tmp_path / "b", planner(2), stage)] == losses[4:]
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), again.parameters(), strict=True))
    for name, (model, seed) in {"none": (adapted(0.0), 0), "others": (adapted(), 1)}.items():
        seen = run(model, tmp_path / name, planner(2), stage, seed=seed)
        assert [x.loss for x in seen][1:] != losses[1:], "B is 0 at first, then dropout shows"


def test_adapters_learn_alone_and_are_merged(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, lora_rank=2, lora_targets=("q_proj", "down_proj"))
    embedder, base = bidirectional(), bidirectional()
    names = [n for n, _ in base.named_parameters()]
    tuner = add_adapters(embedder, stage, seed=0)
    learning = {n for n, p in embedder.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * 2 * 2 and all("lora_" in n for n in learning)
    run(embedder, tmp_path, planner(), stage)
    module = embedder.backbone.get_submodule("layers.1.mlp.down_proj")
    a, b = (getattr(module, f"lora_{x}")["default"].weight.detach() for x in "AB")
    expected = base.backbone.get_submodule("layers.1.mlp.down_proj").weight + (4 / 2) * b @ a  # alpha is twice the rank
    batch = pack([TokenizedSequence((5, 6, 7, 8), ((0, 4),))])
    with torch.no_grad():
        before = embedder(batch)
        merge_adapters(embedder, tuner)
        torch.testing.assert_close(embedder(batch), before, atol=1e-5, rtol=1e-5)
    assert [n for n, _ in embedder.named_parameters()] == names
    assert all(p.requires_grad for p in embedder.parameters())
    torch.testing.assert_close(embedder.backbone.get_submodule("layers.1.mlp.down_proj").weight, expected)
    for (name, p), q in zip(embedder.named_parameters(), base.parameters(), strict=True):
        assert torch.equal(p, q) == ("q_proj" not in name and "down_proj" not in name), name
    with pytest.raises(RecipeError, match="'qkv', which is no linear layer.*q_proj"):
        add_adapters(bidirectional(), dataclasses.replace(stage, lora_targets=("qkv",)), seed=0)


def test_a_bad_loss_names_its_texts_and_spoils_nothing(tmp_path: Path) -> None:
    good = planner()

    def plan(step: int) -> Step:
        made = good(step)
        bad: list[Callable[[Embedder], Tensor]] = [lambda e: e.output_table().sum() * float("nan")]
        return made if step != 3 else dataclasses.replace(made, parts=[*made.parts, *bad])

    with pytest.raises(TrainingError, match=r"stage 's', step 3, .*loss nan.*read x: file, line 3 \(all in .*bad-step"):
        run(bidirectional(), tmp_path, plan)
    assert [p.name for p in sorted((tmp_path / "state").iterdir())] == ["step-00000002", "step-00000003"]
    assert json.loads((tmp_path / "bad-step.json").read_text(encoding="utf-8"))["texts"] == ["x: file, line 3"]
    rest = run(bidirectional(seed=5), tmp_path, good)
    straight = run(bidirectional(), tmp_path / "straight", good)
    assert [x.loss for x in rest] == [x.loss for x in straight][3:]


def test_metrics_go_on_where_the_checkpoint_stands(tmp_path: Path) -> None:
    """TensorBoard's own reader sees every step once, with the numbers of the log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def watch(at: Progress) -> None:
        if at.step == 3:
            raise KeyboardInterrupt  # after the log of step 2 (the third), before its checkpoint

    with pytest.raises(KeyboardInterrupt):
        run(bidirectional(), tmp_path, planner(), watch=watch, tensorboard=True)
    run(bidirectional(), tmp_path, planner(), tensorboard=True)
    rows = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["step"] for r in rows] == list(range(6))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "grad_norm", "lr", "tokens"):
        shown = {e.step: e.value for e in events.Scalars(name)}
        assert shown == pytest.approx({r["step"]: r[name] for r in rows}), name


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(TrainingError, match=r"the log in .* cannot be written .*the last checkpoint is whole"):
        run(bidirectional(), tmp_path, planner())


def test_share_of_peak(tmp_path: Path) -> None:
    good = planner()

    def plan(step: int) -> Step:
        return dataclasses.replace(good(step), flops=6e6)

    seen = run(bidirectional(), tmp_path, plan, peak=1e9)
    for at, row in zip(seen, (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines(), strict=True):
        assert at.mfu == pytest.approx(6e6 / (68 / at.tokens_per_second) / 1e9)
        assert json.loads(row)["mfu"] == at.mfu
