"""Every figure in a generated block of README.md and docs/ is the one in benchmarks/results/*.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULT = {
    "name": "speed",
    "command": "python benchmarks/speed.py",
    "date": "2026-01-02T03:04:05Z",
    "machine": {"cpu": "A CPU", "cores": 2, "ram_gb": 8, "gpu": "none"},
    "metrics": {"short.ours.rate": 5120.3, "short.peer.rate": 1234.0, "long.ours.rate": 0.85461, "load": 0.12},
}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/readme_tables.py, imported the way Python runs it: with its folder on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import readme_tables

    yield readme_tables
    for name in ("readme_tables", "_common"):
        sys.modules.pop(name, None)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "speed.json").write_text(json.dumps(RESULT), encoding="utf-8")
    return tmp_path


def test_the_pages_agree_with_the_results(tables: ModuleType) -> None:
    outdated = [path.name for path, _ in tables.stale(tables.pages())]
    assert not outdated, f"{outdated} differ from benchmarks/results; run: python benchmarks/readme_tables.py"


def test_committed_results_have_the_common_form() -> None:
    for path in sorted((BENCHMARKS / "results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert set(result) == {"name", "command", "commit", "date", "machine", "versions", "metrics", "notes"}, (
            path.name
        )
        assert set(result["machine"]) == {"cpu", "cores", "ram_gb", "gpu"}, path.name
        assert result["name"] == path.stem
        assert all(isinstance(value, (int, float)) for value in result["metrics"].values()), path.name


def test_block_is_filled_and_then_stable(tables: ModuleType, results: Path) -> None:
    page = (
        "Before\n<!-- figures:speed\ncolumns: diffembed = ours, peer = peer\nshort = short.*.rate\nlong = long.*.rate\n"
        "-->\nold\n<!-- /figures -->\nafter\n"
    )
    filled = tables.fill(page, results)
    assert "|  | diffembed | peer |\n| --- | ---: | ---: |\n| short | 5,120 | 1,234 |\n| long | 0.855 | - |" in filled
    assert "`python benchmarks/speed.py`, 2 cores of A CPU, 2026-01-02" in filled
    assert "old" not in filled
    assert filled.startswith("Before\n")
    assert filled.endswith("after\n")
    assert tables.fill(filled, results) == filled


def test_rows_for_each_data_set_and_all_metrics(tables: ModuleType, results: Path) -> None:
    each = tables.render(RESULT, ["columns: ours = ours", "each = *o*.rate"])
    assert [line.split(" | ")[0] for line in each[2:]] == ["| short", "| long"]
    assert len(tables.render(RESULT, [])) == 2 + len(RESULT["metrics"])


def test_columns_may_name_the_metric_and_rows_the_contender(tables: ModuleType) -> None:
    table = tables.render(RESULT, ["columns: short = short.*.rate, long = long.*.rate", "we = ours", "they = peer"])
    assert table[2:] == ["| we | 5,120 | 0.855 |", "| they | 1,234 | - |"]
    with pytest.raises(tables.BlockError, match="row 'none' has no figure; .* short.nobody.rate, long.nobody.rate"):
        tables.render(RESULT, ["columns: short = short.*.rate, long = long.*.rate", "none = nobody"])


def test_intervals_stand_beside_their_figures(tables: ModuleType) -> None:
    metrics = {"a.x": 0.5, "a.x.low": 0.41234, "a.x.high": 0.6, "b.x": 0.25}
    table = tables.render({"metrics": metrics}, ["intervals", "columns: x = x, y = y", "a = a.*", "b = b.*"])
    assert table[2:] == ["| a | 0.500 [0.412, 0.600] | - |", "| b | 0.250 [-, -] | - |"]


def test_a_changed_figure_makes_the_page_stale(tables: ModuleType, results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- figures:speed\nload = load\n-->\n<!-- /figures -->\n", encoding="utf-8")
    page.write_text(tables.fill(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    assert list(tables.stale([page], results)) == []
    page.write_text(page.read_text(encoding="utf-8").replace("0.120", "0.060"), encoding="utf-8")
    assert [path for path, _ in tables.stale([page], results)] == [page]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("<!-- figures:nothing -->\n<!-- /figures -->", "no benchmarks/results/nothing.json"),
        ("<!-- figures:speed\nload = laod\n-->\n<!-- /figures -->", "row 'load' has no figure"),
        ("<!-- figures:speed\nload\n-->\n<!-- /figures -->", "'load' is not understood"),
        ("<!-- figures:speed\neach = x-*.rate\n-->\n<!-- /figures -->", "no data set fits 'x-*.rate'"),
        ("<!-- figures:speed -->\nnever closed", "not closed"),
    ],
)
def test_a_block_that_cannot_be_filled(tables: ModuleType, results: Path, block: str, said: str) -> None:
    with pytest.raises(tables.BlockError, match=said.replace("*", r"\*")):
        tables.fill(block, results)
