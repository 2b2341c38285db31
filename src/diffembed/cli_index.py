"""Searching and indexes on the command line: options and help; ``verbs_index.py`` does what they say, and
``cli_records.py`` has the verbs of what an index holds.

``diffembed index PATH... --into DIR`` indexes files; ``diffembed index VERB DIR`` does something with an index that is
there. A first word that is a verb is taken as one unless ``--into`` is given.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffembed import cli_records
from diffembed.cli_options import (
    ChunkingOption,
    IndexArgument,
    JsonOption,
    MinScoreOption,
    ModelOption,
    OffsetOption,
    WhereOption,
)

_FILES = "PATH"

WatchOption = Annotated[bool, typer.Option("--watch", help="Go on, and look again when files have changed.")]
IntervalOption = Annotated[
    float, typer.Option("--every", metavar="SECONDS", help="With --watch: how long to wait between two looks.")
]


class FusionChoice(StrEnum):
    """How meaning and words are put together."""

    weighted = "weighted"
    rrf = "rrf"


class IndexGroup(TyperGroup):
    """``index``: a verb and an index folder, or else files to index."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Everything that does not begin with a verb goes to the command that indexes files."""
        into = any(arg == "--into" or arg.startswith("--into=") for arg in args)
        if args and (args[0] in ("--help", "-h") or (args[0] in self.commands and not into)):
            return super().parse_args(ctx, args)
        if args and not into and not args[0].startswith("-") and not Path(args[0]).exists():
            verbs = [name for name in self.commands if name != _FILES]
            if close := get_close_matches(args[0], verbs, 1):
                ctx.fail(f"there is no verb and no file called {args[0]!r}; did you mean {close[0]!r}?")
        return super().parse_args(ctx, [_FILES, *args])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Both forms."""
        return ["PATH... --into DIR [OPTIONS]", "| VERB DIR [ARGS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options of indexing files, then the verbs."""
        files = self.commands[_FILES]
        with files.make_context(_FILES, [], parent=ctx, resilient_parsing=True) as inner:
            files.format_options(inner, formatter)
        self.format_commands(ctx, formatter)


index_app = typer.Typer(cls=IndexGroup, rich_markup_mode=None, pretty_exceptions_enable=False)


