"""``diffembed export``: what it writes, what it says about integer weights, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.invoke import run

from diffembed.encoder import Encoder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("the quick brown fox\n\nmodels mask tokens\n机器学习 模型\n", encoding="utf-8")
    return file


def test_both_precisions_and_their_cost(tiny_model_dir: Path, tmp_path: Path, texts: Path) -> None:
    into = tmp_path / "out"
    report = run("export", tiny_model_dir, "--into", into, "--precision", "both", "--calibrate", texts, "--json").json
    assert {"onnx/model.onnx", "onnx/model_int8.onnx"} <= set(report["files"])
    assert report["int8"]["texts"] == 3
    assert 0.99 < report["int8"]["cosine_least"] <= report["int8"]["cosine_mean"] <= 1
    assert report["int8"]["float_layers"] == []
    exact, small = (Encoder.load(into, precision=p).encode_documents(["a b"]).values for p in ("fp32", "int8"))
    assert 0 < np.abs(exact - small).max() < 0.1


def test_fp32_alone_costs_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    report = run("export", tiny_model_dir, "--into", tmp_path / "out", "--precision", "fp32", "--json").json
    assert report["int8"] is None
    assert "onnx/model_int8.onnx" not in report["files"]


def test_layers_left_in_float_are_said(tiny_model_dir: Path, tmp_path: Path, texts: Path) -> None:
    rows = tmp_path / "texts.jsonl"
    rows.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts.read_text(encoding="utf-8").split("\n") if t))
    options = ["--calibrate", rows, "--keep-float", "layers.0.mlp.*", "--min-cosine", "0.9"]
    ran = run("export", tiny_model_dir, "--into", tmp_path / "out", *options)
    assert ran.code == 0
    assert ran.stdout == ""
    assert "over 3 texts; in float32, 0.1 MB more: layers.0.mlp.gate_proj, layers.0.mlp.up_proj" in ran.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep-float", "head"], ("no linear layer", "'head'", "layers.0.self_attn.q_proj")),
        (["--min-cosine", "1.5"], ("min_cosine is 1.5",)),
        (["--calibrate", "missing.txt"], ("missing.txt",)),
        (["--precision", "int4"], ("int4",)),
    ],
)
def test_unusable_options(tiny_model_dir: Path, tmp_path: Path, options: list[str], words: tuple[str, ...]) -> None:
    run("export", tiny_model_dir, "--into", tmp_path / "out", *options).fails(2, *words)
    assert not (tmp_path / "out").exists()
