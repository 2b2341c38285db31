"""A folder of notes, an index of records and a tiny retrieval set; every test has its own cache."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.invoke import run

from diffembed.encoder import Encoder

FAKE = Path(__file__).parents[1] / "index" / "fake_encoder.py"


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


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small stand-in for every model."""
    spec = importlib.util.spec_from_file_location("fake_encoder", FAKE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fake = module.FakeEncoder()
    monkeypatch.setattr(Encoder, "load", classmethod(lambda cls, model: fake))
    return fake


@pytest.fixture
def tickets(tmp_path: Path, fake_model: Any) -> Path:
    file = tmp_path / "tickets.jsonl"
    rows = [
        {"id": 1, "text": "The printer is on fire.", "team": "hardware", "year": 2024},
        {
            "id": 2,
            "chunks": ["Login fails.", "Error E1142 in the log.", "Cleared the cache."],
            "team": "web",
            "year": 2025,
        },
        {"id": 3, "text": "Printer out of paper.", "team": "hardware", "year": 2025},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = tmp_path / "tickets.index"
    added = run("index", "add", folder, file, "--json").json
    assert (added["added"], added["chunks"]) == (3, 5)
    return folder
