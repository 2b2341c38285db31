"""Rotary frequencies that follow the length of the input: settled on loading, equal to stock, seen by the probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.tiny import WIDTH, sequences, stock_states, tiny_config, tiny_model
from transformers import AutoModel, PreTrainedModel

from diffembed.errors import ModelError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import packed_states, probe_direction, set_causal
from diffembed.models.checkpoint import ModelConfig, save_model
from diffembed.models.pretrained import load_pretrained
from diffembed.models.rotary import settle_rotary
from diffembed.text.batching import pack

SHORT, LONG = 10, 40  # tokens, on either side of the border
BORDER, LIMIT = 16, 64
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 3.0, 6.0, 9.0],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}


def _config(kind: str, rows: int) -> Any:
    if kind == "longrope":
        own = {"rope_parameters": dict(LONGROPE), "original_max_position_embeddings": BORDER}
        return tiny_config("phi3", vocab_size=rows, max_position_embeddings=LIMIT, **own)
    if kind == "dynamic":
        return tiny_config("llama", vocab_size=rows, max_position_embeddings=BORDER, rope_parameters=dict(DYNAMIC))
    parameters = {"full_attention": dict(DYNAMIC), "sliding_attention": dict(DYNAMIC)}
    return tiny_config("gemma3", vocab_size=rows, max_position_embeddings=BORDER, rope_parameters=parameters)


def _checkpoint(folder: Path, tokenizer: Any, kind: str) -> PreTrainedModel:
    model = tiny_model(_config(kind, tokenizer.get_vocab_size()))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


CASES = [  # kind, max_tokens, length of a text whose stock states must come out
    ("longrope", BORDER, SHORT),
    ("longrope", None, LONG),
    ("dynamic", None, SHORT),
    ("dynamic", LONG, LONG),
    ("nested", None, SHORT),
    ("nested", LONG, LONG),
]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "max_tokens", "length"), CASES)
def test_a_text_is_the_same_beside_any_other_and_as_stock_on_its_side_of_the_border(
    tmp_path: Path, tiny_tokenizer: Any, kind: str, max_tokens: int | None, length: int
) -> None:
    stock = _checkpoint(tmp_path / "stock", tiny_tokenizer, kind)
    model = load_pretrained(tmp_path / "stock", max_tokens=max_tokens).model
    text, *others = sequences((length, SHORT, LONG))
    alone = packed_states(model, pack([text]))
    assert _apart(alone, stock_states(stock, [text], causal=False)) < 1e-5
    for other in others:
        assert _apart(packed_states(model, pack([text, other]))[:length], alone) < 1e-5
    on_the_other_side = sequences((SHORT + LONG - length,))
    beyond = packed_states(model, pack(on_the_other_side)), stock_states(stock, on_the_other_side, causal=False)
    assert _apart(*beyond) > 0.01, "stock changes its frequencies there"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_what_is_saved_stays_settled_in_stock_transformers(tmp_path: Path, tiny_tokenizer: Any, kind: str) -> None:
    _checkpoint(tmp_path / "stock", tiny_tokenizer, kind)
    loaded = load_pretrained(tmp_path / "stock", max_tokens=LONG)
    config = ModelConfig("tiny", (WIDTH,), LONG, 1, 0, 2)
    save_model(tmp_path / "ours", loaded.model, tiny_tokenizer, config)
    both = sequences((SHORT, LONG))
    expected = packed_states(loaded.model, pack(both))
    stock = AutoModel.from_pretrained(tmp_path / "ours").eval()
    assert _apart(torch.cat([stock_states(stock, [text], causal=False) for text in both]), expected) < 1e-5
    again = load_pretrained(tmp_path / "ours").model
    assert _apart(packed_states(again, pack(both)), expected) < 1e-5


def test_a_phi_3_config_as_it_is_released(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """The old names of the keys, remote code that is not run, and a head of its own."""
    from safetensors.torch import load_file, save_file

    stock = _checkpoint(tmp_path, tiny_tokenizer, "longrope")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    factors = {k: LONGROPE[k] for k in ("short_factor", "long_factor")}
    config |= {"rope_theta": 100.0, "rope_scaling": {"type": "longrope", **factors}, "auto_map": {"AutoModel": "x.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    tensors = {f"model.{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors | {"lm_head.weight": torch.zeros(stock.config.vocab_size, WIDTH)}, tmp_path / "model.safetensors")
    model = load_pretrained(tmp_path).model
    assert model.config.rope_parameters["short_factor"] == LONGROPE["long_factor"]
    text = sequences((LONG,))
    with torch.no_grad():
        assert _apart(packed_states(model, pack(text)), stock_states(stock, text, causal=False)) < 1e-5


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "nested"])
def test_probe_sees_frequencies_that_follow_a_long_neighbour(kind: str) -> None:
    """Its twelve tokens are too few to show it; a neighbour at late positions is not."""
    model = tiny_model(_config(kind, 60))
    model.set_attn_implementation(PACKED)
    set_causal(model, False)
    named = "longrope" if kind == "longrope" else "dynamic"
    with pytest.raises(ModelError, match=rf"rotary frequencies of the backbone \({named}\) follow the longest text"):
        probe_direction(model)


def test_a_dynamic_type_with_keys_of_its_own_is_left_to_the_probe() -> None:
    config = tiny_config("llama", rope_parameters=DYNAMIC | {"alpha": 1000.0})
    settle_rotary(config)
    assert config.rope_parameters["rope_type"] == "dynamic"
    model = tiny_model(config)
    model.set_attn_implementation(PACKED)
    with pytest.raises(ModelError, match="follow the longest text"):
        probe_direction(model)


def test_other_types_are_left_alone() -> None:
    for kind in ("qwen3", "gemma3", "olmo2"):
        config = tiny_config(kind)
        before = json.dumps(config.to_dict(), sort_keys=True)
        settle_rotary(config)
        assert json.dumps(config.to_dict(), sort_keys=True) == before
