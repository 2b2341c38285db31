"""A contextual model of exact weights, and documents cut into chunks, for all adapters."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from diffembed.encoder import Encoder
from diffembed.index.protocol import SearchIndex
from diffembed.index.qdrant_forms import CollectionSettings

# Frameworks that would otherwise report their use over the network.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

BOOK = [
    "The lighthouse keeper counts ships at dawn.",
    "He writes each name into a grey book.",
    "In winter nobody passes for weeks.",
]
RECIPE = ["Melt the butter slowly.", "He writes each name into a grey book.", "Fold in the flour, then the eggs."]
LETTER = ["Dear Anna, the train was late again."]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the asynchronous tests of frameworks, which expect a plugin for that."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def library() -> dict[str, list[str]]:
    """Three documents in chunks; two of them have a chunk in common, word for word."""
    return {"book": list(BOOK), "recipe": list(RECIPE), "letter": list(LETTER)}


@pytest.fixture(scope="module")
def qdrant_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Qdrant's engine."""
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: pip install 'diffembed[qdrant]'")
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py, the engine to test against, is not installed")
    from tests.index.qdrant_server import running

    with running(tmp_path_factory.mktemp("qdrant")) as (url, _):
        yield url


@pytest.fixture(params=["disk", "qdrant"])
def empty_index(request: pytest.FixtureRequest, tmp_path: Path, tiny_encoder: Encoder) -> Iterator[SearchIndex]:
    """An index without records, for each kind there is."""
    from diffembed.index import Index
    from diffembed.index.qdrant import QdrantIndex

    made: Index | QdrantIndex
    if request.param == "disk":
        made = Index.create(tmp_path / "index", model=tiny_encoder)
    else:
        made = QdrantIndex.create(
            request.getfixturevalue("qdrant_url"), uuid4().hex, model=tiny_encoder, form=CollectionSettings(hybrid=True)
        )
    with made:
        yield made
