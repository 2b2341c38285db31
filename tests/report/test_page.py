"""The page: whole HTML, nothing from a network, every figure with its words, and no name that gets out of its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.report.sample import result

from diffembed.report.collection import collect
from diffembed.report.page import page
from diffembed.report.report import Report, report_on
from diffembed.report.tables import Score, Table

VOID = {"meta", "br", "img", "hr", "link", "input", "path", "use", "rect"}


class Parsed(HTMLParser):
    """Checks while it reads that every tag is closed where it should be, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif any(tag in ("td", "th") for tag in self.open):
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="session")
def text(written: Path) -> str:
    return (written / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def parsed(text: str) -> Parsed:
    return Parsed(text)


def test_it_is_whole_html(parsed: Parsed, text: str) -> None:
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<title>All &lt;kinds&gt; &amp; more</title>" in text
    assert [len(parsed.all(tag)) for tag in ("html", "head", "body", "main", "h1")] == [1] * 5


def test_ids_are_unique_and_all_references_lead_somewhere(parsed: Parsed, text: str) -> None:
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 100
    inside = {target[1:] for _, a in parsed.tags if (target := a.get("href") or "").startswith("#")}
    assert inside | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_nothing_is_loaded(parsed: Parsed, text: str, written: Path) -> None:
    assert "default-src 'none'" in str(parsed.all("meta"))
    assert {tag for tag, _ in parsed.tags} & {"link", "img", "iframe", "object", "embed", "base", "image"} == set()
    assert all("src" not in attrs and not any(name.startswith("on") for name in attrs) for _, attrs in parsed.tags)
    assert not re.search(r"@import|https?://(?!www\.w3\.org)", text)
    files = [str(attrs["href"]) for attrs in parsed.all("a") if not str(attrs["href"]).startswith("#")]
    assert files
    assert all((written / name).is_file() for name in files)


def test_every_figure_has_its_words_and_its_numbers(parsed: Parsed, report: Report) -> None:
    drawn = parsed.all("svg")
    assert [attrs["aria-label"] for attrs in drawn] == [f"{chart.title}. {chart.alt}" for chart in report.charts]
    assert all(attrs["role"] == "img" and attrs["viewbox"] and "width" not in attrs for attrs in drawn)
    assert len(parsed.all("figure")) == len(parsed.all("figcaption")) == len(report.charts)
    tables = sum(len(section.tables) for section in report.sections) + len(report.charts) + len(report.appendix)
    assert len(parsed.all("table")) == len(parsed.all("caption")) == tables


def test_colours_are_those_of_the_theme(text: str) -> None:
    body = text.partition("</style>")[2]
    assert "#1b1b1f" not in body
    assert body.count("var(--ink)") > 100
    assert "prefers-color-scheme: dark" in text


def test_all_scores_are_in_it(parsed: Parsed, report: Report) -> None:
    cells = set(parsed.cells)
    for section in report.sections:
        for table in section.tables:
            assert {text for row in table.texts() for text in row} <= cells


def test_numbers_are_sorted_by_value_and_sums_stay_below() -> None:
    rows = (("a", 1_200, Score(0.25, 0.1, 0.4)), ("b", None, Score(0.5)), ("mean", None, Score(0.375)))
    html = page("t", "s", (), (), (Table("n", "T", ("x", "queries", "y"), rows, foot=1),))
    found = Parsed(html)
    assert [attrs.get("data-v") for attrs in found.all("td")] == ["1200", "0.25", "", "0.5", "", "0.375"]
    assert html.index("<tfoot>") < html.index("mean") < html.index("</tfoot>")
    assert [attrs.get("class") for attrs in found.all("th")][:3] == [None, "n", "n"]
    assert len(found.scripts) == 1


def test_names_are_text_wherever_they_stand() -> None:
    evil = '"><script>alert(1)</script><b a="'
    found = collect([(result(evil, evil, evil, skill=0.5, data=evil, revision=evil), "")])
    report = report_on(found, title=evil)
    shown = page(report.title, report.summary, (evil,), (), (*report.appendix, *report.sections[0].tables))
    parsed = Parsed(shown)
    assert len(parsed.scripts) == 1
    assert parsed.all("b") == []
    assert evil in parsed.cells


def test_the_same_results_give_the_same_page(report: Report, written: Path, tmp_path: Path) -> None:
    from diffembed.report import write_report

    few = type(report)(report.title, report.summary, report.sections[-1:], report.appendix, report.notes)
    first, _ = write_report(few, tmp_path / "a")
    second, _ = write_report(few, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == ["figures", "index.html", "report.json", "report.md"]
