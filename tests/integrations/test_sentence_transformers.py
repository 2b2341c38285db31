"""Stock ``SentenceTransformer`` loads what was saved here, without remote code, and gives the encoder's vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.doctor import BUNDLED
from diffembed.encoder import Encoder
from diffembed.models.checkpoint import ModelConfig, save_model
from diffembed.vectors.quantize import tanh_int8

pytestmark = pytest.mark.filterwarnings("ignore")  # the import of sentence-transformers warns about its own parts
sentence_transformers = pytest.importorskip("sentence_transformers")


def load(path: Path, **options: Any) -> Any:
    return sentence_transformers.SentenceTransformer(str(path), device="cpu", trust_remote_code=False, **options)


@pytest.fixture(scope="module")
def prompted(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Any, tiny_tokenizer: Any, tiny_config: ModelConfig
) -> Path:
    """A model that puts different words before queries and documents."""
    config = replace(tiny_config, query_prompt="Die Katze fragt: ", document_prompt="def document: ")
    return save_model(tmp_path_factory.mktemp("models") / "prompted", tiny_backbone, tiny_tokenizer, config)


def test_prompts_of_queries_and_documents(prompted: Path, corpus: list[str]) -> None:
    theirs, ours = load(prompted), Encoder.load(prompted, runtime="torch")
    assert np.abs(theirs.encode_query(corpus) - ours.encode_queries(corpus).values).max() < 1e-5
    assert np.abs(theirs.encode_document(corpus) - ours.encode_documents(corpus).values).max() < 1e-5
    assert np.abs(theirs.encode_query(corpus) - theirs.encode_document(corpus)).max() > 0.01
    assert theirs.similarity_fn_name == "cosine"


@pytest.mark.parametrize("dims", [16, 32])
def test_a_trained_width_is_truncate_dim(prompted: Path, corpus: list[str], dims: int) -> None:
    theirs = load(prompted, truncate_dim=dims).encode_document(corpus)
    ours = Encoder.load(prompted, runtime="torch").encode_documents(corpus, dims=dims).values
    assert theirs.shape == (len(corpus), dims)
    assert np.abs(theirs - ours).max() < 1e-5


def test_a_model_without_a_quantizer_that_normalizes(
    tmp_path: Path, tiny_backbone: Any, tiny_tokenizer: Any, tiny_config: ModelConfig, corpus: list[str]
) -> None:
    config = replace(tiny_config, quantizer="none", normalize=True)
    path = save_model(tmp_path / "plain", tiny_backbone, tiny_tokenizer, config)
    theirs = load(path).encode(corpus)
    assert np.allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    assert np.abs(theirs - Encoder.load(path, runtime="torch").encode_documents(corpus).values).max() < 1e-5


@pytest.mark.skipif(not (BUNDLED / "diffembed.json").exists(), reason="the embedded model has not been trained yet")
def test_the_embedded_model(corpus: list[str]) -> None:
    theirs, ours = load(BUNDLED), Encoder.load("default", runtime="torch")
    vectors = theirs.encode_document(corpus)
    assert np.abs(vectors - ours.encode_documents(corpus).values).max() < 1e-4
    assert np.abs(theirs.encode_query(corpus) - ours.encode_queries(corpus).values).max() < 1e-4
    # what int8 is made of: the same numbers but for halves that fall to either side
    int8 = ours.encode_documents(corpus, dtype="int8").values
    assert np.abs(tanh_int8(np.arctanh(vectors.astype(np.float64)).astype(np.float32)).astype(int) - int8).max() <= 1
    assert theirs.max_seq_length == ours.max_tokens
