"""Haystack: an index as a document store, and retrievers over it.

The index encodes documents that come without an embedding, and queries, with the model that it was made with::

    store = DiffembedDocumentStore("notes.index")
    store.write_documents(documents)
    DiffembedRetriever(store, hybrid=True).run("how do I undo a commit")["documents"]
"""

# no "from __future__ import annotations": Haystack compares the types of what it connects, not their names
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import InputError
from diffembed.index import Hit
from diffembed.index.documents import Document as Stored
from diffembed.index.protocol import SearchIndex
from diffembed.integrations.bound import missing_extra
from diffembed.integrations.stored import ALL, exists, metadata_of, opened_index, write_pieces

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
    from haystack.errors import FilterError
except ImportError as error:
    raise missing_extra("haystack", "haystack-ai", error) from error

__all__ = ["DiffembedDocumentStore", "DiffembedEmbeddingRetriever", "DiffembedRetriever"]

Filters = dict[str, Any]
_ORDERS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_LOGIC = {"AND", "OR", "NOT"}


class DiffembedDocumentStore:
    """An index behind Haystack's interface.

    Embeddings of documents must be of the index's model and width; a document without one gets its own. Of what comes
    back ``embedding`` is left out.

    Args:
        index: a folder, in which an index is made if there is none. Or an ``Index`` or a ``QdrantIndex``; then the
            store cannot be written into a pipeline's file.
        model: of a new index: a name or a directory.
        source: the meta field that says which whole document a document is a chunk of (``DocumentSplitter`` writes
            ``source_id``): chunks of one that are written in one call are read together. ``None`` reads each alone.

    Raises:
        InputError: an index of vectors only, a folder that holds something else.
    """

    def __init__(self, index: str | Path | SearchIndex, *, model: str | None = None, source: str | None = None) -> None:
        self._options: dict[str, Any] = {"index": index, "model": model, "source": source}
        self.source = source
        self.index: SearchIndex = opened_index(index, model)

    def to_dict(self) -> dict[str, Any]:
        """What ``from_dict`` makes an equal store of.

        Raises:
            InputError: the store was made with an open index.
        """
        index = self._options["index"]
        if not isinstance(index, str | Path):
            raise InputError("a store over an open index cannot be written down; make it with the folder of the index")
        written: dict[str, Any] = default_to_dict(self, **{**self._options, "index": str(index)})
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "DiffembedDocumentStore":
        """A store as ``to_dict`` described it."""
        store: DiffembedDocumentStore = default_from_dict(cls, data)
        return store

    # Reading

    def count_documents(self) -> int:
        """How many there are."""
        return self.index.count()

    def count_documents_by_filter(self, filters: Filters) -> int:
        """How many pass."""
        return self.index.count(_where(filters))

    def filter_documents(self, filters: Filters | None = None) -> list[Document]:
        """All documents that pass, or all."""
        return [_whole(found) for found in self.index.scroll(_where(filters))]

    # Writing

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Store documents.

        Args:
            documents: each with content; its ``embedding``, if it has one, is of the index's model.
            policy: of an id that is there already: ``FAIL`` (also ``NONE``), ``SKIP`` or ``OVERWRITE``.

        Returns:
            How many were written.

        Raises:
            ValueError: not a list of documents, or one without content.
            DuplicateDocumentError: an id that is there already; nothing is written then.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise ValueError("a list of Haystack documents was expected")
        empty = [document.id for document in documents if not (document.content or "").strip()]
        if empty:
            raise ValueError(f"document {empty[0]} has no content, so there is nothing to read; leave it out")
        if policy != DuplicatePolicy.OVERWRITE:
            documents = self._new(documents, skip=policy == DuplicatePolicy.SKIP)
        vectors = [None if d.embedding is None else np.asarray(d.embedding, np.float32) for d in documents]
        write_pieces(
            self.index,
            [document.id for document in documents],
            [document.content or "" for document in documents],
            [document.meta for document in documents],
            vectors=vectors if any(vector is not None for vector in vectors) else None,
            source=self.source,
        )
        return len(documents)

    def _new(self, documents: list[Document], *, skip: bool) -> list[Document]:
        """Those that are not there yet, the first of each id."""
        seen = {found.key for found in self.index.get([document.id for document in documents])}
        new = []
        for document in documents:
            if document.id not in seen:
                new.append(document)
                seen.add(document.id)
            elif not skip:
                raise DuplicateDocumentError(f"document {document.id} is there already; OVERWRITE or SKIP it")
        return new

    def update_by_filter(self, filters: Filters, meta: Mapping[str, Any]) -> int:
        """Give all documents that pass further metadata; returns how many there were."""
        found = list(self.index.scroll(_required(filters), vectors=True))
        records = ({**one.to_record(), "metadata": {**one.metadata, **meta}} for one in found)
        self.index.upsert(records)
        return len(found)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Take documents away; ids that are not there are passed over."""
        self.index.delete(document_ids)

    def delete_by_filter(self, filters: Filters) -> int:
        """Take all documents away that pass; returns how many there were."""
        return self.index.delete(where=_required(filters))

    def delete_all_documents(self) -> None:
        """Take all documents away."""
        self.index.delete(where=ALL)


class _Retriever:
    """What retrievers share.

    Args:
        document_store: to search.
        filters: of every search, in Haystack's form.
        top_k: how many documents.
        min_score: leave out what scores less.
        filter_policy: whether the filters of a search replace these or come on top of them.
    """

    def __init__(
        self,
        document_store: DiffembedDocumentStore,
        *,
        filters: Filters | None = None,
        top_k: int = 10,
        min_score: float | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, DiffembedDocumentStore):
            raise InputError(f"a DiffembedDocumentStore was expected, not {type(document_store).__name__}")
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.min_score = min_score
        policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy
        self.filter_policy = policy

    def _own_options(self) -> dict[str, Any]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        """What ``from_dict`` makes an equal component of."""
        written: dict[str, Any] = default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            min_score=self.min_score,
            filter_policy=self.filter_policy.value,
            **self._own_options(),
        )
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """A component as ``to_dict`` described it."""
        options = data["init_parameters"]
        if isinstance(options["document_store"], dict):
            store = DiffembedDocumentStore.from_dict(options["document_store"])
            data = {**data, "init_parameters": {**options, "document_store": store}}
        return default_from_dict(cls, data)

    def _asked(self, filters: Filters | None, top_k: int | None) -> dict[str, Any]:
        wanted = apply_filter_policy(self.filter_policy, self.filters, filters)
        top = self.top_k if top_k is None else top_k
        return {"top": top, "where": _where(wanted), "min_score": self.min_score}


class _TextRetriever(_Retriever):
    """What is asked with words.

    Args:
        document_store: and the other options of every retriever.
        hybrid: take the words of the query into account too (``"weighted"`` or ``True``, ``"rrf"``).
        weight: of the cosine, 0 to 1, for ``"weighted"``.
    """

    def __init__(
        self,
        document_store: DiffembedDocumentStore,
        *,
        hybrid: bool | str = False,
        weight: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(document_store, **options)
        self.hybrid = hybrid
        self.weight = weight

    def _own_options(self) -> dict[str, Any]:
        return {"hybrid": self.hybrid, "weight": self.weight}


@component
class DiffembedRetriever(_TextRetriever):
    """Finds documents by a query in words, which the index encodes. Options: ``_Retriever`` and ``_TextRetriever``."""

    @component.output_types(documents=list[Document])
    def run(self, query: str, filters: Filters | None = None, top_k: int | None = None) -> dict[str, list[Document]]:
        """Search.

        Args:
            query: what to look for.
            filters, top_k: in the place of those of the component (see ``filter_policy``).

        Returns:
            ``documents``: best first, each with its score.
        """
        hits = self.document_store.index.search(
            query,
            hybrid=self.hybrid,  # type: ignore[arg-type]
            weight=self.weight,
            sentences=False,
            **self._asked(filters, top_k),
        )
        return {"documents": [_hit(hit) for hit in hits]}


@component
class DiffembedEmbeddingRetriever(_Retriever):
    """Finds documents by the vector of a query (``DiffembedTextEmbedder``). Options: ``_Retriever``."""

    @component.output_types(documents=list[Document])
    def run(
        self, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Search.

        Args:
            query_embedding: of the index's model.
            filters, top_k: in the place of those of the component (see ``filter_policy``).

        Returns:
            ``documents``: best first, each with its score.
        """
        query = np.asarray([query_embedding], np.float32)
        [hits] = self.document_store.index.search_by_vectors(query, **self._asked(filters, top_k))
        return {"documents": [_hit(hit) for hit in hits]}


