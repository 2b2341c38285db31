"""Evaluations that need nothing to be fetched: options and help; ``verbs_generated.py`` does what they say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diffembed.cli_options import (
    DimsOption,
    JsonOption,
    QueryVectorsOption,
    ResultsOption,
    ScoredModelOption,
    Split,
    SplitOption,
    VectorsOption,
    vector_form,
)


class Reading(StrEnum):
    """How the chunks of a document are read."""

    together = "together"
    alone = "alone"
    prepended = "prepended"


LengthsOption = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        metavar="N,N,...",
        help="Nominal tokens of the documents, of 256, 512, 1024, ... 32768; all if left out.",
    ),
]
WindowsOption = Annotated[
    bool,
    typer.Option("--windows/--truncate", help="Read documents over the model's limit through windows, or cut them."),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Of the texts: another one asks other questions.")]
WriteOption = Annotated[
    Path | None,
    typer.Option("--write", metavar="DIR", help="Write the texts as folders in BEIR layout, and score nothing."),
]


def _lengths(given: str | None) -> list[int] | None:
    if given is None:
        return None
    words = [word.strip() for word in given.split(",")]
    if not all(word.isdecimal() for word in words):
        raise typer.BadParameter(f"--lengths {given} is no list of whole numbers, such as 256,512,1024")
    return [int(word) for word in words]


def passkey(
    model: ScoredModelOption = "default",
    lengths: LengthsOption = None,
    windows: WindowsOption = False,
    seed: SeedOption = 0,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    write: WriteOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Score a model on passkey: which of 100 long documents of empty sentences names this person's pass key?

    Shows the share of right first hits by length of the document and by depth of the statement, and the most that a
    model with this limit can reach.

    \b
    Examples:
      diffembed evaluate passkey
      diffembed evaluate passkey --model my-model --windows --lengths 4096,8192
      diffembed evaluate passkey --write passkey-sets
    """
    from diffembed import verbs_generated

    asked = {"lengths": _lengths(lengths), "seed": seed}
    form = vector_form(dtype, query_dtype, dims, None)
    verbs_generated.haystacks("passkey", model, form, asked, windows=windows, write=write, into=into, as_json=as_json)


def needle(
    model: ScoredModelOption = "default",
    lengths: LengthsOption = None,
    windows: WindowsOption = False,
    prose: Annotated[
        Path | None,
        typer.Option(
            "--prose",
            metavar="PATH",
            help="Long texts to hide facts in: .txt or .jsonl, or a folder; samples/books of a checkout if left out.",
        ),
    ] = None,
    seed: SeedOption = 0,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    write: WriteOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Score a model on needle: which of 100 long pieces of prose holds the fact that this question asks for?

    \b
    Examples:
      diffembed evaluate needle
      diffembed evaluate needle --prose my-books/ --lengths 1024,2048 --model bm25
    """
    from diffembed import verbs_generated

    asked = {"lengths": _lengths(lengths), "seed": seed, "prose": prose}
    form = vector_form(dtype, query_dtype, dims, None)
    verbs_generated.haystacks("needle", model, form, asked, windows=windows, write=write, into=into, as_json=as_json)


def contextual(
    model: ScoredModelOption = "default",
    readings: Annotated[
        list[Reading] | None,
        typer.Option(
            "--reading",
            help="Chunks together, alone, or each after its document's first; may be repeated. All that the model can.",
        ),
    ] = None,
    languages: Annotated[
        str | None, typer.Option("--languages", metavar="L,L,...", help="Of de, en, es, fr, zh; all if left out.")
    ] = None,
    documents: Annotated[int, typer.Option("--documents", metavar="N", help="Of each kind in each language.")] = 12,
    questions: Annotated[int, typer.Option("--questions", metavar="N", help="About each document, 1 to 5.")] = 3,
    seed: SeedOption = 0,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    write: WriteOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Score a model on documents whose chunks only make sense together: named once, then "she" or "the company".

    Shows nDCG@10 over all chunks, and how often the first hit is the gold chunk, of the gold document, or tells
    what was asked of any document.

    \b
    Examples:
      diffembed evaluate contextual
      diffembed evaluate contextual --reading together --languages de,zh --model my-model
      diffembed evaluate contextual --model bm25
    """
    from diffembed import verbs_generated

    asked = {
        "wanted": [word.strip() for word in languages.split(",")] if languages else [],
        "documents": documents,
        "questions": questions,
        "seed": seed,
    }
    form = vector_form(dtype, query_dtype, dims, None)
    ways = [reading.value for reading in readings or ()]
    verbs_generated.contextual(model, form, asked, readings=ways, write=write, into=into, as_json=as_json)


def scale(
    data: Annotated[
        list[Path],
        typer.Option("--data", metavar="DIR", help="Judged sets in BEIR layout, or a folder of such; may be repeated."),
    ],
    distractors: Annotated[
        list[Path],
        typer.Option(
            "--distractors",
            metavar="PATH",
            help="Passages beside them: .txt (one a line), .jsonl, .parquet or folders of these; or their vectors: a "
            "folder of encode --into, .npy, .parquet. May be repeated.",
        ),
    ],
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            metavar="DIR",
            help="Keeps vectors of distractor texts and the state of the search; a folder a model.",
        ),
    ] = None,
    model: ScoredModelOption = "default",
    split: SplitOption = Split.all,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Of the choice of distractors for the smaller sizes.")
    ] = 0,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Ask judged queries in a corpus that grows to millions: recall@10, @100 and @1000 at every power of ten.

    Distractors are encoded once and searched exactly; a run that was stopped goes on.

    \b
    Examples:
      diffembed evaluate scale --data sets/en-nq --distractors wiki.jsonl.gz --work scale-default
      diffembed evaluate scale --data sets --distractors vectors/ --model my-model --dtype binary
    """
    from diffembed import verbs_generated

    form = vector_form(dtype, query_dtype, dims, None)
    verbs_generated.scale(
        model, form, data, distractors, work=work, split=split.value, seed=seed, into=into, as_json=as_json
    )


def add_commands(app: typer.Typer) -> None:
    """Make them verbs of ``diffembed evaluate``."""
    app.command(short_help="Find a pass key in long documents.")(passkey)
    app.command(short_help="Find a fact in long prose.")(needle)
    app.command(short_help="Find chunks that need their document.")(contextual)
    app.command(short_help="Find known targets in a growing corpus.")(scale)
