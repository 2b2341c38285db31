"""ConTEB: rows as published, chunks read together, the figure against a reference of a few lines, bad data named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cli.invoke import run as invoke
from tests.evaluation.word_encoder import WordEncoder, counts

from diffembed.errors import InputError
from diffembed.evaluation import conteb
from diffembed.evaluation.conteb import SETS, evaluate_conteb, load_conteb, means
from diffembed.evaluation.hub_rows import card_files
from diffembed.evaluation.ranker import load_ranker, ranker_of
from diffembed.evaluation.results import ResultFolder

CITIES = {
    "0": ("Lima is a city on the coast.", "It has ten million people.", "Its harbour is old."),
    "1": ("Oslo is a city in the north.", "It has one million people.", "Its harbour is deep."),
}
# As the published football and geography sets have them: the rewritten chunk, and the original one beside it.
DOCUMENTS: list[dict[str, Any]] = [
    {"chunk_id": f"{city}_{place}", "chunk": chunk, "og_chunk": f"original of {chunk}"}
    for city, chunks in CITIES.items()
    for place, chunk in enumerate(chunks)
]
QUERIES: list[dict[str, Any]] = [
    {"query": "How many people has Lima?", "chunk_id": "0_1"},
    {"query": "The harbour of Oslo", "chunk_id": "1_2"},
    {"query": "Which city is in the north?", "chunk_id": "1_0"},
]


def write_set(
    folder: Path,
    documents: list[dict[str, Any]] = DOCUMENTS,
    queries: list[dict[str, Any]] = QUERIES,
    split: str = "train",
    shards: int = 1,
) -> Path:
    """A set as it is downloaded from the hub."""
    for config, rows in (("documents", documents), ("queries", queries)):
        (folder / config).mkdir(parents=True, exist_ok=True)
        for shard in range(shards):
            part = rows[shard::1] if shards == 1 else np.array_split(np.array(rows, dtype=object), shards)[shard]
            name = f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            pq.write_table(pa.Table.from_pylist(list(part)), folder / config / name)
    return folder


def reference(vectors: dict[str, np.ndarray[Any, Any]], queries: list[dict[str, Any]]) -> float:
    """nDCG@10 over all chunks, straight from its definition; of equals the larger id stands first, as in trec_eval."""
    total = 0.0
    for row in queries:
        asked = counts(row["query"])
        similar = {c: float(asked @ v / np.linalg.norm(asked) / np.linalg.norm(v)) for c, v in vectors.items()}
        order = sorted(similar, key=lambda chunk: (round(similar[chunk], 6), chunk), reverse=True)
        gold = row["chunk_ids"] if "chunk_ids" in row else [row["chunk_id"]]
        gains = [1 / math.log2(rank + 2) for rank, chunk in enumerate(order[:10]) if chunk in gold]
        total += sum(gains) / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(gold))))
    return total / len(queries)


@pytest.mark.parametrize("contextual", [False, True], ids=["alone", "together"])
def test_score_is_the_definition(tmp_path: Path, contextual: bool) -> None:
    write_set(tmp_path / "geography")
    encoder = WordEncoder(contextual)
    result, kept = evaluate_conteb("geography", ranker_of("words", encoder, dtype="float32"), data=tmp_path)
    alone = {row["chunk_id"]: counts(row["chunk"]) for row in DOCUMENTS}
    whole = {city: counts(" ".join(chunks)) for city, chunks in CITIES.items()}
    together = {chunk: vector + 0.5 * whole[chunk[0]] for chunk, vector in alone.items()}
    assert result.score == pytest.approx(reference(together if contextual else alone, QUERIES), abs=1e-6)
    assert not kept
    assert (result.benchmark, result.task, result.main) == ("ConTEB", "geography", "ndcg@10")
    assert result.settings["contextual"] is contextual
    assert result.settings["split"] == "train"
    assert result.counts["documents"] == 6 and result.counts["queries"] == 3
    kind, read = encoder.asked[1]
    assert kind == ("chunks" if contextual else "documents")
    assert read == ([list(chunks) for chunks in CITIES.values()] if contextual else [r["chunk"] for r in DOCUMENTS])
    parts = [(g.by, g.value, g.queries, g.note) for g in result.groups if g.by == "chunk"]
    assert parts == [("chunk", "0", 1, "chunk 0"), ("chunk", "1", 1, "chunk 1"), ("chunk", "2", 1, "chunks 2 to 3")]
    assert [g.value for g in result.groups if g.by == "length"] == ["16"]


def test_context_is_what_the_task_measures(tmp_path: Path) -> None:
    """The people of Lima: alone, the two chunks on people are as close as each other; together they are told apart."""
    write_set(tmp_path / "geography")
    found = {}
    for contextual in (False, True):
        ranker = ranker_of("words", WordEncoder(contextual), dtype="float32")
        result, _ = evaluate_conteb("geography", ranker, data=tmp_path)
        found[contextual] = result.by_query["query-0"]["mrr@10"]
    assert found[True] == 1 > found[False]


def test_chunks_are_put_in_order(tmp_path: Path) -> None:
    """Rows may come in any order, ten stands after nine, and a document's name may hold underscores."""
    chunks = [{"chunk_id": f"my_doc_{n}", "chunk": f"part {n}"} for n in range(12)]
    write_set(tmp_path / "geography", chunks[::-1], [{"query": "part 3", "chunk_id": "my_doc_3"}])
    encoder = WordEncoder(contextual=True)
    evaluate_conteb("geography", ranker_of("words", encoder, dtype="float32"), data=tmp_path)
    assert encoder.asked[1] == ("chunks", [[f"part {n}" for n in range(12)]])


