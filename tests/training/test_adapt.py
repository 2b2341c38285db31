"""Adaptation on a model of a few thousand weights: what it leaves, what it chooses, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats
from tests.conftest import make_backbone, make_config, make_tokenizer
from tests.data.corpora import write_beir
from tests.data.test_own_text import write_own

from diffembed.data.beir import load_beir, split_of
from diffembed.data.example_sources import read_examples
from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError, RecipeError
from diffembed.evaluation.retrieval import evaluate_retrieval
from diffembed.models.checkpoint import read_model_config, save_model
from diffembed.training import adapt as module
from diffembed.training.adapt import AdaptReport, Share, adapt
from diffembed.training.adapt_general import halves
from diffembed.training.adapt_recipe import AdaptSettings, general_data
from diffembed.training.adapt_speed import fills_in, steps_in
from diffembed.training.recipe import read_recipe
from diffembed.training.run import run_recipe

TINY = AdaptSettings(steps=8, batch=16, lr=2e-3, layer_lr=1.0, shares=(0.5, 1.0), chunk_tokens=48, threads=1)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory in half precision."""
    tokenizer = make_tokenizer()
    path = tmp_path_factory.mktemp("start") / "start"
    config = make_config(contextual=False)
    return save_model(path, make_backbone(tokenizer.get_vocab_size()), tokenizer, config, dtype="float16")


@pytest.fixture(scope="module")
def adapted(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdaptReport, list[str]]:
    folder = tmp_path_factory.mktemp("adapted")
    write_beir(folder / "set")
    lines: list[str] = []
    report = adapt(
        [write_own(folder / "bats", documents=24)], start, folder / "mine",
        settings=replace(TINY, diffusion=True, most_loss=1.0),
        general=[folder / "set"], report=lines.append,
    )  # fmt: skip
    return folder, report, lines


def test_it_leaves_a_model_that_every_verb_takes(adapted: tuple[Path, AdaptReport, list[str]], start: Path) -> None:
    folder, report, lines = adapted
    assert report.model == str(folder / "mine") and report.work == str(folder / "mine-work")
    config = read_model_config(folder / "mine")
    assert config.name == "mine" and config.dims == read_model_config(start).dims
    assert config.manifest["begun_from"] == read_model_config(start).manifest
    assert config.manifest["merge"]["weights"] == [1 - report.share, report.share]
    assert Encoder.load(folder / "mine").encode_documents(["an owl"], dtype="int8").values.shape == (1, 64)
    assert (folder / "mine" / "onnx" / "model_int8.onnx").is_file()
    assert (folder / "mine" / "model.safetensors").stat().st_size == (start / "model.safetensors").stat().st_size
    assert any("pairs to train on" in line for line in lines)


def test_what_measures_forgetting_is_not_read(adapted: tuple[Path, AdaptReport, list[str]]) -> None:
    folder, *_ = adapted
    assert str(folder / "set") in (folder / "mine-work" / "adapt.toml").read_text(encoding="utf-8")
    chosen, reported = (set(half.queries) for half in halves(folder / "set", read=True))
    pairs = read_examples("set", folder, ("set",), 0, kind="pairs")
    asked = {draw.example.query for draw in pairs.draws(0, len(pairs))}
    whole = load_beir(folder / "set").queries
    assert chosen and reported and not chosen & reported
    assert chosen | reported == {query for query in whole if split_of(query) == "dev"}
    assert asked == {text for query, text in whole.items() if query not in chosen | reported}


