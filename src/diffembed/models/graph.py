"""A small writer of ONNX graphs: the parts that every exported encoder shares.

Graphs are written by hand instead of traced, because that way they have few nodes (fused normalisation, rotary and
attention operators of onnxruntime), need no optimiser when they load, and put pooling and quantizer inside.

In int8 graphs each token's activations are scaled by that token's own largest value, never by a range over the batch,
so that a text's vector does not depend on its neighbours. ``integers.py`` makes the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from diffembed.models.files import StoredTensor
from diffembed.models.integers import Int8Plan

MS = "com.microsoft"  # onnxruntime's own operators
OPSET, IR_VERSION = 18, 9
_EXTERNAL_DTYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
_SMALLEST_DETACHED = 4096  # bytes


class GraphBuilder:
    """Collects nodes and initializers; every method returns the name of a new value.

    Values are float32 unless said; ``B, T, D, S`` are batch, tokens, hidden size, spans.

    Args:
        plan: puts linear layers in integers; ``None`` leaves them all in float32.
        detach: keep large initializers out of the serialised model, which then has no limit of size; whoever runs it
            hands them over.

    Attributes:
        inputs: what each linear layer reads, by its name.
        detached: the initializers that were kept out.
    """

    def __init__(self, plan: Int8Plan | None = None, *, detach: bool = False) -> None:
        self.plan, self.detach = plan, detach
        self.detached: dict[str, npt.NDArray[Any]] = {}
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.inputs: dict[str, str] = {}
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
            array = np.ascontiguousarray(value, dtype=dtype)
            if self.detach and array.nbytes >= _SMALLEST_DETACHED:
                self.detached[name] = array
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                self.initializers[name] = _reference(name, kind, array.shape, "detached", 0, array.nbytes)
            else:
                self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def external(self, name: str, tensor: StoredTensor, location: str) -> str:
        """An initializer that stays in a safetensors file beside the graph: a reference, no copy."""
        kind = _EXTERNAL_DTYPES[tensor.dtype]
        self.initializers[name] = _reference(name, kind, tensor.shape, location, tensor.offset, tensor.length)
        return name

    def linear(self, x: str, name: str, weight_NK: npt.NDArray[Any]) -> str:
        """``x @ weight.T`` without bias, ``[..., N]``; in int8 graphs with integer weights and activations."""
        self.inputs[name] = x
        if self.plan is None or name in self.plan.float_layers:
            return self.add("MatMul", [x, self.constant(name, weight_NK.T)])
        bytes_x, peak = self._centred_bytes(x, self.plan.divisors.get(name))
        return self.add("Mul", [self._integer_product(bytes_x, 128, name, *self.plan.rounded(name, weight_NK.T)), peak])

    def linear_unscaled(self, x: str, name: str, weight_NK: npt.NDArray[Any]) -> str:
        """``linear`` up to a positive factor a token: enough, and one pass cheaper, where a normalisation follows.

        In int8 graphs the weights are brought to a mean square of 1 first, which puts every product far above the
        normalisation's epsilon, however small they are beside the gains of the norm before them.
        """
        if self.plan is None or name in self.plan.float_layers:
            return self.linear(x, name, weight_NK)
        self.inputs[name] = x
        bytes_x, _ = self._centred_bytes(x, self.plan.divisors.get(name))
        integers, scale = self.plan.rounded(name, weight_NK.T)
        size = np.sqrt(np.mean(np.square(weight_NK, dtype=np.float64)))
        return self._integer_product(bytes_x, 128, name, integers, (scale / (size or 1.0)).astype(np.float32))

    def linear_above(
        self, x: str, name: str, weight_NK: npt.NDArray[Any], bias_N: npt.NDArray[Any], least: float
    ) -> tuple[str, npt.NDArray[Any]]:
        """``linear`` of values that are never below ``least``, and the bias to add to it.

        In int8 graphs ``x - least`` takes a byte's whole range, twice as fine as around zero; what that adds to the
        product is the same for all tokens and goes off the bias.
        """
        if self.plan is None or name in self.plan.float_layers:
            return self.linear(x, name, weight_NK), bias_N
        self.inputs[name] = x
        lifted = self.add("Add", [x, self.constant(f"above_{least}", -least)])
        peak = self.add("ReduceMax", [lifted, self.constant("last_axis", [-1], np.int64)], keepdims=1)
        integers, scale = self.plan.rounded(name, weight_NK.T)
        product = self._integer_product(self._bytes(lifted, peak, 0), 0, name, integers, scale)
        return self.add("Mul", [product, peak]), bias_N + least * (integers * scale).sum(axis=0)

    def _integer_product(
        self, bytes_x: str, zero: int, name: str, integers: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]
    ) -> str:
        """The product over each token's peak; bytes are around ``zero``, 128 or 0."""
        inputs = [
            bytes_x,
            self.constant(name + ".int8", integers, np.int8),
            self.constant("one", 1.0),
            self.constant(name + ".scale", scale / np.float32(255 - zero)),
            self.constant(f"zero_{zero}", zero, np.uint8),
        ]
        return self.add("MatMulIntegerToFloat", inputs, domain=MS)

    def _centred_bytes(self, x: str, divisor_K: npt.NDArray[np.float32] | None) -> tuple[str, str]:
        """Bytes around 128 and each token's largest magnitude ``[..., 1]``; shared by all products of ``x``."""
        if x not in self._quantized:
            value = x if divisor_K is None else self.add("Mul", [x, self.constant(f"{x}.factors", 1 / divisor_K)])
            last = self.constant("last_axis", [-1], np.int64)
            peak = self.add("ReduceMax", [self.add("Abs", [value]), last], keepdims=1)
            peak = self.add("Max", [peak, self.constant("tiny", 1e-20)])
            self._quantized[x] = (self._bytes(value, peak, 128), peak)
        return self._quantized[x]

    def _bytes(self, x: str, peak: str, zero: int) -> str:
        scaled = self.add("Mul", [x, self.add("Div", [self.constant(f"range_{zero}", 255.0 - zero), peak])])
        inputs = [scaled, self.constant("one", 1.0), self.constant(f"zero_{zero}", zero, np.uint8)]
        return self.add("QuantizeLinear", inputs)

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

    def model(
        self, outputs: dict[str, tuple[str, int]], metadata: dict[str, str], watched: Mapping[str, str] | None = None
    ) -> bytes:
        """Serialise.

        Args:
            outputs: the value and element type, ``[spans, width]``, that each output shows.
            metadata: stored with the model.
            watched: further outputs: values ``[batch, tokens, channels]`` of the inside, float32.
        """
        inside = dict(watched or {})
        for shown, value in [*((name, value) for name, (value, _) in outputs.items()), *inside.items()]:
            self.nodes.append(helper.make_node("Identity", [value], [shown], name=shown))
        inputs: list[ValueInfoProto] = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("span_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("span_lengths", TensorProto.FLOAT, ["spans"]),
        ]
        results = [helper.make_tensor_value_info(n, kind, ["spans", "width"]) for n, (_, kind) in outputs.items()]
        results += [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "tokens", None]) for n in inside]
        graph = helper.make_graph(self.nodes, "encoder", inputs, results, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MS, 1)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="diffembed")
        helper.set_model_props(proto, metadata)
        return bytes(proto.SerializeToString())


def _reference(name: str, kind: int, shape: Sequence[int], location: str, offset: int, length: int) -> TensorProto:
    """A tensor whose bytes stand elsewhere."""
    proto = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = proto.external_data.add()
        entry.key, entry.value = key, str(value)
    return proto
