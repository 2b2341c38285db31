"""Published sets and question answering on the command line: options and help; ``verbs_rag.py`` does what they say."""

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
    TogetherOption,
    VectorsOption,
    vector_form,
)

CopiesOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Where copies of the data lie, as the hub has them; else the hub."),
]


class ToolCorpus(StrEnum):
    """Which tools are searched."""

    all = "all"
    category = "category"


def conteb(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="SET", help="Sets of ConTEB; all eight if none is given.")
    ] = None,
    model: ScoredModelOption = "default",
    data: CopiesOption = None,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    together: TogetherOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """ConTEB: find chunks that only make sense within their documents. nDCG@10 over all chunks of a set.

    Sets: mldr, squad, narrative-qa (in-domain); covid-qa, esg-reports, football, geography, insurance (out-of-domain).
    A copy of one lies in DIR/SET.

    \b
    Examples:
      diffembed evaluate conteb --model default
      diffembed evaluate conteb geography insurance --data conteb-data --alone
    """
    from diffembed import verbs_rag

    form = vector_form(dtype, query_dtype, dims, together)
    verbs_rag.conteb(names or [], model=model, form=form, data=data, into=into, as_json=as_json)


def toolret(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TASK", help="Tasks of ToolRet; all 35 if none is given.")
    ] = None,
    model: ScoredModelOption = "default",
    data: CopiesOption = None,
    instruction: Annotated[
        bool | None,
        typer.Option("--instruction/--no-instruction", help="Only with or only without the instruction; else both."),
    ] = None,
    corpus: Annotated[
        ToolCorpus, typer.Option("--corpus", help="Search the tools of all categories, or those of the task's own.")
    ] = ToolCorpus.all,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """ToolRet: find the tools that a task needs. nDCG, precision, recall and completeness at 5, 10 and 20.

    Copies of the data lie in DIR/ToolRet-Queries and DIR/ToolRet-Tools.

    \b
    Examples:
      diffembed evaluate toolret --model default
      diffembed evaluate toolret apibank gta --data toolret-data --instruction
    """
    from diffembed import verbs_rag

    form = vector_form(dtype, query_dtype, dims, None)
    settings = [False, True] if instruction is None else [instruction]
    verbs_rag.toolret(
        names or [],
        model=model,
        form=form,
        data=data,
        settings=settings,
        corpus=corpus.value,
        into=into,
        as_json=as_json,
    )


def rag(
    questions: Annotated[
        Path,
        typer.Option("--questions", metavar="FILE", help="Questions with answers: JSON lines or Parquet; docs/rag.md."),
    ],
    passages: Annotated[
        Path, typer.Option("--passages", metavar="DIR", help="Folder with corpus.jsonl[.gz], or an index folder.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="M",
            help="'default', a directory, a hub id, st:NAME or bm25; an index has its own.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="Who answers: an OpenAI-compatible server, up to /v1."),
    ] = None,
    llm: Annotated[
        str | None, typer.Option("--llm", metavar="NAME", help="The model that answers, as the server calls it.")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option("--key-env", metavar="VAR", help="Environment variable with the server's key.")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, metavar="K", help="Passages shown to who answers.")] = 5,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, metavar="N", help="Of an answer.")] = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, metavar="T", help="0 takes the likeliest.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Sent along; not every server heeds it.")] = 0,
    extra: Annotated[
        str | None,
        typer.Option("--extra", metavar="JSON", help="Further keys of each request, as the server knows."),
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option("--prompt", metavar="FILE", help="TOML with 'system' and 'user' ({passages}, {question})."),
    ] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, metavar="N", help="Requests under way together.")] = 8,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Of one request.")] = 120.0,
    attempts: Annotated[int, typer.Option("--attempts", min=1, metavar="N", help="For one answer.")] = 6,
    dtype: VectorsOption = None,
    query_dtype: QueryVectorsOption = None,
    dims: DimsOption = None,
    together: TogetherOption = None,
    into: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Question answering over retrieved passages: BERGEN's match, exact match, F1, recall of answer and evidence.

    Without --server only the recalls are measured. Answers are kept as they come: a run that was stopped goes on.

    \b
    Examples:
      diffembed evaluate rag --questions nq-dev-kilt.jsonl --passages wiki --server http://localhost:8000/v1 --llm qwen
      diffembed evaluate rag --questions qa.jsonl --passages my.index
    """
    from diffembed import verbs_rag
    from diffembed.synthesis.client import KEY_VARIABLE

    reader = {
        "server": server,
        "llm": llm,
        "key_variable": key_variable or KEY_VARIABLE,
        "prompt": prompt,
        "sampling": {"temperature": temperature, "seed": seed, "max_tokens": max_tokens, "extra": extra},
        "client": {"timeout": timeout, "attempts": attempts},
        "at_once": at_once,
    }
    form = vector_form(dtype, query_dtype, dims, together)
    verbs_rag.rag(questions, passages, model=model, form=form, reader=reader, top=top, into=into, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Enter the verbs of this file."""
    app.command(short_help="ConTEB: chunks in the context of their documents.")(conteb)
    app.command(short_help="ToolRet: tools for tasks.")(toolret)
    app.command(short_help="Question answering over retrieved passages.")(rag)
