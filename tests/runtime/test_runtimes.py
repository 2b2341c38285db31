"""Runtimes on packed batches: layout, equality of packed and padded, the graph's own quantizer, damaged graphs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.encoder import Encoder
from diffembed.errors import ModelError
from diffembed.runtime.onnx import OnnxRuntime, padded_inputs
from diffembed.runtime.torch import TorchRuntime
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.vectors.quantize import tanh_int8

SEQUENCES = [
    TokenizedSequence(tuple(range(10, 34)), ((0, 5), (6, 24))),
    TokenizedSequence((7,), ((0, 1),)),
    TokenizedSequence(tuple(range(40, 49)), ((2, 9),)),
]


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=5))
@settings(max_examples=50)
def test_padded_layout_gives_span_means(shapes: list[list[int]]) -> None:
    """Averaging token ids by ``span_ids`` equals averaging them by the packed spans."""
    sequences, token = [], 1
    for spans in shapes:
        ids, marks = [], []
        for length in spans:  # one unpooled token between spans
            marks.append((len(ids), len(ids) + length))
            ids += list(range(token, token + length + 1))
            token += length + 1
        sequences.append(TokenizedSequence(tuple(ids), tuple(marks)))
    batch = pack(sequences)
    inputs = padded_inputs(batch, 0)
    count = len(batch.spans)
    sums = np.bincount(inputs["span_ids"].ravel(), inputs["input_ids"].ravel(), minlength=count + 1)[:count]
    expected = [batch.token_ids[a:b].mean() for a, b in batch.spans]
    assert np.allclose(sums / inputs["span_lengths"], expected)
    assert inputs["attention_mask"].sum() == batch.tokens


@pytest.mark.parametrize("kind", ["onnx", "packed", "padded"])
def test_alone_batched_packed_padded_are_one(tiny_model_dir: Path, kind: str) -> None:
    reference = TorchRuntime(tiny_model_dir, packed=False)
    expected = np.concatenate([reference.span_means(pack([s])) for s in SEQUENCES])
    runtime = (
        OnnxRuntime(tiny_model_dir, precision="fp32")
        if kind == "onnx"
        else TorchRuntime(tiny_model_dir, packed=kind == "packed")
    )
    assert np.abs(runtime.span_means(pack(SEQUENCES)) - expected).max() < 1e-4
    alone = np.concatenate([runtime.span_means(pack([s])) for s in SEQUENCES])
    assert np.abs(alone - expected).max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_graph_quantizes_as_numpy_does(tiny_model_dir: Path, precision: str) -> None:
    runtime = OnnxRuntime(tiny_model_dir, precision=precision)  # type: ignore[arg-type]
    batch = pack(SEQUENCES)
    graph, numpy_form = runtime.span_int8(batch), tanh_int8(runtime.span_means(batch))
    assert graph.dtype == np.int8
    # onnxruntime's tanh differs from numpy's by about 1e-7, which can move a value on a rounding border by one step.
    assert np.abs(graph.astype(int) - numpy_form).max() <= 1
    assert (graph != numpy_form).mean() < 0.01


def test_lacking_graph_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    (path / "onnx" / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"onnx/model\.onnx.*diffembed export"):
        OnnxRuntime(path, precision="fp32")
    assert OnnxRuntime(path).precision == "int8"


@pytest.mark.parametrize("keep", [0, 0.3, 0.9, 0.999])
def test_truncated_graph_is_one_line(tiny_model_dir: Path, tmp_path: Path, keep: float) -> None:
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    file = path / "onnx" / "model_int8.onnx"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"model_int8\.onnx") as caught:
        Encoder.load(path)
    assert "\n" not in str(caught.value)


def test_default_runtime_needs_no_torch(tiny_model_dir: Path) -> None:
    script = (
        "import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from diffembed import Encoder\n"
        "e = Encoder.load(sys.argv[1])\nprint(e.encode_queries(['a b'], dtype='int8').values.shape)\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_model_dir)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(1, 64)\n", done.stderr


def test_threads_lose_nothing() -> None:
    """The embedded model's graph on more threads than cores, call after call: the same bits."""
    encoder = Encoder.load("default", threads=4)
    texts = [f"Number {i} of the texts, {'which go on and on ' * (7 * i)}to its end." for i in range(32)]
    first = encoder.encode_documents(texts).values
    for _ in range(12):
        assert np.array_equal(encoder.encode_documents(texts).values, first)
