"""The lexical start: before any training, an embedder that ranks like a weighted bag of words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffembed.errors import ModelError
from diffembed.models.backbone import build_qwen3, packed_states, require_bidirectional, set_causal, token_embedding
from diffembed.models.embedder import Embedder
from diffembed.models.lexical import TokenCounts, frequency_weights, lexical_start
from diffembed.text.batching import TokenizedSequence, pack

VOCAB, WIDTH = 300, 32


def _embedder() -> Embedder:
    model = build_qwen3(
        vocab_size=VOCAB, hidden_size=WIDTH, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate_size=48,
        max_tokens=64, rope_theta=1e4, pad_token_id=0, eos_token_id=1, seed=1,
    )  # fmt: skip
    set_causal(model, False)
    return Embedder(model.eval())


def _frequencies() -> np.ndarray:
    return np.maximum(1, 1000 // np.arange(1, VOCAB + 1)).astype(np.int64) + 2  # token i in about 1000 / i texts


def _counts() -> TokenCounts:
    return TokenCounts(_frequencies(), 3 * _frequencies(), 1000)


def test_rows_have_unit_length_and_frequent_tokens_stand_on_the_sink() -> None:
    embedder = _embedder()
    lexical_start(embedder.backbone, _counts())
    table = token_embedding(embedder.backbone).detach()
    torch.testing.assert_close(table.norm(dim=1), torch.ones(VOCAB))
    weights = frequency_weights(_frequencies(), 1000)
    # A row is w times a unit vector, less one mean m: |row|^2 + 2 row m + |m|^2 = w^2 is linear in (m, |m|^2).
    rows = table[:, :-1].double().numpy()
    whole = np.linalg.norm(rows, axis=1) < 0.9799  # the longest are cut to 0.98
    equations = np.concatenate([2 * rows[whole], np.ones((whole.sum(), 1))], axis=1)
    wanted = weights[whole] ** 2 - (rows[whole] ** 2).sum(1)
    solved = np.linalg.lstsq(equations, wanted, rcond=None)[0]
    np.testing.assert_allclose(equations @ solved, wanted, atol=1e-5)
    own = table[:, :-1] / table[:, :-1].norm(dim=1, keepdim=True)
    between = (own @ own.T)[~torch.eye(VOCAB, dtype=torch.bool)]
    assert abs(float(between.mean())) < 0.01, "whitened rows point nowhere in common"


def test_the_mean_over_the_texts_is_zero_and_the_sink_is_silent() -> None:
    embedder = _embedder()
    lexical_start(embedder.backbone, _counts())
    table = token_embedding(embedder.backbone).detach()
    tokens = torch.from_numpy(np.repeat(np.arange(VOCAB), _counts().in_all))
    torch.testing.assert_close(table[tokens, :-1].mean(0), torch.zeros(WIDTH - 1), atol=2e-3, rtol=0.0)
    with torch.no_grad():
        states = packed_states(embedder.backbone, pack([TokenizedSequence((1, 2, 250), ())]))
    assert states[:, -1].tolist() == [0.0, 0.0, 0.0]


def test_a_rare_shared_word_outranks_many_frequent_ones() -> None:
    embedder = _embedder()
    lexical_start(embedder.backbone, _counts())
    rare, frequent = 250, (1, 2, 3, 4)
    texts = [(*frequent, rare), (*frequent, 260, 261), (270, 271, rare, 272)]
    with torch.no_grad():
        q, common, shared = embedder.quantized(pack([TokenizedSequence(t, ((0, len(t)),)) for t in texts]), WIDTH)
    similar = torch.nn.functional.cosine_similarity
    assert similar(q, shared, dim=0) > similar(q, common, dim=0) + 0.05


def test_the_damped_backbone_still_reads_both_ways() -> None:
    embedder = _embedder()
    lexical_start(embedder.backbone, _counts(), damping=1e-2)
    require_bidirectional(embedder.backbone)


def test_too_little_text_is_refused() -> None:
    counts = np.zeros(VOCAB, dtype=np.int64)
    counts[: WIDTH // 2] = 5
    with pytest.raises(ModelError, match="lexical start needs more different tokens"):
        lexical_start(_embedder().backbone, TokenCounts(counts, counts, 10))
