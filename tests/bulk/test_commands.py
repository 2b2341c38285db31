"""`diffembed encode --into` and `diffembed verify`, as a user meets them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.bulk.folders import contents, rows, vectors, write_jsonl
from tests.cli.invoke import process, run

from diffembed import cli_bulk
from diffembed.bulk.rows import StdinFormat
from diffembed.bulk.shards import ShardFormat
from diffembed.runtime.start import Device, Precision


@pytest.fixture
def source(corpus: list[str], tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", rows(corpus, 40))


def test_encode_into_a_folder_and_verify_it(source: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    into = tmp_path / "out"
    args = ("encode", source, "--into", into, "--model", tiny_model_dir, "--dtype", "int8", "--shard-rows", "15")
    made = run(*args)
    assert (made.code, made.stdout) == (0, ""), made.stderr
    assert f"wrote {into}" in made.stderr
    assert "rows without a vector: 5 (2 empty, 1 not_json, 1 not_utf8, 1 wrong_type)" in made.stderr
    before = contents(into)
    again = run(*args, "--json").json
    assert (again["kept"], again["shards"], again["rows"], again["quarantined"]) == (3, 3, 40, 5)
    assert again["kinds"] == {"empty": 2, "not_json": 1, "not_utf8": 1, "wrong_type": 1}
    strict = run(*args, "--strict")
    assert strict.code == 2
    assert "rows without a vector: 5" in strict.stderr.splitlines()[-1]
    assert contents(into) == before
    run(*args, "--dims", "16").fails(2, "begun with dims 64, this run has 16")

    checked = run("verify", into)
    assert (checked.code, checked.stdout) == (0, ""), checked.stderr
    assert "40 rows in 3 shards" in checked.stderr
    assert run("verify", into, "--sample", "5", "--seed", "3", "--json").json["sampled"] == 5
    (into / "vectors-00001.npy").unlink()
    broken = run("verify", into, "--sample", "0")
    assert broken.code == 1
    assert "wrong: shard 1: vectors-00001.npy is missing" in broken.stdout
    assert "is not sound: shard 1: vectors-00001.npy is missing" in broken.stderr.splitlines()[-1]
    run("verify", tmp_path / "nowhere").fails(2, "nowhere", "manifest.json")


def test_options_reach_the_encoder(tiny_model_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"body": " ".join(corpus * 3), "key": "k1"}, {"body": ["a", "b"], "key": 2}])
    args = ("encode", tmp_path / "in.jsonl", "--model", tiny_model_dir, "--text-column", "body", "--id-column", "key")
    assert run(*args, "--into", tmp_path / "out", "--windows", "--format", "parquet").code == 0
    assert [row[:4] for row in vectors(tmp_path / "out")] == [
        (1, 0, "k1", "windowed"),
        (2, 0, "2", "whole"),
        (2, 1, "2", "whole"),
    ]
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert (settings["precision"], settings["device"], settings["windows"]) == ("int8", "cpu", True)
    assert run(*args, "--into", tmp_path / "two", "--truncate", "--precision", "fp32", "--threads", "1").code == 0
    assert [row[3] for row in vectors(tmp_path / "two")] == ["truncated", "whole", "whole"]
    run(*args, "--into", tmp_path / "no", "--precision", "int8", "--device", "cuda").fails(2, "cuda")
    run(*args, "--into", tmp_path / "no", "--truncate", "--windows").fails(2, "truncate and windows")
    assert not (tmp_path / "no").exists()


def test_every_choice_of_the_api_can_be_made() -> None:
    for choice, known in (
        (cli_bulk.ShardFormat, ShardFormat),
        (cli_bulk.StdinFormat, StdinFormat),
        (cli_bulk.Precision, Precision),
        (cli_bulk.Device, Device),
    ):
        assert tuple(choice) == get_args(known)


def test_several_inputs_into_one_file(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n")
    args = ("encode", tmp_path / "a.txt", tmp_path / "b.txt", "--model", tiny_model_dir)
    assert run(*args, "--output", tmp_path / "out.parquet").code == 0
    assert pq.read_table(tmp_path / "out.parquet")["line"].to_pylist() == [1, 2, 3]
    assert run(*args, "--into", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"] == [2, 1]


def test_jsonl_from_a_pipe(tiny_model_dir: Path, tmp_path: Path) -> None:
    ran = process(
        "encode",
        "-",
        "--stdin-format",
        "jsonl",
        "--into",
        tmp_path / "out",
        "--model",
        tiny_model_dir,
        stdin='{"text": "a cat"}\nnot json\n{"chunks": ["a", "b"]}\n',
    )
    assert ran.code == 0, ran.stderr
    assert "rows without a vector: 1 (1 not_json)" in ran.stderr
    assert [row[:2] for row in vectors(tmp_path / "out")] == [(1, 0), (3, 0), (3, 1)]
    listed = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert (listed["line"], listed["begins"]) == (2, "not json")
    assert listed["reason"].startswith("stdin, line 2 is not JSON")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["--output", "--into"]),
        (["--output", "x.npy", "--into", "x"], ["--output", "--into"]),
        (["--output", "x.npy", "--strict"], ["--strict", "--into"]),
        (["--output", "x.npy", "--shard-rows", "5"], ["--shard-rows", "--into"]),
        (["--output", "x.npy", "--format", "npy"], ["--format", "--into"]),
        (["--into", "x", "--format", "csv"], ["csv"]),
        (["--into", "x", "--shard-rows", "0"], ["--shard-rows"]),
        (["--into", "x", "--stdin-format", "csv"], ["csv"]),
    ],
)
def test_wrong_use_is_one_line(args: list[str], words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("a\n")
    run("encode", "in.txt", *args).fails(2, "--help", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_a_total_that_nobody_knows_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffembed import console

    monkeypatch.setattr(console, "_PLAIN_PROGRESS_SECONDS", 0.0)
    with console.progress("encoding") as tick:
        tick(5, 0)
        tick(6, 9)
    assert capsys.readouterr().err == "encoding: 5\nencoding: 6 of 9, 0 s left\n"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with console.progress("encoding") as tick:
        tick(5, 0)


def test_npy_shards_put_together_are_the_single_file(tiny_model_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    (tmp_path / "in.txt").write_text("\n".join(corpus), encoding="utf-8")
    args = ("encode", tmp_path / "in.txt", "--model", tiny_model_dir)
    assert run(*args, "--output", tmp_path / "all.npy").code == 0
    assert run(*args, "--into", tmp_path / "out", "--shard-rows", "4").code == 0
    parts = [np.load(file) for file in sorted((tmp_path / "out").glob("*.npy"))]
    assert [len(part) for part in parts] == [4, 4, 1]
    assert np.abs(np.concatenate(parts) - np.load(tmp_path / "all.npy")).max() < 1e-4
