"""Options that several verbs of the command line share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Dtype(StrEnum):
    """The forms a vector can be written in."""

    float32 = "float32"
    int8 = "int8"
    binary = "binary"


class Split(StrEnum):
    """Which queries of a data set are used; train and dev are told apart by the hash of their ids."""

    all = "all"
    train = "train"
    dev = "dev"


ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="M", help="'default' (the embedded model), a model directory or a hub id."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DimsOption = Annotated[
    int | None,
    typer.Option("--dims", min=1, metavar="N", help="Width to cut the vectors to; one the model was trained for."),
]
