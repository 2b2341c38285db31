"""The named benchmarks on small copies of their datasets: each form of data that mteb's loaders know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.hub_copies import DOCUMENTS, QRELS, QUERIES, Rows, judged, near, rows, task, write_dataset

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation import RetrievalTask, evaluate_encoder
from diffembed.evaluation.compare import compare
from diffembed.evaluation.results import MTEB_FILES

pytest.importorskip("mteb")

import mteb

from diffembed.evaluation.mteb_models import MtebModel, load_mteb_model
from diffembed.evaluation.mteb_run import run_benchmark
from diffembed.evaluation.mteb_tasks import find_tasks

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


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


def test_longembed_s_other_tasks_share_a_dataset(tmp_path: Path, model: MtebModel, tiny_model_dir: Path) -> None:
    """Of an older form: judgements without a gain, one document a query, the same columns in all three files."""
    corpus = [{"doc_id": identifier, "qid": "", "text": text} for identifier, text in DOCUMENTS.items()]
    asked = [{"doc_id": "", "qid": query, "text": text} for query, text in QUERIES.items()]
    configs: dict[str, dict[str, Rows]] = {}
    for number, name in enumerate(("qmsum", "2wikimqa")):
        gold = [{"doc_id": f"d{(i + number) % 6}", "qid": query, "text": ""} for i, query in enumerate(QUERIES)]
        configs[name] = {"corpus": corpus, "queries": asked, "qrels": gold}
    write_dataset(tmp_path / "data" / "dwzhu" / "LongEmbed", configs, parquet=False)
    found = find_tasks("LongEmbed")
    some = tuple(one for one in found.tasks if one.metadata.name in ("LEMBQMSumRetrieval", "LEMBWikimQARetrieval"))
    results = run_benchmark(replace(found, tasks=some), model, tmp_path / "r", data=tmp_path / "data")
    for number, result in enumerate(results):
        qrels = {query: {f"d{(i + number) % 6}": 1} for i, query in enumerate(QUERIES)}
        near(result.scores, evaluate_encoder(task(qrels=qrels), Encoder.load(tiny_model_dir), dtype="float32").scores)


def test_bright_leaves_out_what_a_query_excludes(tmp_path: Path, tiny_model_dir: Path, model: MtebModel) -> None:
    examples = [
        {"id": query, "query": text, "gold_ids": list(QRELS[query]), "gold_ids_long": ["N/A"], "excluded_ids": ["N/A"]}
        for query, text in QUERIES.items()
    ]
    encoder = Encoder.load(tiny_model_dir)
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
