"""Whole runs: what they leave, how they go on after kill -9, and that they learn."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.training.conftest import write_run

from diffembed.encoder import Encoder
from diffembed.errors import RecipeError, TrainingError
from diffembed.models.checkpoint import read_model_config
from diffembed.training.configs import PRETRAINING
from diffembed.training.run import run_recipe
from diffembed.training.state import last_state

RUN = "import sys, pathlib, diffembed.training.run as run; run.run_recipe(pathlib.Path(sys.argv[1]))"


def _quiet(_: str) -> None:
    pass


def _weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_whole_run_leaves_a_model_that_encodes(recipe_path: Path) -> None:
    report = run_recipe(recipe_path, report=_quiet)
    assert list(report.stages) == ["untrained", "base", "diffusion", "pairs-start", "pairs"]
    assert all("set" in scores["ndcg@10"] for scores in report.stages.values())
    assert set(report.stages["diffusion"]) == {"held_out_before", "held_out_after", "ndcg@10"}
    config = read_model_config(report.model)
    assert config.dims == (16, 32)
    assert [x["stage"] for x in config.manifest["earlier"]] == ["base", "diffusion"]
    vectors = Encoder.load(report.model).encode_documents(["an owl by the river"], dtype="int8", dims=16)
    assert vectors.values.shape == (1, 16) and vectors.values.dtype == np.int8
    out = recipe_path.parent / "out"
    assert not list(out.glob("*/state")), "the state of a complete stage is removed"
    before = _weights(out / "pairs" / "model")
    lines: list[str] = []
    run_recipe(recipe_path, report=lines.append)  # nothing is done twice
    assert sum("complete, skipped" in x for x in lines) == 3
    assert _weights(out / "pairs" / "model") == before


def test_pretrain_stops_before_pairs(recipe_path: Path) -> None:
    report = run_recipe(recipe_path, kinds=PRETRAINING, report=_quiet)
    assert report.model.endswith(os.path.join("diffusion", "model"))
    assert not (recipe_path.parent / "out" / "pairs").exists()


def test_a_changed_recipe_is_refused(recipe_path: Path) -> None:
    run_recipe(recipe_path, kinds=PRETRAINING, report=_quiet)
    text = recipe_path.read_text(encoding="utf-8")
    recipe_path.write_text(text.replace("lr = 1e-2", "lr = 2e-2"), encoding="utf-8")
    with pytest.raises(RecipeError, match="made by another recipe"):
        run_recipe(recipe_path, kinds=PRETRAINING, report=_quiet)
    recipe_path.write_text(text.replace("vocab_size = 300", "vocab_size = 301"), encoding="utf-8")
    with pytest.raises(RecipeError, match="trained by another recipe"):
        run_recipe(recipe_path, kinds=PRETRAINING, report=_quiet)


def test_kill_and_resume_gives_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", save_seconds=0, diffusion_steps=10)
    run_recipe(whole, report=_quiet)
    cut = write_run(tmp_path / "cut", save_seconds=0, diffusion_steps=10)
    logs = [tmp_path / name / "out" for name in ("whole", "cut")]
    for stage, lines in (("diffusion", 5), ("pairs", 5)):  # kill -9 after five steps of ten, and of eight
        log = logs[1] / stage / "log.jsonl"
        process = subprocess.Popen([sys.executable, "-c", RUN, str(cut)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if log.is_file() and len(log.read_text(encoding="utf-8").splitlines()) >= lines:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_recipe(cut, report=_quiet)
    for stage in ("base", "diffusion", "pairs"):
        a, b = (tmp_path / name / "out" / stage / "model" for name in ("whole", "cut"))
        assert _weights(a) == _weights(b), stage
    for stage, steps in (("diffusion", 10), ("pairs", 8)):
        rows, other = (
            [json.loads(x) for x in (out / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]
            for out in logs
        )
        assert [r["step"] for r in rows] == list(range(steps)), "the log has every step once"
        for key in ("loss", "grad_norm", "tokens", "source"):  # the same batches in the same order
            assert [r[key] for r in rows] == [r[key] for r in other]


def test_measuring_between_steps_changes_nothing_but_the_log(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain")
    often = write_run(tmp_path / "often")
    text = often.read_text(encoding="utf-8").replace("log_every = 1", "log_every = 4\nheld_out_every = 2")
    often.write_text(text, encoding="utf-8")
    for path in (plain, often):
        run_recipe(path, kinds=PRETRAINING, report=_quiet)
    a, b = (tmp_path / name / "out" / "diffusion" for name in ("plain", "often"))
    assert _weights(a / "model") == _weights(b / "model")
    rows, fewer = ([json.loads(x) for x in (f / "log.jsonl").read_text().splitlines()] for f in (a, b))
    assert [r["step"] for r in fewer] == [0, 1, 3, 4, 5], "the last step is measured by scores.json"
    for row in fewer:
        assert row["loss"] == rows[row["step"]]["loss"]
    measured = {r["step"]: {k for k in r if k.startswith("held_out/")} for r in fewer}
    after = json.loads((b / "scores.json").read_text(encoding="utf-8"))["held_out_after"]
    wanted = {f"held_out/{name}" for name in after}
    assert measured == {0: set(), 1: wanted, 3: wanted, 4: set(), 5: set()}

    # what a stage of four steps ends with is what a longer one was after four
    short = write_run(tmp_path / "short", diffusion_steps=4)
    for path in (often, short):
        text = path.read_text(encoding="utf-8").replace('output = "out"', 'output = "flat"')
        path.write_text(text.replace("warmup = 2\n[[", "warmup = 2\ndecay_share = 0.0\n[[", 1), encoding="utf-8")
        run_recipe(path, kinds=PRETRAINING, report=_quiet)
    log = (tmp_path / "often" / "flat" / "diffusion" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(r for r in map(json.loads, log) if r["step"] == 3)
    scores = json.loads((tmp_path / "short" / "flat" / "diffusion" / "scores.json").read_text(encoding="utf-8"))
    assert {k.removeprefix("held_out/"): v for k, v in row.items() if "/" in k} == scores["held_out_after"]


def test_thirty_steps_learn(tmp_path: Path) -> None:
    recipe = write_run(tmp_path, diffusion_steps=30, pair_steps=30)
    report = run_recipe(recipe, report=_quiet)
    before, after = (report.stages["diffusion"][f"held_out_{x}"] for x in ("before", "after"))
    rates = ("0.1", "0.3", "0.5", "0.7", "0.9")
    nats = {f"mask_{rate}" for rate in rates} | {"elbo_nats_per_token"}
    assert set(before) == nats | {f"accuracy_{rate}" for rate in rates} | {"elbo_bits_per_byte"}
    for name in nats:
        assert after[name] < before[name] - 0.3, name
    assert all(0 <= after[f"accuracy_{rate}"] <= 1 for rate in rates)
    assert after["elbo_bits_per_byte"] < before["elbo_bits_per_byte"]
    rows = [json.loads(x) for x in (tmp_path / "out" / "pairs" / "log.jsonl").read_text().splitlines()]
    judged = [r["loss"] for r in rows if r["source"] == "judged"]
    assert np.mean(judged[-4:]) < 0.8 * np.mean(judged[:4])


def test_a_loss_that_is_not_finite_stops_with_its_batch(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8").replace("temperature", "")
    recipe_path.write_text(text.replace("dims = [16, 32]", "dims = [16, 32]\ntemperature = 1e-45"), encoding="utf-8")
    with pytest.raises(
        TrainingError, match=r"stage 'pairs', step 0, .*'source': .*texts.jsonl, line \d+;.*bad-step.json.*lower lr"
    ):
        run_recipe(recipe_path, report=_quiet)
    assert not (recipe_path.parent / "out" / "pairs" / "model").exists()


def test_a_run_that_blows_up_names_the_texts_and_keeps_its_checkpoint(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8").replace("save_seconds = 300.0", "save_seconds = 0")
    recipe_path.write_text(text.replace("lr = 1e-2", "lr = 1e25", 1), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"stage 'base', step [12], .*texts: .*texts.jsonl, line \d+.* and 3 more"):
        run_recipe(recipe_path, kinds=PRETRAINING, report=_quiet)
    folder = recipe_path.parent / "out" / "base"
    listed = json.loads((folder / "bad-step.json").read_text(encoding="utf-8"))
    assert len(set(listed["texts"])) == 8, "256 tokens in windows of 32"
    assert listed["facts"]["tokens"] > 0 and listed["facts"]["source"] == "texts"
    found = last_state(folder / "state", pytest.fail)
    assert found is not None and found[1]["step"] == listed["step"]
