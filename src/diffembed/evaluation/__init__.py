"""How good a model is: judged retrieval tasks, exact search, trec_eval's figures, and the baselines to compare with."""

from diffembed.data.beir import RetrievalTask, load_beir, split_of
from diffembed.evaluation.metrics import MEASURES, score_queries, score_run
from diffembed.evaluation.ranking import TextEncoder
from diffembed.evaluation.retrieval import (
    RetrievalReport,
    evaluate_bm25,
    evaluate_encoder,
    evaluate_retrieval,
)

__all__ = [
    "MEASURES",
    "RetrievalReport",
    "RetrievalTask",
    "TextEncoder",
    "evaluate_bm25",
    "evaluate_encoder",
    "evaluate_retrieval",
    "load_beir",
    "score_queries",
    "score_run",
    "split_of",
]
