"""JSON lines, plain, gzipped or zstandard-compressed: every bad line named by its number."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from diffembed.errors import InputError

COMPRESSED = (".gz", ".zst")
STDIN = Path("-")
_CHUNK = 1 << 20


def jsonl_file(folder: Path, stem: str) -> Path:
    """``stem.jsonl``, ``stem.jsonl.gz`` or ``stem.jsonl.zst`` of a BEIR folder, whichever is there; one is expected."""
    names = [f"{stem}.jsonl{suffix}" for suffix in ("", *COMPRESSED)]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise InputError(
            f"{folder} has neither {names[0]} nor {' nor '.join(names[1:])}; a BEIR folder needs one of them"
        )
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise InputError(f"{folder} has both {both}; remove the one that is not meant")
    return found[0]


def raw_lines(path: Path, offset: int = 0, number: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """(line number, byte offset after the line, the line's bytes) of every line after ``offset`` and line ``number``.

    ``-`` is stdin. Lines end at newlines only: U+2028 is part of a text. Offsets count uncompressed bytes. A plain file
    is entered at ``offset`` in one seek; a compressed one is decompressed up to there, nothing of it is parsed.

    Raises:
        InputError: a file that is missing, unreadable, truncated or damaged, named with the last good line.
    """
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else _open(path) as stream:
            if path.suffix in COMPRESSED:
                left = offset
                while left and (chunk := stream.read(min(left, _CHUNK))):
                    left -= len(chunk)
            elif offset:
                stream.seek(offset)
            for line in stream:
                offset += len(line)
                number += 1
                yield number, offset, line
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read after line {number}: {error}; is the file whole?") from error


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return io.BufferedReader(cast("io.RawIOBase", gzip.open(path, "rb")), _CHUNK)
    if path.suffix == ".zst":
        import pyarrow as pa  # slow to import, and rarely needed

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), _CHUNK)
    return path.open("rb")


def decode(path: Path, number: int, line: bytes) -> str:
    """The text of line ``number``, without its line end (and, in the first, without a byte order mark)."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number} is not UTF-8 text ({error.reason}); save the file as UTF-8") from error


def parse_object(where: str, line: str) -> dict[str, Any]:
    """The JSON object of one line; ``where`` names the line in errors."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is not JSON ({error.msg} at column {error.colno}); mend or remove the line"
        ) from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deep to be a record; mend or remove the line") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{where} cannot be read as a record ({error}); mend or remove the line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object but {type(row).__name__}; write one object a line")
    return row


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``file, line N``, text) of every line that is not blank."""
    for number, _, line in raw_lines(path):
        text = decode(path, number, line)
        if text.strip():
            yield f"{'stdin' if path == STDIN else path}, line {number}", text


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(``file, line N``, object) of every line that is not blank."""
    for where, line in read_lines(path):
        yield where, parse_object(where, line)
