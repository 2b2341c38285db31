"""ToolRet: rows as published, the four measures against pytrec_eval and by hand, both settings, bad data named."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.invoke import run as invoke
from tests.evaluation.word_encoder import WordEncoder

from diffembed.errors import InputError
from diffembed.evaluation.baselines import Bm25
from diffembed.evaluation.ranker import load_ranker, ranker_of
from diffembed.evaluation.results import ResultFolder
from diffembed.evaluation.toolret import TASKS, evaluate_toolret, load_toolret, means, tool_scores

TOOLS: dict[str, list[dict[str, str]]] = {
    "web": [
        {"id": "apibank_tool_0", "documentation": json.dumps({"name": "weather", "description": "forecast of rain"})},
        {"id": "apibank_tool_1", "documentation": json.dumps({"name": "alarm", "description": "wake somebody up"})},
    ],
    "code": [{"id": "toolink_tool_0", "documentation": json.dumps({"name": "sort", "description": "order a list"})}],
    "customized": [{"id": "gta_tool_0", "documentation": json.dumps({"name": "draw", "description": "rain picture"})}],
}


def query(identifier: str, text: str, instruction: str, *tools: str) -> dict[str, str]:
    labels = [{"id": tool, "doc": {"name": "as in the corpus"}, "relevance": 1} for tool in tools]
    row = {"id": identifier, "query": text, "instruction": instruction, "labels": json.dumps(labels)}
    return row | {"category": "as published"}


QUERIES = {
    "apibank": [
        query("apibank_query_0", "a forecast of rain", "retrieve a forecast", "apibank_tool_0"),
        query("apibank_query_1", "a picture, then wake me up", "retrieve alarm", "apibank_tool_1", "gta_tool_0"),
    ],
    "gta": [query("gta_query_0", "order", "draw a picture", "gta_tool_0")],
}


def write(folder: Path, tools: Any = TOOLS, queries: Any = QUERIES) -> Path:
    """Both sets as they are downloaded from the hub."""
    for name, split, parts in (("ToolRet-Tools", "tools", tools), ("ToolRet-Queries", "queries", queries)):
        for config, rows in parts.items():
            place = folder / name / config
            place.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), place / f"{split}-00000-of-00001.parquet")
    return folder


def test_the_tasks_are_those_of_the_benchmark() -> None:
    counted = {category: sum(c == category for c in TASKS.values()) for category in ("web", "code", "customized")}
    assert counted == {"web": 19, "code": 7, "customized": 9}


def test_the_tasks_are_those_of_mteb() -> None:
    """Read from its source: importing mteb takes half a minute."""
    spec = importlib.util.find_spec("mteb")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("mteb is not installed")
    source = Path(next(iter(spec.submodule_search_locations))) / "tasks" / "retrieval" / "eng" / "tool_retrieval.py"
    if not source.is_file():
        pytest.skip("this mteb has no ToolRetrieval")
    assert set(TASKS) == set(re.findall(r'"([\w-]+)": \["eng-Latn"\]', source.read_text(encoding="utf-8")))


@pytest.mark.parametrize("instruction", [False, True], ids=["without", "with"])
def test_a_model_on_two_tasks(tmp_path: Path, instruction: bool) -> None:
    """Scores by hand: what shares a word is found; all four tools are searched."""
    encoder = WordEncoder()
    ranker = ranker_of("words", encoder, dtype="float32")
    results = evaluate_toolret(ranker, data=write(tmp_path), tasks=("apibank", "gta"), instruction=instruction)
    assert [result.task for result in results] == ["apibank", "gta"]
    assert [kind for kind, _ in encoder.asked] == ["queries", "documents"], "tools are encoded once for both tasks"
    read = encoder.asked[0][1][0]
    assert read == ("Instruct: retrieve a forecast\nQuery: a forecast of rain" if instruction else "a forecast of rain")
    assert len(encoder.asked[1][1]) == 4
    bank, gta = results
    assert bank.by_query["apibank_query_0"]["ndcg@5"] == pytest.approx(1.0)
    second = bank.by_query["apibank_query_1"]
    assert second["recall@5"] == second["completeness@5"] == 1
    assert (second["p@5"], second["p@10"], second["p@20"]) == pytest.approx((0.4, 0.2, 0.1))
    # "order" alone finds the sorter first; with its instruction the query finds the tool that draws
    assert gta.by_query["gta_query_0"]["ndcg@10"] == pytest.approx(1.0) if instruction else 0 < gta.score < 1
    assert bank.scores["ndcg@10"] == pytest.approx(sum(s["ndcg@10"] for s in bank.by_query.values()) / 2)
    assert bank.settings["instruction"] is instruction
    assert bank.benchmark == ("ToolRet with instruction" if instruction else "ToolRet")
    assert bank.main == "ndcg@10"


def test_bm25_gets_the_words_of_the_instruction_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Noting(Bm25):
        def scores(self, query: str) -> npt.NDArray[np.float32]:
            asked.append(query)
            return super().scores(query)

    monkeypatch.setattr("diffembed.evaluation.ranking.Bm25", Noting)
    evaluate_toolret(load_ranker("bm25"), data=write(tmp_path), tasks=("gta",), instruction=True)
    assert asked == ["draw a picture order"]


def test_corpus_of_the_category_alone(tmp_path: Path) -> None:
    """A tool of another category can then not be found, and the result says so."""
    ranker = ranker_of("words", WordEncoder(), dtype="float32")
    results = evaluate_toolret(
        ranker, data=write(tmp_path), tasks=("apibank", "gta"), instruction=False, corpus="category"
    )
    bank, gta = results
    assert (bank.counts["documents"], gta.counts["documents"]) == (2, 1)
    assert bank.by_query["apibank_query_1"]["recall@20"] == 0.5
    assert bank.counts["judged_outside_corpus"] == 1
    assert any("cannot be found" in note for note in bank.notes)


def test_an_empty_query_scores_0_and_is_told(tmp_path: Path) -> None:
    queries = {"gta": [*QUERIES["gta"], query("gta_query_1", "", "draw", "gta_tool_0")]}
    ranker = ranker_of("words", WordEncoder(), dtype="float32")
    (result,) = evaluate_toolret(ranker, data=write(tmp_path, queries=queries), tasks=("gta",), instruction=False)
    assert result.by_query["gta_query_1"]["ndcg@10"] == 0
    assert result.counts["empty_queries"] == 1
    (result,) = evaluate_toolret(ranker, data=tmp_path, tasks=("gta",), instruction=True)
    assert result.by_query["gta_query_1"]["ndcg@10"] > 0


def test_all_35_give_the_mean_and_a_second_run_measures_nothing(tmp_path: Path) -> None:
    queries = {task: [query(f"{task}_query_0", "rain", "sort", "gta_tool_0")] for task in TASKS}
    queries["toolink"] = [query("q", "order a list", "sort", "toolink_tool_0")]
    write(tmp_path, queries=queries)
    encoder = WordEncoder()
    ranker, into = ranker_of("words", encoder, dtype="float32"), ResultFolder(tmp_path / "results")
    results = evaluate_toolret(ranker, data=tmp_path, instruction=False, into=into)
    by_task = {result.task: result.score for result in results}
    assert set(by_task) == set(TASKS)
    found = {part: scores["ndcg@10"] for part, scores in means(results).items()}
    assert found["all"] == pytest.approx(sum(by_task.values()) / 35)
    assert found["code"] == pytest.approx(sum(by_task[t] for t, c in TASKS.items() if c == "code") / 7)
    assert set(found) == {"all", "web", "code", "customized"}
    assert means(results[1:]) == {}
    encoder.asked.clear()
    again = evaluate_toolret(ranker, data=tmp_path, instruction=False, into=into)
    assert encoder.asked == []
    assert [result.scores for result in again] == [result.scores for result in results]
    write(tmp_path, queries={"gta": QUERIES["gta"]})
    evaluate_toolret(ranker, data=tmp_path, instruction=False, into=into)
    assert encoder.asked[0] == ("queries", ["order"]), "one task's data are others: it alone is asked again"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_measures_are_pytrec_evals(seed: int) -> None:
    """Random graded judgements and runs with ties and missing queries; completeness as the authors' code has it."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = random.Random(seed)
    documents = [f"d{n}" for n in range(30)]
    qrels = {
        f"q{n}": {d: rng.choice([0, 1, 1, 2]) for d in rng.sample(documents, rng.randint(1, 12))} for n in range(5)
    }
    qrels["q0"]["d0"] = 1
    run = {
        f"q{n}": {d: float(rng.randint(0, 6)) for d in rng.sample(documents, rng.randint(1, 30))}
        for n in rng.sample(range(5), 4)
    }
    measures = {"ndcg_cut.5,10,20", "P.5,10,20", "recall.5,10,20"}
    wanted = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    found = tool_scores(qrels, run)
    assert set(found) == {query for query, gains in qrels.items() if any(gains.values())}
    for identifier, scores in found.items():
        theirs = wanted.get(identifier)
        for cut in (5, 10, 20):
            for ours, name in (("ndcg", "ndcg_cut"), ("p", "P"), ("recall", "recall")):
                assert scores[f"{ours}@{cut}"] == pytest.approx(theirs[f"{name}_{cut}"] if theirs else 0.0)
            assert scores[f"completeness@{cut}"] == (theirs is not None and theirs[f"recall_{cut}"] == 1)


