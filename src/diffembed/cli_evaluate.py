"""Measuring on the command line: options and help; ``verbs_evaluate.py`` does what they say.

``diffembed evaluate VERB`` is one of diffembed's own evaluations; any other first word is the name of a benchmark or a
task of mteb.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffembed import cli_benchmark, cli_generated, cli_rag, console
from diffembed.cli_options import (
    DimsOption,
    JsonOption,
    QueryVectorsOption,
    ResultsOption,
    ScoredModelOption,
    Split,
    SplitOption,
    TogetherOption,
    VectorsOption,
    vector_form,
)


class Part(StrEnum):
    """What the queries of a set are parted by."""

    language = "language"
    length = "length"
    characters = "characters"


class EvaluateGroup(TyperGroup):
    """``evaluate``: a verb, or else the name of a benchmark or a task of mteb."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Everything that does not begin with a verb goes to the command that runs benchmarks by name."""
        if not args or args[0] in ("--help", "-h") or args[0] in self.commands:
            return super().parse_args(ctx, args)
        return super().parse_args(ctx, [cli_benchmark.COMMAND, *args])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Both forms."""
        return ["VERB [OPTIONS]", "| NAME [OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options of a benchmark by name, then the verbs."""
        named = self.commands[cli_benchmark.COMMAND]
        with named.make_context(cli_benchmark.COMMAND, [], parent=ctx, resilient_parsing=True) as inner:
            named.format_options(inner, formatter)
        self.format_commands(ctx, formatter)


evaluate_app = typer.Typer(cls=EvaluateGroup, rich_markup_mode=None, pretty_exceptions_enable=False)


@evaluate_app.callback(invoke_without_command=True)
def evaluate(context: typer.Context) -> None:
    """Measure a model: with a verb of the list below, or by the NAME of a benchmark or a task of mteb.

    \b
    Examples:
      diffembed evaluate retrieval --data my-data --model default
      diffembed evaluate "MTEB(Code, v1)" --model default --into results
      diffembed evaluate --list
    """
    if context.invoked_subcommand is None:
        console.emit(context.get_help())


@evaluate_app.command(short_help="Score a model on labelled queries.")
def retrieval(
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR", help="Folder in BEIR layout: corpus.jsonl[.gz], queries.jsonl[.gz], qrels."
        ),
    ],
    model: ScoredModelOption = "default",
    split: SplitOption = Split.all,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    sections: Annotated[
        bool, typer.Option("--sections", help="Cut the documents at their headings and ask for sections.")
    ] = False,
    together: TogetherOption = None,
    by: Annotated[
        list[Part] | None,
        typer.Option("--by", help="Show the scores of parts, too: by language, or length of the document sought."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="Keep the result in this folder; if it is there, show it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on labelled queries: nDCG@10, MRR@10, recall@1/10/100, time and tokens a second.

    Lengths are told in tokens of the model (length) or in characters.

    \b
    Examples:
      diffembed evaluate retrieval --data my-data --split dev
      diffembed evaluate retrieval --data my-data --model st:all-MiniLM-L6-v2 --json
      diffembed evaluate retrieval --data my-data --dtype binary --query-dtype int8
      diffembed evaluate retrieval --data my-data --model bm25 --by language --by characters
      diffembed evaluate retrieval --data long-documents --sections --together --into results
    """
    from diffembed import verbs_evaluate

    verbs_evaluate.retrieval(
        data,
        model=model,
        form=vector_form(dtype, query_dtype, dims, together),
        split=split.value,
        sections=sections,
        by=[part.value for part in by or ()],
        into=into,
        as_json=as_json,
    )


@evaluate_app.command(short_help="Score a model on every set below a folder.")
def sets(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Holds folders in BEIR layout, at any depth.", show_default=False)
    ],
    model: ScoredModelOption = "default",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help="Only sets so called, such as 'xling-*'.")
    ] = None,
    split: SplitOption = Split.all,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    together: TogetherOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Score a model on every set in and below a folder, and keep each result.

    Run again, it measures what is not there yet: after a stop it goes on, with other weights or data it starts anew.

    \b
    Examples:
      diffembed evaluate sets my-sets --model bm25
      diffembed evaluate sets my-sets --only 'code-*' --split dev --into results
    """
    from diffembed import verbs_evaluate

    verbs_evaluate.sets(
        folder,
        model=model,
        form=vector_form(dtype, query_dtype, dims, together),
        only=only or [],
        split=split.value,
        into=into,
        as_json=as_json,
    )


@evaluate_app.command(short_help="Say whether one of two models is better, or only looks so.")
def compare(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS", help="Result files, or folders of --into.", show_default=False),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="M", help="Given twice: which two of the models there; M@REVISION too."),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option("--measure", metavar="NAME", help="What to compare; each task's own figure if left out."),
    ] = None,
    level: Annotated[float, typer.Option("--level", metavar="X", help="Of the confidence intervals.")] = 0.95,
    draws: Annotated[int, typer.Option("--draws", min=1, metavar="N", help="Resamples, and random signs.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of both.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two models query by query: difference with its confidence interval, and p by a randomisation test.

    Two places hold one model each, the second is compared with the first; or else --model names the two.

    \b
    Examples:
      diffembed evaluate compare results --model bm25 --model default
      diffembed evaluate compare old-results new-results --measure recall@100 --json
    """
    from diffembed import verbs_evaluate

    settings = {"measure": measure, "level": level, "draws": draws, "seed": seed}
    verbs_evaluate.compare(places, models=model or [], settings=settings, as_json=as_json)


# The verbs of other files: each has its `add_commands(evaluate_app)`.
cli_benchmark.add_commands(evaluate_app)
cli_generated.add_commands(evaluate_app)
cli_rag.add_commands(evaluate_app)


def add_commands(app: typer.Typer) -> None:
    """Enter the verbs of this file."""
    app.add_typer(evaluate_app, name="evaluate", short_help="Measure a model.")
