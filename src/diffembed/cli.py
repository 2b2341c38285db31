"""The command line: one Typer application, and each verb calls one public function.

Here stand the options and their help (those of searching and indexes in ``cli_index.py``, of a cluster in
``cli_cluster.py``, of bulk encoding in ``cli_bulk.py``, of the verbs around training in ``cli_training.py``);
``verbs.py`` does what they say, ``exits.py`` turns failures into a line and an exit code. stdout carries data only,
stderr carries progress. The verbs are imported when they are called, so that ``--help`` starts fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffembed import __version__, cli_bulk, cli_cluster, cli_index, cli_training, console
from diffembed.cli_options import DimsOption, Dtype, ExportPrecision, JsonOption, Split
from diffembed.exits import EXIT_CODES, ExplainingGroup

# Plain help, the same on a terminal and in a pipe, and no rich to import for it.
app = typer.Typer(
    cls=ExplainingGroup, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, epilog=EXIT_CODES
)
evaluate_app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(evaluate_app, name="evaluate")


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


@evaluate_app.callback(invoke_without_command=True)
def evaluate(context: typer.Context) -> None:
    """Measure a model.

    \b
    Example:
      diffembed evaluate retrieval --data my-data --model default
    """
    if context.invoked_subcommand is None:
        console.emit(context.get_help())


@evaluate_app.command("retrieval", short_help="Score a model on labelled queries.")
def evaluate_retrieval(
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR", help="Folder in BEIR layout: corpus.jsonl[.gz], queries.jsonl[.gz], qrels."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="M", help="'default', a model directory, a hub id, st:NAME_OR_PATH or bm25."
        ),
    ] = "default",
    split: Annotated[Split, typer.Option("--split", help="Which queries to use.")] = Split.all,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="The form of the vectors: int8, float32 for st:.")
    ] = None,
    query_dtype: Annotated[
        Dtype | None, typer.Option("--query-dtype", help="Of the queries alone: int8 or float32 beside --dtype binary.")
    ] = None,
    dims: DimsOption = None,
    sections: Annotated[
        bool, typer.Option("--sections", help="Cut the documents at their headings and ask for sections.")
    ] = False,
    together: Annotated[
        bool | None,
        typer.Option("--together/--alone", help="Read the chunks of a document together or alone, not as trained."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on labelled queries: nDCG@10, MRR@10, recall@1/10/100, time and tokens a second.

    \b
    Examples:
      diffembed evaluate retrieval --data my-data --split dev
      diffembed evaluate retrieval --data my-data --model st:all-MiniLM-L6-v2 --json
      diffembed evaluate retrieval --data my-data --dtype binary --query-dtype int8
      diffembed evaluate retrieval --data my-data --model bm25
      diffembed evaluate retrieval --data long-documents --sections --together
    """
    from diffembed import verbs

    verbs.evaluate_retrieval(
        data,
        model=model,
        split=split.value,
        dtype=dtype.value if dtype else None,
        query_dtype=query_dtype.value if query_dtype else None,
        dims=dims,
        sections=sections,
        together=together,
        as_json=as_json,
    )


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
