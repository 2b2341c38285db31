"""Every family by configuration alone: packed attention against stock eager attention under explicit masks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import CORPUS
from tests.models.tiny import FAMILIES, LENGTHS, WIDTH, sequences, stock_states, tiny_config, tiny_model

from diffembed.errors import ModelError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import packed_states, probe_direction, require_bidirectional, set_causal
from diffembed.models.checkpoint import ModelConfig, load_backbone, save_model
from diffembed.models.families import FAMILIES as PROVEN
from diffembed.models.pretrained import load_pretrained
from diffembed.models.released import layout_of
from diffembed.text.batching import TokenizedSequence, pack


def test_every_proven_family_is_tested() -> None:
    assert {kind for kind, _ in FAMILIES.values()} == set(PROVEN)


def test_every_family_and_layout_is_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")
    section = text[text.index("## Backbones") : text.index("## From a text to a vector")]
    kinds = ("bidirectional_pplx_qwen3", "Dream", "a2d-qwen3", "gemma3")
    layouts = {layout_of({"model_type": kind}, "here").name for kind in kinds}
    for name in (*PROVEN.values(), *(f"`{layout}`" for layout in layouts), "`pplx-contextual`", "`llada`"):
        assert name in section, name


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "open"])
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_equals_stock_padded_forward_and_gradient(name: str, causal: bool) -> None:
    stock = tiny_model(tiny_config(name))
    ours = copy.deepcopy(stock)
    ours.set_attn_implementation(PACKED)
    set_causal(ours, causal)
    batch = sequences()
    target = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(1))
    states = packed_states(ours, pack(batch)), stock_states(stock, batch, causal=causal)
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5)
    for out in states:
        (out * target).sum().backward()  # type: ignore[no-untyped-call]
    for (parameter, a), b in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert (a.grad - b.grad).abs().max() <= 1e-5 * b.grad.abs().max(), parameter


@pytest.mark.parametrize("name", FAMILIES)
def test_no_document_sees_another(name: str) -> None:
    model = tiny_model(tiny_config(name))
    model.set_attn_implementation(PACKED)
    set_causal(model, False)
    batch = sequences()
    with torch.no_grad():
        together = packed_states(model, pack(batch))
        n = LENGTHS[-1]
        other = packed_states(model, pack([*batch[:-1], TokenizedSequence((7,) * n, ((0, n),))]))
    torch.testing.assert_close(together[:-n], other[:-n], atol=1e-6, rtol=0)
    assert (together[-n:] - other[-n:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_probe_on_every_implementation(name: str) -> None:
    model = tiny_model(tiny_config(name))
    for implementation in ("eager", "sdpa", PACKED):
        model.set_attn_implementation(implementation)
        set_causal(model, True)
        assert not probe_direction(model)
        with pytest.raises(ModelError, match=f"is causal on attention '{implementation}'"):
            require_bidirectional(model)
        set_causal(model, False)
        assert probe_direction(model)
    require_bidirectional(model, ("eager", "sdpa", PACKED))
    assert model.config._attn_implementation == PACKED


@pytest.mark.filterwarnings("ignore")  # the import of sentence-transformers warns about its own parts
@pytest.mark.parametrize("name", ["qwen2-window", "llama", "mistral-window", "gemma3", "phi3", "olmo2", "smollm3"])
def test_survives_saving_and_gives_sentence_transformers_the_same_vectors(
    name: str, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from diffembed.encoder import Encoder

    rows = tiny_tokenizer.get_vocab_size()
    backbone = tiny_model(tiny_config(name, vocab_size=rows, max_position_embeddings=128))
    config = ModelConfig("tiny", (WIDTH,), 128, mask_token_id=1, pad_token_id=0, eot_token_id=2, shift=False)
    save_model(tmp_path / "model", backbone, tiny_tokenizer, config)
    loaded = load_pretrained(tmp_path / "model")
    assert (loaded.layout, loaded.shift, loaded.mask_token_id, loaded.head) == ("diffembed", False, 1, None)
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], tensor), key
    batch = sequences()
    torch.testing.assert_close(
        packed_states(loaded.model, pack(batch)), stock_states(backbone, batch, causal=False), atol=1e-5, rtol=1e-5
    )
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu", trust_remote_code=False)
    texts = [*CORPUS, CORPUS[0] * 2]
    encoder = Encoder.load(tmp_path / "model", runtime="torch")
    assert encoder.runtime.packed  # type: ignore[attr-defined]
    ours = encoder.encode_documents(texts).values
    for batch_size in (
        1,
        4,
    ):  # one text alone has no padding, and so no mask that would keep a kernel from being causal
        assert np.abs(theirs.encode(texts, batch_size=batch_size) - ours).max() < 1e-5


def test_gemma_that_already_reads_both_ways_keeps_its_window(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """EmbeddingGemma's flag halves the window; what is loaded reads exactly what that model read."""
    rows = tiny_tokenizer.get_vocab_size()
    native = tiny_model(tiny_config("gemma3", vocab_size=rows, use_bidirectional_attention=True, sliding_window=8))
    native.save_pretrained(tmp_path)
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "config.json").read_text())["sliding_window"] == 8
    loaded = load_pretrained(tmp_path)
    ids = torch.tensor([sequences((40,))[0].token_ids])
    expected = native(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    torch.testing.assert_close(packed_states(loaded.model, pack(sequences((40,)))), expected, atol=1e-5, rtol=1e-5)


def _checkpoint(folder: Path, tokenizer: Any, kind: str, **shape: Any) -> Path:
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    torch.manual_seed(0)
    config: Any = CONFIG_MAPPING[kind]
    config = config(vocab_size=tokenizer.get_vocab_size(), bos_token_id=None, eos_token_id=2, **shape)
    model_class: Any = MODEL_MAPPING[type(config)]
    model_class(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.filterwarnings("ignore")  # of the mamba kernels that are not installed
def test_other_architectures_need_the_callers_word_and_the_probe(tmp_path: Path, tiny_tokenizer: Any) -> None:
    gpt2 = _checkpoint(tmp_path / "gpt2", tiny_tokenizer, "gpt2", n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(ModelError, match=r"type 'gpt2', which is not among the proven families \(Gemma 3, Llama"):
        load_pretrained(gpt2)
    loaded = load_pretrained(gpt2, allow_unproven=True)
    assert loaded.layout == "gpt2" and probe_direction(loaded.model)
    mamba = _checkpoint(tmp_path / "mamba", tiny_tokenizer, "mamba", hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ModelError, match="is causal on attention 'eager'"):
        load_pretrained(mamba, allow_unproven=True)
    gemma2 = _checkpoint(
        tmp_path / "gemma2", tiny_tokenizer, "gemma2", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, head_dim=8,
    )  # fmt: skip
    with pytest.raises(ModelError, match="does not run on attention 'sdpa'"):
        load_pretrained(gemma2, allow_unproven=True)


def test_architecture_that_transformers_lacks_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mercury", "auto_map": {"AutoModel": "m.Model"}}))
    (tmp_path / "m.py").write_text("raise SystemExit('ran')")
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="not among the proven families"):
        load_pretrained(tmp_path)
    with pytest.raises(ModelError, match="code from the checkpoint, which is never run"):
        load_pretrained(tmp_path, allow_unproven=True)


def test_dtype_of_the_weights(tmp_path: Path, tiny_tokenizer: Any) -> None:
    model = tiny_model(tiny_config("llama", vocab_size=tiny_tokenizer.get_vocab_size()))
    save_model(tmp_path / "model", model, tiny_tokenizer, ModelConfig("tiny", (WIDTH,), 64, None, 0, 2))
    assert load_backbone(tmp_path / "model").dtype == torch.float32
    assert load_pretrained(tmp_path / "model", dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(Exception, match="dtype 'int4' is not a floating-point type"):
        load_pretrained(tmp_path / "model", dtype="int4")
