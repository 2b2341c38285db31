"""Results of every kind, and their report written once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report import sample

from diffembed.report.collection import Collection, collect
from diffembed.report.report import Report, report_on, write_report


@pytest.fixture(scope="session")
def everything() -> Collection:
    return collect([(one, f"file {number}") for number, one in enumerate(sample.everything())])


@pytest.fixture(scope="session")
def report(everything: Collection) -> Report:
    return report_on(everything, title="All <kinds> & more")


@pytest.fixture(scope="session")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that report, all figures drawn."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder)
    return folder
