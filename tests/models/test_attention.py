"""Packed attention and the opened mask, against stock ``transformers`` on padded input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from diffembed.errors import ModelError
from diffembed.models import attention, varlen
from diffembed.models.attention import PACKED, packed_attention, plan_packing, window_reach
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
    model.train(False)
    return model


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
    runs: list[Callable[[], torch.Tensor]] = [
        lambda: packed_states(model, pack(sequences)),
        lambda: _padded(model, sequences),
    ]
    for run in runs:
        model.zero_grad()
        out = run()
        (out * target).sum().backward()  # type: ignore[no-untyped-call]
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


def _layer(causal: bool) -> nn.Module:
    module = nn.Module()
    module.config = type("Config", (), {"is_causal": causal})()
    return module


def _both(
    lengths: tuple[int, ...], causal: bool, window: int | None, dtype: torch.dtype = torch.float64
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Output and gradients of packed attention, and of plain attention with the mask written out."""
    generator = torch.Generator().manual_seed(sum(lengths))
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    parts = [torch.randn(sum(lengths), h, 8, generator=generator, dtype=dtype) for h in (4, 2, 2)]
    weights = torch.randn(sum(lengths), 4, 8, generator=generator, dtype=dtype)
    results = []
    for packed in (True, False):
        q, k, v = (p.clone().requires_grad_() for p in parts)
        if packed:
            a, b, c = (x.transpose(0, 1)[None] for x in (q, k, v))
            plan = plan_packing(cu_seqlens)
            out = packed_attention(_layer(causal), a, b, c, None, packing=plan, sliding_window=window)[0][0]
        else:
            out = varlen.reference_attention(q, k, v, cu_seqlens, window_reach(causal, window))
        (out * weights).sum().backward()  # type: ignore[no-untyped-call]
        results.append([out.detach(), *(x.grad for x in (q, k, v) if x.grad is not None)])
    return results[0], results[1]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 45)),
)
def test_windows_equal_plain_attention_forward_and_gradient(
    lengths: tuple[int, ...], causal: bool, window: int | None
) -> None:
    for ours, theirs in zip(*_both(lengths, causal, window), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 100, 600])
def test_long_sequences_equal_plain_attention(causal: bool, window: int | None) -> None:
    """Over 512 tokens other code runs: no mask where the kernel's own flag does, blocks where there is a window."""
    for ours, theirs in zip(*_both((5, 700, 695), causal, window), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-9)


_MEASURE = """
import resource
import numpy as np, torch
from torch import nn
from diffembed.models.attention import packed_attention, plan_packing
def run(tokens, causal, window, heads):
    layer = nn.Module()
    layer.config = type("Config", (), {"is_causal": causal})()
    q, k, v = (torch.randn(1, h, tokens, 8, requires_grad=window is not None) for h in (heads, 1, 1))
    plan = plan_packing(np.array([0, tokens]))
    out = packed_attention(layer, q, k, v, None, packing=plan, sliding_window=window)[0]
    if window is not None:
        out.sum().backward()
def peak(tokens):
    run(tokens, False, None, 1)
    run(tokens * 3 // 4, True, None, 2)  # two query heads over one key head
    for causal in (False, True):
        run(tokens, causal, 512, 2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base = peak(1024)
print(peak(8192) - base, peak(32768) - base)
"""


def test_memory_is_linear_on_a_32k_token_document() -> None:
    """A boolean mask over all pairs would be 1 GiB, the scores of one head 4 GiB; q, k, v and the output are 5 MiB."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEASURE],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    short, long = map(float, ran.stdout.split())
    assert long < 120, f"{long:.0f} MiB above the peak at 1k tokens"
    assert long < 4 * short + 40, f"{short:.0f} MiB at 8k tokens, {long:.0f} MiB at 32k"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_key_heads_stay_off_the_quadratic_kernel_of_cuda(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Sharing key heads is asked of no CUDA kernel: only the flash one can, and only in half precision, unmasked."""
    calls = []

    def kernel(q: Any, k: Any, v: Any, *args: Any, enable_gqa: bool, **kwargs: Any) -> torch.Tensor:
        assert q.device.type == "cuda" and k.shape[1] == v.shape[1] == q.shape[1] and not enable_gqa
        calls.append(q)
        return torch.empty_like(q)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", kernel)
    with FakeTensorMode():  # shapes and devices without numbers
        q, k, v = (torch.empty(2, h, 700, 8, device="cuda", dtype=dtype) for h in (4, 2, 2))
        mask = torch.empty(2, 1, 1, 700, device="cuda", dtype=torch.bool)
        for causal, seen in ((True, None), (False, None), (False, mask)):
            out = attention._group_attention(q, k, v, seen, window_reach(causal, None), None, 0.0)
            assert out.shape == q.shape
    assert len(calls) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 512])
