"""Export: a model directory gets ONNX graphs; one of another layout becomes a model directory of ours first.

``onnx/model_int8.onnx`` (and ``onnx/model.onnx`` in fp32 if wanted) holds the encoder, the pooling and the quantizer.
The token table, most of a small model, is not stored again: the graph refers to its bytes in ``model.safetensors``, and
the runtime hands them over as mapped memory. Needs the ``onnx`` package, no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from diffembed.errors import InputError, MissingExtraError, ModelError, NotExportableError
from diffembed.models.adopt import adopt
from diffembed.models.checkpoint import CONFIG_FILE, ModelConfig, read_model_config
from diffembed.models.files import atomic_directory, atomic_file
from diffembed.models.foreign import find_source
from diffembed.models.integers import Int8Report
from diffembed.models.sample_texts import SAMPLE_TEXTS
from diffembed.runtime.onnx import GRAPHS

Report = Callable[[Int8Report], None]
Precision = Literal["int8", "fp32"]
ONNX_FILES = GRAPHS
_LARGEST_GRAPH = 2**31 - 1  # protobuf's limit


@dataclass(frozen=True, slots=True)
class Int8Options:
    """How weights are put in integers.

    Attributes:
        texts: what the model is calibrated on; texts like those it will read are best.
        keep_float: linear layers that stay in float32: names, or patterns with ``*``.
        min_cosine: least mean cosine to the fp32 vectors over the texts; until it holds, the most sensitive layers stay
            in float32.
    """

    texts: Sequence[str] = SAMPLE_TEXTS
    keep_float: Sequence[str] = ()
    min_cosine: float | None = None


def export_onnx(
    source: str | Path,
    into: str | Path | None = None,
    *,
    precisions: Sequence[Precision] = ("int8",),
    int8: Int8Options = Int8Options(),
    report: Report = lambda cost: None,
) -> Path:
    """Write ONNX graphs of a model.

    Args:
        source: a diffembed model directory; a sentence-transformers directory that is mean pooling over a BERT, or a
            pplx-embed checkpoint in one file.
        into: the model directory to make; ``None`` or the source itself adds the graphs to a diffembed directory in
            place. A directory that exists is replaced as a whole.
        precisions: ``int8`` (weights and activations in integers), ``fp32``.
        int8: how weights are put in integers.
        report: told what the int8 weights cost.

    Returns:
        The model directory.

    Raises:
        InputError: an unknown precision, layer or bound; settings of ``int8`` where none is made; one of the two
            directories lies within the other.
        ModelError: the source is damaged, or its pooling is not supported.
        NotExportableError: its architecture has no graph, or the graph would be larger than a file can be.
        MissingExtraError: the ``onnx`` package is not installed.
    """
    root = Path(source)
    if unknown := [p for p in precisions if p not in ONNX_FILES]:
        raise InputError(f"precision {unknown[0]!r} is not known; choose from {', '.join(ONNX_FILES)}")
    if "int8" not in precisions and int8 != Int8Options():
        raise InputError("texts, keep_float and min_cosine are settings of int8 weights; add precision int8")
    target = root if into is None else Path(into)
    here, there = root.resolve(), target.resolve()
    if here != there and (here in there.parents or there in here.parents):
        raise InputError(f"{target} and {root} lie within each other; give a directory beside the model")
    if (root / CONFIG_FILE).exists():
        config = read_model_config(root)
        graphs = build_graphs(root, config, precisions, int8, report)
        if here == there:
            (root / "onnx").mkdir(exist_ok=True)
            for precision, graph in graphs.items():
                with atomic_file(root / ONNX_FILES[precision]) as file:
                    file.write_bytes(graph)
            return target
        with atomic_directory(target) as folder:
            shutil.copytree(root, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("onnx"))
            _write_graphs(folder, graphs)
        return target
    if here == there:
        raise InputError(f"{root} is not a directory of diffembed's; give another directory to export into")
    found = find_source(root)
    with atomic_directory(target) as folder:
        config = adopt(found, folder)
        try:
            _write_graphs(folder, build_graphs(folder, config, precisions, int8, report))
        except ModelError as error:
            raise type(error)(str(error).replace(str(folder), str(root))) from None
    return target


def build_graphs(
    root: Path, config: ModelConfig, precisions: Sequence[Precision], int8: Int8Options, report: Report
) -> dict[Precision, bytes]:
    """The serialised ONNX models of a directory's weights (see ``runtime/onnx.py`` for inputs and outputs)."""
    try:
        from diffembed.models.calibrate import choose_plan
        from diffembed.models.encoder_graph import GraphSource
        from diffembed.models.graph import GraphBuilder
    except ImportError:
        raise MissingExtraError("the ONNX export needs the onnx package; add it with: pip install onnx") from None
    source = GraphSource(root, config)
    graphs: dict[Precision, bytes] = {}
    for precision in precisions:
        about = {"precision": precision, "quantizer": config.quantizer, "name": config.name}
        plan = None
        if precision == "int8":
            plan, cost = choose_plan(source, int8.texts, keep_float=int8.keep_float, min_cosine=int8.min_cosine)
            about["int8"] = json.dumps(asdict(cost))
            report(cost)
        g = GraphBuilder(plan)
        outputs = source.write(g)
        if sum(t.ByteSize() for t in g.initializers.values()) > _LARGEST_GRAPH:
            raise NotExportableError(
                f"{root} is too large for one {precision} ONNX file (2 GB); export int8, or use runtime='torch'"
            )
        graphs[precision] = g.model(outputs, about)
    return graphs


def _write_graphs(folder: Path, graphs: dict[Precision, bytes]) -> None:
    (folder / "onnx").mkdir(exist_ok=True)
    for precision, graph in graphs.items():
        (folder / ONNX_FILES[precision]).write_bytes(graph)
