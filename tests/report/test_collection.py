"""What belongs together, what must not be compared, and what is said of the rest."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests.report import sample
from tests.report.sample import result

from diffembed.errors import InputError
from diffembed.evaluation.results import Result
from diffembed.report import labels
from diffembed.report.collection import Collection, collect, read_collection


def collected(*results: Result) -> Collection:
    return collect([(one, f"file {number}") for number, one in enumerate(results)])


def test_systems_are_told_apart_by_what_differs_and_by_nothing_else() -> None:
    found = collected(
        result("b", "t", "m", skill=0.5, dtype="int8", query_dtype="int8", dims=64, split="dev"),
        result("b", "t", "m", skill=0.5, dtype="int8", query_dtype="int8", dims=256, split="dev"),
        result("b", "t", "m", skill=0.5, dtype="binary", query_dtype="int8", dims=256, split="dev"),
        result("b", "t", "n", skill=0.5, dtype="int8", query_dtype="int8", dims=64, split="dev"),
    )
    assert found.systems("b") == ["m (binary, int8 queries, 256 dims)", "m (int8, 64 dims)", "m (int8, 256 dims)", "n"]


def test_a_setting_that_differs_from_task_to_task_is_no_other_system() -> None:
    found = collected(
        result("b", "long", "m", skill=0.5, contextual=True), result("b", "short", "m", skill=0.5, contextual=False)
    )
    assert found.systems() == ["m"]


def test_two_revisions_of_a_model_are_two_systems() -> None:
    found = collected(
        result("b", "t", "m", skill=0.5, revision="aaaaaaaaaaaa"), result("b", "u", "m", skill=0.5, revision="bbbbbbbb")
    )
    assert found.systems() == ["m (revision aaaaaaaa)", "m (revision bbbbbbbb)"]


def test_seeds_are_runs_of_one_system() -> None:
    runs = [result("b", "t", "m", skill=0.5, seed=seed) for seed in range(3)]
    (one,) = collected(*runs).scored
    assert one.by_seed == tuple(run.score for run in runs)
    assert one.score == pytest.approx(np.mean([run.score for run in runs]))
    query = {name: np.mean([run.by_query[name]["ndcg@10"] for run in runs]) for name in runs[0].by_query}
    assert one.by_query == pytest.approx(query)


def test_the_interval_is_that_of_the_bootstrap_over_queries() -> None:
    (one,) = collected(result("b", "t", "m", skill=0.5, queries=200)).scored
    values = np.array(list(one.by_query.values()))
    low, high = one.interval or (0.0, 0.0)
    half = 1.96 * values.std() / np.sqrt(len(values))  # by the central limit theorem
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert collected(replace(one.first, by_query={})).scored[0].interval is None


def test_a_revision_that_goes_with_another_setting_is_not_named() -> None:
    found = collected(
        result("b", "t", "m", skill=0.5, revision="aaa", trained="causal"),
        result("b", "t", "m", skill=0.5, revision="bbb", trained="bidirectional"),
    )
    assert found.systems() == ["m (trained bidirectional)", "m (trained causal)"]


def test_settings_that_choose_what_is_asked_are_of_the_task() -> None:
    found = collected(
        result("passkey", "passkey", "m", skill=0.5, lengths=[256, 512], data="abc"),
        result("passkey", "passkey", "m", skill=0.5, lengths=[256], data="def"),
        result("passkey", "passkey", "n", skill=0.5, lengths=[256], data="def", dtype=None),
    )
    assert found.systems() == ["m", "n"]
    assert found.tasks("passkey") == ["passkey (lengths 256)", "passkey (lengths 256/512)"]


def test_other_splits_and_other_rows_are_other_tasks() -> None:
    found = collected(
        result("b", "t", "m", skill=0.5, split="dev"),
        result("b", "t", "n", skill=0.5, split="train"),
        result("b", "u", "m", skill=0.5, data="1234567890"),
        result("b", "u", "n", skill=0.5, data="abcdefghij"),
    )
    assert found.tasks("b") == ["t (split dev)", "t (split train)", "u (rows 12345678)", "u (rows abcdefgh)"]
    assert found.common("b") == []
    assert any("no task was given to all" in note for note in found.notes)


def test_rows_made_with_other_seeds_are_one_task() -> None:
    found = collected(*(result("b", "t", "m", skill=0.5, seed=seed, data=f"rows {seed}") for seed in range(2)))
    assert found.tasks("b") == ["t"]


def test_a_result_given_twice_counts_once_and_one_that_contradicts_is_an_error(tmp_path: Path) -> None:
    one = result("b", "t", "m", skill=0.5)
    found = collected(one, one)
    assert len(found.results) == 1
    assert found.notes == ("file 0 and file 1 hold the same result, b/t of m; it counts once",)
    with pytest.raises(InputError, match="file 0 and file 1 both hold b/t of m .* their scores differ"):
        collected(one, replace(one, scores={"ndcg@10": 0.1}))


def test_a_file_and_its_folder_are_read_once(tmp_path: Path) -> None:
    sample.write(tmp_path, [result("b", "t", "m", skill=0.5)])
    (file,) = tmp_path.rglob("*.json")
    found = read_collection([tmp_path, file, tmp_path / "b" / "." / "t"])
    assert len(found.results) == len(found.files) == 1
    assert found.notes == ()


def test_one_model_under_two_names_is_said() -> None:
    found = collected(
        result("b", "t", "default", skill=0.5, revision="abc"), result("b", "t", "my/folder", skill=0.5, revision="abc")
    )
    assert found.systems() == ["default", "my/folder"]
    assert found.notes == ("b: default and my/folder have the same revision, abc: one model under 2 names",)


def test_what_is_missing_is_named() -> None:
    found = collected(
        result("b", "t", "m", skill=0.5), result("b", "u", "m", skill=0.5), result("b", "t", "n", skill=0.5)
    )
    assert found.notes == ("b: n was not scored on u",)
    assert found.common("b") == ["t"]
    mixed = collected(result("b", "t", "m", skill=0.5), result("c", "t", "n", skill=0.5))
    parted = collected(result("s", "t", "m", skill=0.5), result("s samples", "t", "n", skill=0.5))
    assert parted.notes == ()
    assert mixed.notes == (
        "no model was scored on all benchmarks, so they cannot be read side by side: b has m; c has n",
    )


def test_notes_that_several_share_are_one() -> None:
    cut = "cut to 512 tokens"
    found = collected(
        *(replace(result("b", "t", "m", skill=0.5, seed=seed), notes=(cut,)) for seed in range(2)),
        replace(result("b", "t", "n", skill=0.5), notes=(cut, "no scores by language")),
        result("b", "u", "o", skill=0.5),
    )
    assert found.run_notes() == [f"b: m, n on t: {cut}", "b: n on t: no scores by language"]
    assert found.notes[:2] == ("b: m, n were not scored on u", "b: o was not scored on t")


def test_a_result_without_the_task_s_measure_is_left_out_and_said() -> None:
    found = collected(
        result("b", "t", "m", skill=0.5),
        result("b", "t", "n", skill=0.5),
        result("b", "t", "o", skill=0.5, measure="recall@1"),
    )
    assert found.systems() == ["m", "n"]
    assert "b: o has no ndcg@10 on t, only recall@1; it is left out there" in found.notes


def test_the_order_does_not_hang_on_that_of_the_files() -> None:
    results = sample.study()
    mixed = random.Random(0).sample(results, len(results))
    assert collected(*mixed).systems() == collected(*results).systems()
    assert collected(*mixed).systems()[:4] == ["causal-last", "causal-mean", "causal-mask", "opened-last"]


def test_the_order_of_backbones_and_poolings_is_that_of_the_study() -> None:
    recipe = pytest.importorskip("diffembed.study.recipe")
    assert get_args(recipe.Backbone) == labels.BACKBONES
    assert recipe.POOLINGS == labels.POOLINGS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('"version": 1', "version 2 of the result format"),
        ('"format": "diffembed-result"', "is not a result"),
        ('"task": "t"', "unknown"),
    ],
)
def test_files_that_are_no_results_are_named(change: str, said: str, tmp_path: Path) -> None:
    sample.write(tmp_path, [result("b", "t", "m", skill=0.5)])
    (file,) = tmp_path.rglob("*.json")
    replacement = {'"version": 1': '"version": 2', '"task": "t"': '"sort": "t"'}.get(change, '"format": "other"')
    file.write_text(file.read_text(encoding="utf-8").replace(change, replacement), encoding="utf-8")
    with pytest.raises(InputError, match=f"{file.name}.*{said}"):
        read_collection([tmp_path])


def test_places_without_results_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no result files"):
        read_collection([tmp_path])
    with pytest.raises(InputError, match="does not exist"):
        read_collection([tmp_path / "nowhere"])
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="broken.json cannot be read"):
        read_collection([tmp_path])
