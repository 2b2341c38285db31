"""pplx-embed and DiffEmbed checkpoints in Encoder: by path and by hub id, against stock classes, padded and masked.

The reference of every test runs a stock ``transformers`` class on padded rows under a mask that is written out, and
pools by hand. Three of the checkpoints have weights made by a formula, and ten of their values are written down here.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.released_files import LLADA, LLADA_NAMES, SIZES, adapter_of, base_model, pplx, write_checkpoint
from tests.models.tiny import stock_states
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedModel, Qwen3Config, Qwen3Model

from diffembed.encoder import Encoder
from diffembed.models.checkpoint import ModelConfig, save_model
from diffembed.text.batching import TokenizedSequence

END = 2


def span_means(
    model: PreTrainedModel, rows: list[list[int]], spans: list[list[tuple[int, int]]]
) -> np.ndarray[Any, Any]:
    """Mean states ``[spans, hidden]`` of token ranges, through the stock class."""
    with torch.no_grad():
        states = stock_states(model, [TokenizedSequence(tuple(row), ()) for row in rows], causal=False)
    means = []
    for part, ranges in zip(states.split([len(row) for row in rows]), spans, strict=True):
        means += [part[start:end].mean(0) for start, end in ranges]
    return torch.stack(means).numpy()


def joined(chunks: list[list[int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Chunks with the end of text between them, and where each stands."""
    row: list[int] = []
    spans = []
    for ids in chunks:
        row += [END] if row else []
        spans.append((len(row), len(row) + len(ids)))
        row += ids
    return row, spans


@pytest.fixture
def released(tmp_path: Path, tiny_tokenizer: Any) -> tuple[Path, PreTrainedModel]:
    config, stock = pplx()
    config |= {"architectures": ["PPLXQwen3ContextualModel"], "max_position_embeddings": 4096}
    return write_checkpoint(tmp_path / "pplx", tiny_tokenizer, config, stock.state_dict(), shards=2), stock


def test_dense(released: tuple[Path, PreTrainedModel], tiny_tokenizer: Any, corpus: list[str]) -> None:
    path, stock = released
    ids = [tiny_tokenizer.encode(text).ids for text in corpus]
    means = span_means(stock, ids, [[(0, len(row))] for row in ids])
    encoder = Encoder.load(path)
    assert encoder.contextual and encoder.runtime.name == "torch"
    assert np.abs(encoder.encode_documents(corpus).values - np.tanh(means)).max() < 1e-5
    int8 = encoder.encode_queries(corpus, dtype="int8").values
    exact = np.rint(127 * np.tanh(means.astype(np.float64)))
    assert np.abs(int8 - exact).max() <= 1 and (int8 != exact).mean() < 0.01
    assert np.linalg.norm(int8, axis=1).std() > 0  # not of one length
    bits = encoder.encode_documents(corpus, dtype="binary").values
    assert (np.unpackbits(bits, axis=1, bitorder="little") == (means >= 0)).mean() > 0.999


def test_contextual(released: tuple[Path, PreTrainedModel], tiny_tokenizer: Any, corpus: list[str]) -> None:
    """A text that spells the separator is text, and one chunk is a text."""
    path, stock = released
    documents = [corpus[:3], ["one <|endoftext|> two", *corpus[3:5]], corpus[5:6]]
    plain = Encoder.load(path)
    ids = plain._tokenizer.encode_batch([c for d in documents for c in d])
    assert not any(END in encoding.ids for encoding in ids)
    parts = iter(encoding.ids for encoding in ids)
    rows, spans = zip(*(joined([next(parts) for _ in d]) for d in documents), strict=True)
    means = span_means(stock, list(rows), list(spans))
    found = plain.encode_chunks(documents)
    assert np.abs(found.values - np.tanh(means)).max() < 1e-5
    assert np.abs(found.values[-1] - plain.encode_documents(corpus[5:6]).values[0]).max() < 1e-5


