"""LoRA adapters in peft's layout on Dream, LLaDA, Qwen2 and Llama, against peft's own model with an open mask."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.released_files import adapter_of, base_model
from tests.models.tiny import stock_states

from diffembed.encoder import Encoder
from diffembed.errors import ModelError
from diffembed.models.foreign import fingerprint, read_config
from diffembed.text.batching import TokenizedSequence

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings(  # what peft's own model asks of transformers, and says of biases on saving
    "ignore:`is_gradient_checkpointing`", "ignore:Adapter 'default'"
)
QUERY = "Given a question, find the theorem: "


def reference(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray[Any, Any]:
    """Unit means of all tokens, padded, through peft's unmerged layers under a mask written out."""
    ids = [tokenizer.encode(text).ids for text in texts]
    with torch.no_grad():
        states = stock_states(
            model.get_base_model(), [TokenizedSequence(tuple(i), ((0, len(i)),)) for i in ids], causal=False
        )
    means = torch.stack([part.mean(0) for part in states.split([len(i) for i in ids])])
    return torch.nn.functional.normalize(means, dim=-1).numpy()


@pytest.mark.parametrize("kind", ["dream", "llada", "qwen2", "llama"])
def test_same_as_peft(kind: str, tmp_path: Path, tiny_tokenizer: Any, corpus: list[str]) -> None:
    stock = base_model(tmp_path / "base", kind, tiny_tokenizer)
    model = adapter_of(tmp_path / "adapter", tmp_path / "base", stock, kind)
    prompts = {"prompts": {"query": QUERY, "document": ""}}
    (tmp_path / "adapter" / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    encoder = Encoder.load(tmp_path / "adapter")
    texts = [text for text in corpus if len(tiny_tokenizer.encode(QUERY + text)) <= encoder.max_tokens]
    assert len(texts) > 3
    found = encoder.encode_documents(texts).values
    assert np.abs(found - reference(model, tiny_tokenizer, texts)).max() < 1e-5
    asked = encoder.encode_queries(texts).values
    assert np.abs(asked - reference(model, tiny_tokenizer, [QUERY + text for text in texts])).max() < 1e-5
    with model.disable_adapter():
        assert np.abs(found - reference(model, tiny_tokenizer, texts)).max() > 0.05  # it does something
    assert (encoder.config.normalize, encoder.config.quantizer, encoder.config.contextual) == (True, "none", False)
    assert encoder.config.shift is (kind != "llada")
    assert encoder.runtime.name == "torch" and encoder.config.query_prompt == QUERY


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llada", {"use_rslora": True}),
        ("qwen2", {"use_dora": True}),
        ("qwen2", {"lora_bias": True, "target_modules": ["q_proj", "k_proj", "v_proj"]}),  # which have biases
        ("llada", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32, "q_proj": 3}}),
        ("qwen2", {"rank_pattern": {"layers.1.mlp.up_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
    ],
    ids=["rslora", "dora", "bias", "patterns under other names", "patterns"],
)
def test_forms_of_lora(
    kind: str, options: dict[str, Any], tmp_path: Path, tiny_tokenizer: Any, corpus: list[str]
) -> None:
    stock = base_model(tmp_path / "base", kind, tiny_tokenizer)
    model = adapter_of(tmp_path / "adapter", tmp_path / "base", stock, kind, **options)
    texts = corpus[:3]
    found = Encoder.load(tmp_path / "adapter").encode_documents(texts).values
    assert np.abs(found - reference(model, tiny_tokenizer, texts)).max() < 1e-5


def test_weights_that_fp16_cannot_hold(tmp_path: Path, tiny_tokenizer: Any) -> None:
    stock = base_model(tmp_path / "base", "qwen2", tiny_tokenizer)
    adapter_of(tmp_path / "adapter", tmp_path / "base", stock, "qwen2")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({n: t * 1e3 for n, t in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="cannot be merged in torch.float16: .*load it in 'fp32' or 'bf16'"):
        Encoder.load(tmp_path / "adapter", precision="fp16")
    assert len(Encoder.load(tmp_path / "adapter").encode_documents(["a text"])) == 1


def test_base_beside_the_adapter_and_its_tokenizer(tmp_path: Path, tiny_tokenizer: Any, corpus: list[str]) -> None:
    """A relative base, a tokenizer of the adapter's own, and the length that the DiffEmbed wrapper notes."""
    (tmp_path / "adapter").mkdir()
    stock = base_model(tmp_path / "adapter" / "base", "qwen2", tiny_tokenizer)
    adapter_of(tmp_path / "adapter", Path("base"), stock, "qwen2")
    (tmp_path / "adapter" / "llm2vec_config.json").write_text(
        json.dumps({"pooling_mode": "mean", "max_length": 48, "skip_instruction": False})
    )
    encoder = Encoder.load(tmp_path / "adapter")
    assert (encoder.max_tokens, encoder.config.prefix_ids) == (48, ())
    first = encoder.fingerprint
    weights = tmp_path / "adapter" / "base" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert fingerprint(tmp_path / "adapter", encoder.config) != first
    from tokenizers import Tokenizer, processors

    own = Tokenizer.from_str(tiny_tokenizer.to_str())
    own.post_processor = processors.TemplateProcessing(single="[mask] $A", special_tokens=[("[mask]", 1)])
    own.save(str(tmp_path / "adapter" / "tokenizer.json"))
    assert read_config(tmp_path / "adapter").prefix_ids == (1,)


def _rename(folder: Path, old: str, new: str) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"peft_type": "IA3"}, "adapter of type 'IA3'"),
        ({"modules_to_save": ["embed_tokens"]}, "sets modules_to_save, which is not supported"),
        ({"bias": "all"}, "sets bias"),
        ({"megatron_config": {"a": 1}}, "sets megatron_config"),
        ({"some_future_option": True}, "sets some_future_option"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights to 'pissa_niter_4', which changes the base"),
        ({"init_lora_weights": "OLoRA"}, "merge the adapter with peft and save the model"),
        ({"base_model_name_or_path": ""}, "names the base model ''"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "names the base model '/nowhere/at/all', which is no model"),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "a pickle, which is never read"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), r"adapter_model\.safetensors is missing"),
        (lambda f: _rename(f, "lora_A.weight", "weight"), "which is no LoRA tensor"),
        (lambda f: _rename(f, "layers.1.", "layers.7."), r"adapts model\.layers\.7\..*does not have; another base"),
        (lambda f: _rename(f, "self_attn.q_proj.lora_A", "self_attn.k_proj.lora_magnitude_vector"), "LoRA tensor"),
        (lambda f: (f / "llm2vec_config.json").write_text('{"skip_instruction": true}'), "the instruction's included"),
    ],
)
def test_adapters_that_are_refused(damage: Any, message: str, tmp_path: Path, tiny_tokenizer: Any) -> None:
    stock = base_model(tmp_path / "base", "qwen2", tiny_tokenizer)
    folder = tmp_path / "adapter"
    adapter_of(folder, tmp_path / "base", stock, "qwen2")
    if isinstance(damage, dict):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    else:
        damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        Encoder.load(folder)
    assert "\n" not in str(caught.value)


