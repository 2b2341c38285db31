"""Whole runs from released checkpoints of several kinds: to the end, with their head and with their own shift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import EOT, MASK, PAD, make_tokenizer
from tests.training.conftest import write_run
from transformers import Olmo2Config, Olmo2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from diffembed.encoder import Encoder
from diffembed.errors import RecipeError
from diffembed.infill import infill
from diffembed.models.checkpoint import load_head, read_model_config
from diffembed.training.configs import PRETRAINING
from diffembed.training.run import run_recipe

DIFFUSION = 'kind = "diffusion"'


def _checkpoint(folder: Path, family: str, **changed: Any) -> None:
    """A causal checkpoint of two layers; ``changed`` goes into its ``config.json`` afterwards."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "head_dim": 8,
        "pad_token_id": tokenizer.token_to_id(PAD), "eos_token_id": tokenizer.token_to_id(EOT), "bos_token_id": None,
        "tie_word_embeddings": False, "initializer_range": 0.1,
    }  # fmt: skip
    model: Any = Olmo2ForCausalLM(Olmo2Config(**shape)) if family == "olmo2" else Qwen3ForCausalLM(Qwen3Config(**shape))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changed), encoding="utf-8")


def _recipe(folder: Path, *kinds: str, score: bool = False) -> Path:
    """A recipe from ``folder/checkpoint`` with a short stage of each kind, which are also the stages' names."""
    text = write_run(folder).read_text(encoding="utf-8")
    head, _, diffusion, last = text.split("[[stage]]\n")
    pairs, sets = last.split("[score]")
    made = {
        "pair": pairs.replace("steps = 8", "steps = 2").replace('name = "pairs"', 'name = "pair"'),
        "diffusion": diffusion.replace("steps = 6", "steps = 2").replace("warmup = 2", "warmup = 0"),
    }
    made["mntp"] = made["diffusion"].replace("diffusion", "mntp")
    made["again"] = made["diffusion"].replace('name = "diffusion"', 'name = "again"')
    model = f'[model]\ncheckpoint = "checkpoint"\nmask_token = "{MASK}"\n'
    path = folder / "released.toml"
    stages = [head[: head.index("[tokenizer]")] + model, *(made[kind] for kind in kinds)]
    path.write_text("[[stage]]\n".join(stages) + (f"[score]{sets}" if score else ""), encoding="utf-8")
    return path


def test_a_family_without_onnx_form_trains_scores_and_ends(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "checkpoint", "olmo2")
    said: list[str] = []
    report = run_recipe(_recipe(tmp_path, "diffusion", "pair", score=True), report=said.append)
    assert list(report.stages) == ["untrained", "diffusion", "pair-start", "pair"]
    assert all(0 <= scores["ndcg@10"]["set"] <= 1 for scores in report.stages.values())
    skipped = [x for x in said if "ONNX graph, the torch runtime runs the model" in x]
    assert [x.split(":")[0] for x in skipped] == ["untrained", "diffusion", "pair-start", "pair", "export", "export"]
    assert all("is of type 'olmo2'; the ONNX export knows bert, " in x for x in skipped)
    assert not (Path(report.model) / "onnx").exists()
    assert not (Path(report.model) / "head.safetensors").exists(), "embedding does not need it"
    encoders = [Encoder.load(report.model, runtime="torch"), Encoder.load(report.model)]
    a, b = (e.encode_documents(["an owl by the river"], dtype="int8").values for e in encoders)
    assert encoders[1].runtime.name == "torch" and a.shape == (1, 32)
    np.testing.assert_array_equal(a, b)


def test_the_export_of_a_language_model_keeps_its_head(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "checkpoint", "qwen3")
    report = run_recipe(_recipe(tmp_path, "diffusion"), report=lambda _: None)
    stage = tmp_path / "out" / "diffusion" / "model"
    heads = [load_head(stage), load_head(report.model)]
    assert heads[0] is not None and heads[1] is not None
    torch.testing.assert_close(heads[0], heads[1])
    a, b = (infill("owl ____ river ____ stone", model=m, tokens=[2]).to_dict() for m in (stage, report.model))
    assert (a["filled"], a["blanks"]) == (b["filled"], b["blanks"])


def test_an_unshifted_checkpoint_keeps_its_alignment(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "checkpoint", "qwen3", model_type="a2d-qwen3", mask_token_id=1)
    recipe = _recipe(tmp_path, "diffusion", "pair", score=True)
    said: list[str] = []
    run_recipe(recipe, report=said.append)
    out = tmp_path / "out"
    manifest = read_model_config(out / "diffusion" / "model").manifest
    assert manifest["objective"]["shift"] is False
    for name in ("untrained", "diffusion", "pair-start", "pair"):
        assert read_model_config(out / name / "model").shift is False, name
    assert read_model_config(out / "final").shift is False
    assert not [x for x in said if "a state of" in x]
    assert infill("____ owl", model=out / "diffusion" / "model").filled.endswith(" owl")

    # the same stage, its shift spelled out
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace(DIFFUSION, f"{DIFFUSION}\nshift = false"), encoding="utf-8")
    run_recipe(recipe, report=said.append)
    assert "diffusion: complete, skipped" in said


def test_a_change_of_shift_is_said(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "checkpoint", "qwen3", model_type="a2d-qwen3", mask_token_id=1)
    recipe = _recipe(tmp_path, "mntp", "diffusion", "again")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace('name = "again"', 'name = "again"\nshift = false'), encoding="utf-8")
    said: list[str] = []
    run_recipe(recipe, kinds=PRETRAINING, report=said.append)
    assert [x for x in said if "a state of" in x] == [
        "mntp: a state of the checkpoint predicts its own token, the stage asks for the next",
        "again: a state of the model of 'diffusion' predicts the next token, the stage asks for its own",
    ]
    shifts = [read_model_config(tmp_path / "out" / n / "model").shift for n in ("mntp", "diffusion", "again")]
    assert shifts == [True, True, False]


def test_sequences_longer_than_a_checkpoint_reads_are_refused(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "checkpoint", "olmo2")
    recipe = _recipe(tmp_path, "diffusion")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("sequence_tokens = 32", "sequence_tokens = 97"), encoding="utf-8")
    with pytest.raises(RecipeError, match="'diffusion' has sequence_tokens = 97; the model reads max_tokens 96"):
        run_recipe(recipe, report=lambda _: None)


def test_without_held_out_text_a_line_says_so(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "checkpoint", "olmo2")
    recipe = _recipe(tmp_path, "diffusion", "again")
    rows = [json.dumps({"text": f"{i} an owl by the river"}) for i in (1, 2, 3)]
    (tmp_path / "data" / "few.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace('["texts.jsonl"]', '["few.jsonl"]', 1), encoding="utf-8")
    said: list[str] = []
    report = run_recipe(recipe, kinds=PRETRAINING, report=said.append)
    lines = [x for x in said if "no held-out figures" in x]
    assert lines == [
        "diffusion: no held-out figures: about one text in fifty is held out, and its sources have too few"
    ]
    assert "diffusion" not in report.stages and "held_out_after" in report.stages["again"]
