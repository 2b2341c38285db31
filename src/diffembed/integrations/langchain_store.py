"""LangChain: an index as a ``VectorStore``, and so as a retriever.

The index makes the vectors of texts and queries itself, with the model that it was made with; LangChain's embeddings
are not asked. Hybrid search, filters and everything else that a search takes can be given to it by name::

    store = DiffembedVectorStore("notes.index")
    store.add_documents(documents)
    retriever = store.as_retriever(search_kwargs={"k": 5, "hybrid": True, "filter": {"lang": "en"}})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.index import Hit
from diffembed.index.rescoring import cosines_with
from diffembed.index.segments import row_norms
from diffembed.integrations.bound import missing_extra
from diffembed.integrations.stored import metadata_of, opened_index, write_pieces

try:
    from langchain_core.documents import Document
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise missing_extra("langchain", "langchain-core", error) from error

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from diffembed.index.protocol import SearchIndex

__all__ = ["DiffembedVectorStore"]


class DiffembedVectorStore(VectorStore):
    """An index behind LangChain's interface.

    What a folder index holds of files is found too: such documents have ``source``, ``line_start`` and ``line_end`` in
    their metadata.

    Args:
        index: an ``Index``, a ``QdrantIndex``, or a folder, in which an index is made if there is none.
        model: of a new index; a name, a directory, or an ``Encoder``.
        source: the metadata key that says which document a chunk is from: chunks of one document that are added in one
            call are read together, as a contextual model was trained to. ``None`` reads each alone.

    Raises:
        InputError: an index of vectors only, a folder that holds something else.
    """

    def __init__(
        self, index: SearchIndex | str | Path, *, model: str | Encoder | None = None, source: str | None = None
    ) -> None:
        self.index = opened_index(index, model)
        self.source = source

    @property
    def embeddings(self) -> Embeddings | None:
        """The model of the index, as LangChain knows models."""
        from diffembed.integrations.langchain import DiffembedEmbeddings

        encoder = self.index.encoder
        return DiffembedEmbeddings(encoder) if isinstance(encoder, Encoder) else None

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Any = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        index: SearchIndex | str | Path | None = None,
        source: str | None = None,
        **options: Any,
    ) -> DiffembedVectorStore:
        """A store with these texts in it.

        Args:
            texts, metadatas, ids: as of :meth:`add_texts`.
            embedding: ``DiffembedEmbeddings``, whose model a new index is made with; ``None`` for the embedded model.
            index: where to keep them; a folder, or an open index.
            source: see the class.
            options: none.

        Raises:
            InputError: no index, or embeddings of another kind.
        """
        from diffembed.integrations.langchain import DiffembedEmbeddings

        if index is None:
            raise InputError("the texts need a place to stay; give index, a folder such as 'notes.index'")
        if options:
            raise InputError(f"there is no option {min(options)!r}; known are ids, index and source")
        if embedding is not None and not isinstance(embedding, DiffembedEmbeddings):
            raise InputError(
                f"an index of diffembed encodes with its own model, {type(embedding).__name__} was given; "
                "give DiffembedEmbeddings or None"
            )
        store = cls(index, model=None if embedding is None else embedding.encoder, source=source)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    # Writing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[str]:
        """Store texts, in the place of those with the same ids.

        Args:
            texts: each is one chunk, however long; the log says how many the model could not read whole.
            metadatas: of each; filters look at them.
            ids: one is drawn where there is none.
            options: none.

        Returns:
            The ids.
        """
        if options:
            raise InputError(f"there is no option {min(options)!r}; known are metadatas and ids")
        given = list(texts)
        told = [{} for _ in given] if metadatas is None else metadatas
        return write_pieces(self.index, ids, given, told, source=self.source)

    def delete(self, ids: list[str] | None = None, *, filter: Any = None, **options: Any) -> bool:
        """Take documents away by their ids, or all that a filter lets through."""
        if options:
            raise InputError(f"there is no option {min(options)!r}; known are ids and filter")
        self.index.delete(ids, where=filter)
        return True

    # Reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Those of these documents that are there; of a file, all its chunks as one text."""
        return [
            Document(id=found.key, page_content="\n".join(c.text for c in found.chunks), metadata=dict(found.metadata))
            for found in self.index.get(ids)
        ]

    def similarity_search(self, query: str, k: int = 4, *, filter: Any = None, **options: Any) -> list[Document]:
        """The documents closest to a query, best first.

        Args:
            query: what to look for.
            k: how many.
            filter: only documents that pass: a dict or a sentence (docs/index.md).
            options: of ``Index.search``: ``hybrid``, ``weight``, ``group``, ``offset``, ``min_score``, ``exact``.
        """
        return [_document(hit) for hit in self._hits(query, k, filter, options)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Any = None, **options: Any
    ) -> list[tuple[Document, float]]:
        """The same with their scores: cosines, -1 to 1, more is closer; with ``hybrid`` the fused score."""
        return [(_document(hit), hit.score) for hit in self._hits(query, k, filter, options)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Any = None, **options: Any
    ) -> list[Document]:
        """The documents closest to a vector of the index's model."""
        [found] = self.index.search_by_vectors(np.asarray([embedding], np.float32), top=k, where=filter, **options)
        return [_document(hit) for hit in found]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, *, filter: Any = None, **options: Any
    ) -> list[Document]:
        """Documents that are close to the query and unlike each other (Carbonell and Goldstein, 1998).

        Args:
            query: what to look for.
            k: how many.
            fetch_k: among how many of the closest.
            lambda_mult: weight of closeness, 0 to 1; what is left is that of being unlike.
            filter, options: as of :meth:`similarity_search`.
        """
        return self._diverse(self._hits(query, max(k, fetch_k), filter, options), k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Any = None,
        **options: Any,
    ) -> list[Document]:
        """The same, asked with a vector of the index's model."""
        query = np.asarray([embedding], np.float32)
        [found] = self.index.search_by_vectors(query, top=max(k, fetch_k), where=filter, **options)
        return self._diverse(found, k, lambda_mult)

    def _hits(self, query: str, k: int, where: Any, options: dict[str, Any]) -> list[Hit]:
        return self.index.search(query, top=k, where=where, sentences=False, **options)

    def _diverse(self, hits: Sequence[Hit], k: int, weight: float) -> list[Document]:
        """Those that add most: ``weight`` times the cosine with the query, less the rest times that with one chosen."""
        if not 0 <= weight <= 1:
            raise InputError(f"lambda_mult is {weight}; give a number from 0 to 1")
        if not hits:
            return []
        rows = {
            id_: row
            for found in self.index.get(list(dict.fromkeys(hit.key for hit in hits)), vectors=True)
            for id_, row in zip(found.chunk_ids, found.vectors if found.vectors is not None else (), strict=True)
        }
        hits = [hit for hit in hits if hit.chunk_id in rows]  # one may have been deleted since
        rows_ND = np.stack([rows[hit.chunk_id] for hit in hits])
        norms_N = row_norms(rows_ND)
        worth = weight * np.array([hit.cosine for hit in hits], np.float32)
        likeness = np.full(len(hits), -np.inf, np.float32)
        chosen: list[int] = []
        while len(chosen) < min(k, len(hits)):
            scores = worth - (1 - weight) * likeness if chosen else worth.copy()
            scores[chosen] = -np.inf
            chosen.append(int(np.argmax(scores)))
            likeness = np.maximum(likeness, cosines_with(rows_ND[chosen[-1]], rows_ND, norms_N))
        return [_document(hits[number]) for number in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: min(1.0, max(0.0, score))


def _document(hit: Hit) -> Document:
    return Document(id=hit.key, page_content=hit.text, metadata=metadata_of(hit))