def test_adapter_of_another_shape_or_on_an_adapter(tmp_path: Path, tiny_tokenizer: Any) -> None:
    stock = base_model(tmp_path / "base", "qwen2", tiny_tokenizer)
    folder = tmp_path / "adapter"
    adapter_of(folder, tmp_path / "base", stock, "qwen2")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({n: t[:, :-1].contiguous() if "q_proj.lora_A" in n else t for n, t in tensors.items()}, file)
    with pytest.raises(ModelError, match=r"does not fit .*q_proj\.lora_A"):
        Encoder.load(folder)
    save_file({n: t for n, t in tensors.items() if "layers.0.mlp.up_proj.lora_B" not in n}, file)
    with pytest.raises(ModelError, match=r"does not fit .*layers\.0\.mlp\.up_proj\.lora_B"):
        Encoder.load(folder)
    shutil.copyfile(folder / "adapter_config.json", tmp_path / "base" / "adapter_config.json")
    with pytest.raises(ModelError, match="is an adapter itself"):
        Encoder.load(folder)


def test_base_on_the_hub_is_not_fetched_for_a_listing(tmp_path: Path, tiny_tokenizer: Any) -> None:
    stock = base_model(tmp_path / "base", "qwen2", tiny_tokenizer)
    adapter_of(tmp_path / "adapter", Path("nobody/no-such-model"), stock, "qwen2")
    with pytest.raises(ModelError, match="no model directory here yet"):
        read_config(tmp_path / "adapter", download=False)
    with pytest.raises(ModelError, match="neither a directory nor a model that the hub gives"):  # tests are offline
        read_config(tmp_path / "adapter")
