"""A Qdrant server for tests: the REST routes that ``QdrantIndex`` calls, answered by Qdrant's own engine.

No server binary comes as a Python package, the engine does: ``qdrant-edge-py`` is the Rust code of a Qdrant shard
(storage, quantization, HNSW, filters, BM25, fusion) without the network in front of it. This file is that network, so
what is tested is qdrant-client, its requests and its error handling against the real engine. It is not a cluster: one
shard for each shard key, no replicas. It can be told to fail.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from tests.index.qdrant_requests import (
    Json,
    filter_of,
    point_json,
    points_of,
    prefetch,
    quantization,
    query_of,
    schema,
    search_params,
)

VERSION = "1.20.0"

_DISTANCE = {d: getattr(edge.Distance, d) for d in ("Cosine", "Euclid", "Dot", "Manhattan")}
_DATATYPE = {d: getattr(edge.VectorStorageDatatype, d.capitalize()) for d in ("float32", "float16", "uint8")}


@dataclass
class Failure:
    """What the server answers instead: a status, a dropped connection (``status=0``) or a late answer."""

    path: str
    times: int
    status: int = 503
    body: str = '{"status": {"error": "made to fail"}}'
    headers: dict[str, str] = field(default_factory=dict)
    applied: bool = False  # whether the operation is carried out all the same
    only_if: Callable[[Json], bool] = lambda body: True


class Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Collection:
    """A collection: its settings and one engine shard for each shard key."""

    def __init__(self, folder: Path, body: Json) -> None:
        self.folder, self.body = folder, body
        self.shards: dict[str | None, Any] = {}
        self.indexes: dict[str, Any] = {}
        if body.get("sharding_method") != "custom":
            self.add_shard(None)

    def add_shard(self, key: str | None) -> None:
        vectors = self.body["vectors"]
        hnsw = self.body["hnsw_config"]
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=vectors["size"],
                distance=_DISTANCE[vectors["distance"]],
                datatype=_DATATYPE[vectors.get("datatype") or "float32"],
                on_disk=vectors.get("on_disk"),
                quantization_config=quantization(self.body.get("quantization_config")),
            ),
            on_disk_payload=self.body.get("on_disk_payload"),
            max_search_threads=1,
            # Thresholds so low that a few hundred vectors get a graph and codes, as millions would.
            hnsw_config=edge.HnswIndexConfig(
                m=hnsw["m"], ef_construct=hnsw["ef_construct"], full_scan_threshold=10, max_indexing_threads=1
            ),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=10),
        )
        shard = edge.EdgeShard.create(str(self.folder / f"shard-{key}"), config)
        for name, index in self.indexes.items():
            shard.update(edge.UpdateOperation.create_field_index(name, index))
        self.shards[key] = shard

    def chosen(self, body: Json, *, write: bool = False) -> list[Any]:
        key = body.get("shard_key")
        if key is None:
            if write and None not in self.shards:
                raise Refused(400, "Bad request: Shard key not specified")
            return list(self.shards.values())
        keys = key if isinstance(key, list) else [key]
        if missing := [k for k in keys if k not in self.shards]:
            raise Refused(404, f"Not found: Shard key {missing[0]} not found")
        return [self.shards[k] for k in keys]

    def info(self) -> Json:
        infos = [shard.info() for shard in self.shards.values()]
        params = {k: self.body.get(k) for k in ("vectors", "shard_number", "sharding_method", "replication_factor")}
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": sum(i.points_count for i in infos),
            "indexed_vectors_count": sum(i.indexed_vectors_count for i in infos),
            "segments_count": sum(i.segments_count for i in infos),
            "payload_schema": {},
            "config": {
                "params": {k: v for k, v in params.items() if v is not None},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
                "quantization_config": self.body.get("quantization_config"),
                "metadata": self.body.get("metadata"),
            },
        }


def run_query(collection: Collection, body: Json) -> Json:
    parts = body.get("prefetch") or []
    request = edge.QueryRequest(
        limit=body.get("limit") or 10,
        query=query_of(body),
        prefetches=[prefetch(p) for p in (parts if isinstance(parts, list) else [parts])],
        filter=filter_of(body.get("filter")),
        params=search_params(body.get("params")),
        with_vector=body.get("with_vector") or False,
        with_payload=body.get("with_payload") or False,
    )
    points = [p for shard in collection.chosen(body) for p in shard.query(request)]
    descending = collection.body["vectors"]["distance"] in ("Cosine", "Dot") or bool(parts)
    points.sort(key=lambda p: p.score, reverse=descending)
    return {"points": [point_json(p, score=True) for p in points[: request.limit]]}


class QdrantServer:
    """The server: where it listens, what it holds, what it was asked, and how it is to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collections: dict[str, Collection] = {}
        self.failures: list[Failure] = []
        self.requests: list[tuple[str, str, Json]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.version = VERSION

    def fail(self, path: str, times: int = 1, **how: Any) -> None:
        """Answer the next ``times`` requests whose path matches with a failure."""
        self.failures.append(Failure(path, times, **how))

    def optimize(self, collection: str) -> None:
        """Build the graphs and the codes of a collection now; a server does it in the background."""
        for shard in self.collections[collection].shards.values():
            shard.optimize()

    def asked(self, path: str) -> list[Json]:
        """The bodies of the requests whose path matches."""
        return [body for _, where, body in self.requests if re.search(path, where)]

    def answer(self, method: str, path: str, body: Json) -> Any:
        if path == "/":
            return {"title": "qdrant - vector search engine", "version": self.version}
        match = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        assert match, path
        name, rest = match[1], match[2] or ""
        if rest == "/exists":
            return {"result": {"exists": name in self.collections}}
        if rest == "" and method == "PUT":
            if name in self.collections:
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            folder = self.folder / f"{name}-{len(self.requests)}"
            folder.mkdir()
            self.collections[name] = Collection(folder, body)
            return {"result": True}
        if name not in self.collections:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        collection = self.collections[name]
        if rest == "":
            return {"result": True if method == "DELETE" and self.collections.pop(name) else collection.info()}
        return {"result": self._inner(collection, method, rest, body)}

    def _inner(self, collection: Collection, method: str, rest: str, body: Json) -> Any:
        done = {"operation_id": len(self.requests), "status": "completed"}
        if rest == "/shards":
            collection.add_shard(body["shard_key"])
            return True
        if rest == "/index":
            collection.indexes[body["field_name"]] = schema(body["field_schema"])
            for shard in collection.shards.values():
                shard.update(edge.UpdateOperation.create_field_index(body["field_name"], schema(body["field_schema"])))
            return done
        if rest == "/points" and method == "PUT":
            for shard in collection.chosen(body, write=True)[:1]:
                shard.update(edge.UpdateOperation.upsert_points(points_of(body)))
            return done
        if rest == "/points/delete":
            wanted = (
                edge.UpdateOperation.delete_points(body["points"])
                if "points" in body
                else edge.UpdateOperation.delete_points_by_filter(filter_of(body["filter"]))
            )
            for shard in collection.chosen(body):
                shard.update(wanted)
            return done
        if rest == "/points/query":
            return run_query(collection, body)
        if rest == "/points/query/batch":
            return [run_query(collection, one) for one in body["searches"]]
        if rest == "/points/count":
            request = edge.CountRequest(filter=filter_of(body.get("filter")), exact=True)
            return {"count": sum(shard.count(request) for shard in collection.chosen(body))}
        if rest == "/points/scroll":
            return self._scroll(collection, body)
        if rest == "/points/batch":
            for kind, change in (item for operation in body["operations"] for item in operation.items()):
                assert kind == "set_payload", kind
                for shard in collection.chosen(change):
                    where = filter_of(change["filter"])
                    shard.update(edge.UpdateOperation.set_payload_by_filter(where, change["payload"]))
            return [done]
        assert rest == "/points", rest
        found = [
            record
            for shard in collection.chosen(body)
            for record in shard.retrieve(body["ids"], body.get("with_payload"), body.get("with_vector"))
        ]
        return [point_json(record) for record in found]

    def _scroll(self, collection: Collection, body: Json) -> Json:
        """As a cluster does it: each shard from the offset on, then the smallest ids of all."""
        limit = body.get("limit") or 10
        request = edge.ScrollRequest(
            offset=body.get("offset"),
            limit=limit + 1,
            filter=filter_of(body.get("filter")),
            with_payload=body.get("with_payload"),
            with_vector=body.get("with_vector") or False,
        )
        records = [record for shard in collection.chosen(body) for record in shard.scroll(request)[0]]
        records.sort(key=lambda r: (isinstance(r.id, str), str(r.id) if not isinstance(r.id, int) else r.id))
        following = records[limit].id if len(records) > limit else None
        return {
            "points": [point_json(record) for record in records[:limit]],
            "next_page_offset": following if following is None or isinstance(following, int) else str(following),
        }


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, QdrantServer]]:
    """A server on a free port of this machine: its address and itself."""
    server = QdrantServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_any(self) -> None:
            path = self.path.partition("?")[0]
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(raw) if raw else {}
            with server.lock:
                server.requests.append((self.command, path, body))
                server.keys.append(self.headers.get("api-key"))
                failing = [f for f in server.failures if f.times and re.search(f.path, path) and f.only_if(body)]
                failure = failing[0] if failing else None
                if failure:
                    failure.times -= 1
            status, said, headers = 200, "", {}
            if failure is None or failure.applied:
                try:
                    with server.lock:
                        answered = server.answer(self.command, path, body)
                    said = json.dumps(answered if path == "/" else {"status": "ok", "time": 0.0, **answered})
                except Refused as refused:
                    status, said = refused.status, json.dumps({"status": {"error": str(refused)}, "time": 0.0})
                except Exception as error:  # the engine refuses what it cannot do
                    status, said = 400, json.dumps({"status": {"error": f"Wrong input: {error}"}, "time": 0.0})
            if failure is not None:
                if failure.status == 0:
                    self.close_connection = True
                    return
                if failure.status == -1:  # later than the client waits
                    time.sleep(1.5)
                status, said, headers = max(200, failure.status), failure.body, failure.headers
            payload = said.encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}", server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
        for collection in server.collections.values():
            for shard in collection.shards.values():
                shard.close()
