"""Graphs of every family against the stock model that they are written after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.graphs import DECODERS, cosines, export, make_model, save, sequences, states

from diffembed.errors import NotExportableError
from diffembed.models.export import export_onnx
from diffembed.runtime.onnx import OnnxRuntime
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.vectors.quantize import tanh_int8


@pytest.fixture(scope="module", params=("bert", *DECODERS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    model = make_model(request.param)
    return request.param, model, export(tmp_path_factory.mktemp("graphs") / request.param, model)


def span_means(model: Any, batch: list[TokenizedSequence]) -> np.ndarray:
    every = zip(batch, states(model, batch), strict=True)
    return np.stack([rows[a:b].mean(axis=0) for sequence, rows in every for a, b in sequence.spans])


def test_fp32_equals_the_stock_model_at_any_length(exported: tuple[str, Any, Path]) -> None:
    _, model, path = exported
    runtime = OnnxRuntime(path, precision="fp32")
    for lengths in ((1,), (2, 1, 3), (5, 16, 17, 130), (400,)):
        batch = sequences(*lengths)
        theirs = span_means(model, batch)
        assert np.abs(runtime.span_means(pack(batch)) - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_spans_anywhere(exported: tuple[str, Any, Path]) -> None:
    """Chunks with separators between them, one token each, next to a text, next to a sequence that is not pooled."""
    _, model, path = exported
    ids = [s.token_ids for s in sequences(12, 30, 7, 5)]
    spans = (((0, 3), (4, 5), (6, 12)), ((0, 30),), (), tuple((i, i + 1) for i in range(5)))
    batch = [TokenizedSequence(i, s) for i, s in zip(ids, spans, strict=True)]
    theirs = span_means(model, batch)
    ours = OnnxRuntime(path, precision="fp32").span_means(pack(batch))
    assert ours.shape == theirs.shape == (9, 32)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_int8_stays_close(exported: tuple[str, Any, Path]) -> None:
    """These widths (32) leave integers more to lose than any real model's."""
    _, model, path = exported
    batch = sequences(*range(1, 40), 120, 300)
    found = cosines(OnnxRuntime(path, precision="int8").span_means(pack(batch)), span_means(model, batch))
    assert found.mean() > 0.9992
    assert found.min() > 0.996


def test_int8_text_does_not_depend_on_its_batch(exported: tuple[str, Any, Path]) -> None:
    _, _, path = exported
    runtime, batch = OnnxRuntime(path, precision="int8"), sequences(1, 9, 9, 60)
    alone = np.concatenate([runtime.span_means(pack([s])) for s in batch])
    assert np.abs(runtime.span_means(pack(batch)) - alone).max() < 1e-4


def test_the_graph_has_the_quantizer(exported: tuple[str, Any, Path]) -> None:
    _, _, path = exported
    for precision in ("fp32", "int8"):
        runtime, batch = OnnxRuntime(path, precision=precision), pack(sequences(4, 20, 33))  # type: ignore[arg-type]
        found, expected = runtime.span_int8(batch).astype(int), tanh_int8(runtime.span_means(batch)).astype(int)
        assert np.abs(found - expected).max() <= 1  # a value on the border between two integers may fall to either side
        assert (found != expected).mean() < 0.02


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("qwen3", {"model_type": "gpt2"}, "knows bert, llama, mistral, qwen2, qwen3, smollm3"),
        ("qwen3", {"hidden_act": "relu"}, "hidden_act 'silu'"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn'"),
        ("qwen3", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("mistral", {"sliding_window": 6}, "sliding_window"),
        ("bert", {"hidden_act": "gelu_new"}, "hidden_act 'gelu'"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(
    tmp_path: Path, family: str, change: dict[str, Any], message: str
) -> None:
    path = save(tmp_path / "model", make_model(family))
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(NotExportableError, match=message):
        export_onnx(path)
    assert not (path / "onnx").exists()


def test_mistral_without_a_window_in_its_config_has_one(tmp_path: Path) -> None:
    path = save(tmp_path / "model", make_model("mistral"))
    stock = json.loads((path / "config.json").read_text())
    del stock["sliding_window"]
    (path / "config.json").write_text(json.dumps(stock))
    with pytest.raises(NotExportableError, match="4096"):
        export_onnx(path)
