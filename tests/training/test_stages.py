"""A run of all contrastive stages: what each leaves, going on after each, after kill -9, and what is mined when."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.data.corpora import write_beir, write_examples
from tests.training.all_stages import write_run
from tests.training.contrastive_rows import stage_of

from diffembed.data.beir import split_of
from diffembed.data.examples import Triplet, parse_example
from diffembed.errors import RecipeError
from diffembed.models.checkpoint import read_model_config
from diffembed.models.merging import merge_models
from diffembed.training import mined
from diffembed.training.configs import MineConfig, SourceConfig, StageConfig
from diffembed.training.recipe import read_recipe
from diffembed.training.run import run_recipe

STAGES = ["base", "pairs", "contextual", "triplet", "merged", "after", "free"]


def quiet(_: Any) -> None:
    pass


def nothing(*_: Any) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Whole:
    """A finished run, and what it said when it was asked for a part of it."""

    recipe: Path
    refused: str
    scores: dict[str, dict[str, Any]]

    @property
    def out(self) -> Path:
        return self.recipe.parent / "out"


@pytest.fixture(scope="module", autouse=True)
def _no_graphs() -> Iterator[None]:
    """The torch runtime scores and mines here; graphs are tested elsewhere and take seconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffembed.training.scoring.write_graphs", nothing)
        patch.setattr("diffembed.training.products.write_graphs", nothing)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Stage by stage, each time by a process that finds what the ones before left."""
    recipe = write_run(tmp_path_factory.mktemp("all"))
    with pytest.raises(RecipeError) as refused:  # of pair stages the second comes after the merge
        run_recipe(recipe, kinds=("causal", "pair"), report=quiet)
    for kind in ("contextual", "triplet", "merge"):
        run_recipe(recipe, kinds=(kind,), report=quiet)
    report = run_recipe(recipe, report=quiet)
    return Whole(recipe, str(refused.value), report.stages)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_stage_waits_for_its_parent(whole: Whole) -> None:
    assert whole.refused == "stage 'after' needs 'merged', which is not complete: run it"


def test_every_stage_leaves_a_scored_model(whole: Whole) -> None:
    assert list(whole.scores) == STAGES
    for name, scores in whole.scores.items():
        assert set(scores["ndcg@10"]) == {"set", "chunks", "chunks late", "mean"}, name
    assert sorted(p.name for p in whole.out.iterdir() if p.is_dir()) == sorted([*STAGES, "corpus", "final"])
    assert not list(whole.out.glob("*/state")) and not list(whole.out.rglob(".*")), "nothing half done is left"
    made = [weights(whole.out / name) for name in STAGES]
    assert len(set(made)) == len(made)


def test_a_finished_run_does_nothing(whole: Whole) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.out.rglob("*") if p.is_file() and "final" not in p.parts}
    lines: list[str] = []
    run_recipe(whole.recipe, report=lines.append)
    assert [line for line in lines if "skipped" in line] == [f"{name}: complete, skipped" for name in STAGES]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_what_kind_of_model_a_stage_leaves(whole: Whole) -> None:
    for name in STAGES:
        config = read_model_config(whole.out / name / "model")
        assert config.contextual == (name in ("contextual", "free")), name
        assert (config.quantizer, config.normalize) == (("none", True) if name == "free" else ("tanh-int8", False))
    widths = {name: read_model_config(whole.out / name / "model").dims for name in STAGES}
    assert widths["contextual"] == (16, 32) and widths["triplet"] == (32,) == widths["merged"]


def test_manifests(whole: Whole) -> None:
    recipe = read_recipe(whole.recipe).with_shift(True)
    earlier = {
        "base": [],
        "pairs": ["base"],
        "contextual": ["base", "pairs"],
        "triplet": ["base", "pairs"],
        "merged": ["base", "pairs", "contextual", "triplet"],
        "after": ["base", "pairs", "contextual", "triplet", "merged"],
        "free": ["base", "pairs"],
    }
    for stage in recipe.stage:
        manifest = read_model_config(whole.out / stage.name / "model").manifest
        assert manifest["stage"] == stage.name and manifest["stage_fingerprint"] == recipe.fingerprint(stage)
        assert [x["stage"] for x in manifest["earlier"]] == earlier[stage.name]
        assert manifest["parent"] == {"contextual": "pairs", "merged": "contextual", "after": "merged"}.get(
            stage.name, manifest["parent"]
        )
        assert manifest["training"]["steps"] == stage.steps


def test_the_best_share_is_kept(whole: Whole, tmp_path: Path) -> None:
    manifest = read_model_config(whole.out / "merged" / "model").manifest
    sweep = json.loads((whole.out / "merged" / "scores.json").read_text(encoding="utf-8"))["sweep"]
    assert manifest["objective"] == {
        "kind": "merge",
        "method": "slerp",
        "parents": ["contextual", "triplet"],
        "share": float(max(sweep, key=lambda share: sweep[share])),
        "sweep": sweep,
    }
    assert set(sweep) == {"0.2", "0.9"} and sweep["0.2"] != sweep["0.9"], "there was something to choose"
    assert whole.scores["merged"]["ndcg@10"]["mean"] == max(sweep.values())
    assert not (whole.out / "merged" / "sweep").exists()
    parents = [whole.out / name / "model" for name in ("contextual", "triplet")]
    assert [p["path"] for p in manifest["merge"]["parents"]] == ["../../contextual/model", "../../triplet/model"]
    share = manifest["objective"]["share"]
    merge_models(parents, tmp_path / "by hand", method="slerp", weights=(1 - share, share))
    ours, theirs = (load_file(f / "model.safetensors") for f in (whole.out / "merged" / "model", tmp_path / "by hand"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_mined_rows_are_of_the_train_side(whole: Whole) -> None:
    (file,) = (whole.out / "triplet" / "negatives").glob("*.jsonl")
    rows = [parse_example(json.loads(line), "x") for line in file.read_text(encoding="utf-8").splitlines()]
    train = {f"set/q{i}" for i in range(60) if split_of(f"q{i}") == "train"}
    assert {row.id for row in rows} <= train and len(rows) > len(train) / 2, "some have no negative far enough"
    for row in rows:
        assert isinstance(row, Triplet) and 1 <= len(row.negatives) <= 2 and row.document not in row.negatives
    report = json.loads(file.with_name(f"{file.name}.report.json").read_text(encoding="utf-8"))
    assert report["settings"]["negatives"] == 2 and report["settings"]["seed"] == 1
    assert report["model"].endswith("pairs/model")
    manifest = read_model_config(whole.out / "triplet" / "model").manifest
    assert manifest["data"]["judged"]["rows"] == len(rows)


def test_logs_say_what_a_step_read(whole: Whole) -> None:
    for row in log(whole.out / "triplet"):
        assert row["queries"] == 8 and row["source"] == "judged" and row["tokens"] > 0
    rows = log(whole.out / "contextual")
    assert {row["source"] for row in rows} == {"groups", "chunks"} and all(row["queries"] > 6 for row in rows)
    assert any(row.get("cut") and row.get("left_out") for row in rows if row["source"] == "groups")


def test_another_recipe_does_not_go_on_with_these_models(whole: Whole, tmp_path: Path) -> None:
    text = whole.recipe.read_text(encoding="utf-8")
    for old, new, stage in (
        ("last = 20", "last = 19", "triplet"),
        ("sweep = [0.2, 0.9]", "sweep = [0.2, 0.8]", "merged"),
        ('contextual = ["chunks"]', "contextual = []", "merged"),  # the judges of a sweep decide what is kept
        ("document_tokens = 60", "document_tokens = 59", "contextual"),
    ):
        assert old in text
        other = whole.recipe.with_name("other.toml")
        other.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(RecipeError, match=rf"made by another recipe \(stage '{stage}' or a parent has changed\)"):
            run_recipe(other, report=quiet)


KILLED = """
import pathlib, sys, time
import diffembed.data.mining as mining, diffembed.training.run as run, diffembed.training.scoring as scoring

