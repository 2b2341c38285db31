"""The parts of a graph by themselves: pooling, which threads must not disturb, and initializers kept outside."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from diffembed.models.graph import GraphBuilder
from diffembed.runtime.onnx import padded_inputs
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack

ROWS, WIDTH = 500, 512


def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def pooling(threads: int) -> ort.InferenceSession:
    """A graph that looks up a token's row and pools: nothing but the pooling can go wrong."""
    g = GraphBuilder()
    states = g.add("Gather", [g.constant("table", table()), "input_ids"])
    mean = g.span_means(states, "span_ids", "span_lengths", WIDTH)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    model = g.model({"mean": (mean, TensorProto.FLOAT)}, {})
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def batch_of(*lengths: int, chunk: int | None = None) -> PackedBatch:
    rng = np.random.default_rng(1)
    return pack(
        [
            TokenizedSequence(
                rng.integers(0, ROWS, n), tuple((a, min(n, a + (chunk or n))) for a in range(0, n, chunk or n))
            )
            for n in lengths
        ]
    )


@pytest.mark.parametrize("batch", [batch_of(6000), batch_of(900, 3, 2000), batch_of(1500, 700, chunk=40)])
def test_pooling_is_the_mean_on_every_call(batch: PackedBatch) -> None:
    """Summing rows by ScatterND fails here: its threads overwrite each other's sums."""
    session, inputs = pooling(4), padded_inputs(batch, 0)
    rows = table()[batch.token_ids].astype(np.float64)
    exact = np.stack([rows[a:b].mean(axis=0) for a, b in batch.spans])
    first = session.run(["mean"], inputs)[0]
    assert np.abs(first - exact).max() < 1e-5
    for _ in range(20):
        assert np.array_equal(session.run(["mean"], inputs)[0], first)


def test_a_sequence_without_spans_gives_no_row() -> None:
    batch = pack([TokenizedSequence((1, 2), ()), TokenizedSequence((3, 4, 5), ((1, 2),)), TokenizedSequence((6,), ())])
    assert np.allclose(pooling(1).run(["mean"], padded_inputs(batch, 0))[0], table()[[4]])


def test_detached_initializers_are_not_in_the_model() -> None:
    g = GraphBuilder(detach=True)
    states = g.add("Gather", [g.constant("table", table()), "input_ids"])
    model = g.model({"mean": (g.span_means(states, "span_ids", "span_lengths", WIDTH), TensorProto.FLOAT)}, {})
    assert set(g.detached) == {"table"}
    assert len(model) < 4096
