"""mteb's benchmarks by name, on small copies of datasets in the hub's form, read by mteb's own loaders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError
from diffembed.evaluation import RetrievalTask, evaluate_bm25, evaluate_encoder
from diffembed.evaluation.baselines import SentenceTransformersEncoder
from diffembed.evaluation.compare import compare
from diffembed.evaluation.results import MTEB_FILES, read_results

pytest.importorskip("mteb")

import datasets
import mteb

from diffembed.evaluation import mteb_run
from diffembed.evaluation.mteb_models import MtebModel, load_mteb_model
from diffembed.evaluation.mteb_run import run_benchmark
from diffembed.evaluation.mteb_tasks import find_tasks
from diffembed.integrations.mteb import retrieval_task

DOCUMENTS = {
    "d0": "the lighthouse keeper counts ships at dawn",
    "d1": "he writes each name into a grey book",
    "d2": "in winter nobody passes for weeks",
    "d3": "melt the butter slowly in a pan",
    "d4": "fold in the flour and then the eggs",
    "d5": "bake for half an hour until golden",
}
QUERIES = {"q0": "counting ships", "q1": "names in a book", "q2": "how to bake eggs"}
QRELS = {"q0": {"d0": 2, "d2": 1}, "q1": {"d1": 1}, "q2": {"d5": 2, "d4": 1}}
Rows = Sequence[Mapping[str, Any]]


def task(documents: Mapping[str, str] = DOCUMENTS, qrels: Mapping[str, Mapping[str, int]] = QRELS) -> RetrievalTask:
    """The same data as a task of our own."""
    return RetrievalTask("zoo", tuple(documents), tuple(documents.values()), QUERIES, qrels)


def write_dataset(folder: Path, configs: Mapping[str, Mapping[str, Rows]], *, parquet: bool = True) -> Path:
    """A dataset's repository: a README.md whose head names the parts, and a file for each split of them."""
    head = ["---", "configs:"]
    for config, splits in configs.items():
        head += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            file = folder / config / f"{split}.{'parquet' if parquet else 'jsonl'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if parquet:
                import pyarrow
                import pyarrow.parquet

                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
            else:
                file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            head += [f"  - split: {split}", f"    path: {file.relative_to(folder)}"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]), encoding="utf-8")
    return folder


def rows(texts: Mapping[str, str], key: str = "_id") -> Rows:
    return [{key: identifier, "text": text} for identifier, text in texts.items()]


def judged(qrels: Mapping[str, Mapping[str, int]] = QRELS) -> Rows:
    return [{"query-id": q, "corpus-id": d, "score": gain} for q, gains in qrels.items() for d, gain in gains.items()]


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """NFCorpus as the hub has it: JSON lines, the judgements under `default`."""
    configs = {"corpus": {"corpus": rows(DOCUMENTS)}, "queries": {"queries": rows(QUERIES | {"q9": "not judged"})}}
    write_dataset(tmp_path / "data" / "mteb" / "nfcorpus", configs | {"default": {"test": judged()}}, parquet=False)
    return tmp_path / "data"


@pytest.fixture
def model(tiny_model_dir: Path) -> MtebModel:
    return load_mteb_model(str(tiny_model_dir), dtype="float32", dims=64)


def alone(tiny_model_dir: Path) -> Encoder:
    """What `model` reads with."""
    return Encoder.load(tiny_model_dir)