def test_a_small_set_of_which_nothing_is_read_is_halved(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set")
    chosen, reported = (set(half.queries) for half in halves(folder, read=False))
    assert len(chosen) > 15 and len(reported) > 15 and chosen | reported == set(load_beir(folder).queries)
    with pytest.raises(InputError, match=r"has [01] judged queries that nothing is trained on.*--general-eval"):
        halves(write_beir(tmp_path / "few", size=8), read=True)


def test_its_figures_are_those_of_the_models(adapted: tuple[Path, AdaptReport, list[str]], start: Path) -> None:
    folder, report, _ = adapted
    for model, when in ((start, "before"), (folder / "mine", "after")):
        scores = evaluate_retrieval(folder / "mine-work" / "heldout", model=str(model)).scores
        assert report.held_out[when]["ndcg@10"] == pytest.approx(scores["ndcg@10"], abs=1e-4)
        assert set(report.general) == {"set"} and 0 <= report.general["set"][when]["recall@10"] <= 1
    assert [s.share for s in report.shares] == [0.0, 0.5, 1.0]
    assert report.figures("set")[:2] == [report.general["set"][w]["ndcg@10"] for w in ("before", "after")]
    assert report.figures("held-out documents")[3] == report.held_out["after"]["recall@10"]
    assert report.diffusion["done"] and set(report.diffusion["before"]) == set(report.diffusion["after"])
    card = (folder / "mine" / "README.md").read_text(encoding="utf-8")
    for figure in (*report.figures("held-out documents"), *report.figures("set")):
        assert f"{figure:.4f}" in card
    assert json.loads(json.dumps(report.to_dict()))["share"] == report.share


def test_the_recipe_runs_again_by_itself(adapted: tuple[Path, AdaptReport, list[str]]) -> None:
    folder, report, _ = adapted
    recipe = folder / "mine-work" / "adapt.toml"
    assert [s.kind for s in read_recipe(recipe).stage] == ["diffusion", "pair"]
    assert [s.name for s in read_recipe(recipe).stage[1].source] == ["own", "own-spans", "general"]
    lines: list[str] = []
    run_recipe(recipe, report=lines.append)
    assert sum("complete, skipped" in line for line in lines) == 2
    assert report.steps == read_recipe(recipe).stage[1].steps == 8


def test_a_contextual_model_learns_from_whole_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    late = tmp_path / "late"
    save_model(late, make_backbone(tokenizer.get_vocab_size()), tokenizer, make_config(contextual=True))
    own = write_own(tmp_path / "bats", documents=60)
    report = adapt(
        [own], late, tmp_path / "mine", settings=replace(TINY, diffusion=False, shares=(1.0,), steps=3),
        report=lambda _: None,
    )  # fmt: skip
    assert [s.kind for s in read_recipe(Path(report.work) / "adapt.toml").stage] == ["contextual"]
    assert read_model_config(report.model).contextual and report.general == {}
    assert "not measured" in (Path(report.model) / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(module, "_LEAST_GROUPS", 1000)
    with pytest.raises(InputError, match=r"only \d+ training documents have three chunks"):
        adapt([own], late, tmp_path / "other", settings=TINY, report=lambda _: None)


def test_a_model_keeps_its_pooling_and_its_mask(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    config = replace(make_config(contextual=False), pooling="last", attention="causal")
    start = save_model(tmp_path / "start", make_backbone(tokenizer.get_vocab_size()), tokenizer, config)
    report = adapt(
        [write_own(tmp_path / "bats", documents=24)], start, tmp_path / "mine",
        settings=replace(TINY, diffusion=False, shares=(0.5,), steps=3), report=lambda _: None,
    )  # fmt: skip
    made = read_model_config(report.model)
    assert (made.pooling, made.attention) == ("last", "causal")


def test_the_share_is_the_best_of_those_that_keep_the_general_sets() -> None:
    general = {"a": 0.8}
    shares = [Share(0, 0.5, general), Share(0.5, 0.6, general, 0.004, 0.005), Share(1, 0.7, general, 0.004, 0.007)]
    assert module._best(shares, AdaptSettings()) == 0.5
    assert module._best(shares, AdaptSettings(most_loss=0.2)) == 1
    assert module._best([Share(0, 0.5, general), Share(1, 0.7, general, 0.2, 0.0)], AdaptSettings()) == 0
    assert module._best([Share(0, 0.5, {}), Share(0.5, 0.4, {})], AdaptSettings()) == 0


def test_a_loss_has_the_error_of_a_paired_mean() -> None:
    before, after = ({str(i): {"ndcg@10": v} for i, v in enumerate(values)} for values in ([1, 1, 0, 1], [1, 0, 0, 1]))
    lost, doubt = module._lost([(before, after)])
    assert (lost, doubt) == (0.25, pytest.approx(scipy.stats.sem([0, 1, 0, 0]), abs=1e-6))
    assert module._lost([(before, after), (before, before)]) == (0.125, pytest.approx(doubt / 2, abs=1e-6))
    assert module._lost([]) == (0, 0)


def test_diffusion_is_left_out_where_the_model_cannot_fill_in(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.jsonl").write_text('{"text": "the owl and the fox"}\n', encoding="utf-8")
    nats, guess = fills_in(start, read_model_config(start), tmp_path)
    assert nats > 0 and guess == pytest.approx(5.99, abs=0.1)  # ln 400
    for measured, wanted in (((9.0, 6.0), False), ((4.0, 6.0), True)):
        monkeypatch.setattr(module, "fills_in", lambda *_, found=measured: found)
        found = module._diffusion(start, read_model_config(start), tmp_path, TINY, lambda _: None)
        assert found["done"] is wanted and "nats" in found["why"]


def test_minutes_become_steps(start: Path, tmp_path: Path) -> None:
    row = {"query": "where do bats sleep", "document": "below the roof " * 10}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 20, encoding="utf-8")
    few, many = (steps_in(seconds, start, tmp_path, TINY) for seconds in (0.0001, 600))
    assert few == 1 and many > 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3, "minutes": 1.0}, "give one of them"),
        ({"steps": 0}, "steps 0 was given"),
        ({"minutes": float("nan")}, "minutes nan"),
        ({"general_weight": 1.0}, "a share from 0 to below 1"),
        ({"general_weight": 0.5, "span_weight": 0.5}, "leave nothing"),
        ({"shares": (0.0,)}, "shares above 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdaptSettings(**settings).check()  # type: ignore[arg-type]


def test_places_that_may_not_be_written(start: Path, tmp_path: Path) -> None:
    own = write_own(tmp_path / "bats", documents=2)

    def run(into: Path, **more: object) -> None:
        adapt([own], start, into, report=lambda _: None, **more)  # type: ignore[arg-type]

    with pytest.raises(InputError, match="the model to begin from"):
        run(start)
    with pytest.raises(InputError, match="holds other files"):
        run(own)
    with pytest.raises(InputError, match="which is read"):
        run(own / "mine")
    with pytest.raises(InputError, match="which is read"):
        run(tmp_path / "mine", work=own / "work")
    with pytest.raises(InputError, match="read as a pattern"):
        run(tmp_path / "m[ine]")
    with pytest.raises(InputError, match="at least 20 documents"):
        run(tmp_path / "mine")
    assert not (tmp_path / "mine").exists() and not (tmp_path / "mine-work").exists()


def test_models_and_data_that_cannot_be_used(start: Path, tmp_path: Path) -> None:
    own = write_own(tmp_path / "bats", documents=2)
    with pytest.raises(ModelError, match="does not exist"):
        adapt([own], tmp_path / "none", tmp_path / "mine")
    tokenizer = make_tokenizer()
    config = replace(make_config(), prefix_ids=(0,))
    save_model(tmp_path / "other", make_backbone(tokenizer.get_vocab_size()), tokenizer, config)
    with pytest.raises(ModelError, match="adapt begins from a model that diffembed trained"):
        adapt([own], tmp_path / "other", tmp_path / "mine")
    with pytest.raises(InputError, match="is no general data"):
        adapt([own], start, tmp_path / "mine", general=[own])
    (tmp_path / "rows.jsonl").write_text('{"query": "q", "document": "d"}\n', encoding="utf-8")
    assert general_data([tmp_path / "rows.jsonl"]).files == ((tmp_path / "rows.jsonl").resolve(),)


def test_another_run_in_the_same_work_folder_is_refused(
    adapted: tuple[Path, AdaptReport, list[str]], start: Path
) -> None:
    folder, _, _ = adapted
    with pytest.raises(RecipeError, match="made by another recipe"):
        adapt([folder / "bats"], start, folder / "mine", settings=replace(TINY, steps=4, diffusion=False))
