"""The encoder: a text's vector is its own, widths and limits are kept, late chunking marks spans while tokenizing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed import encoder as module
from diffembed.encoder import Encoder, resolve_model
from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.vectors.quantize import quantize


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> Encoder:
    return Encoder.load(tiny_model_dir, precision="fp32")


def test_attributes(encoder: Encoder, tiny_model_dir: Path) -> None:
    assert (encoder.model_id, encoder.dims, encoder.max_tokens, encoder.contextual) == (
        str(tiny_model_dir),
        (16, 32, 64),
        128,
        True,
    )
    assert len(encoder.fingerprint) == 64


def test_fingerprint_follows_the_weights(encoder: Encoder, tiny_model_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    assert Encoder.load(path).fingerprint == encoder.fingerprint
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(bytes(data))
    assert Encoder.load(path).fingerprint != encoder.fingerprint


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_text_does_not_depend_on_its_neighbours(
    tiny_model_dir: Path, corpus: list[str], precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(tiny_model_dir, precision=precision)
    together = encoder.encode_documents(corpus).values
    alone = np.concatenate([encoder.encode_queries([text]).values for text in corpus])
    assert np.abs(together - alone).max() < 1e-4
    monkeypatch.setattr(module, "TOKEN_BUDGET", 60)  # other batches
    monkeypatch.setattr(module, "_DOCUMENTS_AT_ONCE", 4)  # other blocks
    assert np.abs(encoder.encode_documents(corpus[::-1]).values[::-1] - together).max() < 1e-4


@pytest.mark.parametrize("dims", [None, 16, 32, 64])
@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_every_width_and_dtype_is_the_cut_mean_quantized(
    encoder: Encoder, corpus: list[str], dims: Any, dtype: Any
) -> None:
    mean = np.arctanh(encoder.encode_documents(corpus).values.astype(np.float64)).astype(np.float32)
    got = encoder.encode_documents(corpus, dtype=dtype, dims=dims)
    assert (got.dtype, got.dims, len(got)) == (dtype, dims or 64, len(corpus))
    expected = quantize(mean, dtype, dims=dims)
    if dtype == "int8":
        assert np.abs(got.values.astype(int) - expected).max() <= 1  # arctanh(tanh(x)) is x up to rounding
    else:
        assert np.allclose(got.values, expected, atol=1e-5)


def test_one_chunk_is_a_text(encoder: Encoder, corpus: list[str]) -> None:
    chunks = encoder.encode_chunks([[text] for text in corpus])
    assert np.abs(chunks.values - encoder.encode_documents(corpus).values).max() < 1e-4
    assert chunks.document_offsets is not None
    assert chunks.document_offsets.tolist() == list(range(len(corpus) + 1))


def test_chunks_read_their_document(encoder: Encoder, corpus: list[str]) -> None:
    first = encoder.encode_chunks([[corpus[0], corpus[1]]]).values
    other = encoder.encode_chunks([[corpus[0], corpus[2]]]).values
    assert np.abs(first[0] - other[0]).max() > 1e-3  # a later chunk changes an earlier one
    together = encoder.encode_chunks([[corpus[3]], [corpus[0], corpus[1]]])
    assert np.abs(together.documents()[1] - first).max() < 1e-4  # another document does not


def test_separator_written_in_a_text_splits_nothing(encoder: Encoder) -> None:
    got = encoder.encode_chunks([["one <|endoftext|> two", "three"]])
    assert len(got) == 2


def test_long_document_is_read_through_windows(encoder: Encoder, corpus: list[str]) -> None:
    document = corpus * 3
    whole = encoder.encode_chunks([corpus[:1], document, corpus[1:2]])
    assert len(whole) == len(document) + 2
    assert whole.truncated == ()
    counts = np.cumsum(np.array(encoder.count_tokens(document)) + 1) - 1
    fits = int((counts <= encoder.max_tokens).sum())
    assert 1 < fits < len(document)
    window = encoder.encode_chunks([document[:fits]]).values
    assert np.abs(whole.documents()[1][:fits] - window).max() < 1e-4


def test_over_the_limit_is_refused_or_listed(encoder: Encoder, corpus: list[str]) -> None:
    long = " ".join(corpus)
    with pytest.raises(InputError, match=r"text 1 has \d+ tokens, tiny reads at most 128"):
        encoder.encode_documents([corpus[0], long])
    with pytest.raises(InputError, match=r"document 1, chunk 1 has \d+ tokens"):
        encoder.encode_chunks([[corpus[0]], [corpus[1], long]])
    cut = encoder.encode_documents([corpus[0], long, corpus[1], long + "x"], truncate=True)
    assert cut.truncated == (1, 3)
    assert np.abs(cut.values[1] - cut.values[3]).max() < 1e-4
    assert encoder.encode_chunks([[corpus[0]], [long, corpus[1], long]], truncate=True).truncated == (1,)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", ""], "text 1 is empty"),
        (["  \n"], "text 0 is empty"),
        ("a string", "give a list"),
        (["a", 3], "text 1 is int"),
    ],
)
def test_bad_texts_are_refused(encoder: Encoder, texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode_documents(texts)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([["a"], []], "document 1 has no chunks"),
        ([["a", " "]], "document 0, chunk 1 is empty"),
        (["abc"], "one string"),
        ("abc", "one string"),
    ],
)
def test_bad_chunks_are_refused(encoder: Encoder, documents: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode_chunks(documents)


def test_untrained_width_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"dims=48 was not trained in tiny; choose one of 16, 32, 64"):
        encoder.encode_queries(["a"], dims=48)
    with pytest.raises(InputError, match="float32, int8, binary"):
        encoder.encode_queries(["a"], dtype="int4")  # type: ignore[arg-type]


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_documents([], dtype="binary", dims=32).values.shape == (0, 4)


def test_progress_reaches_the_end(encoder: Encoder, corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKEN_BUDGET", 60)
    seen: list[tuple[int, int]] = []
    encoder.encode_chunks(
        [corpus * 2, corpus[:2], corpus[3:4]], progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (3, 3)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    encoder.encode_documents(corpus, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(corpus), len(corpus))


def test_count_tokens(encoder: Encoder, corpus: list[str], minilm_dir: Path) -> None:
    assert encoder.encode_documents(corpus).tokens == sum(encoder.count_tokens(corpus))
    assert Encoder.load(minilm_dir).count_tokens(["hello world", ""]) == [4, 2]


def test_runtimes_are_chosen(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert Encoder.load(tiny_model_dir).runtime.precision == "int8"
    assert Encoder.load(tiny_model_dir, runtime="torch").runtime.name == "torch"
    bare = Path(shutil.copytree(tiny_model_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("onnx")))
    assert Encoder.load(bare).runtime.name == "torch"
    with pytest.raises(ModelError, match="no ONNX graph"):
        Encoder.load(bare, runtime="onnx")
    with pytest.raises(InputError, match="no int8 weights"):
        Encoder.load(bare, runtime="torch", precision="int8")
    with pytest.raises(InputError, match="not known"):
        Encoder.load(bare, runtime="tpu")  # type: ignore[arg-type]


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Encoder.load(tmp_path / "nowhere")
    monkeypatch.setattr(module, "BUNDLED", tmp_path)
    with pytest.raises(ModelError, match="embedded model is missing"):
        resolve_model("default")
    with pytest.raises((ModelError, MissingExtraError), match="nobody/no-such-model"):
        resolve_model("nobody/no-such-model")


def test_config_reaches_the_vectors(tiny_model_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    """Prefix and suffix ids are read and pooled; a model without quantizer gives unit vectors."""
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    file = path / "diffembed.json"
    change = {"prefix_ids": [5], "suffix_ids": [6, 7], "quantizer": "none", "normalize": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    encoder = Encoder.load(path, precision="fp32")
    got = encoder.encode_documents(corpus, dims=32)
    assert np.allclose(np.linalg.norm(got.values, axis=1), 1.0, atol=1e-5)
    assert got.tokens == sum(encoder.count_tokens(corpus))
    chunks = encoder.encode_chunks([[text] for text in corpus], dims=32)
    assert np.abs(chunks.values - got.values).max() < 1e-4
