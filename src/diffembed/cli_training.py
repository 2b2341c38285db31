"""The verbs around training: their options and help. ``cli.py`` has the others, ``verbs.py`` does what they say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diffembed.cli_options import JsonOption, Split

ResumeOption = Annotated[
    bool,
    typer.Option("--resume/--no-resume", help="Go on with an unfinished run in the output folder, or start it again."),
]

DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the recipe and say what it would take; reads no data and no weights."),
]


def pretrain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (TOML).", show_default=False)],
    resume: ResumeOption = True,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe's tokenizer, causal and diffusion stages.

    \b
    Examples:
      diffembed pretrain runs/cpu-tiny.toml
      diffembed pretrain runs/pplx-embed-0.6b.toml --dry-run
    """
    from diffembed import verbs

    if dry_run:
        verbs.dry_run(recipe, only_pretraining=True, as_json=as_json)
    else:
        verbs.train(recipe, only_pretraining=True, resume=resume, as_json=as_json)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (TOML).", show_default=False)],
    resume: ResumeOption = True,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run every stage of a recipe, from the tokenizer to the exported model.

    \b
    Examples:
      diffembed train runs/cpu-tiny.toml
      diffembed train runs/diffembed-dream.toml --dry-run --json
    """
    from diffembed import verbs

    if dry_run:
        verbs.dry_run(recipe, only_pretraining=False, as_json=as_json)
    else:
        verbs.train(recipe, only_pretraining=False, resume=resume, as_json=as_json)


def infill(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="A text with blanks: two underscores or more, or [mask].", show_default=False
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="M",
            help="The model directory of a diffusion stage, or a released diffusion checkpoint (directory or hub id); "
            "by default the newest below ./out or in the cache folder.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            "--tokens",
            "-n",
            min=1,
            metavar="N",
            help="How many tokens a blank is; given several times, one for each blank. [default: 1]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Forward passes; one a token by default.", show_default=False),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, metavar="T", help="0: the most probable token; above: draw.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the draws.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Fill in the blanks of a text with a diffusion language model: shows what pretraining has taught it.

    The surest token is written first, then the model reads again. The filled text goes to stdout.

    \b
    Examples:
      diffembed infill "The capital of France is ____."
      diffembed infill "a [mask] is a kind of ____" --model out/cpu-tiny/diffusion/model --tokens 1 --tokens 3
      diffembed infill "Once upon a ____" --temperature 0.8 --seed 3 --json
    """
    from diffembed import verbs

    verbs.infill(
        text,
        model=model,
        tokens=tokens or [1],
        steps=steps,
        temperature=temperature,
        seed=seed,
        as_json=as_json,
    )


class Sampling(StrEnum):
    """Which of the candidates that pass become negatives."""

    top = "top"
    random = "random"


def mine(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Folder in BEIR layout, or pairs in .jsonl[.gz|.zst].", show_default=False),
    ],
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="The .jsonl file of triplets to write.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="M",
            help="Who ranks: 'default', a model directory, a hub id or st:NAME_OR_PATH; with --index the one it names.",
        ),
    ] = "default",
    split: Annotated[Split, typer.Option("--split", help="Which queries to use.")] = Split.train,
    negatives: Annotated[int, typer.Option("--negatives", "-n", metavar="N", help="How many a query gets.")] = 4,
    first: Annotated[int, typer.Option("--first", metavar="RANK", help="Pass over documents nearer than this.")] = 1,
    last: Annotated[int, typer.Option("--last", metavar="RANK", help="Look no deeper than this.")] = 100,
    margin: Annotated[
        float, typer.Option("--margin", metavar="X", help="How far below the positive's cosine a negative must be.")
    ] = 0.0,
    relative_margin: Annotated[
        float, typer.Option("--relative-margin", metavar="X", help="The same, as a share of the positive's cosine.")
    ] = 0.05,
    sampling: Annotated[
        Sampling, typer.Option("--sampling", help="Take the hardest that pass, or draw from them.")
    ] = Sampling.top,
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="M", help="Another model; drop what it puts above the positive.")
    ] = "",
    reranker: Annotated[
        str, typer.Option("--reranker", metavar="M", help="A CrossEncoder; drop what it puts above the positive.")
    ] = "",
    index: Annotated[
        Path | None, typer.Option("--index", metavar="DIR", help="Search the chunks of an index instead.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", metavar="FILE", help='Search these ("_id", "text") instead of the pairs\' documents.'),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the draws.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Find hard negatives: documents that a model puts near a query although they do not answer it.

    Documents that answer the query, and what is nearer to it than its own document allows, are left out. FILE gets a
    triplet a line, FILE.report.json what was dropped and why.

    \b
    Examples:
      diffembed mine my-data --into triplets.jsonl
      diffembed mine pairs.jsonl --into triplets.jsonl --first 10 --sampling random --seed 3
      diffembed mine pairs.jsonl --into triplets.jsonl --corpus corpus.jsonl --teacher my-model --json
    """
    from diffembed import verbs

    verbs.mine(
        data,
        into,
        model=model,
        index=index,
        corpus=corpus,
        split=split.value,
        settings={
            "negatives": negatives,
            "first": first,
            "last": last,
            "margin": margin,
            "relative_margin": relative_margin,
            "sampling": sampling.value,
            "teacher": teacher,
            "reranker": reranker,
            "seed": seed,
        },
        as_json=as_json,
    )


def adapt(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files and folders of your own.", show_default=False)
    ],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="The model directory to write.")],
    model: Annotated[
        str, typer.Option("--from", "-m", metavar="M", help="The model to begin from: 'default' or a model directory.")
    ] = "default",
    general: Annotated[
        list[Path] | None,
        typer.Option(
            "--general", metavar="DATA", help="Read along against forgetting: BEIR folder, or .jsonl of pairs."
        ),
    ] = None,
    general_eval: Annotated[
        list[Path] | None,
        typer.Option(
            "--general-eval", metavar="DIR", help="BEIR folder to measure forgetting on. [default: --general's]"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="N", help="Training steps. [default: by the folder's size]")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="X", help="About how long to train, in place of --steps.")
    ] = None,
    diffusion: Annotated[
        bool | None,
        typer.Option(
            "--diffusion/--no-diffusion",
            help="Learn the text by masked diffusion first. [default: if the model can still fill in blanks]",
            show_default=False,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option("--work", metavar="DIR", help="Where data and recipe go. [default: DIR of --into with -work]"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the draws.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Adapt a model to your own files, without labels: it learns from their headings, questions and comments.

    Prints nDCG@10 and recall@10 before and after, on documents that were held out and on the general sets.

    \b
    Examples:
      diffembed adapt notes/ --into my-model
      diffembed adapt manual/ src/ --into my-model --general my-data --minutes 10
      diffembed search "how do I undo a commit" notes/ --model my-model
    """
    from diffembed import verbs

    verbs.adapt(
        paths,
        model,
        into,
        settings={"steps": steps, "minutes": minutes, "diffusion": diffusion, "seed": seed},
        general=general or [],
        general_eval=general_eval or [],
        work=work,
        as_json=as_json,
    )


def add_commands(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command(short_help="Run a recipe's pretraining stages.")(pretrain)
    app.command(short_help="Run every stage of a recipe.")(train)
    app.command(short_help="Adapt a model to your own files.")(adapt)
    app.command(short_help="Find hard negatives for pairs.")(mine)
    app.command(short_help="Fill in the blanks of a text.")(infill)
