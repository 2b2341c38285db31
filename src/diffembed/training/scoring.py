"""A run's models as a user will run them: ONNX graphs where there is a form for it, and nDCG@10 on development sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffembed.errors import NotExportableError
from diffembed.training.state import Report

if TYPE_CHECKING:
    from diffembed.models.export import Precision


def write_graphs(model: Path, precisions: Sequence[Precision], report: Report) -> None:
    """Give a model directory its ONNX graphs; one that cannot be is reported, and the torch runtime runs the model."""
    from diffembed.models.export import export_onnx

    for precision in precisions:
        try:
            export_onnx(model, precisions=(precision,))
        except NotExportableError as error:
            report(f"no {precision} ONNX graph, the torch runtime runs the model: {error}")


def retrieval_scores(model: Path, data_root: Path, sets: Sequence[str], report: Report) -> dict[str, float]:
    """nDCG@10 of int8 vectors by set, development queries, fp32 weights; and their ``mean``."""
    from diffembed.evaluation.retrieval import evaluate_retrieval

    write_graphs(model, ("fp32",), report)
    scores = {}
    for name in sets:
        result = evaluate_retrieval(data_root / name, model=str(model), split="dev", dtype="int8")
        scores[name] = round(result.scores["ndcg@10"], 4)
    scores["mean"] = round(float(np.mean(list(scores.values()))), 4)
    return scores