def search(
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY", help="What to look for, in your own words; - for stdin, one a line.", show_default=False
        ),
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Files, folders, or an index folder; the current folder if none is given."),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, metavar="K", help="How many chunks to print.")] = 10,
    offset: OffsetOption = 0,
    min_score: MinScoreOption = None,
    where: WhereOption = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Take the words of the query into account too (BM25).")
    ] = False,
    fusion: Annotated[
        FusionChoice | None,
        typer.Option("--fusion", help="With --hybrid: how both count, by scores (weighted, the default) or by ranks."),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option("--weight", min=0.0, max=1.0, metavar="W", help="Of meaning; of words 1 - W. [0.5]"),
    ] = None,
    group: Annotated[bool, typer.Option("--group", help="Only the best chunk of each document.")] = False,
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=0, metavar="N", help="Print N chunks before and after each, too.")
    ] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, however many there are.")] = False,
    model: ModelOption = "default",
    chunking: ChunkingOption = None,
    watch: WatchOption = False,
    every: IntervalOption = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Search files by meaning.

    The first search of a PATH indexes it; later ones read only what changed since, told by content hash. The index
    lives in the cache folder ($XDG_CACHE_HOME/diffembed, else ~/.cache/diffembed), never beside your files. Of many
    queries (-) --json prints a line for each.

    \b
    Examples:
      diffembed search "how do I undo a commit"
      diffembed search "retry after a timeout" src/ docs/ --top 3 --where "kind = code"
      diffembed search "E1142 overflow" logs/ --hybrid --group --neighbours 1
      diffembed search "warranty period" contracts/ --json
      cat questions.txt | diffembed search - notes.index --json
    """
    from diffembed import verbs_index
    from diffembed.errors import InputError

    if (weight is not None or fusion is not None) and not hybrid:
        raise InputError("--weight and --fusion are of --hybrid; give it too")
    if weight is not None and fusion == FusionChoice.rrf:
        raise InputError("--weight is of --fusion weighted; ranks have none")
    options: dict[str, Any] = {"top": top, "where": where, "group": group, "exact": exact, "neighbours": neighbours}
    options |= {"offset": offset, "min_score": min_score}
    options["hybrid"] = fusion.value if fusion is not None else hybrid
    if weight is not None:
        options["weight"] = weight
    options |= {"model": model, "chunking": chunking.value if chunking else None}
    if query == "-":
        if watch:
            raise InputError("--watch asks one query again and again; give it in the place of -")
        verbs_index.search_many(paths or [Path(".")], options, as_json=as_json)
        return
    verbs_index.search(query, paths or [Path(".")], options, watch=every if watch else None, as_json=as_json)


@index_app.callback()
def index() -> None:
    """Index files into a folder of your choice; `diffembed search QUERY DIR` searches it. Or look after an index.

    Run again, it reads only the files whose content changed, and cuts them as before. A folder that is called like a
    verb is indexed where --into is given.

    \b
    Examples:
      diffembed index notes/ src/ --into notes.index
      diffembed index interviews/ --into interviews.index --chunking adaptive
      diffembed index notes/ --into notes.index --watch
      diffembed index verify notes.index
    """


@index_app.command(_FILES, hidden=True)
def index_files(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files and folders to index.", show_default=False)
    ],
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", help="The index folder to make or to bring up to date.")
    ],
    model: ModelOption = "default",
    chunking: ChunkingOption = None,
    watch: WatchOption = False,
    every: IntervalOption = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Index files into a folder of your choice.

    \b
    Example:
      diffembed index notes/ src/ --into notes.index
    """
    from diffembed import verbs_index

    verbs_index.index(
        paths,
        into,
        model=model,
        chunking=chunking.value if chunking else None,
        watch=every if watch else None,
        as_json=as_json,
    )


cli_records.add_verbs(index_app)


@index_app.command(short_help="Join segments, drop what is deleted, build coarse indexes.")
def compact(
    folder: IndexArgument,
    recall: Annotated[
        float | None,
        typer.Option(
            "--recall", metavar="SHARE", help="Of the exact answers to find: less is faster. 0.95, or as it was tuned."
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            help="Tune with these, 50 or more such as users ask: texts (.txt, one a line, .jsonl, .parquet) or vectors "
            "(.npy). Without, rows of the index ask.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Join segments, drop what is deleted, and build the coarse indexes that make searches of millions fast.

    \b
    Examples:
      diffembed index compact notes.index
      diffembed index compact vectors.index --recall 0.9
      diffembed index compact notes.index --questions asked-last-week.txt
    """
    from diffembed import verbs_index

    verbs_index.compact(folder, recall=recall, questions=questions, as_json=as_json)


@index_app.command(short_help="Look for damage.")
def verify(folder: IndexArgument, as_json: JsonOption = False) -> None:
    """Recount and compare everything, every byte of the vectors included; exit code 4 if something is damaged.

    \b
    Example:
      diffembed index verify notes.index
    """
    from diffembed import verbs_index

    verbs_index.verify(folder, as_json=as_json)


@index_app.command(short_help="Say how large an index is and what it holds.")
def stats(folder: IndexArgument, as_json: JsonOption = False) -> None:
    """Say how large an index is, what it was made with, and which fields filters can ask for.

    \b
    Example:
      diffembed index stats notes.index
    """
    from diffembed import verbs_index

    verbs_index.stats(folder, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Enter the verbs of this file."""
    app.command()(search)
    app.add_typer(index_app, name="index", short_help="Index files into a folder of your choice, or look after one.")