def test_by_hub_id(
    released: tuple[Path, PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: list[str]
) -> None:
    """From the hub's cache folder, as a download leaves it; the tests are offline."""
    constants = pytest.importorskip("huggingface_hub").constants
    repository = tmp_path / "cache" / "models--perplexity-ai--pplx-embed-context-v1-0.6b"
    commit = "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(released[0], repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    encoder = Encoder.load("perplexity-ai/pplx-embed-context-v1-0.6b")
    assert encoder.config.name == "pplx-embed-context-v1-0.6b"
    local = Encoder.load(released[0])
    assert np.array_equal(encoder.encode_documents(corpus).values, local.encode_documents(corpus).values)
    assert encoder.fingerprint == local.fingerprint


def test_long_text_within_the_limit(
    released: tuple[Path, PreTrainedModel], tiny_tokenizer: Any, corpus: list[str]
) -> None:
    path, stock = released
    text = " ".join(corpus * 5)
    ids = tiny_tokenizer.encode(text).ids
    assert 1000 < len(ids) < 4096
    encoder = Encoder.load(path)
    assert (
        np.abs(encoder.encode_documents([text]).values - np.tanh(span_means(stock, [ids], [[(0, len(ids))]]))).max()
        < 1e-5
    )


def test_onnx_after_an_export(
    released: tuple[Path, PreTrainedModel], tmp_path: Path, tiny_tokenizer: Any, corpus: list[str]
) -> None:
    from diffembed.errors import NotExportableError
    from diffembed.models.export import export_onnx

    with pytest.raises(NotExportableError, match="weights in several files"):
        export_onnx(released[0], tmp_path / "no")
    config, stock = pplx()
    path = write_checkpoint(tmp_path / "one", tiny_tokenizer, config, stock.state_dict())
    export_onnx(path, tmp_path / "exported", precisions=("fp32",))
    exported = Encoder.load(tmp_path / "exported")
    assert exported.runtime.name == "onnx"
    ours = Encoder.load(path).encode_documents(corpus, truncate=True).values
    assert np.abs(exported.encode_documents(corpus, truncate=True).values - ours).max() < 1e-4
    assert "auto_map" not in json.loads((tmp_path / "exported" / "config.json").read_text())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_examples_of_the_document(
    released: tuple[Path, PreTrainedModel], tiny_model_dir: Path, minilm_source: Path, tmp_path: Path,
    tiny_tokenizer: Any,
) -> None:  # fmt: skip
    pytest.importorskip("peft")
    base = base_model(tmp_path / "base", "dream", tiny_tokenizer)
    adapter_of(tmp_path / "adapter", tmp_path / "base", base, "dream")
    here = {
        "my-run/model": tiny_model_dir,
        "sentence-transformers/all-MiniLM-L6-v2": minilm_source,
        "perplexity-ai/pplx-embed-context-v1-0.6b": released[0],
        "my-adapter": tmp_path / "adapter",
    }
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == len(here)
    for code, (name, path) in zip(examples, here.items(), strict=True):
        assert f'"{name}"' in code
        found: dict[str, Any] = {}
        exec(code.replace(name, str(path)).replace("dims=512", "dims=32"), found)
        assert all(len(found[made]) for made in ("queries", "vectors", "documents") if made in found)


def by_formula(model: PreTrainedModel) -> PreTrainedModel:
    """Weights that no random number generator made, the same everywhere."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            places = np.arange(parameter.numel(), dtype=np.float64)
            wave = np.sin(places * (1.7 + 0.1 * number) + 0.01 * (places % 97) ** 2 + number)
            values = 1.0 + 0.3 * wave if "norm" in name else 0.4 * wave
            parameter.copy_(torch.from_numpy(values.reshape(parameter.shape)))
    return model.eval()


def numbered_tokenizer() -> Tokenizer:
    """The word ``w5`` is token 5."""
    names = {"<|endoftext|>": END} | {f"w{i}": i for i in range(SIZES["vocab_size"]) if i != END}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


TEXTS = [[5, 6, 7, 8, 9], [300, 20, 31, 17, 4, 250, 99, 12], [42]]
# Ten values of each, computed by `golden` below from the stock class alone.
GOLDEN: dict[str, list[float]] = {
    "contextual": [
        0.405528, -0.787626, -0.317134, -0.724024, 0.781939, -0.172405, -0.806231, 0.296275, -0.638770, 0.522797,
    ],
    "pplx": [
        0.004546, -0.771777, 0.548878, -0.700890, -0.842653, 0.090078, -0.855124, -0.112928, -0.788041, 0.161027,
    ],
    "diffembed on llada": [
        0.184912, 0.081640, -0.270798, 0.061465, -0.102965, -0.068542, -0.145420, -0.149188, 0.022592, -0.166873,
    ],
}  # fmt: skip


def golden(kind: str, stock: PreTrainedModel) -> np.ndarray[Any, Any]:
    """What the checkpoint's vectors are, by definition."""
    if kind == "contextual":
        row, spans = joined(TEXTS)
        return np.tanh(span_means(stock, [row], [spans]))
    means = span_means(stock, TEXTS, [[(0, len(row))] for row in TEXTS])
    return np.tanh(means) if kind == "pplx" else means / np.linalg.norm(means, axis=1, keepdims=True)


def checkpoint(kind: str, folder: Path, tokenizer: Any) -> PreTrainedModel:
    """Writes the checkpoint and returns the stock model of the same numbers."""
    if kind == "diffembed on llada":
        shape = {k: SIZES[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
        rope = {"rope_type": "default", "rope_theta": LLADA["rope_theta"]}
        stock = by_formula(LlamaModel(LlamaConfig(**shape, vocab_size=420, rms_norm_eps=1e-5, rope_parameters=rope)))
        tensors = {"model.transformer.wte.weight": stock.state_dict()["embed_tokens.weight"]}
        tensors["model.transformer.ln_f.weight"] = stock.state_dict()["norm.weight"]
        for name, tensor in stock.state_dict().items():
            if name.startswith("layers."):
                _, layer, part = name.removesuffix(".weight").split(".", 2)
                tensors[f"model.transformer.blocks.{layer}.{LLADA_NAMES[part]}.weight"] = tensor
        write_checkpoint(folder, tokenizer, LLADA, tensors)
        return stock
    stock = by_formula(Qwen3Model(Qwen3Config(**SIZES | {"head_dim": 16, "tie_word_embeddings": True})))
    if kind == "pplx":
        write_checkpoint(folder, tokenizer, pplx()[0], stock.state_dict())
    else:
        config = ModelConfig("golden", (32,), 64, None, 2, END, contextual=True)
        stock.config.is_causal = False
        save_model(folder, stock, tokenizer, config)
    return stock


@pytest.mark.parametrize("kind", ["contextual", "pplx", "diffembed on llada"])
def test_golden(kind: str, tmp_path: Path) -> None:
    stock = checkpoint(kind, tmp_path / "model", numbered_tokenizer())
    expected = golden(kind, stock)
    encoder = Encoder.load(tmp_path / "model")
    texts = [" ".join(f"w{i}" for i in ids) for ids in TEXTS]
    found = encoder.encode_chunks([texts]) if kind == "contextual" else encoder.encode_documents(texts)
    assert np.abs(found.values - expected).max() < 1e-5
    assert expected[:2, :5].ravel() == pytest.approx(GOLDEN[kind], abs=2e-5)
