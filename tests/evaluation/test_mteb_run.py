"""mteb's benchmarks by name, on small copies of datasets in the hub's form, read by mteb's own loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.hub_copies import DOCUMENTS, QRELS, QUERIES, Rows, judged, near, rows, task, write_dataset

from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError
from diffembed.evaluation import RetrievalTask, evaluate_bm25, evaluate_encoder
from diffembed.evaluation.baselines import SentenceTransformersEncoder
from diffembed.evaluation.compare import compare
from diffembed.evaluation.results import MTEB_FILES, read_results

pytest.importorskip("mteb")

import mteb

from diffembed.evaluation import mteb_run
from diffembed.evaluation.mteb_models import MtebModel, load_mteb_model
from diffembed.evaluation.mteb_run import run_benchmark
from diffembed.evaluation.mteb_tasks import find_tasks
from diffembed.integrations.mteb import retrieval_task

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """NFCorpus as the hub has it: JSON lines, the judgements under `default`."""
    configs = {"corpus": {"corpus": rows(DOCUMENTS)}, "queries": {"queries": rows(QUERIES | {"q9": "not judged"})}}
    write_dataset(tmp_path / "data" / "mteb" / "nfcorpus", configs | {"default": {"test": judged()}}, parquet=False)
    return tmp_path / "data"


def test_a_task_from_a_local_copy(data: Path, tmp_path: Path, model: MtebModel, tiny_model_dir: Path) -> None:
    said: list[str] = []
    into = tmp_path / "results"
    found = find_tasks("NFCorpus")
    (result,) = run_benchmark(found, model, into, data=data, command="diffembed evaluate NFCorpus", report=said.append)
    ours = evaluate_encoder(task(), Encoder.load(tiny_model_dir), dtype="float32")
    near(result.scores, ours.scores)
    assert (result.benchmark, result.task, result.main) == ("mteb", "NFCorpus", "ndcg@10")
    assert result.counts == {"queries": 3, "documents": 6, "truncated": 0}
    assert result.by_query.keys() == QUERIES.keys()
    for query, scores in result.by_query.items():
        assert scores["ndcg@10"] == pytest.approx(ours.by_query[query]["ndcg@10"])
    assert result.data["revision"] == found.tasks[0].metadata.revision
    assert "Read from a local copy" in result.notes[-1]
    assert said == [f"{model.name} 1/1 NFCorpus: ndcg@10 {result.score:.4f} ({result.cost['seconds']:.1f} s)"]
    (kept,) = read_results([into])
    assert kept.environment["command"] == "diffembed evaluate NFCorpus"
    assert kept.settings == model.settings | {"split": "test"}
    assert compare(kept, kept).p == 1.0


def test_mteb_reads_its_own_files_again(data: Path, tmp_path: Path, model: MtebModel) -> None:
    into = tmp_path / "results"
    (result,) = run_benchmark(find_tasks("NFCorpus"), model, into, data=data)
    cache = mteb.ResultCache(into / MTEB_FILES)
    theirs = cache.load_task_result("NFCorpus", model.meta, raise_if_not_found=True)
    assert theirs.get_score() == pytest.approx(result.score)
    assert theirs.dataset_revision == result.data["revision"]
    loaded = cache.load_results(models=[model.meta], tasks=["NFCorpus"])
    assert loaded.model_results[0].model_revision == model.revision == model.meta.revision
    from huggingface_hub import ModelCard

    (card,) = (into / MTEB_FILES / "cards").rglob("README.md")
    (shown,) = ModelCard.load(card).data.eval_results
    assert (shown.dataset_type, shown.dataset_split, shown.metric_type) == ("mteb/nfcorpus", "test", "ndcg_at_10")
    assert shown.metric_value == pytest.approx(100 * result.score, abs=1e-3)
    # Another task joins the card, and another form of the vectors has its own.
    (data / "mteb" / "nfcorpus").rename(data / "SCIDOCS")
    run_benchmark(find_tasks("SCIDOCS"), model, into, data=data)
    assert {one.dataset_type for one in ModelCard.load(card).data.eval_results} == {"mteb/nfcorpus", "mteb/scidocs"}
    run_benchmark(find_tasks("SCIDOCS"), load_mteb_model(model.name, dtype="binary"), into, data=data)
    assert len(list((into / MTEB_FILES / "cards").rglob("README.md"))) == 2
    # A damaged file of mteb's is named, when the task is asked for again and ours is gone.
    cache.get_task_result_path("SCIDOCS", model.meta).write_text("{}", encoding="utf-8")
    for file in into.glob("mteb/SCIDOCS/*.json"):
        file.unlink()
    with pytest.raises(InputError, match=r"SCIDOCS.json cannot be read as a result of mteb .*; remove it"):
        run_benchmark(find_tasks("SCIDOCS"), model, into, data=data)


def test_a_task_is_measured_once_for_its_data(
    data: Path, tmp_path: Path, model: MtebModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    into, said = tmp_path / "results", list[str]()
    (first,) = run_benchmark(find_tasks("NFCorpus"), model, into, data=data)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was measured again")

    with monkeypatch.context() as patch:
        patch.setattr(model.model, "index", refuse)
        (again,) = run_benchmark(find_tasks("NFCorpus"), model, into, data=data, report=said.append)
        assert again.scores == first.scores
        assert said[0].endswith("(was there)")
        # Our result is lost, mteb's is there: it is written again from that, queries included.
        next(into.glob("mteb/NFCorpus/*.json")).unlink()
        (third,) = run_benchmark(find_tasks("NFCorpus"), model, into, data=data)
        assert third.scores == pytest.approx(first.scores, abs=1e-6)  # mteb's file has six digits
        assert third.by_query == first.by_query
    other = {"q0": {"d3": 1}, "q1": {"d4": 1}}
    write_dataset(
        data / "NFCorpus",
        {
            "corpus": {"corpus": rows(DOCUMENTS)},
            "queries": {"queries": rows(QUERIES)},
            "default": {"test": judged(other)},
        },
    )
    (changed,) = run_benchmark(find_tasks("NFCorpus"), model, into, data=data)  # DATA/TASK comes before DATA/ORG/NAME
    assert changed.by_query.keys() == other.keys()
    assert changed.data["sha256"] != first.data["sha256"]


def test_bm25_and_its_exclusions(data: Path, tmp_path: Path) -> None:
    bm25 = load_mteb_model("bm25")
    (result,) = run_benchmark(find_tasks("NFCorpus"), bm25, tmp_path / "results", data=data)
    near(result.scores, evaluate_bm25(task()).scores)
    with pytest.raises(InputError, match="bm25 has no vectors"):
        load_mteb_model("bm25", dims=64)


def pairs_of_sentences() -> tuple[RetrievalTask, Rows]:
    """Thirty documents of two sentences each, the one a title; graded by which of them a query is about."""
    sentences = list(DOCUMENTS.values())
    asked = {f"q{i}": " ".join(reversed(sentence.split()[-4:])) for i, sentence in enumerate(sentences)}
    places = [(i, j) for i in range(6) for j in range(6) if i != j]
    corpus = [{"_id": f"d{i}{j}", "title": sentences[i], "text": sentences[j]} for i, j in places]
    qrels = {f"q{i}": {f"d{a}{b}": 2 if a == i else 1 for a, b in places if i in (a, b)} for i in range(6)}
    texts = tuple(f"{row['title']}\n{row['text']}" for row in corpus)
    return RetrievalTask("pairs", tuple(row["_id"] for row in corpus), texts, asked, qrels), corpus


def test_minilm_scores_the_same_through_our_harness_and_through_mteb_s_wrapper(
    tmp_path: Path, minilm_source: Path
) -> None:
    pairs, corpus = pairs_of_sentences()
    configs = {"corpus": {"corpus": corpus}, "queries": {"queries": rows(pairs.queries)}}
    data = write_dataset(tmp_path / "NFCorpus", configs | {"default": {"test": judged(pairs.qrels)}}).parent
    wrapped = load_mteb_model(f"st:{minilm_source}")
    assert type(wrapped.model).__module__.startswith("mteb.")
    assert wrapped.settings == {
        "dtype": "float32", "query_dtype": "float32", "dims": 384, "contextual": False, "max_tokens": 256
    }  # fmt: skip
    (theirs,) = run_benchmark(find_tasks("NFCorpus"), wrapped, tmp_path / "results", data=data)
    assert 0.5 < theirs.score < 1  # neither all found nor all missed
    local = mteb.evaluate(wrapped.model, retrieval_task(pairs), cache=None, co2_tracker=False, show_progress_bar=False)
    own = Encoder.load(minilm_source)
    through_ours = load_mteb_model(str(minilm_source), dtype="float32")
    (adapted,) = run_benchmark(find_tasks("NFCorpus"), through_ours, tmp_path / "results", data=data)
    for harness in (SentenceTransformersEncoder(str(minilm_source)), own):
        ours = evaluate_encoder(pairs, harness, dtype="float32")
        near(theirs.scores, ours.scores)
        near(adapted.scores, ours.scores)
        assert local.task_results[0].get_score() == pytest.approx(ours.scores["ndcg@10"], abs=1e-5)
        for query in pairs.queries:
            assert theirs.by_query[query]["ndcg@10"] == ours.by_query[query]["ndcg@10"]
            assert adapted.by_query[query]["ndcg@10"] == ours.by_query[query]["ndcg@10"]
    with pytest.raises(InputError, match="leave dtype and dims out"):
        load_mteb_model(f"st:{minilm_source}", dtype="int8")


def test_what_is_odd_about_data_is_said(tmp_path: Path, model: MtebModel) -> None:
    odd = QRELS | {"q2": {"d5": 2, "gone": 1}}
    twice = [*rows(DOCUMENTS), {"_id": "d0", "text": "again"}]
    write_dataset(
        tmp_path / "data" / "NFCorpus",
        {
            "corpus": {"corpus": twice},
            "queries": {"queries": rows(QUERIES | {"q1": " "})},
            "default": {"test": judged(odd)},
        },
    )
    (result,) = run_benchmark(find_tasks("NFCorpus"), model, tmp_path / "results", data=tmp_path / "data")
    assert result.notes[:3] == (
        "The data has 1 judgements of documents that are not in the corpus.",
        "The data has 1 documents that are there twice.",
        "The data has 1 queries without text.",
    )


def test_missing_and_unreadable_copies(data: Path, tmp_path: Path, model: MtebModel) -> None:
    with pytest.raises(InputError) as caught:
        run_benchmark(find_tasks("SCIDOCS"), model, tmp_path / "results", data=data)
    revision = find_tasks("SCIDOCS").tasks[0].metadata.revision
    command = f"hf download mteb/scidocs --repo-type dataset --revision {revision} --local-dir {data / 'mteb/scidocs'}"
    assert str(caught.value) == (
        f"neither {data / 'SCIDOCS'} nor {data / 'mteb/scidocs'} is there, and SCIDOCS needs its data; where there is "
        f"a network: {command}; then give --data {data}"
    )
    (data / "mteb" / "nfcorpus" / "README.md").unlink()
    with pytest.raises(InputError, match=r"nfcorpus cannot be read as the dataset mteb/nfcorpus .*README.md too"):
        run_benchmark(find_tasks("NFCorpus"), model, tmp_path / "results", data=data)


def test_offline_the_error_says_what_to_fetch_and_where_to_put_it(tmp_path: Path, model: MtebModel) -> None:
    with pytest.raises(InputError) as caught:
        run_benchmark(find_tasks("NFCorpus"), model, tmp_path / "results")
    said = str(caught.value)
    assert said.startswith("NFCorpus needs the dataset mteb/nfcorpus (revision ")
    assert "hf download mteb/nfcorpus --repo-type dataset --revision " in said
    assert said.endswith("--local-dir DATA/mteb/nfcorpus; then give --data DATA")
    assert "\n" not in said


def test_a_benchmark_goes_on_without_what_is_missing(
    tmp_path: Path, model: MtebModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    asked: list[str] = []
    load = mteb_run.load_data

    def counting(one: Any, folder: Path | None) -> None:
        asked.append(one.metadata.name)
        if one.metadata.name == "LEMBPasskeyRetrieval":
            one.metadata = one.metadata.model_copy(update={"eval_splits": ["test_256"]})
            local = retrieval_task(task())
            one.dataset, one.data_loaded = {"default": {"test_256": local.dataset["default"]["test"]}}, True
            one._eval_splits = ["test_256"]
            return
        load(one, folder)

    monkeypatch.setattr(mteb_run, "load_data", counting)
    monkeypatch.setattr(mteb_run, "in_cache", lambda path: path == "mteb/LEMBPasskeyRetrieval")
    with pytest.raises(InputError, match=r"5 of 6 tasks were not measured: LEMBNarrativeQARetrieval needs the dataset"):
        run_benchmark(find_tasks("LongEmbed"), model, tmp_path / "results", report=said.append)
    assert asked == ["LEMBNarrativeQARetrieval", "LEMBPasskeyRetrieval"]  # five share a dataset, asked for once
    assert [line.split(": ")[1].split()[0] for line in said] == ["left", "ndcg@1"]
    assert [result.task for result in read_results([tmp_path / "results"])] == ["LEMBPasskeyRetrieval"]


def test_models_that_need_foreign_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from mteb.models.model_implementations import MODEL_REGISTRY

    remote = [name for name, card in MODEL_REGISTRY.items() if card.loader_kwargs.get("trust_remote_code")]
    assert remote
    with pytest.raises(ModelError, match="which diffembed does not run"):
        load_mteb_model(f"st:{remote[0]}")


def test_results_without_queries_of_another_origin(data: Path, tmp_path: Path, model: MtebModel) -> None:
    """mteb's own result file of the hub's data, brought from elsewhere, is taken as it is."""
    from shutil import copytree, rmtree

    (first,) = run_benchmark(find_tasks("NFCorpus"), model, tmp_path / "a", data=data)
    copytree(tmp_path / "a" / MTEB_FILES / "results", tmp_path / "b" / MTEB_FILES / "results")
    rmtree(tmp_path / "a")
    (taken,) = run_benchmark(find_tasks("NFCorpus"), model, tmp_path / "b")
    assert taken.score == pytest.approx(first.score)
    assert (taken.by_query, taken.data.get("sha256")) == ({}, None)
