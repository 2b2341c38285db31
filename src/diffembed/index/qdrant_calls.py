"""Calls to a Qdrant server that may be slow, busy or away: retries with growing pauses, and errors that say what to do.

Only what may pass is tried again: no connection, no answer in time, and the statuses of a server that is busy or
restarting. Everything that is written has an id made from its document's key, so that doing it twice does no harm.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from diffembed.errors import ClusterError, MissingExtraError

T = TypeVar("T")

ATTEMPTS = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_PASSING = {408, 429, 500, 502, 503, 504}


def load_client() -> Any:
    """The module ``qdrant_client``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import qdrant_client
    except ImportError:
        raise MissingExtraError(
            "a Qdrant collection needs qdrant-client, which is not installed; add it with: "
            "pip install 'diffembed[qdrant]'"
        ) from None
    return qdrant_client


@dataclass(slots=True)
class Caller:
    """Calls one server.

    Attributes:
        url: of the server, for messages.
        attempts: how often a call is tried in all.
        sleep: waits so many seconds.
        retried: how many calls had to be repeated so far.
    """

    url: str
    attempts: int = ATTEMPTS
    sleep: Callable[[float], None] = time.sleep
    retried: int = field(default=0, init=False)

    def __call__(self, what: str, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a method of the client.

        Args:
            what: it does, for messages: "search", "write 100 points".
            function: the method; ``args`` and ``options`` are its own.

        Raises:
            ClusterError: it was refused, or failed as often as it may.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                answer = function(*args, **options)
            except Exception as error:
                problem = _problem(error)
                if problem is None:
                    raise
            else:
                # An update that was accepted but not carried out in time comes back with status 200.
                told = answer if isinstance(answer, list) else [answer]
                if all(getattr(getattr(one, "status", None), "value", None) != "wait_timeout" for one in told):
                    return answer
                problem = Problem("the write was not carried out in time", None, passing=True)
            if not problem.passing or attempt == self.attempts:
                tried = f" after {attempt} attempts" if attempt > 1 else ""
                raise ClusterError(f"{self.url}: could not {what}{tried}: {problem.text}", status=problem.status)
            self.retried += 1
            self.sleep(problem.wait if problem.wait is not None else _pause(attempt))
        raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class Problem:
    """A failed call: what was said, the status of an answer, whether it may pass, and how long to wait."""

    text: str
    status: int | None
    passing: bool
    wait: float | None = None


def _problem(error: Exception) -> Problem | None:
    """What went wrong; ``None`` for an error that is not the server's."""
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        wait = min(max(error.retry_after_s, 0), _LONGEST_PAUSE)
        return Problem(f"too many requests ({error})", 429, passing=True, wait=wait)
    if isinstance(error, QdrantException):  # a Retry-After that the client cannot read: a date
        return Problem(f"too many requests ({error})", 429, passing=True)
    if isinstance(error, UnexpectedResponse):
        status = error.status_code
        text = _said(error.content)
        if status in (401, 403):
            text = f"{text}; give the key of the server (api_key, or QDRANT_API_KEY)"
        return Problem(f"{text} (HTTP {status})", status, passing=status in _PASSING)
    if isinstance(error, ResponseHandlingException):
        source = error.source
        kind = type(source).__name__
        if "Timeout" in kind:
            return Problem("no answer in time; raise the timeout or write smaller batches", None, passing=True)
        if kind == "ValidationError":
            return Problem("the answer is not one of Qdrant's; is this the address of a Qdrant server?", None, False)
        return Problem(f"no connection ({source or kind})", None, passing=True)
    return None


def _said(content: bytes) -> str:
    """The server's own words.

    >>> _said(b'{"status": {"error": "Not found"}}'), _said(b"<html>")
    ('Not found', '<html>')
    """
    try:
        return str(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace") or "no reason given"


def _pause(attempt: int) -> float:
    """Seconds before the next attempt: doubled each time, and drawn, so that many clients do not come back at once."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * float(1 << (attempt - 1))) * random.uniform(0.5, 1.0)