scoring.write_graphs = lambda *_: None
triplets = mining._Run.triplets

def stalled(self, progress):
    for number, triplet in enumerate(triplets(self, progress)):
        yield triplet
        if number == 5:
            print("mining", flush=True)
            time.sleep(600)

mining._Run.triplets = stalled

def watch(at):
    if at.stage == "contextual" and at.step == int(sys.argv[2]):
        print("training", flush=True)
        time.sleep(600)

run.run_recipe(pathlib.Path(sys.argv[1]), report=lambda _: None, watch=watch)
"""


def killed(recipe: Path, step: int) -> str:
    """Run it in a process of its own, which is killed where it says so; that word."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(recipe), str(step)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return said.strip()


@pytest.mark.slow
def test_killed_while_it_trains_and_while_it_mines(whole: Whole, tmp_path: Path) -> None:
    """With kill -9 each time; in the end the same weights and the same steps."""
    cut = tmp_path / "run" / "all.toml"
    shutil.copytree(whole.recipe.parent, cut.parent)
    text = whole.recipe.read_text(encoding="utf-8").replace("save_seconds = 300.0", "save_seconds = 0")
    cut.write_text(text[: text.index('[[stage]]\nname = "after"')] + text[text.index("[score]") :], encoding="utf-8")
    out = cut.parent / "out"
    for name in ("contextual", "triplet", "merged", "after", "free", "final"):
        shutil.rmtree(out / name)
    assert killed(cut, 4) == "training"
    assert sorted(p.name for p in (out / "contextual" / "state").glob("step-*")) == ["step-00000002", "step-00000003"]
    assert killed(cut, 0) == "mining"
    negatives = out / "triplet" / "negatives"
    assert not list(negatives.glob("*.jsonl")) and list(negatives.glob(".*.mining-*"))
    run_recipe(cut, report=quiet)
    for name in ("contextual", "triplet", "merged"):
        assert weights(out / name) == weights(whole.out / name), name
    for name, steps in (("contextual", 6), ("triplet", 4)):
        rows, other = log(out / name), log(whole.out / name)
        assert [row["step"] for row in rows] == list(range(steps)), "the log has every step once"
        for key in ("loss", "grad_norm", "tokens", "queries", "source"):
            assert [row[key] for row in rows] == [row[key] for row in other]
    assert not [p for p in negatives.iterdir() if p.name.startswith(".") and p.is_dir()], "nor is the disk filled"


