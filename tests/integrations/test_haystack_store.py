"""The index as Haystack's document store: Haystack's own tests of stores, and the retrievers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.index import Index
from diffembed.index.protocol import SearchIndex

pytest.importorskip("haystack")

from dataclasses import replace

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing.document_store import (
    CountDocumentsByFilterTest,
    DocumentStoreBaseExtendedTests,
    create_filterable_docs,
)

from diffembed.integrations.haystack import (
    DiffembedDocumentEmbedder,
    DiffembedDocumentStore,
    DiffembedEmbeddingRetriever,
    DiffembedRetriever,
    DiffembedTextEmbedder,
)


class TestHaystacksOwn(DocumentStoreBaseExtendedTests, CountDocumentsByFilterTest):
    """What Haystack asks of every store."""

    @pytest.fixture
    def document_store(self, empty_index: SearchIndex, request: pytest.FixtureRequest) -> DiffembedDocumentStore:
        if "qdrant" in request.node.name and "iso_date" in request.node.name:
            pytest.skip("a Qdrant collection cannot put strings in order (docs/cluster.md)")
        return DiffembedDocumentStore(empty_index)

    @pytest.fixture
    def filterable_docs(self, tiny_encoder: Encoder) -> list[Document]:
        """Haystack's documents, their embeddings (of 768 dims, drawn at random) as wide as the index."""
        width = tiny_encoder.dims[-1]
        return [
            replace(d, embedding=None if d.embedding is None else d.embedding[:width]) for d in create_filterable_docs()
        ]

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        """In any order, without embeddings: the store does not give them back."""
        bare = [replace(document, embedding=None) for document in expected]
        assert sorted(received, key=lambda d: d.id) == sorted(bare, key=lambda d: d.id)

    def test_write_documents(self, document_store: DiffembedDocumentStore) -> None:  # type: ignore[override]
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])
        self.assert_documents_are_equal(document_store.filter_documents(), [document])


@pytest.fixture
def documents(library: dict[str, list[str]]) -> list[Document]:
    return [
        Document(id=f"{name}-{place}", content=text, meta={"source_id": name, "split_id": place})
        for name, chunks in library.items()
        for place, text in enumerate(chunks)
    ]


@pytest.fixture
def store(empty_index: SearchIndex, documents: list[Document]) -> DiffembedDocumentStore:
    made = DiffembedDocumentStore(empty_index)
    assert made.write_documents(documents) == len(documents)
    return made


def bound(component: Any, encoder: Encoder) -> Any:
    """A component of Haystack over a model that is loaded already."""
    from diffembed.integrations.bound import bind

    component._loaded = bind(encoder, dtype="float32", dims=None, truncate=False, windows=False)
    return component


def test_it_ranks_and_scores_as_haystacks_own_store(
    store: DiffembedDocumentStore, documents: list[Document], tiny_encoder: Encoder
) -> None:
    theirs = InMemoryDocumentStore(embedding_similarity_function="cosine")
    theirs.write_documents(bound(DiffembedDocumentEmbedder(), tiny_encoder).run(documents)["documents"])
    embedder = bound(DiffembedTextEmbedder(), tiny_encoder)
    for query in ("ships in winter", "baking with flour", "Dear Anna"):
        vector = embedder.run(query)["embedding"]
        expected = {d.id: d.score for d in InMemoryEmbeddingRetriever(theirs, top_k=9).run(vector)["documents"]}
        for found in (
            DiffembedRetriever(store, top_k=9).run(query)["documents"],
            DiffembedEmbeddingRetriever(store, top_k=9).run(vector)["documents"],
        ):
            assert {d.id for d in found} == set(expected)
            for document in found:
                assert document.score == pytest.approx(expected[document.id], abs=5e-3)


def test_embeddings_that_documents_bring_are_kept(empty_index: SearchIndex, tiny_encoder: Encoder) -> None:
    store = DiffembedDocumentStore(empty_index)
    row = tiny_encoder.encode_documents(["Something else."]).values[0]
    store.write_documents([Document(id="x", content="A text.", embedding=row.tolist()), Document(id="y", content="B.")])
    [kept] = empty_index.get(["x"], vectors=True)
    assert kept.vectors is not None
    cosine = kept.vectors[0] @ row / np.linalg.norm(kept.vectors[0].astype(float)) / np.linalg.norm(row)
    assert cosine > 0.999
    store.update_by_filter({"field": "id", "operator": "in", "value": ["x", "y"]}, {"seen": True})
    [again] = empty_index.get(["x"], vectors=True)
    assert again.metadata == {"seen": True}
    assert np.array_equal(again.vectors, kept.vectors)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a vector|shape|wide|dims"):
        store.write_documents([Document(id="z", content="A text.", embedding=[1.0, 2.0])])


