"""What the tests of mteb's tasks share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffembed.evaluation.mteb_models import MtebModel


@pytest.fixture
def own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` makes of local copies stays in the folder of the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def model(tiny_model_dir: Path) -> MtebModel:
    """The tiny model as mteb takes it."""
    pytest.importorskip("mteb")
    from diffembed.evaluation.mteb_models import load_mteb_model

    return load_mteb_model(str(tiny_model_dir), dtype="float32", dims=64)
