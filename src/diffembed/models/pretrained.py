"""Any pretrained decoder as a diffusion backbone: read, mask opened, mask token settled, probed.

``load_pretrained`` takes a causal checkpoint of a known family, a released diffusion checkpoint in its own layout, or a
model directory written here. ``load_source`` takes what the Encoder loads, adapters merged in. Nothing of a checkpoint
is run: weights come from safetensors into stock classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedModel

from diffembed.errors import InputError, ModelError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import require_bidirectional, set_causal, token_embedding
from diffembed.models.checkpoint import (
    CONFIG_FILE,
    HEAD_FILE,
    load_backbone,
    load_head,
    load_tokenizer,
    read_json,
    read_model_config,
)
from diffembed.models.families import opened, require_family
from diffembed.models.files import fetch_model, weight_files
from diffembed.models.foreign import Source
from diffembed.models.lora import merge_adapter
from diffembed.models.masking import settle_mask_token, shield
from diffembed.models.released import Layout, layout_of, read_layout_tokenizer, settle_ends
from diffembed.models.stack import ENCODERS
from diffembed.models.weights import load_stock, read_tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Heads that sentence-transformers leaves in some checkpoints of encoders, and buffers that older versions saved.
_HEADS = r"(^|\.)position_ids$|^(cls|lm_head|vocab_\w+|qa_outputs|classifier|head|decoder|predictions|pooler)\."


@dataclass(frozen=True, slots=True)
class LoadedBackbone:
    """A pretrained decoder, ready for masked diffusion.

    Attributes:
        model: the stock base model without a head, its mask open, probed, in eval mode.
        head: ``[vocab, hidden]`` output matrix where it is not tied; ``None``: the token-embedding table is.
        tokenizer: text that spells a special token is read as plain characters.
        mask_token_id: what a masked token becomes.
        pad_token_id: fills padded places.
        eot_token_id: ends a document and stands between chunks.
        shift: the state at i predicts token i + 1.
        layout: ``diffembed``, a released layout's name, or the family's ``model_type``.
    """

    model: PreTrainedModel
    head: Tensor | None
    tokenizer: Tokenizer
    mask_token_id: int
    pad_token_id: int
    eot_token_id: int
    shift: bool
    layout: str


def load_pretrained(
    source: str | Path,
    *,
    attn_implementation: str = PACKED,
    dtype: torch.dtype | str | None = None,
    mask_token: int | str | None = None,
    max_tokens: int | None = None,
    allow_unproven: bool = False,
) -> LoadedBackbone:
    """Load a pretrained decoder as a diffusion backbone.

    Args:
        source: a directory or a hub id (``owner/name``): a causal checkpoint of a known family
            (``models/families.py``), a released diffusion checkpoint (``models/released.py``), or a diffembed model
            directory.
        attn_implementation: what the model comes back on. A checkpoint is probed on it, ``eager`` and ``sdpa``, which
            must agree; a model directory on it alone.
        dtype: of the weights; ``None`` is float32.
        mask_token: id or token; ``None`` takes the checkpoint's own, else a rare token of its vocabulary.
        max_tokens: the longest text that will be read, which settles rotary frequencies that depend on it
            (``models/rotary.py``); ``None``: as many as the checkpoint has positions. A model directory keeps its own.
        allow_unproven: take other stock architectures too, if they pass the probe.

    Raises:
        ModelError: nothing there, damage, an unknown architecture, no output matrix, a model that does not read both
            ways.
        InputError: ``mask_token`` or ``dtype`` is of no use.
        MissingExtraError: a hub id, and ``huggingface_hub`` is not installed.
    """
    root, weights_type = fetch_model(source), _dtype(dtype)
    if not root.is_dir():
        raise ModelError(f"checkpoint {source} does not exist; give a directory or a hub id (owner/name)")
    if (root / CONFIG_FILE).exists():
        return _own_directory(root, attn_implementation, weights_type, mask_token)
    layout = layout_of(read_json(root / "config.json"), str(root))
    require_family(layout.model_type, str(root), allow_unproven=allow_unproven)
    model = _load_layout(root, layout, attn_implementation, weights_type, max_tokens)
    head = _untied_head(root, layout, model, weights_type)
    tokenizer = read_layout_tokenizer(root, layout.slow_tokenizer)
    rows = token_embedding(model).shape[0]
    pad, end = settle_ends(tokenizer, rows, model.config.pad_token_id, model.config.eos_token_id)
    mask = settle_mask_token(tokenizer, rows, mask_token, released=_released_mask(layout, tokenizer), taken={pad, end})
    shield(tokenizer, {pad, end, mask})
    require_bidirectional(model, ("eager", "sdpa", attn_implementation))
    return LoadedBackbone(model, head, tokenizer, mask, pad, end, layout.shift, layout.name)


def load_source(
    source: Source,
    *,
    attn_implementation: str = "sdpa",
    dtype: torch.dtype | None = None,
    max_tokens: int | None = None,
) -> PreTrainedModel:
    """The backbone of any directory that the Encoder loads, for embedding: mask open, probed, no head, in eval mode.

    Args:
        source: of every kind but ``modules``.
        max_tokens: as for :func:`load_pretrained`.

    Raises:
        ModelError: damage, an unknown architecture, an adapter that does not fit, a model that does not read both ways.
        MissingExtraError: an adapter, and peft is not installed.
    """
    if source.kind == "diffembed":
        return load_backbone(source.root, attn_implementation=attn_implementation, dtype=dtype)
    layout, weights_type = source.layout, dtype or torch.float32
    assert layout is not None
    if source.kind != "stock":
        require_family(layout.model_type, str(source.weights))
    model = _load_layout(source.weights, layout, attn_implementation, weights_type, max_tokens)
    if source.adapter is not None:
        model = merge_adapter(model, source.adapter, layout)
    require_bidirectional(model)
    return model


def _load_layout(
    root: Path, layout: Layout, attn_implementation: str, dtype: torch.dtype, max_tokens: int | None
) -> PreTrainedModel:
    return load_stock(
        root,
        _stock_config(layout, root),
        attn_implementation=attn_implementation,
        dtype=dtype,
        rename=layout.rename,
        unused=f"{layout.unused}|^{re.escape(layout.head)}$" + (f"|{_HEADS}" if layout.name in ENCODERS else ""),
        max_tokens=max_tokens,
    )


def _own_directory(
    root: Path, attn_implementation: str, dtype: torch.dtype, mask_token: int | str | None
) -> LoadedBackbone:
    config = read_model_config(root)
    model = load_backbone(root, attn_implementation=attn_implementation, dtype=dtype)
    if config.attention == "causal":
        set_causal(model, False)
        require_bidirectional(model)
    head, tokenizer = load_head(root), load_tokenizer(root)
    if head is None and not model.config.tie_word_embeddings:
        raise ModelError(
            f"{root} has no {HEAD_FILE}, and its config does not tie the output matrix to the token table: it can "
            "embed, but not predict tokens; give the model directory of the language-model stage that it was made from"
        )
    pad, end = config.pad_token_id, config.eot_token_id
    rows = token_embedding(model).shape[0]
    mask = settle_mask_token(tokenizer, rows, mask_token, released=config.mask_token_id, taken={pad, end})
    shield(tokenizer, {pad, end, mask})
    head = None if head is None else head.to(dtype)
    return LoadedBackbone(model, head, tokenizer, mask, pad, end, config.shift, "diffembed")


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype {dtype!r} is not a floating-point type of torch; use float32 or bfloat16")
    return found


def _stock_config(layout: Layout, root: Path) -> Any:
    if layout.model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"{root} is of type '{layout.model_type}', which this transformers does not have: it would take code from "
            "the checkpoint, which is never run"
        )
    try:
        return CONFIG_MAPPING[layout.model_type](**opened(layout.model_type, layout.stock))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{root / 'config.json'} is no {layout.model_type} config: {first}; copy it again") from error


def _untied_head(root: Path, layout: Layout, model: PreTrainedModel, dtype: torch.dtype) -> Tensor | None:
    if model.config.tie_word_embeddings:
        return None
    stored = weight_files(root)
    if layout.head not in stored:
        raise ModelError(
            f"{root} has no output matrix {layout.head}, and its config does not tie it to the token table; "
            "give a checkpoint of the whole language model"
        )
    head = read_tensor(stored[layout.head], layout.head, dtype)
    if head.shape != token_embedding(model).shape:
        raise ModelError(
            f"{root}: {layout.head} is {list(head.shape)}, the token table {list(token_embedding(model).shape)}; "
            "they must be alike"
        )
    return head


def _released_mask(layout: Layout, tokenizer: Tokenizer) -> int | None:
    """dllm adds its mask token to the tokenizer and leaves the config as it was."""
    if layout.name == "a2d" and layout.mask_token_id is None:
        named = tokenizer.token_to_id("<|mask|>")
        return None if named is None else int(named)
    return layout.mask_token_id
