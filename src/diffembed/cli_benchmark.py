"""Benchmarks by name on the command line: options and help; ``verbs_benchmark.py`` does what they say.

``diffembed evaluate NAME`` runs this command for every NAME that is no verb (``cli_evaluate.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import typer.main

from diffembed.cli_options import DimsOption, JsonOption, ResultsOption, ScoredModelOption, VectorsOption

COMMAND = "NAME"


def benchmark(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of a benchmark or a task of mteb.", show_default=False)
    ] = None,
    model: ScoredModelOption = "default",
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--types",
            metavar="TYPE",
            help="Of a benchmark's tasks, such as STS; may be repeated; 'all' for every one. Those of retrieval, "
            "instructions included, if left out.",
        ),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option("--language", metavar="CODE", help="Only in this one (deu); may be repeated.")
    ] = None,
    dtype: VectorsOption = None,
    dims: DimsOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Local copies of datasets, DIR/TASK or DIR/ORG/NAME; else the hub."),
    ] = None,
    into: ResultsOption = Path("results"),
    listed: Annotated[
        bool, typer.Option("--list", help="List the tasks of NAME and their sizes, or the benchmarks; run nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a benchmark or a task of mteb by its official name, and keep each result, in mteb's own form too.

    Run again, it measures what is not there yet.

    \b
    Examples:
      diffembed evaluate --list
      diffembed evaluate "BRIGHT(v1.1)" --list
      diffembed evaluate LongEmbed --model st:intfloat/multilingual-e5-small
      diffembed evaluate "MTEB(Code, v1)" --data datasets --into results
      diffembed evaluate MIRACLRetrieval --language swa --dtype binary
    """
    from diffembed import verbs_benchmark
    from diffembed.errors import InputError

    group = context.parent.command if context.parent is not None else None
    verbs = [verb for verb in getattr(group, "commands", {}) if verb != COMMAND]
    wanted = {"types": types or [], "languages": language or [], "verbs": verbs}
    if listed:
        verbs_benchmark.show_names(name, wanted, as_json=as_json)
    elif name is None:
        raise InputError("give the name of a benchmark or a task; diffembed evaluate --list names the benchmarks")
    else:
        form = {"dtype": dtype.value if dtype else None, "dims": dims}
        verbs_benchmark.run(name, wanted, model=model, form=form, data=data, into=into, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Enter the verb of this file."""
    app.command(COMMAND, hidden=True)(benchmark)
