"""LlamaIndex's own index, retriever and pipeline over our vectors; nodes of one document read together."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from diffembed.encoder import Encoder
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.similarity import similarity

pytest.importorskip("llama_index.core")

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, TextNode

from diffembed.integrations.llamaindex import DiffembedEmbedding


@pytest.fixture
def splitter() -> SentenceSplitter:
    return SentenceSplitter(chunk_size=16, chunk_overlap=0)


@pytest.fixture
def documents(library: dict[str, list[str]]) -> list[Document]:
    return [Document(text=" ".join(chunks), doc_id=name) for name, chunks in library.items()]


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_llamaindexs_retriever_ranks_and_scores_as_ours(
    dtype: VectorDtype, tiny_encoder: Encoder, corpus: list[str]
) -> None:
    embedding = DiffembedEmbedding(tiny_encoder, dtype=dtype, dims=32)
    index = VectorStoreIndex([TextNode(text=text) for text in corpus], embed_model=embedding)
    query = "search engines"
    found = {hit.text: hit.score for hit in index.as_retriever(similarity_top_k=len(corpus)).retrieve(query)}
    ours = similarity(
        tiny_encoder.encode_queries([query], dtype=dtype, dims=32),
        tiny_encoder.encode_documents(corpus, dtype=dtype, dims=32),
    )
    assert [found[text] for text in corpus] == pytest.approx(ours[0].tolist(), abs=1e-5)


def whole_document_vectors(encoder: Encoder, nodes: list[BaseNode]) -> list[list[float]]:
    """By the encoder, from what the nodes say they are."""
    groups: dict[str, list[BaseNode]] = {}
    for node in nodes:
        groups.setdefault(str(node.ref_doc_id), []).append(node)
    read = encoder.encode_chunks([[node.get_content("embed") for node in group] for group in groups.values()])
    in_order = [node.node_id for group in groups.values() for node in group]
    by_id = dict(zip(in_order, read.values.tolist(), strict=True))
    return [by_id[node.node_id] for node in nodes]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_nodes_of_a_document_are_read_together_in_a_pipeline(
    asynchronous: bool, tiny_encoder: Encoder, documents: list[Document], splitter: SentenceSplitter
) -> None:
    pipeline = IngestionPipeline(transformations=[splitter, DiffembedEmbedding(tiny_encoder)])
    nodes = asyncio.run(pipeline.arun(documents=documents)) if asynchronous else pipeline.run(documents=documents)
    assert len(nodes) > len(documents)
    expected = whole_document_vectors(tiny_encoder, list(nodes))
    assert np.allclose([node.embedding for node in nodes], expected, atol=1e-6)
    alone = tiny_encoder.encode_documents([node.get_content("embed") for node in nodes]).values
    assert np.abs(np.array(expected) - alone).max() > 0.01


def test_an_index_keeps_the_vectors_of_whole_documents(
    tiny_encoder: Encoder, documents: list[Document], splitter: SentenceSplitter
) -> None:
    embedding = DiffembedEmbedding(tiny_encoder)
    index = VectorStoreIndex.from_documents(documents, transformations=[splitter, embedding], embed_model=embedding)
    hits = index.as_retriever(similarity_top_k=99).retrieve("who writes names")
    nodes = list(index.docstore.docs.values())
    assert len(hits) == len(nodes) > len(documents)
    query = tiny_encoder.encode_queries(["who writes names"]).values[0]
    for node, vector in zip(nodes, whole_document_vectors(tiny_encoder, nodes), strict=True):
        cosine = float(query @ np.array(vector) / np.linalg.norm(query) / np.linalg.norm(vector))
        assert next(hit.score for hit in hits if hit.node_id == node.node_id) == pytest.approx(cosine, abs=1e-5)


def test_contextual_is_the_models_choice_unless_said(tiny_encoder: Encoder, documents: list[Document]) -> None:
    assert DiffembedEmbedding(tiny_encoder).contextual
    alone = DiffembedEmbedding(tiny_encoder, contextual=False)
    texts = ["one", "two"]
    nodes = [TextNode(text=text) for text in texts]
    expected = tiny_encoder.encode_documents(texts).values
    assert np.allclose([node.embedding for node in alone(copy.deepcopy(nodes))], expected, atol=1e-6)
    # nodes that belong to no document are documents of their own
    assert np.allclose([node.embedding for node in DiffembedEmbedding(tiny_encoder)(nodes)], expected, atol=1e-6)


def test_async_methods(tiny_encoder: Encoder) -> None:
    embedding = DiffembedEmbedding(tiny_encoder, dtype="int8", dims=16)
    assert asyncio.run(embedding.aget_query_embedding("cat")) == embedding.get_query_embedding("cat")
    assert asyncio.run(embedding.aget_text_embedding("cat")) == embedding.get_text_embedding("cat")
    several = asyncio.run(embedding.aget_text_embedding_batch(["cat", "dog"]))
    assert several == embedding.get_text_embedding_batch(["cat", "dog"])


def test_it_is_written_down_and_made_again(tiny_model_dir: Path) -> None:
    embedding = DiffembedEmbedding(str(tiny_model_dir), dtype="int8", dims=16, truncate=True, contextual=False)
    written = embedding.to_dict()
    assert written["class_name"] == "DiffembedEmbedding"
    again = DiffembedEmbedding.from_dict(written)
    assert again.to_dict() == written
    vector = embedding.get_text_embedding("cat")
    assert again.get_text_embedding("cat") == copy.deepcopy(embedding).get_text_embedding("cat") == vector
    unpickled = pickle.loads(pickle.dumps(embedding))  # noqa: S301 # our own, just made
    assert (unpickled.to_dict(), unpickled.get_text_embedding("cat")) == (written, vector)