@pytest.mark.parametrize("column", ["chunk_ids", "chunk_id"])
def test_several_chunks_may_answer(tmp_path: Path, column: str) -> None:
    queries: list[dict[str, Any]] = [{"query": "one million people Oslo", column: ["1_1", "1_0"]}]
    write_set(tmp_path / "esg-reports", queries=queries, split="test")
    result, _ = evaluate_conteb("esg-reports", ranker_of("w", WordEncoder(), dtype="float32"), data=tmp_path)
    alone = {row["chunk_id"]: counts(row["chunk"]) for row in DOCUMENTS}
    assert result.score == pytest.approx(reference(alone, [{**queries[0], "chunk_ids": ["1_1", "1_0"]}]), abs=1e-6)


def test_split_rule_names_and_layouts(tmp_path: Path) -> None:
    """test before validation before train; a folder may be called as on the hub; shards and converted files."""
    other = [{"query": "of another split", "chunk_id": "0_0"}]
    for split, queries in (("train", other), ("validation", QUERIES)):
        write_set(tmp_path / "squad-conteb-eval", queries=queries, split=split, shards=2)
    read = load_conteb("squad", tmp_path)
    assert (read.split, len(read.task.queries)) == ("validation", 3)
    converted = tmp_path / "mldr"
    for config, rows in (("documents", DOCUMENTS), ("queries", QUERIES)):
        (converted / config / "test").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), converted / config / "test" / "0000.parquet")
    assert load_conteb("mldr", tmp_path).task.texts == read.task.texts
    lines = tmp_path / "covid-qa"
    for config, rows in (("documents", DOCUMENTS), ("queries", QUERIES)):
        (lines / config).mkdir(parents=True)
        (lines / config / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert load_conteb("covid-qa", tmp_path).task.texts == read.task.texts


def test_the_card_says_where_the_files_are(tmp_path: Path) -> None:
    """As the hub's tools write cards; ``dataset_info`` has splits and names too, which are not these."""
    folder = tmp_path / "football"
    (folder / "elsewhere").mkdir(parents=True)
    for name, rows in (("d", DOCUMENTS), ("q", QUERIES)):
        pq.write_table(pa.Table.from_pylist(rows), folder / "elsewhere" / f"{name}-0.parquet")
    info = "dataset_info:\n- config_name: documents\n  splits:\n  - name: test\n    num_bytes: 1\n"
    configs = "configs:\n- config_name: documents\n  data_files:\n  - split: train\n    path: elsewhere/d-*\n"
    configs += '- config_name: queries\n  data_files:\n  - split: train\n    path: "elsewhere/q-*"\nlicense: mit\n'
    (folder / "README.md").write_text(f"---\n{info}{configs}---\n# Football\n- split: x\n", encoding="utf-8")
    read = load_conteb("football", tmp_path)
    assert (read.split, len(read.task.texts), len(read.task.queries)) == ("train", 6, 3)


@pytest.mark.parametrize("path", ["/etc/d-*", "../other/d-*", ""])
def test_a_card_does_not_lead_out_of_its_folder(tmp_path: Path, path: str) -> None:
    said = f"configs:\n- config_name: documents\n  data_files:\n  - split: train\n    path: {path}\n"
    (tmp_path / "README.md").write_text(f"---\n{said}---\n", encoding="utf-8")
    assert card_files(tmp_path / "README.md") == {}


def test_resumes_by_model_and_data(tmp_path: Path) -> None:
    write_set(tmp_path / "geography")
    into = ResultFolder(tmp_path / "results")
    for model in ("bm25", "words"):
        ranker = load_ranker("bm25") if model == "bm25" else ranker_of("words", WordEncoder(), dtype="float32")
        first, kept = evaluate_conteb("geography", ranker, data=tmp_path, into=into)
        assert not kept
        again, kept = evaluate_conteb("geography", ranker, data=tmp_path, into=into)
        assert kept and again.scores == first.scores
    write_set(tmp_path / "geography", queries=QUERIES[:2])
    assert not evaluate_conteb("geography", ranker, data=tmp_path, into=into)[1], "other data, measured again"


def test_mean_over_all_eight_and_by_domain(tmp_path: Path) -> None:
    results = []
    for number, name in enumerate(SETS):
        write_set(tmp_path / name, queries=QUERIES[: 1 + number % 3], split="test")
        results.append(evaluate_conteb(name, load_ranker("bm25"), data=tmp_path)[0])
    assert means(results[:-1]) == {}
    inside = [r.score for r in results if r.task in ("mldr", "squad", "narrative-qa")]
    outside = [r.score for r in results if r.task not in ("mldr", "squad", "narrative-qa")]
    wanted = {"all": [*inside, *outside], "in-domain": inside, "out-of-domain": outside}
    assert {part: scores["ndcg@10"] for part, scores in means(results).items()} == {
        part: pytest.approx(np.mean(scores)) for part, scores in wanted.items()
    }
    assert [(g.value, g.scores["ndcg@10"]) for g in results[0].groups if g.by == "domain"] == [
        ("in-domain", results[0].score)
    ]


def test_repeated_chunks_and_empty_queries_are_told(tmp_path: Path) -> None:
    write_set(tmp_path / "geography", [*DOCUMENTS, DOCUMENTS[0]], [*QUERIES, {"query": " ", "chunk_id": "0_0"}])
    result, _ = evaluate_conteb("geography", ranker_of("w", WordEncoder(), dtype="float32"), data=tmp_path)
    assert result.counts["repeated_chunks"] == 1 and result.counts["empty_queries"] == 1
    assert result.by_query["query-3"]["ndcg@10"] == 0
    assert len(result.notes) == 2


BAD: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], str]] = {
    "unknown chunk": (DOCUMENTS, [{"query": "q", "chunk_id": "7_0"}], r"'7_0', which is not among the documents"),
    "another text": ([*DOCUMENTS, {**DOCUMENTS[0], "chunk": "x"}], QUERIES, r"row 7: the chunk '0_0' was given before"),
    "no index": ([{"chunk_id": "abc", "chunk": "x"}], QUERIES, r"row 1: the chunk id 'abc' is not of the form"),
    "no text": ([{"chunk_id": "0_0", "chunk": None}], QUERIES, r'"chunk" must be a string'),
    "no gold": (DOCUMENTS, [{"query": "q", "chunk_ids": []}], r"must name the chunks that answer"),
    "other columns": ([{"_id": "1", "text": "x"}], QUERIES, r"none of chunk_id, chunk but \['_id', 'text'\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(tmp_path: Path, name: str) -> None:
    documents, queries, said = BAD[name]
    write_set(tmp_path / "geography", documents, queries)
    with pytest.raises(InputError, match=said):
        load_conteb("geography", tmp_path)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    write_set(tmp_path / "geography")
    (tmp_path / "geography" / "documents" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="is the file whole"):
        load_conteb("geography", tmp_path)
    (tmp_path / "football").mkdir()
    with pytest.raises(InputError, match="no split with both documents and queries"):
        load_conteb("football", tmp_path)
    with pytest.raises(InputError, match="its sets are: mldr, squad"):
        load_conteb("nothing", tmp_path)


def test_offline_it_says_what_to_fetch_and_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"hf download illuin-conteb/insurance .*--local-dir .*insurance.*--data "):
        load_conteb("insurance", tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"illuin-conteb/insurance is not here .*hf download .*--data DIR") as caught:
        load_conteb("insurance")
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_for_both_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loader, with the download itself replaced by a copy on disk."""
    snapshot = write_set(tmp_path / "abc123")
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    read = conteb.load_conteb("football")
    assert asked["repository"] == "illuin-conteb/football"
    assert asked["repo_type"] == "dataset"
    assert asked["allow_patterns"] == ["README.md", "documents/*", "queries/*"]
    assert read.data["source"] == "illuin-conteb/football@abc123"


def test_the_command(tmp_path: Path) -> None:
    for number, name in enumerate(SETS):
        write_set(tmp_path / "data" / name, queries=QUERIES[: 1 + number % 3], split="test")
    call = ["evaluate", "conteb", "--model", "bm25", "--data", str(tmp_path / "data"), "--into", str(tmp_path / "r")]
    ran = invoke(*call, "--json")
    results = {result["task"]: result for result in ran.json["results"]}
    assert set(results) == set(SETS)
    assert set(ran.json["means"]) == {"all", "in-domain", "out-of-domain"}
    assert "by_query" not in results["squad"]
    shown = invoke(*call)
    assert shown.code == 0 and "was there" in shown.stderr
    rows = {line[: line.index("  ")] for line in shown.stdout.splitlines() if "  " in line}
    assert {*SETS, "mean, all", "mean, in-domain", "mean, out-of-domain"} <= rows
    one = invoke(*call, "squad", "--json")
    assert [result["task"] for result in one.json["results"]] == ["squad"]
    invoke(*call, "nothing").fails(2, "its sets are")
