"""The command line: one Typer application, and each verb calls one public function.

Here stand the options and their help (those of searching and indexes in ``cli_index.py``, of a cluster in
``cli_cluster.py``, of bulk encoding in ``cli_bulk.py``, of the verbs around training in ``cli_training.py``, of
measuring in ``cli_evaluate.py``, of telling results in ``cli_report.py``);
``verbs.py`` does what they say, ``exits.py`` turns failures into a line and an exit code. stdout carries data only,
stderr carries progress. The verbs are imported when they are called, so that ``--help`` starts fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffembed import (
    __version__,
    cli_bulk,
    cli_cluster,
    cli_evaluate,
    cli_index,
    cli_report,
    cli_study,
    cli_training,
    console,
)
from diffembed.cli_options import ExportPrecision, JsonOption
from diffembed.exits import EXIT_CODES, ExplainingGroup

# Plain help, the same on a terminal and in a pipe, and no rich to import for it.
app = typer.Typer(
    cls=ExplainingGroup, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, epilog=EXIT_CODES
)


def _version(wanted: bool) -> None:
    if wanted:
        console.emit(f"diffembed {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn language models into text embedders, and carry them to a search result.

    \b
    Example:
      diffembed search "how do I undo a commit" notes/
    """
    if context.invoked_subcommand is None:
        console.emit(context.get_help())


cli_index.add_commands(app)
cli_cluster.add_commands(app)
cli_bulk.add_commands(app)
cli_training.add_commands(app)
cli_study.add_commands(app)
cli_evaluate.add_commands(app)
cli_report.add_commands(app)


@app.command(short_help="Write a model with its ONNX graphs.")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model directory or a hub id.", show_default=False)],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="The model directory to write.")],
    precision: Annotated[ExportPrecision, typer.Option("--precision", help="Of the weights.")] = ExportPrecision.int8,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="FILE",
            help="Texts that int8 weights are fitted to, the first 512: .txt, one a line, or .jsonl or .parquet with a "
            "'text'. Without it, forty short texts of many languages.",
        ),
    ] = None,
    min_cosine: Annotated[
        float | None,
        typer.Option("--min-cosine", metavar="X", help="Mean cosine to fp32 that int8 must reach; see --keep-float."),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float",
            metavar="LAYER",
            help="A layer left in float32, '*' for any; may be repeated. Of need, "
            "--min-cosine leaves the most sensitive ones.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model with its ONNX graphs, pooling and quantizer inside, so that it runs without torch.

    Takes sentence-transformers models (mean pooling over a BERT) and pplx-embed too.

    \b
    Examples:
      diffembed export my-run/model --into my-model
      diffembed export my-run/model --into my-model --precision both --calibrate texts.jsonl --min-cosine 0.999
    """
    from diffembed import verbs

    verbs.export(
        model,
        into,
        precisions=precision.each,
        calibrate=calibrate,
        settings={"keep_float": keep_float or (), "min_cosine": min_cosine},
        as_json=as_json,
    )


@app.command(short_help="List the models at hand.")
def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Model directories, or folders that hold some.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the embedded model, the models in the cache folder, and those in and under each DIR.

    Models of sentence-transformers, pplx-embed and DiffEmbed are listed too: docs/models.md says which load.

    \b
    Example:
      diffembed models runs/output
    """
    from diffembed import verbs

    verbs.models(folders or [], as_json=as_json)


@app.command(short_help="Say what is broken and how to mend it.")
def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed, which runtime is used, what is broken and how to mend it.

    \b
    Example:
      diffembed doctor
    """
    from diffembed import verbs

    verbs.doctor(as_json=as_json)


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    app(prog_name="diffembed")
