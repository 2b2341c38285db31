"""Fill the tables of README.md and docs/ from the result files, or check that they agree with them.

    python benchmarks/readme_tables.py           rewrite every block that is out of date
    python benchmarks/readme_tables.py --check   change nothing, exit 1 and name the blocks that are out of date

A block says in its opening comment which result file it shows and which metrics, and is filled up to the closing one:

    <!-- figures:encode
    columns: diffembed = ours, sentence-transformers = peer
    tokens/s, mixed lengths = mixed.*.tokens_per_second
    -->
    <!-- /figures -->

Each line is a row, `label = metric`. With `columns:` the metric has a `*` that stands for each column's key in turn; or
the columns' keys have it, and it stands for what the row names (`columns: tokens/s = mixed.*.rate`, `ours = ours`).
`each = en-*.ndcg@10` makes one row for every data set of the result whose name fits (`DATASET.COLUMN.METRIC`; the
pattern is split at its last dot). A line `intervals` adds `[METRIC.low, METRIC.high]` to every cell. Without any line
every metric of the file is shown. A missing cell is a dash; a row without any figure is an error, so a renamed metric
cannot leave the page in silence.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from _common import REPOSITORY, RESULTS

BLOCK = re.compile(
    r"(?P<open><!-- figures:(?P<name>[\w.-]+)(?P<rows>[^>]*?)-->\n)(?P<table>.*?)(?P<close><!-- /figures -->)",
    re.DOTALL,
)


class BlockError(Exception):
    """A block that cannot be filled: no such result file, no such metric, a line that is not understood."""


def pages(root: Path = REPOSITORY) -> list[Path]:
    """The pages that may hold blocks."""
    found = [root / "README.md", *sorted((root / "docs").rglob("*.md")), root / "src/diffembed/bundled/README.md"]
    return [path for path in found if path.is_file()]


def fill(text: str, results: Path = RESULTS) -> str:
    """``text`` with every block's table made anew."""

    def table(match: re.Match[str]) -> str:
        path = results / f"{match['name']}.json"
        if not path.is_file():
            raise BlockError(f"figures:{match['name']}: there is no benchmarks/results/{path.name}; run its benchmark")
        result = json.loads(path.read_text(encoding="utf-8"))
        try:
            lines = render(result, match["rows"].strip().splitlines())
        except BlockError as error:
            raise BlockError(f"figures:{match['name']}: {error}") from error
        return match["open"] + "\n".join(["", *lines, "", source(result), ""]) + match["close"]

    if text.count("<!-- figures:") != len(BLOCK.findall(text)):
        raise BlockError("a block is not closed; end it with <!-- /figures -->")
    return BLOCK.sub(table, text)


def render(result: dict[str, Any], specification: Sequence[str]) -> list[str]:
    """The Markdown table of one block."""
    metrics: dict[str, float] = result["metrics"]
    columns: dict[str, str] = {}
    rows: list[tuple[str, str]] = []
    intervals = "intervals" in (line.strip() for line in specification)
    for line in (line.strip() for line in specification if line.strip() not in ("", "intervals")):
        if line.startswith("columns:"):
            columns = dict(_pair(part) for part in line.removeprefix("columns:").split(","))
            continue
        label, metric = _pair(line)
        rows += _each(metrics, metric) if label == "each" else [(label, metric)]
    if not rows:
        rows = [(name, name) for name in metrics]
    table = [["", *(columns or {"value": ""})]]
    for label, metric in rows:
        keys = [_cell(metric, key) for key in columns.values()] if columns else [metric]
        cells = [_shown(metrics, key, intervals) for key in keys]
        if all(key not in metrics for key in keys):
            raise BlockError(f"row {label!r} has no figure; the result has none of: {', '.join(keys)}")
        table.append([label, *cells])
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (table[0], rule, *table[1:])]


def _shown(metrics: dict[str, float], key: str, interval: bool) -> str:
    """A cell: the figure, and its interval where that is asked for."""
    ends = [number(metrics.get(f"{key}.{end}")) for end in ("low", "high")] if interval and key in metrics else []
    return f"{number(metrics.get(key))} [{', '.join(ends)}]" if ends else number(metrics.get(key))


def number(value: float | None) -> str:
    """Digits that carry meaning: three decimals below 1, fewer above, thousands separated.

    >>> [number(value) for value in (0.85461, 1.8432, 23.41, 5120.3, 12.0, None)]
    ['0.855', '1.84', '23.4', '5,120', '12', '-']
    """
    if value is None:
        return "-"
    if float(value).is_integer():
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:,.{3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0}f}"


def source(result: dict[str, Any]) -> str:
    """Where the figures come from, under every table."""
    machine = result["machine"]
    gpu = "" if machine["gpu"] == "none" else f", {machine['gpu']}"
    return f"<sub>`{result['command']}`, {machine['cores']} cores of {machine['cpu']}{gpu}, {result['date'][:10]}</sub>"


def stale(paths: Sequence[Path], results: Path = RESULTS) -> Iterator[tuple[Path, str]]:
    """Each page that differs from what the results say, with what it should say."""
    for path in paths:
        text = path.read_text(encoding="utf-8")
        try:
            filled = fill(text, results)
        except BlockError as error:
            raise BlockError(f"{path.name}: {error}") from error
        if filled != text:
            yield path, filled


def _pair(text: str) -> tuple[str, str]:
    label, separator, value = text.rpartition("=")
    if not separator:
        raise BlockError(f"{text.strip()!r} is not understood; write `label = metric`")
    return label.strip(), value.strip()


def _cell(metric: str, key: str) -> str:
    """The name of a cell's figure: whichever of row and column has the ``*`` takes the other's name for it."""
    return key.replace("*", metric) if "*" in key else metric.replace("*", key)


def _each(metrics: dict[str, float], pattern: str) -> list[tuple[str, str]]:
    """``GLOB.METRIC`` -> a row for every data set that fits, in the order of the result."""
    sets, _, measure = pattern.rpartition(".")
    parts = [name.rsplit(".", 2) for name in metrics]
    names = dict.fromkeys(part[0] for part in parts if len(part) == 3 and part[2] == measure and fnmatch(part[0], sets))
    if not names:
        raise BlockError(f"no data set fits {pattern!r}")
    return [(name, f"{name}.*.{measure}") for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(description="Fill the tables of README.md and docs/ from benchmarks/results/*.json")
    made.add_argument("--check", action="store_true", help="change nothing; exit 1 where a table is out of date")
    args = made.parse_args(arguments)
    try:
        outdated = list(stale(pages()))
    except BlockError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, text in outdated:
        print(f"{'out of date' if args.check else 'filled'}: {path.relative_to(REPOSITORY)}", file=sys.stderr)
        if not args.check:
            path.write_text(text, encoding="utf-8")
    return 1 if args.check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
