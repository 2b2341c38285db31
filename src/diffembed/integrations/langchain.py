"""LangChain: the model as an ``Embeddings``, and chunks of one source read together.

``DiffembedEmbeddings`` goes wherever LangChain takes embeddings; its async methods are LangChain's own (a thread). A
vector store hands over bare texts, so what a contextual model needs to know, which chunks belong together, is lost on
the way: :func:`add_chunks` puts chunks into any store with the vectors of whole documents.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.integrations.bound import as_lists, bind, missing_extra, owner_of
from diffembed.integrations.langchain_store import DiffembedVectorStore
from diffembed.vectors.embeddings import VectorDtype

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise missing_extra("langchain", "langchain-core", error) from error

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.vectorstores import VectorStore

__all__ = ["DiffembedEmbeddings", "DiffembedVectorStore", "add_chunks"]

Vector = list[float]


class DiffembedEmbeddings(Embeddings):
    """A model behind LangChain's interface.

    Args:
        model: ``default``, a directory, a hub id, or an ``Encoder`` that was loaded with options of your own.
        dtype: ``float32``; ``int8`` (floats of integer value, -127 to 127); ``binary`` (-1.0 and 1.0 a dimension).
            Compare by cosine, as vector stores do unless told otherwise.
        dims: one of the model's widths; ``None`` for the widest.
        truncate: cut texts over the model's limit (the log says how many) instead of refusing them.
        windows: read them through several windows instead.

    Raises:
        ModelError: no such model, or it is damaged.
    """

    def __init__(
        self,
        model: str | Path | Encoder = "default",
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        windows: bool = False,
    ) -> None:
        self._bound = bind(model, dtype=dtype, dims=dims, truncate=truncate, windows=windows)
        self._filling = Lock()
        self._read: dict[str, deque[Vector]] | None = None

    @property
    def encoder(self) -> Encoder:
        """The loaded model."""
        return self._bound.encoder

    def embed_documents(self, texts: list[str]) -> list[Vector]:
        """One vector a text, each read alone."""
        if self._read is not None:
            return [self._hand_out(text) for text in texts]
        return as_lists(self._bound.documents(texts))

    def embed_query(self, text: str) -> Vector:
        """The vector of a search query."""
        return as_lists(self._bound.queries([text]))[0]

    def embed_chunked_documents(self, documents: list[list[str]]) -> list[list[Vector]]:
        """Vectors of every document's chunks, each having read its whole document (late chunking)."""
        read = self._bound.chunks(documents)
        rows = iter(as_lists(read))
        return [[next(rows) for _ in chunks] for chunks in documents]

    def embed_chunks(self, chunks: Sequence[Document], *, source: str = "source") -> list[Vector]:
        """Vectors of chunks in the order given; those of one source are read together, in that order.

        Args:
            chunks: as a text splitter gives them.
            source: the metadata key that says which document a chunk is from.

        Raises:
            InputError: a chunk without that key.
        """
        owners = [owner_of(chunk.metadata, source, number) for number, chunk in enumerate(chunks)]
        return as_lists(self._bound.together([chunk.page_content for chunk in chunks], owners))

    @contextmanager
    def _handing_out(self, texts: Sequence[str], vectors: Sequence[Vector]) -> Iterator[None]:
        """While this lasts, ``embed_documents`` gives these vectors: stores ask in their own batches and threads."""
        with self._filling:
            read: defaultdict[str, deque[Vector]] = defaultdict(deque)
            for text, vector in zip(texts, vectors, strict=True):
                read[text].append(vector)
            self._read = dict(read)
            try:
                yield
            finally:
                self._read = None

    def _hand_out(self, text: str) -> Vector:
        assert self._read is not None
        held = self._read.get(text)
        if held is None:
            raise InputError(
                f"a vector store is being filled with chunks that were read together, and {text[:60]!r} is none of "
                "them; the store changes its texts, or something else embeds documents at the same time"
            )
        held.rotate(-1)  # equal texts of several documents: the first is asked for first
        return held[-1]


def add_chunks(store: VectorStore, chunks: Sequence[Document], *, source: str = "source", **options: Any) -> list[str]:
    """Put chunks into a vector store whose embeddings are ``DiffembedEmbeddings``; those of one source read together.

    Args:
        store: any LangChain vector store.
        chunks: as a text splitter gives them, in reading order.
        source: the metadata key that says which document a chunk is from.
        options: for the store's own ``add_documents``, such as ``ids``.

    Returns:
        What ``add_documents`` returns: the ids.

    Raises:
        InputError: the store has other embeddings; a chunk without that key.
    """
    embeddings = store.embeddings
    if not isinstance(embeddings, DiffembedEmbeddings):
        raise InputError(
            f"the store embeds with {type(embeddings).__name__}; to have chunks read together, make it with "
            "DiffembedEmbeddings"
        )
    vectors = embeddings.embed_chunks(chunks, source=source)
    with embeddings._handing_out([chunk.page_content for chunk in chunks], vectors):
        ids: list[str] = store.add_documents(list(chunks), **options)
    return ids
