"""Which charts results are worth, and what stands in them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from tests.report import sample
from tests.report.sample import result

from diffembed.evaluation.results import Group, Result
from diffembed.report.charts import GREY, BarChart, Chart, HeatMap, LineChart, pages
from diffembed.report.choosing import charts_of, named_apart
from diffembed.report.collection import collect
from diffembed.report.growth import wilson_interval
from diffembed.report.lines import short
from diffembed.report.tables import Score


def charts(results: list[Result], benchmark: str) -> dict[str, Chart]:
    found = charts_of(collect([(one, str(number)) for number, one in enumerate(results)]), benchmark)
    return {chart.name: chart for chart in found}


def test_bars_stand_side_by_side_with_their_intervals() -> None:
    (chart,) = charts(sample.retrieval(), "beir").values()
    assert isinstance(chart, BarChart)
    assert (chart.form, chart.order) == ("groups", tuple(f"set-{number}" for number in range(5)))
    assert [series.label for series in chart.panels[0].series] == ["bm25", "model-a", "model-b", "st:model-c"]
    by_place = {(one.task, one.model): one.score for one in sample.retrieval()}
    for series in chart.panels[0].series:
        for number, (task, score) in enumerate(zip(series.x, series.y, strict=True)):
            assert score == by_place[str(task), series.label]
            low, high = series.interval(number) or (1.0, 0.0)
            assert low < score < high
    assert "4 systems on 5 tasks" in chart.alt
    assert "bootstrap" in chart.caption


@pytest.mark.parametrize(
    ("tasks", "models", "form", "figures"),
    [
        (10, 3, "groups", 1),
        (11, 3, "dots", 1),
        (90, 2, "dots", 3),
        (4, 9, "panels", 1),
        (1, 2, "panels", 1),
        (30, 9, "panels", 3),
    ],
)
def test_many_tasks_or_systems_take_another_form_and_go_on_in_the_next_figure(
    tasks: int, models: int, form: str, figures: int
) -> None:
    results = [
        result("b", f"t{task}", f"m{model}", skill=0.5, queries=2) for task in range(tasks) for model in range(models)
    ]
    found = list(charts(results, "b").values())
    assert len(found) == figures
    drawn = set()
    for chart in found:
        assert isinstance(chart, BarChart)
        assert chart.form == form
        drawn |= {(row[0], row[1]) for row in chart.table().rows}
    assert drawn == {(f"t{task}", f"m{model}") for task in range(tasks) for model in range(models)}


def test_a_model_has_its_colour_wherever_colours_suffice() -> None:
    def styles(chart: Chart) -> dict[str, int]:
        assert isinstance(chart, BarChart | LineChart)
        return {series.label: series.style for panel in chart.panels for series in panel.series}

    known = {"bm25": 0, "model-a": 1, "model-b": 2, "st:model-c": 3}
    results = [*sample.retrieval(), *sample.corpora(), *sample.lengths()]
    for benchmark in ("beir", "scale", "longdoc"):
        for chart in charts(results, benchmark).values():
            assert styles(chart).items() <= known.items()
    (many,) = charts([result("b", "t", f"m{number}", skill=0.5) for number in range(9)], "b").values()
    assert set(styles(many).values()) == {GREY}


def test_length_is_drawn_with_the_ceiling_and_the_limit() -> None:
    found = charts(sample.lengths(), "longdoc")
    chart = found["longdoc-length"]
    assert isinstance(chart, LineChart)
    assert (chart.scale, [panel.title for panel in chart.panels]) == ("log2", ["needle", "passkey"])
    panel = chart.panels[1]
    assert [series.x for series in panel.series] == [(256, 512, 1024, 2048, 4096, 8192)] * 3
    first, second = panel.guides  # the third model reads everything: nothing bounds it
    assert (first.at, second.at) == (512, 2048)
    assert first.ceiling == ((256, 1), (512, 1), (1024, 0.5), (2048, 0.25), (4096, 0.125), (8192, 0.0625))
    assert [guide.style for guide in panel.guides] == [series.style for series in panel.series[:2]]
    depth = found["longdoc-depth"]
    assert isinstance(depth, LineChart)
    assert depth.scale == "linear"
    assert depth.panels[0].series[0].x == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert depth.panels[0].guides == ()
    assert all(series.interval(0) for series in depth.panels[0].series)


@pytest.mark.parametrize(
    ("benchmark", "by", "scale"), [("scale", "documents", "log10"), ("amount", "samples", "linear")]
)
def test_what_grows_is_drawn_on_its_scale(benchmark: str, by: str, scale: str) -> None:
    chart = charts(sample.corpora(), benchmark)[f"{benchmark}-{by}"]
    assert isinstance(chart, LineChart)
    assert chart.scale == scale


def test_samples_over_a_wide_range_are_on_a_log_axis_and_names_in_order() -> None:
    def chart(values: list[str]) -> LineChart:
        groups = tuple(Group("samples", value, 9, {"ndcg@10": 0.5}) for value in values)
        found = charts([result("b", "t", "m", skill=0.5, groups=groups)], "b")["b-samples"]
        assert isinstance(found, LineChart)
        return found

    assert chart(["100", "5000", "900"]).scale == "log10"
    assert chart(["100", "5000", "900"]).panels[0].series[0].x == (100, 900, 5000)
    assert chart(["0", "5000", "900"]).scale == "linear"
    assert chart(["1-9", "100-500", "10-99"]).panels[0].series[0].x == ("1-9", "10-99", "100-500")
    assert chart(["1-9", "100-500", "10-99"]).scale == "order"


def test_one_group_alone_is_no_line() -> None:
    groups = (Group("length", "512", 9, {"ndcg@10": 0.5}), Group("language", "en", 9, {"ndcg@10": 0.5}))
    assert list(charts([result("b", "t", "m", skill=0.5, groups=groups)], "b")) == ["b-scores"]


def test_many_tasks_with_groups_are_pooled_over_their_queries() -> None:
    results = []
    for number in range(14):
        groups = tuple(
            Group("length", str(length), 10 * (number + 1), {"ndcg@10": number / 20 + length / 5000})
            for length in (512, 1024)
        )
        results += [result("b", f"t{number}", model, skill=0.5, queries=2, groups=groups) for model in "mn"]
    results.append(result("b", "alone", "m", skill=0.5, groups=(Group("length", "512", 1000, {"ndcg@10": 0.0}),)))
    chart = charts(results, "b")["b-length"]
    assert isinstance(chart, LineChart)
    (panel,) = chart.panels
    weights = [10 * (number + 1) for number in range(14)]
    mean = sum(w * number / 20 for number, w in enumerate(weights)) / sum(weights)
    for series in panel.series:
        assert series.y == pytest.approx((mean + 512 / 5000, mean + 1024 / 5000))
    assert "14 tasks" in chart.caption


def test_seeds_are_a_band_and_marks() -> None:
    results = []
    for seed in range(3):
        groups = tuple(Group("samples", str(n), 9, {"ndcg@10": 0.1 * seed + n / 100}) for n in (10, 20))
        results.append(result("b", "t", "m", skill=0.5, groups=groups, seed=seed))
    found = charts(results, "b")
    line, bar = found["b-samples"], found["b-scores"]
    assert isinstance(line, LineChart) and isinstance(bar, BarChart)
    series = line.panels[0].series[0]
    assert series.y == pytest.approx((0.2, 0.3))
    assert (series.low, series.high) == (pytest.approx((0.1, 0.2)), pytest.approx((0.3, 0.4)))
    assert bar.panels[0].series[0].seeds == (tuple(one.score for one in results),)


def test_a_study_is_a_matrix_and_its_many_lines_are_parted_by_pooling() -> None:
    found = charts(sample.study(), "study")
    heat = found["study-backbone-pooling"]
    assert isinstance(heat, HeatMap)
    assert heat.rows == ("causal", "opened", "mntp", "diffusion")
    assert heat.columns == ("last", "mean", "mask")
    runs = [one for one in sample.study() if (one.task, one.model) == ("short", "mntp-mean")]
    short_panel = next(panel for panel in heat.panels if panel.title == "short")
    scores = [run.score for run in runs]
    assert short_panel.values[2][1] == pytest.approx(sum(scores) / 3)
    assert short_panel.spread[2][1] == pytest.approx((max(scores) - min(scores)) / 2)
    groups = tuple(Group("characters", str(2**n), 9, {"ndcg@10": 0.5 - n / 50}) for n in range(8, 12))
    mixed = random.Random(0).sample(sample.study(), len(sample.study()))
    lines = charts([replace(one, groups=groups) for one in mixed], "study")["study-characters"]
    assert isinstance(lines, LineChart)
    assert [panel.title for panel in lines.panels[:3]] == ["long, last", "long, mean", "long, mask"]
    assert [series.label for series in lines.panels[0].series] == ["causal", "opened", "mntp", "diffusion"]


def test_models_by_the_mask_of_the_test_are_a_matrix() -> None:
    results = [
        result("b", task, model, skill=0.5, tested=tested)
        for task in ("t", "u")
        for model in ("m, tuned causal", "m, tuned open")
        for tested in ("causal", "bidirectional")
    ]
    heat = charts(results, "b")["b-model-tested"]
    assert isinstance(heat, HeatMap)
    assert heat.title == "b: ndcg@10, model by mask of the test"
    assert (heat.rows, heat.columns) == (("m, tuned causal", "m, tuned open"), ("bidirectional", "causal"))
    by_place = {(one.task, one.model, one.settings["tested"]): one.score for one in results}
    for panel in heat.panels:
        for row, values in zip(heat.rows, panel.values, strict=True):
            assert values == tuple(by_place[panel.title, row, column] for column in heat.columns)


def test_a_matrix_needs_fields_side_by_side_and_below_each_other_and_one_system_in_each() -> None:
    grid = [replace(one, settings=one.settings | {"tested": "causal"}) for one in sample.study()]
    grid[-3:] = [replace(one, settings=one.settings | {"tested": "bidirectional"}) for one in grid[-3:]]
    assert set(charts(grid, "study")) == {"study-scores", "study-backbone-pooling"}
    one_pooling = [one for one in sample.study() if one.settings["pooling"] == "mean"]
    assert set(charts(one_pooling, "study")) == {"study-scores"}
    two_forms = [
        replace(one, settings=one.settings | {"dtype": d}) for one in sample.study() for d in ("int8", "binary")
    ]
    assert "study-backbone-pooling" not in charts(two_forms, "study")


def test_forms_are_drawn_against_their_bytes() -> None:
    chart = charts(sample.forms(), "widths")["widths-bytes"]
    assert isinstance(chart, LineChart)
    (panel,) = chart.panels
    assert {series.label: series.x for series in panel.series} == {
        "float32": (256, 512, 1024),
        "int8": (64, 128, 256),
        "binary": (8, 16, 32),
    }
    assert (chart.x_label, chart.y_label) == ("bytes per document", "mean ndcg@10")
    assert panel.series[0].marks == ("64 dims", "128 dims", "256 dims")
    scores = [one.score for one in sample.forms() if one.settings == {"dtype": "int8", "dims": 128}]
    int8 = next(series for series in panel.series if series.label == "int8")
    assert int8.y[1] == pytest.approx(sum(scores) / 2)
    without_cost = [replace(one, cost={}) for one in sample.forms()]
    again = charts(without_cost, "widths")["widths-bytes"]
    assert isinstance(again, LineChart)
    assert [series.x for series in again.panels[0].series] == [series.x for series in panel.series]


def test_forms_that_differ_in_more_than_their_bytes_are_lines_of_their_own() -> None:
    results = [
        result("b", "t", "m", skill=0.5, dtype=dtype, query_dtype="int8", dims=dims, contextual=together)
        for dtype in ("int8", "binary")
        for dims in (64, 128)
        for together in (False, True)
    ]
    chart = charts(results, "b")["b-bytes"]
    assert isinstance(chart, LineChart)
    assert {series.label: series.x for series in chart.panels[0].series} == {
        "int8, contextual no": (64, 128),
        "int8, contextual yes": (64, 128),
        "binary, int8 queries, contextual no": (8, 16),
        "binary, int8 queries, contextual yes": (8, 16),
    }
    assert "b-bytes" not in charts(results[:2], "b")


def test_every_chart_says_what_it_shows_and_no_two_share_a_name() -> None:
    named = named_apart(list(charts(sample.everything(), "beir").values()) * 2)
    assert [chart.name for chart in named] == ["beir-scores", "beir-scores.2"]
    for benchmark in ("beir", "tongues", "longdoc", "scale", "amount", "widths", "study"):
        for chart in charts(sample.everything(), benchmark).values():
            assert len(chart.alt) > 30
            assert chart.alt.endswith(".")
            scores = [cell for row in chart.table().rows for cell in row if isinstance(cell, Score)]
            assert scores
            assert all(math.isfinite(score.value) for score in scores)


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_interval_of_a_share_is_wilson_s(right: int, questions: int) -> None:
    right = min(right, questions)
    expected = binomtest(right, questions).proportion_ci(method="wilson")
    assert wilson_interval(right / questions, questions) == pytest.approx((expected.low, expected.high), abs=1e-6)


@given(st.integers(0, 200), st.integers(1, 50))
def test_pages_hold_everything_in_order(items: int, size: int) -> None:
    found = pages(range(items), size, "n", "t")
    assert [item for _, _, part in found for item in part] == list(range(items))
    assert all(0 < len(part) <= size for _, _, part in found)
    assert len({name for name, _, _ in found}) == len(found)


@given(st.integers(0, 31))
def test_powers_of_two_are_short_ticks_that_differ(power: int) -> None:
    assert len(short(2.0**power)) <= 8
    assert short(2.0**power) != short(2.0 ** (power + 1))


def test_a_part_says_how_many_queries_it_has() -> None:
    groups = tuple(Group("length", str(2**n), n, {"ndcg@10": 0.5}) for n in range(8, 12))
    chart = charts([result("b", "t", "m", skill=0.5, groups=groups)], "b")["b-length"]
    assert isinstance(chart, LineChart)
    assert chart.panels[0].series[0].counts == (8, 9, 10, 11)
