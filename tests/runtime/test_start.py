"""Which runtime starts, in which precision, and that a precision too narrow for a model is an error, never a NaN."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffembed.encoder import Encoder
from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.models.checkpoint import ModelConfig, read_model_config, save_model
from diffembed.runtime.start import start_runtime
from diffembed.runtime.torch import TorchRuntime
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.vectors.quantize import unit


@pytest.fixture
def bare(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model without its graphs."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("onnx")))


@pytest.mark.parametrize(
    ("asked", "name", "precision"),
    [
        ({}, "onnx", "int8"),
        ({"precision": "fp32"}, "onnx", "fp32"),
        ({"runtime": "onnx"}, "onnx", "int8"),
        ({"runtime": "torch"}, "torch", "fp32"),
        ({"runtime": "torch", "precision": "bf16"}, "torch", "bf16"),
        ({"precision": "bf16"}, "torch", "bf16"),
        ({"precision": "fp16", "device": "cpu"}, "torch", "fp16"),
        ({"device": "cpu", "threads": 1}, "onnx", "int8"),
    ],
)
def test_choice(tiny_model_dir: Path, asked: dict[str, Any], name: str, precision: str) -> None:
    runtime = start_runtime(tiny_model_dir, read_model_config(tiny_model_dir), **asked)
    assert (runtime.name, runtime.precision) == (name, precision)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"runtime": "tpu"}, "'tpu' is not known to Encoder.load; choose one of auto, onnx, torch"),
        ({"precision": "int4"}, "'int4' is not known .* auto, int8, fp32, bf16, fp16"),
        ({"device": "mars"}, "'mars' is not known .* auto, cpu, cuda"),
        ({"runtime": "torch", "precision": "int8"}, "torch runtime has no int8 weights"),
        ({"runtime": "onnx", "precision": "bf16"}, "onnx runtime has no bf16 weights"),
        ({"runtime": "onnx", "device": "cuda"}, "onnx runtime runs on the CPU"),
        ({"precision": "int8", "device": "cuda"}, "onnx runtime runs on the CPU"),
        ({"threads": 0}, "threads is 0; give at least 1"),
    ],
)
def test_what_no_runtime_has(tiny_model_dir: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder.load(tiny_model_dir, **asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_here(tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="torch sees no CUDA GPU here; use device='cpu' or 'auto'"):
        Encoder.load(tiny_model_dir, device="cuda")


def test_graph_that_is_not_there(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no int8 ONNX graph"):
        Encoder.load(bare, precision="int8")
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"no ONNX graph \(onnx/model_int8\.onnx, .*diffembed export.*\[train\]"):
        Encoder.load(bare)
    with pytest.raises(ModelError, match=r"no ONNX graph \(onnx/model\.onnx\)"):
        Encoder.load(bare, precision="fp32")
    with pytest.raises(MissingExtraError, match=r"^this needs torch and transformers"):
        Encoder.load(bare, precision="bf16")
    with pytest.raises(MissingExtraError, match=r"^this needs torch and transformers"):
        Encoder.load(bare, runtime="torch")


def test_fp32_of_both_runtimes_is_one(tiny_model_dir: Path, corpus: list[str]) -> None:
    """Of real MiniLM weights too: ``tests/models/test_export.py``."""
    encoders = [Encoder.load(tiny_model_dir, runtime=r, precision="fp32") for r in ("onnx", "torch")]
    a, b = (encoder.encode_documents(corpus).values for encoder in encoders)
    assert np.einsum("ij,ij->i", unit(a), unit(b)).min() >= 0.9999
    assert np.abs(a - b).max() < 1e-4


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.995), ("fp16", 0.9999)])
def test_narrow_precisions_stay_close(
    bare: Path, precision: str, bound: float, packed: bool, corpus: list[str]
) -> None:
    exact = TorchRuntime(bare, packed=packed)
    rough = TorchRuntime(bare, packed=packed, precision=precision)
    batch = pack([TokenizedSequence(tuple(range(5, 40)), ((0, 20), (21, 35))), TokenizedSequence((9, 7), ((0, 2),))])
    a, b = exact.span_means(batch), rough.span_means(batch)
    assert b.dtype == np.float32 and a.shape == b.shape == (3, 64)
    cosines = np.einsum("ij,ij->i", unit(a), unit(b))
    assert bound < cosines.min() and cosines.max() < 1 - 1e-9
    alone = np.concatenate([rough.span_means(pack([s])) for s in (
        TokenizedSequence(tuple(range(5, 40)), ((0, 20), (21, 35))), TokenizedSequence((9, 7), ((0, 2),))
    )])  # fmt: skip
    assert np.einsum("ij,ij->i", unit(alone), unit(b)).min() > bound


def loud_model(folder: Path, tokenizer: Any, *, everywhere: bool) -> tuple[Path, str]:
    """A model whose states leave fp16's range: for every text, or only where one word stands; and that word."""
    from tests.conftest import make_backbone

    backbone = make_backbone(tokenizer.get_vocab_size())
    word = "向量"
    token = tokenizer.encode("the " + word).ids[-1]
    assert token > 90  # not among those that loading probes
    with torch.no_grad():
        state = backbone.state_dict()
        state["layers.0.self_attn.o_proj.weight"].mul_(200.0)
        rows = slice(None) if everywhere else token
        state["embed_tokens.weight"][rows] = 65_504.0 * torch.sign(state["embed_tokens.weight"][rows])
    config = ModelConfig("loud", (64,), 128, 1, 0, 2, contextual=True)
    return save_model(folder, backbone, tokenizer, config), word


def test_fp16_overflow_in_a_text_is_an_error(tmp_path: Path, tiny_tokenizer: Any) -> None:
    path, word = loud_model(tmp_path / "loud", tiny_tokenizer, everywhere=False)
    encoder = Encoder.load(path, precision="fp16")
    quiet, loud = "a lazy dog", f"the {word} reads"
    assert np.isfinite(encoder.encode_documents([quiet]).values).all()
    for action in (
        lambda: encoder.encode_documents([quiet, loud]),
        lambda: encoder.encode_queries([loud], dtype="int8"),
        lambda: encoder.encode_chunks([[quiet, loud]], dtype="binary"),
        lambda: encoder.encode_tokens([loud]),
    ):
        with pytest.raises(ModelError, match="loud gave values that are not finite in fp16 .*precision 'fp32'"):
            action()
    for precision in ("fp32", "bf16"):
        values = Encoder.load(path, runtime="torch", precision=precision).encode_documents([quiet, loud]).values
        assert np.isfinite(values).all()


def test_fp16_overflow_on_every_text_is_found_on_loading(tmp_path: Path, tiny_tokenizer: Any) -> None:
    path, _ = loud_model(tmp_path / "loud", tiny_tokenizer, everywhere=True)
    with pytest.raises(ModelError, match=r"not finite in float16.*precision 'fp32' or 'bf16'"):
        Encoder.load(path, precision="fp16")
    assert np.isfinite(Encoder.load(path).encode_documents(["a text"]).values).all()
