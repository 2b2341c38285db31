"""The four verbs: what they show, what they keep, what they write, and how they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.invoke import run

from diffembed.data.beir import RetrievalTask, load_beir, write_beir
from diffembed.evaluation.results import read_results


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    file = tmp_path / "prose.txt"
    file.write_text(" ".join(f"Sentence number {n} of this book says no more." for n in range(300)), encoding="utf-8")
    return file


def test_passkey_shows_lengths_and_depths_and_keeps_the_result(tmp_path: Path) -> None:
    asked = ("evaluate", "passkey", "--model", "bm25", "--lengths", "256, 512", "--into", tmp_path / "r")
    shown = run(*asked)
    assert shown.code == 0, shown.stderr
    assert "passkey: bm25: accuracy@1 1.0000 of 100 queries" in shown.stdout
    assert "tokens  queries  accuracy@1  ceiling" in shown.stdout
    assert "depth  queries  accuracy@1" in shown.stdout
    assert "read whole" in shown.stderr
    (kept,) = read_results([tmp_path / "r"])
    assert (kept.benchmark, kept.score, len(kept.by_query)) == ("passkey", 1.0, 100)
    assert kept.environment["command"].startswith("diffembed")
    assert "measured before" in run(*asked).stderr
    assert run(*asked, "--json").json["scores"]["accuracy@1"] == 1


def test_needle_with_a_model_that_cuts(tmp_path: Path, prose: Path, tiny_model_dir: Path) -> None:
    asked = ("evaluate", "needle", "--model", tiny_model_dir, "--lengths", "256", "--prose", prose)
    shown = run(*asked, "--into", tmp_path / "r")
    assert shown.code == 0, shown.stderr
    assert "reads 128 tokens" in shown.stdout
    assert "depth beyond the limit" in shown.stdout
    assert "cut to 128 tokens" in shown.stderr
    whole = run(*asked, "--into", tmp_path / "r", "--windows", "--dims", "16", "--json").json
    assert whole["settings"]["over_limit"] == "windows"
    assert whole["settings"]["dims"] == 16
    assert {group["by"] for group in whole["groups"]} == {"length", "depth", "domain"}
    assert len(read_results([tmp_path / "r"])) == 2


def test_contextual_puts_the_readings_side_by_side(tmp_path: Path) -> None:
    small = ("--languages", "en, zh", "--documents", "2", "--questions", "1", "--into", tmp_path / "r")
    shown = run("evaluate", "contextual", "--model", "bm25", *small)
    assert shown.code == 0, shown.stderr
    assert "chunks read  ndcg@10  chunk@1  document@1  part@1" in shown.stdout
    assert "language  queries   alone  prepended" in shown.stdout
    assert "chunks after the name" in shown.stdout
    found = run("evaluate", "contextual", "--model", "bm25", "--reading", "prepended", *small, "--json").json
    assert [result["settings"]["reading"] for result in found["results"]] == ["prepended"]
    assert found["results"][0]["scores"]["chunk@1"] == 1
    run("evaluate", "contextual", "--model", "bm25", "--reading", "together", *small).fails(2, "bm25", "together")


def test_scale_shows_recall_by_size(tmp_path: Path, tiny_model_dir: Path) -> None:
    task = RetrievalTask("zoo", ("a", "b"), ("cats sleep", "dogs bark"), {"q": "cats"}, {"q": {"a": 1}})
    write_beir(tmp_path / "zoo", task)
    (tmp_path / "far.txt").write_text("".join(f"text {n}\n" for n in range(120)), encoding="utf-8")
    asked = ("evaluate", "scale", "--model", tiny_model_dir, "--data", tmp_path / "zoo")
    asked = (*asked, "--distractors", tmp_path / "far.txt", "--into", tmp_path / "r")
    run(*asked).fails(2, "--work DIR")
    shown = run(*asked, "--work", tmp_path / "work")
    assert shown.code == 0, shown.stderr
    assert "documents  queries  recall@10  recall@100  recall@1000" in shown.stdout
    assert [line.split()[0] for line in shown.stdout.splitlines()[-4:]] == ["2", "10", "100", "122"]
    again = run(*asked, "--work", tmp_path / "work", "--json").json
    assert again["counts"]["documents"] == 122
    np.save(tmp_path / "v.npy", np.zeros((3, 5), np.int8))
    run(*asked[:6], "--distractors", tmp_path / "v.npy").fails(2, "v.npy", "64 dims")


def test_texts_are_written_without_a_model(tmp_path: Path, prose: Path) -> None:
    written = run("evaluate", "passkey", "--model", "none", "--lengths", "256,512", "--write", tmp_path / "w", "--json")
    assert [Path(folder).name for folder in written.json["folders"]] == ["passkey-256", "passkey-512"]
    shown = run("evaluate", "needle", "--lengths", "256", "--prose", prose, "--write", tmp_path / "w")
    assert shown.stdout.split() == [str(tmp_path / "w" / "needle-256")]
    run("evaluate", "contextual", "--languages", "fr", "--documents", "2", "--write", tmp_path / "w")
    assert load_beir(tmp_path / "w" / "contextual").doc_ids is not None
    scored = run("evaluate", "retrieval", "--data", tmp_path / "w" / "passkey-256", "--model", "bm25", "--json")
    assert scored.json["scores"]["recall@1"] == 1


def test_wrong_wishes_are_one_line(tmp_path: Path) -> None:
    run("evaluate", "passkey", "--lengths", "256,x").fails(2, "--lengths", "whole numbers")
    run("evaluate", "passkey", "--lengths", "300").fails(2, "length 300", "256, 512")
    run("evaluate", "needle", "--prose", tmp_path / "no.txt").fails(2, "no.txt", "does not exist")
    run("evaluate", "contextual", "--languages", "xx").fails(2, "'xx'", "de, en, es, fr, zh")
    run("evaluate", "passkey", "--model", "bm25", "--windows", "--lengths", "256").fails(2, "windows")
