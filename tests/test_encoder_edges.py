"""Texts that break encoders: each gives vectors or a clear error, in bounded time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError

EDGES = {
    "nul": "before\x00after",
    "controls": "\x01\x02 bell \x07",
    "right to left": "\u202eשלום עולם مرحبا",
    "combining": "e" + "\u0301" * 500,
    "zalgo": "".join(c + "\u0336\u0489" * 9 for c in "zalgo"),
    "emoji": "👩‍👩‍👧‍👦🇪🇺👍🏽" * 20,
    "crlf": "one\r\ntwo\r\n\r\nthree",
    "cjk": "東京は日本の首都です。" * 10,
    "replacement": "\ufffd\ufeff\u200b text",
    "private use": "\ue000\U0010fffd",
    "only punctuation": "?!...",
    "spells special tokens": "<|endoftext|><|mask|><|pad|> [CLS] </s>",
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load("default")


@pytest.mark.parametrize("name", EDGES)
def test_edge_texts_have_vectors_of_their_own(encoder: Encoder, name: str) -> None:
    text = EDGES[name]
    alone = encoder.encode_documents([text]).values[0]
    among = encoder.encode_documents(["a b c", text, "d " * 300, *EDGES.values()]).values[1]
    assert np.isfinite(alone).all()
    assert float(alone @ among) > 0.999 * float(np.linalg.norm(alone) * np.linalg.norm(among))
    assert len(encoder.encode_chunks([["first", text, "last"]])) == 3


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000\u2003", "\r\n"])
def test_empty_and_blank_texts_are_refused_by_number(encoder: Encoder, text: str) -> None:
    with pytest.raises(InputError, match="text 1 is empty"):
        encoder.encode_documents(["words", text])


@pytest.mark.parametrize("text", ["half a pair \ud83d", "\udc00 the other half"])
def test_lone_surrogates_are_refused_by_number(encoder: Encoder, text: str) -> None:
    with pytest.raises(InputError, match="text 1 .*surrogate"):
        encoder.encode_documents(["words", text])
    with pytest.raises(InputError, match="document 0, chunk 1 .*surrogate"):
        encoder.encode_chunks([["words", text]])


@pytest.mark.parametrize("unit", ["a", "\x00", "字", "👍", " \n", "e\u0301"])
def test_a_million_of_the_same_in_bounded_time(encoder: Encoder, unit: str) -> None:
    text = "x" + unit * (1_000_000 // len(unit.encode()))
    began = time.perf_counter()
    if encoder.count_tokens([text])[0] > encoder.max_tokens:
        with pytest.raises(InputError, match="reads at most"):
            encoder.encode_documents([text])
        assert encoder.encode_documents([text], truncate=True).truncated == (0,)
    else:  # a tokenizer may read a run of blanks as one token
        assert np.isfinite(encoder.encode_documents([text]).values).all()
    assert time.perf_counter() - began < 20


def test_a_hundred_thousand_chunks_in_one_document(tiny_model_dir: Path) -> None:
    encoder = Encoder.load(tiny_model_dir)
    began = time.perf_counter()
    found = encoder.encode_chunks([["ab"] * 100_000], dims=encoder.dims[0], dtype="binary")
    assert len(found) == 100_000
    assert found.windowed == (0,)
    assert time.perf_counter() - began < 60


def test_prompts_and_counts_refuse_what_is_no_text(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="prompt 0 has a lone surrogate"):
        encoder.encode_queries(["words"], prompt="\ud83d")
    for count in (encoder.count_tokens, encoder.token_spans):
        with pytest.raises(InputError, match="text 1 has a lone surrogate"):
            count(["", "\udc00"])
        with pytest.raises(InputError, match="one string"):
            count("words")


def test_text_without_a_token(encoder: Encoder, minilm_dir: Path) -> None:
    """BERT's normalizer drops control characters: a vector of what stands around a text, and no token vectors."""
    minilm = Encoder.load(minilm_dir)
    assert np.isfinite(minilm.encode_documents(["\x00"]).values).all()
    for texts, rows in ((["\x00"], 0), (["\x00", "word"], 1)):
        found = minilm.encode_tokens(texts)
        assert (len(found), found.offsets.tolist()[0], found.offsets.tolist()[-1]) == (rows, 0, rows)
    with pytest.raises(InputError, match="document 0, chunk 1 has no tokens"):
        minilm.encode_chunks([["word", "\x00"]])


def test_numbers_and_bytes_are_no_texts(encoder: Encoder) -> None:
    bad: list[Any] = [b"bytes", 3, None, ["nested"]]
    for text in bad:
        with pytest.raises(InputError, match="text 0 is "):
            encoder.encode_documents([text])