# What is mined, and when


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """What was mined: data, model and settings of every call."""
    calls: list[tuple[str, str, Any]] = []

    def mine(data: Path, into: Path, *, model: str, split: str, settings: Any) -> str:
        assert split == "train"
        calls.append((str(data), model, settings))
        write_examples(into, [Triplet("q", f"of {data}", ("n",))])
        return "done"

    monkeypatch.setattr(mined, "mine_negatives", mine)
    return calls


def prepare(stage: StageConfig, whole: Whole, folder: Path, *, parent: str = "pairs", mine: bool = True) -> list[Path]:
    """The files that the stage's pairs became."""
    model, data = whole.out / parent / "model", whole.recipe.parent / "data"
    found = mined.with_mined_negatives(stage, model, data, folder, 5, mine=mine, report=quiet)
    assert found.mine is None and [s.kind for s in found.source if s.name == "judged"] == ["rows"]
    return [Path(path) for source in found.source for path in source.paths if source.name == "judged"]


JUDGED = SourceConfig("judged", ("set",), kind="pairs")
HARD = SourceConfig("hard", ("hard.jsonl",), kind="rows", weight=3.0)
MINES = stage_of("triplet", source=(JUDGED, HARD), mine=MineConfig(negatives=3, margin=0.1))


def test_pairs_become_rows_once(whole: Whole, tmp_path: Path, asked: list[Any]) -> None:
    model, data = whole.out / "pairs" / "model", whole.recipe.parent / "data"
    first = mined.with_mined_negatives(MINES, model, data, tmp_path, 5, mine=True, report=quiet)
    assert first.source[1] == HARD and dataclasses.replace(first.source[0], paths=("set",), kind="pairs") == JUDGED
    ((path, by, settings),) = asked
    assert path == str(data / "set") and by == str(model)
    assert (settings.negatives, settings.margin, settings.seed) == (3, 0.1, 5)
    for mine in (True, False):
        again = mined.with_mined_negatives(MINES, model, data, tmp_path, 5, mine=mine, report=pytest.fail)
        assert again == first and len(asked) == 1


def test_other_settings_or_another_parent_mine_anew(whole: Whole, tmp_path: Path, asked: list[Any]) -> None:
    files = [prepare(MINES, whole, tmp_path)]
    files.append(prepare(dataclasses.replace(MINES, mine=MineConfig(negatives=3)), whole, tmp_path))
    files.append(prepare(MINES, whole, tmp_path, parent="contextual"))
    assert len({tuple(paths) for paths in files}) == 3 == len(asked)
    assert prepare(MINES, whole, tmp_path) == files[0] and len(asked) == 3


def test_folders_of_one_name_are_mined_each(whole: Whole, tmp_path: Path, asked: list[Any]) -> None:
    for place in ("a", "b"):
        for inner in ("x/set", "y/set"):
            write_beir(tmp_path / place / inner, 4)
    source = dataclasses.replace(JUDGED, paths=(str(tmp_path / "*/*/set"),))
    files = prepare(dataclasses.replace(MINES, source=(source,)), whole, tmp_path / "stage [1]")
    assert len(asked) == 4 == len(set(files))
    texts = {Path(str(f).replace("[[]", "[")).read_text(encoding="utf-8") for f in files}
    assert len(texts) == 4


def test_what_a_killed_run_left_is_removed(whole: Whole, tmp_path: Path, asked: list[Any]) -> None:
    (file,) = prepare(MINES, whole, tmp_path)
    left = file.with_name(f".{file.name}.mining-abc")
    left.mkdir()
    (left / "documents.int8").write_bytes(b"x")
    prepare(MINES, whole, tmp_path)
    assert left.exists(), "of a file that is whole, nothing is touched"
    file.unlink()
    prepare(MINES, whole, tmp_path)
    assert not left.exists() and file.is_file()