def near(ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    for name in ("ndcg@10", "mrr@10", "recall@1", "recall@10"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name  # mteb rounds to five digits


def test_a_task_from_a_local_copy(data: Path, tmp_path: Path, model: MtebModel, tiny_model_dir: Path) -> None:
    said: list[str] = []
    into = tmp_path / "results"
    found = find_tasks("NFCorpus")
    (result,) = run_benchmark(found, model, into, data=data, command="diffembed evaluate NFCorpus", report=said.append)
    ours = evaluate_encoder(task(), alone(tiny_model_dir), dtype="float32")
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
    (card,) = (into / MTEB_FILES / "cards").iterdir()
    from huggingface_hub import ModelCard

    (shown,) = ModelCard.load(card).data.eval_results
    assert (shown.dataset_type, shown.metric_type) == ("mteb/nfcorpus", "ndcg_at_10")
    assert shown.metric_value == pytest.approx(100 * result.score, abs=1e-3)


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


def test_minilm_scores_the_same_through_our_harness_and_through_mteb_s_wrapper(
    data: Path, tmp_path: Path, minilm_source: Path
) -> None:
    wrapped = load_mteb_model(f"st:{minilm_source}")
    assert type(wrapped.model).__module__.startswith("mteb.")
    assert wrapped.settings == {
        "dtype": "float32", "query_dtype": "float32", "dims": 384, "contextual": False, "max_tokens": 256
    }  # fmt: skip
    (theirs,) = run_benchmark(find_tasks("NFCorpus"), wrapped, tmp_path / "results", data=data)
    local = mteb.evaluate(wrapped.model, retrieval_task(task()), cache=None, co2_tracker=False, show_progress_bar=False)
    own = Encoder.load(minilm_source)
    through_ours = load_mteb_model(str(minilm_source), dtype="float32")
    (adapted,) = run_benchmark(find_tasks("NFCorpus"), through_ours, tmp_path / "results", data=data)
    for harness in (SentenceTransformersEncoder(str(minilm_source)), own):
        ours = evaluate_encoder(task(), harness, dtype="float32")
        near(theirs.scores, ours.scores)
        near(adapted.scores, ours.scores)
        assert local.task_results[0].get_score() == pytest.approx(ours.scores["ndcg@10"], abs=1e-5)
        for query in QUERIES:
            assert theirs.by_query[query]["ndcg@10"] == ours.by_query[query]["ndcg@10"]
    with pytest.raises(InputError, match="leave dtype and dims out"):
        load_mteb_model(f"st:{minilm_source}", dtype="int8")


def languages(codes: Iterable[str]) -> dict[str, dict[str, Rows]]:
    configs: dict[str, dict[str, Rows]] = {}
    for number, code in enumerate(codes):
        moved = {query: {f"d{(int(d[1]) + number) % 6}": g for d, g in gains.items()} for query, gains in QRELS.items()}
        configs |= {f"{code}-corpus": {"dev": rows(DOCUMENTS)}, f"{code}-queries": {"dev": rows(QUERIES)}}
        configs[f"{code}-qrels"] = {"dev": judged(moved)}
    return configs


def test_languages_one_after_the_other_and_after_a_stop(
    tmp_path: Path, model: MtebModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, into = tmp_path / "data", tmp_path / "results"
    write_dataset(data / "MIRACLRetrievalHardNegatives", languages(["sw", "yo", "de"]))
    found = find_tasks("MIRACLRetrievalHardNegatives", languages=["swa", "yor"])
    assert found.tasks[0].hf_subsets == ["sw", "yo"]
    measured: list[str] = []
    index = model.model.index

    def stopping(corpus: Any, **options: Any) -> None:
        measured.append(options["hf_subset"])
        if len(measured) == 2:
            raise KeyboardInterrupt
        index(corpus, **options)

    monkeypatch.setattr(model.model, "index", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(found, model, into, data=data)
    again = find_tasks("MIRACLRetrievalHardNegatives", languages=["swa", "yor"])
    (result,) = run_benchmark(again, model, into, data=data)
    assert measured == ["sw", "yo", "yo"]
    assert [(group.by, group.value, group.queries) for group in result.groups] == [
        ("language", "sw", 3),
        ("language", "yo", 3),
    ]
    assert result.score == pytest.approx(np.mean([group.scores["ndcg@10"] for group in result.groups]))
    assert set(result.by_query) == {f"{code}/{query}" for code in ("sw", "yo") for query in QUERIES}
    by_query = np.mean([scores["ndcg@10"] for scores in result.by_query.values()])
    assert result.score == pytest.approx(by_query, abs=1e-5)
    assert result.settings["subsets"] == ["sw", "yo"]
    (narrow,) = run_benchmark(find_tasks("MIRACLRetrievalHardNegatives", languages=["deu"]), model, into, data=data)
    assert measured == ["sw", "yo", "yo", "de"]
    assert narrow.groups == ()


def test_longembed_s_passkey_by_length(tmp_path: Path, model: MtebModel) -> None:
    lengths = [256, 32768]
    configs: dict[str, dict[str, Rows]] = {"corpus": {}, "queries": {}, "qrels": {}}
    for length in lengths:
        split = f"test_{length}"
        configs["corpus"][split] = [{"id": i, "title": "", "text": text} for i, text in DOCUMENTS.items()]
        configs["queries"][split], configs["qrels"][split] = rows(QUERIES, "id"), judged()
    write_dataset(tmp_path / "data" / "mteb" / "LEMBPasskeyRetrieval", configs)
    found = find_tasks("LEMBPasskeyRetrieval")
    found.tasks[0].filter_eval_splits([f"test_{length}" for length in lengths])  # all eight take mteb its time
    (result,) = run_benchmark(found, model, tmp_path / "r", data=tmp_path / "data")
    assert result.main == "ndcg@1"
    assert [(group.by, group.value) for group in result.groups] == [("length", str(length)) for length in lengths]
    assert result.counts["queries"] == 3 * 2
    assert "test_32768/q0" in result.by_query


def test_bright_leaves_out_what_a_query_excludes(tmp_path: Path, tiny_model_dir: Path, model: MtebModel) -> None:
    examples = [
        {"id": query, "query": text, "gold_ids": list(QRELS[query]), "gold_ids_long": ["N/A"], "excluded_ids": ["N/A"]}
        for query, text in QUERIES.items()
    ]
    encoder = alone(tiny_model_dir)
    binary = {query: dict.fromkeys(gains, 1) for query, gains in QRELS.items()}
    plain = RetrievalTask("zoo", tuple(DOCUMENTS), tuple(DOCUMENTS.values()), QUERIES, binary)
    worst = min(evaluate_encoder(plain, encoder, dtype="float32").by_query.items(), key=lambda one: one[1]["ndcg@10"])
    excluded = [document for document in DOCUMENTS if document not in QRELS[worst[0]]]
    next(row for row in examples if row["id"] == worst[0])["excluded_ids"] = excluded
    documents = [{"id": identifier, "content": text} for identifier, text in DOCUMENTS.items()]
    both = {
        "documents": dict.fromkeys(("aops", "leetcode"), documents),
        "examples": dict.fromkeys(("aops", "leetcode"), examples),
    }
    write_dataset(tmp_path / "data" / "mteb" / "BRIGHT", both)
    found = find_tasks("BRIGHT(v1.1)")
    assert len(found.tasks) == 20
    some = tuple(one for one in found.tasks if one.metadata.name in ("BrightAopsRetrieval", "BrightLeetcodeRetrieval"))
    results = run_benchmark(replace(found, tasks=some), model, tmp_path / "results", data=tmp_path / "data")
    ours = evaluate_encoder(replace(plain, excluded={worst[0]: frozenset(excluded)}), encoder, dtype="float32")
    for result in results:
        assert result.benchmark == "BRIGHT(v1.1)"
        near(result.scores, ours.scores)
        assert result.by_query[worst[0]]["ndcg@10"] == pytest.approx(1.0)


def test_followir_demotes_what_an_instruction_excludes(tmp_path: Path, model: MtebModel) -> None:
    asked = {f"{query}-{kind}": text for query, text in QUERIES.items() for kind in ("og", "changed")}
    qrels = {query: QRELS[query.partition("-")[0]] for query in asked}
    told = [{"query-id": query, "instruction": "no ships" if "changed" in query else "any"} for query in asked]
    ranked = [{"query-id": query, "corpus-ids": list(DOCUMENTS)} for query in asked]
    write_dataset(
        tmp_path / "data" / "mteb" / "Core17InstructionRetrieval",
        {
            "corpus": {"corpus": rows(DOCUMENTS)},
            "queries": {"queries": rows(asked)},
            "default": {"test": judged(qrels)},
            "instruction": {"instruction": told},
            "top_ranked": {"top_ranked": ranked},
            "qrel_diff": {"qrel_diff": [{"query-id": query, "corpus-ids": ["d0", "d5"]} for query in QUERIES]},
        },
    )
    found = find_tasks("FollowIR")
    assert {one.metadata.type for one in found.tasks} == {"InstructionReranking"}
    (result,) = run_benchmark(find_tasks("Core17InstructionRetrieval"), model, tmp_path / "r", data=tmp_path / "data")
    assert result.main == "p-MRR"
    assert -1 <= result.score <= 1
    assert "p-MRR" not in next(iter(result.by_query.values()))
    assert len(result.by_query) == 6
    (bm25,) = run_benchmark(
        find_tasks("Core17InstructionRetrieval"), load_mteb_model("bm25"), tmp_path / "r", data=tmp_path / "data"
    )
    assert bm25.score != result.score
    with pytest.raises(InputError, match="no p-MRR of each query"):
        compare(result, bm25)
    assert compare(result, bm25, measure="ndcg@5").queries == 6


def test_a_task_that_is_made_of_others(tmp_path: Path, model: MtebModel) -> None:
    (whole,) = find_tasks("CQADupstackRetrieval").tasks
    parts = whole.tasks[:2]  # of twelve
    whole.tasks, whole.metadata = parts, whole.metadata.model_copy(update={"tasks": parts})
    whole.taskname_to_task = {part.metadata.name: part for part in parts}
    for number, part in enumerate(parts):
        moved = {query: {f"d{(int(d[1]) + number) % 6}": g for d, g in gains.items()} for query, gains in QRELS.items()}
        configs = {"corpus": {"corpus": rows(DOCUMENTS)}, "queries": {"queries": rows(QUERIES)}}
        write_dataset(tmp_path / "data" / part.metadata.name, configs | {"default": {"test": judged(moved)}})
    found = replace(find_tasks("NFCorpus"), tasks=(whole,))
    (result,) = run_benchmark(found, model, tmp_path / "results", data=tmp_path / "data")
    cache = mteb.ResultCache(tmp_path / "results" / MTEB_FILES)
    scores = [cache.load_task_result(part.metadata.name, model.meta).get_score() for part in parts]
    assert result.score == pytest.approx(np.mean(scores))
    assert scores[0] != scores[1]
    (again,) = find_tasks("CQADupstackRetrieval").tasks
    assert len(again.tasks) == 12
    assert not any(part.data_loaded for part in (*parts, *again.tasks))
    with pytest.raises(InputError, match="neither .*CQADupstackAndroidRetrieval nor"):
        run_benchmark(find_tasks("CQADupstackRetrieval"), model, tmp_path / "results", data=tmp_path)


def test_an_sts_task_has_no_queries(tmp_path: Path, model: MtebModel) -> None:
    pairs = [
        {"sentence1": a, "sentence2": b, "score": float(i)}
        for i, (a, b) in enumerate(zip(DOCUMENTS.values(), QUERIES.values(), strict=False))
    ]
    write_dataset(tmp_path / "data" / "STS12", {"default": {"test": pairs}})
    (result,) = run_benchmark(find_tasks("STS12"), model, tmp_path / "results", data=tmp_path / "data")
    assert result.main == "cosine_spearman"
    assert result.by_query == {}
    assert "Scores of single queries are not known" in result.notes[-1]


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
