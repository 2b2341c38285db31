"""Folders of sets: found, measured once, measured again when model, form or data change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation import evaluate_retrieval
from diffembed.evaluation.ranker import Ranker, load_ranker, ranker_of
from diffembed.evaluation.results import ResultFolder, read_results
from diffembed.evaluation.sets import data_digest, evaluate_set, evaluate_sets, find_sets, mean_of_sets

TEXTS = (
    "the lighthouse keeper counts ships",
    "melt the butter slowly",
    "masked tokens are filled in",
    "ein Leuchtturm",
)


def write(folder: Path, *, query: str = "counting ships", chunks: bool = False) -> Path:
    folder.mkdir(parents=True)
    rows = [{"_id": f"d{i}", "text": text, "lang": "de" if i == 3 else "en"} for i, text in enumerate(TEXTS)]
    if chunks:
        rows = [row | {"doc_id": f"D{i // 2}", "chunk_idx": i % 2} for i, row in enumerate(rows)]
    queries = [{"_id": "q0", "text": query, "lang": "en"}, {"_id": "q1", "text": "butter", "lang": "de"}]
    for name, lines in (("corpus", rows), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "qrels.tsv").write_text("q0\td0\t1\nq1\td1\t1\n", encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b", "deep/a", "deep/c"):
        write(tmp_path / "data" / name, query=f"ships {name}")
    (tmp_path / "data" / "no-set").mkdir()
    (tmp_path / "data" / "no-set" / "corpus.jsonl").write_text('{"_id": "a", "text": "b"}\n', encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def ranker(tiny_encoder: Encoder) -> Ranker:
    return ranker_of("tiny", tiny_encoder, dims=32)


def test_sets_are_found_at_any_depth(root: Path) -> None:
    assert [name for name, _ in find_sets(root)] == ["b", "deep/a", "deep/c"]
    assert [name for name, _ in find_sets(root, ["deep/*"])] == ["deep/a", "deep/c"]
    assert find_sets(root / "b") == [("b", root / "b")]
    with pytest.raises(InputError, match="none of the 3 sets .* matches x; there are b, deep/a, deep/c"):
        find_sets(root, ["x"])
    with pytest.raises(InputError, match=r"no folder in or below .*no-set has corpus.jsonl"):
        find_sets(root / "no-set")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_sets(root / "nowhere")


def test_a_set_is_measured_once(root: Path, tmp_path: Path, ranker: Ranker) -> None:
    into = ResultFolder(tmp_path / "results")
    first, kept = evaluate_set(root / "b", ranker, into=into)
    assert not kept
    again, kept = evaluate_set(root / "b", ranker, into=into)
    assert kept
    assert again.scores == first.scores
    assert again.settings == first.settings == ranker.settings | {"split": "all", "contextual": False}
    assert again.environment["diffembed"]
    _, kept = evaluate_set(root / "b", ranker, split="train", into=into)
    assert not kept
    (root / "b" / "qrels.tsv").write_text("q0\td2\t1\n", encoding="utf-8")  # other data under the same name
    other, kept = evaluate_set(root / "b", ranker, into=into)
    assert not kept
    assert other.counts["queries"] == 1
    assert other.data["sha256"] == data_digest(root / "b") != first.data["sha256"]


def test_a_result_says_what_the_report_says(root: Path, tiny_model_dir: Path) -> None:
    report = evaluate_retrieval(root / "b", model=str(tiny_model_dir), dtype="binary", dims=64)
    result, _ = evaluate_set(root / "b", load_ranker(str(tiny_model_dir), dtype="binary", dims=64))
    assert (result.benchmark, result.task, result.model) == ("beir", "b", str(tiny_model_dir))
    assert (result.main, result.scores, result.by_query) == ("ndcg@10", report.scores, report.by_query)
    assert result.cost["bytes_per_document"] == 64 / 8
    assert result.counts["documents"] == report.documents == 4
    assert {group.by for group in result.groups} == {"language", "length", "characters"}
    assert [group.value for group in result.groups if group.by == "language"] == ["de-en", "en"]
    assert result.notes == ()


def test_bm25_is_kept_too_and_has_no_lengths_in_tokens(root: Path, tmp_path: Path) -> None:
    into, bm25 = ResultFolder(tmp_path / "results"), load_ranker("bm25")
    result, _ = evaluate_set(root / "b", bm25, into=into)
    assert {group.by for group in result.groups} == {"language", "characters"}
    assert "bytes_per_document" not in result.cost
    assert evaluate_set(root / "b", bm25, into=into)[1]


def test_all_sets_go_on_where_they_were(root: Path, tmp_path: Path, ranker: Ranker) -> None:
    said: list[str] = []
    into = ResultFolder(tmp_path / "results")
    evaluate_set(root / "b", ranker, into=into)
    (root / "deep" / "c" / "qrels.tsv").write_text("q0\td9\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"deep/c/qrels.tsv, line 1 names the id 'd9', which is in no row of corpus"):
        evaluate_sets(root, ranker, into=into, report=said.append)
    (root / "deep" / "c" / "qrels.tsv").write_text("q0\td3\t1\n", encoding="utf-8")
    results = evaluate_sets(root, ranker, into=into, report=said.append, command="diffembed evaluate sets")
    assert [line.rpartition("(")[2] for line in said if "was there" in line] == ["was there)"] * 3
    assert [line.split()[1] for line in said] == ["1/3", "2/3", "1/3", "2/3", "3/3"]
    assert {result.task for result in read_results([into.path])} == {"b", "deep/a", "deep/c"}
    means = mean_of_sets(results)
    assert means["ndcg@10"] == pytest.approx(sum(result.scores["ndcg@10"] for result in results) / 3)
    assert read_results([into.path])[-1].environment["command"] == "diffembed evaluate sets"


def test_chunks_read_together_and_alone_are_two_results(root: Path, tmp_path: Path, tiny_encoder: Encoder) -> None:
    folder, into = write(tmp_path / "chunks", chunks=True), ResultFolder(tmp_path / "results")
    together, alone = (ranker_of("tiny", tiny_encoder, contextual=read) for read in (None, False))
    first, _ = evaluate_set(folder, together, into=into)
    second, kept = evaluate_set(folder, alone, into=into)
    assert not kept
    assert (first.settings["contextual"], second.settings["contextual"]) == (True, False)
    short = replace(together, settings=together.settings | {"max_tokens": 4})
    notes = {
        read: _length_notes(folder, replace(short, settings=short.settings | {"contextual": read}))
        for read in (True, False)
    }
    assert all("over the limit of 4 tokens" in note for note in notes[True])
    assert not any("limit" in note for note in notes[False])  # no chunk is longer than what is read at once
    with pytest.raises(InputError, match="no chunks that could be read together"):
        evaluate_set(root / "b", ranker_of("tiny", tiny_encoder, contextual=True))


def _length_notes(folder: Path, ranker: Ranker) -> list[str]:
    result, _ = evaluate_set(folder, ranker)
    return [group.note for group in result.groups if group.by == "length"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "corpus.jsonl",
            '{"_id": "d0", "text": "a"}\n{"_id": "d0", "text": "b"}\n',
            "corpus.jsonl, line 2.*given before",
        ),
        ("queries.jsonl", '{"_id": "q0", "text": " "}\n', "queries.jsonl, line 1.*query 'q0' is empty"),
        ("qrels.tsv", "q7\td0\t1\n", "qrels.tsv, line 1 names the id 'q7', which is in no row of queries"),
        ("qrels.tsv", "q0\td0\tyes\nq0\td0\tno\n", "qrels.tsv, line 1: the score 'yes' is not a whole number"),
        ("qrels.tsv", "q0\td0\t0\n", "no judged query"),
    ],
)
def test_bad_data_is_named(root: Path, ranker: Ranker, file: str, content: str, words: str) -> None:
    (root / "b" / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        evaluate_set(root / "b", ranker)
