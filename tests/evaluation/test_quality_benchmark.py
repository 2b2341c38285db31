"""benchmarks/quality.py and the helpers of benchmarks/_common.py: groups, resuming, flat metrics, honest files."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The script as a module, with its results in a folder of the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _common
    import quality

    for module in (_common, quality):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    yield quality
    for name in ("quality", "_common"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sets: one English, one of code, and a folder that is none."""
    for name, language, word in (("en-a", "en", "cat"), ("deep/code-b", "go", "func")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        corpus = [{"_id": f"d{i}", "text": f"{word} number {i}", "lang": language} for i in range(9)]
        queries = [{"_id": f"q{i}", "text": f"which is number {i % 9}?", "lang": "en"} for i in range(30)]
        for stem, rows in (("corpus", corpus), ("queries", queries)):
            (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        judged = "".join(f"q{i}\td{i % 9}\t1\n" for i in range(30))
        (folder / "qrels.tsv").write_text(judged, encoding="utf-8")
    (tmp_path / "data" / "pretrain").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("corpus", "queries", "group"),
    [
        ({"en": 100}, {"en": 95, "de": 5}, "english"),
        ({"en": 100}, {"en": 90, "de": 10}, "cross-lingual"),
        ({"go": 100}, {"en": 50, "de": 50}, "code"),
        ({"ja": 10}, {"ja": 10}, "other"),
        ({"en": 10}, {"ja": 10}, "cross-lingual"),
        ({"en": 50, "de": 50}, {"en": 100}, "cross-lingual"),
    ],
)
def test_groups(quality: ModuleType, corpus: dict[str, int], queries: dict[str, int], group: str) -> None:
    assert quality.group_of(Counter(corpus), Counter(queries)) == group


def test_a_second_run_computes_nothing_and_a_killed_one_goes_on(
    quality: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["--data", str(data), "--model", "bm25", "--name", "quality-test", "--json"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/quality.py", *call])
    assert quality.main(call) == 0
    first = json.loads(capsys.readouterr().out)
    assert first == json.loads((tmp_path / "results" / "quality-test.json").read_text(encoding="utf-8"))
    assert first["metrics"]["en-a.bm25.ndcg@10"] == 1
    assert first["metrics"]["mean-english.bm25.sets"] == 1
    assert first["metrics"]["mean-code.bm25.recall@100"] == 1
    assert str(tmp_path) not in json.dumps(first)

    cache = tmp_path / "results" / "quality-test.cache.jsonl"
    kept = cache.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["set"] for line in kept] == ["en-a", "deep/code-b"]
    cache.write_text(kept[0] + "\n" + kept[1][:40], encoding="utf-8")  # killed while writing
    assert quality.main(call) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["metrics"] == first["metrics"]
    assert "bm25 2/2 deep/code-b" in captured.err
    assert "bm25 1/2" not in captured.err
    assert quality.main(call) == 0
    assert "bm25 " not in capsys.readouterr().err


def test_a_changed_set_is_scored_again(quality: ModuleType, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--data", str(data), "--model", "bm25", "--name", "quality-test", "--sets", "en"]
    assert quality.main(call) == 0
    assert "code-b" not in capsys.readouterr().out
    with (data / "en-a" / "corpus.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"_id": "d9", "text": "one more", "lang": "en"}\n')
    assert quality.main(call) == 0
    assert "bm25 1/1 en-a" in capsys.readouterr().err


def test_ratio_uses_the_sets_that_both_have(quality: ModuleType) -> None:
    sets = [quality.DataSet(Path(), name, "english", 1, 1, "x") for name in ("a", "b")]

    def entry(score: float) -> dict[str, object]:
        return {"report": {"scores": dict.fromkeys(quality.MEASURES, score), "truncated": 0}}

    table = {"a": {"bm25": entry(0.4), "ours": entry(0.3)}, "b": {"bm25": entry(0.8)}}
    metrics = quality.metrics_of(sets, table)
    assert metrics["mean-english.bm25.ndcg@10"] == pytest.approx(0.6)
    assert metrics["mean-english.ours.to-bm25"] == pytest.approx(0.75)
    assert metrics["mean-english.ours.sets"] == 1
    assert "mean-english.ours.ndcg@10" not in metrics  # it lacks a set, so it does not compare to bm25's mean


def test_bad_arguments(quality: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for call, said in (
        (["--data", str(tmp_path / "nowhere")], "is not a folder"),
        (["--data", str(data / "pretrain")], "no folder in or below"),
        (["--data", str(data), "--sets", "fr-*"], "no set fits --sets fr-*"),
        (["--data", str(data), "--model", "st:./nowhere"], "st:./nowhere is not a folder"),
    ):
        assert quality.main(call) != 0
        assert said in capsys.readouterr().err


def test_result_file(quality: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import _common

    monkeypatch.setattr(sys, "argv", ["/somewhere/quality.py", "--model", "st:/weights/model", "--data=/data", "../x"])
    assert _common.command() == "python benchmarks/quality.py --model st:model --data=data ../x"
    result = _common.make_result("n", {"a.b": 0.123456789}, notes="x")
    assert result["metrics"] == {"a.b": 0.123457}
    assert set(result["machine"]) == {"cpu", "cores", "ram_gb", "gpu"}
    with pytest.raises(ValueError, match="these are not: b"):
        _common.make_result("n", {"a": 1, "b": float("nan")})
    quick = argparse.Namespace(quick=True, name="n")
    assert _common.result_path(quick).parent.name == "quick"


def test_interleaved_timing_takes_turns(quality: ModuleType) -> None:
    import _common

    calls: list[str] = []
    timings = _common.interleaved({name: partial(calls.append, name) for name in "abc"}, repeats=2)
    assert "".join(calls) == "abc" + "abc" + "bca"
    assert all(len(timing.seconds) == 2 for timing in timings.values())
    timing = _common.Timing((3.0, 1.0, 2.0, 4.0))
    assert (timing.median, timing.percentile(50), timing.percentile(95), timing.spread) == (2.5, 2.0, 4.0, 1.2)
