"""The controlled comparison of backbones and poolings: runs a study to its end and keeps its figures.

    python benchmarks/study.py [--study runs/study-tiny.toml] [--quick] [--json]

What is trained and measured is not done again (`diffembed study`), so of a finished study this only gathers the
figures; `--quick` refuses to do more than that. The result file is named after the study. nDCG@10, means of the seeds;
of everything also `.low` and `.high`, the 95% interval over seeds and queries (`src/diffembed/study/intervals.py`):

    grid.MEASURE.BACKBONE-POOLING            MEASURE is short, long, contextual, contextual-alone,
                                             gain-of-reading-together or reasoning
    seeds.MEASURE.BACKBONE-POOLING           from the lowest to the highest seed: the distance
    minus.REFERENCE.MEASURE.BACKBONE-POOLING the cell less a reference, query by query; `.seeds` how many seeds agree
    set.SET.BACKBONE-POOLING                 one set
    length.CHARACTERS.BACKBONE-POOLING       the family long by the length of the document that is sought
    attention.MEASURE.WEIGHTS-POOLING.TRAINED.TESTED
    samples.MEASURE.BACKBONE-POOLING.STEPS   tunings of their own with fewer steps, and the grid's
    operations.MEASURE.BACKBONE-POOLING      adapted with equal operations instead of equal tokens
    language.STAGE                           bits a byte of held-out text (no interval)
    spent.EQUAL.BACKBONE-POOLING.PHASE.{tokens,flops,seconds}   PHASE is base, adapt or tune (no interval)
    size.SET.{queries,documents,cut}         what was asked (no interval)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from _common import REPOSITORY, parser, progress, report
from diffembed.errors import InputError
from diffembed.study import read_study, read_summary, run_study

Row = Mapping[str, Any]


def main() -> None:
    """Run what is missing, gather, write the result."""
    options = parser("", __doc__)
    options.add_argument("--study", type=Path, default=Path("runs/study-tiny.toml"), help="its file")
    args = options.parse_args()
    path = args.study if args.study.is_file() else REPOSITORY / args.study
    args.name = args.name or read_study(path).name
    try:
        summary = read_summary(path) if args.quick else run_study(path, report=progress)
    except InputError as error:
        raise SystemExit(f"{error}") from None
    seeds = ", ".join(map(str, summary["seeds"]))
    report(args, dict(metrics(summary)), notes=f"{path.name}, seeds {seeds}", packages=("accelerate",))


def metrics(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The summary's rows as flat figures."""
    for row in summary["grid"]:
        yield from figure(f"grid.{plain(row['measure'])}.{cell(row)}", row)
        yield f"seeds.{plain(row['measure'])}.{cell(row)}", max(row["by_seed"]) - min(row["by_seed"])
    for row in summary["differences"]:
        name = f"minus.{plain(row['reference'])}.{plain(row['measure'])}.{cell(row)}"
        yield from figure(name, row)
        yield f"{name}.seeds", float(row["seeds_above"])
    for row in summary["by_set"]:
        yield from figure(f"set.{plain(row['set'])}.{cell(row)}", row)
    for row in summary["lengths"]:
        yield from figure(f"length.{row['characters']}.{cell(row)}", row)
        yield f"length.{row['characters']}.queries", float(row["queries"])
    for row in summary["attention"]:
        name = f"{row['weights']}-{row['pooling']}.{row['trained']}.{row['tested']}"
        yield from figure(f"attention.{plain(row['measure'])}.{name}", row)
    for row in summary["samples"]:
        yield from figure(f"samples.{plain(row['measure'])}.{cell(row)}.{row['steps']}", row)
    for row in summary["operations"]:
        yield from figure(f"operations.{plain(row['measure'])}.{cell(row)}", row)
    for row in summary["language"]:
        yield f"language.{row['stage']}", row["mean"]
    for row in summary["spent"]:
        for name in (name for name in row if name.endswith(("_tokens", "_flops", "_seconds"))):
            yield f"spent.{row['equal']}.{cell(row)}.{name.replace('_', '.')}", row[name]
    for row in summary["sets"]:
        for name in ("queries", "documents", "cut"):
            yield f"size.{plain(row['set'])}.{name}", float(row[name])


def figure(name: str, row: Row) -> Iterator[tuple[str, float]]:
    """A mean and its interval."""
    yield name, row["mean"]
    yield f"{name}.low", row["low"]
    yield f"{name}.high", row["high"]


def cell(row: Row) -> str:
    """``diffusion-mean``."""
    return f"{row['backbone']}-{row['pooling']}"


def plain(name: str) -> str:
    """A name without spaces and slashes, as metrics have it."""
    return name.replace(" ", "-").replace("/", "-")


if __name__ == "__main__":
    main()
