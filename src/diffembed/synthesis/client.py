"""A client for servers that speak OpenAI's chat completions: vLLM, llama.cpp, ollama, hosted ones.

One request asks for one answer; what a network does to it is dealt with here. Refusals that pass (429, 5xx), broken
connections, time-outs and answers that are cut off or no JSON are tried again, after the time that the server asks for
or else twice as long as the last time. Many requests run side by side, never more than were allowed, and the next one
is only taken from its source when there is room for it.

The key is read from an environment variable, sent to the one address that was given (redirects are refused), and
stands in no message, no ``repr`` and no result.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from diffembed.errors import InputError, ServerError
from diffembed.synthesis.exchange import Answer, Broken, exchange

KEY_VARIABLE = "DIFFEMBED_API_KEY"
Message = Mapping[str, str]
Job = TypeVar("Job")

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_SHOWN = 300  # characters of a server's own words in a message
_HINTS = {
    401: "is the key right, and in the variable that was named?",
    403: "is the key right, and may it use this model?",
    404: "give the address up to /v1, and a model that the server has",
    413: "the prompt is too long; ask with fewer passages",
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        seed: sent along; not every server heeds it.
        max_tokens: of an answer.
        extra: further keys of the request's body, as the server knows them (``{"top_p": 0.9}``); they win, and one that
            is ``None`` takes a key out (``{"max_tokens": None, "max_completion_tokens": 500}``).
    """

    temperature: float = 0.0
    seed: int | None = 0
    max_tokens: int = 256
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The keys of the request's body."""
        body = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.max_tokens, **self.extra}
        return {name: value for name, value in body.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        text: what the model wrote; empty where it wrote nothing.
        finish: why it stopped: ``stop``, ``length`` (cut at ``max_tokens``), or what else the server says.
        model: as the server calls it.
        prompt_tokens, completion_tokens: as the server counts them; 0 where it does not.
        attempts: how many requests it took.
    """

    text: str
    finish: str
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1


@dataclass(slots=True)
class Usage:
    """What a client has used so far."""

    answers: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Client:
    """A server and a model of it.

    Args:
        server: its address up to ``/v1``: ``http://localhost:8000/v1``.
        model: as the server calls it.
        key_variable: the environment variable that holds the key; one that is not set means no key is needed.
        timeout: seconds for one request, from its start to the last byte of its answer.
        attempts: how often one answer is asked for.
        pause: seconds before the second attempt; doubled before each further one.
        longest_pause: seconds; a server that asks for more waiting than this is given up on.

    Attributes:
        usage: what it has used so far.

    Raises:
        InputError: an address or a key that cannot be one.
    """

    def __init__(
        self,
        server: str,
        model: str,
        *,
        key_variable: str = KEY_VARIABLE,
        timeout: float = 120.0,
        attempts: int = 6,
        pause: float = 1.0,
        longest_pause: float = 120.0,
    ) -> None:
        self.server = _checked_address(server)
        self.model = model
        self.usage = Usage()
        if not model.strip():
            raise InputError("the name of the model is empty; give it as the server calls it")
        if timeout <= 0 or attempts < 1 or pause < 0 or longest_pause < 0:
            raise InputError(f"timeout {timeout}, attempts {attempts}, pauses {pause} and {longest_pause}: see Client")
        self._key_variable = key_variable
        self._key = _checked_key(key_variable)
        self._timeout, self._attempts = timeout, attempts
        self._pause, self._longest_pause = pause, longest_pause
        self._lock = threading.Lock()
        self._not_before = 0.0  # of time.monotonic(): what one request was told to wait, all wait

    def __repr__(self) -> str:
        return f"Client({self.server!r}, {self.model!r})"

    def complete(self, messages: Sequence[Message], sampling: Sampling = Sampling()) -> Reply:
        """The model's answer to a conversation.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": ...}``, in order.
            sampling: how it is drawn.

        Raises:
            ServerError: no answer: the server cannot be reached, refuses, or fails as often as it was asked.
        """
        return self._complete(messages, sampling, threading.Event())

    def complete_all(
        self, jobs: Iterable[tuple[Job, Sequence[Message]]], sampling: Sampling = Sampling(), *, at_once: int = 8
    ) -> Iterator[tuple[Job, Reply]]:
        """Answers to many conversations, each as soon as it is there, with whatever names its job.

        At most ``at_once`` requests are under way, and ``jobs`` is read no further than that. When one fails for good,
        no more are sent, those under way are waited for and given out, and the error is raised last.

        Raises:
            ServerError: as :meth:`complete`.
        """
        if at_once < 1:
            raise InputError(f"{at_once} requests at once; at least 1 is needed")
        source, stop = iter(jobs), threading.Event()
        todo: queue.SimpleQueue[tuple[Job, Sequence[Message]] | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Job, Reply | BaseException]] = queue.SimpleQueue()

        def work() -> None:
            while (given := todo.get()) is not None:
                job, messages = given
                try:
                    done.put((job, self._complete(messages, sampling, stop)))
                except BaseException as error:  # handed to whoever waits for the answer
                    done.put((job, error))

        threads: list[threading.Thread] = []
        under_way, failed = 0, None
        try:
            while True:
                while failed is None and under_way < at_once and (given := next(source, None)) is not None:
                    todo.put(given)
                    under_way += 1
                    if under_way > len(threads):
                        # daemons: a program that is interrupted does not wait for answers that nobody will read
                        threads.append(threading.Thread(target=work, name=f"ask-{len(threads)}", daemon=True))
                        threads[-1].start()
                if not under_way:
                    break
                job, found = done.get()
                under_way -= 1
                if isinstance(found, BaseException):
                    failed = failed or found
                else:
                    yield job, found
        finally:
            stop.set()
            for _ in threads:
                todo.put(None)
        if failed is not None:
            raise failed

    def models(self) -> tuple[str, ...]:
        """The models that the server says it has; empty where it does not say.

        Raises:
            ServerError: it cannot be reached, or refuses the key.
        """
        try:
            answer = self._once("GET", "/models", None)
        except Broken as broken:
            raise ServerError(f"{self.server} {broken}; does the server run, and is this its address?") from None
        if answer.status in (401, 403):
            raise self._refused(answer)
        try:
            rows = json.loads(answer.body)["data"] if answer.status == 200 else []
            return tuple(str(row["id"]) for row in rows)
        except (ValueError, KeyError, TypeError):
            return ()

    def _complete(self, messages: Sequence[Message], sampling: Sampling, stop: threading.Event) -> Reply:
        body = {"model": self.model, "messages": [dict(message) for message in messages], **sampling.to_dict()}
        sent = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        why, status = "", None
        for attempt in range(1, self._attempts + 1):
            self._wait(stop)
            asked_for = None
            try:
                answer = self._once("POST", "/chat/completions", sent)
                if answer.status == 200:
                    return self._counted(_reply(answer.body, attempt))
                if answer.status not in _AGAIN:
                    raise self._refused(answer)
                why, status, asked_for = self._words(answer), answer.status, answer.retry_after
            except Broken as broken:
                why, status = str(broken), None
            if attempt < self._attempts:
                self._put_off(attempt, asked_for, f"{self.server} {why}", status)
        raise ServerError(f"{self.server} {why} ({self._attempts} attempts); look at the server's log", status=status)

    def _once(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = {"Accept": "application/json", "User-Agent": "diffembed"}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        if body is not None:
            with self._lock:
                self.usage.requests += 1
        answer = exchange(method, self.server + path, headers, body, self._timeout)
        # A server may repeat the key; what is shown of its answers must not.
        return replace(answer, body=answer.body.replace(self._key.encode(), b"[key]")) if self._key else answer

    def _counted(self, reply: Reply) -> Reply:
        with self._lock:
            self.usage.answers += 1
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.completion_tokens += reply.completion_tokens
        return reply

    def _put_off(self, attempt: int, asked_for: float | None, why: str, status: int | None) -> None:
        """Decide when the next attempt may start: when the server said, for all requests; else later each time."""
        if asked_for is not None and asked_for > self._longest_pause:
            raise ServerError(
                f"{why} and asks for {asked_for:.0f} seconds of waiting, more than the {self._longest_pause:.0f} "
                "allowed; run again later",
                status=status,
            )
        pause = min(self._pause * 2 ** (attempt - 1), self._longest_pause)
        seconds = asked_for if asked_for is not None else pause * random.uniform(0.75, 1.25)
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _wait(self, stop: threading.Event) -> None:
        while (left := self._not_before - time.monotonic()) > 0 and not stop.is_set():
            stop.wait(left)
        if stop.is_set():
            raise ServerError("stopped before the request was sent")

    def _refused(self, answer: Answer) -> ServerError:
        hint = _HINTS.get(answer.status, "look at what the server expects")
        if answer.status in (401, 403) and not self._key:
            hint = f"it wants a key; put one into the environment variable {self._key_variable}"
        return ServerError(f"{self.server} {self._words(answer)}; {hint}", status=answer.status)

    def _words(self, answer: Answer) -> str:
        """``answered 400: what it says of the reason``."""
        text = answer.body.decode("utf-8", "replace")
        try:
            said = json.loads(text)
            error = said["error"] if "error" in said else said["detail"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError):
            pass
        text = " ".join((text.replace(self._key, "[key]") if self._key else text).split())[:_SHOWN]
        return f"answered {answer.status}" + (f": {text}" if text else "")


def _reply(body: bytes, attempts: int) -> Reply:
    """The answer in a response. Raises ``Broken`` for one that is none: asked again, it may be whole."""
    try:
        said = json.loads(body)
    except ValueError:
        raise Broken(f"answered something that is no JSON ({body[:60].decode('utf-8', 'replace')!r})") from None
    try:
        choice = said["choices"][0]
        text = choice["message"]["content"]
        finish = choice.get("finish_reason") or ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Broken("answered JSON without choices[0].message.content") from None
    if text is not None and not isinstance(text, str):
        raise Broken(f"answered with a content that is no text but {type(text).__name__}")
    usage = said.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens = [n if isinstance(n := counts.get(k), int) else 0 for k in ("prompt_tokens", "completion_tokens")]
    return Reply(text or "", str(finish), str(said.get("model") or ""), tokens[0], tokens[1], attempts)


def _checked_address(server: str) -> str:
    """The address without a trailing slash or the last part of the path that we add ourselves.

    >>> _checked_address("http://localhost:8000/v1/")
    'http://localhost:8000/v1'
    """
    address = server.strip().rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if usable and (parts.username or parts.password or parts.query or parts.fragment):
        raise InputError(
            "the server's address holds more than scheme, host, port and path; give no name, password or query in it "
            "(a key belongs into an environment variable)"
        )
    if not usable or not address.isascii() or any(c.isspace() or not c.isprintable() for c in address):
        raise InputError(f"{server!r} is no address of a server; give one like http://localhost:8000/v1")
    return address


def _checked_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(
            f"the key in the environment variable {variable} holds characters that no key has; set it anew"
        )
    return key
