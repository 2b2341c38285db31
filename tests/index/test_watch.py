"""Watching: every look that finds a change is reported, the others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed.errors import InputError
from diffembed.index import Index, folder, watch_paths, watch_search


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Any) -> list[Callable[[], Any]]:
    """What happens while the watcher sleeps, one after the other."""
    happens: list[Callable[[], Any]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "load_encoder", lambda model: encoder)
    monkeypatch.setattr("time.sleep", lambda seconds: happens.pop(0)())
    return happens


def test_an_index_follows_its_files(library: Path, tmp_path: Path, waits: list[Any], encoder: Any) -> None:
    waits += [
        lambda: (library / "bats.txt").write_text("Bats hang in caves."),
        lambda: None,
        lambda: (library / "bats.txt").write_text("Bats fly."),
        lambda: (library / "bats.txt").unlink(),
    ]
    looks = watch_paths([library], tmp_path / "index", seconds=0.5)
    assert len(next(looks).added) == 5
    assert [path.name for path in next(looks).added] == ["bats.txt"]
    assert len(waits) == 3
    assert [path.name for path in next(looks).changed] == ["bats.txt"]  # the look between found nothing
    with Index.open(tmp_path / "index") as index:
        assert index.search("bats", top=1, encoder=encoder)[0].text == "Bats fly."
    assert [path.name for path in next(looks).removed] == ["bats.txt"]
    assert waits == []


def test_a_search_is_asked_again(library: Path, waits: list[Any]) -> None:
    waits += [lambda: None, lambda: (library / "bats.txt").write_text("Bats hang in caves.")]
    looks = watch_search("bats in caves", [library], top=1)
    assert next(looks).hits[0].text != "Bats hang in caves."
    assert next(looks).hits[0].text == "Bats hang in caves."
    assert waits == []


def test_what_cannot_be_watched(library: Path, tmp_path: Path, waits: list[Any]) -> None:
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="give a number above 0"):
            next(watch_paths([library], tmp_path / "index", seconds=seconds))
    next(watch_paths([library], tmp_path / "index"))
    with pytest.raises(InputError, match="is an index, not a folder of files"):
        next(watch_search("owls", [tmp_path / "index"]))
