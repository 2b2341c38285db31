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
from tests.models.released_files import LLADA, ROWS, SIZES, llada, pplx, write_checkpoint
from tests.models.tiny import WIDTH, sequences, stock_states, tiny_model
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from diffembed.errors import ModelError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import packed_states
from diffembed.models.checkpoint import ModelConfig, load_backbone, load_head, save_model
from diffembed.models.pretrained import LoadedBackbone, load_pretrained
from diffembed.models.released import layout_of
from diffembed.text.batching import pack


def _same_states(loaded: LoadedBackbone, stock: PreTrainedModel) -> None:
    batch = sequences()
    expected = stock_states(stock, batch, causal=False)
    torch.testing.assert_close(packed_states(loaded.model, pack(batch)), expected, atol=1e-5, rtol=1e-5)
    assert loaded.model.config.is_causal is False and loaded.model.config._attn_implementation == PACKED


@pytest.mark.parametrize("kind", ["dense", "contextual", "sharded"])
def test_pplx(tmp_path: Path, tiny_tokenizer: Any, kind: str) -> None:
    config, stock = pplx()
    if kind == "contextual":
        config["architectures"] = ["PPLXQwen3ContextualModel"]
    write_checkpoint(tmp_path, tiny_tokenizer, config, stock.state_dict(), shards=3 if kind == "sharded" else 1)
    loaded = load_pretrained(tmp_path, mask_token="[mask]")
    _same_states(loaded, stock)
    assert loaded.layout == ("pplx-contextual" if kind == "contextual" else "pplx")
    assert (loaded.head, loaded.shift, loaded.mask_token_id, loaded.eot_token_id) == (None, True, 1, 2)
    assert load_pretrained(tmp_path).mask_token_id == 1  # the rare token that the vocabulary keeps for it


def test_dream(tmp_path: Path, tiny_tokenizer: Any) -> None:
    shape = SIZES | {"tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 4096}
    stock = tiny_model(Qwen2Config(**shape))
    head = torch.randn(ROWS, WIDTH)
    tensors = {f"model.{n}": t for n, t in stock.state_dict().items()} | {"lm_head.weight": head}
    config = shape | {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 7, "use_mrope": False}
    loaded = load_pretrained(write_checkpoint(tmp_path, tiny_tokenizer, config, tensors, shards=2))
    _same_states(loaded, stock)
    assert loaded.head is not None and torch.equal(loaded.head, head)
    assert (loaded.layout, loaded.shift, loaded.mask_token_id) == ("dream", True, 7)
    assert loaded.model.config.model_type == "qwen2"


def test_dream_vocabulary_without_tokenizer_json(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """Dream ships vocab.json and merges.txt, a tokenizer in Python, and its added tokens in tokenizer_config.json."""
    from transformers import Qwen2Tokenizer

    shape = SIZES | {"tie_word_embeddings": False}
    stock = tiny_model(Qwen2Config(**shape))
    tensors = {f"model.{n}": t for n, t in stock.state_dict().items()} | {"lm_head.weight": torch.randn(ROWS, WIDTH)}
    config = shape | {"model_type": "Dream", "mask_token_id": ROWS - 1, "eos_token_id": 400, "pad_token_id": 400}
    write_checkpoint(tmp_path, None, config, tensors)
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


@pytest.mark.parametrize("shards", [1, 2])
def test_llada(tmp_path: Path, tiny_tokenizer: Any, shards: int) -> None:
    stock, tensors = llada()
    loaded = load_pretrained(write_checkpoint(tmp_path, tiny_tokenizer, LLADA, tensors, shards))
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
    write_checkpoint(tmp_path, tiny_tokenizer, LLADA | change, llada()[1])
    with pytest.raises(ModelError, match=message):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"is_causal": True}, {"use_mrope": True}, {"use_sliding_window": True}])
