"""Distillation losses against brute-force loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize

from diffembed.objectives.distillation import similarity_kl, vector_cosine


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 9),
    st.sampled_from([0.02, 0.5]),
    st.sampled_from([0.05, 0.3]),
    st.integers(0, 2**16),
)
def test_similarity_kl_equals_brute_force(
    queries: int, documents: int, width: int, temperature: float, teacher_temperature: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(queries, 4)), rng.normal(size=(documents, 4))
    teacher = rng.normal(size=(queries, width)), rng.normal(size=(documents, width))

    def shares(i: int, vectors: tuple[np.ndarray, np.ndarray], t: float) -> list[float]:
        q = vectors[0][i]
        cosines = [float(q @ d) / math.sqrt(float(q @ q) * float(d @ d)) for d in vectors[1]]
        weights = [math.exp((c - max(cosines)) / t) for c in cosines]
        return [w / sum(weights) for w in weights]

    def divergence(i: int) -> float:
        p, q = shares(i, teacher, teacher_temperature), shares(i, student, temperature)
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    def ours(rows: list[int] | None = None) -> float:
        given = None if rows is None else torch.tensor(rows, dtype=torch.int64)
        vectors = [torch.tensor(x) for x in (*student, *teacher)]
        return float(
            similarity_kl(*vectors, temperature=temperature, teacher_temperature=teacher_temperature, rows=given)
        )

    expected = [divergence(i) / queries for i in range(queries)]
    assert ours() == pytest.approx(sum(expected), rel=1e-8, abs=1e-9)
    mine, other = list(range(0, queries, 2)), list(range(1, queries, 2))
    assert ours(mine) == pytest.approx(sum(expected[::2]), rel=1e-8, abs=1e-9)
    assert ours(mine) + ours(other) == pytest.approx(ours(), rel=1e-9, abs=1e-12)


def test_similarity_kl_is_torchs() -> None:
    a, b, c, d = (_random(n, w, seed=s).detach() for n, w, s in ((5, 4, 0), (7, 4, 1), (5, 6, 2), (7, 6, 3)))
    student = log_softmax(normalize(a, dim=1) @ normalize(b, dim=1).T / 0.1, dim=1)
    teacher = log_softmax(normalize(c, dim=1) @ normalize(d, dim=1).T / 0.2, dim=1)
    expected = kl_div(student, teacher, reduction="batchmean", log_target=True)
    found = similarity_kl(a, b, c, d, temperature=0.1, teacher_temperature=0.2)
    assert float(found) == pytest.approx(float(expected), rel=1e-9)
    assert float(similarity_kl(a, b, a, b)) == pytest.approx(0.0, abs=1e-12), "a student that is its own teacher"


def test_a_teacher_that_is_sure_leaves_no_nan() -> None:
    """At a small temperature most of the teacher's shares are 0 in float32."""
    q, d = torch.eye(8)[:3].requires_grad_(), torch.eye(8)
    loss = similarity_kl(q, d, torch.eye(8)[:3], torch.eye(8), temperature=0.02, teacher_temperature=1e-4)
    torch.autograd.backward([loss])
    assert loss.dtype == torch.float32 and loss.isfinite() and q.grad is not None and q.grad.isfinite().all()


def test_gradients_flow_to_the_student_only() -> None:
    vectors = [_random(3, 4), _random(5, 4, seed=1), _random(3, 6, seed=2), _random(5, 6, seed=3)]
    torch.autograd.backward([similarity_kl(*vectors), vector_cosine(vectors[0], vectors[2])])
    assert all(v.grad is not None and v.grad.any() for v in vectors[:2])
    assert all(v.grad is None for v in vectors[2:])
    teacher = [v.detach() for v in vectors[2:]]
    assert torch.autograd.gradcheck(lambda a, b: similarity_kl(a, b, *teacher, temperature=0.5), tuple(vectors[:2]))
    assert torch.autograd.gradcheck(lambda a: vector_cosine(a, teacher[0]), (vectors[0],))


@pytest.mark.parametrize("wider", [0, 3])
def test_vector_cosine_equals_brute_force(wider: int) -> None:
    rng = np.random.default_rng(wider)
    student, teacher = rng.normal(size=(5, 4)), rng.normal(size=(5, 4 + wider))
    terms = [1 - s @ t[:4] / np.linalg.norm(s) / np.linalg.norm(t[:4]) for s, t in zip(student, teacher, strict=True)]
    given = torch.tensor(student), torch.tensor(teacher)
    assert float(vector_cosine(*given)) == pytest.approx(np.mean(terms), rel=1e-9)
    shares = [float(vector_cosine(*given, rows=torch.tensor(r))) for r in ([4, 0], [1, 2, 3])]
    assert shares[0] == pytest.approx((terms[0] + terms[4]) / 5, rel=1e-9)
    assert sum(shares) == pytest.approx(np.mean(terms), rel=1e-9)
    assert float(vector_cosine(*given, rows=torch.zeros(0, dtype=torch.int64))) == 0.0


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="have 3 values, the student's 4: cut the student to 3, or use similarity_kl"):
        vector_cosine(torch.ones(2, 4), torch.ones(2, 3))
    with pytest.raises(ValueError, match="2 vectors of the student, 3 of the teacher"):
        vector_cosine(torch.ones(2, 4), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"\(2, 3\) of the student, \(2, 4\) of the teacher; expected the same"):
        similarity_kl(torch.ones(2, 4), torch.ones(3, 4), torch.ones(2, 5), torch.ones(4, 5))
    with pytest.raises(ValueError, match="expected one width"):
        similarity_kl(torch.ones(2, 4), torch.ones(3, 4), torch.ones(2, 5), torch.ones(3, 6))
    for name in ("temperature", "teacher_temperature"):
        with pytest.raises(ValueError, match="temperature is 0"):
            similarity_kl(torch.ones(2, 4), torch.ones(3, 4), torch.ones(2, 5), torch.ones(3, 5), **{name: 0})
