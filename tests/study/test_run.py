"""Whole studies in seconds: what they leave and spend, and how they go on after a kill or at the end of a time."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.invoke import run
from tests.study.studies import write_study

from diffembed.errors import RecipeError, UnfinishedError
from diffembed.evaluation.results import read_results
from diffembed.models.checkpoint import read_model_config
from diffembed.study import read_study, read_summary, run_study
from diffembed.study.arms import seed_recipe
from diffembed.study.measure import load_model
from diffembed.training.run import run_stages

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUN = "import sys, pathlib, diffembed.study as study; study.run_study(pathlib.Path(sys.argv[1]))"
SMALL = {"seeds": "[1]", "backbones": '["causal", "diffusion-aligned"]', "more": ""}


def _quiet(_: str) -> None:
    pass


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what takes another time in another run."""
    spent = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in summary["spent"]]
    return summary | {"spent": spent}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished study of all parts."""
    path = write_study(tmp_path_factory.mktemp("study"))
    return path, run_study(path, report=_quiet)


def test_the_summary_has_every_part(whole: tuple[Path, dict[str, Any]]) -> None:
    path, summary = whole
    assert read_summary(path) == summary
    measures = ["short", "long", "contextual", "contextual alone", "gain of reading together"]
    cells = [(b, p) for b in ("causal", "opened", "diffusion-aligned") for p in ("mask",)]
    assert [(r["measure"], r["backbone"], r["pooling"]) for r in summary["grid"]] == [
        (m, *c) for m in measures for c in cells
    ]
    for row in (*summary["grid"], *summary["samples"], *summary["attention"], *summary["by_set"]):
        assert len(row["by_seed"]) == 2 and row["mean"] == pytest.approx(np.mean(row["by_seed"]), abs=2e-5)
        assert row["low"] <= row["mean"] <= row["high"]
    assert [(r["set"], r["queries"], r["documents"]) for r in summary["sets"]] == [
        ("short", 12, 20),
        ("long", 12, 12),
        ("chunked", 6, 9),
    ]
    assert sum(r["queries"] for r in summary["lengths"]) == 12 * len(cells)
    assert [(r["steps"], r["samples"]) for r in summary["samples"]] == [(2, 16), (4, 32)]
    assert len(summary["attention"]) == 4 * (1 + 3) and len(summary["operations"]) == 1
    assert {r["stage"] for r in summary["language"]} >= {"base", "continued", "diffusion-aligned"}


def test_differences_are_of_the_same_queries_and_seeds(whole: tuple[Path, dict[str, Any]]) -> None:
    _, summary = whole
    grid = {(r["measure"], r["backbone"], r["pooling"]): r for r in summary["grid"]}
    assert len(summary["differences"]) == 5 * 2
    for row in summary["differences"]:
        mine, theirs = grid[row["measure"], row["backbone"], row["pooling"]], grid[row["measure"], "causal", "mask"]
        assert row["by_seed"] == pytest.approx(np.subtract(mine["by_seed"], theirs["by_seed"]), abs=2e-5)
        assert row["seeds_above"] == sum(value > 0 for value in row["by_seed"])


def test_the_ablation_reads_one_model_under_both_masks(whole: tuple[Path, dict[str, Any]]) -> None:
    path, summary = whole
    grid = {(r["measure"], r["backbone"], r["pooling"]): r["by_seed"] for r in summary["grid"]}
    by_masks = {(r["measure"], r["trained"], r["tested"]): r["by_seed"] for r in summary["attention"]}
    assert by_masks["short", "causal", "causal"] == grid["short", "causal", "mask"]
    assert by_masks["short", "bidirectional", "bidirectional"] == grid["short", "opened", "mask"]
    model = path.parent / "out" / "seed-1" / "continued.causal.mask.4" / "model"
    texts = ["what about number 3", "number 3"]
    vectors = {mask: load_model(model, mask).encode_documents(texts).values for mask in ("causal", "bidirectional")}
    assert np.abs(vectors["causal"] - vectors["bidirectional"]).max() > 1e-3
    assert load_model(model, "bidirectional").config.attention == "bidirectional"


def test_results_can_be_read_by_others(whole: tuple[Path, dict[str, Any]]) -> None:
    path, summary = whole
    results = read_results([path.parent / "out" / "results"])
    by_benchmark = {name: [r for r in results if r.benchmark == name] for name in {r.benchmark for r in results}}
    assert set(by_benchmark) == {"study", "study attention", "study samples"}
    assert len(by_benchmark["study"]) == 3 * 2 * 4 and len(by_benchmark["study attention"]) == 4 * 2 * 3
    one = next(r for r in by_benchmark["study"] if (r.model, r.task) == ("opened/mask", "long"))
    assert {"backbone": "opened", "pooling": "mask"}.items() <= one.settings.items()
    assert {group.by for group in one.groups} == {"characters"} and len(one.by_query) == 12
    assert len({r.revision for r in by_benchmark["study"] if r.model == "opened/mask"}) == 1, "seeds belong together"
    amounts = [[(g.by, g.value) for g in r.groups] for r in by_benchmark["study samples"]]
    assert amounts == [[("samples", "16"), ("samples", "32")]] * 2
    cost = next(r for r in summary["spent"] if (r["backbone"], r["equal"]) == ("opened", "tokens"))
    ours = [r for r in by_benchmark["study"] if (r.model, r.task) == ("opened/mask", "long")]
    assert cost["base_tokens"] == np.mean([r.cost["base_tokens"] for r in ours])


def test_the_benchmark_gathers_every_figure(
    whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("study_benchmark", BENCHMARKS / "study.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    _, summary = whole
    pairs = list(benchmark.metrics(summary))
    found = dict(pairs)
    assert all(np.isfinite(value) and " " not in name for name, value in pairs)
    row = next(r for r in summary["grid"] if (r["measure"], r["backbone"]) == ("gain of reading together", "opened"))
    names = [f"grid.gain-of-reading-together.opened-mask{end}" for end in ("", ".low", ".high")]
    assert [found[name] for name in names] == [row["mean"], row["low"], row["high"]]
    assert found["minus.causal-mask.short.opened-mask.seeds"] in (0, 1, 2)
    assert found["spent.tokens.opened-mask.adapt.tokens"] > 0 and found["size.short.documents"] == 20
    assert {"samples.short.opened-mask.2", "attention.short.autoregressive-mask.causal.bidirectional"} <= set(found)


def test_nothing_is_done_twice_and_another_study_is_refused(whole: tuple[Path, dict[str, Any]]) -> None:
    path, summary = whole
    lines: list[str] = []
    assert run_study(path, report=lines.append) == summary and lines == []
    measured = path.parent / "out" / "measured"
    gone = sorted(measured.rglob("causal-mask.*.json"))[0]
    before = json.loads(gone.read_text(encoding="utf-8"))
    gone.unlink()
    run_study(path, report=lines.append)
    again = json.loads(gone.read_text(encoding="utf-8"))
    assert again["by_query"] == before["by_query"], "measured again, and the same"
    assert len(lines) == 1 and "measuring" in lines[0]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("lr = 1e-2", "lr = 2e-2", 1), encoding="utf-8")
    try:
        with pytest.raises(RecipeError, match="was made by another recipe"):
            run_study(path, report=_quiet)
    finally:
        path.write_text(text, encoding="utf-8")


def test_equal_tokens_and_what_they_cost(tmp_path: Path) -> None:
    every = '["causal", "opened", "mntp", "diffusion", "diffusion-noshift", "diffusion-aligned"]'
    path = write_study(tmp_path, backbones=every, more="", tune_steps=1)
    study = read_study(path)
    names = ["base", "continued", "mntp", "diffusion", "diffusion-noshift", "diffusion-aligned"]
    run_stages(seed_recipe(study, 1, path), tmp_path, names, command="c", report=_quiet)
    models = {name: tmp_path / "out" / "seed-1" / name / "model" for name in names[1:]}
    own = {name: read_model_config(model).manifest["training"] for name, model in models.items()}
    assert len({training["tokens"] for training in own.values()}) == 1, "the same windows, and as many"
    flops = {name: training["flops"] for name, training in own.items()}
    assert flops["continued"] > flops["diffusion"] > flops["mntp"]  # all tokens predicted, about half, a fifth
    tokens = own["diffusion"]["tokens"]
    linear = 2 * 2 * (16 * 8 * (2 + 1 + 1 + 2) + 3 * 16 * 24)  # of two layers: what the frozen parent's passes add
    assert linear * tokens < flops["diffusion-aligned"] - flops["diffusion"] < 1.5 * linear * tokens


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a study of two cells that ran through."""
    return figures(run_study(write_study(tmp_path_factory.mktemp("small"), **SMALL), report=_quiet))


