"""Export: a model directory gets ONNX graphs; a sentence-transformers directory becomes a model directory.

``onnx/model_int8.onnx`` (and ``onnx/model.onnx`` in fp32 if wanted) holds the encoder, the pooling and the quantizer.
The token table, most of a small model, is not stored again: the graph refers to its bytes in ``model.safetensors``, and
the runtime hands them over as mapped memory. Needs the ``onnx`` package, no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffembed.errors import InputError, MissingExtraError, ModelError, NotExportableError
from diffembed.models.checkpoint import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    ModelConfig,
    default_card,
    load_tokenizer,
    read_model_config,
    read_stock_config,
    write_sentence_transformers_files,
)
from diffembed.models.files import atomic_directory, atomic_file, check_safetensors, map_tensor, token_table
from diffembed.runtime.onnx import GRAPHS

Precision = Literal["int8", "fp32"]
ONNX_FILES = GRAPHS
_LARGEST_GRAPH = 2**31 - 1  # protobuf's limit


def export_onnx(
    source: str | Path, into: str | Path | None = None, *, precisions: Sequence[Precision] = ("int8",)
) -> Path:
    """Write ONNX graphs of a model.

    Args:
        source: a diffembed model directory, or a sentence-transformers directory (BERT family, mean pooling).
        into: the model directory to make; ``None`` or the source itself adds the graphs to a diffembed directory in
            place. A directory that exists is replaced as a whole.
        precisions: ``int8`` (weights and activations in integers), ``fp32``.

    Returns:
        The model directory.

    Raises:
        ModelError: the source is damaged, or its pooling is not supported.
        NotExportableError: its architecture has no graph, or the graph would be larger than a file can be.
        MissingExtraError: the ``onnx`` package is not installed.
    """
    root = Path(source)
    if unknown := [p for p in precisions if p not in ONNX_FILES]:
        raise InputError(f"precision {unknown[0]!r} is not known; choose from {', '.join(ONNX_FILES)}")
    target = root if into is None else Path(into)
    if (root / CONFIG_FILE).exists():
        config = read_model_config(root)
        graphs = {p: build_graph(root, config, p) for p in precisions}
        if target.resolve() == root.resolve():
            (root / "onnx").mkdir(exist_ok=True)
            for precision, graph in graphs.items():
                with atomic_file(root / ONNX_FILES[precision]) as file:
                    file.write_bytes(graph)
            return target
        with atomic_directory(target) as folder:
            shutil.copytree(root, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("onnx"))
            _write_graphs(folder, graphs)
        return target
    config = _read_sentence_transformers(root)
    graphs = {p: build_graph(root, config, p) for p in precisions}
    if target.resolve() == root.resolve():
        raise InputError(f"{root} is a sentence-transformers directory; give another directory to export into")
    with atomic_directory(target) as folder:
        for name in (WEIGHTS_FILE, TOKENIZER_FILE, "config.json", "tokenizer_config.json"):
            if (root / name).exists():
                shutil.copyfile(root / name, folder / name)
        (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        write_sentence_transformers_files(folder, config)
        (folder / "README.md").write_text(default_card(config), encoding="utf-8")
        _write_graphs(folder, graphs)
    return target


def build_graph(root: Path, config: ModelConfig, precision: Precision) -> bytes:
    """The serialised ONNX model of a directory's weights (see ``runtime/onnx.py`` for inputs and outputs)."""
    try:
        from onnx import TensorProto

        from diffembed.models.architectures import PREFIXES, STATES, TOKEN_TABLES
        from diffembed.models.graph import GraphBuilder
    except ImportError:
        raise MissingExtraError("the ONNX export needs the onnx package; add it with: pip install onnx") from None
    stock = read_stock_config(root)
    family = stock.get("model_type")
    if family not in STATES:
        raise NotExportableError(
            f"{root} is of type {family!r}; the ONNX export knows {', '.join(sorted(STATES))}: use runtime='torch'"
        )
    file = root / WEIGHTS_FILE
    stored = check_safetensors(file)
    by_name = {name.removeprefix(PREFIXES[family]): name for name in stored}

    def tensor(name: str) -> Any:
        if name not in by_name:
            raise ModelError(f"{file} lacks the tensor {name} of a {family} model; copy or save it again")
        return np.asarray(map_tensor(file, stored[by_name[name]]), dtype=np.float32)

    g = GraphBuilder(int8=precision == "int8")
    shared = token_table(stored)
    if shared is not None:
        table = g.external(shared, stored[shared], f"../{WEIGHTS_FILE}")
        embedded = g.add("Gather", [table, "input_ids"])
        if stored[shared].dtype != "F32":
            embedded = g.add("Cast", [embedded], to=TensorProto.FLOAT)
    else:
        embedded = g.add("Gather", [g.constant("token_table", tensor(TOKEN_TABLES[family])), "input_ids"])
    states = STATES[family](g, stock, tensor, embedded)
    mean = g.span_means(states, "span_ids", "span_lengths", int(stock["hidden_size"]))
    outputs: dict[str, tuple[str, int]] = {"mean": (mean, TensorProto.FLOAT)}
    if config.quantizer == "tanh-int8":
        outputs["int8"] = (g.tanh_int8(mean), TensorProto.INT8)
    if sum(t.ByteSize() for t in g.initializers.values()) > _LARGEST_GRAPH:
        raise NotExportableError(
            f"{root} is too large for one {precision} ONNX file (2 GB); export int8, or use runtime='torch'"
        )
    return g.model(outputs, {"precision": precision, "quantizer": config.quantizer, "name": config.name})


