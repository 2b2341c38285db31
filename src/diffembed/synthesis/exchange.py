"""One exchange with a server over HTTP: a request, its answer, and the ways in which there may be none."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

_MOST_BYTES = 64 << 20  # of an answer; more is no answer to a question
_PIECE = 1 << 16


class Broken(Exception):
    """An exchange that gave no whole answer; the message goes on from the server's address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sent back.

    Attributes:
        status: 200 and its like.
        body: whole.
        retry_after: seconds that the server asks to wait before the next request, ``None`` where it does not.
    """

    status: int
    body: bytes
    retry_after: float | None = None


def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float) -> Answer:
    """Send a request and read the whole answer, whatever its status.

    Redirects are not followed (they could carry a key elsewhere). Proxies are those of the environment, but none
    for an address of this machine.

    Args:
        timeout: seconds until the last byte.

    Raises:
        Broken: it cannot be reached, takes too long, or breaks off.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers), method=method)
    opener = urllib.request.build_opener(_NoRedirect, *([urllib.request.ProxyHandler({})] if is_loopback(url) else []))
    deadline = time.monotonic() + timeout
    try:
        try:
            response = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return Answer(response.status, _read(response, deadline), _retry_after(response.headers))
    except TimeoutError:
        raise Broken(f"took longer than {timeout:g} seconds") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise Broken(f"took longer than {timeout:g} seconds") from None
        raise Broken(f"cannot be reached ({_plain(error.reason)})") from None
    except (http.client.HTTPException, OSError) as error:
        raise Broken(f"broke off ({_plain(error)})") from None


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine.

    >>> is_loopback("http://127.0.0.1:8000/v1"), is_loopback("http://localhost/v1"), is_loopback("https://example.org")
    (True, True, False)
    """
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """No new request: the redirect itself is the answer."""
        return None


def _read(response: Any, deadline: float) -> bytes:
    """The body, piece by piece: a server that drips it is not waited for longer than agreed."""
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise Broken(f"answered with more than {_MOST_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    missing = getattr(response, "length", None)
    if missing:
        raise Broken(f"broke off {missing} bytes before the end of its answer")
    return b"".join(pieces)


def _retry_after(headers: Any) -> float | None:
    """Seconds from a ``Retry-After`` header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    value = (headers.get("Retry-After") or "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None


def _plain(error: object) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
