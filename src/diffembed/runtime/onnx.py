"""The default runtime: onnxruntime on the CPU, no torch.

A packed batch is laid out padded here, because that is what CPU kernels run fastest once sequences are sorted by
length. The graph (written by ``models/export.py``) takes ``input_ids`` and ``attention_mask`` ``[B, T]``, ``span_ids``
``[B, T]`` (the output row each token is averaged into; ``S`` where a token is not pooled) and ``span_lengths`` ``[S]``,
and gives ``mean`` ``[S, D]`` and, for models trained with the INT8 quantizer, ``int8`` ``[S, D]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffembed.errors import ModelError
from diffembed.models.files import check_safetensors, map_tensor, token_table
from diffembed.text.batching import IntArray, PackedBatch
from diffembed.vectors.quantize import FloatArray

GRAPHS: dict[str, str] = {"int8": "onnx/model_int8.onnx", "fp32": "onnx/model.onnx"}
_WEIGHTS = "model.safetensors"


def find_graph(root: Path, precision: Literal["auto", "int8", "fp32"] = "auto") -> tuple[str, Path] | None:
    """The graph to run: ``(precision, file)``; int8 before fp32 when either will do; ``None`` if there is none."""
    for name in GRAPHS if precision == "auto" else (precision,):
        if (root / GRAPHS[name]).exists():
            return name, root / GRAPHS[name]
    return None


class OnnxRuntime:
    """onnxruntime over one graph of a model directory.

    Args:
        root: the model directory.
        precision: ``int8``, ``fp32``, or ``auto`` for the first that is there.
        threads: threads of one operator; ``None`` leaves the choice to onnxruntime (one a physical core).
        pad_token_id: fills the padded places (masked out; any valid id would do).

    Raises:
        ModelError: no such graph, or a graph or weights file that is damaged.
    """

    name = "onnx"

    def __init__(
        self,
        root: Path,
        *,
        precision: Literal["auto", "int8", "fp32"] = "auto",
        threads: int | None = None,
        pad_token_id: int = 0,
    ) -> None:
        import onnxruntime as ort

        found = find_graph(root, precision)
        if found is None:
            wanted = "ONNX graph" if precision == "auto" else f"{precision} ONNX graph ({GRAPHS[precision]})"
            raise ModelError(f"{root} has no {wanted}; make it with: diffembed export {root} --into {root}")
        self.precision, file = found
        self._pad = pad_token_id
        weights = root / _WEIGHTS
        stored = check_safetensors(weights)
        table = token_table(stored)
        options = ort.SessionOptions()
        # Graphs are written in their final form: optimising them again would only cost start-up time.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        # Threads that spin while they wait gain little on an idle machine and cost several times the run when another
        # process wants the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        # The table stays on disk, mapped; kept on self because the session only borrows its memory.
        self._rows: Any = None
        if table is not None:
            self._rows = ort.OrtValue.ortvalue_from_numpy(map_tensor(weights, stored[table]))
            options.add_external_initializers([table], [self._rows])
        try:
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base
            first = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{file} does not load ({first}); copy it again or make it with: diffembed export"
            ) from None

    def _run(self, output: str, batch: PackedBatch) -> Any:
        return self._session.run([output], padded_inputs(batch, self._pad))[0]

    def span_means(self, batch: PackedBatch) -> FloatArray:
        """``[spans, hidden]`` float32."""
        means: FloatArray = self._run("mean", batch)
        return means

    def span_int8(self, batch: PackedBatch) -> Any:
        """``[spans, hidden]`` int8 from the graph's own quantizer (models trained through it only)."""
        return self._run("int8", batch)


def padded_inputs(batch: PackedBatch, pad_token_id: int) -> dict[str, Any]:
    """The graph's four inputs for a packed batch.

    >>> from diffembed.text.batching import TokenizedSequence, pack
    >>> b = pack([TokenizedSequence((5, 6, 7), ((0, 1), (2, 3))), TokenizedSequence((8, 9), ((0, 2),))])
    >>> {name: value.tolist() for name, value in padded_inputs(b, 0).items()}
    {'input_ids': [[5, 6, 7], [8, 9, 0]], 'attention_mask': [[1, 1, 1], [1, 1, 0]],
     'span_ids': [[0, 3, 1], [2, 2, 3]], 'span_lengths': [1.0, 1.0, 2.0]}
    """
    lengths, spans = batch.lengths, batch.spans
    width, count = int(lengths.max()), len(spans)
    real = np.arange(width)[None, :] < lengths[:, None]
    span_lengths = spans[:, 1] - spans[:, 0]
    packed_rows: IntArray = np.full(batch.tokens, count, dtype=np.int64)
    within = np.arange(int(span_lengths.sum())) - np.repeat(np.cumsum(span_lengths) - span_lengths, span_lengths)
    packed_rows[np.repeat(spans[:, 0], span_lengths) + within] = np.repeat(np.arange(count), span_lengths)
    input_ids = np.full(real.shape, pad_token_id, dtype=np.int64)
    span_ids = np.full(real.shape, count, dtype=np.int64)
    input_ids[real], span_ids[real] = batch.token_ids, packed_rows
    return {
        "input_ids": input_ids,
        "attention_mask": real.astype(np.int64),
        "span_ids": span_ids,
        "span_lengths": span_lengths.astype(np.float32),
    }