def _write_graphs(folder: Path, graphs: dict[Precision, bytes]) -> None:
    (folder / "onnx").mkdir(exist_ok=True)
    for precision, graph in graphs.items():
        (folder / ONNX_FILES[precision]).write_bytes(graph)


def _read_sentence_transformers(root: Path) -> ModelConfig:
    """How a plain sentence-transformers directory makes vectors, as a ``ModelConfig``."""
    if not root.is_dir():
        raise ModelError(f"model directory {root} does not exist; give a diffembed or sentence-transformers directory")
    stock = read_stock_config(root)
    check_safetensors(root / WEIGHTS_FILE)
    modules = _read_json(root / "modules.json")
    kinds = [str(m["type"]).rsplit(".", 1)[-1] for m in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{root / 'modules.json'} lists {', '.join(kinds)}; the export knows Transformer, Pooling, Normalize"
        )
    pooling = _read_json(root / str(modules[1]["path"]) / "config.json")
    modes = {k.removeprefix("pooling_mode_") for k, v in pooling.items() if k.startswith("pooling_mode_") and v is True}
    modes |= {str(pooling["pooling_mode"])} if "pooling_mode" in pooling else set()
    if modes - {"mean_tokens", "mean"} or not modes:
        raise ModelError(f"{root} pools by {', '.join(sorted(modes)) or 'nothing'}; the export knows mean pooling only")
    limits = _read_json(root / "sentence_bert_config.json") if (root / "sentence_bert_config.json").exists() else {}
    # The tokenizer's template puts special ids around a text: what it puts around nothing is the prefix and suffix.
    tokenizer = load_tokenizer(root)
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), 0)
    prefix, suffix = tuple(framed[:start]), tuple(framed[start + len(bare) :])
    pad = int(stock.get("pad_token_id") or 0)
    return ModelConfig(
        name=root.name if root.name != "model" else root.parent.name,
        dims=(int(stock["hidden_size"]),),
        max_tokens=int(limits.get("max_seq_length") or stock["max_position_embeddings"]),
        mask_token_id=tokenizer.token_to_id("[MASK]"),
        pad_token_id=pad,
        eot_token_id=suffix[0] if suffix else pad,
        quantizer="none",
        normalize="Normalize" in kinds,
        prefix_ids=prefix,
        suffix_ids=suffix,
        manifest={"exported_from": "sentence-transformers", "model_type": str(stock.get("model_type"))},
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file} is missing; copy the whole model directory again") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not whole JSON ({error}); copy it again") from None
