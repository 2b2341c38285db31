"""The probe finds what a flag hides: one kernel, one form of input, one kind of layer, or a neighbour that shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.models.tiny import tiny_config, tiny_model
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from diffembed.errors import ModelError
from diffembed.models import attention
from diffembed.models.attention import PACKED
from diffembed.models.backbone import probe_direction, require_bidirectional, set_causal


def _open(name: str = "qwen3", implementation: str = "sdpa") -> PreTrainedModel:
    model = tiny_model(tiny_config(name))
    model.set_attn_implementation(implementation)
    set_causal(model, False)
    return model


@pytest.fixture
def replace() -> Iterator[Callable[[str, Any], None]]:
    """Put another function in the place of a registered attention implementation."""
    with patch.dict(ALL_ATTENTION_FUNCTIONS._global_mapping) as mapping:
        yield mapping.__setitem__


def test_kernel_that_is_causal_where_nothing_is_padded(replace: Callable[[str, Any], None]) -> None:
    """No padding, no mask; no mask, and the kernel falls back on causal: the bug of several libraries."""

    def forgetful(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(module, q, k, v, mask, **(kwargs | {"is_causal": mask is None}))

    replace("sdpa", forgetful)
    with pytest.raises(ModelError, match=r"on attention 'sdpa' .* both ways \(padded.*causal elsewhere \(alone"):
        require_bidirectional(_open(), ("eager", "sdpa", PACKED))


def test_kernel_that_ignores_the_flag_altogether(replace: Callable[[str, Any], None]) -> None:
    def causal(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(module, q, k, v, None, **(kwargs | {"is_causal": True}))

    replace("sdpa", causal)
    with pytest.raises(ModelError, match="is causal on attention 'sdpa'"):
        require_bidirectional(_open(), ("eager", "sdpa", PACKED))


def test_one_kind_of_layer_that_stays_causal(replace: Callable[[str, Any], None]) -> None:
    """The states of such a model do change with a late token: only a look inside the layers tells."""

    def half_open(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        if module.is_sliding:
            kwargs["is_causal"], mask = True, None
        return sdpa_attention_forward(module, q, k, v, mask, **kwargs)

    replace("sdpa", half_open)
    with pytest.raises(
        ModelError, match=r"\(alone, attention layer 1\) but is causal elsewhere \(alone, attention layer 0"
    ):
        probe_direction(_open("gemma3"))


def test_padding_that_is_read(replace: Callable[[str, Any], None]) -> None:
    """A mask of ones and zeros added to the scores hides nothing (the padding bug of DiffEmbed's code)."""

    def adds_ones(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(module, q, k, v, None if mask is None else mask.to(q.dtype), **kwargs)

    replace("sdpa", adds_ones)
    with pytest.raises(ModelError, match="states are others padded than alone"):
        probe_direction(_open())


def test_documents_that_leak_into_each_other() -> None:
    def one_document(cu_seqlens: Any, device: Any = "cpu") -> attention.PackingPlan:
        return attention.PackingPlan(cu_seqlens[[0, -1]], device)

    with patch("diffembed.models.backbone.plan_packing", one_document):
        with pytest.raises(ModelError, match="on attention 'diffembed_packed' a sequence's states are others batched"):
            probe_direction(_open(implementation=PACKED))


def test_implementation_that_leaves_something_out(replace: Callable[[str, Any], None]) -> None:
    def blunt(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(module, q, k, v, mask, **(kwargs | {"scaling": 0.01}))

    replace("sdpa", blunt)
    with pytest.raises(ModelError, match="attention 'sdpa' and attention 'eager' give different states"):
        require_bidirectional(_open(), ("eager", "sdpa", PACKED))


def test_arithmetic_that_packed_attention_does_not_know_is_refused() -> None:
    model = _open(implementation=PACKED)
    layers: Any = model.layers
    q = torch.zeros(1, 4, 3, 16)
    with pytest.raises(ModelError, match="does not know softcap"):
        attention.packed_attention(layers[0].self_attn, q, q, q, None, packing=None, softcap=30.0)  # type: ignore[arg-type]


def test_what_the_weights_damp_is_still_seen() -> None:
    """A lexical start shrinks what layers add to the stream; the probe looks at attention before that."""
    model = _open(implementation=PACKED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(1e-9)
    require_bidirectional(model)


def test_probe_leaves_no_trace() -> None:
    model = _open("gemma3").train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    require_bidirectional(model, ("eager", PACKED))
    assert model.training and model.config._attn_implementation == "sdpa"
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
