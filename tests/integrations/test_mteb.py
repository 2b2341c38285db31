"""``mteb.evaluate`` runs our encoder on local tasks; its figures are those of our own evaluation, chunks included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation import RetrievalTask, evaluate_encoder
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.similarity import similarity

pytest.importorskip("mteb")

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.cache import ResultCache

from diffembed.integrations import mteb as adapter
from diffembed.integrations.mteb import MtebEncoder, retrieval_task

SENTENCES = (
    "the lighthouse keeper counts ships at dawn",
    "he writes each name into a grey book",
    "in winter nobody passes for weeks",
    "melt the butter slowly in a pan",
    "fold in the flour and then the eggs",
    "bake for half an hour until golden",
    "masked tokens are filled in from both sides",
    "the quantizer is part of the model",
    "search engines turn words into vectors",
)
TASK = RetrievalTask(
    name="zoo",
    document_ids=tuple(f"d{i}" for i in range(9)),
    texts=SENTENCES,
    queries={"q0": "counting ships", "q1": "names in a book", "q2": "how to bake", "q3": "vectors for search engines"},
    qrels={"q0": {"d0": 2, "d2": 1}, "q1": {"d1": 1}, "q2": {"d5": 2, "d4": 1}, "q3": {"d8": 1, "d7": 1}},
    # three documents of three chunks, their rows mixed
    doc_ids=("a", "b", "c") * 3,
    chunk_idx=(2, 0, 1, 0, 1, 2, 1, 2, 0),
)


def run(model: MtebEncoder, task: Any, **options: Any) -> dict[str, Any]:
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False, **options)
    scores: dict[str, Any] = result.task_results[0].scores["test"][0]
    return scores


def same_figures(theirs: dict[str, Any], ours: dict[str, float]) -> None:
    for name, their_name in (("ndcg@10", "ndcg_at_10"), ("recall@1", "recall_at_1"), ("recall@100", "recall_at_100")):
        assert theirs[their_name] == pytest.approx(ours[name], abs=1e-4), name  # mteb rounds to five digits
    assert theirs["mrr_at_10"] == pytest.approx(ours["mrr@10"], abs=1e-4)


@pytest.mark.parametrize("contextual", [False, True])
@pytest.mark.parametrize(("dtype", "dims"), [("float32", None), ("int8", 32), ("binary", 64)])
def test_retrieval_scores_are_those_of_our_own_evaluation(
    dtype: VectorDtype, dims: int | None, contextual: bool, tiny_encoder: Encoder
) -> None:
    model = MtebEncoder(tiny_encoder, dtype=dtype, dims=dims, contextual=contextual)
    ours = evaluate_encoder(TASK, tiny_encoder, dtype=dtype, dims=dims, contextual=contextual)
    same_figures(run(model, retrieval_task(TASK)), ours.scores)
    assert (model.truncated, model.empty) == (0, 0)


def test_reading_together_is_what_contextual_models_do(tiny_encoder: Encoder) -> None:
    assert MtebEncoder(tiny_encoder).contextual
    alone, together = (run(MtebEncoder(tiny_encoder, contextual=c), retrieval_task(TASK)) for c in (False, True))
    assert alone["ndcg_at_10"] != together["ndcg_at_10"]


def test_no_document_is_cut_where_mteb_takes_a_corpus_in_pieces(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(MtebEncoder(tiny_encoder), retrieval_task(TASK))

    class Pieces(adapter.SearchEncoderWrapper):  # type: ignore[misc]
        def __init__(self, model: Any, corpus_chunk_size: int = 2) -> None:
            super().__init__(model, corpus_chunk_size=corpus_chunk_size)

    monkeypatch.setattr(adapter, "SearchEncoderWrapper", Pieces)
    pieces = run(MtebEncoder(tiny_encoder), retrieval_task(TASK))
    assert [pieces[name] for name in ("ndcg_at_10", "mrr_at_10")] == [
        whole[name] for name in ("ndcg_at_10", "mrr_at_10")
    ]
    alone = run(MtebEncoder(tiny_encoder, contextual=False), retrieval_task(TASK))
    same_figures(alone, evaluate_encoder(TASK, tiny_encoder, dtype="float32", contextual=False).scores)


def test_empty_and_long_texts_are_counted(tiny_encoder: Encoder) -> None:
    odd = replace(TASK, texts=(" ", "far too long " * 100, *SENTENCES[2:]), doc_ids=None, chunk_idx=None)
    model = MtebEncoder(tiny_encoder)
    assert 0 < run(model, retrieval_task(odd))["ndcg_at_10"] < 1
    assert (model.truncated, model.empty) == (1, 1)
    with pytest.raises(InputError, match="reads at most"):
        run(MtebEncoder(tiny_encoder, truncate=False), retrieval_task(odd))
    windowed = MtebEncoder(tiny_encoder, truncate=False, windows=True)
    run(windowed, retrieval_task(odd))
    assert windowed.truncated == 0


def test_rows_of_a_mixed_corpus_that_are_no_chunks(tiny_encoder: Encoder) -> None:
    mixed = replace(TASK, doc_ids=(None, "b", None, "b", *TASK.doc_ids[4:]))  # type: ignore[index]
    scores = run(MtebEncoder(tiny_encoder), retrieval_task(mixed))
    same_figures(scores, evaluate_encoder(mixed, tiny_encoder, dtype="float32", contextual=True).scores)


def test_a_query_does_not_find_itself_where_the_task_says_so(tiny_encoder: Encoder) -> None:
    ids = ("d0", "d3", "d6")
    itself = replace(
        TASK,
        queries={i: SENTENCES[int(i[1])] for i in ids},
        qrels={"d0": {"d1": 1}, "d3": {"d4": 1}, "d6": {"d7": 1}},
        excluded={i: frozenset({i}) for i in ids},
        doc_ids=None,
        chunk_idx=None,
    )
    scores = run(MtebEncoder(tiny_encoder), retrieval_task(itself))
    same_figures(scores, evaluate_encoder(itself, tiny_encoder, dtype="float32").scores)
    with pytest.raises(InputError, match="leaves out pairs"):
        retrieval_task(replace(TASK, excluded={"q0": frozenset({"d4"})}))


def metadata(name: str, kind: str, score: str) -> Any:
    return TaskMetadata(
        name=name,
        description="local",
        dataset={"path": "local", "revision": "local"},
        type=kind,
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class LocalSTS(AbsTaskSTS):  # type: ignore[misc]
    metadata = metadata("LocalSTS", "STS", "cosine_spearman")


class LocalClassification(AbsTaskClassification):  # type: ignore[misc]
    metadata = metadata("LocalClassification", "Classification", "accuracy")
    samples_per_label = 4
    n_experiments = 2


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_similarity_of_sentences(dtype: VectorDtype, tiny_encoder: Encoder) -> None:
    left, right, gold = list(SENTENCES), [*SENTENCES[1:], SENTENCES[0]], [4.0, 1, 0, 3, 5, 2, 0.5, 2.5, 1.5]
    task = LocalSTS()
    task.dataset = DatasetDict({"test": Dataset.from_dict({"sentence1": left, "sentence2": right, "score": gold})})
    task.data_loaded = True
    encoded = [tiny_encoder.encode_queries(side, dtype=dtype, dims=32) for side in (left, right)]
    ours = np.diag(similarity(*encoded))
    scores = run(MtebEncoder(tiny_encoder, dtype=dtype, dims=32), task)
    assert scores["pearson"] == pytest.approx(pearsonr(ours, gold).statistic, abs=1e-4)
    if dtype != "binary":  # equal numbers of differing bits, which the last bit of a cosine puts in some order
        assert scores["cosine_spearman"] == pytest.approx(spearmanr(ours, gold).statistic, abs=1e-4)


def test_classification(tiny_encoder: Encoder) -> None:
    texts = [*SENTENCES[:6], "def f(x): return x", "import numpy as np", "x = f(y) + 1", "for i in x: print(i)"]
    rows = {"text": texts * 2, "label": ([0] * 6 + [1] * 4) * 2}
    task = LocalClassification()
    task.dataset = DatasetDict({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(rows)})
    task.data_loaded = True
    assert run(MtebEncoder(tiny_encoder, dtype="int8"), task)["accuracy"] > 0.8


def test_results_are_filed_by_model_and_options(tiny_encoder: Encoder, tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    for dtype in ("float32", "int8"):
        model = MtebEncoder(tiny_encoder, dtype=dtype, dims=32)  # type: ignore[arg-type]
        mteb.evaluate(model, retrieval_task(TASK), cache=cache, co2_tracker=False, show_progress_bar=False)
    metas = [json.loads(path.read_text()) for path in tmp_path.rglob("model_meta.json")]
    assert len(metas) == 2
    assert len(list(tmp_path.rglob("zoo.json"))) == 2
    for meta in metas:
        assert meta["name"] == "diffembed/tiny"
        assert meta["revision"] == tiny_encoder.fingerprint[:16]
        assert (meta["embed_dim"], meta["max_tokens"]) == (32, 128)
        assert meta["similarity_fn_name"] == "cosine"


def test_the_number_of_parameters_is_the_models(tiny_encoder: Encoder, tiny_backbone: Any) -> None:
    count = sum(parameter.numel() for parameter in tiny_backbone.parameters())
    assert MtebEncoder(tiny_encoder).mteb_model_meta.n_parameters == count
