"""The index as LangChain's ``VectorStore``: LangChain's own tests of vector stores, and what they leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.index import Index
from diffembed.index.protocol import SearchIndex

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_tests", reason="langchain-tests, LangChain's tests of vector stores, is not installed")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from diffembed.integrations.langchain import DiffembedEmbeddings, DiffembedVectorStore


class TestLangChainsOwn(VectorStoreIntegrationTests):
    """What LangChain asks of every vector store."""

    @pytest.fixture
    def vectorstore(self, empty_index: SearchIndex) -> VectorStore:
        return DiffembedVectorStore(empty_index)


@pytest.fixture
def documents(library: dict[str, list[str]]) -> list[Document]:
    return [
        Document(page_content=text, metadata={"source": name, "place": place})
        for name, chunks in library.items()
        for place, text in enumerate(chunks)
    ]


@pytest.fixture
def store(empty_index: SearchIndex, documents: list[Document]) -> DiffembedVectorStore:
    made = DiffembedVectorStore(empty_index)
    made.add_documents(documents, ids=[f"{d.metadata['source']}-{d.metadata['place']}" for d in documents])
    return made


def test_it_ranks_and_scores_as_langchains_own_store(
    store: DiffembedVectorStore, documents: list[Document], tiny_encoder: Encoder
) -> None:
    """Over the same vectors: only rounding to int8 (on Qdrant: half precision) lies between."""
    theirs = InMemoryVectorStore(DiffembedEmbeddings(tiny_encoder, dtype="int8"))
    theirs.add_documents(documents)
    for query in ("ships in winter", "baking with flour", "Dear Anna"):
        expected = {d.page_content: s for d, s in theirs.similarity_search_with_score(query, k=7)}
        found = store.similarity_search_with_score(query, k=7)
        assert len(found) == 7
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
        for document, score in found:
            assert score == pytest.approx(expected[document.page_content], abs=2e-3)
        vector = DiffembedEmbeddings(tiny_encoder).embed_query(query)
        by_vector = store.similarity_search_by_vector(vector, k=7)
        assert {d.id for d in by_vector} == {d.id for d, _ in found}


def test_filters_pages_and_words(store: DiffembedVectorStore) -> None:
    only = store.similarity_search("butter", k=9, filter={"source": "recipe"})
    assert [d.metadata["source"] for d in only] == ["recipe"] * 3
    assert [
        d.id for d in store.similarity_search("butter", k=2, filter="source = recipe and place >= 1", offset=1)
    ] == [only[i].id for i in range(3) if only[i].metadata["place"] >= 1][1:]
    assert store.similarity_search("lighthouse", k=1, hybrid=True, weight=0.1)[0].id == "book-0"
    assert store.similarity_search("butter", k=9, min_score=2.0) == []
    assert store.delete(filter={"source": "book"}) is True
    assert {d.metadata["source"] for d in store.similarity_search("ships", k=9)} == {"recipe", "letter"}
    with pytest.raises(InputError, match="there is no option 'wher'"):
        store.delete(wher=1)


def test_a_retriever(store: DiffembedVectorStore) -> None:
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"source": "recipe"}})
    assert [d.metadata["source"] for d in retriever.invoke("eggs")] == ["recipe", "recipe"]
    scored = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.999, "k": 3}
    )
    assert [d.id for d in scored.invoke("no such thing")] == []


def test_marginal_relevance_chooses_as_langchain_does(store: DiffembedVectorStore, tiny_encoder: Encoder) -> None:
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

    query, texts = "a name in a book", {d.id: d.page_content for d in store.similarity_search("x", k=9)}
    ids = list(texts)
    rows = tiny_encoder.encode_documents([texts[id_] for id_ in ids], dtype="int8").values.astype(np.float32)
    asked = tiny_encoder.encode_queries([query], dtype="int8").values[0].astype(np.float32)
    for weight in (1.0, 0.5, 0.1):
        theirs = maximal_marginal_relevance(asked, list(rows), lambda_mult=weight, k=4)
        ours = store.max_marginal_relevance_search(query, k=4, lambda_mult=weight)
        # two of the texts are the same word for word, so which of them comes is open
        assert [d.page_content for d in ours] == [texts[ids[n]] for n in theirs]
        by_vector = store.max_marginal_relevance_search_by_vector((asked / 127).tolist(), k=4, lambda_mult=weight)
        assert [d.page_content for d in by_vector] == [d.page_content for d in ours]
    assert store.max_marginal_relevance_search(query, k=2, filter={"source": "nobody"}) == []
    with pytest.raises(InputError, match="lambda_mult is 2"):
        store.max_marginal_relevance_search(query, lambda_mult=2)


def test_chunks_of_a_source_are_read_together(
    empty_index: SearchIndex, documents: list[Document], library: dict[str, list[str]], tiny_encoder: Encoder
) -> None:
    store = DiffembedVectorStore(empty_index, source="source")
    shuffled = documents[1::2] + documents[::2]
    ids = store.add_documents(shuffled)
    kept = {d.key: d for d in empty_index.get(ids, vectors=True)}
    for name in library:
        own = [(id_, d.page_content) for id_, d in zip(ids, shuffled, strict=True) if d.metadata["source"] == name]
        together = tiny_encoder.encode_chunks([[text for _, text in own]], dtype="int8").values.astype(np.float64)
        for (id_, _), row in zip(own, together, strict=True):
            there = kept[id_].vectors
            assert there is not None
            cosine = there[0] @ row / np.linalg.norm(there[0].astype(float)) / np.linalg.norm(row)
            assert cosine > 0.9995
    with pytest.raises(InputError, match="no metadata 'source'"):
        store.add_texts(["An orphan."])


def test_a_folder_of_files_as_a_store(tmp_path: Path, tiny_encoder: Encoder) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Cats\n\nThe cat sleeps.\n")
    with Index.build([tmp_path / "notes"], tmp_path / "notes.index", encoder=tiny_encoder) as index:
        [document] = DiffembedVectorStore(index).similarity_search("cat", k=1)
    assert document.metadata["source"] == str(tmp_path / "notes" / "a.md")
    assert document.metadata["line_start"] <= document.metadata["line_end"]


def test_from_texts_makes_or_opens_a_folder(tmp_path: Path, tiny_encoder: Encoder) -> None:
    embeddings = DiffembedEmbeddings(tiny_encoder)
    folder = tmp_path / "texts.index"
    made = DiffembedVectorStore.from_texts(
        ["One.", "Two."], embeddings, [{"n": 1}, {"n": 2}], ids=["a", "b"], index=folder
    )
    assert isinstance(made.embeddings, DiffembedEmbeddings)
    assert [d.metadata for d in made.get_by_ids(["b", "a"])] == [{"n": 2}, {"n": 1}]
    assert made.add_texts(["Three."], ids=[None]) != [None]
    assert DiffembedVectorStore(folder).index.count() == 3
    other = DeterministicFakeEmbedding(size=4)
    bare = Index.create(tmp_path / "bare", dims=8, vectors_only=True)
    for wrong, said in (
        (lambda: DiffembedVectorStore.from_texts(["x"], embeddings), "need a place to stay"),
        (
            lambda: DiffembedVectorStore.from_texts(["x"], other, index=folder),
            "its own model",
        ),
        (lambda: DiffembedVectorStore.from_texts(["x"], embeddings, index=folder, top=3), "no option 'top'"),
        (lambda: made.add_texts(["x"], ids=["a", "b"]), "1 texts came with 2 ids"),
        (lambda: made.add_texts(["x"], batch=1), "no option 'batch'"),
        (lambda: DiffembedVectorStore(bare), "holds vectors only"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()


def test_long_texts_are_told(empty_index: SearchIndex, caplog: Any, tiny_encoder: Encoder) -> None:
    DiffembedVectorStore(empty_index).add_texts(["word " * 5000])
    assert f"1 texts were cut to the model's {tiny_encoder.max_tokens} tokens" in caplog.text
