"""Small copies of datasets as the hub has them, for tests of mteb's tasks, and the same data as a task of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from diffembed.evaluation import RetrievalTask

DOCUMENTS = {
    "d0": "the lighthouse keeper counts ships at dawn",
    "d1": "he writes each name into a grey book",
    "d2": "in winter nobody passes for weeks",
    "d3": "melt the butter slowly in a pan",
    "d4": "fold in the flour and then the eggs",
    "d5": "bake for half an hour until golden",
}
QUERIES = {"q0": "counting ships", "q1": "names in a book", "q2": "how to bake eggs"}
QRELS = {"q0": {"d0": 2, "d2": 1}, "q1": {"d1": 1}, "q2": {"d5": 2, "d4": 1}}
Rows = Sequence[Mapping[str, Any]]


def task(documents: Mapping[str, str] = DOCUMENTS, qrels: Mapping[str, Mapping[str, int]] = QRELS) -> RetrievalTask:
    """The same data as a task of our own."""
    return RetrievalTask("zoo", tuple(documents), tuple(documents.values()), QUERIES, qrels)


def write_dataset(folder: Path, configs: Mapping[str, Mapping[str, Rows]], *, parquet: bool = True) -> Path:
    """A dataset's repository: a README.md whose head names the parts, and a file for each split of them."""
    head = ["---", "configs:"]
    for config, splits in configs.items():
        head += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            file = folder / config / f"{split}.{'parquet' if parquet else 'jsonl'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if parquet:
                import pyarrow
                import pyarrow.parquet

                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
            else:
                file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            head += [f"  - split: {split}", f"    path: {file.relative_to(folder)}"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]), encoding="utf-8")
    return folder


def rows(texts: Mapping[str, str], key: str = "_id") -> Rows:
    return [{key: identifier, "text": text} for identifier, text in texts.items()]


def judged(qrels: Mapping[str, Mapping[str, int]] = QRELS) -> Rows:
    return [{"query-id": q, "corpus-id": d, "score": gain} for q, gains in qrels.items() for d, gain in gains.items()]


def near(ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    for name in ("ndcg@10", "mrr@10", "recall@1", "recall@10"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name  # mteb rounds to five digits
