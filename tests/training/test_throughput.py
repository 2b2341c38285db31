"""What a step costs, against torch's own counter and the mask written out; and which device has which peak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.tiny import tiny_config, tiny_model
from tests.training.tiny import tiny_embedder
from torch.utils.flop_counter import FlopCounterMode

from diffembed.models.attention import window_reach
from diffembed.models.backbone import set_causal
from diffembed.models.embedder import Embedder
from diffembed.training.throughput import StepCost, known_rate, step_cost


@pytest.mark.parametrize("causal", [False, True])
def test_the_cost_of_a_step_is_what_torch_counts(causal: bool) -> None:
    """torch counts all pairs of eager attention; of a causal step those that are masked are not counted here."""
    embedder = tiny_embedder()
    set_causal(embedder.backbone, causal)
    embedder.backbone.set_attn_implementation("eager")
    length, layers = 32, 2
    ids = torch.arange(length)[None] % 40
    mask = torch.zeros(1, 1, length, length)
    with FlopCounterMode(display=False) as counter:
        states = embedder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state[0, :6]
        (states @ embedder.output_table().T).sum().backward()
    cost = step_cost(embedder, causal=causal)
    masked = cost.pair * layers * length * (length - 1) / 2 if causal else 0.0
    ours = cost.of(np.array([length]), 6) + masked
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)  # torch counts the rotary angles too


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5), st.booleans(), st.one_of(st.none(), st.integers(1, 40))
)  # fmt: skip
def test_pairs_are_those_of_the_mask(lengths: list[int], causal: bool, window: int | None) -> None:
    back, ahead = window_reach(causal, window)
    pairs = 0
    for n in lengths:
        distance = np.arange(n)[None, :] - np.arange(n)[:, None]
        seen = (distance <= ahead) | (ahead < 0)
        pairs += int((seen & ((distance >= -back) | (back < 0))).sum())
    cost = StepCost(token=0.0, pair=1.0, target=0.0, reaches=((back, ahead),))
    assert cost.of(np.array(lengths), 0) == pairs


def test_a_window_is_what_attention_makes_of_it() -> None:
    embedder = Embedder(tiny_model(tiny_config("gemma3")))  # a window of 5, and a layer without
    assert step_cost(embedder, causal=False).reaches == ((5, 5), (-1, -1))
    assert step_cost(embedder, causal=True).reaches == ((4, 0), (-1, 0))


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", None),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.0),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250.0),
        ("Tesla T4", None),
    ],
)
def test_peaks_of_data_sheets(name: str, rate: float | None) -> None:
    assert known_rate(name) == rate