def test_kill_and_resume_give_the_same_figures(tmp_path: Path, small: dict[str, Any]) -> None:
    cut = write_study(tmp_path / "cut", save_seconds=0, **SMALL)
    output = tmp_path / "cut" / "out"
    waits = (
        lambda: any(output.glob("seed-1/diffusion-aligned/state/step-*/complete.json")),
        lambda: any((output / "measured").rglob("diffusion-aligned-mask.*.json")),
    )
    wanted = iter(waits)
    for _ in range(2):  # kill -9 in the midst of a stage, and between two measurements
        seen = next(wanted)
        process = subprocess.Popen([sys.executable, "-c", RUN, str(cut)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and not seen():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert seen()
    assert figures(run_study(cut, report=_quiet)) == small


def test_a_study_in_pieces(tmp_path: Path, small: dict[str, Any]) -> None:
    """Every call does some work, says how far it is, and the last one gives what one long call would have given."""
    path = write_study(tmp_path / "pieces", **(SMALL | {"keep_models": "false"}))
    said: list[str] = []
    found: dict[str, Any] | None = None
    while found is None and len(said) < 60:
        try:
            found = run_study(path, minutes=0.0, report=_quiet)
        except UnfinishedError as error:
            said.append(str(error))
    assert found is not None and figures(found) == small
    assert len(said) > 10, "a step or a measurement each"
    assert all("study is not finished (model " in line and "run the same command to go on" in line for line in said)
    seed = path.parent / "out" / "seed-1"
    assert not list(seed.glob("*.mask.4/model")) and (seed / "continued" / "model").is_dir()
    assert figures(run_study(path, report=_quiet)) == small, "what is measured needs no weights"


def test_the_command_line(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, summary = whole
    shown = run("study", path, "--tables")
    assert shown.code == 0 and "### gain of reading together" in shown.stdout and "| mask readout |" in shown.stdout
    row = next(r for r in summary["grid"] if (r["measure"], r["backbone"], r["pooling"]) == ("short", "causal", "mask"))
    assert f"| causal | {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] |" in shown.stdout
    assert run("study", path, "--tables", "--json").json == summary
    plan = run("study", path, "--dry-run", "--json").json
    assert (plan["seeds"], plan["models"]) == (2, 10) and plan["measured"] == plan["measurements"] > 0
    assert "TFLOP" in run("study", path, "--dry-run").stdout
    other = write_study(tmp_path, **SMALL)
    run("study", other, "--tables").fails(2, "is not finished; run: diffembed study")
    run("study", other, "--tables", "--dry-run").fails(2, "both given")
    run("study", tmp_path / "none.toml").fails(5, "does not exist")
    stopped = run("study", other, "--minutes", "0")
    assert stopped.code == 75 and "is not finished" in stopped.stderr.splitlines()[-1] and not stopped.stdout
