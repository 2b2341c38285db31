"""Alignment to the frozen parent against a loop over layers and rows."""

from __future__ import annotations

import pytest
import torch

from diffembed.objectives.alignment import layer_alignment


def test_alignment_equals_the_loop_and_its_gradient_the_numerical_one() -> None:
    generator = torch.Generator().manual_seed(0)
    student = [torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    parent = [torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    rows = torch.tensor([0, 3, 4])
    total = 0.0
    for row in rows.tolist():
        for s, p in zip(student, parent, strict=True):
            a, b = s[row].detach(), p[row].detach()
            total += (1.0 - float(a @ b / (a.norm() * b.norm()))) / 4
    loss = layer_alignment(student, parent, rows)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in parent), "the parent is frozen"
    step = torch.zeros(5, 3, dtype=torch.float64)
    step[3, 1] = 1e-3
    others = [s.detach() for s in student[1:]]
    ends = [float(layer_alignment([student[0].detach() + x * step, *others], parent, rows)) for x in (1, -1)]
    assert student[0].grad is not None
    assert float(student[0].grad[3, 1]) == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-2)
    assert float(student[0].grad[1].abs().sum()) == 0.0, "rows that are not compared feel nothing"


def test_layers_must_match() -> None:
    with pytest.raises(ValueError, match="2 layers against 1"):
        layer_alignment([torch.ones(1, 2)] * 2, [torch.ones(1, 2)], torch.tensor([0]))
