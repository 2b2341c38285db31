"""Answers that a language model gave, kept one JSON line each, so that none is asked for twice.

An answer belongs to the model's name, the exact prompt and the sampling; under other ones it is asked for anew. A run
that was killed leaves whole lines and perhaps a piece of one, which is taken away when the file is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from diffembed.data.jsonl import parse_object
from diffembed.errors import InputError
from diffembed.synthesis.client import Message, Reply, Sampling


def answer_key(model: str, messages: Sequence[Message], sampling: Sampling) -> str:
    """What an answer is kept under."""
    asked = {"model": model, "messages": [dict(message) for message in messages], "sampling": sampling.to_dict()}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Answers:
    """The answers of a file, and its end to write more. Use :func:`open_answers`."""

    def __init__(self, file: Path, stream: IO[bytes], kept: dict[str, Reply]) -> None:
        self.file = file
        self._stream = stream
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Reply | None:
        """The answer of a key, ``None`` where there is none yet."""
        return self._kept.get(key)

    def add(self, key: str, reply: Reply, **more: Any) -> None:
        """Keep an answer: it is on its way to the disk when this returns. ``more`` is for people who read the file."""
        line = json.dumps({"key": key, **more, **asdict(reply)}, ensure_ascii=False) + "\n"
        self._stream.write(line.encode("utf-8", "replace"))
        self._stream.flush()
        self._kept[key] = reply


@contextmanager
def open_answers(file: Path) -> Iterator[Answers]:
    """The answers of a file, which is made if it is not there, for one process at a time.

    Raises:
        InputError: a line other than the last that is no answer, or another process that has the file open.
    """
    import fcntl  # POSIX only; imported here so that the rest can be read elsewhere

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); give another folder") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{file} is being written by another process; wait for it or give another folder"
            ) from None
        kept, end = _read(file, stream)
        stream.truncate(end)
        stream.seek(end)
        yield Answers(file, stream, kept)


def _read(file: Path, stream: IO[bytes]) -> tuple[dict[str, Reply], int]:
    """The answers, and where the last whole line ends."""
    kept: dict[str, Reply] = {}
    end = 0
    for number, line in enumerate(stream, start=1):
        if not line.endswith(b"\n"):
            break  # what a killed run left of its last line
        end += len(line)
        where = f"{file}, line {number}"
        try:
            row = parse_object(where, line.decode("utf-8"))
            kept[_text(row["key"])] = _reply(row)
        except (UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{where} is no answer that diffembed kept ({error!r}); remove the line") from None
    return kept, end


def _reply(row: Mapping[str, Any]) -> Reply:
    text, finish, model = (_text(row[name]) for name in ("text", "finish", "model"))
    asked, written, attempts = (_number(row[name]) for name in ("prompt_tokens", "completion_tokens", "attempts"))
    return Reply(text, finish, model, asked, written, attempts)


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a whole number was expected, not {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string was expected, not {value!r}")
    return value
