"""An index keeps to the chunking that it was made with."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.index.fake_encoder import FakeEncoder

from diffembed.errors import InputError
from diffembed.index import Index, index_paths, search_paths


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    write(folder / "a.md", "# Owls\n\nThey hunt.\n\n# Bread\n\nIt rises.\n")
    return folder


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(1_600_000_000_000_000_000,) * 2)


def texts(index: Index) -> list[str]:
    return [hit.text for hit in index.search("owls", top=50)]


def test_a_refresh_cuts_as_before(notes: Path, tmp_path: Path, encoder: Any) -> None:
    with Index.build([notes], tmp_path / "index", encoder=encoder, chunking="markdown") as index:
        assert index.settings.chunking == "markdown"
        assert sorted(texts(index)) == ["# Bread\n\nIt rises.", "# Owls\n\nThey hunt."]
        write(notes / "b.md", "# Rust\n\nIt owns.\n\n# C\n\nIt points.\n")
        index.refresh([notes], encoder=encoder)
        assert len(texts(index)) == 4
    with Index.build([notes], tmp_path / "index", encoder=encoder, chunking="markdown") as index:
        assert len(texts(index)) == 4
    with pytest.raises(InputError, match="made with chunking markdown, not adaptive; leave chunking out"):
        Index.build([notes], tmp_path / "index", encoder=encoder, chunking="adaptive")


def test_a_file_without_a_token_is_left_out_and_remembered(notes: Path, tmp_path: Path) -> None:
    class Letters(FakeEncoder):
        """Its tokenizer drops whatever is no letter."""

        def count_tokens(self, texts: Sequence[str]) -> list[int]:
            return [len(re.findall(r"[A-Za-z]+", text)) for text in texts]

    write(notes / "b.md", "\u200b\n\n* * *\n")
    with Index.build([notes], tmp_path / "index", encoder=Letters(contextual=True)) as index:
        assert {Path(hit.path).name for hit in index.search("owls", top=9)} == {"a.md"}
        report = index.refresh([notes], encoder=Letters(contextual=True))
    assert [(s.path.name, s.reason) for s in report.skipped] == [("b.md", "no text in it that the model reads")]
    assert report.unchanged == 1


def test_an_unknown_name_makes_no_index(notes: Path, tmp_path: Path, encoder: Any) -> None:
    with pytest.raises(InputError, match="chunking 'magic' is not known"):
        Index.build([notes], tmp_path / "index", encoder=encoder, chunking="magic")  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("chunking", ["fixed", "sentence", "adaptive"])
def test_search_keeps_an_index_for_each_chunking(
    chunking: Any, notes: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = str(tiny_model_dir)
    plain = search_paths("owls", [notes], model=model)
    other = search_paths("owls", [notes], model=model, chunking=chunking)
    assert plain.index != other.index
    assert [search_paths("owls", [notes], model=model, chunking=c).index for c in (None, "structure", chunking)] == [
        plain.index,
        plain.index,
        other.index,
    ]
    with Index.open(other.index) as index:
        assert index.settings.chunking == chunking
    index_paths([notes], tmp_path / "own", model=model, chunking=chunking)
    assert search_paths("owls", [tmp_path / "own"], model=model).hits
    with pytest.raises(InputError, match=f"made with chunking {chunking}, not structure"):
        search_paths("owls", [tmp_path / "own"], model=model, chunking="structure")
