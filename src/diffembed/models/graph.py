"""A small writer of ONNX graphs: the parts that every exported encoder shares.

Graphs are written by hand instead of traced, because that way they have few nodes (fused normalisation, rotary and
attention operators of onnxruntime), need no optimiser when they load, and put pooling and quantizer inside.

INT8 weights: each weight matrix has one scale a column; each token's activations are scaled by that token's own largest
value, never by a range over the batch, so that a text's vector does not depend on its neighbours. Weights use 7 of
8 bits (-63..63): on processors without VNNI two products of an unsigned and a signed byte are added in 16 bits, and
255 * 63 * 2 is the most that fits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from diffembed.models.files import StoredTensor

MS = "com.microsoft"  # onnxruntime's own operators
OPSET, IR_VERSION = 18, 9
WEIGHT_LIMIT = 63
_EXTERNAL_DTYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}


def quantize_weight(weight_KN: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integer weights and their column scales: ``weight ~ integers * scale``.

    >>> integers, scale = quantize_weight(np.array([[0.25, -63.0], [1.0, 0.0]], np.float32))
    >>> integers.tolist(), [round(float(s) * 63, 4) for s in scale]
    ([[16, -63], [63, 0]], [1.0, 63.0])
    """
    peak = np.abs(weight_KN).max(axis=0)
    scale = (np.where(peak > 0, peak, 1.0) / WEIGHT_LIMIT).astype(np.float32)
    return np.rint(weight_KN / scale).astype(np.int8), scale


