"""The controlled comparison on the command line: its options and help; ``verbs_study.py`` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffembed.cli_options import JsonOption


def study(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A study's file (TOML).", show_default=False)],
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0.0,
            metavar="X",
            help="Stop after so long with exit code 75; the same command goes on. [default: to the end]",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file and say what there is to train and to measure.")
    ] = False,
    tables: Annotated[
        bool, typer.Option("--tables", help="Run nothing; print the tables of a study that is finished.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare backbones and poolings on equal data, steps and seeds, and say what each has cost.

    Every model is an ordinary run of stages in the output folder. What is trained or measured is not done again, so
    that a study that was stopped or killed goes on where it was. Prints Markdown tables; with --json the summary.

    \b
    Examples:
      diffembed study runs/study-tiny.toml
      diffembed study runs/study-gpu.toml --minutes 9
      diffembed study runs/study-tiny.toml --tables
      diffembed report out/study-tiny/results --into pages
    """
    from diffembed import verbs_study

    verbs_study.study(recipe, minutes=minutes, dry_run=dry_run, tables=tables, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Make it a verb of the command line."""
    app.command(short_help="Compare backbones and poolings.")(study)
