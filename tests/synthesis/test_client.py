"""The client against a server on this machine that misbehaves in every way it must survive."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.synthesis.stub import Behaviour, Stub, completion, stub_server

from diffembed.errors import InputError, ServerError
from diffembed.synthesis import Client, Sampling

KEY = "sk-very-secret-0123456789"
ASK = [{"role": "user", "content": "What is the capital of Peru?"}]


def client(stub: Stub, **options: Any) -> Client:
    return Client(stub.url, "stub-1b", **({"timeout": 60.0, "attempts": 3, "pause": 0.01} | options))


def once(*first: str | Behaviour) -> Callable[[int, dict[str, Any]], str | Behaviour]:
    """These behaviours one after the other, then a proper answer."""
    return lambda number, _: first[number] if number < len(first) else "Lima"


def test_what_is_sent_and_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with stub_server(once()) as stub:
        asked = client(stub, key_variable="MY_KEY")
        reply = asked.complete(ASK, Sampling(max_tokens=7, seed=3, extra={"top_k": 1, "temperature": 0.5}))
        assert asked.models() == ("stub-1b",)
    path, headers, body = stub.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "stub-1b",
        "messages": ASK,
        "temperature": 0.5,
        "seed": 3,
        "max_tokens": 7,
        "top_k": 1,
    }
    assert (reply.text, reply.finish, reply.model, reply.attempts) == ("Lima", "stop", "stub-1b", 1)
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 3)
    assert (asked.usage.answers, asked.usage.requests) == (1, 1)
    assert (asked.usage.prompt_tokens, asked.usage.completion_tokens) == (11, 3)


def test_none_takes_a_key_out_of_the_request() -> None:
    """Some hosted models refuse ``max_tokens`` and want another word for it."""
    with stub_server(once()) as stub:
        client(stub).complete(ASK, Sampling(extra={"max_tokens": None, "max_completion_tokens": 9}))
    assert set(stub.requests[0][2]) == {"model", "messages", "temperature", "seed", "max_completion_tokens"}


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFEMBED_API_KEY", raising=False)
    with stub_server(once()) as stub:
        client(stub).complete(ASK, Sampling(seed=None))
    assert "Authorization" not in stub.requests[0][1]
    assert "seed" not in stub.requests[0][2]


BROKEN: dict[str, str | Behaviour] = {
    "429": ("status", 429, {}, b'{"error": {"message": "slow down"}}'),
    "500": ("status", 500, {}, b"<html>oops</html>"),
    "503": ("status", 503, {}, b""),
    "no JSON": ("raw", b"<html>a proxy's page</html>"),
    "half JSON": ("raw", b'{"choices": [{"mess'),
    "no choices": ("raw", b'{"choices": []}'),
    "a list": ("raw", b"[1, 2]"),
    "content is a number": ("raw", json.dumps(completion(None)).replace("null", "7", 1).encode()),
    "cut by its length": ("cut", "length"),
    "cut in a chunk": ("cut", "chunks"),
    "nothing": ("cut", "nothing"),
}


@pytest.mark.parametrize("broken", list(BROKEN.values()), ids=list(BROKEN))
def test_what_passes_is_tried_again(broken: str | Behaviour) -> None:
    with stub_server(once(broken, broken)) as stub:
        asked = client(stub)
        reply = asked.complete(ASK)
    assert (reply.text, reply.attempts, len(stub.requests)) == ("Lima", 3, 3)
    assert (asked.usage.answers, asked.usage.requests) == (1, 3)


@pytest.mark.parametrize("broken", list(BROKEN.values()), ids=list(BROKEN))
def test_what_does_not_pass_is_an_error_that_says_why(broken: str | Behaviour) -> None:
    with stub_server(lambda number, body: broken) as stub:
        with pytest.raises(ServerError, match=r"3 attempts") as caught:
            client(stub).complete(ASK)
    assert stub.url in str(caught.value)
    if broken[0] == "status":
        assert caught.value.status == broken[1]
        assert f"answered {broken[1]}" in str(caught.value)


def test_pauses_grow() -> None:
    with stub_server(once(*[BROKEN["500"]] * 3)) as stub:
        client(stub, attempts=4, pause=0.08).complete(ASK)
    waits = [later - earlier for earlier, later in zip(stub.at, stub.at[1:], strict=False)]
    assert waits[0] >= 0.06 and waits[1] >= 0.12 and waits[2] >= 0.24  # 0.08, 0.16, 0.32, each less a quarter at most


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_the_server_says_how_long_to_wait(as_date: bool) -> None:
    def script(number: int, body: dict[str, Any]) -> str | Behaviour:
        at = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: 1 to 2 from now
        return ("status", 429, {"Retry_After": at if as_date else "0.4"}, b"{}") if number == 0 else "Lima"

    with stub_server(script) as stub:
        assert client(stub, pause=0.0).complete(ASK).text == "Lima"
    assert stub.at[1] - stub.at[0] >= (0.9 if as_date else 0.4)


def test_a_wait_that_one_request_is_told_holds_for_all() -> None:
    with stub_server(once(("status", 429, {"Retry_After": "0.5"}, b"{}"))) as stub:
        asked = client(stub)
        first = threading.Thread(target=asked.complete, args=(ASK,))
        first.start()
        while not asked._not_before:
            time.sleep(0.005)
        asked.complete(ASK)
        first.join()
    assert len(stub.at) == 3
    assert all(later - stub.at[0] >= 0.45 for later in stub.at[1:])


def test_a_wait_that_is_too_long_is_an_error() -> None:
    with stub_server(once(("status", 503, {"Retry_After": "3600"}, b"{}"))) as stub:
        with pytest.raises(ServerError, match="3600 seconds") as caught:
            client(stub).complete(ASK)
    assert caught.value.status == 503
    assert len(stub.requests) == 1


@pytest.mark.parametrize("slow", [("sleep", 8.0), ("drip", 0.02)], ids=["silent", "dripping"])
def test_time_out(slow: Behaviour) -> None:
    """The server would take eight seconds, or twenty byte by byte; the bounds leave room for a busy machine."""
    with stub_server(once(slow)) as stub:
        start = time.monotonic()
        assert client(stub, timeout=0.5, attempts=10).complete(ASK).text == "Lima"
        assert time.monotonic() - start < 7.5
    with stub_server(lambda number, body: slow) as stub:
        with pytest.raises(ServerError, match=r"longer than 0\.3 seconds"):
            client(stub, timeout=0.3, attempts=1).complete(ASK)


@pytest.mark.parametrize(("status", "hint"), [(400, "expects"), (401, "DIFFEMBED_API_KEY"), (404, "/v1"), (422, "")])
def test_a_refusal_is_not_repeated(status: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFEMBED_API_KEY", raising=False)
    said = b'{"error": {"message": "this model\'s maximum context length is 4096 tokens", "type": "x"}}'
    with stub_server(once(("status", status, {}, said))) as stub:
        with pytest.raises(ServerError, match="maximum context length") as caught:
            client(stub).complete(ASK)
    assert caught.value.status == status
    assert hint in str(caught.value)
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "body", [b'{"error": "why"}', b'{"error": {"message": "why"}}', b'{"detail": "why"}', b" why "]
)
def test_the_reason_is_shown_without_its_wrapping(body: bytes) -> None:
    with stub_server(once(("status", 400, {}, body))) as stub:
        with pytest.raises(ServerError, match=r"answered 400: why; look"):
            client(stub).complete(ASK)


def test_redirects_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key must not be carried to an address that nobody named."""
    monkeypatch.setenv("DIFFEMBED_API_KEY", KEY)
    with stub_server(once()) as other:
        for status in (301, 302, 303, 307, 308):
            with stub_server(once(("status", status, {"Location": other.url + "/chat/completions"}, b""))) as stub:
                with pytest.raises(ServerError, match=str(status)):
                    client(stub).complete(ASK)
        assert other.requests == []


