"""A server on this machine that speaks OpenAI's chat completions as a test tells it to; standard library only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a test's script returns for a request (its number from 0, its body): a text to answer with, or one of these.
Behaviour = tuple[
    Any, ...
]  # ("status", 429, headers, body) ("cut", bytes, kind) ("sleep", seconds) ("raw", bytes) ("drop",)
Script = Callable[[int, dict[str, Any]], "str | Behaviour"]


def completion(text: str | None, **changes: Any) -> dict[str, Any]:
    """A response as OpenAI documents it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub-1b",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    } | changes


class Stub:
    """The server while it runs: its address, and every request that it got (path, headers, body)."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.at: list[float] = []
        self.most_at_once = 0
        self.models: list[str] = ["stub-1b"]
        self._at_once = 0
        self._lock = threading.Lock()
        self.url = ""

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def note(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> int:
        with self._lock:
            self.requests.append((path, headers, body))
            self.at.append(time.monotonic())
            return len(self.requests) - 1


@contextmanager
def stub_server(script: Script) -> Iterator[Stub]:
    """Answers POSTs by the script until the block is left."""
    stub = Stub(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            rows = [{"id": name, "object": "model"} for name in stub.models]
            if self.path == "/v1/models" and stub.models:
                self.reply(200, json.dumps({"object": "list", "data": rows}).encode())
            else:
                self.reply(404, b"no such page")

        def do_POST(self) -> None:
            with stub.counted():  # not while it answers: who has the answer may ask again before this thread goes on
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                number = stub.note(self.path, dict(self.headers.items()), body)
                wanted = stub.script(number, body)
            try:
                self.behave(wanted)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def behave(self, wanted: str | Behaviour) -> None:
            if isinstance(wanted, str):
                return self.reply(200, json.dumps(completion(wanted)).encode())
            kind, *rest = wanted
            if kind == "status":
                self.reply(rest[0], rest[2], **rest[1])
            elif kind == "raw":
                self.reply(200, rest[0])
            elif kind == "sleep":
                time.sleep(rest[0])
                self.reply(200, json.dumps(completion("late")).encode())
            elif kind == "drip":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                for _ in range(1000):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(rest[0])
            else:  # cut: half of an answer, by its length, by chunks, or nothing at all
                whole = json.dumps(completion("never whole")).encode()
                if rest[0] == "length":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(whole)))
                    self.end_headers()
                    self.wfile.write(whole[: len(whole) // 2])
                elif rest[0] == "chunks":
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"%x\r\n" % len(whole) + whole[: len(whole) // 2])
                self.wfile.flush()
                self.close_connection = True

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
