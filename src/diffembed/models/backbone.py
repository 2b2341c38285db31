"""Backbones: a decoder of stock ``transformers``, its attention mask opened, and proof that it is open.

Opening is one configuration flag (``is_causal = False``), never a copied modelling file. Because a flag can be
ignored by a kernel, ``probe_direction`` runs the model and looks: does a late token change an early state?
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen3Config, Qwen3Model

from diffembed.errors import ModelError
from diffembed.models.attention import PACKED, plan_packing
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack


def build_qwen3(
    *,
    vocab_size: int,
    hidden_size: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate_size: int,
    max_tokens: int,
    rope_theta: float,
    pad_token_id: int,
    eos_token_id: int,
    seed: int,
) -> PreTrainedModel:
    """A Qwen3-shaped decoder with fresh weights, still causal, on packed attention."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(seed)
    model = Qwen3Model(config)
    model.set_attn_implementation(PACKED)
    set_causal(model, True)
    return model


def set_causal(model: PreTrainedModel, causal: bool) -> None:
    """Close or open the attention mask: the config's flag, and the attribute that fused kernels read."""
    model.config.is_causal = causal
    for module in model.modules():
        if hasattr(module, "is_causal"):
            setattr(module, "is_causal", causal)  # noqa: B010 (a plain attribute, which nn.Module's types do not know)


def packed_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Final-norm states ``[tokens, hidden]`` of a packed batch."""
    device = model.device
    output = model(
        input_ids=torch.from_numpy(batch.token_ids)[None].to(device),
        position_ids=torch.from_numpy(batch.position_ids)[None].to(device),
        attention_mask=None,
        use_cache=False,
        packing=plan_packing(batch.cu_seqlens, device),
    )
    states: Tensor = output.last_hidden_state[0]
    return states


@torch.no_grad()
def probe_direction(model: PreTrainedModel, length: int = 12) -> bool:
    """Whether a late token changes an early state: alone (batch size 1) and packed behind another sequence.

    Raises:
        ModelError: the two disagree, so what the model reads would depend on its batch.
    """
    was_training = model.training
    model.train(False)
    try:
        first = torch.arange(length).remainder(model.config.vocab_size).tolist()
        last = [*first[:-1], (first[-1] + 1) % model.config.vocab_size]
        seen = []
        for before in ([], [TokenizedSequence((3, 1, 2), ())]):
            a, b = (packed_states(model, pack([*before, TokenizedSequence(tuple(x), ())])) for x in (first, last))
            start = 3 if before else 0
            seen.append(bool((a[start] - b[start]).abs().max() > 1e-7))
    finally:
        model.train(was_training)
    if len(set(seen)) != 1:
        where, elsewhere = ("alone", "packed") if seen[0] else ("packed", "alone")
        raise ModelError(
            f"the backbone reads both ways {where} but not {elsewhere} on attention "
            f"'{model.config._attn_implementation}'; load it with attn_implementation='{PACKED}'"
        )
    return seen[0]


def require_bidirectional(model: PreTrainedModel) -> None:
    """Refuse a backbone whose states cannot see what comes later."""
    if not probe_direction(model):
        raise ModelError(
            f"the backbone is causal on attention '{model.config._attn_implementation}': a late token changed no early "
            "state; open its mask with set_causal(model, False)"
        )


def token_embedding(model: PreTrainedModel) -> Tensor:
    """The token-embedding table ``[vocab, hidden]``, which is the output matrix too (tied)."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding.weight
