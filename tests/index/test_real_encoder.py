"""The index with the real ``Encoder`` and a real (tiny, contextual) model directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffembed.encoder import Encoder
from diffembed.errors import IndexStoreError
from diffembed.index import Index, index_paths, search_paths

SAMPLES = Path(__file__).parents[2] / "samples"


def test_the_whole_way(library: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    query = "Owls hunt at night. They hear a mouse under the snow."
    report = search_paths(query, [library], top=3, model=str(tiny_model_dir))
    assert len(report.refresh.added) == 5
    assert report.refresh.truncated == ()
    # the tiny model is random, but equal text gives equal vectors: the chunk that is the query and little more is near
    assert "owls.txt" in {hit.path.name for hit in report.hits}
    for hit in report.hits:
        start, end = hit.best_sentence_span
        assert hit.text[start:end] == hit.best_sentence
    assert search_paths(query, [library], top=3, model=str(tiny_model_dir)).hits == report.hits


def test_the_index_loads_the_model_it_names(library: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    index_paths([library], tmp_path / "index", model=str(tiny_model_dir))
    with Index.open(tmp_path / "index") as index:
        assert index.settings.model == str(tiny_model_dir)
        assert index.settings.dims == 64
        assert index.settings.chunk_tokens == 128  # the model's limit
        assert len(index.search("owls", top=2)) == 2
        encoder = Encoder.load(tiny_model_dir, precision="fp32")
        assert index.search("owls", top=1, encoder=encoder)  # other precision, same model
    changed = encoder.path / "diffembed.json"
    text = changed.read_text()
    try:
        changed.write_text(text + "\n")
        with pytest.raises(IndexStoreError, match="was made by model"):
            index_paths([library], tmp_path / "index", model=str(tiny_model_dir))
    finally:
        changed.write_text(text)


def test_the_shipped_samples_are_as_their_readme_says() -> None:
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in readme.splitlines() if line.startswith("| `")]
    counted = {folder.strip(" `/"): int(count) for folder, count in rows}
    for folder, count in counted.items():
        assert sum(path.is_file() for path in (SAMPLES / folder).rglob("*")) == count, folder
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and path.parent != SAMPLES]
    assert len(files) == sum(counted.values()) >= 300
    assert sum(path.stat().st_size for path in files) <= 2_500_000
    assert len((SAMPLES / "QUERIES.txt").read_text(encoding="utf-8").splitlines()) == 3
    for folder in {path.relative_to(SAMPLES).parts[0] for path in files}:
        assert f"`{folder}/" in readme
