"""The pair loss against a brute-force loop in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.models.quantizer import tanh_int8
from diffembed.objectives.contrastive import matryoshka, pair_info_nce


def _brute(q: np.ndarray, d: np.ndarray, ids: list[int], temperature: float, margin: float) -> float:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))

    total = 0.0
    for i in range(len(q)):
        own = cosine(q[i], d[i])
        terms = [own / temperature]
        for j in range(len(q)):
            if ids[j] == ids[i]:
                continue
            for other in (d[j], q[j]):
                s = cosine(q[i], other)
                if s <= own + margin:
                    terms.append(s / temperature)
        top = max(terms)
        total += top + math.log(sum(math.exp(t - top) for t in terms)) - own / temperature
    return total / len(q)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(0, 2**16),
    st.sampled_from([0.02, 0.5]),
    st.sampled_from([-0.2, 0.0, 0.1, 2.0]),
    st.booleans(),
)
def test_equals_brute_force(size: int, seed: int, temperature: float, margin: float, duplicates: bool) -> None:
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(size, 6))
    d = 0.7 * q + 0.7 * rng.normal(size=(size, 6))
    ids = rng.integers(0, max(1, size // 2), size).tolist() if duplicates else list(range(size))
    barrier = abs(_nearest_to_barrier(q, d, margin))
    if barrier < 1e-5:  # float32 may fall on the other side of the margin
        return
    ours = pair_info_nce(torch.tensor(q), torch.tensor(d), torch.tensor(ids), temperature=temperature, margin=margin)
    assert math.isclose(float(ours), _brute(q, d, ids, temperature, margin), rel_tol=2e-4, abs_tol=2e-4)


def _nearest_to_barrier(q: np.ndarray, d: np.ndarray, margin: float) -> float:
    q, d = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, d))
    own = (q * d).sum(1, keepdims=True)
    both = np.concatenate([q @ d.T, q @ q.T], axis=1) - own - margin
    return float(both.flat[np.abs(both).argmin()])


def test_a_false_negative_beyond_the_margin_has_no_gradient() -> None:
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    d = torch.tensor([[0.6, 0.8], [1.0, 0.05]], requires_grad=True)  # document 1 is nearer to query 0 than its own
    pair_info_nce(q, d, torch.tensor([0, 1]), temperature=0.1, margin=0.1).backward()
    assert d.grad is not None
    without = d.detach().clone().requires_grad_()
    pair_info_nce(q.detach()[1:], without[1:], torch.tensor([1]), temperature=0.1).backward()
    only_first = d.detach().clone().requires_grad_()
    pair_info_nce(q.detach(), only_first, torch.tensor([0, 1]), temperature=0.1, margin=9.0).backward()
    assert only_first.grad is not None
    assert float(only_first.grad[1].abs().sum()) > float(d.grad[1].abs().sum())


def test_matryoshka_sees_each_width_through_the_quantizer() -> None:
    rng = torch.Generator().manual_seed(0)
    q, d = torch.randn(5, 16, generator=rng), torch.randn(5, 16, generator=rng)
    ids = torch.arange(5)
    together = matryoshka(lambda a, b: pair_info_nce(a, b, ids), tanh_int8, q, d, (8, 16))
    apart = [pair_info_nce(torch.round(127 * torch.tanh(q[:, :w])), torch.round(127 * torch.tanh(d[:, :w])), ids)
             for w in (8, 16)]  # fmt: skip
    assert math.isclose(float(together), float(sum(apart)) / 2, rel_tol=1e-6)
