"""Pooling and attention of a model: the same vectors in training, on torch, on onnx, and by stock code."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import make_config
from tests.models.tiny import stock_states
from transformers import AutoModel

from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError, NotExportableError
from diffembed.models.attention import PACKED
from diffembed.models.checkpoint import ModelConfig, load_backbone, load_tokenizer, read_model_config, save_model
from diffembed.models.embedder import Embedder
from diffembed.models.export import export_onnx
from diffembed.models.merging import merge_models
from diffembed.models.pretrained import load_pretrained
from diffembed.text.batching import TokenizedSequence, pack

POOLINGS, ATTENTIONS = ("mean", "last", "mask"), ("bidirectional", "causal")
MASK, EOT = 1, 2
READOUT = {"mean": [], "last": [EOT], "mask": [MASK]}
CELLS = list(itertools.product(POOLINGS, ATTENTIONS))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Any, tiny_tokenizer: Any) -> dict[Any, Path]:
    """The tiny model saved once for each pooling and attention, its float32 vectors plain states."""
    root = tmp_path_factory.mktemp("pooled")
    found = {}
    for pooling, attention in CELLS:
        config = dataclasses.replace(make_config(), quantizer="none", pooling=pooling, attention=attention)
        found[pooling, attention] = save_model(root / f"{pooling}-{attention}", tiny_backbone, tiny_tokenizer, config)
    return found


def token_ids(model: Path, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in load_tokenizer(model).encode_batch(texts, add_special_tokens=False)]


def pooled(states: torch.Tensor, pooling: str) -> np.ndarray:
    found: np.ndarray = (states.mean(0) if pooling == "mean" else states[-1]).detach().numpy()
    return found


@pytest.mark.parametrize(("pooling", "attention"), CELLS)
def test_vectors_are_those_of_stock_transformers(
    models: dict[Any, Path], corpus: list[str], pooling: str, attention: str
) -> None:
    path = models[pooling, attention]
    ours = Encoder.load(path, runtime="torch").encode_documents(corpus).values
    assert read_model_config(path).attention == attention
    rows = [ids + READOUT[pooling] for ids in token_ids(path, corpus)]
    stock = AutoModel.from_pretrained(path, attn_implementation="sdpa").eval()
    with torch.no_grad():
        alone = [pooled(stock(torch.tensor([ids])).last_hidden_state[0], pooling) for ids in rows]
        batch = [TokenizedSequence(tuple(ids), ((0, len(ids)),)) for ids in rows]
        states = stock_states(stock, batch, causal=attention == "causal")  # masks written out, no flag
    parts = torch.split(states, [len(ids) for ids in rows])
    assert np.abs(np.stack(alone) - ours).max() < 1e-4
    assert np.abs(np.stack([pooled(part, pooling) for part in parts]) - ours).max() < 1e-4


@pytest.mark.parametrize(("pooling", "attention"), CELLS)
def test_training_reads_what_the_encoder_reads(
    models: dict[Any, Path], corpus: list[str], pooling: Any, attention: str
) -> None:
    path = models[pooling, attention]
    embedder = Embedder(load_backbone(path, attn_implementation=PACKED), pooling=pooling)
    rows = [ids + READOUT[pooling] for ids in token_ids(path, corpus)]
    with torch.no_grad():
        trained = embedder(pack([TokenizedSequence(tuple(ids), ((0, len(ids)),)) for ids in rows]))
    served = Encoder.load(path, runtime="torch").encode_documents(corpus).values
    assert np.abs(trained.numpy() - served).max() < 1e-5


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_late_token_changes_early_chunks_only_where_attention_is_open(models: dict[Any, Path], pooling: str) -> None:
    documents = [["the lazy dog", "reads about", f"search {word}"] for word in ("engines", "tokens")]
    for attention in ATTENTIONS:
        encoder = Encoder.load(models[pooling, attention], runtime="torch")
        one, other = (encoder.encode_chunks([document]).values for document in documents)
        assert np.abs(one[2] - other[2]).max() > 1e-3
        changed = np.abs(one[:2] - other[:2]).max()
        assert changed < 1e-5 if attention == "causal" else changed > 1e-3


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("pooling", ["last", "mask"])
def test_a_token_stands_after_every_chunk(models: dict[Any, Path], pooling: str, attention: str) -> None:
    path, read = models[pooling, attention], READOUT[pooling]
    chunks = ["the quick fox", "jumps", "over the dog"]
    ids = token_ids(path, chunks)
    whole = [*ids[0], *read, EOT, *ids[1], *read, EOT, *ids[2], *read]
    ends = np.cumsum([len(i) + 2 for i in ids]) - 2
    sequence = TokenizedSequence(tuple(whole), tuple((int(e), int(e) + 1) for e in ends))
    states = stock_states(AutoModel.from_pretrained(path).eval(), [sequence], causal=attention == "causal")
    encoder = Encoder.load(path, runtime="torch")
    assert np.abs(encoder.encode_chunks([chunks]).values - states[ends].detach().numpy()).max() < 1e-4
    assert encoder.count_tokens(chunks) == [len(i) + 1 for i in ids]
    tokens = encoder.encode_tokens([chunks[0]]).values  # those of the text, read with that token behind it
    alone = stock_states(
        AutoModel.from_pretrained(path).eval(), [TokenizedSequence((*ids[0], *read), ())], causal=attention == "causal"
    )
    assert np.abs(tokens - alone[:-1].detach().numpy()).max() < 1e-4


def test_the_token_that_is_read_takes_room(models: dict[Any, Path]) -> None:
    long = "dog " * 300
    for pooling, reads in (("mean", 128), ("last", 127), ("mask", 127)):
        encoder = Encoder.load(models[pooling, "bidirectional"], runtime="torch")
        with pytest.raises(InputError, match=f"reads at most {reads}; split it, or ask for truncate"):
            encoder.encode_documents([long])
        cut = encoder.encode_documents([long], truncate=True)
        assert cut.truncated == (0,) and cut.tokens == 128
        if pooling != "mean":  # no token of a piece speaks for the whole
            with pytest.raises(InputError, match="its pooling gives no vector of pieces"):
                encoder.encode_documents([long], windows=True)


@pytest.mark.parametrize("pooling", ["last", "mask"])
def test_onnx_pools_alike(models: dict[Any, Path], corpus: list[str], tmp_path: Path, pooling: str) -> None:
    path = export_onnx(models[pooling, "bidirectional"], tmp_path / "out", precisions=("fp32",))
    onnx, torch_one = Encoder.load(path, runtime="onnx"), Encoder.load(path, runtime="torch")
    documents = [corpus[:3], corpus[4:]]
    assert np.abs(onnx.encode_documents(corpus).values - torch_one.encode_documents(corpus).values).max() < 1e-4
    assert np.abs(onnx.encode_chunks(documents).values - torch_one.encode_chunks(documents).values).max() < 1e-4


def test_causal_attention_has_no_graph(models: dict[Any, Path], tiny_model_dir: Path, tmp_path: Path) -> None:
    path = models["last", "causal"]
    with pytest.raises(NotExportableError, match="has causal attention; .* use runtime='torch'"):
        export_onnx(path, tmp_path / "out", precisions=("fp32",))
    with pytest.raises(ModelError, match="has causal attention, which has no ONNX form; use runtime='torch'"):
        Encoder.load(path, runtime="onnx")
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    shutil.copytree(tiny_model_dir / "onnx", copy / "onnx")  # graphs that someone put there read both ways
    assert Encoder.load(copy).runtime.name == "torch"


@pytest.mark.filterwarnings("ignore")  # the import of sentence-transformers warns about its own parts
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_sentence_transformers_gives_our_vectors(
    models: dict[Any, Path], corpus: list[str], pooling: str, attention: str
) -> None:
    library = pytest.importorskip("sentence_transformers")
    path = models[pooling, attention]
    theirs = library.SentenceTransformer(str(path), device="cpu", trust_remote_code=False)
    texts = [*corpus, "dog " * 300]  # the longest is cut, and its last token is read all the same
    ours = Encoder.load(path, runtime="torch").encode_documents(texts, truncate=True)
    assert ours.truncated == (len(corpus),)
    assert np.abs(theirs.encode(texts, batch_size=3) - ours.values).max() < 1e-4


def test_a_directory_that_contradicts_itself_is_refused(models: dict[Any, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(models["last", "causal"], tmp_path / "copy"))
    stock = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(stock | {"is_causal": False}))
    with pytest.raises(ModelError, match="attention is causal and config.json has is_causal False"):
        Encoder.load(path)
    ours = json.loads((path / "diffembed.json").read_text())
    for change, message in (
        ({"attention": "sideways"}, "attention 'sideways'; known are 'bidirectional' or 'causal'"),
        ({"pooling": "cls"}, "pooling 'cls'; known are 'mean' or 'last' or 'mask'"),
        ({"pooling": "mask", "mask_token_id": None}, "has pooling 'mask' and no mask_token_id"),
        ({"suffix_ids": [2]}, "has pooling 'last', which reads a token that it puts after every text, and suffix_ids"),
    ):
        (path / "diffembed.json").write_text(json.dumps(ours | change))
        with pytest.raises(ModelError, match=message):
            Encoder.load(path)


def test_open_attention_is_not_spoken_of(models: dict[Any, Path]) -> None:
    """Fingerprints of foreign directories are over this text: it must not change for models that were there before."""
    assert "attention" not in json.loads((models["last", "bidirectional"] / "diffembed.json").read_text())
    config = read_model_config(models["last", "causal"])
    assert ModelConfig.from_json(config.to_json()) == config


def test_merging_and_adapting_keep_or_open_the_mask(models: dict[Any, Path], tmp_path: Path) -> None:
    causal, opened = models["last", "causal"], models["last", "bidirectional"]
    merged = merge_models([causal, causal], tmp_path / "merged", method="soup")
    texts = ["the lazy dog reads"]
    same = [Encoder.load(path, runtime="torch").encode_documents(texts).values for path in (merged, causal)]
    assert np.abs(same[0] - same[1]).max() < 1e-6
    with pytest.raises(ModelError, match="attention"):
        merge_models([causal, opened], tmp_path / "mixed", method="soup")
    assert load_pretrained(causal).model.config.is_causal is False  # as a diffusion backbone it reads both ways
