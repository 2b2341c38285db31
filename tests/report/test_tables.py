"""Tables hold what the results hold: the same figures, means over what is common, and the tests of evaluate compare."""

from __future__ import annotations

import json

import pytest
from tests.report import sample
from tests.report.sample import result

from diffembed.evaluation.compare import compare_many
from diffembed.evaluation.results import Group, Result
from diffembed.report.choosing import charts_of
from diffembed.report.collection import DRAWS, Collection, collect
from diffembed.report.differences import MOST, difference_table
from diffembed.report.report import Report
from diffembed.report.tables import Score, cost_table, origin_table, part_table, score_table


@pytest.fixture
def retrieval() -> Collection:
    return collect([(one, str(number)) for number, one in enumerate(sample.retrieval())])


def test_scores_are_those_of_the_results_and_the_mean_is_over_common_tasks(retrieval: Collection) -> None:
    table = score_table(retrieval, "beir")
    assert table.head == ("task", "measure", "bm25", "model-a", "model-b", "st:model-c")
    by_place = {(one.task, one.model): one.score for one in sample.retrieval()}
    for row in table.rows[:-1]:
        for model, cell in zip(table.head[2:], row[2:], strict=True):
            assert (cell.value if isinstance(cell, Score) else None) == by_place.get((str(row[0]), model))
    common = [f"set-{number}" for number in range(4)]  # two models lack the fifth
    mean = {model: sum(by_place[task, model] for task in common) / 4 for model in table.head[2:]}
    last = table.rows[-1]
    assert last[0] == "mean of 4"
    assert [cell.value for cell in last[2:] if isinstance(cell, Score)] == pytest.approx(list(mean.values()))
    best = [[isinstance(cell, Score) and cell.best for cell in row[2:]] for row in table.rows]
    assert all(sum(row) == 1 for row in best)


def test_parts_are_those_of_the_groups() -> None:
    found = collect([(one, str(number)) for number, one in enumerate(sample.languages())])
    table = part_table(found, "tongues", "language")
    assert [row[:3] for row in table.rows] == [("many", name, 20) for name in ("de", "en", "ja", "zh-Hant")]
    assert [cell.value for cell in table.rows[1][3:] if isinstance(cell, Score)] == pytest.approx([0.35, 0.45])


def test_notes_of_parts_stand_under_the_table_and_the_figure() -> None:
    def grouped(model: str, limit: int) -> Result:
        over = {n: "" if n <= limit else f", over {limit}" for n in (256, 512, 1024)}
        notes = {n: f"{n // 2 + 1} to {n} tokens{over[n]}" for n in over}
        groups = [Group("length", str(n), 20, {"ndcg@10": 0.5}, note) for n, note in notes.items()]
        groups += [Group("chunk", str(n), 20, {"ndcg@10": 0.5}, "chunks after the name") for n in (1, 2)]
        return result("b", "b", model, skill=0.5, groups=tuple(groups))

    found = collect([(grouped("m", 2048), ""), (grouped("n", 512), "")])
    lengths = "256: 129 to 256 tokens; 512: 257 to 512 tokens; 1024: 513 to 1024 tokens (m); "
    assert part_table(found, "b", "length").note == f"{lengths}1024: 513 to 1024 tokens, over 512 (n)."
    assert part_table(found, "b", "chunk").note == "Chunks after the name."
    charts = {chart.title: chart for chart in charts_of(found, "b")}
    assert charts["b: ndcg@10 against length of the document (tokens)"].caption.startswith(lengths)
    chunks = charts["b: ndcg@10 by place of the chunk in its document"]
    assert (chunks.name, chunks.caption) == ("b-chunk", "Chunks after the name.")


def test_parts_are_in_order_of_size() -> None:
    found = collect([(one, str(number)) for number, one in enumerate(sample.lengths())])
    rows = part_table(found, "longdoc", "length").rows
    assert [row[1] for row in rows[:6]] == ["256", "512", "1024", "2048", "4096", "8192"]
    assert [row[1] for row in part_table(found, "longdoc", "depth").rows[:5]] == ["0.0", "0.25", "0.5", "0.75", "1.0"]


