"""What computes: the attention that trains is the one that was probed, in the number type that trains."""

from __future__ import annotations

import pytest
import torch
from tests.training.tiny import tiny_embedder, tiny_machine
from torch import Tensor

from diffembed.errors import ModelError
from diffembed.models import attention
from diffembed.models.backbone import probe_direction, require_bidirectional, set_causal
from diffembed.training.configs import RunConfig
from diffembed.training.machine import Machine, probe_as_trained, settle_machine


def half_machine() -> Machine:
    return settle_machine(RunConfig("tiny", "out", ".", threads=1, precision="bfloat16"))


def test_a_sound_backbone_passes_in_both_number_types() -> None:
    model = tiny_embedder().backbone
    for machine in (tiny_machine(), half_machine()):
        for causal in (True, False):
            set_causal(model, causal)
            probe_as_trained(model, machine, causal=causal)
            with pytest.raises(ModelError, match="causal"):
                probe_as_trained(model, machine, causal=not causal)
    assert not model._forward_hooks, "the probe leaves nothing behind"


def test_the_bound_is_that_of_the_number_type() -> None:
    """Under autocast states are float32, but exact to bfloat16 only: a layer that rounds by shape is no fault."""
    model = tiny_embedder().backbone
    set_causal(model, False)
    layer = model.get_submodule("layers.1.mlp")

    def shaken(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shake = 2e-2 if output.shape[1] > 12 and torch.is_autocast_enabled("cpu") else 0.0
        return output * (1.0 + shake)

    layer.register_forward_hook(shaken)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(30.0)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ModelError, match="than alone"):
        require_bidirectional(model)
    probe_as_trained(model, half_machine(), causal=False)


@pytest.mark.parametrize("fault", ["causal", "leaking"])
def test_a_kernel_of_bfloat16_alone_that_is_at_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = attention._matmul_attention

    def faulty(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        if fault == "leaking":  # a sequence of 12 tokens reads more where another one stands beside it
            return sound(query, key, value, mask, scale) * (1.0 + 9.0 * (query.shape[0] > 1))
        seen = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
        return sound(query, key, value, seen if mask is None else mask & seen, scale)

    monkeypatch.setattr(attention, "_matmul_attention", faulty)
    model = tiny_embedder().backbone
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10.0)
    set_causal(model, False)
    require_bidirectional(model)
    assert probe_direction(model), "float32 runs on another kernel"
    probe_as_trained(model, tiny_machine(), causal=False)
    with pytest.raises(ModelError, match="is causal on attention" if fault == "causal" else "than alone"):
        probe_as_trained(model, half_machine(), causal=False)
