"""Recipes that go on from a released checkpoint: its weights, its tokenizer, its head; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import EOT, MASK, PAD, make_tokenizer
from tests.training.conftest import write_run
from transformers import LlamaConfig, LlamaForCausalLM

from diffembed.errors import RecipeError
from diffembed.models.checkpoint import read_model_config
from diffembed.models.pretrained import LoadedBackbone, load_pretrained
from diffembed.training.card import model_card
from diffembed.training.configs import PRETRAINING
from diffembed.training.run import run_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A causal Llama with a head of its own, and a recipe of two diffusion stages that starts from it."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    pad, eot = tokenizer.token_to_id(PAD), tokenizer.token_to_id(EOT)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96, pad_token_id=pad,
            bos_token_id=None, eos_token_id=eot, tie_word_embeddings=False, initializer_range=0.1,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save(str(tmp_path / "llama" / "tokenizer.json"))
    text = write_run(tmp_path).read_text(encoding="utf-8")
    head, _, diffusion, _ = text.split("[[stage]]\n")
    model_table = f'[model]\ncheckpoint = "llama"\nmask_token = "{MASK}"\n'
    first = diffusion.replace("steps = 6", "steps = 2").replace("warmup = 2", "warmup = 0")
    again = first.replace('name = "diffusion"', 'name = "again"').replace("lr = 1e-2", "lr = 1e-12")
    path = tmp_path / "converted.toml"
    path.write_text(
        "[[stage]]\n".join([head[: head.index("[tokenizer]")] + model_table, first, again]), encoding="utf-8"
    )
    return path


def test_a_causal_checkpoint_becomes_a_diffusion_model(recipe: Path) -> None:
    said: list[str] = []
    report = run_recipe(recipe, kinds=PRETRAINING, report=said.append)
    base = load_file(recipe.parent / "llama" / "model.safetensors")
    out = recipe.parent / "out"
    config = read_model_config(report.model)
    assert (config.mask_token_id, config.pad_token_id, config.eot_token_id) == (1, 0, 2)
    assert (config.max_tokens, config.dims) == (96, (32,))
    assert config.manifest["base"] == {"checkpoint": "llama", "layout": "llama"}
    assert config.manifest["objective"]["mask_token_id"] == 1
    card = model_card(config, report.stages, measured=False)
    assert "made from llama: its attention mask is opened" in card and "from scratch" not in card
    stages = [load_file(out / name / "model" / "model.safetensors") for name in ("diffusion", "again")]
    heads = [load_pretrained(out / name / "model").head for name in ("diffusion", "again")]
    assert heads[0] is not None and heads[1] is not None
    for name, tensor in stages[0].items():
        moved = (tensor - base[f"model.{name}"]).abs().max()
        assert 0 < moved < 0.05, name  # two steps of 1e-2 from the checkpoint, not from fresh weights
        torch.testing.assert_close(tensor, stages[1][name], atol=1e-6, rtol=0)
    assert 0 < (heads[0] - base["lm_head.weight"]).abs().max() < 0.05
    torch.testing.assert_close(heads[0], heads[1], atol=1e-6, rtol=0)
    assert not torch.equal(heads[0], stages[0]["embed_tokens.weight"])
    rows = [json.loads(x) for x in (out / "again" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2 and all(r["loss"] > 0 for r in rows)


def test_the_checkpoint_is_loaded_and_probed_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def counted(source: Path | str, **options: Any) -> LoadedBackbone:
        loads.append((str(source), options["max_tokens"]))
        return load_pretrained(source, **options)

    monkeypatch.setattr("diffembed.training.base.load_pretrained", counted)
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(
        text.replace('checkpoint = "llama"\n', 'checkpoint = "llama"\nmax_tokens = 80\n'), encoding="utf-8"
    )
    run_recipe(recipe, kinds=PRETRAINING, report=lambda _: None)
    assert loads == [(str(recipe.parent / "llama"), 80)]
    shutil.rmtree(recipe.parent / "out" / "diffusion")
    shutil.rmtree(recipe.parent / "out" / "again")
    run_recipe(recipe, kinds=PRETRAINING, report=lambda _: None)  # base.json is there, the weights are not
    assert len(loads) == 2


def test_another_mask_or_a_wrong_one_is_refused(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace(f'mask_token = "{MASK}"', "mask_token = 4000"), encoding="utf-8")
    with pytest.raises(Exception, match="4000") as caught:
        run_recipe(recipe, kinds=PRETRAINING, report=lambda _: None)
    assert getattr(caught.value, "exit_code", None) in (2, 3, 5)
    out = recipe.parent / "out"
    out.mkdir(exist_ok=True)
    known = {"model": {"checkpoint": "qwen", "mask_token": "", "max_tokens": 0, "allow_unproven": False}}
    (out / "base.json").write_text(json.dumps(known), encoding="utf-8")
    with pytest.raises(RecipeError, match="began from qwen with another .model."):
        run_recipe(recipe, kinds=PRETRAINING, report=lambda _: None)
