from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAKE = Path(__file__).parent / "fake_encoder.py"
collect_ignore = ["qdrant_server.py", "worker.py"]  # programs of their own, which tests start


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., Any]:
    """The class ``FakeEncoder`` of the file beside this one (which child processes import by its folder)."""
    spec = importlib.util.spec_from_file_location("fake_encoder", FAKE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FakeEncoder  # type: ignore[no-any-return]


@pytest.fixture
def encoder(make_encoder: Callable[..., Any]) -> Any:
    return make_encoder()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small folder of texts with one subject each."""
    folder = tmp_path / "library"
    subjects = {
        "owls.txt": "Owls hunt at night. They hear a mouse under the snow.\n\nThe barn owl lives in barns.",
        "notes/rust.md": "# Ownership\n\nEvery value has an owner. When the owner leaves, the value is dropped.\n",
        "notes/bread.md": "# Bread\n\nMix flour and water.\n\n## Baking\n\nBake the loaf for forty minutes.\n",
        "code/sort.py": 'def insertion_sort(items):\n    """Sort in place."""\n    for i in items:\n        pass\n',
        "日本.txt": "梟は夜に狩りをする。雪の下の鼠の音を聞く。",
    }
    for name, text in subjects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        _age(path)
    return folder


def _age(path: Path) -> None:
    """Give a file an old time stamp, so that it counts as settled."""
    import os

    os.utime(path, ns=(1_600_000_000_000_000_000, path.stat().st_mtime_ns - 10_000_000_000))
