"""A study's summary as Markdown tables: scores with their intervals, what they cost, and what there is to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_WORDS = {"last": "last token", "mean": "mean", "mask": "mask readout", "bidirectional": "open"}


def markdown(summary: Mapping[str, Any]) -> str:
    """Every table of a ``summary.json``, under headings."""
    seeds = ", ".join(map(str, summary["seeds"]))
    parts = [f"nDCG@10, mean of seeds {seeds} [95% interval over seeds and queries].", _sets(summary["sets"])]
    parts += _by_measure("", summary["grid"], ("backbone",), ("pooling",))
    for reference in dict.fromkeys(row["reference"] for row in summary["differences"]):
        rows = [row for row in summary["differences"] if row["reference"] == reference]
        parts += _by_measure(f"minus {reference}: ", rows, ("backbone",), ("pooling",), _signed)
    if summary["lengths"]:
        parts.append(
            _crossed(
                "long, by characters of the document", summary["lengths"], ("backbone", "pooling"), ("characters",)
            )
        )
    parts += _by_measure("attention, ", summary["attention"], ("weights", "pooling"), ("trained", "tested"))
    parts += _by_measure("samples, ", summary["samples"], ("backbone", "pooling"), ("samples",))
    parts += _by_measure("equal operations, ", summary["operations"], ("backbone",), ("pooling",))
    parts += [_language(summary["language"]), _spent(summary["spent"])]
    return "\n\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right.

    >>> print(table(["", "score"], [["a", "0.5"]]))
    |  | score |
    | --- | ---: |
    | a | 0.5 |
    """
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _by_measure(
    title: str,
    rows: Sequence[Row],
    down: Sequence[str],
    across: Sequence[str],
    show: Callable[[Row], str] | None = None,
) -> list[str]:
    measures = dict.fromkeys(row["measure"] for row in rows)
    return [
        _crossed(f"{title}{measure}", [row for row in rows if row["measure"] == measure], down, across, show)
        for measure in measures
    ]


def _crossed(
    title: str,
    rows: Sequence[Row],
    down: Sequence[str],
    across: Sequence[str],
    show: Callable[[Row], str] | None = None,
) -> str:
    """One table: ``down`` and ``across`` are the keys of its rows and columns."""

    def label(row: Row, keys: Sequence[str]) -> str:
        if keys == ("trained", "tested"):
            return f"trained {_word(row['trained'])}, tested {_word(row['tested'])}"
        return " / ".join(_word(row[key]) for key in keys)

    ordered = sorted(rows, key=lambda row: list(_WORDS).index(row["pooling"])) if across == ("pooling",) else rows
    columns = list(dict.fromkeys(label(row, across) for row in ordered))
    lines = []
    for name in dict.fromkeys(label(row, down) for row in rows):
        own = {label(row, across): row for row in rows if label(row, down) == name}
        lines.append([name, *((show or _score)(own[column]) if column in own else "-" for column in columns)])
    return f"### {title}\n\n{table(['', *columns], lines)}"


def _score(row: Row) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _signed(row: Row) -> str:
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], {row['seeds_above']} of {len(row['by_seed'])}"


def _word(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _WORDS.get(str(value), str(value))


def _sets(rows: Sequence[Row]) -> str:
    head = ["set", "family", "split", "queries", "documents", "cut to the limit"]
    keys = ("set", "family", "split", "queries", "documents", "cut")
    return f"### Sets\n\n{table(head, ([_word(row[key]) for key in keys] for row in rows))}"


def _language(rows: Sequence[Row]) -> str:
    names = {"next_token_bits_per_byte": "bits a byte", "elbo_bits_per_byte": "bits a byte (bound)"}
    lines = [[row["stage"], names[row["figure"]], f"{row['mean']:.3f}"] for row in rows]
    return f"### Held-out text\n\n{table(['stage', 'figure', 'mean'], lines)}" if lines else ""


def _spent(rows: Sequence[Row]) -> str:
    """Million tokens and 10^12 operations by phase."""
    phases = [phase for phase in ("base", "adapt", "tune") if f"{phase}_tokens" in rows[0]]
    head = ["", "equal", *(f"{p}: M tokens" for p in phases), *(f"{p}: TFLOP" for p in phases), "minutes of tuning"]
    lines = []
    for row in rows:
        cells = [f"{row['backbone']} / {_word(row['pooling'])}", row["equal"]]
        cells += [f"{row[f'{phase}_tokens'] / 1e6:.3f}" for phase in phases]
        cells += [f"{row[f'{phase}_flops'] / 1e12:.2f}" for phase in phases]
        lines.append([*cells, f"{row['tune_seconds'] / 60:.1f}"])
    return f"### Spent\n\n{table(head, lines)}"
