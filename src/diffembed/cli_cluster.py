"""The verbs of a cluster: their options and help; ``verbs_cluster.py`` does what they say."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from diffembed.cli_options import IndexArgument, JsonOption, MinScoreOption, OffsetOption, WhereOption
from diffembed.errors import InputError


class VectorForm(StrEnum):
    """What the vectors of a collection are kept in."""

    float16 = "float16"
    uint8 = "uint8"


class Quantization(StrEnum):
    """The codes that a collection is searched by."""

    scalar = "scalar"
    turbo4 = "turbo4"
    binary = "binary"
    none = "none"


UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="Of a Qdrant server, e.g. http://localhost:6333.", show_default=False)
]
CollectionOption = Annotated[str, typer.Option("--collection", "-c", metavar="NAME", help="Of the collection.")]
ShardKeyOption = Annotated[
    str | None, typer.Option("--shard-key", metavar="KEY", help="The named shard to write to or to search.")
]
TimeoutOption = Annotated[
    int, typer.Option("--timeout", min=1, metavar="SECONDS", help="What one request may take; it is tried six times.")
]
VectorsOption = Annotated[VectorForm | None, typer.Option("--vectors", help="What vectors are kept in: float16.")]
QuantizationOption = Annotated[
    Quantization | None, typer.Option("--quantization", help="The codes that are searched: scalar.")
]
ReplicasOption = Annotated[int | None, typer.Option("--replicas", min=1, metavar="N", help="Copies of every shard: 1.")]

cluster_app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@cluster_app.callback(invoke_without_command=True)
def cluster(context: typer.Context) -> None:
    """Carry an index to a Qdrant server and search it there; docs/cluster.md says what it takes.

    A key of the server is taken from the environment, QDRANT_API_KEY.

    \b
    Example:
      diffembed cluster push notes.index http://localhost:6333 --collection notes
    """
    if context.invoked_subcommand is None:
        from diffembed import console

        console.emit(context.get_help())


@cluster_app.command(short_help="Write an index into a collection.")
def push(
    folder: IndexArgument,
    url: UrlArgument,
    collection: CollectionOption,
    vectors: VectorsOption = None,
    quantization: QuantizationOption = None,
    oversampling: Annotated[
        float | None,
        typer.Option("--oversampling", metavar="X", help="Points rescored for each asked for: 2, binary codes 8."),
    ] = None,
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Keep the vectors in memory too, not the codes alone.")
    ] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="FIELD", help="A field to index (of the metadata, or kind); may be repeated."),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Index the words too.")] = False,
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, metavar="N", help="Parts of the collection: what the server takes.")
    ] = None,
    replicas: ReplicasOption = None,
    named_shards: Annotated[
        bool, typer.Option("--named-shards", help="Points go to the shard that --shard-key names.")
    ] = False,
    shard_key: ShardKeyOption = None,
    part: Annotated[
        str | None, typer.Option("--part", metavar="I/N", help="Write the I-th of N parts, beside other processes.")
    ] = None,
    timeout: TimeoutOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Write an index into a collection, with its vectors as they are; a collection that is not there is made.

    Run again, it skips what is there with the same content: so a run that was cut off goes on.

    \b
    Examples:
      diffembed cluster push notes.index http://localhost:6333 --collection notes
      diffembed cluster push big.index http://qdrant:6333 -c big --quantization binary --shards 12 --replicas 2
      diffembed cluster push big.index http://qdrant:6333 -c big --part 3/8
    """
    from diffembed import verbs_cluster

    form: dict[str, Any] = {
        "vectors": vectors and vectors.value,
        "quantization": quantization and quantization.value,
        "oversampling": oversampling,
        "on_disk": False if in_memory else None,
        "filters": tuple(filters) if filters else None,
        "hybrid": hybrid or None,
        "shards": shards,
        "replicas": replicas,
        "named_shards": named_shards or None,
    }
    verbs_cluster.push(
        folder,
        url,
        collection,
        form={name: value for name, value in form.items() if value is not None},
        shard_key=shard_key,
        part=_part(part),
        timeout=timeout,
        as_json=as_json,
    )


def _part(given: str | None) -> tuple[int, int]:
    if given is None:
        return 0, 1
    number, _, of = given.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise InputError(f"--part is {given!r}; give I/N, e.g. 3/8 for the third of eight parts")
    return int(number) - 1, int(of)


@cluster_app.command(short_help="Search a collection by meaning.")
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)],
    url: UrlArgument,
    collection: CollectionOption,
    top: Annotated[int, typer.Option("--top", "-k", min=1, metavar="K", help="How many chunks to print.")] = 10,
    offset: OffsetOption = 0,
    min_score: MinScoreOption = None,
    where: WhereOption = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Take the words of the query into account too.")] = False,
    group: Annotated[bool, typer.Option("--group", help="Only the best chunk of each document.")] = False,
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=0, metavar="N", help="Print N chunks before and after each, too.")
    ] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector.")] = False,
    shard_key: ShardKeyOption = None,
    timeout: TimeoutOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Search a collection by meaning, with the model that made its vectors.

    \b
    Example:
      diffembed cluster search "retry after a timeout" http://localhost:6333 --collection notes --where "kind = code"
    """
    from diffembed import verbs_cluster

    options: dict[str, Any] = {"top": top, "offset": offset, "min_score": min_score, "where": where}
    options |= {"hybrid": hybrid, "group": group, "neighbours": neighbours, "exact": exact}
    verbs_cluster.search(query, url, collection, options, shard_key=shard_key, timeout=timeout, as_json=as_json)


@cluster_app.command(short_help="Say what a collection holds.")
def stats(
    url: UrlArgument,
    collection: CollectionOption,
    shard_key: ShardKeyOption = None,
    timeout: TimeoutOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Say what a collection holds, and how far the server is with its graphs.

    \b
    Example:
      diffembed cluster stats http://localhost:6333 --collection notes
    """
    from diffembed import verbs_cluster

    verbs_cluster.stats(url, collection, shard_key=shard_key, timeout=timeout, as_json=as_json)


@cluster_app.command(short_help="Say what memory and disk a collection takes.")
def size(
    rows: Annotated[int, typer.Option("--rows", min=1, metavar="N", help="How many vectors.")],
    dims: Annotated[int, typer.Option("--dims", min=1, metavar="D", help="Their width.")],
    payload_bytes: Annotated[
        int, typer.Option("--payload-bytes", min=0, metavar="B", help="Text and metadata of a chunk, on the mean.")
    ] = 1200,
    replicas: ReplicasOption = None,
    memory_price: Annotated[
        float | None, typer.Option("--memory-price", min=0, metavar="P", help="Of a GB of memory for a month.")
    ] = None,
    disk_price: Annotated[
        float | None, typer.Option("--disk-price", min=0, metavar="P", help="Of a GB of disk for a month.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what memory and disk a collection takes in each form, and what that costs at your prices.

    \b
    Example:
      diffembed cluster size --rows 100000000 --dims 1024 --replicas 2 --memory-price 4 --disk-price 0.1
    """
    from diffembed import verbs_cluster

    if (memory_price is None) != (disk_price is None):
        raise InputError("a cost needs both prices; give --memory-price and --disk-price, or neither")
    prices = None if memory_price is None or disk_price is None else (memory_price, disk_price)
    verbs_cluster.size(rows, dims, payload_bytes=payload_bytes, replicas=replicas or 1, prices=prices, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Enter the verbs of this file."""
    app.add_typer(cluster_app, name="cluster", short_help="Carry an index to a Qdrant server and search it there.")
