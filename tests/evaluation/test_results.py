"""Result files: what is written is read again, and what is no result is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffembed.errors import InputError
from diffembed.evaluation.results import MTEB_FILES, Group, Result, ResultFolder, read_result, read_results

RESULT = Result(
    benchmark="MTEB(Code, v1)",
    task="AppsRetrieval",
    model="st:owner/model",
    revision="abc",
    main="ndcg@10",
    scores={"ndcg@10": 0.25, "recall@10": 0.5},
    settings={"dtype": "int8", "dims": 64},
    groups=(Group("language", "python", 2, {"ndcg@10": 0.25}, "a note"),),
    by_query={"q1": {"ndcg@10": 0.5}, "q2": {"ndcg@10": 0.0}},
    counts={"queries": 2},
    cost={"seconds": 1.5},
    data={"sha256": "00"},
    notes=("One note.",),
)


def test_what_is_written_is_read_and_found_again(tmp_path: Path) -> None:
    into = ResultFolder(tmp_path)
    file = into.write(RESULT, "diffembed evaluate")
    assert file.parent == tmp_path / "MTEB-Code-v1" / "AppsRetrieval"
    found = into.find("MTEB(Code, v1)", "AppsRetrieval", "st:owner/model", "abc", {"dims": 64, "dtype": "int8"})
    assert found is not None
    assert found.environment["command"] == "diffembed evaluate"
    assert replace(found, environment={}) == RESULT
    assert into.find("MTEB(Code, v1)", "AppsRetrieval", "st:owner/model", "abd", RESULT.settings) is None
    assert into.find("MTEB(Code, v1)", "AppsRetrieval", "st:owner/model", "abc", {"dims": 32}) is None


def test_mteb_s_own_files_are_not_taken_for_results(tmp_path: Path) -> None:
    file = ResultFolder(tmp_path).write(RESULT)
    own = tmp_path / MTEB_FILES / "results" / "AppsRetrieval.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}", encoding="utf-8")
    assert [result.task for result in read_results([tmp_path])] == ["AppsRetrieval"]
    assert len(read_results([file, tmp_path])) == 1


def spoil(**changes: Any) -> str:
    values = RESULT.to_dict() | changes
    return json.dumps({name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (spoil(version=2), "has version 2 of the result format and this diffembed reads version 1; move it away"),
        (spoil(version=None), "has version None"),
        (spoil(format="mteb"), "not a result of diffembed evaluate: it has no format"),
        (spoil(scores=None, mood="good"), "not a whole result: unknown mood; no scores"),
        (spoil(groups=[{"by": "length"}]), "not a whole result: .*value"),
        (spoil(groups=[{"by": "length", "value": "9", "queries": "x", "scores": {}}]), "result: groups cannot be"),
        (spoil(groups={"by": "length"}, notes="one"), "result: groups, notes cannot be"),
        (spoil(main="ndcg@5"), "main score 'ndcg@5' is not among ndcg@10, recall@10"),
        (spoil(scores={"ndcg@10": "high"}), "not a whole result: scores cannot be"),
        (spoil(by_query={"q1": 0.5}, counts=[3]), "not a whole result: counts, by_query cannot be"),
        (spoil(model=["bm25"], settings="int8"), "not a whole result: model, settings cannot be"),
        ("[]", "holds no JSON object"),
        ("{", "cannot be read as a result"),
    ],
)
def test_what_is_no_result(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "some.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_result(file)


def test_places_without_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no result files"):
        read_results([tmp_path])
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_results([tmp_path / "nowhere"])
