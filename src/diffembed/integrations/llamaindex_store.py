"""LlamaIndex: an index as a vector store.

Nodes are kept with the vectors that they come with (``DiffembedEmbedding``, given as ``embed_model`` or among the
transformations, makes them); a node without one gets its own. A query is encoded by the index::

    store = DiffembedVectorStore("notes.index")
    embed_model = DiffembedEmbedding(store.encoder)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    index.as_retriever(similarity_top_k=5, vector_store_query_mode="hybrid").retrieve("...")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.index import Hit
from diffembed.integrations.bound import missing_extra
from diffembed.integrations.stored import ALL, both, exists, metadata_of, opened_index, write_pieces

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode, TextNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as error:
    raise missing_extra("llamaindex", "llama-index-core", error) from error

if TYPE_CHECKING:
    from diffembed.index.encoding import TextEncoder
    from diffembed.index.protocol import SearchIndex

__all__ = ["DiffembedVectorStore"]

_NODE = ("_node_content", "_node_type")
_OWN = frozenset({*_NODE, "document_id", "doc_id", "ref_doc_id"})
_WORDS_ALONE = (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH)


class DiffembedVectorStore(BasePydanticVectorStore):
    """An index behind LlamaIndex's interface.

    Modes of a query: ``default``, ``hybrid`` (``alpha`` is the weight of meaning, 0.5 unless given), ``sparse`` and
    ``text_search`` (words alone decide the order). What an index holds of files is found too, as nodes of one chunk.

    Args:
        index: an ``Index``, a ``QdrantIndex``, or a folder, in which an index is made if there is none.
        model: of a new index; a name, a directory, or an ``Encoder``.

    Raises:
        InputError: an index of vectors only, a folder that holds something else.
    """

    stores_text: bool = True
    is_embedding_query: bool = False  # queries come as text: the index encodes them, and words count with hybrid
    flat_metadata: bool = False

    _index: Any = PrivateAttr()

    def __init__(self, index: SearchIndex | str | Path, *, model: str | Encoder | None = None) -> None:
        super().__init__()
        self._index = opened_index(index, model)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "DiffembedVectorStore"

    @property
    def client(self) -> Any:
        """The index."""
        return self._index

    @property
    def encoder(self) -> TextEncoder:
        """The model of the index, for ``DiffembedEmbedding``."""
        encoder: TextEncoder = self._index.encoder
        return encoder

    # Writing

    def add(self, nodes: Sequence[BaseNode], **options: Any) -> list[str]:
        """Store nodes, in the place of those with the same ids; returns the ids.

        Raises:
            InputError: a node without text, or with a vector of another width.
        """
        return write_pieces(
            self._index,
            [node.node_id for node in nodes],
            [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes],
            [_written(node) for node in nodes],
            vectors=[None if node.embedding is None else np.asarray(node.embedding, np.float32) for node in nodes],
        )

    def delete(self, ref_doc_id: str, **options: Any) -> None:
        """Take away all nodes of a document."""
        self._index.delete(where={"ref_doc_id": ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **options: Any
    ) -> None:
        """Take nodes away: by their ids, by a filter, or those that meet both."""
        wanted = _where(filters, node_ids=node_ids)
        if wanted is None:
            raise InputError("neither ids nor filters say which nodes to delete; clear() deletes all")
        self._index.delete(where=wanted)

    def clear(self) -> None:
        """Take all nodes away."""
        self._index.delete(where=ALL)

    # Reading

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by their ids, by a filter, those that meet both, or all."""
        found = self._index.scroll(_where(filters, node_ids=node_ids))
        return [_read(d.key, "\n".join(chunk.text for chunk in d.chunks), d.metadata) for d in found]

    def query(self, query: VectorStoreQuery, **options: Any) -> VectorStoreQueryResult:
        """The nodes closest to a query.

        Args:
            query: with a text, or with a vector of the index's model alone (``default`` mode).
            options: of ``Index.search``: ``exact``, ``offset``, ``min_score``.

        Raises:
            InputError: neither text nor vector, a mode or a filter that the index does not have.
        """
        mode = query.mode
        if mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID, *_WORDS_ALONE):
            raise InputError(f"there is no query mode {mode.value!r}; use default, hybrid, sparse or text_search")
        # LlamaIndex's retriever gives an empty list where it knows of no ids
        where = _where(query.filters, node_ids=query.node_ids or None, doc_ids=query.doc_ids or None)
        top = query.similarity_top_k
        if query.query_str:
            if mode == VectorStoreQueryMode.HYBRID:
                top = query.hybrid_top_k or top
                options = {"hybrid": True, "weight": 0.5 if query.alpha is None else query.alpha, **options}
            elif mode in _WORDS_ALONE:
                top = query.sparse_top_k or top
                options = {"hybrid": True, "weight": 0.0, **options}
            hits = self._index.search(query.query_str, top=top, where=where, sentences=False, **options)
        elif query.query_embedding is not None and mode == VectorStoreQueryMode.DEFAULT:
            asked = np.asarray([query.query_embedding], np.float32)
            [hits] = self._index.search_by_vectors(asked, top=top, where=where, **options)
        else:
            raise InputError(f"a query of the mode {mode.value!r} needs a text (query_str)")
        return VectorStoreQueryResult(
            nodes=[_of(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.key for hit in hits],
        )


def _written(node: BaseNode) -> dict[str, Any]:
    """The metadata of a node, and beside it the node without its metadata and text, as LlamaIndex's stores keep it."""
    metadata: dict[str, Any] = node_to_metadata_dict(node, remove_text=True)
    content = json.loads(metadata["_node_content"])
    content["metadata"] = {name: value for name, value in node.metadata.items() if name in _OWN}  # written over above
    metadata["_node_content"] = json.dumps(content, ensure_ascii=False)
    return metadata


def _of(hit: Hit) -> BaseNode:
    return _read(hit.key, hit.text, hit.metadata if "_node_content" in hit.metadata else metadata_of(hit))


def _read(key: str, text: str, metadata: Mapping[str, Any]) -> BaseNode:
    """A node as it was stored; of a record that was none a new one."""
    if "_node_content" not in metadata:
        return TextNode(id_=key, text=text, metadata=dict(metadata))
    node = metadata_dict_to_node({name: metadata[name] for name in _NODE}, text)
    node.metadata = {name: value for name, value in metadata.items() if name not in _OWN} | node.metadata
    return node


def _where(
    filters: MetadataFilters | None, *, node_ids: Sequence[str] | None = None, doc_ids: Sequence[str] | None = None
) -> dict[str, Any] | None:
    where = None if filters is None else _several(filters)
    if node_ids is not None:
        where = both(where, {"key": {"in": list(node_ids)}})
    return where if doc_ids is None else both(where, {"ref_doc_id": {"in": list(doc_ids)}})


def _several(filters: MetadataFilters) -> dict[str, Any]:
    parts = [_several(one) if isinstance(one, MetadataFilters) else _one(one) for one in filters.filters]
    if filters.condition == FilterCondition.NOT:
        return {"not": {"or": parts}}
    return {"or" if filters.condition == FilterCondition.OR else "and": parts}


_SIMPLE = {
    FilterOperator.EQ: "eq",
    FilterOperator.NE: "ne",
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
    FilterOperator.IN: "in",
    FilterOperator.ANY: "in",  # of a field that is a list: one of its elements
    FilterOperator.CONTAINS: "eq",
}


def _one(one: MetadataFilter) -> dict[str, Any]:
    if one.operator == FilterOperator.NIN:
        return {"not": {one.key: {"in": one.value}}}
    if one.operator == FilterOperator.ALL:
        values = one.value if isinstance(one.value, list) else [one.value]
        return {"and": [{one.key: value} for value in values]}
    if one.operator == FilterOperator.IS_EMPTY:
        return {"not": exists(one.key)}
    if one.operator not in _SIMPLE:
        raise InputError(
            f"filters of an index have no {one.operator.value!r} (field {one.key!r}); "
            "ask for words with the query mode hybrid or text_search"
        )
    return {one.key: {_SIMPLE[one.operator]: one.value}}
