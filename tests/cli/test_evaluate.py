"""`diffembed evaluate` as a user meets it: one set, many, two models, and benchmarks by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cli.invoke import run

from diffembed.evaluation.results import read_results


def test_retrieval(beir: Path, tiny_model_dir: Path) -> None:
    args = ("evaluate", "retrieval", "--data", beir, "--model", tiny_model_dir)
    report = run(*args, "--json").json
    # Each query is its own document, so even random weights find it.
    assert report["scores"]["ndcg@10"] == pytest.approx(1.0)
    assert report["counts"]["queries"] == 3
    assert "by_query" not in report
    shown = run(*args).stdout
    for word in ("ndcg@10", "mrr@10", "recall@1", "recall@10", "recall@100", "seconds", "tokens/s"):
        assert re.search(rf"^{re.escape(word)} +[\d.,]+$", shown, re.MULTILINE)


def test_retrieval_by_parts_and_kept(beir: Path, tmp_path: Path) -> None:
    args = ("evaluate", "retrieval", "--data", beir, "--model", "bm25", "--into", tmp_path / "results")
    shown = run(*args, "--by", "characters", "--by", "language")
    assert re.search(r"^32 +17 to 32 characters +2 +1\.0000 ", shown.stdout, re.MULTILINE)
    assert "the rows of beir do not say their language" in shown.stderr
    (kept,) = read_results([tmp_path / "results"])
    assert (kept.task, kept.model, kept.scores["ndcg@10"]) == ("beir", "bm25", 1.0)
    again = run(*args)
    assert again.stderr == f"this was measured before: {tmp_path / 'results'}\n"
    assert again.stdout == shown.stdout.partition("\n\ncharacters")[0] + "\n"
    run("evaluate", "retrieval", "--data", beir, "--model", "bm25", "--by", "length").fails(2, "--by characters")
    run("evaluate", "retrieval", "--data", beir, "--by", "mood").fails(2, "mood")


@pytest.fixture
def folder(beir: Path, tmp_path: Path) -> Path:
    """Two sets; in the second the words of the queries are in no document."""
    other = tmp_path / "sets" / "deep" / "other"
    other.parent.mkdir(parents=True)
    beir.rename(tmp_path / "sets" / "beir")
    other.mkdir()
    for name in ("corpus.jsonl", "qrels.tsv"):
        (other / name).write_bytes((tmp_path / "sets" / "beir" / name).read_bytes())
    queries = [json.dumps({"_id": f"q{i}", "text": f"unheard word{i}"}) for i in range(3)]
    (other / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    return tmp_path / "sets"


def test_sets_and_their_comparison(folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    into = tmp_path / "results"
    shown = run("evaluate", "sets", folder, "--model", "bm25", "--into", into)
    assert re.search(r"^deep/other +3 +3 +0\.0000  0\.000 to 0\.000 +0\.0000 ", shown.stdout, re.MULTILINE)
    assert "mean of 2 sets: ndcg@10 0.5000" in shown.stdout
    assert [line.rpartition(" (")[0] for line in shown.stderr.splitlines()] == [
        "bm25 1/2 beir: ndcg@10 1.0000",
        "bm25 2/2 deep/other: ndcg@10 0.0000",
    ]
    assert "(was there)" in run("evaluate", "sets", folder, "--model", "bm25", "--into", into).stderr
    report = run("evaluate", "sets", folder, "--model", tiny_model_dir, "--into", into, "--json").json
    assert [result["task"] for result in report["results"]] == ["beir", "deep/other"]
    assert report["mean"]["recall@100"] == 1.0

    models = ("--model", "bm25", "--model", tiny_model_dir)
    compared = run("evaluate", "compare", into, *models, "--json").json
    assert (compared["a"], compared["b"]) == ("bm25", str(tiny_model_dir))
    same, better, mean = compared["comparisons"]
    assert (same["task"], same["difference"]["mean"], same["p"], same["ties"]) == ("beir/beir", 0.0, 1.0, 3)
    assert (better["wins"], better["p"], better["p_holm"]) == (3, 0.25, 0.5)  # 2 of the 8 ways to give signs
    assert mean["difference"]["low"] <= mean["difference"]["mean"] <= mean["difference"]["high"]
    table = run("evaluate", "compare", into, *models, "--measure", "recall@100").stdout
    assert re.search(r"^beir/deep/other +recall@100 +3 +0\.0000 +1\.0000 +\+1\.0000 ", table, re.MULTILINE)
    for file in (into / "beir" / "beir").iterdir():  # as of similarity, or p-MRR
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"by_query": {}}), encoding="utf-8")
    partly = run("evaluate", "compare", into, *models)
    assert partly.stderr == "left out, as there are no scores of single queries to test: beir/beir\n"
    assert "beir/deep/other" in partly.stdout
    run("evaluate", "compare", into, "--model", "bm25", "--model", "nobody").fails(2, "no result is of nobody")
    run("evaluate", "compare", tmp_path / "nowhere").fails(2, "nowhere does not exist")
    run("evaluate", "sets", tmp_path / "nowhere").fails(2, "nowhere is not a folder")


def test_names_of_benchmarks() -> None:
    pytest.importorskip("mteb")
    rows = run("evaluate", "--list", "--json").json["benchmarks"]
    assert {"benchmark": "MTEB(Code, v1)", "tasks": 12, "retrieval": 12} in rows
    listed = run("evaluate", "MTEB(Multilingual, v2)", "--list", "--json").json
    assert (len(listed["tasks"]), len(listed["left_out"])) == (21, 110)
    shown = run("evaluate", "NFCorpus", "--list").stdout
    assert re.search(r"^NFCorpus +Retrieval +323 +3633 +ndcg_at_10 +mteb/nfcorpus$", shown, re.MULTILINE)
    run("evaluate", "retreival", "--data", "x").fails(2, "(nearest: retrieval, ")
    run("evaluate", "--model", "bm25").fails(2, "give the name of a benchmark")


def test_a_benchmark_without_its_data(tmp_path: Path) -> None:
    pytest.importorskip("mteb")
    (tmp_path / "data").mkdir()
    args = ("evaluate", "FollowIR", "--model", "bm25", "--into", tmp_path / "results")
    run(*args, "--data", tmp_path / "data").fails(
        2, "hf download mteb/Robust04InstructionRetrieval --repo-type dataset"
    )
    offline = run(*args)
    assert offline.code == 2
    assert offline.stdout == ""
    assert offline.stderr.splitlines()[-1].startswith("diffembed: error: 3 of 3 tasks were not measured: Robust04")
