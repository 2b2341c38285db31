"""Released checkpoints and adapters written tiny, tensor by tensor under the release's names, and the stock model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.models.tiny import WIDTH, tiny_model
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

ROWS = 420
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
REMOTE = {"AutoConfig": "configuration.C", "AutoModel": "modeling.M"}
SIZES: dict[str, Any] = {
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


def write_checkpoint(
    folder: Path, tokenizer: Any, config: dict[str, Any], tensors: dict[str, Tensor], shards: int = 1
) -> Path:
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


def pplx() -> tuple[dict[str, Any], PreTrainedModel]:
    """head_dim 16 of 4 heads is wider than the hidden size, as in the 4B model."""
    shape = SIZES | {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": False}
    config = shape | {
        "model_type": "bidirectional_pplx_qwen3",
        "architectures": ["PPLXQwen3Model"],
        "use_bidirectional_attention": True,
        "transformers_version": "4.57.0",
        "torch_dtype": "float32",
    }
    return config, tiny_model(Qwen3Config(**shape))


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


def llada() -> tuple[PreTrainedModel, dict[str, Tensor]]:
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


def base_model(folder: Path, kind: str, tokenizer: Any) -> Any:
    """A base checkpoint in its released layout, and the stock model that holds the same numbers."""
    if kind == "llada":
        stock, tensors = llada()
        write_checkpoint(folder, tokenizer, LLADA, tensors)
        return stock
    shape = SIZES | {"tie_word_embeddings": False}
    stock = tiny_model((LlamaConfig if kind == "llama" else Qwen2Config)(**shape))
    tensors = {f"model.{n}": t for n, t in stock.state_dict().items()} | {"lm_head.weight": torch.randn(420, 32)}
    named = {"model_type": "Dream", "mask_token_id": 7} if kind == "dream" else {"model_type": kind}
    write_checkpoint(folder, tokenizer, shape | named, tensors, shards=2 if kind == "dream" else 1)
    return stock


def adapter_of(folder: Path, base: Path, stock: Any, kind: str, **options: Any) -> Any:
    """An adapter of random numbers, saved by peft under the names of the release; returns peft's model."""
    import peft

    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "target_modules": TARGETS} | options
    torch.manual_seed(3)
    model = peft.get_peft_model(stock, peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.2) if parameter.dim() > 1 else parameter.uniform_(0.8, 1.2)
    model.eval()
    model.save_pretrained(folder)
    about = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    prefix = "base_model.model.model."
    if kind == "llada":
        about["target_modules"] = sorted({LLADA_NAMES[f"{_part(t)}.{t}"] for t in TARGETS})
        for pattern in ("rank_pattern", "alpha_pattern"):
            about[pattern] = {LLADA_NAMES[f"{_part(t)}.{t}"]: value for t, value in about[pattern].items()}
        for ours, theirs in LLADA_NAMES.items():
            tensors = {n.replace(f".{ours}.", f".{theirs}."): t for n, t in tensors.items()}
        tensors = {n.replace("model.layers.", "model.transformer.blocks."): t for n, t in tensors.items()}
    tensors = {n.replace("base_model.model.", prefix): t for n, t in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    auto = {"base_model_class": "DreamModel", "parent_library": "transformers_modules.modeling"}
    about |= {"base_model_name_or_path": str(base), "auto_mapping": auto, "task_type": "FEATURE_EXTRACTION"}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return model


def _part(target: str) -> str:
    return "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
