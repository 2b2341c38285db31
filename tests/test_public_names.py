"""The public names: exactly these, all importable, and nothing heavy before one of them is used."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffembed

REPO = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(REPO / "src")}

PUBLIC = [
    "Chunk",
    "Chunker",
    "DiffembedError",
    "Embeddings",
    "Encoder",
    "Hit",
    "Index",
    "IndexStoreError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "RecipeError",
    "TrainingError",
    "__version__",
]


def test_public_names_are_exactly_these() -> None:
    assert sorted(diffembed.__all__) == PUBLIC
    assert dir(diffembed) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_resolves(name: str) -> None:
    assert getattr(diffembed, name) is not None


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Enkoder'.*Encoder"):
        _ = diffembed.Enkoder


def test_star_import_gives_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from diffembed import *", namespace)
    assert set(PUBLIC) - {"__version__"} <= set(namespace)


def test_version_is_the_project_files() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == diffembed.__version__


def test_installed_version_agrees() -> None:
    try:
        installed = importlib.metadata.version("diffembed")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("diffembed is not installed here, only on the path")
    assert installed == diffembed.__version__


def test_import_brings_in_nothing_heavy() -> None:
    code = "import sys, diffembed; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENV)
    heavy = {"numpy", "torch", "transformers", "onnxruntime", "faiss", "pyarrow", "tokenizers", "rich", "typer"}
    assert heavy & set(ran.stdout.split()) == set()


def test_onnxruntime_leaves_nothing_in_the_cache_folder(tmp_path: Path) -> None:
    code = "from diffembed import Encoder; Encoder.load('default').encode_queries(['x'])"
    env = {**ENV, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env.pop("ORT_DISABLE_TELEMETRY", None)  # which importing diffembed has set here
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []
