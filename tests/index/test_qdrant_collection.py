"""Making and opening collections: the model, those of somebody else, named shards, keys, versions of the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.index.records import RECORDS

from diffembed.errors import ClusterError, IndexStoreError, InputError
from diffembed.index import Index
from diffembed.index.qdrant import QdrantIndex
from diffembed.index.qdrant_forms import CollectionSettings

if TYPE_CHECKING:  # it needs the engine
    from tests.index.qdrant_server import QdrantServer

REPO = Path(__file__).parents[2]


def test_an_old_server_is_refused(
    make_collection: Any, encoder: Any, engine: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "version", "1.19.2")
    with pytest.raises(ClusterError, match=r"runs Qdrant 1\.19\.2; it has to be 1\.20 or newer"):
        make_collection(model=encoder)


def test_another_models_vectors_are_refused(
    both: tuple[Index, QdrantIndex], make_collection: Any, make_encoder: Any
) -> None:
    reopened = make_collection(open_=True)
    assert reopened.settings == both[1].settings
    assert reopened.form == both[1].form
    with pytest.raises(IndexStoreError, match="was made by model fake .*not by other"):
        reopened.search("owls", encoder=make_encoder(name="other"))
    with pytest.raises(IndexStoreError, match="was made by model fake"):
        make_collection("-other", settings=both[1].settings).search("owls", encoder=make_encoder(dims=32))


def test_a_collection_of_somebody_else_is_refused(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    index = make_collection(model=encoder)
    body = engine.collections[index.collection.name].body
    mark, body["metadata"] = body["metadata"], {"owner": "somebody"}
    with pytest.raises(IndexStoreError, match="was not made by diffembed"):
        make_collection(open_=True)
    body["metadata"] = mark
    body["vectors"] = {**body["vectors"], "size": 3}
    with pytest.raises(IndexStoreError, match="holds float16 vectors of 3 dims, its metadata says float16 of 64"):
        make_collection(open_=True)
    with pytest.raises(IndexStoreError, match="no collection 'nobody'"):
        QdrantIndex.open(index.collection.call.url, "nobody")
    with pytest.raises(InputError, match="already"):
        make_collection(model=encoder)


def test_named_shards_keep_tenants_apart(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    form = CollectionSettings(named_shards=True)
    one = make_collection(model=encoder, form=form, shard_key="one")
    two = make_collection(open_=True, shard_key="two", encoder=encoder)
    two.add_shard()
    one.add(RECORDS[:2])
    two.add(RECORDS[2:])
    everything = make_collection(open_=True, encoder=encoder)
    assert (len(one), len(two), len(everything)) == (4, 2, 6)
    assert {h.key for h in two.search("bread")} == {"7", "brot"}
    assert {h.key for h in everything.search("bread")} == {"owls", "bread", "7", "brot"}
    assert two.delete(["bread"]) == 0
    for write in (everything.upsert, everything.delete):
        with pytest.raises(InputError, match="has named shards; say which one"):
            write(RECORDS)
    with pytest.raises(InputError, match="no named shards"):
        make_collection("-plain", model=encoder, shard_key="one")
    assert not any(name.endswith("-plain") for name in engine.collections)


def test_a_collection_that_was_made_in_part_is_completed(
    make_collection: Any, encoder: Any, engine: QdrantServer, server: tuple[str, QdrantServer], tmp_path: Path
) -> None:
    here = Index.create(tmp_path / "index", model=encoder)
    form = {"filters": ("lang", "kind", "metadata.n"), "hybrid": True}
    engine.fail("/index$", status=400, only_if=lambda body: "lang" in body["field_name"])
    with pytest.raises(ClusterError, match="could not index"):
        QdrantIndex.open_for(here.settings, server[0], "in-part", form=form)
    assert len(engine.collections["in-part"].indexes) < 9
    with QdrantIndex.open_for(here.settings, server[0], "in-part", form=form) as there:
        names = {f'facts.{type_}."{name}"' for type_ in "snb" for name in ("lang", "n")}
        assert set(engine.collections["in-part"].indexes) == {"key", "chunk", "kind", "text", *names}
        here.add(RECORDS)
        assert here.copy_to(there).documents == 4


def test_a_key_that_is_wrong(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    engine.fail("/exists", status=403, body='{"status": {"error": "Forbidden"}}')
    with pytest.raises(ClusterError, match=r"Forbidden; give the key of the server .*QDRANT_API_KEY.* \(HTTP 403\)"):
        make_collection(model=encoder)


def test_the_key_goes_to_the_server_and_nowhere_else(
    make_collection: Any, encoder: Any, engine: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_collection(model=encoder).collection.call.url
    name = make_collection("-2", model=encoder).collection.name
    assert set(engine.keys) == {None}
    for options in ({"api_key": "s3cret"}, {}):
        monkeypatch.setenv("QDRANT_API_KEY", "from-outside")
        engine.keys.clear()
        engine.fail(f"/{name}$", status=401, body='{"status": {"error": "Unauthorized"}}')
        with pytest.warns(UserWarning, match="insecure"), pytest.raises(ClusterError) as caught:
            QdrantIndex.open(url, name, **options)
        key = options.get("api_key", "from-outside")
        assert engine.keys == [key]
        assert key not in str(caught.value)
    monkeypatch.delenv("QDRANT_API_KEY")
    for wrong in ("http://user:s3cret@localhost:6333", "https://localhost:6333/?api-key=s3cret"):
        with pytest.raises(InputError, match="a user or a query") as refused:
            QdrantIndex.open(wrong, "x")
        assert "s3cret" not in str(refused.value)
    for wrong in ("", ".", ".."):
        with pytest.raises(InputError, match="no name of a collection"):
            QdrantIndex.open(url, wrong)


def test_a_search_without_qdrant_client_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['qdrant_client'] = None\n"
        "from diffembed.errors import MissingExtraError\n"
        "from diffembed.index.qdrant import QdrantIndex\n"
        "try: QdrantIndex.open('http://localhost:1', 'x')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
    )
    assert "pip install 'diffembed[qdrant]'" in ran.stdout, ran.stderr
