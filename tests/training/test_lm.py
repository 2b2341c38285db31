"""A language-model step: one number however it is cut up, the stage's keys in the objective, and the frozen parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from diffembed.models.backbone import build_qwen3, set_causal
from diffembed.models.embedder import Embedder
from diffembed.objectives.targets import Targets, regroup
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack
from diffembed.training.configs import StageConfig
from diffembed.training.lm import (
    eligible_tokens,
    frozen_parent,
    lm_losses,
    make_objective,
    objective_facts,
    plan_targets,
)

MASK = 1
KEYS: dict[str, dict[str, Any]] = {
    "causal": {"kind": "causal"},
    "diffusion": {},
    "no shift": {"shift": False},
    "cosine": {"schedule": "cosine", "draw": "stratified"},
    "mdlm": {"weighting": "mdlm"},
    "cart": {"weighting": "cart"},
    "masked-mean": {"weighting": "masked-mean"},
    "shuffled": {"weighting": "masked-mean", "shuffle_share": 0.5},
    "truncated": {"truncate_share": 0.5},
    "mntp": {"kind": "mntp"},
    "aligned": {"alignment_weight": 0.7},
    "aligned masked-mean": {"weighting": "masked-mean", "alignment_weight": 0.7},
}


def _stage(**keys: Any) -> StageConfig:
    usual: dict[str, Any] = {"kind": "diffusion", "steps": 1, "batch": 1, "lr": 1e-3, "source": ()}
    return StageConfig("s", **usual | keys)


def _embedder(*, head: bool = False) -> Embedder:
    backbone = build_qwen3(
        vocab_size=40,
        hidden_size=32,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=16,
        intermediate_size=48,
        max_tokens=64,
        rope_theta=1000.0,
        pad_token_id=0,
        eos_token_id=2,
        seed=0,
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    table = torch.randn(40, 32, generator=torch.Generator().manual_seed(1)) * 0.2
    return Embedder(backbone, table if head else None)


def _batch(lengths: Sequence[int] = (3, 9, 1, 30, 17, 2)) -> PackedBatch:
    rng = np.random.default_rng(0)
    return pack([TokenizedSequence(tuple(rng.integers(2, 40, n).tolist()), ((0, n),)) for n in lengths])


def _loss_and_gradients(
    embedder: Embedder, targets: Sequence[Targets], total: float, stage: StageConfig
) -> tuple[float, dict[str, Tensor]]:
    teacher = frozen_parent(_embedder()) if stage.alignment_weight else None
    embedder.zero_grad()
    value = 0.0
    options: dict[str, Any] = {"teacher": teacher, "alignment_weight": stage.alignment_weight}
    for loss in lm_losses(embedder, targets, eligible_total=total, **options):
        loss.backward()  # type: ignore[no-untyped-call]
        value += float(loss.detach())
    return value, {n: p.grad.clone() for n, p in embedder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", KEYS)
def test_a_step_is_one_number_however_it_is_cut_up(name: str) -> None:
    """Micro-batches, and processes that add up what each has of them, give the loss and gradients of one batch."""
    stage, embedder = _stage(**KEYS[name]), _embedder()
    set_causal(embedder.backbone, stage.kind == "causal")
    (whole,) = plan_targets([_batch()], make_objective(stage, MASK), np.random.default_rng(4))
    total = eligible_tokens([whole])
    value, gradients = _loss_and_gradients(embedder, [whole], total, stage)
    for processes in ([[[0, 1, 2, 3, 4, 5]]], [[[5, 1], [3], [0], [2], [4]]], [[[0, 4], [1]], [[2], [3, 5]]]):
        added, sums = 0.0, {n: torch.zeros_like(g) for n, g in gradients.items()}
        shares = [[regroup([(whole, i) for i in group]) for group in groups] for groups in processes]
        assert sum(sum(t.eligible for t in share) for share in shares) == whole.eligible
        for share in shares:
            part, own = _loss_and_gradients(embedder, share, total, stage)
            added += part
            for n, g in own.items():
                sums[n] += g
        assert added == pytest.approx(value, rel=1e-5)
        for n, g in gradients.items():
            torch.testing.assert_close(sums[n], g, atol=1e-5, rtol=1e-4)


def test_a_mean_of_means_would_be_another_number() -> None:
    """What the test above guards against: each micro-batch divided by its own count."""
    stage, embedder = _stage(), _embedder()
    set_causal(embedder.backbone, False)
    (whole,) = plan_targets([_batch()], make_objective(stage, MASK), np.random.default_rng(4))
    value, _ = _loss_and_gradients(embedder, [whole], eligible_tokens([whole]), stage)
    parts = [regroup([(whole, i) for i in g]) for g in ([0, 1], [2, 3, 4, 5])]
    means = [_loss_and_gradients(embedder, [p], eligible_tokens([p]), stage)[0] for p in parts]
    assert abs(np.mean(means) - value) > 0.05 * value


def test_micro_batches_without_targets_cost_nothing() -> None:
    stage, embedder = _stage(), _embedder()
    planned = plan_targets([_batch((1, 1)), _batch()], make_objective(stage, MASK), np.random.default_rng(0))
    assert planned[0].eligible == 0 and eligible_tokens([planned[0]]) == 1.0
    value, _ = _loss_and_gradients(embedder, planned, eligible_tokens(planned), stage)
    alone, _ = _loss_and_gradients(embedder, planned[1:], eligible_tokens(planned), stage)
    assert value == alone


@pytest.mark.parametrize("head", [False, True])
def test_the_loss_is_that_of_the_output_matrix(head: bool) -> None:
    embedder = _embedder(head=head)
    set_causal(embedder.backbone, False)
    (targets,) = plan_targets([_batch((20,))], make_objective(_stage(), MASK), np.random.default_rng(1))
    value, gradients = _loss_and_gradients(embedder, [targets], 1.0, _stage())
    output = embedder.backbone(input_ids=torch.from_numpy(targets.batch.token_ids)[None], packing=_plan(20))
    table = dict(embedder.named_parameters())["head" if head else "backbone.embed_tokens.weight"]
    logits = output.last_hidden_state[0][targets.rows] @ table.T
    nats = cross_entropy(logits, torch.from_numpy(targets.target_ids), reduction="none")
    stock = (nats * torch.from_numpy(targets.weights)).sum()
    assert value == pytest.approx(float(stock.detach()), rel=1e-5)
    (expected,) = torch.autograd.grad(stock, [table])
    torch.testing.assert_close(gradients["head" if head else "backbone.embed_tokens.weight"], expected)


def _plan(length: int) -> Any:
    from diffembed.models.attention import plan_packing

    return plan_packing(np.array([0, length]))


def test_alignment_compares_with_the_causal_parent_on_clean_text() -> None:
    """Stock hidden states of stock attention: the parent reads the clean tokens left to right, the model the masked."""
    stage, embedder = _stage(alignment_weight=0.5), _embedder()
    parent = frozen_parent(embedder)
    assert parent.config.is_causal and not any(p.requires_grad for p in parent.parameters())
    set_causal(embedder.backbone, False)
    assert parent.config.is_causal, "opening the model's mask leaves the parent's closed"
    (targets,) = plan_targets([_batch((20,))], make_objective(stage, MASK), np.random.default_rng(1))
    options: dict[str, Any] = {"eligible_total": 19.0}
    with torch.no_grad():
        (plain,) = lm_losses(embedder, [targets], **options)
        (with_parent,) = lm_losses(embedder, [targets], **options, teacher=parent, alignment_weight=0.5)
    layers = []
    for model, ids, causal in ((embedder.backbone, targets.batch.token_ids, False), (parent, targets.clean_ids, True)):
        model.set_attn_implementation("eager")
        mask = torch.zeros(20, 20)
        if causal:
            mask = mask.masked_fill(torch.ones(20, 20).triu(1).bool(), -torch.inf)
        with torch.no_grad():
            out = model(
                input_ids=torch.from_numpy(ids)[None], attention_mask=mask[None, None], output_hidden_states=True
            )
        layers.append([*out.hidden_states[1:-1], out.last_hidden_state])
    assert len(layers[0]) == 2
    rows = torch.arange(19)  # the states that can predict: all but the last
    cosines = [cosine_similarity(a[0][rows], b[0][rows], dim=-1) for a, b in zip(*layers, strict=True)]
    expected = (1.0 - torch.stack(cosines)).mean(0).sum() / 19
    assert float(with_parent - plain) == pytest.approx(0.5 * float(expected), rel=1e-3)
    assert float(expected) > 0.01


def test_objective_facts_say_how_to_ask_the_model() -> None:
    assert objective_facts(_stage(kind="causal"), MASK) == {"kind": "causal", "shift": True}
    facts = objective_facts(_stage(shift=False, schedule="cosine"), 7)
    assert (facts["kind"], facts["shift"], facts["schedule"], facts["mask_token_id"]) == (
        "diffusion",
        False,
        "cosine",
        7,
    )
    assert objective_facts(_stage(kind="mntp", shift=False), 7)["shift"] is True


@pytest.mark.parametrize("name", KEYS)
def test_every_key_reaches_the_objective(name: str) -> None:
    """Each variant draws or weighs otherwise than the default, so no key is read and forgotten."""
    batch = _batch((40, 40))
    drawn = make_objective(_stage(**KEYS[name]), MASK)(batch, np.random.default_rng(0))
    usual = make_objective(_stage(), MASK)(batch, np.random.default_rng(0))
    same = (
        drawn.batch.token_ids.tolist() == usual.batch.token_ids.tolist()
        and drawn.weights.tolist() == usual.weights.tolist()
        and drawn.rows.tolist() == usual.rows.tolist()
        and drawn.excluded == usual.excluded
    )
    assert same == (name in ("diffusion", "aligned"))


@pytest.mark.parametrize("draw", ["stratified", "antithetic"])
def test_a_draw_reaches_over_the_whole_step(draw: str) -> None:
    """Batches of one long sequence each: drawn one by one, their rates would be plain uniform ones."""
    batches = [_batch((4000,)) for _ in range(8)]
    for seed in range(3):
        objective = make_objective(_stage(draw=draw), MASK)
        planned = plan_targets(batches, objective, np.random.default_rng(seed))
        rates = np.array([len(t.rows) / t.eligible for t in planned])
        if draw == "stratified":
            assert np.abs(np.sort(rates) - (np.arange(8) + 0.5) / 8).max() < 0.5 / 8 + 0.03
        else:
            assert np.abs(rates[::2] + rates[1::2] - 1.0).max() < 0.05


def test_regrouped_sequences_keep_what_they_aim_at() -> None:
    """Cut up and put together again, everything of a batch is there, the excluded token too."""
    stage = _stage(weighting="mdlm", shuffle_share=0.5)
    (whole,) = plan_targets([_batch()], make_objective(stage, MASK), np.random.default_rng(4))
    assert whole.excluded == MASK and len(whole.aligned) > len(whole.rows) > 0
    parts = [regroup([(whole, i) for i in group]) for group in ([3, 0], [5], [1, 4, 2])]
    assert [p.excluded for p in parts] == [MASK] * 3
    places = ((0, 1), (2, 0), (2, 2), (0, 0), (2, 1), (1, 0))
    again = regroup([(parts[part], i) for part, i in places])
    for name in ("clean_ids", "rows", "target_ids", "weights", "aligned"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name), err_msg=name)
    for name in ("token_ids", "position_ids", "cu_seqlens", "spans"):
        np.testing.assert_array_equal(getattr(again.batch, name), getattr(whole.batch, name), err_msg=name)
