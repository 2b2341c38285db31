"""GradCache: a cached step is the direct one, and holds one pack's activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from tests.training.contrastive_rows import batch_of, grouped, pairs, stage_of, triplets, wide_embedder, words
from torch import Tensor, nn

from diffembed.data.examples import Example, Pair
from diffembed.models.embedder import Embedder
from diffembed.text.batching import pack
from diffembed.training import grad_cache
from diffembed.training.adapters import add_adapters
from diffembed.training.contrastive import BatchLoss
from diffembed.training.contrastive_batch import ContrastiveBatch
from diffembed.training.grad_cache import Share, contrastive_parts
from diffembed.training.loop import recompute_activations
from diffembed.training.share import deal_spans

CPU = torch.device("cpu")
Case = tuple[list[Example], dict[str, Any]]
CASES: dict[str, Case] = {
    "pair": (pairs(9), {"kind": "pair", "binary_weight": 0.5}),
    "triplet": (triplets(8), {"kind": "triplet", "negatives": 2}),
    "contextual": (grouped(6), {"kind": "contextual"}),
    "contextual without gold": (grouped(6), {"kind": "contextual", "gold": False}),
}
Gradients = dict[str, Tensor]


def problem(case: str, micro_tokens: int = 60) -> tuple[ContrastiveBatch, Share, BatchLoss]:
    rows, keys = CASES[case]
    stage = stage_of(**keys)
    batch = batch_of(rows, stage)
    loss = BatchLoss.of(batch, stage, (8, 16), progress=0.3, device=CPU)
    return batch, deal_spans(batch.sequences, batch.queries, 0, 1, micro_tokens), loss


def gradients(embedder: Embedder) -> Gradients:
    found = {n: p.grad.clone() for n, p in embedder.named_parameters() if p.grad is not None}
    assert set(found) == {n for n, p in embedder.named_parameters() if p.requires_grad}, "a weight has no gradient"
    return found


def plain(embedder: Embedder, batch: ContrastiveBatch, loss: BatchLoss) -> tuple[float, Gradients]:
    """What autograd alone makes of it: every sequence read by itself, the loss of all queries at once."""
    embedder.zero_grad()
    total = loss(torch.cat([embedder(pack([s])) for s in batch.sequences]), torch.arange(batch.queries))
    total.backward()  # type: ignore[no-untyped-call]
    return float(total.detach()), gradients(embedder)


def stepped(
    embedder: Embedder, share: Share, loss: BatchLoss, *, keep: bool, around: Any = nullcontext
) -> tuple[float, Gradients]:
    """The same by the parts of a step, each under ``around`` as the loop would have it."""
    embedder.zero_grad()
    parts = contrastive_parts(share, loss, keep=keep, columns=len(share.order))
    assert len(parts) == (1 if keep else len(share.packs))
    total = 0.0
    for part in parts:
        with around():
            value = part(embedder)
        total += float(value.detach())
        with around():
            value.backward()  # type: ignore[no-untyped-call]
    return total, gradients(embedder)


def assert_alike(one: tuple[float, Gradients], other: tuple[float, Gradients], bound: float = 1e-5) -> None:
    assert one[0] == pytest.approx(other[0], rel=bound, abs=bound)
    largest = max(float(g.abs().max()) for g in one[1].values())
    assert largest > 1e-3, "nothing to compare"
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, atol=bound * max(1.0, largest), rtol=bound, msg=name)


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "cached"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_what_autograd_alone_makes_of_it(case: str, keep: bool) -> None:
    batch, share, loss = problem(case)
    assert len(share.packs) > 3
    assert_alike(plain(wide_embedder(), batch, loss), stepped(wide_embedder(), share, loss, keep=keep))


@pytest.mark.parametrize("micro_tokens", [1, 30, 10_000], ids=["a pack a sequence", "packs", "one pack"])
def test_packs_change_nothing(micro_tokens: int) -> None:
    batch, share, loss = problem("contextual", micro_tokens)
    assert len(share.packs) == {1: len(batch.sequences), 10_000: 1}.get(micro_tokens, len(share.packs))
    assert_alike(plain(wide_embedder(), batch, loss), stepped(wide_embedder(), share, loss, keep=False))


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "cached"])
@pytest.mark.parametrize("case", CASES)
def test_blocks_of_queries_change_nothing(case: str, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, share, loss = problem(case)
    asked: list[list[int]] = []

    def noted(means: Tensor, rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return loss(means, rows)

    monkeypatch.setattr(grad_cache, "BLOCK_ELEMENTS", 2 * len(share.order))
    found = stepped(wide_embedder(), share, noted, keep=keep)  # type: ignore[arg-type]
    assert len(asked) > 3 and all(len(rows) <= 2 for rows in asked)
    assert [row for rows in asked for row in rows] == list(range(batch.queries)), "every query once"
    assert_alike(plain(wide_embedder(), batch, loss), found)
    monkeypatch.setattr(grad_cache, "BLOCK_ELEMENTS", 1)  # fewer than a row: still a query at a time
    assert_alike(stepped(wide_embedder(), share, loss, keep=keep), found)


def with_lora(dropout: float) -> Embedder:
    embedder = wide_embedder()
    add_adapters(embedder, stage_of("pair", lora_rank=2, lora_dropout=dropout), seed=0)
    with torch.no_grad():  # B begins at 0, where dropout before A changes nothing
        for name, parameter in embedder.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    return embedder.train()


def with_dropped_embeddings(dropout: float) -> Embedder:
    embedder = wide_embedder()
    drop = nn.Dropout(dropout)
    embedder.backbone.get_input_embeddings().register_forward_hook(lambda *given: drop(given[2]))
    return embedder.train()


@pytest.mark.parametrize("recompute", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("make", [with_lora, with_dropped_embeddings])
def test_the_second_reading_drops_what_the_first_dropped(make: Callable[[float], Embedder], recompute: bool) -> None:
    """Against autograd over the same packs in the same order, from the same random numbers."""
    batch, share, loss = problem("pair")
    order = torch.from_numpy(share.order)

    def prepared(dropout: float = 0.3) -> Embedder:
        embedder = make(dropout)
        if recompute:
            recompute_activations(embedder.backbone, True)
        torch.manual_seed(11)
        return embedder

    embedder = prepared()
    total = loss(torch.cat([embedder(p) for p in share.packs])[order], torch.arange(batch.queries))
    after = torch.get_rng_state()
    total.backward()  # type: ignore[no-untyped-call]
    expected = float(total.detach()), gradients(embedder)
    for keep in (True, False):
        assert_alike(expected, stepped(prepared(), share, loss, keep=keep))
        assert torch.equal(torch.get_rng_state(), after), "the numbers go on as after one reading"
    without = stepped(prepared(0.0), share, loss, keep=False)
    assert abs(without[0] - expected[0]) > 1e-3, "dropout was at work"


@pytest.mark.parametrize("case", ["pair", "contextual"])
def test_recomputed_activations(case: str) -> None:
    batch, share, loss = problem(case)
    embedder = wide_embedder()
    recompute_activations(embedder.backbone, True)
    embedder.train()
    calls: list[int] = []
    embedder.backbone.get_submodule("layers.0.self_attn.q_proj").register_forward_hook(lambda *_: calls.append(1))
    found = stepped(embedder, share, loss, keep=False)
    assert len(calls) == 3 * len(share.packs), "read for the means, read again, computed again on the way back"
    assert_alike(plain(wide_embedder(), batch, loss), found)


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "cached"])
@pytest.mark.parametrize("case", CASES)
def test_bfloat16_by_autocast(case: str, keep: bool) -> None:
    """Casts of weights made in the first reading, where nothing has a gradient, must not serve the second."""
    batch, share, loss = problem(case)
    loss = dataclasses.replace(loss, stage=dataclasses.replace(loss.stage, temperature=0.2))
    embedder = wide_embedder()
    with bfloat16():
        means = torch.cat([embedder(p) for p in share.packs])[torch.from_numpy(share.order)]
    assert means.dtype == torch.float32
    total = loss(means, torch.arange(batch.queries))
    with bfloat16():
        total.backward()  # type: ignore[no-untyped-call]
    expected = float(total.detach()), gradients(embedder)
    found = stepped(wide_embedder(), share, loss, keep=keep, around=bfloat16)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    full = plain(wide_embedder(), batch, loss)
    assert full[0] != expected[0], "products were in bfloat16"
    for name, gradient in found[1].items():
        for others, least in ((expected[1], 0.999), (full[1], 0.9)):
            assert nn.functional.cosine_similarity(gradient.flatten(), others[name].flatten(), dim=0) > least, name


class Tally:
    """Elements that autograd holds for the way back, now and at most."""

    now = peak = 0


class Held:
    def __init__(self, tensor: Tensor, tally: Tally) -> None:
        self.tensor, self.tally = tensor, tally
        tally.now += tensor.numel()
        tally.peak = max(tally.peak, tally.now)

    def __del__(self) -> None:
        self.tally.now -= self.tensor.numel()


@contextmanager
def tallied() -> Iterator[Tally]:
    tally = Tally()

    def hold(tensor: Tensor) -> Any:
        return tensor if isinstance(tensor, nn.Parameter) else Held(tensor, tally)

    def give(held: Any) -> Tensor:
        found: Tensor = held.tensor if isinstance(held, Held) else held
        return found

    with torch.autograd.graph.saved_tensors_hooks(hold, give):
        yield tally


def test_a_cached_step_holds_the_activations_of_one_pack() -> None:
    peaks: dict[tuple[int, bool], int] = {}
    stage = stage_of("pair")
    for count in (4, 32):
        batch = batch_of([Pair(words(10 + i, 3), words(50 + i, 9)) for i in range(count)], stage)
        loss = BatchLoss.of(batch, stage, (16,), progress=0.0, device=CPU)
        share = deal_spans(batch.sequences, batch.queries, 0, 1, 40)
        for keep in (False, True):
            embedder = wide_embedder()
            embedder.zero_grad()
            with tallied() as tally:
                for part in contrastive_parts(share, loss, keep=keep, columns=len(share.order)):
                    part(embedder).backward()  # type: ignore[no-untyped-call]
            assert tally.now == 0
            peaks[count, keep] = tally.peak
    assert peaks[32, False] < 1.3 * peaks[4, False] and peaks[32, True] > 5 * peaks[4, True], peaks


def test_a_step_without_queries_of_this_process() -> None:
    """It still reads its packs, and what the others ask of its vectors is 0 where they ask nothing."""
    _, share, loss = problem("pair")
    nobody = dataclasses.replace(share, rows=share.rows[:0])
    for keep in (True, False):
        value, found = stepped(wide_embedder(), nobody, loss, keep=keep)
        assert value == 0.0 and all(not g.any() for g in found.values())
