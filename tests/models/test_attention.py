"""Packed attention and the opened mask, against stock ``transformers`` on padded input."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from diffembed.errors import ModelError
from diffembed.models import attention
from diffembed.models.attention import PACKED, plan_packing
from diffembed.models.backbone import build_qwen3, packed_states, probe_direction, require_bidirectional, set_causal
from diffembed.text.batching import TokenizedSequence, pack

LENGTHS = (1, 5, 16, 17, 33, 5, 48)


def _model(causal: bool) -> PreTrainedModel:
    model = build_qwen3(
        vocab_size=50, hidden_size=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate_size=48,
        max_tokens=64, rope_theta=1e4, pad_token_id=0, eos_token_id=1, seed=3,
    )  # fmt: skip
    torch.manual_seed(0)
    for p in model.parameters():  # the default initialisation is too small to tell attention patterns apart
        p.data.add_(torch.randn_like(p) * 0.1)
    set_causal(model, causal)
    return model.eval()


def _sequences() -> list[TokenizedSequence]:
    rng = np.random.default_rng(0)
    return [TokenizedSequence(tuple(rng.integers(2, 50, n).tolist()), ((0, n),)) for n in LENGTHS]


def _padded(model: PreTrainedModel, sequences: list[TokenizedSequence]) -> torch.Tensor:
    width = max(len(s) for s in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, s in enumerate(sequences):
        ids[i, : len(s)], mask[i, : len(s)] = torch.tensor(s.token_ids), 1
    model.set_attn_implementation("sdpa")
    states = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    model.set_attn_implementation(PACKED)
    return torch.cat([states[i, : len(s)] for i, s in enumerate(sequences)])


@pytest.mark.parametrize("causal", [True, False])
def test_packed_equals_stock_padded_forward_and_gradient(causal: bool) -> None:
    model, sequences = _model(causal), _sequences()
    target = torch.randn(sum(LENGTHS), 32, generator=torch.Generator().manual_seed(1))
    grads = []
    outputs = []
    for run in (lambda: packed_states(model, pack(sequences)), lambda: _padded(model, sequences)):
        model.zero_grad()
        out = run()
        (out * target).sum().backward()
        outputs.append(out.detach())
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_no_sequence_sees_another() -> None:
    model, sequences = _model(False), _sequences()
    with torch.no_grad():
        together = packed_states(model, pack(sequences))
        changed = [*sequences[:-1], TokenizedSequence((7,) * LENGTHS[-1], ((0, LENGTHS[-1]),))]
        other = packed_states(model, pack(changed))
        alone = torch.cat([packed_states(model, pack([s])) for s in sequences])
    kept = sum(LENGTHS[:-1])
    torch.testing.assert_close(together[:kept], other[:kept], atol=1e-6, rtol=0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert (together[kept:] - other[kept:]).abs().max() > 1e-3


def test_late_token_changes_early_state_only_when_open() -> None:
    assert probe_direction(_model(False))
    causal = _model(True)
    assert not probe_direction(causal)
    with pytest.raises(ModelError, match="is causal on attention"):
        require_bidirectional(causal)


def test_probe_notices_a_kernel_that_ignores_the_flag() -> None:
    model = _model(False)
    model.config.is_causal = True  # what a fused kernel that reads only the config would do
    assert not probe_direction(model)


def test_empty_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        plan_packing(np.array([0, 3, 3]))


@pytest.mark.parametrize("causal", [True, False])
def test_bfloat16_on_a_cpu_stays_close_to_float32(causal: bool) -> None:
    """The short-sequence path of bfloat16 is other arithmetic, not another result."""
    model, sequences = _model(causal), _sequences()
    with torch.no_grad():
        exact = packed_states(model, pack(sequences))
        with torch.autocast("cpu", torch.bfloat16), patch.object(attention, "scaled_dot_product_attention", None):
            short = packed_states(model, pack(sequences)).float()
    assert not torch.equal(exact, short)
    similarity = torch.nn.functional.cosine_similarity(exact, short, dim=1)
    assert similarity.min() > 0.999
