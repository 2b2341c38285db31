"""Intervals and tests of significance: against scipy, on simulated models, and on results that cannot be compared."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.errors import InputError
from diffembed.evaluation.compare import compare, compare_many, holm, interval, randomisation_p
from diffembed.evaluation.pairing import pair_results
from diffembed.evaluation.results import Result, ResultFolder

WHOLE = st.lists(st.integers(-10, 10), min_size=1, max_size=9)


def result(values: list[float], *, model: str = "a", task: str = "zoo", **other: object) -> Result:
    by_query = {f"q{i}": {"ndcg@10": value, "recall@10": 1.0} for i, value in enumerate(values)}
    scores = {"ndcg@10": float(np.mean(values)), "recall@10": 1.0}
    return replace(Result("beir", task, model, "r1", "ndcg@10", scores, by_query=by_query), **other)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(WHOLE)
def test_few_queries_get_the_exact_p_of_scipy(differences: list[int]) -> None:
    """Of whole numbers, whose sums are exact: in tenths scipy gives 0.875 for -1, -2, 1 and 2, where p is 1."""
    stats = pytest.importorskip("scipy.stats")
    if len(differences) < 2:
        return
    theirs = stats.permutation_test(
        (np.array(differences, float),),
        lambda x, axis: np.sum(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    ours = randomisation_p([differences])
    assert ours == pytest.approx(theirs.pvalue)
    assert randomisation_p([np.array(differences) / 10]) == pytest.approx(ours), "whatever tenths are rounded to"


def test_many_queries_get_scipys_p_up_to_chance() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    differences = generator.normal(0.05, 0.4, 150)
    theirs = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=2,
    ).pvalue
    ours = randomisation_p([differences], draws=20_000)
    assert ours == pytest.approx(theirs, abs=4 * np.sqrt(theirs * (1 - theirs) / 20_000) * 2)
    assert ours == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert randomisation_p([np.full(40, 0.1)]) == pytest.approx(1 / 10_001)  # never 0


def test_the_interval_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).beta(0.4, 0.3, 200)
    for level in (0.9, 0.95):
        theirs = stats.bootstrap(
            (values,), np.mean, confidence_level=level, n_resamples=20_000, method="percentile", rng=4
        ).confidence_interval
        ours = interval(values.tolist(), level=level, draws=20_000)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
        assert ours.mean == pytest.approx(values.mean())


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(5)
    held, false_alarms, runs = 0, 0, 300
    for run in range(runs):
        hard = generator.beta(0.7, 0.7, 80)  # both models find the same queries hard
        a, b = (np.clip(hard + generator.normal(0, 0.2, 80), 0, 1) for _ in range(2))
        found = compare(result(a.tolist()), result(b.tolist(), model="b"), draws=1000, seed=run)
        held += found.difference.low <= 0 <= found.difference.high
        false_alarms += found.p < 0.05
    assert 0.91 < held / runs < 0.98
    assert 0.02 < false_alarms / runs < 0.09


def test_a_real_difference_is_seen() -> None:
    generator = np.random.default_rng(6)
    a = generator.uniform(0, 1, 300)
    better = result(np.clip(a + 0.05, 0, 1).tolist(), model="b")
    found = compare(result(a.tolist()), better)
    assert found.p < 0.001
    assert 0 < found.difference.low < found.difference.mean < found.difference.high
    assert found.difference.mean == pytest.approx(found.b - found.a)
    assert (found.losses, found.wins + found.ties) == (0, 300)
    back = compare(better, result(a.tolist()))
    assert back.difference.mean == -found.difference.mean
    assert back.p == found.p


def test_over_several_tasks_each_counts_the_same() -> None:
    many, few = [0.0] * 90 + [1.0] * 10, [0.0, 1.0]
    pairs = [
        (result(many), result([1.0] * 100, model="b")),
        (result(few, task="den"), result(few, task="den", model="b")),
    ]
    zoo, den, mean = compare_many(pairs, draws=500)
    assert (zoo.task, den.task, mean.task) == ("beir/zoo", "beir/den", "mean of 2")
    assert mean.difference.mean == pytest.approx((0.9 + 0) / 2)
    assert (den.p, den.ties) == (1.0, 2)
    assert mean.queries == 102
    # By hand: of 2 tasks with 2 and 1 differing queries, the mean is extreme in 2 of 8 ways to give signs.
    assert randomisation_p([[0.5, 0.5], [0.3]]) == 2 / 8
    other = replace(pairs[1][0], main="recall@10"), replace(pairs[1][1], main="recall@10")
    assert len(compare_many([pairs[0], other], draws=10)) == 2  # nDCG and recall have no common mean
    assert len(compare_many([pairs[0], other], measure="ndcg@10", draws=10)) == 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    order = np.argsort(p_values, kind="stable")
    corrected = holm(p_values)
    for place, i in enumerate(order):
        steps = [(len(p_values) - k) * p_values[order[k]] for k in range(place + 1)]
        assert corrected[i] == pytest.approx(min(1.0, max(steps)))
    assert all(a <= b for a, b in itertools.pairwise(sorted(corrected)))


def test_queries_of_one_model_alone_are_counted() -> None:
    short = result([1.0, 0.0])
    found = compare(short, result([1.0, 1.0, 1.0], model="b"))
    assert (found.queries, found.left_out) == (2, 1)


def test_what_cannot_be_compared() -> None:
    a = result([1.0, 0.0])
    with pytest.raises(InputError, match="different tasks"):
        compare(a, result([1.0], task="den"))
    with pytest.raises(InputError, match=r"no ndcg@5 of each query.*there are ndcg@10, recall@10"):
        compare(a, a, measure="ndcg@5")
    with pytest.raises(InputError, match="written without scores by query"):
        compare(a, replace(a, by_query={}))
    with pytest.raises(InputError, match="has ndcg@10 nan for query 'q1'"):
        compare(a, result([1.0, float("nan")]))
    with pytest.raises(InputError, match=r"different data \(sha256\)"):
        compare(replace(a, data={"sha256": "1"}), replace(a, data={"sha256": "2"}))
    with pytest.raises(InputError, match="has split dev and .* has all"):
        compare(replace(a, settings={"split": "dev"}), replace(a, settings={"split": "all"}))
    with pytest.raises(InputError, match="no query in common"):
        compare(a, replace(a, by_query={"other": {"ndcg@10": 1.0}}))
    with pytest.raises(InputError, match="nothing to compare"):
        compare_many([])
    with pytest.raises(InputError, match="level is 95"):
        compare(a, a, level=95)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    into = ResultFolder(tmp_path / "results")
    for model in ("bm25", "ours"):
        for task in ("zoo", "den"):
            into.write(result([0.0, 1.0], model=model, task=task))
    into.write(result([0.0, 1.0], model="bm25", task="lair"))
    return into.path


def test_pairs_are_found_in_one_folder_and_in_two(folder: Path, tmp_path: Path) -> None:
    paired = pair_results([folder], ["bm25", "ours"])
    assert (paired.a, paired.b, paired.unpaired) == ("bm25", "ours", ("beir/lair",))
    assert [(a.model, b.model, a.task) for a, b in paired.pairs] == [("bm25", "ours", "den"), ("bm25", "ours", "zoo")]
    assert pair_results([folder]).pairs == paired.pairs
    back = pair_results([folder], ["ours", "bm25"])
    assert (back.a, back.b) == ("ours", "bm25")
    other = ResultFolder(tmp_path / "other")
    other.write(result([1.0, 1.0], model="ours", settings={"dtype": "binary"}))
    mine = folder / "beir" / "zoo"
    two = pair_results([next(mine.glob("ours*")), other.path])
    assert (two.a, two.b) == ("ours, dtype None, revision r1", "ours, dtype binary, revision r1")


def test_what_cannot_be_paired(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result is of nobody; there are bm25@r1, ours@r1"):
        pair_results([folder], ["bm25", "nobody"])
    with pytest.raises(InputError, match="given 1 times"):
        pair_results([folder], ["bm25"])
    with pytest.raises(InputError, match="results of bm25 alone; nothing"):
        pair_results([folder / "beir" / "lair"])
    ResultFolder(folder).write(result([1.0, 1.0], model="ours", revision="r2", settings={"dims": 64}))
    with pytest.raises(InputError, match=r"several results of beir/zoo of ours, apart by .*revision \(r"):
        pair_results([folder], ["bm25", "ours"])
    assert pair_results([folder], ["bm25", "ours@r2"]).pairs[0][1].settings == {"dims": 64}
    ResultFolder(tmp_path / "third").write(result([1.0], model="third", task="cave"))
    with pytest.raises(InputError, match="name the two to compare with --model"):
        pair_results([folder, tmp_path / "third", tmp_path / "third"])
    with pytest.raises(InputError, match="no task in common"):
        pair_results([folder, tmp_path / "third"], ["bm25", "third"])