def test_the_key_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEMBED_API_KEY", KEY)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}}).encode()
    plain = f"denied: {KEY}".encode()
    messages = []
    for behaviour in (("status", 401, {}, echo), ("status", 500, {}, plain), ("raw", plain)):
        with stub_server(lambda number, body, behaviour=behaviour: behaviour) as stub:
            asked = client(stub)
            with pytest.raises(ServerError) as caught:
                asked.complete(ASK)
            messages += [str(caught.value), repr(caught.value), repr(asked), repr(asked.usage)]
    assert not any(KEY in message for message in messages), messages
    monkeypatch.setenv("DIFFEMBED_API_KEY", KEY + "\nX-Evil: 1")
    with pytest.raises(InputError, match="DIFFEMBED_API_KEY") as wrong:
        Client("http://localhost/v1", "m")
    assert KEY not in str(wrong.value)


@pytest.mark.parametrize(
    "address",
    ["", "localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1", "http://h\nost/v1", "http://hóst/v1"],
)
def test_no_address(address: str) -> None:
    with pytest.raises(InputError, match="no address of a server"):
        Client(address, "m")


def test_an_address_with_secrets_is_refused_without_repeating_it() -> None:
    for address in ("http://me:hunter2@host/v1", "http://host/v1?key=hunter2"):
        with pytest.raises(InputError) as caught:
            Client(address, "m")
        assert "hunter2" not in str(caught.value)


