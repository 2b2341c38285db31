"""Haystack: a text embedder, a document embedder, and one that reads the chunks of a document together.

They stand where Haystack's own embedders stand: the text embedder before a retriever, a document embedder before the
writer of a store (one with ``embedding_similarity_function="cosine"``). The model is loaded by ``warm_up``, which a
pipeline calls, or at the first ``run``.
"""

# no "from __future__ import annotations": Haystack compares the types of what it connects, not their names
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from diffembed.errors import InputError
from diffembed.integrations.bound import BoundEncoder, as_lists, bind, missing_extra, owner_of
from diffembed.integrations.haystack_store import (
    DiffembedDocumentStore,
    DiffembedEmbeddingRetriever,
    DiffembedRetriever,
)
from diffembed.vectors.embeddings import Embeddings, VectorDtype

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise missing_extra("haystack", "haystack-ai", error) from error

__all__ = [
    "DiffembedContextualDocumentEmbedder",
    "DiffembedDocumentEmbedder",
    "DiffembedDocumentStore",
    "DiffembedEmbeddingRetriever",
    "DiffembedRetriever",
    "DiffembedTextEmbedder",
]


class _Embedder:
    """The model's options, its loading, and how Haystack writes a pipeline down.

    Args:
        model: ``default``, a directory or a hub id.
        dtype: ``float32``; ``int8`` (floats of integer value, -127 to 127); ``binary`` (-1.0 and 1.0 a dimension).
        dims: one of the model's widths; ``None`` for the widest.
        truncate: cut texts over the model's limit (the log says how many) instead of refusing them.
        windows: read them through several windows instead.
        runtime, precision, device, threads: of ``Encoder.load``.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        windows: bool = False,
        runtime: Literal["auto", "onnx", "torch"] = "auto",
        precision: Literal["auto", "int8", "fp32", "bf16", "fp16"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int | None = None,
    ) -> None:
        self._model: dict[str, Any] = {
            "model": str(model),
            "dtype": dtype,
            "dims": dims,
            "truncate": truncate,
            "windows": windows,
            "runtime": runtime,
            "precision": precision,
            "device": device,
            "threads": threads,
        }
        self._loaded: BoundEncoder | None = None

    def warm_up(self) -> None:
        """Load the model, once."""
        self._bound()

    def to_dict(self) -> dict[str, Any]:
        """What ``from_dict`` makes an equal component of."""
        written: dict[str, Any] = default_to_dict(self, **self._model, **self._own_options())
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """A component as ``to_dict`` described it."""
        return default_from_dict(cls, data)

    def _own_options(self) -> dict[str, Any]:
        return {}

    def _bound(self) -> BoundEncoder:
        if self._loaded is None:
            self._loaded = bind(**self._model)
        return self._loaded


class _DocumentEmbedder(_Embedder):
    """What is read of a document.

    Args:
        model: and the other options of every embedder.
        meta_fields_to_embed: values of these meta fields are put before the content.
        embedding_separator: stands between them.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self._fields = list(meta_fields_to_embed)
        self._separator = embedding_separator

    def _own_options(self) -> dict[str, Any]:
        return {"meta_fields_to_embed": self._fields, "embedding_separator": self._separator}

    def _texts(self, documents: list[Document]) -> list[str]:
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise InputError("a list of Haystack documents was expected; a query goes to DiffembedTextEmbedder")
        texts = []
        for document in documents:
            before = [str(document.meta[name]) for name in self._fields if document.meta.get(name)]
            texts.append(self._separator.join([*before, document.content or ""]))
        return texts


class _ContextualDocumentEmbedder(_DocumentEmbedder):
    """Which documents are chunks of one whole.

    Args:
        model: and the other options of a document embedder.
        source: the meta field that names the whole document (``DocumentSplitter`` writes ``source_id``).
        place: the meta field with a chunk's place in it; where a chunk has none, the order given is taken for all.
    """

    def __init__(
        self, model: str = "default", *, source: str = "source_id", place: str = "split_id", **options: Any
    ) -> None:
        super().__init__(model, **options)
        self._source = source
        self._place = place

    def _own_options(self) -> dict[str, Any]:
        return {**super()._own_options(), "source": self._source, "place": self._place}

    def _read(self, documents: list[Document]) -> Embeddings:
        texts = self._texts(documents)
        owners = [owner_of(document.meta, self._source, number) for number, document in enumerate(documents)]
        places = [document.meta[self._place] for document in documents if self._place in document.meta]
        return self._bound().together(texts, owners, places if len(places) == len(documents) else None)


# Haystack's decorator makes the class anew, in which super() would not find its place: hence the plain bases above.


@component
class DiffembedTextEmbedder(_Embedder):
    """Embeds a query. Options: ``_Embedder``."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed a query.

        Args:
            text: the query.

        Returns:
            ``embedding``: its vector.
        """
        if not isinstance(text, str):
            raise InputError(f"a query is a string, {type(text).__name__} was given; documents have an embedder too")
        return {"embedding": as_lists(self._bound().queries([text]))[0]}


@component
class DiffembedDocumentEmbedder(_DocumentEmbedder):
    """Embeds documents, each read alone. Options: ``_Embedder`` and ``_DocumentEmbedder``."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed documents.

        Args:
            documents: none without content.

        Returns:
            ``documents``: copies that have their vectors.
        """
        return {"documents": _with_vectors(documents, self._bound().documents(self._texts(documents)))}


@component
class DiffembedContextualDocumentEmbedder(_ContextualDocumentEmbedder):
    """Embeds chunks, those of one whole document read together (late chunking).

    Options: ``_Embedder``, ``_DocumentEmbedder`` and ``_ContextualDocumentEmbedder``.
    """

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed chunks.

        Args:
            documents: chunks as a splitter gives them, all of a whole document in one call.

        Returns:
            ``documents``: copies that have their vectors, in the order given.
        """
        return {"documents": _with_vectors(documents, self._read(documents))}


def _with_vectors(documents: list[Document], vectors: Embeddings) -> list[Document]:
    rows = as_lists(vectors)
    return [replace(document, embedding=row) for document, row in zip(documents, rows, strict=True)]
