"""Corpus files written on the spot, in every format that training reads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as JSON lines, compressed as the name says, or as Parquet in row groups of 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        names = {name: None for row in rows for name in row} or {"text": None}
        table = pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})
        pq.write_table(table, path, row_group_size=3)
    else:
        write_bytes(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    return path


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    return write_rows(path, [{"text": text} for text in texts])


def write_bytes(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(data)
    return path
