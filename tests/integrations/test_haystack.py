"""Haystack's own pipelines, splitter, store and retriever around our embedders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.similarity import similarity

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.preprocessors import DocumentSplitter
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from diffembed.integrations.haystack import (
    DiffembedContextualDocumentEmbedder,
    DiffembedDocumentEmbedder,
    DiffembedTextEmbedder,
)


@pytest.fixture
def exact(tiny_model_dir: Path) -> dict[str, Any]:
    return {"model": str(tiny_model_dir), "precision": "fp32", "threads": 1}


def indexing(embedder: Any, store: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("embedder", "writer")
    return pipeline


def asking(embedder: DiffembedTextEmbedder, store: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=99))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return pipeline


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_haystacks_retriever_ranks_and_scores_as_ours(
    dtype: VectorDtype, exact: dict[str, Any], tiny_encoder: Encoder, corpus: list[str]
) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    given = [Document(content=text) for text in corpus]
    indexing(DiffembedDocumentEmbedder(**exact, dtype=dtype, dims=32), store).run({"embedder": {"documents": given}})
    assert all(document.embedding is None for document in given)
    query = "search engines"
    found = asking(DiffembedTextEmbedder(**exact, dtype=dtype, dims=32), store).run({"embedder": {"text": query}})
    ours = similarity(
        tiny_encoder.encode_queries([query], dtype=dtype, dims=32),
        tiny_encoder.encode_documents(corpus, dtype=dtype, dims=32),
    )
    scores = {document.content: document.score for document in found["retriever"]["documents"]}
    assert [scores[text] for text in corpus] == pytest.approx(ours[0].tolist(), abs=1e-5)


def test_chunks_of_a_split_document_are_read_together(
    exact: dict[str, Any], tiny_encoder: Encoder, library: dict[str, list[str]]
) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    pipeline = indexing(DiffembedContextualDocumentEmbedder(**exact), store)
    pipeline.add_component("splitter", DocumentSplitter(split_by="word", split_length=5, split_overlap=0))
    pipeline.connect("splitter", "embedder")
    pipeline.run({"splitter": {"documents": [Document(content=" ".join(chunks)) for chunks in library.values()]}})

    groups: dict[str, list[Document]] = {}
    for document in store.filter_documents():
        groups.setdefault(document.meta["source_id"], []).append(document)
    assert len(groups) == 3
    assert max(map(len, groups.values())) > 2
    for group in groups.values():
        group.sort(key=lambda document: document.meta["split_id"])
    read = tiny_encoder.encode_chunks([[document.content or "" for document in group] for group in groups.values()])
    held = np.array([document.embedding for group in groups.values() for document in group])
    assert np.allclose(held, read.values, atol=1e-6)
    # in any order, as a store gives them back
    shuffled = [document for group in groups.values() for document in group][::-1]
    again = DiffembedContextualDocumentEmbedder(**exact).run(shuffled)["documents"]
    assert np.allclose([document.embedding for document in again], held[::-1], atol=1e-6)


def test_own_keys_say_what_belongs_together(exact: dict[str, Any], tiny_encoder: Encoder) -> None:
    documents = [Document(content=text, meta={"file": "a"}) for text in ("one two", "three")]
    embedder = DiffembedContextualDocumentEmbedder(**exact, source="file")
    expected = tiny_encoder.encode_chunks([["one two", "three"]]).values
    assert np.allclose([d.embedding for d in embedder.run(documents)["documents"]], expected, atol=1e-6)
    with pytest.raises(InputError, match="no metadata 'source_id'"):
        DiffembedContextualDocumentEmbedder(**exact).run(documents)


def test_meta_fields_are_put_before_the_content(exact: dict[str, Any], tiny_encoder: Encoder) -> None:
    embedder = DiffembedDocumentEmbedder(**exact, meta_fields_to_embed=["title", "none"], embedding_separator=": ")
    [document] = embedder.run([Document(content="a text", meta={"title": "Cats"})])["documents"]
    assert np.allclose(document.embedding, tiny_encoder.encode_documents(["Cats: a text"]).values[0], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DiffembedTextEmbedder, {}),
        (DiffembedDocumentEmbedder, {"meta_fields_to_embed": ["title"]}),
        (DiffembedContextualDocumentEmbedder, {"source": "file", "place": "page", "embedding_separator": " "}),
    ],
)
def test_a_pipeline_is_written_down_and_made_again(
    kind: Any, options: dict[str, Any], exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Haystack makes components of named modules only
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "diffembed.integrations.haystack")
    pipeline = Pipeline()
    pipeline.add_component("embedder", kind(**exact, dtype="int8", dims=16, truncate=True, **options))
    again = Pipeline.loads(pipeline.dumps())
    written = again.get_component("embedder").to_dict()
    assert written == pipeline.get_component("embedder").to_dict()
    expected = {**exact, "dtype": "int8", "dims": 16, "truncate": True, **options}
    assert expected.items() <= written["init_parameters"].items()


def test_nothing_is_loaded_before_it_is_needed(exact: dict[str, Any]) -> None:
    embedder = DiffembedTextEmbedder("no/such/model")
    with pytest.raises(Exception, match="no/such/model"):
        embedder.warm_up()
    ready = DiffembedTextEmbedder(**exact)
    ready.warm_up()
    assert len(ready.run("a query")["embedding"]) == 64


def test_a_query_and_documents_are_not_mixed_up(exact: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a query is a string, list was given"):
        DiffembedTextEmbedder(**exact).run(["text"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="DiffembedTextEmbedder"):
        DiffembedDocumentEmbedder(**exact).run("text")  # type: ignore[arg-type]
