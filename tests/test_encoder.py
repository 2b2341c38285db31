"""The encoder: a text's vector is its own, widths and limits are kept, late chunking marks spans while tokenizing."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed import encoder as module
from diffembed.encoder import Encoder, resolve_model
from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.models.checkpoint import load_tokenizer, read_model_config
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack
from diffembed.text.windows import PIECES, windows_over
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
    assert (whole.truncated, whole.windowed) == ((), (1,))
    windows = windows_over(encoder.count_tokens(document), [1] * len(document), encoder.max_tokens)
    assert len(windows) > 2
    for window in windows:  # each chunk is read as if its window were the document
        alone = encoder.encode_chunks([document[window.start : window.end]]).values
        rows = whole.documents()[1][window.owned]
        assert np.abs(rows - alone[window.owned - window.start]).max() < 1e-4


class NumberedRuntime:
    """Gives every span the number of its chunk and what it was shown before and after it, in tokens."""

    name, precision = "numbered", "fp32"

    def span_means(self, batch: PackedBatch) -> np.ndarray[Any, Any]:
        ends = batch.cu_seqlens[np.searchsorted(batch.cu_seqlens, batch.spans[:, 0], side="right")]
        starts = batch.cu_seqlens[np.searchsorted(batch.cu_seqlens, batch.spans[:, 0], side="right") - 1]
        means = np.zeros((len(batch.spans), 64), np.float32)
        means[:, 0] = batch.token_ids[batch.spans[:, 0]]
        means[:, 1], means[:, 2] = batch.spans[:, 0] - starts, ends - batch.spans[:, 1]
        return means


def test_a_book_in_order_with_context_on_both_sides(tiny_model_dir: Path) -> None:
    """20,000 chunks of unlike lengths: every row carries its chunk's number, and its chunk was shown context."""
    config = replace(read_model_config(tiny_model_dir), quantizer="none", name="numbered")
    encoder = Encoder("numbered", tiny_model_dir, config, NumberedRuntime())
    vocabulary = load_tokenizer(tiny_model_dir)
    letters = [t for t in "abcdefghijklmnopqrstuvwxyz" if len(vocabulary.encode(t).ids) == 1]
    chunks = [letters[i % len(letters)] * (1 + i % 3) for i in range(20_000)]
    began = time.perf_counter()
    found = encoder.encode_chunks([chunks])
    assert time.perf_counter() - began < 20
    first = [vocabulary.encode(chunk, add_special_tokens=False).ids[0] for chunk in chunks]
    assert found.values[:, 0].tolist() == first
    middle = found.values[100:-100]
    assert middle[:, 1:3].min() >= encoder.max_tokens // 8 - 4
    assert found.tokens <= 1.5 * (sum(encoder.count_tokens(chunks)) + len(chunks))


def test_long_text_through_windows_is_the_mean_of_its_tokens(encoder: Encoder, corpus: list[str]) -> None:
    long = " ".join(corpus)
    found = encoder.encode_documents([corpus[0], long], windows=True)
    assert found.windowed == (1,)
    assert np.abs(found.values[0] - encoder.encode_documents([corpus[0]]).values[0]).max() < 1e-4
    count = encoder.count_tokens([long])[0]
    size = encoder.max_tokens // PIECES
    pieces = [min(size, count - start) for start in range(0, count, size)]
    ids = load_tokenizer(encoder.path).encode(long, add_special_tokens=False).ids
    total = np.zeros(64)
    for window in windows_over(pieces, [0] * len(pieces), encoder.max_tokens):
        first, last = window.start * size, min(window.end * size, count)
        spans = tuple((i * size - first, min((i + 1) * size, count) - first) for i in window.owned.tolist())
        means = encoder.runtime.span_means(pack([TokenizedSequence(tuple(ids[first:last]), spans)]))
        total += (means * [[end - start] for start, end in spans]).sum(axis=0)
    assert np.abs(np.tanh(total / count) - found.values[1]).max() < 1e-4
    chunked = encoder.encode_chunks([[corpus[1], long, corpus[2]]], windows=True)
    assert (len(chunked), chunked.windowed) == (3, (0,))
    with pytest.raises(InputError, match="truncate and windows"):
        encoder.encode_documents([long], windows=True, truncate=True)


def test_tokens(encoder: Encoder, corpus: list[str], tiny_model_dir: Path) -> None:
    config = replace(encoder.config, quantizer="none")
    plain = Encoder("plain", tiny_model_dir, config, encoder.runtime)
    found = plain.encode_tokens(corpus)
    assert np.diff(found.offsets).tolist() == encoder.count_tokens(corpus)
    means = np.stack([rows.mean(axis=0) for rows in found.texts()])
    assert np.abs(means - plain.encode_documents(corpus).values).max() < 1e-4
    for number, text in enumerate(corpus):
        places = found.characters[found.offsets[number] : found.offsets[number + 1]]
        assert places[0, 0] == 0
        assert places[-1, 1] == len(text)
        assert (places[1:, 0] <= places[:-1, 1]).all()
    int8 = encoder.encode_tokens(corpus[:2], dtype="int8", dims=32)
    assert (int8.values.shape, int8.values.dtype) == ((found.offsets[2], 32), np.int8)
    assert np.array_equal(int8.values, quantize(found.values[: found.offsets[2]], "int8", dims=32))
    long = " ".join(corpus)
    with pytest.raises(InputError, match="reads at most 128"):
        encoder.encode_tokens([long])
    assert len(encoder.encode_tokens([long], truncate=True)) == 128
    assert encoder.encode_tokens([]).values.shape == (0, 64)


def test_prompts_stand_before_texts(encoder: Encoder, corpus: list[str], tiny_model_dir: Path) -> None:
    config = replace(encoder.config, query_prompt="find: ", document_prompt="text: ")
    prompted = Encoder("prompted", tiny_model_dir, config, encoder.runtime)
    asked = encoder.encode_documents(["find: " + corpus[0], "text: " + corpus[0], "x " + corpus[0]]).values
    assert np.abs(prompted.encode_queries(corpus[:1]).values - asked[0]).max() < 1e-4
    assert np.abs(prompted.encode_documents(corpus[:1]).values - asked[1]).max() < 1e-4
    assert np.abs(prompted.encode_queries(corpus[:1], prompt="x ").values - asked[2]).max() < 1e-4
    assert np.abs(prompted.encode_chunks([corpus[:1]]).values - asked[1]).max() < 1e-4


def test_values_that_are_not_finite_are_an_error(tiny_model_dir: Path) -> None:
    class Broken(NumberedRuntime):
        precision = "fp16"

        def span_means(self, batch: PackedBatch) -> np.ndarray[Any, Any]:
            return super().span_means(batch) * np.float32(np.nan)

    encoder = Encoder("broken", tiny_model_dir, read_model_config(tiny_model_dir), Broken())
    with pytest.raises(ModelError, match="not finite in fp16 on the numbered runtime; load it with precision 'fp32'"):
        encoder.encode_documents(["a text"])


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