BAD = {
    "labels no JSON": ([QUERIES["gta"][0] | {"labels": "[{'id': 1}]"}], 'row 1: "labels" must be a JSON list'),
    "labels without id": ([QUERIES["gta"][0] | {"labels": '[{"relevance": 1}]'}], 'row 1: "labels" must be a JSON'),
    "unknown tool": ([query("a", "b", "c", "nowhere")], "row 1 names the tool 'nowhere'"),
    "twice": ([QUERIES["gta"][0]] * 2, "row 2: the query 'gta_query_0' was given before"),
    "no text": ([QUERIES["gta"][0] | {"query": None}], '"query" must be a string'),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(tmp_path: Path, name: str) -> None:
    rows, said = BAD[name]
    with pytest.raises(InputError, match=said):
        load_toolret(write(tmp_path, queries={"gta": rows}), ("gta",))


def test_tools_with_one_id(tmp_path: Path) -> None:
    write(tmp_path, tools=TOOLS | {"code": TOOLS["web"][:1]})
    with pytest.raises(InputError, match="the tool 'apibank_tool_0' was given before"):
        load_toolret(tmp_path, ("gta",))


def test_missing_data_and_unknown_tasks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hf download mangopy/ToolRet-Tools .*--data"):
        load_toolret(tmp_path)
    with pytest.raises(InputError, match="no task 'weather'; its tasks are: apibank"):
        load_toolret(tmp_path, ("weather",))
    write(tmp_path)
    with pytest.raises(InputError, match=r"no rows of 'toolink', split 'queries'"):
        load_toolret(tmp_path, ("toolink",))


def test_the_command(tmp_path: Path) -> None:
    write(tmp_path / "data")
    call = ["evaluate", "toolret", "apibank", "gta", "--model", "bm25"]
    call += ["--data", str(tmp_path / "data"), "--into", str(tmp_path / "results")]
    ran = invoke(*call, "--json").json
    assert ran["means"] == {"without instruction": {}, "with instruction": {}}, "only two of the 35"
    both = ran["results"]
    assert [(r["task"], r["settings"]["instruction"]) for r in both] == [
        ("apibank", False),
        ("gta", False),
        ("apibank", True),
        ("gta", True),
    ]
    shown = invoke(*call, "--instruction", "--corpus", "category")
    assert shown.code == 0 and "apibank" in shown.stdout and "completeness@10" in shown.stdout
    assert "without" not in shown.stdout
    invoke("evaluate", "toolret", "--data", str(tmp_path)).fails(2, "hf download mangopy/ToolRet-Tools")
