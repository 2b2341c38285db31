"""LangChain's own vector store over our vectors: searching, chunks read together, stores that ask as they like."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from diffembed.encoder import Encoder, TextTooLongError
from diffembed.errors import InputError
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.similarity import similarity

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from diffembed.integrations.langchain import DiffembedEmbeddings, add_chunks


@pytest.fixture
def chunks(library: dict[str, list[str]]) -> list[Document]:
    """The chunks of all documents in turn, as several loaders at work would give them."""
    return [
        Document(page_content=library[name][place], metadata={"source": name, "place": place})
        for place in range(3)
        for name in library
        if place < len(library[name])
    ]


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_langchains_search_ranks_and_scores_as_ours(
    dtype: VectorDtype, tiny_encoder: Encoder, corpus: list[str]
) -> None:
    store = InMemoryVectorStore(DiffembedEmbeddings(tiny_encoder, dtype=dtype, dims=32))
    store.add_texts(corpus)
    queries = ["search engines", corpus[3]]
    ours = similarity(
        tiny_encoder.encode_queries(queries, dtype=dtype, dims=32),
        tiny_encoder.encode_documents(corpus, dtype=dtype, dims=32),
    )
    for query, scores in zip(queries, ours, strict=True):
        found = {hit.page_content: score for hit, score in store.similarity_search_with_score(query, k=len(corpus))}
        assert [found[text] for text in corpus] == pytest.approx(scores.tolist(), abs=1e-5)
    assert store.similarity_search(corpus[3], k=1)[0].page_content == corpus[3]


def test_it_is_an_embeddings_with_async_methods(tiny_encoder: Encoder, corpus: list[str]) -> None:
    embeddings = DiffembedEmbeddings(tiny_encoder, dtype="int8")
    assert isinstance(embeddings, Embeddings)
    later = asyncio.run(embeddings.aembed_documents(corpus))
    assert later == embeddings.embed_documents(corpus)
    assert asyncio.run(embeddings.aembed_query("cat")) == embeddings.embed_query("cat")
    assert all(number == int(number) and abs(number) <= 127 for row in later for number in row)


def test_chunked_documents_have_read_their_whole_document(tiny_encoder: Encoder, library: dict[str, list[str]]) -> None:
    embeddings = DiffembedEmbeddings(tiny_encoder)
    read = embeddings.embed_chunked_documents(list(library.values()))
    expected = tiny_encoder.encode_chunks(list(library.values())).documents()
    assert [len(vectors) for vectors in read] == [3, 3, 1]
    for ours, theirs in zip(expected, read, strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)
    assert not np.allclose(read[0][0], embeddings.embed_documents([library["book"][0]])[0], atol=1e-3)


def vectors_of(store: InMemoryVectorStore) -> dict[tuple[str, int], list[float]]:
    return {(held["metadata"]["source"], held["metadata"]["place"]): held["vector"] for held in store.store.values()}


class WorkerStore(InMemoryVectorStore):
    """A store that embeds two texts at a time, each pair in a thread of its own, as hosted stores do."""

    def add_documents(self, documents: list[Document], ids: list[str] | None = None, **options: Any) -> list[str]:
        pairs = [documents[start : start + 2] for start in range(0, len(documents), 2)]
        with ThreadPoolExecutor(1) as pool:
            return [i for added in pool.map(super().add_documents, pairs) for i in added]


@pytest.mark.parametrize("kind", [InMemoryVectorStore, WorkerStore])
def test_a_store_gets_the_vectors_of_whole_documents(
    kind: type[InMemoryVectorStore], tiny_encoder: Encoder, library: dict[str, list[str]], chunks: list[Document]
) -> None:
    embeddings = DiffembedEmbeddings(tiny_encoder)
    store = kind(embeddings)
    ids = add_chunks(store, chunks)
    assert [document.page_content for document in store.get_by_ids(ids)] == [chunk.page_content for chunk in chunks]
    held = vectors_of(store)
    for name, vectors in zip(library, tiny_encoder.encode_chunks(list(library.values())).documents(), strict=True):
        for place, vector in enumerate(vectors):
            assert np.allclose(held[name, place], vector, atol=1e-6), (name, place)
    # the sentence that two documents share has a vector in each
    assert not np.allclose(held["book", 1], held["recipe", 1], atol=1e-3)
    # afterwards the store embeds as before
    assert np.allclose(embeddings.embed_documents(["cat"])[0], tiny_encoder.encode_documents(["cat"])[0], atol=1e-6)
    assert len(store.similarity_search("who writes names", k=2)) == 2


def test_options_reach_the_store(tiny_encoder: Encoder, chunks: list[Document]) -> None:
    store = InMemoryVectorStore(DiffembedEmbeddings(tiny_encoder))
    ids = [f"chunk-{i}" for i in range(len(chunks))]
    assert add_chunks(store, chunks, source="source", ids=ids) == ids


def test_what_cannot_be_read_together_is_refused(tiny_encoder: Encoder, chunks: list[Document]) -> None:
    with pytest.raises(InputError, match="DeterministicFakeEmbedding"):
        add_chunks(InMemoryVectorStore(DeterministicFakeEmbedding(size=4)), chunks)
    store = InMemoryVectorStore(DiffembedEmbeddings(tiny_encoder))
    with pytest.raises(InputError, match="no metadata 'file'"):
        add_chunks(store, chunks, source="file")
    assert not store.store

    class Shouting(InMemoryVectorStore):
        def add_documents(self, documents: list[Document], ids: Any = None, **options: Any) -> list[str]:
            loud = [Document(page_content=d.page_content.upper(), metadata=d.metadata) for d in documents]
            return super().add_documents(loud)

    with pytest.raises(InputError, match="the store changes its texts"):
        add_chunks(Shouting(DiffembedEmbeddings(tiny_encoder)), chunks)


def test_long_texts(tiny_encoder: Encoder) -> None:
    long = "far too long for so small a model " * 40
    with pytest.raises(TextTooLongError):
        DiffembedEmbeddings(tiny_encoder).embed_query(long)
    assert len(DiffembedEmbeddings(tiny_encoder, windows=True).embed_documents([long, "short"])) == 2
