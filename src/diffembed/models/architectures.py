"""The encoder families that export to ONNX: decoders like Llama and Qwen3, and BERT (MiniLM and its kin).

Each function reads a stock ``config.json`` and its tensors (numpy, no torch) and writes the states of all tokens,
``[B, T, D]``, into a ``GraphBuilder``. Formulas follow ``transformers`` class for class; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from diffembed.errors import NotExportableError
from diffembed.models.equalise import Fold
from diffembed.models.graph import MS, GraphBuilder

Array = npt.NDArray[Any]
_GELU_LEAST = -0.17  # the least value of GELU is -0.16997
Tensors = Callable[[str], Array]


def decoder_states(g: GraphBuilder, config: dict[str, Any], tensor: Tensors, embedded: str) -> str:
    """A Llama, Mistral, Qwen2, Qwen3 or SmolLM3 base model that reads both ways, its final norm included.

    Args:
        g: takes the nodes.
        config: stock ``config.json``.
        tensor: gives a weight by its stock name without ``model.``.
        embedded: token embeddings ``[B, T, D]``, float32.
    """
    family = str(config["model_type"])
    theta = _rope_base(config, family)
    heads, kv_heads, head_dim = _heads(config)
    eps = float(config["rms_norm_eps"])

    def norm(x: str, name: str) -> str:
        inputs = [x, g.constant(name, tensor(name))]
        return g.add("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=eps, stash_type=1)

    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    positions = g.add("Cast", [g.positions("input_ids")], to=TensorProto.FLOAT)
    angles = g.add("Mul", [g.reshape(positions, [-1, 1]), g.constant("rope_frequencies", frequencies)])
    cos, sin = g.add("Cos", [angles]), g.add("Sin", [angles])
    first = g.constant("first_position", [0], np.int64)
    mask = g.add("Cast", ["attention_mask"], to=TensorProto.INT32)

    def projected(x: str, name: str) -> str:
        product = g.linear(x, name, tensor(name + ".weight"))
        bias = f"{name}.bias"
        return g.add("Add", [product, g.constant(bias, tensor(bias))]) if family == "qwen2" else product

    def normed_heads(x: str, name: str, count: int) -> str:
        """Qwen3's norm of each head. It forgets a positive factor, so the product before it may keep one."""
        product = g.linear_unscaled(x, f"{name}_proj", tensor(f"{name}_proj.weight"))
        per_head = norm(g.reshape(product, [0, 0, count, head_dim]), f"{name}_norm.weight")
        return g.reshape(per_head, [0, 0, count * head_dim])

    def placed(x: str, layer: int, part: str, count: int) -> str:
        """Queries or keys, turned by their positions."""
        name = f"layers.{layer}.self_attn.{part}"
        flat = normed_heads(x, name, count) if family == "qwen3" else projected(x, name + "_proj")
        if family == "smollm3" and not config["no_rope_layers"][layer]:
            return flat
        return g.add("RotaryEmbedding", [flat, first, cos, sin], domain=MS, interleaved=0)

    def shared_heads(x: str) -> str:
        """Grouped attention: each key / value head stands once for every query head that reads it."""
        if heads == kv_heads:
            return x
        apart = g.reshape(x, [0, 0, kv_heads, 1, head_dim])
        copies = g.constant("head_copies", [1, 1, 1, heads // kv_heads, 1], np.int64)
        return g.reshape(g.add("Expand", [apart, copies]), [0, 0, heads * head_dim])

    residual = embedded
    normed = norm(embedded, "layers.0.input_layernorm.weight")
    layers = int(config["num_hidden_layers"])
    for i in range(layers):
        at = f"layers.{i}.self_attn."
        q, k = placed(normed, i, "q", heads), placed(normed, i, "k", kv_heads)
        v = projected(normed, at + "v_proj")
        attended = g.add(
            "MultiHeadAttention", [q, shared_heads(k), shared_heads(v), "", mask], domain=MS, num_heads=heads
        )
        attended = g.linear(attended, f"{at}o_proj", tensor(f"{at}o_proj.weight"))
        normed, residual = _skip_rms(g, attended, residual, f"layers.{i}.post_attention_layernorm.weight", tensor, eps)
        mlp = f"layers.{i}.mlp."
        gate = g.linear(normed, mlp + "gate_proj", tensor(mlp + "gate_proj.weight"))
        up = g.linear(normed, mlp + "up_proj", tensor(mlp + "up_proj.weight"))
        gated = g.add("Mul", [g.add("QuickGelu", [gate], domain=MS, alpha=1.0), up])  # alpha 1: x * sigmoid(x)
        down = g.linear(gated, mlp + "down_proj", tensor(mlp + "down_proj.weight"))
        following = f"layers.{i + 1}.input_layernorm.weight" if i + 1 < layers else "norm.weight"
        normed, residual = _skip_rms(g, down, residual, following, tensor, eps)
    return normed


def bert_states(g: GraphBuilder, config: dict[str, Any], tensor: Tensors, embedded: str) -> str:
    """BERT encoder (``BertModel`` without its pooler); segment 0 everywhere.

    Args:
        g: takes the nodes.
        config: stock ``config.json``.
        tensor: gives a weight by its stock name without ``bert.``.
        embedded: word embeddings ``[B, T, D]``, float32.
    """
    _require(config, "hidden_act", "gelu")
    _require(config, "position_embedding_type", "absolute")
    heads, eps = int(config["num_attention_heads"]), float(config["layer_norm_eps"])
    places = tensor("embeddings.position_embeddings.weight") + tensor("embeddings.token_type_embeddings.weight")[:1]
    added = g.add("Gather", [g.constant("places", places), g.positions("input_ids")])
    x = g.add("Add", [embedded, added])
    norm = [g.constant(f"embeddings.LayerNorm.{p}", tensor(f"embeddings.LayerNorm.{p}")) for p in ("weight", "bias")]
    x = g.add("LayerNormalization", [x, *norm], axis=-1, epsilon=eps)
    mask = g.add("Cast", ["attention_mask"], to=TensorProto.INT32)

    def weights(name: str) -> tuple[str, Array]:
        return name, tensor(name + ".weight")

    def skip(value: str, residual: str, bias: Array, name: str) -> str:
        parts = [g.constant(n, tensor(n)) for n in (f"{name}.weight", f"{name}.bias")]
        parts.append(g.constant(f"{name}.skip", bias))
        return g.add("SkipLayerNormalization", [value, residual, *parts], domain=MS, epsilon=eps)

    for i in range(int(config["num_hidden_layers"])):
        at = f"encoder.layer.{i}.attention."
        names = [f"{at}self.{part}" for part in ("query", "key", "value")]
        q, k, v = (g.linear(x, *weights(name)) for name in names)
        projected = g.constant(f"{at}self.bias", np.concatenate([tensor(name + ".bias") for name in names]))
        attended = g.add("MultiHeadAttention", [q, k, v, projected, mask], domain=MS, num_heads=heads)
        attended = g.linear(attended, *weights(at + "output.dense"))
        x = skip(attended, x, tensor(at + "output.dense.bias"), at + "output.LayerNorm")
        wide = f"encoder.layer.{i}.intermediate.dense"
        inner = g.linear(x, *weights(wide))
        inner = g.add("BiasGelu", [inner, g.constant(wide + ".bias", tensor(wide + ".bias"))], domain=MS)
        out = f"encoder.layer.{i}.output"
        outer, bias = g.linear_above(inner, *weights(out + ".dense"), tensor(out + ".dense.bias"), _GELU_LEAST)
        x = skip(outer, x, bias, out + ".LayerNorm")
    return x


def decoder_folds(config: dict[str, Any]) -> list[Fold]:
    """The channels of ``decoder_states`` that may be scaled.

    The weights of the norms take what q, k, v and gate, up read; a value row, and an up row, take what o and down read
    (attention and the gate's product are linear in them).
    """
    heads, kv_heads, head_dim = _heads(config)
    value = ("v_proj.weight", "v_proj.bias") if config["model_type"] == "qwen2" else ("v_proj.weight",)
    folds = []
    for i in range(int(config["num_hidden_layers"])):
        at, mlp = f"layers.{i}.self_attn.", f"layers.{i}.mlp."
        reads = tuple(f"{at}{p}_proj" for p in "qkv")
        folds += [
            Fold(reads, (f"layers.{i}.input_layernorm.weight",)),
            Fold((at + "o_proj",), tuple(at + name for name in value), copies=heads // kv_heads, block=head_dim),
            Fold((mlp + "gate_proj", mlp + "up_proj"), (f"layers.{i}.post_attention_layernorm.weight",)),
            Fold((mlp + "down_proj",), (mlp + "up_proj.weight",)),
        ]
    return folds


def bert_folds(config: dict[str, Any]) -> list[Fold]:
    """The channels of ``bert_states`` that may be scaled.

    A BERT norm feeds the residual as well, so nothing before the layers can take the factors: the graph divides. (For
    what the values and GELU give, factors were tried on all-MiniLM-L6-v2 and gained nothing.)
    """
    folds = []
    for i in range(int(config["num_hidden_layers"])):
        at = f"encoder.layer.{i}."
        folds.append(Fold(tuple(f"{at}attention.self.{part}" for part in ("query", "key", "value"))))
        folds.append(Fold((f"{at}intermediate.dense",)))
    return folds


def _skip_rms(g: GraphBuilder, x: str, residual: str, name: str, tensor: Tensors, eps: float) -> tuple[str, str]:
    """``(norm(x + residual), x + residual)`` in one node."""
    inputs = [x, residual, g.constant(name, tensor(name))]
    normed = g.add("SkipSimplifiedLayerNormalization", inputs, domain=MS, outputs=4, epsilon=eps)
    return normed, f"{normed}_3"


def _heads(config: dict[str, Any]) -> tuple[int, int, int]:
    """Query heads, key and value heads, width of a head."""
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    return heads, kv_heads, int(config.get("head_dim") or config["hidden_size"] // heads)


def _rope_base(config: dict[str, Any], family: str) -> float:
    """The base of the rotary frequencies; refuses a decoder that ``decoder_states`` would compute otherwise."""
    _require(config, "hidden_act", "silu")
    _require(config, "mlp_bias", False)
    _require(config, "attention_bias", False)
    _require(config, "use_sliding_window", False)
    if family == "mistral":
        _require({"sliding_window": 4096} | config, "sliding_window", None)
    older = {"rope_theta": config.get("rope_theta", 10000.0)} | (config.get("rope_scaling") or {})
    rope = older | (config.get("rope_parameters") or {})
    _require({"rope_type": rope.get("type", "default")} | rope, "rope_type", "default")
    return float(rope["rope_theta"])


def _require(config: dict[str, Any], key: str, value: object) -> None:
    found = config.get(key, value)
    if found != value:
        raise NotExportableError(
            f"the ONNX export knows {key} {value!r}, this config has {found!r}; use runtime='torch'"
        )


_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
STATES: dict[str, Callable[[GraphBuilder, dict[str, Any], Tensors, str], str]] = {
    "bert": bert_states,
    **dict.fromkeys(_DECODERS, decoder_states),
}
FOLDS: dict[str, Callable[[dict[str, Any]], list[Fold]]] = {
    "bert": bert_folds,
    **dict.fromkeys(_DECODERS, decoder_folds),
}
PREFIXES = {"bert": "bert.", **dict.fromkeys(_DECODERS, "model.")}  # of weights saved with a head; stripped
TOKEN_TABLES = {
    "bert": "embeddings.word_embeddings.weight",
    **dict.fromkeys(_DECODERS, "embed_tokens.weight"),
}
