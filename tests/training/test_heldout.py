"""The held-out figures against what can be counted by hand: bytes, bits, and accuracy by mask rate."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffembed.models.embedder import Embedder
from diffembed.objectives.denoising import masked_at
from diffembed.objectives.targets import Targets
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.training import heldout
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.heldout import MASK_RATES, HeldOut, causal_losses, denoising_losses, read_held_out

MASK, VOCABULARY, CONFIDENT = 1, 12, 4.0


class _Known:
    """Stands for an embedder whose states are known: the output matrix is the identity, so states are logits."""

    def output_table(self) -> Tensor:
        return torch.eye(VOCABULARY)


def _known_states(_: Any, targets: Targets) -> Tensor:
    """Right about even tokens, wrong (token 0) about odd ones; the winner's logit is 4, the others' 0."""
    guess = torch.from_numpy(np.where(targets.target_ids % 2 == 0, targets.target_ids, 0))
    return CONFIDENT * torch.nn.functional.one_hot(guess, VOCABULARY).float()


def _nats(others: int) -> tuple[float, float]:
    """Of a token that is guessed, and of one that is not, among ``others`` less likely ones."""
    total = math.log(math.exp(CONFIDENT) + others)
    return total - CONFIDENT, total


RIGHT, WRONG = _nats(VOCABULARY - 2)  # the mask token is none of them: it is never a target


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Embedder:
    monkeypatch.setattr(heldout, "target_states", _known_states)
    return _Known()  # type: ignore[return-value]


def _found(even: int, odd: int) -> HeldOut:
    """Two sequences of shuffled even and odd tokens, each begun with token 2."""
    rng = np.random.default_rng(0)
    tokens = np.array([2, 4, 6, 8, 10] * (even // 5) + [3, 5, 7, 9, 11] * (odd // 5))
    rows = [TokenizedSequence((2, *rng.permutation(tokens).tolist()), ()) for _ in range(2)]
    return HeldOut((pack(rows[:1]), pack(rows[1:])), bytes=1000, bytes_after_first=990)


def test_causal_figures_by_hand(known: Embedder) -> None:
    figures = causal_losses(known, _found(300, 100))
    right, wrong = _nats(VOCABULARY - 1)
    mean = 0.75 * right + 0.25 * wrong
    assert figures == pytest.approx(
        {
            "next_token_nats": mean,
            "next_token_bits_per_byte": mean * 800 / 990 / math.log(2),
            "next_token_accuracy": 0.75,
        }
    )


@pytest.mark.parametrize("shift", [True, False])
def test_accuracy_and_loss_by_mask_rate(known: Embedder, shift: bool) -> None:
    found = _found(300, 100)
    figures = denoising_losses(known, found, mask_token_id=MASK, shift=shift)
    assert set(figures) == {
        *(f"{name}_{rate:.1f}" for name in ("mask", "accuracy") for rate in MASK_RATES),
        "elbo_nats_per_token",
        "elbo_bits_per_byte",
    }
    for rate in MASK_RATES:
        rng = np.random.default_rng(0)
        drawn = [masked_at(b, rng, mask_token_id=MASK, rate=rate, shift=shift).target_ids for b in found.batches]
        even = float(np.mean(np.concatenate(drawn) % 2 == 0))
        assert figures[f"accuracy_{rate:.1f}"] == pytest.approx(even)
        assert figures[f"mask_{rate:.1f}"] == pytest.approx(even * RIGHT + (1 - even) * WRONG, rel=1e-5)
        assert even == pytest.approx(0.75, abs=0.08)
    # losses do not depend on the masks here, so the bound is their mean, up to the noise of the draws
    assert figures["elbo_nats_per_token"] == pytest.approx(0.75 * RIGHT + 0.25 * WRONG, rel=0.05)
    tokens, size = (800, 990) if shift else (802, 1000)
    bits = figures["elbo_nats_per_token"] * tokens / size / math.log(2)
    assert figures["elbo_bits_per_byte"] == pytest.approx(bits)


def test_a_model_that_writes_masks_is_judged_by_what_else_it_would_write(
    known: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training with MDLM's weights never touches the mask token's own score; here it is the likeliest by far."""
    expected = denoising_losses(known, _found(300, 100), mask_token_id=MASK, shift=True)

    def masks(_: Any, targets: Targets) -> Tensor:
        states = _known_states(_, targets)
        states[:, MASK] = 30.0
        return states

    monkeypatch.setattr(heldout, "target_states", masks)
    assert denoising_losses(known, _found(300, 100), mask_token_id=MASK, shift=True) == pytest.approx(expected)


def test_a_rate_without_a_masked_token_has_no_figure(known: Embedder) -> None:
    found = HeldOut((pack([TokenizedSequence((2,), ())]),), bytes=1, bytes_after_first=0)
    assert denoising_losses(known, found, mask_token_id=MASK, shift=True) == {}


def test_bytes_are_those_of_the_tokens_that_were_kept(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """A byte-level tokenizer spells a byte with one character, so the tokens themselves can be counted."""
    texts = [f"{i} Größe und 学習 the quick brown fox " * 6 for i in range(400)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    source = SourceConfig("texts", ("texts.jsonl",))
    for length in (16, 33, 400):
        stage = StageConfig("s", "diffusion", 1, 1, 1e-3, (source,), sequence_tokens=length)
        found = read_held_out(stage, tiny_tokenizer, tmp_path, eot_token_id=2)
        spelled, after_first, count = 0, 0, 0
        for batch in found.batches:
            for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
                ids = batch.token_ids[start:end].tolist()
                assert ids[-1] == 2 and len(ids) <= length
                sizes = [len(tiny_tokenizer.id_to_token(i)) for i in ids[:-1]]
                spelled, after_first, count = spelled + sum(sizes), after_first + sum(sizes[1:]), count + 1
        assert count > 0
        # a character of several bytes may be cut in two at the end: at most 2 bytes a sequence
        assert 0 <= found.bytes - spelled <= 2 * count
        assert found.bytes - found.bytes_after_first == spelled - after_first