def test_memory_on_cuda_is_linear_in_float32(causal: bool, window: int | None) -> None:
    """Four heads' scores of 32k tokens would be 16 GiB."""
    q, k, v = (torch.randn(1, h, 32_768, 64, device="cuda", requires_grad=True) for h in (4, 2, 2))
    plan = plan_packing(np.array([0, 32_768]), "cuda")
    torch.cuda.reset_peak_memory_stats()
    packed_attention(_layer(causal), q, k, v, None, packing=plan, sliding_window=window)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert torch.cuda.max_memory_allocated() < 2**31


class _FakeKernel:
    """Stands for torch's CUDA kernel: same signature and window convention, plain arithmetic, no CUDA."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *,
        scale: float | None, window_size: tuple[int, int], enable_gqa: bool,
    ) -> torch.Tensor:  # fmt: skip
        assert cu_seq_q is cu_seq_k and cu_seq_q.dtype == torch.int32 and max_q == max_k
        assert enable_gqa == (key.shape[1] != query.shape[1])
        self.calls.append({"longest": max_q, "window": window_size, "shape": tuple(query.shape)})
        factor = 1.0 if scale is None else scale * query.shape[-1] ** 0.5
        return varlen.reference_attention(query * factor, key, value, cu_seq_q.numpy().astype(np.int64), window_size)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 4])
def test_varlen_kernel_is_given_what_the_cpu_path_computes(
    monkeypatch: pytest.MonkeyPatch, causal: bool, window: int | None
) -> None:
    lengths = (5, 1, 17)
    expected, _ = _both(lengths, causal, window)
    kernel = _FakeKernel()
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "usable", lambda query, dropout: True)
    for ours, theirs in zip(_both(lengths, causal, window)[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    assert kernel.calls == [{"longest": 17, "window": window_reach(causal, window), "shape": (23, 4, 8)}]


@pytest.mark.parametrize("fault", [None, "raises", "off", "other signature", "ignores windows"])
def test_varlen_kernel_is_tried_before_it_is_trusted(monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    good = _FakeKernel()

    def kernel(*args: Any, **kwargs: Any) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
        if fault == "other signature" and "enable_gqa" in kwargs:
            raise TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'")
        if fault == "ignores windows":
            kwargs["window_size"] = (-1, -1)
        return good(*args, **kwargs) * (1.2 if fault == "off" else 1.0)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    varlen.trial.cache_clear()
    try:
        if fault is None:
            assert varlen.trial(torch.device("cpu"), torch.float32, 8)
        else:
            with pytest.warns(RuntimeWarning, match="varlen attention is not used for torch.float32 heads of 8 on cpu"):
                assert not varlen.trial(torch.device("cpu"), torch.float32, 8)
    finally:
        varlen.trial.cache_clear()


def test_varlen_kernel_serves_half_precision_on_cuda_only() -> None:
    assert not varlen.usable(torch.zeros(3, 2, 8, dtype=torch.bfloat16), 0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 100])
def test_cuda_equals_cpu(causal: bool, window: int | None) -> None:
    lengths = (1, 700, 33, 512)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    q, k, v = (torch.randn(1, h, sum(lengths), 64) for h in (4, 2, 2))
    plan = plan_packing(cu_seqlens)
    exact = packed_attention(_layer(causal), q, k, v, None, packing=plan, sliding_window=window)[0]
    for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float32, 2e-3)):
        a, b, c = (x.to("cuda", dtype) for x in (q, k, v))
        plan = plan_packing(cu_seqlens, "cuda")
        out = packed_attention(_layer(causal), a, b, c, None, packing=plan, sliding_window=window)[0]
        torch.testing.assert_close(out.float().cpu(), exact, atol=tolerance, rtol=tolerance)
