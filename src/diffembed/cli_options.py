"""Options that several verbs of the command line share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

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
ScoredModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="M", help="'default', a model directory, a hub id, st:NAME_OR_PATH or bm25."),
]
ResultsOption = Annotated[
    Path,
    typer.Option("--into", metavar="DIR", help="The folder of result files; what it holds is not measured again."),
]
VectorsOption = Annotated[Dtype | None, typer.Option("--dtype", help="The form of the vectors: int8, float32 for st:.")]
QueryVectorsOption = Annotated[
    Dtype | None, typer.Option("--query-dtype", help="Of the queries alone: int8 or float32 beside --dtype binary.")
]
SplitOption = Annotated[Split, typer.Option("--split", help="Which queries to use.")]
TogetherOption = Annotated[
    bool | None,
    typer.Option("--together/--alone", help="Read the chunks of a document together or alone, not as trained."),
]
ChunkingOption = Annotated[
    Chunking | None,
    typer.Option("--chunking", help="How documents are cut: by structure if left out; docs/chunking.md compares them."),
]
IndexArgument = Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.", show_default=False)]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="FILTER",
        help="Only documents that pass, e.g. 'kind = code and path prefix src/'; docs/index.md has the language.",
    ),
]
OffsetOption = Annotated[int, typer.Option("--offset", min=0, metavar="N", help="Leave out the N best: the next page.")]
MinScoreOption = Annotated[
    float | None, typer.Option("--min-score", metavar="S", help="Leave out what scores less.", show_default=False)
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print JSON lines on stdout, one for each document.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DimsOption = Annotated[
    int | None,
    typer.Option("--dims", min=1, metavar="N", help="Width to cut the vectors to; one the model was trained for."),
]


def vector_form(
    dtype: Dtype | None, query_dtype: Dtype | None, dims: int | None, together: bool | None
) -> dict[str, Any]:
    """The options on vectors, as arguments of ``load_ranker``."""
    values = {"dtype": dtype.value if dtype else None, "query_dtype": query_dtype.value if query_dtype else None}
    return {**values, "dims": dims, "contextual": together}
