"""Options that several verbs of the command line share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer


class Dtype(StrEnum):
    """The forms a vector can be written in."""

    float32 = "float32"
    int8 = "int8"
    binary = "binary"


class Chunking(StrEnum):
    """How documents are cut into chunks; the strategies of ``Chunker``."""

    structure = "structure"
    fixed = "fixed"
    sentence = "sentence"
    markdown = "markdown"
    code = "code"
    adaptive = "adaptive"


class ExportPrecision(StrEnum):
    """Which ONNX graphs are written."""

    int8 = "int8"
    fp32 = "fp32"
    both = "both"

    @property
    def each(self) -> list[Literal["fp32", "int8"]]:
        """The graphs one by one."""
        return ["fp32", "int8"] if self is ExportPrecision.both else ["fp32"] if self == "fp32" else ["int8"]


class Split(StrEnum):
    """Which queries of a data set are used; train and dev are told apart by the hash of their ids."""

    all = "all"
    train = "train"
    dev = "dev"


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="M",
        help="'default' (the embedded model), a directory or a hub id: of diffembed, sentence-transformers, pplx-embed "
        "or DiffEmbed.",
    ),
]
ChunkingOption = Annotated[
    Chunking | None,
    typer.Option("--chunking", help="How documents are cut: by structure if left out; docs/chunking.md compares them."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DimsOption = Annotated[
    int | None,
    typer.Option("--dims", min=1, metavar="N", help="Width to cut the vectors to; one the model was trained for."),
]
