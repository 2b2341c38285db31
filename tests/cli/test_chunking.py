"""``--chunking`` of ``index`` and ``search``."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.invoke import run

from diffembed.cli_options import Chunking
from diffembed.text.chunking import STRATEGIES


def test_every_strategy_can_be_asked_for() -> None:
    assert tuple(member.value for member in Chunking) == STRATEGIES


def test_an_index_keeps_its_chunking(tmp_path: Path, tiny_model_dir: Path) -> None:
    notes, into = tmp_path / "two", tmp_path / "two.index"
    notes.mkdir()
    (notes / "a.md").write_text("# Owls\n\nThey hunt.\n\n# Bread\n\nIt rises.\n", encoding="utf-8")
    model = ("--model", tiny_model_dir)
    assert run("index", notes, "--into", into, *model, "--chunking", "markdown", "--json").json["chunks"] == 2
    assert run("index", notes, "--into", into, *model, "--json").json["unchanged"] == 1
    run("index", notes, "--into", into, *model, "--chunking", "adaptive").fails(2, "chunking markdown, not adaptive")
    run("search", "owls", into, *model, "--chunking", "fixed").fails(2, "chunking markdown, not fixed")
    run("index", notes, "--into", into, "--chunking", "magic").fails(2, "magic")
    assert len(run("search", "owls", into, *model, "--json").json["hits"]) == 2


@pytest.mark.parametrize(("chunking", "chunks"), [(None, 1), ("markdown", 2), ("adaptive", 1)])
def test_a_search_indexes_as_it_is_told(
    chunking: str | None, chunks: int, tmp_path: Path, tiny_model_dir: Path
) -> None:
    notes = tmp_path / "two"
    notes.mkdir()
    (notes / "a.md").write_text("# Owls\n\nThey hunt.\n\n# Bread\n\nIt rises.\n", encoding="utf-8")
    option = ("--chunking", chunking) if chunking else ()
    found = run("search", "owls", notes, "--model", tiny_model_dir, *option, "--json").json
    assert found["refresh"]["chunks"] == len(found["hits"]) == chunks
