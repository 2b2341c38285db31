"""Parts of a benchmark that are run alone join the result that is there, and nothing is mixed that should not be."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = {"small": ("small.", "speedup."), "large": ("large.",), "memory": ("rss.",)}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """benchmarks/_parts.py, imported the way Python runs it, with results in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _common
    import _parts

    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    yield _parts
    for name in ("_parts", "_common"):
        sys.modules.pop(name, None)


def arguments(*only: str) -> Namespace:
    return Namespace(name="speed", quick=False, only=list(only))


def written(parts: ModuleType, **changes: object) -> None:
    result = {
        "name": "speed",
        "command": "python benchmarks/speed.py",
        "commit": "abc",
        "date": "2026-01-02T03:04:05Z",
        "machine": parts.machine(),
        "versions": parts.versions((*parts.PACKAGES, "pytest")),
        "metrics": {"small.rate": 1.0, "speedup.all": 2.0, "large.rate": 3.0, "gone.rate": 9.0},
        "notes": "two threads; small: 10 texts; large: 20 texts, 30 queries",
    } | changes
    parts.result_path(arguments()).write_text(json.dumps(result), encoding="utf-8")


def test_a_part_replaces_its_own_figures_and_notes(parts: ModuleType) -> None:
    written(parts)
    before = parts.earlier(arguments("small"), ["pytest"])
    metrics, notes = parts.joined(PARTS, ["small"], {"small.rate": 5.0}, ["four threads", "small: 8; texts"], before)
    assert metrics == {"small.rate": 5.0, "large.rate": 3.0}
    assert notes == [
        "four threads",
        "small: 8, texts",
        "large: 20 texts, 30 queries",
        "large: measured by `python benchmarks/speed.py` at abc, 2026-01-02",
    ]


def test_where_a_part_was_measured_is_noted_once(parts: ModuleType) -> None:
    written(parts)
    before = parts.earlier(arguments("small"), ["pytest"])
    metrics, notes = parts.joined(PARTS, ["small"], {"small.rate": 5.0}, [], before)
    written(
        parts, metrics=metrics, notes="; ".join(notes), commit="def", command="python benchmarks/speed.py --only small"
    )
    before = parts.earlier(arguments("memory"), ["pytest"])
    metrics, notes = parts.joined(PARTS, ["memory"], {"rss.mb": 7.0}, [], before)
    assert metrics == {"small.rate": 5.0, "large.rate": 3.0, "rss.mb": 7.0}
    assert [note for note in notes if "measured by" in note] == [
        "large: measured by `python benchmarks/speed.py` at abc, 2026-01-02",
        "small: measured by `python benchmarks/speed.py --only small` at def, 2026-01-02",
    ]


def test_a_contender_that_one_run_alone_has_is_no_other_package(parts: ModuleType) -> None:
    written(parts, versions=parts.versions(parts.PACKAGES) | {"a-contender": "1.0"})
    before = parts.earlier(arguments("small"), ["pytest", "a-contender"])
    _, notes = parts.joined(PARTS, ["small"], {"small.rate": 5.0}, [], before)
    assert notes[-1] == "large: measured by `python benchmarks/speed.py` at abc, 2026-01-02, a-contender 1.0"
    with pytest.raises(SystemExit, match=r"another versions \(a-contender 1.0, now None\)"):
        parts.earlier(arguments("small"), ["pytest"])


@pytest.mark.parametrize("changed", [{"machine": {"cores": 64}}, {"machine": {}}, {"versions": {"python": "3.9"}}])
def test_other_machines_and_packages_are_not_mixed(parts: ModuleType, changed: dict[str, object]) -> None:
    written(parts, **changed)
    with pytest.raises(SystemExit, match=f"speed.json has another {next(iter(changed))}"):
        parts.earlier(arguments("small"), ["pytest"])
    assert parts.earlier(arguments(), ["pytest"]) == {}, "a run of all parts starts anew"


def test_a_figure_of_no_part_is_an_error(parts: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"no part that was run: large.rate, other"):
        parts.joined(PARTS, ["small"], {"small.rate": 1.0, "other": 2.0, "large.rate": 3.0}, [], {})
