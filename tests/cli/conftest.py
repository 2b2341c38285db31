"""A folder of notes and a tiny retrieval set; every test has its own cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFEMBED_DEBUG", raising=False)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    (folder / "cats.md").write_text("# Cats\n\nThe cat sleeps on the sofa. It purrs.\n", encoding="utf-8")
    (folder / "sub" / "german.txt").write_text("Die Katze schläft auf dem Sofa.\n\nDer Hund liest.\n", encoding="utf-8")
    (folder / "code.py").write_text(
        "def encode(texts):\n    return [model(text) for text in texts]\n", encoding="utf-8"
    )
    return folder


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    folder.mkdir()
    texts = ["The quick brown fox.", "Diffusion language models mask tokens.", "Die Katze schläft auf dem Sofa."]
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    (folder / "qrels.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(3)), encoding="utf-8")
    return folder
