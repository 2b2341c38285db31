"""One collection of a Qdrant server: made, opened, checked, read and written, every call with retries.

What the collection was made with stands in its own metadata, so that vectors of another model are refused by whoever
opens it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from diffembed.errors import ClusterError, IndexStoreError, InputError
from diffembed.index.filters import BUILT_IN
from diffembed.index.qdrant_calls import Caller, load_client
from diffembed.index.qdrant_forms import CollectionSettings
from diffembed.index.qdrant_points import fact_path, payload_size
from diffembed.index.schema import Settings

MARK = "diffembed"
FORMAT = 1
POINTS_AT_ONCE = 512
BYTES_AT_ONCE = 8_000_000  # a server refuses requests above 32 MB unless it is told otherwise
QUERIES_AT_ONCE = 32
HITS_AT_ONCE = 10_000  # of all queries of a request: with texts, some ten megabytes of answer
IDS_AT_ONCE = 1000
_VALUE_TEXT = 7  # bytes of a value in JSON, "-127.0" and a comma
SERVER = (1, 20)
"""The oldest server: 1.20 ranks words (hybrid), 1.19 has filters by prefix, 1.16 metadata of collections."""
_NOT_FOUND = 404


@dataclass(slots=True)
class Collection:
    """A collection that was opened.

    Attributes:
        client: ``qdrant_client.QdrantClient``.
        call: makes its calls.
        name: of the collection.
        settings: what its vectors were made with.
        form: how they are kept.
        shard_key: the named shard that is written to and read; ``None`` for all.
    """

    client: Any
    call: Caller
    name: str
    settings: Settings
    form: CollectionSettings
    shard_key: str | None = None

    @property
    def place(self) -> str:
        """Server and collection, for messages."""
        return f"{self.call.url}/collections/{self.name}"

    # Reading

    def query(self, requests: Sequence[Any]) -> list[list[Any]]:
        """The points of many searches."""
        found: list[list[Any]] = []
        step = max(1, min(QUERIES_AT_ONCE, HITS_AT_ONCE // max((request.limit for request in requests), default=1)))
        for start in range(0, len(requests), step):
            part = list(requests[start : start + step])
            answers = self.call("search", self.client.query_batch_points, self.name, part)
            found += [answer.points for answer in answers]
        return found

    def retrieve(self, ids: Sequence[Any], payload: bool | list[str], *, vectors: bool = False) -> dict[Any, Any]:
        """Those of these points that are there, by id."""
        found: dict[Any, Any] = {}
        for start in range(0, len(ids), IDS_AT_ONCE):
            part = list(ids[start : start + IDS_AT_ONCE])
            records = self.call(
                f"read {len(part)} points",
                self.client.retrieve,
                self.name,
                part,
                with_payload=payload,
                with_vectors=vectors,
                shard_key_selector=self.shard_key,
            )
            found.update((record.id, record) for record in records)
        return found

    def scroll(
        self,
        where: Any = None,
        *,
        payload: bool | list[str] = True,
        vectors: bool = False,
        start: Any = None,
        limit: int | None = None,
    ) -> Iterator[Any]:
        """All points by id, or so many from the id ``start`` on; ``where`` is a filter of Qdrant."""
        offset, left = start, limit
        while left is None or left > 0:
            records, offset = self.call(
                "read points",
                self.client.scroll,
                self.name,
                scroll_filter=where,
                limit=POINTS_AT_ONCE if left is None else min(left, POINTS_AT_ONCE),
                offset=offset,
                with_payload=payload,
                with_vectors=vectors,
                shard_key_selector=self.shard_key,
            )
            yield from records
            left = None if left is None else left - len(records)
            if offset is None:
                return

    def info(self) -> Any:
        """What the server says of it."""
        return self.call("look at the collection", self.client.get_collection, self.name)

    def count(self, where: Any = None) -> int:
        """How many points a filter of Qdrant lets through."""
        options = {"count_filter": where, "exact": True, "shard_key_selector": self.shard_key}
        return int(self.call("count points", self.client.count, self.name, **options).count)

    # Writing; every call returns when the change can be seen

    def upsert(self, points: Sequence[Any]) -> None:
        """Write points, in the place of those with the same ids."""
        what = f"write {len(points)} points"
        self.call(what, self.client.upsert, self.name, list(points), wait=True, shard_key_selector=self.shard_key)

    def delete(self, what: Any) -> None:
        """Delete points by ids (a list) or by a filter of Qdrant."""
        models = load_client().models
        selector = models.PointIdsList(points=what) if isinstance(what, list) else models.FilterSelector(filter=what)
        options = {"wait": True, "shard_key_selector": self.shard_key}
        self.call("delete points", self.client.delete, self.name, selector, **options)

    def set_payloads(self, payloads: Iterable[tuple[dict[str, Any], Any]]) -> None:
        """Give new values to some keys of the payload of the points that a filter lets through, many times."""
        models = load_client().models
        changes = [
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload=payload, filter=where, shard_key=self.shard_key)
            )
            for payload, where in payloads
        ]
        self.call("write metadata", self.client.batch_update_points, self.name, changes, wait=True)

    def check_shard(self) -> None:
        """Refuse to write to a collection with named shards without a name.

        Raises:
            InputError: no name was given.
        """
        if self.form.named_shards and self.shard_key is None:
            raise InputError(f"{self.place} has named shards; say which one to write to (shard_key)")

    def batches(self, sized: Iterable[tuple[Any, int]]) -> Iterator[list[Any]]:
        """Points with the size of their payload, in requests that a server takes."""
        batch: list[Any] = []
        size = 0
        for point, payload in sized:
            more = payload + _VALUE_TEXT * self.settings.dims
            if batch and (len(batch) == POINTS_AT_ONCE or size + more > BYTES_AT_ONCE):
                yield batch
                batch, size = [], 0
            batch.append(point)
            size += more
        if batch:
            yield batch


def point_of(id_: Any, vector_D: Any, payload: dict[str, Any]) -> tuple[Any, int]:
    """A point and the bytes of its payload."""
    models = load_client().models
    return models.PointStruct(id=id_, vector=vector_D.tolist(), payload=payload), payload_size(payload)


def connect(
    url: str, name: str, *, api_key: str | None, timeout: int, attempts: int, sleep: Callable[[float], None] | None
) -> tuple[Any, Caller]:
    """A client of the server that has, or is to have, a collection, and what makes its calls.

    Raises:
        InputError: an address or a name that is none.
        MissingExtraError: qdrant-client is not installed.
    """
    library = load_client()
    if not re.match(r"https?://[^/]", url):
        raise InputError(f"{url!r} is no address of a Qdrant server; give one like http://localhost:6333")
    if "@" in url or "?" in url:  # it may be a secret, and would stand in every message
        raise InputError("the address of the server has a user or a query in it; give the key as QDRANT_API_KEY")
    if name in ("", ".", ".."):
        raise InputError(f"{name!r} is no name of a collection; give one like notes")
    if timeout < 1 or attempts < 1:
        raise InputError(f"timeout is {timeout} s and attempts {attempts}; give at least 1 of each")
    caller = Caller(url.rstrip("/"), attempts)
    if sleep is not None:
        caller.sleep = sleep
    key = api_key if api_key is not None else os.environ.get("QDRANT_API_KEY") or None
    try:
        # Versions are compared below, where it matters: the client would do it in a thread that only warns.
        client = library.QdrantClient(url=caller.url, api_key=key, timeout=timeout, check_compatibility=False)
    except ValueError as error:
        raise InputError(f"{url!r} is no address of a Qdrant server ({error})") from None
    return client, caller


def make_collection(
    client: Any, call: Caller, name: str, settings: Settings, form: CollectionSettings, shard_key: str | None
) -> Collection:
    """Make an empty collection, whose name is free.

    Raises:
        InputError: a shard key without named shards.
        ClusterError: the server is too old, or cannot do what is asked.
    """
    collection = Collection(client, call, name, settings, form, shard_key)
    _check_key(collection)
    require_version(client, call)
    models = load_client().models
    told = {"format": FORMAT, "settings": asdict(settings), "form": asdict(form) | {"filters": list(form.filters)}}
    options: dict[str, Any] = {
        "vectors_config": models.VectorParams(
            size=settings.dims,
            distance=models.Distance.EUCLID if form.vectors == "uint8" else models.Distance.COSINE,
            datatype=models.Datatype(form.vectors),
            on_disk=form.on_disk,
        ),
        "quantization_config": _quantization(form, models),
        "hnsw_config": models.HnswConfigDiff(m=form.links, ef_construct=form.build_width),
        "on_disk_payload": True,
        "shard_number": form.shards,
        "sharding_method": models.ShardingMethod.CUSTOM if form.named_shards else None,
        "replication_factor": form.replicas,
        # A majority has to have a write before it counts as done.
        "write_consistency_factor": form.replicas // 2 + 1,
        "metadata": {MARK: told},
    }
    try:
        call("make the collection", client.create_collection, name, **options)
    except ClusterError as error:
        # A first attempt whose answer was lost may have made it, or another process that copies a part of the index.
        if error.status != 409 or _mark_of(client, call, name) != told:
            raise
    complete(collection)
    return collection


def complete(collection: Collection) -> None:
    """Make what belongs to a collection and is not there: its indexes, and the named shard that is written to."""
    _make_indexes(collection)
    add_shard(collection)


def _quantization(form: CollectionSettings, models: Any) -> Any:
    if form.quantization == "scalar":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.999, always_ram=True)
        )
    if form.quantization == "turbo4":
        bits = models.TurboQuantBitSize.BITS4
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, always_ram=True))
    if form.quantization == "binary":
        encoding = models.BinaryQuantizationQueryEncoding.SCALAR8BITS
        return models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(always_ram=True, query_encoding=encoding)
        )
    return None


def _make_indexes(collection: Collection) -> None:
    """What filters and deletions look at. On disk: a hundred million keys would fill the memory that codes need."""
    if collection.settings.vectors_only:
        return
    models = load_client().models
    keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, prefix=True, on_disk=True)
    schemas: dict[str, Any] = {"key": keyword, "chunk": models.PayloadSchemaType.INTEGER}
    for field in collection.form.filters:
        if field in BUILT_IN:  # key and path have one
            schemas |= {"kind": keyword} if field == "kind" else {}
            continue
        name = field.removeprefix("metadata.")
        schemas[fact_path("s", name)] = keyword
        schemas[fact_path("n", name)] = models.PayloadSchemaType.FLOAT
        schemas[fact_path("b", name)] = models.PayloadSchemaType.INTEGER
    if collection.form.hybrid:
        schemas["text"] = models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.MULTILINGUAL,
            lowercase=True,
            ascii_folding=True,
            scoring=True,
            on_disk=True,
        )
    for field, schema in schemas.items():
        call, client = collection.call, collection.client
        call(f"index {field}", client.create_payload_index, collection.name, field, schema, wait=True)


def add_shard(collection: Collection) -> None:
    """Make the named shard that is to be written to, if it is not there."""
    key = collection.shard_key
    _check_key(collection)
    if key is None:
        return
    try:
        collection.call(
            f"make the shard {key!r}",
            collection.client.create_shard_key,
            collection.name,
            key,
            shards_number=collection.form.shards,
            replication_factor=collection.form.replicas,
        )
    except ClusterError as error:
        if "already exist" not in str(error):
            raise


def _check_key(collection: Collection) -> None:
    if collection.shard_key is not None and not collection.form.named_shards:
        raise InputError(f"{collection.place} has no named shards; leave shard_key out")


def open_collection(client: Any, call: Caller, name: str, shard_key: str | None) -> Collection:
    """A collection with what it was made with.

    Raises:
        IndexStoreError: it is not there, not ours, or was changed since.
    """
    mark = _mark_of(client, call, name)
    where = f"{call.url}/collections/{name}"
    if mark is None:
        raise IndexStoreError(f"{where} was not made by diffembed: nobody knows which model its vectors are of")
    if mark.get("format") != FORMAT:
        raise IndexStoreError(f"{where} has format {mark.get('format')}, this version reads {FORMAT}; import it again")
    try:
        settings = Settings(**mark["settings"])
        known = {field.name for field in fields(CollectionSettings)}
        written: dict[str, Any] = {name: value for name, value in mark["form"].items() if name in known}
        form = CollectionSettings(**written | {"filters": tuple(written.get("filters", ()))})
    except (KeyError, TypeError, InputError) as error:
        raise IndexStoreError(f"{where} has unreadable metadata ({error}); import it again") from None
    vectors = call("look at the collection", client.get_collection, name).config.params.vectors
    size, kind = getattr(vectors, "size", None), getattr(getattr(vectors, "datatype", None), "value", "float32")
    if (size, kind) != (settings.dims, form.vectors):
        raise IndexStoreError(
            f"{where} holds {kind} vectors of {size} dims, its metadata says {form.vectors} of {settings.dims}; "
            "import it again into a new collection"
        )
    collection = Collection(client, call, name, settings, form, shard_key)
    _check_key(collection)
    return collection


def _mark_of(client: Any, call: Caller, name: str) -> dict[str, Any] | None:
    """What diffembed wrote into the metadata of a collection; ``None`` if it did not."""
    try:
        info = call("look at the collection", client.get_collection, name)
    except ClusterError as error:
        if error.status == _NOT_FOUND:
            raise IndexStoreError(f"{call.url} has no collection {name!r}; make it, or check its name") from None
        raise
    found = (info.config.metadata or {}).get(MARK)
    return found if isinstance(found, dict) else None


def require_version(client: Any, call: Caller) -> None:
    """Raise ``ClusterError`` for a server that is too old."""
    version = str(call("ask for the version", client.info).version)
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < SERVER:
        raise ClusterError(
            f"{call.url} runs Qdrant {version}; it has to be {SERVER[0]}.{SERVER[1]} or newer: update it"
        )