class GraphBuilder:
    """Collects nodes and initializers; every method returns the name of a new value.

    Values are float32 unless said; ``B, T, D, S`` are batch, tokens, hidden size, spans.
    """

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._quantized: dict[str, tuple[str, str]] = {}
        self._count = 0

    def add(self, op: str, inputs: list[str], *, domain: str = "", outputs: int = 1, **attributes: Any) -> str:
        """One node; with ``outputs`` > 1 the further ones are named ``RESULT_1``, ``RESULT_2``, ..."""
        self._count += 1
        name = f"{op}_{self._count}"
        results = [name] + [f"{name}_{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op, inputs, results, name=name, domain=domain, **attributes))
        return name

    def constant(self, name: str, value: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """An initializer stored in the graph file (once a name)."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name)
        return name

    def external(self, name: str, tensor: StoredTensor, location: str) -> str:
        """An initializer that stays in a safetensors file beside the graph: a reference, no copy."""
        proto = TensorProto(name=name, data_type=_EXTERNAL_DTYPES[tensor.dtype], dims=tensor.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", tensor.offset), ("length", tensor.length)):
            entry = proto.external_data.add()
            entry.key, entry.value = key, str(value)
        self.initializers[name] = proto
        return name

    def linear(self, x: str, name: str, weight_NK: npt.NDArray[Any]) -> str:
        """``x @ weight.T`` without bias, ``[..., N]``; in int8 graphs with integer weights and activations."""
        weight_KN = np.ascontiguousarray(weight_NK.T.astype(np.float32))
        if not self.int8:
            return self.add("MatMul", [x, self.constant(name, weight_KN)])
        product, scale = self._integer_product(x, name, weight_KN)
        return self.add("Mul", [product, scale])

    def linear_unscaled(self, x: str, name: str, weight_NK: npt.NDArray[Any]) -> str:
        """``linear`` up to a positive factor a token: enough, and one pass cheaper, where a normalisation follows."""
        if not self.int8:
            return self.linear(x, name, weight_NK)
        return self._integer_product(x, name, np.ascontiguousarray(weight_NK.T.astype(np.float32)))[0]

    def _integer_product(self, x: str, name: str, weight_KN: npt.NDArray[np.float32]) -> tuple[str, str]:
        bytes_x, peak = self._quantize_tokens(x)
        integers, scale = quantize_weight(weight_KN)
        inputs = [
            bytes_x,
            self.constant(name + ".int8", integers, np.int8),
            self.constant("one", 1.0),
            self.constant(name + ".scale", scale / np.float32(127.0)),
            self.constant("zero_point", 128, np.uint8),
        ]
        return self.add("MatMulIntegerToFloat", inputs, domain=MS), peak

    def _quantize_tokens(self, x: str) -> tuple[str, str]:
        """Bytes around 128 and each token's largest magnitude ``[..., 1]``; shared by all products of ``x``."""
        if x not in self._quantized:
            last = self.constant("last_axis", [-1], np.int64)
            peak = self.add("ReduceMax", [self.add("Abs", [x]), last], keepdims=1)
            peak = self.add("Max", [peak, self.constant("tiny", 1e-20)])
            scaled = self.add("Mul", [x, self.add("Div", [self.constant("int8_range", 127.0), peak])])
            inputs = [scaled, self.constant("one", 1.0), self.constant("zero_point", 128, np.uint8)]
            self._quantized[x] = (self.add("QuantizeLinear", inputs), peak)
        return self._quantized[x]

    def reshape(self, x: str, shape: list[int]) -> str:
        """0 keeps a dimension, -1 infers it."""
        name = "shape_" + "_".join(map(str, shape)).replace("-1", "any")
        return self.add("Reshape", [x, self.constant(name, shape, np.int64)])

    def size(self, x: str, axis: int) -> str:
        """Length of one axis, int64 ``[1]``."""
        return self.add("Shape", [x], start=axis, end=axis + 1)

    def positions(self, input_ids: str) -> str:
        """``0 .. T-1``, int64 ``[T]``."""
        scalar = self.add("Squeeze", [self.size(input_ids, 1)])
        return self.add("Range", [self.constant("zero_i", 0, np.int64), scalar, self.constant("one_i", 1, np.int64)])

    def span_means(self, states_BTD: str, span_ids_BT: str, span_lengths_S: str, width: int) -> str:
        """Mean state of each span ``[S, D]``; tokens of id ``S`` (padding, separators) are in none.

        A product with a matrix of zeros and ones ``[B, M, T]``, M the most spans of one sequence. Adding rows by
        ``ScatterND`` would be shorter, but onnxruntime shares its rows out among threads, and two threads that add to
        the same span lose each other's sums.
        """
        last = self.constant("last_axis", [-1], np.int64)
        pooled = self.add("Less", [span_ids_BT, self.size(span_lengths_S, 0)])
        first = self.add("ReduceMin", [span_ids_BT, last], keepdims=1)  # spans are numbered in order of sequences
        nowhere = self.constant("nowhere", -1, np.int64)
        place = self.add("Where", [pooled, self.add("Sub", [span_ids_BT, first]), nowhere])
        count = self.add("Add", [self.add("ReduceMax", [place, last], keepdims=1), self.constant("one_i", 1, np.int64)])
        most = self.add("ReduceMax", [count], keepdims=0)
        places = self.add("Range", [self.constant("zero_i", 0, np.int64), most, self.constant("one_i", 1, np.int64)])
        belongs = self.add("Equal", [self.reshape(place, [0, 1, -1]), self.reshape(places, [1, -1, 1])])
        sums = self.add("MatMul", [self.add("Cast", [belongs], to=TensorProto.FLOAT), states_BTD])
        taken = self.reshape(self.add("Less", [places, count]), [-1])
        kept = self.add("Compress", [self.reshape(sums, [-1, width]), taken], axis=0)
        return self.add("Div", [kept, self.reshape(span_lengths_S, [-1, 1])])

    def tanh_int8(self, mean_SD: str) -> str:
        """``clip(rint(127 tanh(mean)), -127, 127)`` as int8."""
        limit = self.constant("int8_range", 127.0)
        rounded = self.add("Round", [self.add("Mul", [self.add("Tanh", [mean_SD]), limit])])
        clipped = self.add("Clip", [rounded, self.constant("int8_floor", -127.0), limit])
        return self.add("Cast", [clipped], to=TensorProto.INT8)

    def model(self, outputs: dict[str, tuple[str, int]], metadata: dict[str, str]) -> bytes:
        """Serialise; ``outputs`` maps an output's name to the value and element type that it shows."""
        for shown, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [shown], name=shown))
        inputs: list[ValueInfoProto] = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("span_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("span_lengths", TensorProto.FLOAT, ["spans"]),
        ]
        results = [helper.make_tensor_value_info(n, kind, ["spans", "width"]) for n, (_, kind) in outputs.items()]
        graph = helper.make_graph(self.nodes, "encoder", inputs, results, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MS, 1)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="diffembed")
        helper.set_model_props(proto, metadata)
        return bytes(proto.SerializeToString())
