"""What adapters share: rows of floats, chunks put together and given back in place, cut texts said, missing extras."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffembed.encoder import Encoder, TextTooLongError
from diffembed.errors import InputError
from diffembed.integrations.bound import BoundEncoder, as_floats, as_lists, bind, owner_of
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.similarity import cosine, similarity

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_cosine_of_the_floats_is_the_similarity_of_the_vectors(
    dtype: VectorDtype, tiny_encoder: Encoder, corpus: list[str]
) -> None:
    queries = tiny_encoder.encode_queries(corpus[:3], dtype=dtype, dims=32)
    documents = tiny_encoder.encode_documents(corpus, dtype=dtype, dims=32)
    assert np.allclose(cosine(as_floats(queries), as_floats(documents)), similarity(queries, documents), atol=1e-6)
    assert as_floats(documents).shape == (len(corpus), 32)
    assert {type(number) for row in as_lists(documents) for number in row} == {float}


def test_chunks_are_read_with_their_document_and_come_back_in_place(
    tiny_encoder: Encoder, library: dict[str, list[str]]
) -> None:
    rows = [(name, place) for place in (2, 0, 1) for name in library if place < len(library[name])]
    bound = BoundEncoder(tiny_encoder, dims=32)
    mixed = bound.together([library[name][place] for name, place in rows], *zip(*rows, strict=True))
    whole = tiny_encoder.encode_chunks(list(library.values()), dims=32).documents()
    expected = [whole[list(library).index(name)][place] for name, place in rows]
    assert np.allclose(mixed.values, expected, atol=1e-6)
    assert mixed.document_offsets is None
    alone = tiny_encoder.encode_documents([library[name][place] for name, place in rows], dims=32).values
    assert np.abs(mixed.values - alone).max() > 0.01


def test_no_chunks_at_all(tiny_encoder: Encoder) -> None:
    assert BoundEncoder(tiny_encoder, dims=16).together([], []).values.shape == (0, 16)


def test_long_texts_are_refused_cut_with_a_word_or_read_through_windows(
    tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    long = "one text that is far too long for so small a model " * 20
    with pytest.raises(TextTooLongError, match="text 1"):
        BoundEncoder(tiny_encoder).documents(["short", long])
    with caplog.at_level(logging.WARNING):
        cut = BoundEncoder(tiny_encoder, truncate=True).documents(["short", long])
    assert caplog.messages == ["1 texts were cut to the model's 128 tokens"]
    read = BoundEncoder(tiny_encoder, windows=True).queries(["short", long])
    assert np.allclose(cut.values[0], read.values[0], atol=1e-6)
    assert not np.allclose(cut.values[1], read.values[1], atol=1e-3)


def test_a_chunk_of_unknown_document_is_refused() -> None:
    assert owner_of({"source": 7}, "source", 0) == "7"
    with pytest.raises(InputError, match=r"chunk 4 has no metadata 'source'.*this one has 'page'"):
        owner_of({"page": 3}, "source", 4)


def test_bind_takes_a_name_or_an_encoder(tiny_encoder: Encoder, tiny_model_dir: Path) -> None:
    options = {"dtype": "int8", "dims": 16, "truncate": True, "windows": False}
    assert bind(tiny_encoder, **options).encoder is tiny_encoder
    loaded = bind(str(tiny_model_dir), precision="fp32", **options)
    assert (loaded.encoder.path, loaded.width, loaded.dtype) == (tiny_model_dir, 16, "int8")


@pytest.mark.parametrize(
    ("adapter", "blocked", "needs"),
    [
        ("langchain", "langchain_core", "langchain-core"),
        ("llamaindex", "llama_index", "llama-index-core"),
        ("haystack", "haystack", "haystack-ai"),
        ("sklearn", "sklearn", "scikit-learn"),
        ("mteb", "mteb", "mteb"),
    ],
)
def test_a_missing_framework_names_its_extra(adapter: str, blocked: str, needs: str) -> None:
    code = f"""
import sys
sys.modules[{blocked!r}] = sys.modules["datasets"] = None
from diffembed.errors import MissingExtraError
try:
    import diffembed.integrations.{adapter}
except MissingExtraError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(REPO / "src")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert f"needs {needs} (" in ran.stdout, ran.stderr
    assert f"pip install 'diffembed[{adapter}]'" in ran.stdout
