"""``diffembed report``: what stdout gets, what is written, and what is said when it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.invoke import process, run
from tests.report import sample


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return sample.write(tmp_path / "results", sample.retrieval(3))


def test_tables_come_on_stdout_in_three_forms(results: Path) -> None:
    terminal = run("report", results)
    assert terminal.code == 0
    assert terminal.stdout.startswith("Scores on beir\n10 results of 4 systems on 3 tasks of 1 benchmark, ")
    row = next(line for line in terminal.stdout.splitlines() if line.startswith("set-0 "))
    assert row.count("±") == 4
    assert "note: beir: model-b, st:model-c were not scored on set-2" in terminal.stderr.splitlines()
    markdown = run("report", results, "--format", "markdown", "--title", "Three models")
    assert markdown.stdout.startswith("# Three models\n")
    assert "| set-0 | ndcg@10 |" in markdown.stdout
    values = run("report", results, "--json").json
    assert values == run("report", results, "--format", "json").json
    assert values["sections"][0]["tables"][0]["rows"][0]["task"] == "set-0"
    assert "beir: model-b, st:model-c were not scored on set-2" in values["notes"]


def test_options_may_come_first_and_files_beside_folders(results: Path) -> None:
    files = sorted(results.rglob("*.json"))
    assert run("report", "--format", "json", files[0], files[4]).json["sections"][0]["title"] == "beir"


def test_the_report_is_written_and_an_earlier_one_replaced(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    into = tmp_path / "report"
    ran = run("report", results, "--into", into)
    assert ran.code == 0, ran.stderr
    assert f"the page is {into / 'index.html'}, with 1 figures" in ran.stderr
    assert sorted(p.name for p in (into / "figures").iterdir()) == ["beir-scores.png", "beir-scores.svg"]
    assert "](figures/beir-scores.svg)" in (into / "report.md").read_text(encoding="utf-8")
    assert json.loads((into / "report.json").read_text(encoding="utf-8"))["sections"][0]["figures"][0]["rows"]
    (into / "figures" / "mine.txt").write_text("kept", encoding="utf-8")
    other = sample.write(tmp_path / "other", sample.languages())
    assert run("report", other, "--into", into).code == 0
    assert sorted(p.name for p in (into / "figures").iterdir()) == [
        "mine.txt",
        "tongues-many-language.png",
        "tongues-many-language.svg",
        "tongues-scores.png",
        "tongues-scores.svg",
    ]


def test_a_map_is_drawn_and_shown_on_the_page(results: Path, beir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    into = tmp_path / "report"
    options = ("--model", tiny_model_dir, "--perplexity", "2", "--into", into)
    made = run("report", "map", "--data", beir, *options, "--json").json
    assert made["documents"] == 3
    assert all(Path(figure).is_file() for figure in made["figures"])
    assert run("report", results, "--into", into).code == 0
    page = (into / "index.html").read_text(encoding="utf-8")
    assert "Maps of documents" in page
    assert page.count("<svg") == 2
    plain = run("report", "map", "--data", beir, *options)
    assert plain.stdout.startswith("R-precision ")


def test_what_cannot_be_told_is_one_line(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run("report", tmp_path / "empty").fails(2, "holds no result files")
    run("report", tmp_path / "nowhere").fails(2, "does not exist")
    run("report", results, "--into", results / "report").fails(2, "lies in the results")
    run("report", results, "--format", "html").fails(2, "--format")
    file = next(results.rglob("*.json"))
    old = file.read_text(encoding="utf-8").replace('"version": 1', '"version": 0')
    file.write_text(old, encoding="utf-8")
    run("report", results).fails(2, "version 0", file.name)


def test_help_names_the_results_and_the_map() -> None:
    assert "diffembed report results/ --into report" in run("report").stdout
    assert "report map" in run("report", "--help").stdout
    assert "--format" in run("report", "RESULTS", "--help").stdout
    assert "--perplexity" in run("report", "map", "--help").stdout


def test_tables_need_no_matplotlib_and_figures_name_the_extra(results: Path, tmp_path: Path) -> None:
    before = "sys.modules.update(dict.fromkeys(('matplotlib', 'sklearn', 'torch', 'transformers')))"
    assert process("report", results, before=before).code == 0
    ran = process("report", results, "--into", tmp_path / "r", before=before)
    assert ran.code == 7
    assert "pip install 'diffembed[report]'" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("diffembed: error: ")
