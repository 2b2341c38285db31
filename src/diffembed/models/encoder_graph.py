"""One model directory as ONNX graphs: weights by their stock names, and the graph with pooling and quantizer inside.

``export.py`` writes such graphs to files, ``calibrate.py`` runs them in memory to see what integers cost.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from diffembed.errors import ModelError, NotExportableError
from diffembed.models.architectures import FOLDS, PREFIXES, STATES, TOKEN_TABLES
from diffembed.models.checkpoint import WEIGHTS_FILE, ModelConfig, read_stock_config
from diffembed.models.equalise import Fold, equalised
from diffembed.models.files import check_safetensors, map_tensor, token_table
from diffembed.models.graph import GraphBuilder

Outputs = dict[str, tuple[str, int]]


class GraphSource:
    """A model directory whose architecture has a graph.

    Args:
        root: the model directory.
        config: its ``diffembed.json``.

    Raises:
        NotExportableError: the architecture has no graph, or its attention is causal.
        ModelError: ``config.json`` or the weights are missing or damaged.
    """

    def __init__(self, root: Path, config: ModelConfig) -> None:
        self.root, self.config = root, config
        self.stock = read_stock_config(root)
        self.family = str(self.stock.get("model_type"))
        if self.family not in STATES:
            raise NotExportableError(
                f"{root} is of type {self.family!r}; the ONNX export knows {', '.join(sorted(STATES))}: "
                "use runtime='torch'"
            )
        if config.attention == "causal":
            raise NotExportableError(
                f"{root} has causal attention; graphs read both ways, and there it would make other vectors: use "
                "runtime='torch'"
            )
        self.file = root / WEIGHTS_FILE
        self.stored = check_safetensors(self.file)
        self.table = token_table(self.stored)
        self._by_name = {name.removeprefix(PREFIXES[self.family]): name for name in self.stored}

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A weight in float32, by its stock name without the family's prefix."""
        if name not in self._by_name:
            raise ModelError(f"{self.file} lacks the tensor {name} of a {self.family} model; copy or save it again")
        return np.asarray(map_tensor(self.file, self.stored[self._by_name[name]]), dtype=np.float32)

    def folds(self) -> list[Fold]:
        """Where channels may be scaled."""
        return FOLDS[self.family](self.stock)

    def write(self, g: GraphBuilder) -> Outputs:
        """Put the whole encoder into a builder (see ``runtime/onnx.py`` for inputs and outputs)."""
        if self.table is not None:
            stored = self.stored[self.table]
            embedded = g.add("Gather", [g.external(self.table, stored, f"../{WEIGHTS_FILE}"), "input_ids"])
            if stored.dtype != "F32":
                embedded = g.add("Cast", [embedded], to=TensorProto.FLOAT)
        else:
            rows = g.constant("token_table", self.tensor(TOKEN_TABLES[self.family]))
            embedded = g.add("Gather", [rows, "input_ids"])
        tensor = self.tensor if g.plan is None else equalised(self.tensor, g.plan)
        states = STATES[self.family](g, self.stock, tensor, embedded)
        mean = g.span_means(states, "span_ids", "span_lengths", int(self.stock["hidden_size"]))
        outputs: Outputs = {"mean": (mean, TensorProto.FLOAT)}
        if self.config.quantizer == "tanh-int8":
            outputs["int8"] = (g.tanh_int8(mean), TensorProto.INT8)
        return outputs
