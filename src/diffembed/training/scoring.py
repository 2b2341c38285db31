"""A run's models as a user will run them: ONNX graphs where there is a form for it, and nDCG@10 on development sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffembed.data.beir import RetrievalTask, load_beir
from diffembed.data.sections import load_sections
from diffembed.errors import NotExportableError
from diffembed.training.configs import ScoreConfig
from diffembed.training.state import Report

if TYPE_CHECKING:
    from diffembed.models.export import Precision

LATE = " late"  # after the name of a contextual set: the chunks of a document were read together


def write_graphs(model: Path, precisions: Sequence[Precision], report: Report) -> None:
    """Give a model directory its ONNX graphs, and report what int8 weights cost.

    A graph that cannot be is reported too; the torch runtime then runs the model.
    """
    from diffembed.models.export import export_onnx

    for precision in precisions:
        try:
            export_onnx(model, precisions=(precision,), report=lambda cost: report(str(cost)))
        except NotExportableError as error:
            report(f"no {precision} ONNX graph, the torch runtime runs the model: {error}")


def retrieval_scores(model: Path, data_root: Path, score: ScoreConfig, report: Report) -> dict[str, float]:
    """nDCG@10 of int8 vectors by set, development queries, fp32 weights; and their ``mean``.

    Contextual sets and the sections of long documents count twice: chunks read alone, and together (``NAME late``).
    """
    from diffembed.evaluation.ranker import load_encoder
    from diffembed.evaluation.retrieval import evaluate_encoder

    write_graphs(model, ("fp32",), report)
    encoder = load_encoder(str(model))
    alone: tuple[bool, ...] = (False,)
    both: tuple[bool, ...] = (False, True)
    tasks: list[tuple[str, RetrievalTask, tuple[bool, ...]]] = []
    for names, how in ((score.sets, alone), (score.contextual, both)):
        tasks += [(name, load_beir(data_root / name, "dev", split_by=score.split_by), how) for name in names]
    tasks += [(f"{name} sections", load_sections(data_root / name, "dev"), both) for name in score.sections]
    scores = {}
    for name, task, forms in tasks:
        for together in forms:
            result = evaluate_encoder(task, encoder, dtype="int8", contextual=together)
            scores[name + LATE * together] = round(result.scores["ndcg@10"], 4)
    scores["mean"] = round(float(np.mean(list(scores.values()))), 4)
    return scores
