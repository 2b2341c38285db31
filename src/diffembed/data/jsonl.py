"""JSON lines, plain or gzipped: every bad line named by its number."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from diffembed.errors import InputError


def jsonl_file(folder: Path, stem: str) -> Path:
    """``stem.jsonl`` or ``stem.jsonl.gz`` of a BEIR folder, whichever is there; both or neither is an error."""
    found = [path for path in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz") if path.is_file()]
    if not found:
        raise InputError(f"{folder} has neither {stem}.jsonl nor {stem}.jsonl.gz; a BEIR folder needs one of them")
    if len(found) > 1:
        raise InputError(f"{folder} has both {stem}.jsonl and {stem}.jsonl.gz; remove the one that is not meant")
    return found[0]


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``file, line N``, text) of every line that is not blank. Split at newlines only: U+2028 is part of a text."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(cast("Iterator[bytes]", stream), start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield f"{path}, line {number}", text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number} is not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read after line {number}: {error}; is the file whole?") from error


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(``file, line N``, object) of every line."""
    for where, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where} is not JSON ({error.msg} at column {error.colno}); mend or remove the line"
            ) from error
        except RecursionError as error:
            raise InputError(f"{where} is nested too deep to be a record; mend or remove the line") from error
        if not isinstance(row, dict):
            raise InputError(f"{where} is not a JSON object but {type(row).__name__}; write one object a line")
        yield where, row