def test_differences_are_those_of_evaluate_compare(retrieval: Collection) -> None:
    table = difference_table(retrieval, "beir")
    assert table is not None
    assert len(table.rows) == 6
    by_place = {(one.task, one.model): one for one in sample.retrieval()}
    row = next(row for row in table.rows if row[:2] == ("st:model-c", "bm25"))
    pairs = [(by_place[f"set-{i}", "bm25"], by_place[f"set-{i}", "st:model-c"]) for i in range(4)]
    expected = compare_many(pairs, draws=DRAWS)[-1]
    score = row[2]
    assert isinstance(score, Score)
    assert (score.value, score.low, score.high) == pytest.approx(
        (expected.difference.mean, expected.difference.low, expected.difference.high)
    )
    assert row[3:7] == (expected.wins, expected.losses, expected.ties, expected.p)
    assert all(isinstance(row[7], float) and isinstance(row[6], float) and row[7] >= row[6] for row in table.rows)


def test_there_is_nothing_to_test_without_queries_or_with_too_many_systems() -> None:
    silent = [result("b", "t", name, skill=0.5, queries=0) for name in "mn"]
    assert difference_table(collect([(one, "") for one in silent]), "b") is None
    many = [result("b", "t", f"m{number}", skill=0.5) for number in range(MOST + 1)]
    assert difference_table(collect([(one, "") for one in many]), "b") is None
    assert difference_table(collect([(one, "") for one in many[:1]]), "b") is None


def test_cost_and_origin_name_every_run() -> None:
    results = sample.study()
    found = collect([(one, "") for one in results])
    origin = origin_table(found)
    assert len(origin.rows) == len(results)
    assert {row[3] for row in origin.rows} == {one.revision for one in results}
    assert "seed 2" in str(origin.rows[2][4])
    cost = cost_table(collect([(one, "") for one in sample.forms()]))
    assert cost.head[-1] == "bytes per document"
    assert {row[-1] for row in cost.rows} >= {8.0, 1024}


def test_markdown_and_json_hold_every_table(report: Report) -> None:
    markdown, values = report.to_markdown(), report.to_json()
    tables = [table for section in report.sections for table in section.tables] + list(report.appendix)
    for table in tables:
        assert f"\n### {table.shown().title}\n" in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("| set-0 | ndcg@10 |")]
    assert lines[0].count("±") == 4
    assert lines[0].count("**") == 2
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    told = [table["title"] for section in values["sections"] for table in section["tables"]]
    assert told == [table.title for section in report.sections for table in section.tables]


def test_many_systems_are_rows_for_readers_and_columns_in_json() -> None:
    found = collect([(one, "") for one in sample.forms()])
    table = score_table(found, "widths")
    shown = table.shown()
    assert shown.title == "widths: scores (ndcg@10)"
    assert shown.head == ("system", "set-0", "set-1", "mean of 2")
    assert [row[0] for row in shown.rows] == found.systems() == list(table.head[2:])
    assert [row[1:] for row in shown.rows] == list(zip(*(row[2:] for row in table.rows), strict=True))
    assert list(table.to_json()["rows"][0])[:2] == ["task", "measure"]
    few = collect([(one, "") for one in sample.retrieval()])
    assert score_table(few, "beir").shown() == score_table(few, "beir")
    groups = tuple(Group("length", str(n), n, {"ndcg@10": n / 1000}) for n in (256, 512))
    parted = collect([(result("b", "t", f"m{i}", skill=0.5, groups=groups), "") for i in range(7)])
    turned = part_table(parted, "b", "length").shown()
    assert turned.head == ("system", "t, 256, 256 queries", "t, 512, 512 queries")
    assert [str(cell) for cell in turned.rows[0]] == ["m0", "0.2560", "0.5120"]


def test_names_cannot_break_a_markdown_table() -> None:
    found = collect([(result("b", "a|b\nc", "m|n", skill=0.5), "")])
    lines = score_table(found, "b").to_markdown().splitlines()
    assert lines[2] == "| task | measure | m\\|n |"
    assert lines[4].startswith("| a\\|b c | ndcg@10 |")
