from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # it needs the engine
    from tests.index.qdrant_server import QdrantServer

    from diffembed.index import Index
    from diffembed.index.qdrant import QdrantIndex

MEMORY = Path("/dev/shm")
FAKE = Path(__file__).parent / "fake_encoder.py"
collect_ignore = ["qdrant_requests.py", "qdrant_server.py", "worker.py"]  # parts of programs, which tests start


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, QdrantServer]]:
    """Qdrant's engine behind an address, and what it was asked."""
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: pip install 'diffembed[qdrant]'")
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py, the engine to test against, is not installed")
    from tests.index.qdrant_server import running

    # The engine syncs every small file that it makes: on a disk of its own that is most of the time of these tests.
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    with TemporaryDirectory(dir=MEMORY if in_memory else tmp_path_factory.mktemp("qdrant")) as folder:
        with running(Path(folder)) as found:
            yield found


@pytest.fixture
def engine(server: tuple[str, QdrantServer]) -> QdrantServer:
    server[1].failures.clear()
    server[1].requests.clear()
    server[1].keys.clear()
    return server[1]


@pytest.fixture
def make_collection(
    server: tuple[str, QdrantServer], engine: QdrantServer, request: pytest.FixtureRequest
) -> Iterator[Callable[..., QdrantIndex]]:
    """Makes or opens collections of a test; they are closed when it ends."""
    from diffembed.index.qdrant import QdrantIndex

    opened: list[QdrantIndex] = []

    def make(name: str = "", *, open_: bool = False, encoder: Any = None, **options: Any) -> QdrantIndex:
        options = {"attempts": 3, "timeout": 20, "sleep": lambda _: None} | options
        act = QdrantIndex.open if open_ else QdrantIndex.create
        opened.append(act(server[0], request.node.name.replace("[", "-").rstrip("]") + name, **options))
        if open_:
            opened[-1]._encoder = encoder  # the fake one cannot be loaded by name
        return opened[-1]

    yield make
    for index in opened:
        index.close()


@pytest.fixture
def both(make_collection: Callable[..., QdrantIndex], encoder: Any, tmp_path: Path) -> tuple[Index, QdrantIndex]:
    """The same records on disk and in a collection."""
    from tests.index.records import RECORDS

    from diffembed.index import Index

    here, there = Index.create(tmp_path / "index", model=encoder), make_collection(model=encoder)
    for index in (here, there):
        index.add(RECORDS)
    return here, there


def _age(path: Path) -> None:
    """Give a file an old time stamp, so that it counts as settled."""
    os.utime(path, ns=(1_600_000_000_000_000_000, path.stat().st_mtime_ns - 10_000_000_000))
