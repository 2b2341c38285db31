"""The revision of a model changes with its weights, its graph and its words, and with nothing else."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation import baselines
from diffembed.evaluation.baselines import SentenceTransformersEncoder
from diffembed.evaluation.revision import model_revision


def of(path: Path) -> str:
    return model_revision(str(path), Encoder.load(path))


def test_of_a_directory(tiny_model_dir: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model_dir, moved)
    assert of(moved) == of(tiny_model_dir)
    assert len(of(moved)) == 16
    (moved / "README.md").write_text("about", encoding="utf-8")
    assert of(moved) == of(tiny_model_dir)
    graph = moved / "onnx" / "model_int8.onnx"
    whole = Encoder.load(moved)
    graph.write_bytes(graph.read_bytes() + b"\0")  # rounded otherwise
    assert model_revision(str(moved), whole) != of(tiny_model_dir)
    config = moved / "diffembed.json"
    config.write_text(config.read_text(encoding="utf-8").replace("\n", "\n "), encoding="utf-8")
    assert Encoder.load(tiny_model_dir).fingerprint != Encoder.load(moved, precision="fp32").fingerprint


def test_of_the_hub_is_the_commit(tiny_model_dir: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / commit
    shutil.copytree(tiny_model_dir, snapshot)
    assert of(snapshot) == commit


def test_of_sentence_transformers(minilm_source: Path, tmp_path: Path) -> None:
    moved = tmp_path / "minilm"
    shutil.copytree(minilm_source, moved)
    name = f"st:{moved}"
    model = SentenceTransformersEncoder(str(moved))
    first = model_revision(name, model)
    assert first == model_revision(f"st:{minilm_source}", SentenceTransformersEncoder(str(minilm_source)))
    assert (model.dims, model.max_tokens, model.path) == ((384,), 256, moved)
    (moved / "README.md").write_text("about", encoding="utf-8")
    assert model_revision(name, model) == first
    config = next(moved.glob("*_Pooling/config.json"))
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert model_revision(name, model) != first


def test_of_bm25(monkeypatch: pytest.MonkeyPatch) -> None:
    first = model_revision("bm25")
    assert first == f"bm25s-{version('bm25s')}-words-{baselines.WORDS_VERSION}"
    monkeypatch.setattr(baselines, "WORDS_VERSION", 99)
    assert model_revision("bm25") == first.rpartition("-")[0] + "-99"


def test_of_what_nobody_could_tell_apart() -> None:
    class Nameless:
        pass

    nameless: Any = Nameless()
    with pytest.raises(InputError, match="mine is a Nameless without a fingerprint"):
        model_revision("mine", nameless)
