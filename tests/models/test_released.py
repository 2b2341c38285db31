"""Released checkpoints: each layout written tiny, read without remote code, compared with stock classes.

The reference is always a stock class that holds the same numbers, run eagerly under an explicit full mask; the files
are written tensor by tensor under the names of the release.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.tiny import WIDTH, sequences, stock_states, tiny_model
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from diffembed.errors import ModelError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import packed_states
from diffembed.models.checkpoint import ModelConfig, load_backbone, load_head, save_model
from diffembed.models.pretrained import LoadedBackbone, load_pretrained
from diffembed.text.batching import pack

ROWS = 420
REMOTE = {"AutoConfig": "configuration.C", "AutoModel": "modeling.M"}
_SIZES: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.2,
    "rope_theta": 1e6,
    "pad_token_id": 2,
    "eos_token_id": 2,
    "bos_token_id": 2,
}


def _write(folder: Path, tokenizer: Any, config: dict[str, Any], tensors: dict[str, Tensor], shards: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": REMOTE}))
    (folder / "modeling.py").write_text("raise SystemExit('remote code ran')")
    (folder / "configuration.py").write_text("raise SystemExit('remote code ran')")
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    names = sorted(tensors)
    if shards == 1:
        save_file({n: tensors[n].contiguous() for n in names}, folder / "model.safetensors", {"format": "pt"})
        return folder
    index: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({n: tensors[n].contiguous() for n in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _same_states(loaded: LoadedBackbone, stock: PreTrainedModel) -> None:
    batch = sequences()
    expected = stock_states(stock, batch, causal=False)
    torch.testing.assert_close(packed_states(loaded.model, pack(batch)), expected, atol=1e-5, rtol=1e-5)
    assert loaded.model.config.is_causal is False and loaded.model.config._attn_implementation == PACKED


def _pplx() -> tuple[dict[str, Any], PreTrainedModel]:
    """head_dim 16 of 4 heads is wider than the hidden size, as in the 4B model."""
    shape = _SIZES | {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": False}
    config = shape | {
        "model_type": "bidirectional_pplx_qwen3",
        "architectures": ["PPLXQwen3Model"],
        "use_bidirectional_attention": True,
        "transformers_version": "4.57.0",
        "torch_dtype": "float32",
    }
    return config, tiny_model(Qwen3Config(**shape))


@pytest.mark.parametrize("kind", ["dense", "contextual", "sharded"])
def test_pplx(tmp_path: Path, tiny_tokenizer: Any, kind: str) -> None:
    config, stock = _pplx()
    if kind == "contextual":
        config["architectures"] = ["PPLXQwen3ContextualModel"]
    _write(tmp_path, tiny_tokenizer, config, stock.state_dict(), shards=3 if kind == "sharded" else 1)
    loaded = load_pretrained(tmp_path, mask_token="[mask]")
    _same_states(loaded, stock)
    assert loaded.layout == ("pplx-contextual" if kind == "contextual" else "pplx")
    assert (loaded.head, loaded.shift, loaded.mask_token_id, loaded.eot_token_id) == (None, True, 1, 2)
    assert load_pretrained(tmp_path).mask_token_id == 1  # the rare token that the vocabulary keeps for it


def test_dream(tmp_path: Path, tiny_tokenizer: Any) -> None:
    shape = _SIZES | {"tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 4096}
    stock = tiny_model(Qwen2Config(**shape))
    head = torch.randn(ROWS, WIDTH)
    tensors = {f"model.{n}": t for n, t in stock.state_dict().items()} | {"lm_head.weight": head}
    config = shape | {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 7, "use_mrope": False}
    loaded = load_pretrained(_write(tmp_path, tiny_tokenizer, config, tensors, shards=2))
    _same_states(loaded, stock)
    assert loaded.head is not None and torch.equal(loaded.head, head)
    assert (loaded.layout, loaded.shift, loaded.mask_token_id) == ("dream", True, 7)
    assert loaded.model.config.model_type == "qwen2"


def test_dream_vocabulary_without_tokenizer_json(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """Dream ships vocab.json and merges.txt, a tokenizer in Python, and its added tokens in tokenizer_config.json."""
    from transformers import Qwen2Tokenizer

    shape = _SIZES | {"tie_word_embeddings": False}
    stock = tiny_model(Qwen2Config(**shape))
    tensors = {f"model.{n}": t for n, t in stock.state_dict().items()} | {"lm_head.weight": torch.randn(ROWS, WIDTH)}
    config = shape | {"model_type": "Dream", "mask_token_id": ROWS - 1, "eos_token_id": 400, "pad_token_id": 400}
    _write(tmp_path, None, config, tensors)
    model = json.loads(tiny_tokenizer.to_str())["model"]
    vocabulary = {t: i for t, i in model["vocab"].items() if i > 2} | {f"<{i}>": i for i in range(3)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]))
    first = len(vocabulary)
    added = {
        str(first + i): {"content": t, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
                         "single_word": False}
        for i, t in enumerate(("<|endoftext|>", "<|mask|>"))
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "DreamTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
                "added_tokens_decoder": added,
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "mask_token": "<|mask|>",
            }
        )
    )
    loaded = load_pretrained(tmp_path, mask_token="<|mask|>")
    assert (loaded.mask_token_id, loaded.eot_token_id) == (first + 1, first)
    reference = Qwen2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    text = "Diffusion language models mask tokens,  und der Hund 机器学习"
    assert loaded.tokenizer.encode(text).ids == reference(text)["input_ids"]
    assert not {first, first + 1} & set(loaded.tokenizer.encode("a <|mask|> b <|endoftext|>").ids)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ModelError, match="neither tokenizer.json nor merges.txt"):
        load_pretrained(tmp_path)


LLADA: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "d_model": WIDTH,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "vocab_size": ROWS - 20,
    "embedding_size": ROWS,
    "max_sequence_length": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope": True,
    "rope_full_precision": True,
    "alibi": False,
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "attention_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "multi_query_attention": None,
    "weight_tying": False,
    "mask_token_id": 300,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LLADA_NAMES = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
}


def _llada() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    stock = tiny_model(
        LlamaConfig(
            vocab_size=ROWS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
            intermediate_size=48, max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.2,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        )
    )  # fmt: skip
    state, tensors = stock.state_dict(), {}
    tensors["model.transformer.wte.weight"] = state["embed_tokens.weight"]
    tensors["model.transformer.ln_f.weight"] = state["norm.weight"]
    for layer in range(2):
        for ours, theirs in LLADA_NAMES.items():
            tensors[f"model.transformer.blocks.{layer}.{theirs}.weight"] = state[f"layers.{layer}.{ours}.weight"]
    tensors["model.transformer.ff_out.weight"] = torch.randn(ROWS, WIDTH)
    return stock, tensors


@pytest.mark.parametrize("shards", [1, 2])
def test_llada(tmp_path: Path, tiny_tokenizer: Any, shards: int) -> None:
    stock, tensors = _llada()
    loaded = load_pretrained(_write(tmp_path, tiny_tokenizer, LLADA, tensors, shards))
    _same_states(loaded, stock)
    assert loaded.head is not None and torch.equal(loaded.head, tensors["model.transformer.ff_out.weight"])
    assert (loaded.layout, loaded.shift, loaded.mask_token_id, loaded.eot_token_id) == ("llada", False, 300, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_type": "sequential"}, "block_type = 'sequential'"),
        ({"activation_type": "swiglu"}, "activation_type = 'swiglu'"),
        ({"attention_layer_norm": True}, "attention_layer_norm = True"),
        ({"mask_token_id": ROWS}, f"mask token {ROWS} lies outside its embedding table of {ROWS} rows"),
    ],
)
def test_other_variants_of_llada_are_refused(
    tmp_path: Path, tiny_tokenizer: Any, change: dict[str, Any], message: str
) -> None:
    _write(tmp_path, tiny_tokenizer, LLADA | change, _llada()[1])
    with pytest.raises(ModelError, match=message):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_dllm_a2d(tmp_path: Path, tiny_tokenizer: Any, kind: str) -> None:
    from tokenizers import Tokenizer

    shape = _SIZES | {"tie_word_embeddings": True}
    stock = tiny_model({"qwen3": Qwen3Config, "qwen2": Qwen2Config, "llama": LlamaConfig}[kind](**shape))
    tokenizer = Tokenizer.from_str(tiny_tokenizer.to_str().replace("[mask]", "[rare]"))
    tokenizer.add_special_tokens(["<|mask|>"])  # within the padded table, as dllm does it
    tensors = {f"model.{n}": t for n, t in stock.state_dict().items()}
    loaded = load_pretrained(_write(tmp_path, tokenizer, shape | {"model_type": f"a2d-{kind}"}, tensors))
    _same_states(loaded, stock)
    assert (loaded.layout, loaded.shift, loaded.head) == ("a2d", False, None)
    assert loaded.mask_token_id == tokenizer.token_to_id("<|mask|>") == tokenizer.get_vocab_size() - 1


def test_text_half_of_gemma_3(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from transformers import Gemma3TextConfig

    text = {k: v for k, v in _SIZES.items() if k not in ("rope_theta", "bos_token_id")} | {
        "head_dim": 16, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    stock = tiny_model(Gemma3TextConfig(**text))
    tensors = {f"language_model.model.{n}": t for n, t in stock.state_dict().items()}
    tensors["vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(3, 3)
    config = {"model_type": "gemma3", "text_config": text | {"model_type": "gemma3_text"}, "vision_config": {}}
    loaded = load_pretrained(_write(tmp_path, tiny_tokenizer, config, tensors))
    _same_states(loaded, stock)
    assert loaded.model.config.model_type == "gemma3_text"


def test_causal_checkpoint_with_an_untied_head_comes_back_from_a_model_directory(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    causal: Any = LlamaForCausalLM(LlamaConfig(**_SIZES))
    causal.save_pretrained(tmp_path / "source")
    tiny_tokenizer.save(str(tmp_path / "source" / "tokenizer.json"))
    loaded = load_pretrained(tmp_path / "source")
    _same_states(loaded, causal.model)
    assert loaded.layout == "llama" and loaded.shift
    assert loaded.head is not None and torch.equal(loaded.head, causal.lm_head.weight)
    config = ModelConfig("tiny", (WIDTH,), 64, loaded.mask_token_id, loaded.pad_token_id, loaded.eot_token_id)
    save_model(tmp_path / "ours", loaded.model, loaded.tokenizer, config, head=loaded.head)
    again = load_pretrained(tmp_path / "ours")
    _same_states(again, causal.model)
    assert again.head is not None and torch.equal(again.head, loaded.head)
    assert (again.mask_token_id, again.layout) == (loaded.mask_token_id, "diffembed")
    save_model(tmp_path / "ours", loaded.model, loaded.tokenizer, config)
    assert load_head(tmp_path / "ours") is None
    with pytest.raises(ModelError, match=r"ours has no head\.safetensors, .* it can embed, but not predict tokens"):
        load_pretrained(tmp_path / "ours")
    embeds = load_backbone(tmp_path / "ours", attn_implementation=PACKED)
    _same_states(dataclasses.replace(again, model=embeds), causal.model)


def test_damage_is_named(tmp_path: Path, tiny_tokenizer: Any) -> None:
    config, stock = _pplx()
    tensors = dict(stock.state_dict())
    folder = _write(tmp_path / "a", tiny_tokenizer, config, tensors, shards=2)
    second = folder / "model-00002-of-00002.safetensors"
    data = second.read_bytes()
    for damage, message in ((data[:-5], "truncated or damaged"), (None, "is missing")):
        second.unlink()
        if damage is not None:
            second.write_bytes(damage)
        with pytest.raises(ModelError, match=f"{second.name} .*{message}"):
            load_pretrained(folder)
    lacking = {n: t for n, t in tensors.items() if n != "layers.1.mlp.up_proj.weight"}
    _write(tmp_path / "b", tiny_tokenizer, config, lacking)
    with pytest.raises(ModelError, match=r"lacks 1 tensors, first layers\.1\.mlp\.up_proj\.weight"):
        load_pretrained(tmp_path / "b")
    _write(tmp_path / "c", tiny_tokenizer, config, tensors | {"layers.0.self_attn.q_proj.bias": torch.zeros(64)})
    with pytest.raises(ModelError, match=r"no place for, first layers\.0\.self_attn\.q_proj\.bias"):
        load_pretrained(tmp_path / "c")
    _write(tmp_path / "d", tiny_tokenizer, config | {"tie_word_embeddings": False}, tensors)
    with pytest.raises(ModelError, match=r"has no output matrix lm_head\.weight"):
        load_pretrained(tmp_path / "d")
    (tmp_path / "d" / "model.safetensors").rename(tmp_path / "d" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle and is never read"):
        load_pretrained(tmp_path / "d")
    with pytest.raises(ModelError, match="does not exist; give a directory or a hub id"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="neither a directory nor a model that the hub gives"):  # tests are offline
        load_pretrained("nobody/no-such-model")