def test_nobody_there() -> None:
    with stub_server(once()) as stub:
        url = stub.url
    asked = Client(url, "m", attempts=2, pause=0.01)
    with pytest.raises(ServerError, match="cannot be reached"):
        asked.complete(ASK)
    with pytest.raises(ServerError, match="does the server run"):
        asked.models()


def test_models_that_nobody_lists() -> None:
    with stub_server(once()) as stub:
        stub.models = []
        assert client(stub).models() == ()


def test_an_empty_answer_is_an_answer() -> None:
    with stub_server(lambda number, body: ("raw", json.dumps(completion(None)).encode())) as stub:
        assert client(stub).complete(ASK).text == ""


def test_many_side_by_side_and_never_more_than_allowed() -> None:
    taken = []

    def jobs() -> Iterator[tuple[int, list[dict[str, str]]]]:
        for number in range(40):
            taken.append(number)
            yield number, [{"role": "user", "content": f"{number}"}]

    def script(number: int, body: dict[str, Any]) -> str | Behaviour:
        time.sleep(0.02)
        return BROKEN["500"] if number % 7 == 3 else f"answer to {body['messages'][0]['content']}"

    with stub_server(script) as stub:
        asked = client(stub, attempts=6)
        found = {}
        for job, reply in asked.complete_all(jobs(), at_once=4):
            found[job] = reply.text
            assert len(taken) <= len(found) + 4, "jobs are read no further than there is room"
    assert found == {number: f"answer to {number}" for number in range(40)}
    assert 2 <= stub.most_at_once <= 4
    assert asked.usage.answers == 40
    assert asked.usage.requests == len(stub.requests) > 40
    assert asked.usage.prompt_tokens == 40 * 11


def test_one_that_fails_for_good_stops_the_rest_but_loses_no_answer() -> None:
    failed = threading.Event()

    def script(number: int, body: dict[str, Any]) -> str | Behaviour:
        what = str(body["messages"][0]["content"])
        if what == "2":
            failed.set()
            return ("status", 400, {}, b'{"error": "no"}')
        failed.wait(30)
        time.sleep(0.2)  # so that the failure is known before these are answered, and no more are sent for long
        return what

    jobs = ((str(number), [{"role": "user", "content": str(number)}]) for number in range(1000))
    answered = []
    with stub_server(script) as stub:
        replies = client(stub).complete_all(jobs, at_once=3)
        with pytest.raises(ServerError, match="answered 400: no"):
            answered.extend((job, reply.text) for job, reply in replies)
    assert {("0", "0"), ("1", "1")} <= set(answered)
    assert all(job == text for job, text in answered)
    assert len(stub.requests) == len(answered) + 1 < 20


def test_leaving_early_leaves_no_requests_behind() -> None:
    with stub_server(lambda number, body: "x") as stub:
        answers = client(stub).complete_all(((number, ASK) for number in range(1000)), at_once=2)
        next(answers)
        answers.close()  # type: ignore[attr-defined]
        time.sleep(0.3)
        assert len(stub.requests) <= 2
