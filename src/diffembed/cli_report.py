"""Telling results on the command line: options and help; ``verbs_report.py`` does what they say.

``diffembed report RESULTS...`` tells result files; ``diffembed report map`` makes a map of documents for a report.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffembed import console
from diffembed.cli_options import JsonOption, ScoredModelOption

_RESULTS = "RESULTS"  # the command behind everything that is no verb


class Format(StrEnum):
    """What stdout gets."""

    terminal = "terminal"
    markdown = "markdown"
    json = "json"


class Method(StrEnum):
    """How vectors are laid out in the plane."""

    tsne = "tsne"
    umap = "umap"


class ReportGroup(TyperGroup):
    """``report``: a verb, or else result files and folders."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Everything that does not begin with a verb goes to the command that reads results."""
        if not args or args[0] == "--help" or args[0] in self.commands:
            return super().parse_args(ctx, args)
        return super().parse_args(ctx, [_RESULTS, *args])


report_app = typer.Typer(cls=ReportGroup, rich_markup_mode=None, pretty_exceptions_enable=False)


@report_app.callback(
    invoke_without_command=True, options_metavar="RESULTS... [OPTIONS]", subcommand_metavar="| COMMAND [ARGS]..."
)
def report(context: typer.Context) -> None:
    """Tell results as tables, figures and one page; diffembed report RESULTS --help lists the options.

    RESULTS are the folders that diffembed evaluate and diffembed study write, or files of them.

    \b
    Examples:
      diffembed report results/
      diffembed report results/ --into report --title "Three models on our documents"
      diffembed report map --data concepts --label concept --into report
    """
    if context.invoked_subcommand is None:
        console.emit(context.get_help())


@report_app.command(_RESULTS, short_help="Tell result files: give files or folders in its place.")
def results(
    places: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Result files, or folders of them.", show_default=False)
    ],
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="Write index.html, report.md, report.json and figures/ there."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Of the tables on stdout.")] = Format.terminal,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Of the report.", show_default=False)] = "",
    as_json: JsonOption = False,
) -> None:
    """Tell result files: tables on stdout; with --into a page with figures as well.

    Runs that differ in their seed alone are one system, shown by their mean. Maps that diffembed report map left in DIR
    are shown on the page. Figures need the extra 'report'.

    \b
    Examples:
      diffembed report results/ --format markdown
      diffembed report results/beir results/passkey --into report
    """
    from diffembed import verbs_report

    verbs_report.report(places, into=into, form="json" if as_json else form.value, title=title)


@report_app.command("map", short_help="Draw documents in the plane, coloured by label.")
def map_(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder in BEIR layout.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="A report's folder.")],
    label: Annotated[
        str,
        typer.Option(
            "--label", metavar="FIELD", help="Of the corpus' rows; 'qrels': documents judged together share a label."
        ),
    ] = "qrels",
    model: ScoredModelOption = "default",
    method: Annotated[Method, typer.Option("--method", help="umap needs the package umap-learn.")] = Method.tsne,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="LABEL", help="A label to draw; may be repeated.")
    ] = None,
    most: Annotated[
        int, typer.Option("--most", min=2, metavar="N", help="Without --only, the N labels of most documents.")
    ] = 8,
    per_label: Annotated[
        int, typer.Option("--per-label", min=2, metavar="N", help="Documents of a label at the most.")
    ] = 200,
    perplexity: Annotated[
        float, typer.Option("--perplexity", min=2.0, metavar="X", help="Of t-SNE; neighbours of UMAP.")
    ] = 30.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the layout and of --per-label.")] = 42,
    as_json: JsonOption = False,
) -> None:
    """Draw the documents of a folder in the plane by a model's vectors (t-SNE or UMAP), coloured by label.

    Writes figures/map-*.png and .svg and maps/map-*.json into DIR; diffembed report RESULTS --into DIR shows them.

    \b
    Examples:
      diffembed report map --data reason-concepts --only "Two Pointers" --only "Vieta's Formulas" --into report
      diffembed report map --data my-data --label lang --model st:all-MiniLM-L6-v2 --into report
    """
    from diffembed import verbs_report

    options: dict[str, Any] = {"label": label, "model": model, "method": method.value, "only": tuple(only or ())}
    options |= {"most": most, "per_label": per_label, "perplexity": perplexity, "seed": seed}
    verbs_report.map_documents(data, into, options, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Enter the verbs of this file."""
    app.add_typer(report_app, name="report", short_help="Tell results as tables, figures and a page.")