def test_chunks_of_a_source_are_read_together(
    empty_index: SearchIndex, documents: list[Document], library: dict[str, list[str]], tiny_encoder: Encoder
) -> None:
    DiffembedDocumentStore(empty_index, source="source_id").write_documents(documents)
    together = tiny_encoder.encode_chunks([library["book"]], dtype="int8").values.astype(float)
    for found, row in zip(empty_index.get([f"book-{n}" for n in range(3)], vectors=True), together, strict=True):
        assert found.vectors is not None
        there = found.vectors[0].astype(float)
        assert there @ row / np.linalg.norm(there) / np.linalg.norm(row) > 0.9995


def test_filters_of_a_retriever(store: DiffembedDocumentStore) -> None:
    book = {"field": "meta.source_id", "operator": "==", "value": "book"}
    first = {"field": "meta.split_id", "operator": "==", "value": 0}
    replacing = DiffembedRetriever(store, filters=book, top_k=9)
    assert {d.id for d in replacing.run("x")["documents"]} == {"book-0", "book-1", "book-2"}
    assert {d.id for d in replacing.run("x", filters=first)["documents"]} == {"book-0", "recipe-0", "letter-0"}
    merging = DiffembedRetriever(store, filters=book, top_k=9, filter_policy="merge")
    assert [d.id for d in merging.run("x", filters=first)["documents"]] == ["book-0"]
    assert len(merging.run("x", top_k=2)["documents"]) == 2
    assert DiffembedRetriever(store, min_score=2.0).run("x")["documents"] == []
    hybrid = DiffembedRetriever(store, hybrid=True, weight=0.1, top_k=1)
    assert hybrid.run("lighthouse")["documents"][0].id == "book-0"


@pytest.mark.parametrize(
    "wrong",
    [
        {"field": "content", "operator": "==", "value": "x"},
        {"field": "meta.a", "operator": "like", "value": "x"},
        {"field": "meta.a", "operator": "==", "value": [1]},
        {"field": "meta.a", "operator": ">", "value": True},
        {"field": "meta.a", "operator": ">", "value": "soon"},
        {"operator": "XOR", "conditions": []},
        {"operator": "AND", "conditions": {}},
        {"operator": "AND", "conditions": ["x"]},
    ],
    ids=range(8),
)
def test_filters_that_are_none(store: DiffembedDocumentStore, wrong: dict[str, Any]) -> None:
    with pytest.raises(FilterError):
        store.filter_documents(wrong)


def test_nothing_is_deleted_without_a_filter(store: DiffembedDocumentStore) -> None:
    for act in (store.delete_by_filter, lambda filters: store.update_by_filter(filters, {"a": 1})):
        with pytest.raises(FilterError, match="the filter is empty"):
            act({})
    assert store.count_documents() == 7
    with pytest.raises(ValueError, match="has no content"):
        store.write_documents([Document(content=None, meta={"a": 1})])
    with pytest.raises(DuplicateDocumentError):
        store.write_documents([Document(id="n", content="One."), Document(id="n", content="Two.")])
    both = [Document(id="n", content="One."), Document(id="n", content="Two.")]
    assert store.write_documents(both, DuplicatePolicy.SKIP) == 1
    assert [d.content for d in store.filter_documents({"field": "id", "operator": "==", "value": "n"})] == ["One."]


def test_a_pipeline_is_written_down_and_read(tmp_path: Path, tiny_encoder: Encoder, tiny_model_dir: Path) -> None:
    folder = tmp_path / "notes.index"
    with Index.create(folder, model=tiny_encoder) as index:
        index.add([{"id": "a", "text": "The cat sleeps."}, {"id": "b", "text": "A dog reads."}])
    pipeline = Pipeline()
    pipeline.add_component("retriever", DiffembedRetriever(DiffembedDocumentStore(folder), top_k=1, hybrid="rrf"))
    read = Pipeline.loads(pipeline.dumps(), allowed_modules=["diffembed.integrations.haystack_store"])
    retriever = read.get_component("retriever")
    assert (retriever.top_k, retriever.hybrid) == (1, "rrf")
    assert retriever.to_dict() == pipeline.get_component("retriever").to_dict()
    retriever.document_store.index._encoder = tiny_encoder  # it cannot be loaded by its name
    assert [d.id for d in read.run({"retriever": {"query": "cat"}})["retriever"]["documents"]] == ["a"]
    with Index.open(folder) as opened, pytest.raises(InputError, match="cannot be written down"):
        DiffembedDocumentStore(opened).to_dict()
    with pytest.raises(InputError, match="a DiffembedDocumentStore was expected, not InMemoryDocumentStore"):
        DiffembedRetriever(InMemoryDocumentStore())  # type: ignore[arg-type]
