"""Integer weights: safe on every processor, and as fine as that allows."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from diffembed.models.graph import MS
from diffembed.models.integers import PAIR_LIMIT, Int8Report, limit_pairs, quantize_weight


def pair_sums(integers: np.ndarray) -> np.ndarray:
    even = len(integers) // 2 * 2
    return integers[0:even:2].astype(int) + integers[1:even:2]


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    tail=st.sampled_from(["normal", "uniform", "equal", "heavy", "zero", "tiny"]),
)
def test_no_pair_is_over_the_limit(seed: int, shape: tuple[int, int], tail: str) -> None:
    rng = np.random.default_rng(seed)
    weight = {
        "normal": lambda: rng.normal(size=shape),
        "uniform": lambda: rng.uniform(0.5, 1, shape),
        "equal": lambda: np.full(shape, rng.normal()),
        "heavy": lambda: rng.standard_cauchy(shape),
        "zero": lambda: np.zeros(shape),
        "tiny": lambda: rng.choice([0.0, 1e-44, 1e-38], shape),
    }[tail]().astype(np.float32)
    integers, scale = quantize_weight(weight)
    assert np.abs(integers.astype(int)).max() <= 127
    assert np.abs(pair_sums(integers)).max(initial=0) <= PAIR_LIMIT
    coarse, coarse_scale = quantize_weight(weight, (64,))
    error = np.square(integers * scale - weight).sum()
    assert error <= np.square(coarse * coarse_scale - weight).sum() * (1 + 1e-5)
    assert np.abs(integers * scale - weight).max() <= np.abs(weight).max()


def test_most_of_the_eighth_bit_is_kept() -> None:
    """On weights as trained layers have them: nearly twice as fine as with 7 bits."""
    weight = np.random.default_rng(0).standard_t(5, size=(384, 64)).astype(np.float32)
    errors = {}
    for steps in ((64,), (64, 80, 96, 112, 127)):
        integers, scale = quantize_weight(weight, steps)
        errors[len(steps)] = np.sqrt(np.square(integers * scale - weight).mean())
    assert errors[5] < 0.65 * errors[1]


def test_limiting_keeps_signs_and_leaves_small_pairs() -> None:
    values = np.random.default_rng(0).integers(-127, 128, (64, 50)).astype(np.float32)
    cut = limit_pairs(values)
    assert (cut * values >= 0).all()
    assert (np.abs(cut) <= np.abs(values)).all()
    kept = np.abs(values[0::2] + values[1::2]) <= PAIR_LIMIT
    assert np.array_equal(cut[0::2][kept], values[0::2][kept])


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("width", [63, 130])
def test_onnxruntime_adds_such_pairs_exactly(tokens: int, width: int) -> None:
    """The largest bytes against pairs at the limit. Weights of -127..127 fail this on processors without VNNI."""
    rng = np.random.default_rng(0)
    weight, _ = quantize_weight(rng.choice([-1.0, 1.0], (width, 16)).astype(np.float32), (127,))
    assert np.abs(pair_sums(weight)).max() == PAIR_LIMIT
    x = rng.choice(np.array([0, 1, 255], np.uint8), (1, tokens, width))
    node = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "scale", "zero"], ["y"], domain=MS)
    constants = {"w": weight, "one": np.float32([1]), "scale": np.ones(16, np.float32), "zero": np.uint8([128])}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, tokens, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, tokens, 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MS, 1)]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    assert np.array_equal(session.run(None, {"x": x})[0][0], (x[0].astype(int) - 128) @ weight.astype(int))


def test_the_report_names_what_stayed_in_float() -> None:
    assert str(Int8Report(40, 0.99912, 0.9951)) == (
        "int8 weights: cosine to fp32 0.99912 in the mean and 0.9951 at least over 40 texts"
    )
    assert str(Int8Report(40, 0.99912, 0.9951, ("a.b", "c"), 3_100_000)).endswith("; in float32, 3.1 MB more: a.b, c")
