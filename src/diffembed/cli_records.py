"""What an index holds, on the command line: options and help; ``verbs_records.py`` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffembed.cli_options import IndexArgument, JsonLinesOption, JsonOption, WhereOption

IdsArgument = Annotated[
    list[str], typer.Argument(metavar="ID", help="Ids of records, or paths of files.", show_default=False)
]
VectorsOption = Annotated[bool, typer.Option("--vectors", help="With --json: the int8 vectors of the chunks, too.")]


def add(
    folder: IndexArgument,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help=".jsonl, also .gz and .zst; - for stdin.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="M", help="Of a new index; of one that is there, its own.")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Refuse ids that the index has, instead of replacing them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Store records: an object a line with `id`, `text` or `chunks`; every other key becomes metadata for --where.

    Records take the place of those with the same ids. An index that is not there is made, with --model.

    \b
    Examples:
      diffembed index add tickets.index tickets.jsonl
      cat tickets.jsonl | diffembed index add tickets.index -
    """
    from diffembed import verbs_records

    verbs_records.add(folder, files, model=model, new=new, as_json=as_json)


def import_(
    folder: IndexArgument,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Parquet files.", show_default=False)],
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            metavar="F",
            help="Of the model that made the vectors, or 'unknown'; not needed for files that `index export` wrote.",
        ),
    ] = None,
    dims: Annotated[
        int | None, typer.Option("--dims", min=1, metavar="N", help="Of a new index whose model is not at hand.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="M", help="Of a new index: the model that made the vectors.")
    ] = None,
    vectors_only: Annotated[
        bool, typer.Option("--vectors-only", help="A new index without texts: rows under int64 ids.")
    ] = False,
    id_column: Annotated[str, typer.Option("--id-column", metavar="NAME", help="Column of the ids.")] = "id",
    vector_column: Annotated[
        str, typer.Option("--vector-column", metavar="NAME", help="Column of the vectors.")
    ] = "vector",
    text_column: Annotated[str, typer.Option("--text-column", metavar="NAME", help="Column of the texts.")] = "text",
    as_json: JsonOption = False,
) -> None:
    """Store the rows of Parquet files: ids, vectors (int8 or floating point), texts, and further columns as metadata.

    Rows take the place of those with the same ids. Types, widths, values and ids are checked.

    \b
    Examples:
      diffembed index import copy.index backup.parquet --model default
      diffembed index import big.index part-*.parquet --dims 384 --vectors-only --fingerprint unknown
    """
    from diffembed import verbs_records

    create: dict[str, Any] | None = None
    if dims is not None or model is not None or vectors_only:
        create = {"dims": dims, "model": model, "vectors_only": vectors_only}
    columns = {"id_column": id_column, "vector_column": vector_column, "text_column": text_column}
    verbs_records.import_(folder, files, {"fingerprint": fingerprint, **columns}, create=create, as_json=as_json)


def export(
    folder: IndexArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help=".parquet, or .npy with the ids in a file of their own beside it."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Write the vectors of an index with their ids, texts and metadata, as they are now.

    \b
    Examples:
      diffembed index export notes.index --output notes.parquet
      diffembed index export notes.index --output notes.npy
    """
    from diffembed import verbs_records

    verbs_records.export(folder, output, as_json=as_json)


def get(
    folder: IndexArgument, ids: IdsArgument, vectors: VectorsOption = False, as_json: JsonLinesOption = False
) -> None:
    """Show records (by their ids) and files (by path, absolute or from here) as the index holds them.

    With --json as records that `index add` takes. An id that is not there is an error, after the others are shown.

    \b
    Examples:
      diffembed index get tickets.index 4711
      diffembed index get notes.index notes/today.md --json
    """
    from diffembed import verbs_records

    verbs_records.get(folder, ids, vectors=vectors, as_json=as_json)


def list_(
    folder: IndexArgument,
    where: WhereOption = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Go on after this one.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Not more than so many.", show_default=False)
    ] = None,
    vectors: VectorsOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """List documents by their ids: id, number of chunks, metadata. With --json as records that `index add` takes.

    \b
    Examples:
      diffembed index list tickets.index --where "year < 2020"
      diffembed index list tickets.index --limit 100 --after 4711
      diffembed index list tickets.index --json --vectors
    """
    from diffembed import verbs_records

    options = {"after": after, "limit": limit, "vectors": vectors}
    verbs_records.list_(folder, where, options, as_json=as_json)


def count(folder: IndexArgument, where: WhereOption = None, as_json: JsonOption = False) -> None:
    """Count documents (of an index of vectors only, vectors).

    \b
    Example:
      diffembed index count tickets.index --where "team = hardware and not closed = true"
    """
    from diffembed import verbs_records

    verbs_records.count(folder, where, as_json=as_json)


def delete(
    folder: IndexArgument,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of records, or paths of files.", show_default=False)
    ] = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take records (by their ids), files (by path, absolute or from here) or vectors (by number) away.

    Or, with --where, all documents that pass. `index count` says beforehand how many they are.

    \b
    Examples:
      diffembed index delete tickets.index 4711 4712
      diffembed index delete notes.index notes/old.md
      diffembed index delete tickets.index --where "year < 2020"
    """
    from diffembed import verbs_records

    verbs_records.delete(folder, ids or None, where, as_json=as_json)


def add_verbs(app: typer.Typer) -> None:
    """Enter the verbs of this file."""
    app.command(short_help="Store records from JSON lines.")(add)
    app.command("import", short_help="Store vectors made elsewhere, from Parquet.")(import_)
    app.command(short_help="Write vectors, ids, texts and metadata to a file.")(export)
    app.command(short_help="Show documents by their ids.")(get)
    app.command("list", short_help="List documents, all or those that pass a filter.")(list_)
    app.command(short_help="Count documents, all or those that pass a filter.")(count)
    app.command(short_help="Take records, files or vectors away.")(delete)