def test_other_variants_of_dream_are_refused(change: dict[str, Any]) -> None:
    assert layout_of({"model_type": "Dream", "is_causal": False}, "here").model_type == "qwen2"
    with pytest.raises(ModelError, match=f"here has {next(iter(change))} = True, the Dream layout"):
        layout_of({"model_type": "Dream"} | change, "here")


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_dllm_a2d(tmp_path: Path, tiny_tokenizer: Any, kind: str) -> None:
    from tokenizers import Tokenizer

    shape = SIZES | {"tie_word_embeddings": True}
    stock = tiny_model({"qwen3": Qwen3Config, "qwen2": Qwen2Config, "llama": LlamaConfig}[kind](**shape))
    tokenizer = Tokenizer.from_str(tiny_tokenizer.to_str().replace("[mask]", "[rare]"))
    tokenizer.add_special_tokens(["<|mask|>"])  # within the padded table, as dllm does it
    tensors = {f"model.{n}": t for n, t in stock.state_dict().items()}
    loaded = load_pretrained(write_checkpoint(tmp_path, tokenizer, shape | {"model_type": f"a2d-{kind}"}, tensors))
    _same_states(loaded, stock)
    assert (loaded.layout, loaded.shift, loaded.head) == ("a2d", False, None)
    assert loaded.mask_token_id == tokenizer.token_to_id("<|mask|>") == tokenizer.get_vocab_size() - 1


def test_text_half_of_gemma_3(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from transformers import Gemma3TextConfig

    text = {k: v for k, v in SIZES.items() if k not in ("rope_theta", "bos_token_id")} | {
        "head_dim": 16, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    stock = tiny_model(Gemma3TextConfig(**text))
    tensors = {f"language_model.model.{n}": t for n, t in stock.state_dict().items()}
    tensors["vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(3, 3)
    config = {"model_type": "gemma3", "text_config": text | {"model_type": "gemma3_text"}, "vision_config": {}}
    loaded = load_pretrained(write_checkpoint(tmp_path, tiny_tokenizer, config, tensors))
    _same_states(loaded, stock)
    assert loaded.model.config.model_type == "gemma3_text"


def test_causal_checkpoint_with_an_untied_head_comes_back_from_a_model_directory(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    causal: Any = LlamaForCausalLM(LlamaConfig(**SIZES))
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
    config, stock = pplx()
    tensors = dict(stock.state_dict())
    folder = write_checkpoint(tmp_path / "a", tiny_tokenizer, config, tensors, shards=2)
    second = folder / "model-00002-of-00002.safetensors"
    data = second.read_bytes()
    for damage, message in ((data[:-5], "truncated or damaged"), (None, "is missing")):
        second.unlink()
        if damage is not None:
            second.write_bytes(damage)
        with pytest.raises(ModelError, match=f"{second.name} .*{message}"):
            load_pretrained(folder)
    lacking = {n: t for n, t in tensors.items() if n != "layers.1.mlp.up_proj.weight"}
    write_checkpoint(tmp_path / "b", tiny_tokenizer, config, lacking)
    with pytest.raises(ModelError, match=r"lacks 1 tensors, first layers\.1\.mlp\.up_proj\.weight"):
        load_pretrained(tmp_path / "b")
    write_checkpoint(
        tmp_path / "c", tiny_tokenizer, config, tensors | {"layers.0.self_attn.q_proj.bias": torch.zeros(64)}
    )
    with pytest.raises(ModelError, match=r"no place for, first layers\.0\.self_attn\.q_proj\.bias"):
        load_pretrained(tmp_path / "c")
    write_checkpoint(tmp_path / "d", tiny_tokenizer, config | {"tie_word_embeddings": False}, tensors)
    with pytest.raises(ModelError, match=r"has no output matrix lm_head\.weight"):
        load_pretrained(tmp_path / "d")
    (tmp_path / "d" / "model.safetensors").rename(tmp_path / "d" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle and is never read"):
        load_pretrained(tmp_path / "d")
    with pytest.raises(ModelError, match="does not exist; give a directory or a hub id"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="neither a directory nor a model that the hub gives"):  # tests are offline
        load_pretrained("nobody/no-such-model")
