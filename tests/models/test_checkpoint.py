"""The model directory: what comes back is what was saved; damage is named; a kill leaves the old or the new one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffembed.errors import ModelError
from diffembed.models.checkpoint import ModelConfig, load_backbone, load_tokenizer, read_model_config, save_model


@pytest.fixture
def copied(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))


def test_config_comes_back(tiny_model_dir: Path, tiny_config: ModelConfig) -> None:
    assert read_model_config(tiny_model_dir) == tiny_config
    assert ModelConfig.from_json(tiny_config.to_json()) == tiny_config


def test_weights_come_back_bidirectional(tiny_model_dir: Path, tiny_backbone: Any) -> None:
    loaded = load_backbone(tiny_model_dir)
    assert loaded.config.is_causal is False
    for name, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name
    assert json.loads((tiny_model_dir / "config.json").read_text())["is_causal"] is False
    early = [loaded(torch.tensor([[5, 6, 7, last]])).last_hidden_state[0, 0] for last in (8, 9)]
    assert not torch.allclose(*early)


def test_tokenizer_reads_special_tokens_as_text(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    ids = tokenizer.encode("a [mask] b <|endoftext|>", add_special_tokens=False).ids
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids) == "a [mask] b <|endoftext|>"


@pytest.mark.filterwarnings("ignore")  # the import of sentence-transformers warns about its own parts
def test_sentence_transformers_gives_the_same_vectors(tiny_model_dir: Path, corpus: list[str]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from diffembed.encoder import Encoder

    theirs = sentence_transformers.SentenceTransformer(str(tiny_model_dir), device="cpu", trust_remote_code=False)
    ours = Encoder.load(tiny_model_dir, runtime="torch").encode_documents(corpus).values
    assert np.abs(theirs.encode(corpus, batch_size=3) - ours).max() < 1e-5
    assert theirs.max_seq_length == 128


@pytest.mark.parametrize("name", ["diffembed.json", "config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_damage_is_one_line_that_names_the_file(copied: Path, name: str, damage: str) -> None:
    file = copied / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    with pytest.raises(ModelError) as caught:
        read_model_config(copied)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9"),
        ({"colour": "red"}, "unknown keys colour"),
        ({"dims": [64, 32]}, "ascending"),
        ({"dims": [16, 32]}, "hidden_size 64"),
        ({"quantizer": "lsq"}, "'tanh-int8' or 'none'"),
        ({"mask_token_id": 4000}, "outside the embedding table"),
        ({"max_tokens": 0}, "no room"),
    ],
)
def test_senseless_config_is_refused(copied: Path, change: dict[str, Any], message: str) -> None:
    file = copied / "diffembed.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        read_model_config(copied)


def test_lacking_key_is_named(copied: Path) -> None:
    file = copied / "diffembed.json"
    data = json.loads(file.read_text())
    del data["dims"]
    file.write_text(json.dumps(data))
    with pytest.raises(ModelError, match="lacks dims"):
        read_model_config(copied)


@pytest.mark.parametrize("read", [read_model_config, load_backbone])
def test_remote_code_is_refused(copied: Path, read: Callable[[Path], object]) -> None:
    file = copied / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoModel": "modeling.Model"}}))
    (copied / "modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="auto_map"):
        read(copied)


def test_lacking_tensor_is_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load_backbone(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"dims": 64}, {"dims": ["64"]}, {"max_tokens": "128"}, {"query_prompt": None}, {"prefix_ids": None},
        {"suffix_ids": [0.5]}, {"pad_token_id": None}, {"contextual": "yes"}, {"manifest": []}, {"quantizer": None},
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(tiny_config: ModelConfig, change: dict[str, Any]) -> None:
    text = json.dumps(json.loads(tiny_config.to_json()) | change)
    with pytest.raises(ModelError, match=f"has {next(iter(change))} .* of another type"):
        ModelConfig.from_json(text)


def test_tokens_around_texts_lie_inside_the_table(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    file = path / "diffembed.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"suffix_ids": [10**6]}))
    with pytest.raises(ModelError, match="suffix_token_id 1000000 lies outside"):
        read_model_config(path)


def test_other_directories_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_model_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="not a model directory"):
        read_model_config(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(ModelError, match="diffembed export"):
        read_model_config(tmp_path)


def test_wrong_width_is_refused_before_writing(
    tmp_path: Path, tiny_backbone: Any, tiny_tokenizer: Any, tiny_config: ModelConfig
) -> None:
    config = dataclasses.replace(tiny_config, dims=(16, 32))
    with pytest.raises(ModelError, match="64 wide"):
        save_model(tmp_path / "model", tiny_backbone, tiny_tokenizer, config)
    assert not list(tmp_path.iterdir())


def test_error_leaves_the_old_directory(copied: Path, tiny_backbone: Any, tiny_config: ModelConfig) -> None:
    before = {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()}
    with pytest.raises(AttributeError):
        save_model(copied, tiny_backbone, None, tiny_config)  # type: ignore[arg-type]
    assert {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()} == before
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]


def test_kill_leaves_the_old_directory_and_the_next_save_cleans_up(
    copied: Path, tiny_backbone: Any, tiny_tokenizer: Any, tiny_config: ModelConfig
) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom diffembed.models.files import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'diffembed.json').write_text('{')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", script, str(copied)], env=environment, check=False)
    assert killed.returncode == -9
    assert read_model_config(copied) == tiny_config
    assert len(list(copied.parent.iterdir())) == 2  # the unfinished sibling is still there
    save_model(copied, tiny_backbone, tiny_tokenizer, dataclasses.replace(tiny_config, name="second"))
    assert read_model_config(copied).name == "second"
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]