def _whole(found: Stored) -> Document:
    return Document(id=found.key, content="\n".join(c.text for c in found.chunks), meta=dict(found.metadata))


def _hit(hit: Hit) -> Document:
    return Document(id=hit.key, content=hit.text, meta=metadata_of(hit), score=hit.score)


def _required(filters: Filters) -> Filters:
    where = _where(filters)
    if where is None:
        raise FilterError("the filter is empty, so every document would be meant; say which ones")
    return where


def _where(filters: Filters | None) -> Filters | None:
    """A filter in Haystack's form as one of the index.

    Raises:
        FilterError: a part that is missing, or what cannot be compared.
    """
    return _condition(filters) if filters else None


def _condition(given: Any) -> Filters:
    if not isinstance(given, dict):
        raise FilterError(f"a filter is {given!r}; give a dict")
    if "operator" not in given:
        raise FilterError(f"'operator' is missing in {given}")
    if "field" not in given:
        return _logic(given)
    if "value" not in given:
        raise FilterError(f"'value' is missing in {given}")
    return _comparison(_field(str(given["field"])), str(given["operator"]), given["value"])


def _logic(given: Filters) -> Filters:
    operator = given["operator"]
    if operator not in _LOGIC:
        raise FilterError(f"'field' is missing in {given}, or {operator!r} is none of AND, OR and NOT")
    if "conditions" not in given:
        raise FilterError(f"'conditions' is missing in {given}")
    parts = list(_each(given["conditions"]))
    return {"not": {"and": parts}} if operator == "NOT" else {operator.lower(): parts}


