"""Questions in every published form, the measures against BERGEN's and SQuAD's own code, bad rows named."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import InputError
from diffembed.evaluation.bergen import (
    Question,
    answer_scores,
    exact_match,
    f1,
    holds_answer,
    match,
    passage_scores,
    read_questions,
)


def write(file: Path, rows: list[Any]) -> Path:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


OURS = {"id": 7, "question": "Who painted it?", "answers": ["Leonardo", "Leonardo", " "], "evidence": ["p1", 12]}
KILT = {
    "id": "6915606477668963399",
    "input": "what do the 3 dots mean in math",
    "output": [
        {"answer": "the therefore sign", "provenance": [{"wikipedia_id": "10593264", "title": "Therefore sign"}]},
        {"answer": "", "provenance": [{"wikipedia_id": "99"}]},
        {"answer": "therefore", "meta": {"score": 1}},
    ],
    "meta": {"left_context": ""},
}
TRIVIA = {"question": "Capital?", "question_id": "tc_2", "answer": {"value": "Rome", "aliases": ["Roma", "Rome"]}}
POPQA = {"id": 4222362, "question": "What is his occupation?", "possible_answers": '["politician", "\\u00e9lu"]'}
ASQA = {
    "ambiguous_question": "Who played Bones?",
    "sample_id": "-65",
    "qa_pairs": [{"question": "x", "short_answers": ["Karl Urban"]}, {"short_answers": ["DeForest Kelley"]}],
    "annotations": [{"long_answer": "..."}],
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (OURS | {"evidence": ["p1", "12"]}, Question("7", "Who painted it?", ("Leonardo",), frozenset({"p1", "12"}))),
        (
            KILT,
            Question(
                "6915606477668963399",
                "what do the 3 dots mean in math",
                ("the therefore sign", "therefore"),
                frozenset({"10593264", "99"}),
            ),
        ),
        (TRIVIA, Question("tc_2", "Capital?", ("Rome", "Roma"))),
        (POPQA, Question("4222362", "What is his occupation?", ("politician", "élu"))),
        (ASQA, Question("-65", "Who played Bones?", ("Karl Urban", "DeForest Kelley"))),
        ({"question": "q", "answers": ["a"]}, Question("1", "q", ("a",))),
    ],
    ids=["ours", "kilt", "triviaqa", "popqa", "asqa", "least"],
)
def test_forms(tmp_path: Path, row: dict[str, Any], wanted: Question, suffix: str) -> None:
    read = read_questions(write(tmp_path / f"nq-dev.{suffix}", [row]))
    assert read.rows == (wanted,)
    assert read.name == "nq-dev"
    assert len(read.sha256) == 64


BAD: dict[str, tuple[list[Any], str]] = {
    "other keys": ([{"query": "x"}], r"line 1 has the keys \['query'\]; expected question and answers"),
    "no answer": ([{"question": "q", "answers": [" "]}], "line 1 has no answer"),
    "answers a string": ([{"question": "q", "answers": "Rome"}], "line 1: the answers must be a list of strings"),
    "answers numbers": ([{"question": "q", "answers": [1912]}], "line 1: the answers must be a list of strings"),
    "no question": ([KILT, TRIVIA | {"question": " "}], "line 2 has no question"),
    "twice": ([OURS, OURS], "line 2: the id '7' was given before"),
    "evidence": ([OURS | {"evidence": [{"id": 1}]}], "the evidence must be a list of ids"),
    "PopQA in Python's spelling": ([POPQA | {"possible_answers": "['politician']"}], "is no JSON list"),
    "no rows": ([], "holds no questions"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(tmp_path: Path, name: str) -> None:
    rows, said = BAD[name]
    with pytest.raises(InputError, match=said):
        read_questions(write(tmp_path / "qa.jsonl", rows))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file; give questions"):
        read_questions(tmp_path)


def squad_normal(text: str) -> str:
    """The normal form of SQuAD's evaluation, which BERGEN and this field share, step by step."""
    text = text.lower()
    text = "".join(c for c in text if c not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def squad_f1(prediction: str, truth: str) -> float:
    """SQuAD's F1 of one pair."""
    mine, theirs = squad_normal(prediction).split(), squad_normal(truth).split()
    same = sum((Counter(mine) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(mine), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


TEXTS = st.text(st.sampled_from("aAnthe TXz9é.,-'ß東"), max_size=24)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_answers_are_judged_as_in_squad_and_bergen(text: str, answers: list[str]) -> None:
    usable = [answer for answer in answers if squad_normal(answer)]
    assert match(text, answers) == float(any(squad_normal(answer) in squad_normal(text) for answer in usable))
    assert exact_match(text, answers) == float(any(squad_normal(answer) == squad_normal(text) for answer in answers))
    assert f1(text, answers) == pytest.approx(max(squad_f1(text, answer) for answer in answers))


def test_an_answer_by_hand() -> None:
    question = Question("1", "When?", ("July 1969", "20 July 1969"))
    assert answer_scores("It was on 20 July 1969.", question) == {
        "match": 1.0,
        "exact_match": 0.0,
        "f1": pytest.approx(2 * 3 / (6 + 3)),
    }


@pytest.mark.parametrize(
    ("passage", "answer", "there"),
    [
        ("He lived in New-York City.", "new york", True),
        ("The party ended", "art", False),
        ("Sales of 3,500 units", "3,500", True),
        ("Sales of 13,500 units", "3,500", False),
        ("東京都の人口", "東京", True),
        ("Cafe\u0301 de Flore", "Café", True),
        ("anything", "!?", False),
    ],
)
def test_answers_in_passages(passage: str, answer: str, there: bool) -> None:
    assert holds_answer(passage, [answer]) is there


def test_recall_of_answers_and_evidence() -> None:
    """Second passage holds the answer; evidence are a passage (third) and a document (of the fifth)."""
    passages = [("a", "A", "no"), ("b", "B", "it is Rome"), ("c", "C", "no"), ("d", "D", "no"), ("e", "E", "no")]
    question = Question("1", "?", ("Rome",), frozenset({"c", "E"}))
    scores = passage_scores(passages, question, (1, 2, 3, 5))
    assert [scores[f"answer_recall@{cut}"] for cut in (1, 2, 3, 5)] == [0, 1, 1, 1]
    assert [scores[f"evidence_recall@{cut}"] for cut in (1, 2, 3, 5)] == [0, 0, 1, 1]
    assert [scores[f"evidence_all@{cut}"] for cut in (1, 2, 3, 5)] == [0, 0, 0, 1]
    assert set(passage_scores(passages, Question("1", "?", ("Rome",)), (5,))) == {"answer_recall@5"}
    assert passage_scores([], question, (5,)) == {"answer_recall@5": 0, "evidence_recall@5": 0, "evidence_all@5": 0}
