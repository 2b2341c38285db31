"""Rows of contrastive training: one JSON form, the names of other trainers, and a reason for every bad row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from tests.data.corpora import any_example

from diffembed.data.examples import (
    Example,
    Grouped,
    Pair,
    Question,
    Triplet,
    content_key,
    example_line,
    example_record,
    parse_example,
)
from diffembed.errors import InputError


@given(any_example)
def test_what_is_written_is_read(example: Example) -> None:
    line = example_line(example)
    assert line.endswith("\n") and line.count("\n") == 1
    again = parse_example(json.loads(line), "rows.jsonl, line 1")
    assert again == example and type(again) is type(example)
    assert example_line(again) == line and content_key(again) == content_key(example)


def test_the_form_by_hand() -> None:
    questions = (Question("what?", 1, (0.5, 2.0), "q1"), Question("why?"))
    grouped = Grouped(("a", "b"), questions, document_id="d", language="en", source="wiki")
    record = {
        "chunks": ["a", "b"],
        "queries": [{"query": "what?", "chunk": 1, "scores": [0.5, 2.0], "id": "q1"}, {"query": "why?", "chunk": None}],
        "document_id": "d",
        "lang": "en",
        "source": "wiki",
    }
    assert example_record(grouped) == record and parse_example(record, "") == grouped
    assert example_record(Triplet("q", "d", ())) == {"query": "q", "document": "d", "negatives": []}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"anchor": "q", "positive": "d"}, Pair("q", "d")),
        ({"anchor": "q", "positive": "d", "negative": "n"}, Triplet("q", "d", ("n",))),
        ({"anchor": "q", "positive": "d", "negative_2": "m", "negative_10": "l", "negative_1": "n"},
         Triplet("q", "d", ("n", "m", "l"))),
        ({"query": "q", "pos": ["d"], "neg": ["n", "m"]}, Triplet("q", "d", ("n", "m"))),
        ({"query": "q", "pos": ["d"], "neg": [], "prompt": "Find: "}, Triplet("q", "d", (), instruction="Find: ")),
        ({"query": "q", "document": "d", "id": 7, "document_id": 0}, Pair("q", "d", id="7", document_id="0")),
        ({"query": "q", "document": "d", "split": "train", "score": 0.5}, Pair("q", "d")),
        ({"query": "q", "document": "d", "negatives": None, "chunks": None, "id": None}, Pair("q", "d")),
        ({"query": "q", "document": None, "positive": "d"}, Pair("q", "d")),
        ({"chunks": ["a"], "queries": [{"query": "q", "chunk": 0, "id": 3, "scores": None}], "query": None},
         Grouped(("a",), (Question("q", 0, id="3"),))),
        ({"chunks": ["a", "b"], "queries": [{"query": "q", "scores": [1, 0]}]},
         Grouped(("a", "b"), (Question("q", None, (1.0, 0.0)),))),
    ],
)  # fmt: skip
def test_names_of_other_trainers(record: dict[str, Any], expected: Example) -> None:
    found = parse_example(record, "here")
    assert found == expected and type(found) is type(expected)


def grouped(**question: Any) -> dict[str, Any]:
    return {"chunks": ["a", "b"], "queries": [{"query": "q"} | question]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no query": ({"document": "d"}, r"has no 'query': it is needed in every row; found keys \['document'\]"),
    "no positive": ({"query": "q", "negatives": ["n"]}, r"has no positive: 'document' is needed in every row"),
    "null positive": ({"query": "q", "document": None}, "has no positive"),
    "empty query": ({"query": " \n", "document": "d"}, "'query' is empty"),
    "empty positive": ({"query": "q", "document": ""}, "'document' is empty"),
    "query type": ({"query": ["q"], "document": "d"}, "'query' must be a string, not list"),
    "positive type": ({"query": "q", "document": 3}, "'document' must be a string, not int"),
    "lang type": ({"query": "q", "document": "d", "lang": 7}, "'lang' must be a string, not int"),
    "id type": ({"query": "q", "document": "d", "id": 1.5}, "'id' must be a string, not float"),
    "id bool": ({"query": "q", "document": "d", "id": True}, "'id' must be a string, not bool"),
    "two names": ({"query": "q", "anchor": "p", "document": "d"}, "has 'query' under two names"),
    "two negatives": ({"query": "q", "document": "d", "neg": ["n"], "negative_1": "n"}, "'negatives' under two names"),
    "several positives": ({"query": "q", "pos": ["d", "e"]}, "'pos' must be a list of one document"),
    "no list": ({"query": "q", "document": "d", "negatives": {"a": 1}}, "'negatives' must be a list"),
    "negative type": (
        {"query": "q", "document": "d", "negatives": ["n", 3]},
        "'negatives' 1 must be a string, not int",
    ),
    "empty negative": ({"query": "q", "document": "d", "negatives": ["n", " "]}, "'negatives' 1 is empty"),
    "two kinds": ({**grouped(), "document": "d"}, "has 'document' next to chunks and queries"),
    "no chunks": ({"queries": [{"query": "q"}]}, "'chunks' must be a list of at least one text"),
    "no queries": ({"chunks": ["a"]}, "'queries' must be a list of at least one object"),
    "chunks are text": ({"chunks": "ab", "queries": [{"query": "q"}]}, "'chunks' must be a list"),
    "empty chunk": ({"chunks": ["a", ""], "queries": [{"query": "q"}]}, "'chunks' 1 is empty"),
    "chunk type": ({"chunks": ["a", None], "queries": [{"query": "q"}]}, "'chunks' 1 must be a string, not NoneType"),
    "query no object": ({"chunks": ["a"], "queries": ["q" * 500]}, r"query 0 must be an object .*, not 'q+ \.\.\."),
    "no text asked": ({"chunks": ["a"], "queries": [{"chunk": 0}]}, "query 0 has no 'query'"),
    "gold past the end": (grouped(chunk=2), r"query 0 has chunk 2, the row has 2 chunks \(0 to 1\)"),
    "gold before": (grouped(chunk=-1), "query 0 has chunk -1"),
    "gold type": (grouped(chunk="1"), "query 0 has chunk '1'; a whole number from 0, or null, is needed"),
    "gold bool": (grouped(chunk=True), "query 0 has chunk True"),
    "few scores": (grouped(scores=[1.0]), r"query 0 must have as many finite 'scores' as the row has chunks \(2\)"),
    "scores no list": (grouped(scores=0), "as many finite 'scores'"),
    "score nan": (grouped(scores=[1.0, float("nan")]), "as many finite 'scores'"),
    "score bool": (grouped(scores=[1.0, True]), "as many finite 'scores'"),
    "score huge": (grouped(scores=[1.0, 10**400]), "as many finite 'scores'"),
}


@pytest.mark.parametrize(("record", "message"), BAD.values(), ids=BAD)
def test_every_bad_row_has_a_reason(record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_example(record, "rows.jsonl, line 9")
    said = str(caught.value)
    assert said.startswith("rows.jsonl, line 9") and "\n" not in said and len(said) < 300
