"""Tiny models of every family that has an ONNX form, as exported model directories, with their stock forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.conftest import CORPUS, make_config, make_tokenizer
from tests.models.tiny import stock_states, tiny_config, tiny_model
from transformers import BertConfig, BertModel, PreTrainedModel

from diffembed.models.calibrate import Calibration, calibrate
from diffembed.models.checkpoint import read_model_config, save_model
from diffembed.models.encoder_graph import GraphSource
from diffembed.models.export import Int8Options, export_onnx
from diffembed.text.batching import TokenizedSequence

VOCAB, WIDTH, MOST = 400, 32, 512
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
FEW_TEXTS = Int8Options(texts=CORPUS)


def make_model(family: str, **changes: Any) -> PreTrainedModel:
    """A random stock model that reads both ways; norms and biases are not what they begin as."""
    if family != "bert":
        return tiny_model(tiny_config(family, vocab_size=VOCAB, max_position_embeddings=MOST, **changes))
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=MOST,
            initializer_range=0.2,
        ),
        add_pooling_layer=False,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" in name:
                parameter.uniform_(0.6, 1.4)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    return model.eval()


def save(path: Path, model: PreTrainedModel) -> Path:
    """A model directory without graphs."""
    return save_model(path, model, make_tokenizer(), replace(make_config(), dims=(16, WIDTH), max_tokens=MOST))


def export(path: Path, model: PreTrainedModel) -> Path:
    """A model directory with graphs in fp32 and int8."""
    return export_onnx(save(path, model), precisions=("fp32", "int8"), int8=FEW_TEXTS)


def source_of(path: Path) -> GraphSource:
    return GraphSource(path, read_model_config(path))


def calibration(source: GraphSource) -> Calibration:
    return calibrate(source, CORPUS)


def states(model: PreTrainedModel, batch: list[TokenizedSequence]) -> list[np.ndarray]:
    """Final states of each sequence, by the stock model."""
    with torch.no_grad():
        if isinstance(model, BertModel):
            return [model(torch.tensor(s.token_ids)[None]).last_hidden_state[0].numpy() for s in batch]
        every = stock_states(model, batch, causal=False).numpy()
    return np.split(every, np.cumsum([len(s) for s in batch])[:-1])


def sequences(*lengths: int, seed: int = 0) -> list[TokenizedSequence]:
    """Random token ids with one span each."""
    rng = np.random.default_rng(seed)
    return [TokenizedSequence(tuple(rng.integers(3, VOCAB, n).tolist()), ((0, n),)) for n in lengths]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    dot = np.einsum("ij,ij->i", a, b)
    return dot / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
