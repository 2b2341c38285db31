"""What a study trains: the grid, shared backbones, the ablation, equal amounts; and what no study can mean."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.study.studies import write_study

from diffembed.errors import RecipeError
from diffembed.study.arms import grid_arms, jobs, sample_arms, seed_recipe
from diffembed.study.recipe import BACKBONES, POOLINGS, Study, read_study
from diffembed.training.estimate import estimate_stages

RUNS = Path(__file__).resolve().parents[2] / "runs"
WHOLE = {
    "references": '["causal/last"]',
    "backbones": str(list(BACKBONES)).replace("'", '"'),
    "poolings": str(list(POOLINGS)).replace("'", '"'),
}


def read(folder: Path, **changes: str) -> Study:
    return read_study(write_study(folder, **changes))


@pytest.mark.parametrize("path", sorted(RUNS.glob("study-*.toml")), ids=lambda p: p.name)
def test_shipped_studies_are_the_whole_grid_with_three_seeds(path: Path) -> None:
    study = read_study(path)
    assert len(study.grid.seeds) == 3
    assert {arm.name for arm in grid_arms(study)} == {f"{b}/{p}" for b in BACKBONES for p in POOLINGS}
    assert {one.family for one in study.measure.set} == {"short", "long", "contextual", "reasoning"}
    assert study.samples and study.attention
    assert study.run.name == path.stem


def test_fewer_steps_have_the_whole_schedule(tmp_path: Path) -> None:
    study = read(tmp_path)  # 4 steps, 2 of them warmup; [samples] has 2 steps
    stages = {stage.name: stage for stage in seed_recipe(study, 1, tmp_path / "study.toml").stage}
    (few,) = sample_arms(study)
    assert (stages[few.stage].steps, stages[few.stage].warmup) == (2, 1)
    whole = next(arm for arm in grid_arms(study) if arm.name == few.name)
    assert (stages[whole.stage].steps, stages[whole.stage].warmup) == (4, 2)


def test_backbones_are_adapted_alike_and_tuned_alike(tmp_path: Path) -> None:
    study = read(tmp_path, more="", **WHOLE)
    recipe = seed_recipe(study, 2, tmp_path / "study.toml")
    assert recipe.run.seed == 2 and recipe.run.output == "out/seed-2"
    stages = {stage.name: stage for stage in recipe.stage}
    adapted = ["continued", "mntp", "diffusion", "diffusion-noshift", "diffusion-aligned"]
    assert [s.name for s in recipe.stage][:6] == ["base", *adapted] and len(stages) == 6 + 18
    assert {stages[name].kind for name in adapted} == {"causal", "mntp", "diffusion"}
    assert [stages[name].shift for name in adapted] == [None, None, True, False, True]
    assert [stages[name].alignment_weight for name in adapted] == [0, 0, 0, 0, 1.0]
    for name in adapted:  # same windows, same amount, same start
        stage = stages[name]
        assert (stage.order, stage.parent, stage.steps, stage.batch, stage.source) == (
            *("adapt", "base", 4, 256),
            stages["continued"].source,
        )
    tuned = {arm.name: stages[arm.stage] for arm in grid_arms(study)}
    assert {(stage.order, stage.steps, stage.batch) for stage in tuned.values()} == {("tune", 4, 8)}
    assert tuned["causal/last"].parent == tuned["opened/last"].parent == "continued"
    assert tuned["diffusion-aligned/mask"].parent == "diffusion-aligned"
    assert {name for name, stage in tuned.items() if stage.attention == "causal"} == {f"causal/{p}" for p in POOLINGS}
    assert {stage.pooling for name, stage in tuned.items() if name.endswith("/mask")} == {"mask"}


def test_a_model_is_trained_once_and_read_under_every_mask_asked_for(tmp_path: Path) -> None:
    study = read(tmp_path)
    listed = jobs(study)
    assert len({(job.seed, job.arm.stage) for job in listed}) == len(listed)
    # the grid's three, among them the ablation's two; one training of fewer steps; one adapted at equal cost; two seeds
    assert len(listed) == 2 * (3 + 1 + 1)
    readings = {
        job.arm.name: job.readings
        for job in listed
        if job.seed == 1 and job.arm.steps == 4 and job.arm.equal == "tokens"
    }
    masks = {name: {r.attention for r in found} for name, found in readings.items()}
    assert masks["causal/mask"] == masks["opened/mask"] == {"causal", "bidirectional"}
    assert masks["diffusion-aligned/mask"] == {"bidirectional"}
    grid = Counter((r.set.path, r.together) for r in readings["diffusion-aligned/mask"])
    assert grid == {("short", False): 1, ("long", False): 1, ("chunked", False): 1, ("chunked", True): 1}
    other = [r.set.path for r in readings["opened/mask"] if r.attention == "causal"]
    assert other == ["short", "chunked", "chunked"], "the families of the ablation"


def test_equal_operations_are_equal(tmp_path: Path) -> None:
    more = '[operations]\nbackbones = ["mntp", "diffusion"]\nfamilies = ["short"]'
    study = read(tmp_path, more=more, **WHOLE)
    recipe = seed_recipe(study, 1, tmp_path / "study.toml")
    stages = {s.name: s for s in estimate_stages(recipe, tmp_path, recipe.stage).stages}
    dearest = max(stages[name].flops for name in ("continued", "mntp", "diffusion", "diffusion-aligned"))
    for name in ("mntp", "diffusion"):
        again = stages[f"{name}-operations"]
        assert again.steps > stages[name].steps
        assert again.flops == pytest.approx(dearest, rel=0.5 / stages[name].steps)  # whole steps
    assert "continued-operations" not in stages


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": "[]"}, "seeds = []; it must be different whole numbers"),
        ({"seeds": "[1, 1]"}, "seeds = [1, 1]"),
        ({"backbones": '["causal", "open"]'}, "expected one of 'causal', 'opened'"),
        ({"references": '["causal/first"]'}, "cells of the grid"),
        ({"references": '["mntp/mask"]'}, "references 'mntp/mask', which is no cell of it"),
        ({"more": '[samples]\nsteps = [4]\nbackbones = ["opened"]\npoolings = ["mask"]'}, "which is the last amount"),
        ({"more": '[samples]\nsteps = [2]\nbackbones = ["mntp"]'}, "[samples] has backbones 'mntp', which is not in"),
        (
            {"more": '[attention]\nbackbones = ["causal"]\npoolings = ["mask"]'},
            "give opened, which is tuned under both",
        ),
        ({"more": '[[measure.set]]\npath = "short"\nfamily = "short"'}, "each once in a family"),
        (
            {"more": '[[measure.set]]\npath = "long"\nfamily = "long"\nsections = true'},
            "asked for in family contextual",
        ),
        ({"more": "[operatoins]"}, "unknown key 'operatoins'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, **changes)
    assert words in str(caught.value) and "study.toml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[tune]\n", '[tune]\npooling = "mean"\n', "[tune] has pooling, which the study sets for every model"),
        ("[adapt]\n", '[adapt]\nkind = "mntp"\n', "[adapt] has kind"),
        ("alignment_weight = 1.0\n", "", "diffusion-aligned needs alignment_weight in [adapt]"),
        ("[tune]\n", "[tune]\nlexical_start = true\n", "lexical_start, a bag of words that only its mean can show"),
        ("[base]\n", "[base]\nmask_rate = 0.3\n", "mask_rate is for mntp stages"),
        ("batch = 8\n", "batch = 0\n", "batch = 0; it must be at least 1"),
    ],
)
def test_stages_that_no_recipe_could_have(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = write_study(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_study(path)
    assert words in str(caught.value)