def _each(conditions: Any) -> Iterator[Filters]:
    if not isinstance(conditions, list):
        raise FilterError(f"'conditions' is {conditions!r}; give a list")
    for one in conditions:
        yield _condition(one)


def _field(name: str) -> str:
    if name == "id":
        return "key"
    if name in ("content", "blob", "score", "embedding", "sparse_embedding"):
        raise FilterError(
            f"filters look at the id and the meta of documents, not at {name!r}; search for words instead"
        )
    return f"metadata.{name.removeprefix('meta.')}"


def _comparison(field: str, operator: str, value: Any) -> Filters:
    if operator in ("==", "!="):
        found = {"not": exists(field)} if value is None else {field: _scalar(field, value)}
        return found if operator == "==" else {"not": found}
    if operator in ("in", "not in"):
        if not isinstance(value, list):
            raise FilterError(f"{operator!r} of {field} has {value!r}; give a list")
        found = {field: {"in": [_scalar(field, one) for one in value]}}
        return found if operator == "in" else {"not": found}
    if operator not in _ORDERS:
        raise FilterError(f"there is no operator {operator!r}; use ==, !=, >, >=, <, <=, in, not in")
    if value is None:
        return {"or": []}  # nothing is more or less than nothing
    return {field: {_ORDERS[operator]: _ordered(field, operator, value)}}


def _scalar(field: str, value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value.isoformat()
    if value is not None and not isinstance(value, str | int | float | bool):
        raise FilterError(f"{field} is compared with {value!r}; give a string, a number or a boolean")
    return value


def _ordered(field: str, operator: str, value: Any) -> Any:
    """A number, or a time as text: ISO 8601 sorts as it is written, other texts have no order."""
    value = _scalar(field, value)
    if isinstance(value, bool):
        raise FilterError(f"{field} {operator} {value!r} has no meaning; use == or !=")
    if isinstance(value, str):
        try:
            datetime.datetime.fromisoformat(value)
        except ValueError:
            raise FilterError(f"{field} {operator} {value!r}: an order needs a number or a time (ISO 8601)") from None
    return value
