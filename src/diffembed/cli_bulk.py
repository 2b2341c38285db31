"""The verbs of bulk encoding: their options and help; ``verbs.py`` does what they say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diffembed.cli_options import DimsOption, Dtype, JsonOption, ModelOption


class ShardFormat(StrEnum):
    """The files of a folder of vectors."""

    npy = "npy"
    parquet = "parquet"


class StdinFormat(StrEnum):
    """What the lines of stdin are."""

    text = "text"
    jsonl = "jsonl"


class Precision(StrEnum):
    """What a model's weights are run in."""

    auto = "auto"
    int8 = "int8"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Device(StrEnum):
    """What a model is run on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def encode(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help='.txt (one text a line), .jsonl ("text", or "chunks": [...]), both also .gz and .zst, .parquet; '
            "- reads lines from stdin.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The .npy or .parquet file to write, whole or not at all."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="The folder to write shards into; goes on where it was killed."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="The form of the vectors.")] = Dtype.float32,
    dims: DimsOption = None,
    model: ModelOption = "default",
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts over the model's limit instead of refusing.")
    ] = False,
    windows: Annotated[
        bool, typer.Option("--windows", help="Read texts over the model's limit through overlapping windows.")
    ] = False,
    shards: Annotated[ShardFormat | None, typer.Option("--format", help="Of --into: npy if left out.")] = None,
    shard_rows: Annotated[
        int | None, typer.Option("--shard-rows", min=1, metavar="N", help="Of --into: input rows a shard; 100000.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Of --into: leave with exit code 2 if a row was quarantined.")
    ] = False,
    stdin_format: Annotated[StdinFormat, typer.Option("--stdin-format", help="What stdin holds.")] = StdinFormat.text,
    text_column: Annotated[
        str | None,
        typer.Option("--text-column", metavar="NAME", help="Key or column to encode; 'text' or 'chunks' if left out."),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", metavar="NAME", help="Key or column of ids; 'id' or '_id' if left out.")
    ] = None,
    precision: Annotated[Precision, typer.Option("--precision", help="What the weights are run in.")] = Precision.auto,
    device: Annotated[Device, typer.Option("--device", help="What the model is run on.")] = Device.auto,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Cores to use; all if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the vectors of many texts to a file, or to a folder of shards.

    With --output, the first line that cannot be encoded is an error and nothing is written. With --into, such lines go
    to quarantine.jsonl with the reason, and a run that was killed goes on when it is started again.

    \b
    Examples:
      diffembed encode texts.txt --output texts.npy
      diffembed encode documents.jsonl --output documents.parquet --dtype int8 --dims 128
      cat texts.txt | diffembed encode - --output texts.npy --dtype binary
      diffembed encode a.jsonl.gz b.jsonl.gz --into vectors/ --dtype int8 --windows
      diffembed encode wiki.parquet --text-column body --into vectors/ --format parquet
    """
    from diffembed import verbs

    if (output is None) == (into is None):
        raise typer.BadParameter("give either --output FILE or --into DIR")
    options = {
        "model": model,
        "dtype": dtype.value,
        "dims": dims,
        "truncate": truncate,
        "windows": windows,
        "stdin_format": stdin_format.value,
        "text_column": text_column,
        "id_column": id_column,
        "precision": precision.value,
        "device": device.value,
        "threads": threads,
    }
    if output is not None:
        if shards or shard_rows or strict:
            raise typer.BadParameter("--format, --shard-rows and --strict belong to --into DIR, not to --output FILE")
        verbs.encode(sources, output, options, as_json=as_json)
    elif into is not None:
        options |= {"format": shards.value} if shards else {}
        options |= {"shard_rows": shard_rows} if shard_rows else {}
        verbs.encode_folder(sources, into, options, strict=strict, as_json=as_json)


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that `diffembed encode --into` wrote.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="M", help="What encodes the sample; the folder's own model.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="INPUT", help="The input, if it is not where it was.")
    ] = None,
    sample: Annotated[int, typer.Option("--sample", min=0, metavar="N", help="Vectors to encode again.")] = 64,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the choice of the sample.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Count a folder of vectors, compare it with its checksums and its input, and encode a sample again.

    Leaves with exit code 1 if anything is wrong.

    \b
    Example:
      diffembed verify vectors/ --sample 256
    """
    from diffembed import verbs

    verbs.verify(folder, model=model, source=source or None, sample=sample, seed=seed, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command(short_help="Write the vectors of many texts.")(encode)
    app.command(short_help="Check a folder of vectors.")(verify)
