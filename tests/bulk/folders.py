"""Inputs with good and bad rows, and what a folder of shards holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

LONG = "many words of a text that is longer than the model reads " * 40


def rows(texts: list[str], count: int) -> list[Any]:
    """Records and raw lines: texts, every fifth a document of chunks, every seventh bad in one way or another."""
    bad = [b'{"text": ', b"\xff\xfe", b"", b'{"text": 3}', b'{"chunks": []}', b'{"txt": "a"}', b'"a"', LONG]
    made: list[Any] = []
    for i in range(count):
        if i % 7 == 6:
            wrong = bad[i // 7 % len(bad)]
            made.append({"id": f"r{i}", "text": wrong} if isinstance(wrong, str) else wrong)
        elif i % 5 == 4:
            made.append({"id": f"r{i}", "chunks": [texts[i % len(texts)], f"{texts[(i + 1) % len(texts)]} {i}"]})
        else:
            made.append({"id": f"r{i}", "text": f"{texts[i % len(texts)]} {i}"} | ({} if i % 3 else {"_id": i}))
    return made


def write_jsonl(path: Path, made: list[Any]) -> Path:
    """One line each; bytes as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in made]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))}


def vectors(folder: Path) -> list[tuple[int, int, str | None, str, np.ndarray[Any, Any]]]:
    """(line, chunk, id, seen, vector) of every vector, read with numpy, json and pyarrow alone."""
    found: list[Any] = []
    for file in sorted(folder.glob("vectors-*.npy")):
        values = np.load(file, allow_pickle=False)
        places = (folder / file.name.replace("vectors", "rows").replace(".npy", ".jsonl")).read_text(encoding="utf-8")
        entries = [json.loads(line) for line in places.splitlines()]
        assert [e["row"] for e in entries] == list(range(len(values)))
        found += [(e["line"], e["chunk"], e.get("id"), e.get("seen", "whole"), values[e["row"]]) for e in entries]
    for file in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(file)
        assert table["row"].to_pylist() == list(range(table.num_rows))
        kind = table.schema.field("vector").type.value_type.to_pandas_dtype()
        columns = (table[name].to_pylist() for name in ("line", "chunk", "id", "seen", "vector"))
        found += [(*place, np.array(vector, kind)) for *place, vector in zip(*columns, strict=True)]
    return found
