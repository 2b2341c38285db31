"""The index as LlamaIndex's vector store, beside the store that LlamaIndex brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.index import Index
from diffembed.index.protocol import SearchIndex

pytest.importorskip("llama_index.core")

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from diffembed.integrations.llamaindex import DiffembedEmbedding, DiffembedVectorStore


@pytest.fixture
def nodes(library: dict[str, list[str]]) -> list[TextNode]:
    return [
        TextNode(
            id_=f"{name}-{place}",
            text=text,
            metadata={
                "name": name,
                "place": place,
                "tags": ["first", name] if place == 0 else [name],
                "doc_id": "my own",
            },
            excluded_embed_metadata_keys=["name", "place", "tags"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name)},
        )
        for name, chunks in library.items()
        for place, text in enumerate(chunks)
    ]


@pytest.fixture
def embed_model(tiny_encoder: Encoder) -> DiffembedEmbedding:
    return DiffembedEmbedding(tiny_encoder)


@pytest.fixture
def index(empty_index: SearchIndex, nodes: list[TextNode], embed_model: DiffembedEmbedding) -> VectorStoreIndex:
    context = StorageContext.from_defaults(vector_store=DiffembedVectorStore(empty_index))
    return VectorStoreIndex(nodes, storage_context=context, embed_model=embed_model)


def filters(*parts: Any, condition: FilterCondition = FilterCondition.AND) -> MetadataFilters:
    made = [part if isinstance(part, MetadataFilters) else MetadataFilter(**part) for part in parts]
    return MetadataFilters(filters=made, condition=condition)


def test_it_ranks_and_scores_as_llamaindexs_own_store(
    index: VectorStoreIndex, nodes: list[TextNode], embed_model: DiffembedEmbedding
) -> None:
    theirs = VectorStoreIndex(nodes, embed_model=embed_model)  # a SimpleVectorStore
    assert isinstance(theirs.vector_store, SimpleVectorStore)
    for query in ("ships in winter", "baking with flour", "Dear Anna"):
        expected = {n.node.node_id: n.score for n in theirs.as_retriever(similarity_top_k=7).retrieve(query)}
        found = index.as_retriever(similarity_top_k=7).retrieve(query)
        assert {n.node.node_id for n in found} == set(expected)
        for one in found:
            assert one.score == pytest.approx(expected[one.node.node_id], abs=5e-3)


def test_nodes_come_back_as_they_were(index: VectorStoreIndex, nodes: list[TextNode]) -> None:
    by_id = {node.node_id: node for node in nodes}
    found = index.vector_store.get_nodes(["book-1", "recipe-0"])
    assert [n.node_id for n in found] != []
    for node in [*found, *(n.node for n in index.as_retriever(similarity_top_k=7).retrieve("butter"))]:
        given = by_id[node.node_id]
        assert node.get_content() == given.text
        assert node.metadata == given.metadata
        assert node.ref_doc_id == given.ref_doc_id
        assert node.excluded_embed_metadata_keys == given.excluded_embed_metadata_keys
    assert len(index.vector_store.get_nodes()) == len(nodes)


EQ, NE, GTE, LT = FilterOperator.EQ, FilterOperator.NE, FilterOperator.GTE, FilterOperator.LT


@pytest.mark.parametrize(
    "where",
    [
        filters({"key": "name", "value": "book"}),
        filters({"key": "name", "value": "book", "operator": NE}),
        filters({"key": "place", "value": 1, "operator": GTE}),
        filters({"key": "place", "value": 1, "operator": LT}, {"key": "name", "value": "recipe"}),
        filters({"key": "name", "value": ["book", "letter"], "operator": FilterOperator.IN}),
        filters({"key": "name", "value": ["book", "letter"], "operator": FilterOperator.NIN}),
        filters({"key": "tags", "value": "first", "operator": FilterOperator.CONTAINS}),
        filters({"key": "tags", "value": ["first", "book"], "operator": FilterOperator.ANY}),
        filters({"key": "tags", "value": ["first", "book"], "operator": FilterOperator.ALL}),
        filters({"key": "nothing", "value": None, "operator": FilterOperator.IS_EMPTY}),
        filters({"key": "name", "value": None, "operator": FilterOperator.IS_EMPTY}),
        filters({"key": "place", "value": 2}, {"key": "name", "value": "letter"}, condition=FilterCondition.OR),
    ],
    ids=range(12),
)
def test_filters_mean_what_they_mean_in_llamaindexs_own_store(
    index: VectorStoreIndex, nodes: list[TextNode], embed_model: DiffembedEmbedding, where: MetadataFilters
) -> None:
    theirs = VectorStoreIndex(nodes, embed_model=embed_model)
    expected = {n.node.node_id for n in theirs.as_retriever(similarity_top_k=9, filters=where).retrieve("x")}
    found = index.as_retriever(similarity_top_k=9, filters=where).retrieve("x")
    assert {n.node.node_id for n in found} == expected
    assert {n.node_id for n in index.vector_store.get_nodes(filters=where)} == expected


def test_filters_that_llamaindexs_own_store_has_not(index: VectorStoreIndex) -> None:
    ends = filters({"key": "place", "value": 0}, {"key": "place", "value": 2}, condition=FilterCondition.OR)
    nested = filters({"key": "name", "value": "book"}, ends)
    found = index.as_retriever(similarity_top_k=9, filters=nested).retrieve("x")
    assert {n.node.node_id for n in found} == {"book-0", "book-2"}
    neither = filters({"key": "name", "value": "book"}, {"key": "place", "value": 0}, condition=FilterCondition.NOT)
    assert {n.node_id for n in index.vector_store.get_nodes(filters=neither)} == {"recipe-1", "recipe-2"}
    with pytest.raises(InputError, match="no 'text_match'"):
        index.vector_store.get_nodes(
            filters=filters({"key": "name", "value": "bo", "operator": FilterOperator.TEXT_MATCH})
        )


def test_modes_of_a_query(index: VectorStoreIndex, embed_model: DiffembedEmbedding) -> None:
    hybrid = index.as_retriever(similarity_top_k=1, vector_store_query_mode="hybrid", alpha=0.1)
    assert hybrid.retrieve("lighthouse")[0].node.node_id == "book-0"
    words = index.as_retriever(similarity_top_k=1, vector_store_query_mode="text_search")
    assert words.retrieve("eggs")[0].node.node_id == "recipe-2"
    store = index.vector_store
    vector = embed_model.get_query_embedding("eggs")
    by_vector = store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=3))
    by_text = store.query(VectorStoreQuery(query_str="eggs", similarity_top_k=3))
    assert by_vector.ids == by_text.ids
    assert by_vector.similarities == pytest.approx(by_text.similarities, abs=5e-3)
    only = VectorStoreQuery(query_str="eggs", similarity_top_k=9, doc_ids=["recipe"], node_ids=["recipe-1", "book-0"])
    assert store.query(only).ids == ["recipe-1"]
    for query, said in (
        (VectorStoreQuery(query_str="x", mode=VectorStoreQueryMode.MMR), "no query mode 'mmr'"),
        (VectorStoreQuery(query_embedding=vector, mode=VectorStoreQueryMode.HYBRID), "needs a text"),
        (VectorStoreQuery(), "needs a text"),
    ):
        with pytest.raises(InputError, match=said):
            store.query(query)


def test_deleting(index: VectorStoreIndex) -> None:
    store = index.vector_store
    index.delete_ref_doc("book")
    assert {n.ref_doc_id for n in store.get_nodes()} == {"recipe", "letter"}
    store.delete_nodes(["recipe-0"])
    store.delete_nodes(filters=filters({"key": "place", "value": 1}))
    store.delete_nodes(["recipe-2", "letter-0"], filters({"key": "name", "value": "recipe"}))
    assert [n.node_id for n in store.get_nodes()] == ["letter-0"]
    with pytest.raises(InputError, match="neither ids nor filters"):
        store.delete_nodes()
    store.clear()
    assert store.get_nodes() == []


def test_a_store_that_is_there_is_opened(tmp_path: Path, tiny_encoder: Encoder) -> None:
    (tmp_path / "a.md").write_text("# Cats\n\nThe cat sleeps.\n")
    Index.build([tmp_path / "a.md"], tmp_path / "notes.index", encoder=tiny_encoder).close()
    store = DiffembedVectorStore(tmp_path / "notes.index")
    store.client._encoder = tiny_encoder  # it cannot be loaded by its name
    opened = VectorStoreIndex.from_vector_store(store, embed_model=DiffembedEmbedding(store.encoder))  # type: ignore[arg-type]
    [found] = opened.as_retriever(similarity_top_k=1).retrieve("cat")
    assert found.node.metadata["source"] == str(tmp_path / "a.md")
    assert "The cat sleeps." in found.node.get_content()
    # a node without a vector gets its own
    assert store.add([TextNode(id_="bare", text="A dog reads.")]) == ["bare"]
    assert store.get_nodes(["bare"])[0].get_content() == "A dog reads."
