"""Layouts of released checkpoints: which stock class a ``config.json`` means, and what its tensors are called.

Every layout ends in a class of stock ``transformers``; code that a checkpoint brings along is never run.

- ``bidirectional_pplx_qwen3`` (pplx-embed, arXiv 2602.11151, dense and contextual): Qwen3 without a head, tied.
- ``Dream`` (Dream-v0): Qwen2 with an untied head; keeps the shift; mask 151666.
- ``llada`` (LLaDA-8B, arXiv 2502.09992, and those that reuse its code): Llama under OLMo's tensor names; no shift; mask
  126336.
- ``a2d-qwen3``, ``a2d-qwen2``, ``a2d-llama`` (dllm's conversions): the stock shape; no shift; mask ``<|mask|>``.
- ``gemma3`` (Gemma 3 with images): its text half.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.errors import MissingExtraError, ModelError
from diffembed.models.checkpoint import TOKENIZER_FILE, TORCH_HINT, load_tokenizer, ready_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Checkpoints of these types are read as embedders without further word: pplx-embed, and DiffEmbed on Dream or LLaDA.
EMBEDDERS = ("bidirectional_pplx_qwen3", "Dream", "llada")
_END_OF_TEXT = "<|endoftext|>"  # what separates documents in Qwen, Dream and LLaDA, whatever ends a chat turn


@dataclass(frozen=True, slots=True)
class Layout:
    """How a checkpoint is read.

    Attributes:
        name: what the layout is called.
        model_type: the stock architecture.
        stock: its config, as ``config.json`` of a stock checkpoint would hold it.
        shift: the state at i predicts token i + 1.
        mask_token_id: the id that the release was trained with; ``None``: it does not say.
        rename: checkpoint tensor names to those of the stock base model, as regular expressions.
        head: name of the output matrix where it is not tied to the token table.
        unused: regular expression of tensors that the backbone has no use for.
        slow_tokenizer: class of ``transformers`` that reads the vocabulary where there is no ``tokenizer.json``.
    """

    name: str
    model_type: str
    stock: dict[str, Any]
    shift: bool = True
    mask_token_id: int | None = None
    rename: dict[str, str] = field(default_factory=dict)
    head: str = "lm_head.weight"
    unused: str = r"rotary_emb\.inv_freq$"
    slow_tokenizer: str | None = None


def layout_of(config: dict[str, Any], place: str) -> Layout:
    """The layout that a ``config.json`` announces; a stock architecture is its own layout.

    Raises:
        ModelError: no ``model_type``, or a variant of a known layout that computes something else.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelError(f"{place} has no model_type; give the directory of a transformers checkpoint")
    if kind == "bidirectional_pplx_qwen3":
        # Of the contextual release only auto_map names the class: its architectures are those of the dense one.
        classes = [*(config.get("architectures") or ()), (config.get("auto_map") or {}).get("AutoModel")]
        contextual = any("Contextual" in str(name) for name in classes)
        stock = {k: v for k, v in config.items() if k != "use_bidirectional_attention"}
        return Layout("pplx-contextual" if contextual else "pplx", "qwen3", stock)
    if kind == "Dream":
        _require(config, {"use_mrope": False, "use_sliding_window": False, "is_causal": False}, place)
        stock = {k: v for k, v in config.items() if k not in ("mask_token_id", "use_mrope", "mrope_section")}
        mask = int(config.get("mask_token_id", 151_666))
        return Layout("dream", "qwen2", stock, mask_token_id=mask, slow_tokenizer="Qwen2Tokenizer")
    if kind == "llada":
        return _llada(config, place)
    if kind in ("a2d-qwen3", "a2d-qwen2", "a2d-llama"):
        stock = {k: v for k, v in config.items() if k != "mask_token_id"}
        return Layout("a2d", kind.removeprefix("a2d-"), stock, shift=False, mask_token_id=config.get("mask_token_id"))
    if kind == "gemma3":
        return Layout(
            "gemma3",
            "gemma3_text",
            dict(config.get("text_config") or {}),
            rename={r"^(?:language_model\.model|model\.language_model)\.": ""},
            head="language_model.lm_head.weight",
            unused=r"rotary_emb\.inv_freq$|^(?:model\.)?(?:vision_tower|multi_modal_projector)\.",
        )
    return Layout(kind, kind, config)


def _llada(config: dict[str, Any], place: str) -> Layout:
    plain = {
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "rope": True,
        "alibi": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "clip_qkv": None,
    }
    _require(config, plain, place)
    heads, width = int(config["n_heads"]), int(config["d_model"])
    kv_heads = config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads)
    stock = {
        "vocab_size": int(config.get("embedding_size") or config["vocab_size"]),
        "hidden_size": width,
        "intermediate_size": int(config.get("mlp_hidden_size") or config["mlp_ratio"] * width),
        "num_hidden_layers": int(config["n_layers"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(kv_heads),
        "max_position_embeddings": int(config["max_sequence_length"]),
        "rms_norm_eps": float(config.get("rms_norm_eps", 1e-5)),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rope_theta", 10_000.0))},
        "tie_word_embeddings": bool(config.get("weight_tying", True)),
        "bos_token_id": None,
        "eos_token_id": config.get("eos_token_id"),
        "pad_token_id": config.get("pad_token_id"),
    }
    block = r"^model\.transformer\.blocks\.(\d+)\."
    parts = {
        "attn_norm": "input_layernorm",
        "ff_norm": "post_attention_layernorm",
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "attn_out": "self_attn.o_proj",
        "ff_proj": "mlp.gate_proj",
        "up_proj": "mlp.up_proj",
        "ff_out": "mlp.down_proj",
    }
    rename = {rf"{block}{theirs}\.": rf"layers.\1.{ours}." for theirs, ours in parts.items()}
    rename |= {r"^model\.transformer\.wte\.": "embed_tokens.", r"^model\.transformer\.ln_f\.": "norm."}
    mask = int(config.get("mask_token_id", 126_336))
    head = "model.transformer.ff_out.weight"
    return Layout("llada", "llama", stock, shift=False, mask_token_id=mask, rename=rename, head=head)


def _require(config: dict[str, Any], expected: dict[str, object], place: str) -> None:
    """Options that would change the computation must be absent or as in the released checkpoints."""
    for key, value in expected.items():
        found = config.get(key)
        if found is not None and found != value:
            raise ModelError(
                f"{place} has {key} = {found!r}, the {config['model_type']} layout is read with {value!r} only; "
                "this variant is not supported"
            )


def read_layout_tokenizer(folder: Path, slow: str | None) -> Tokenizer:
    """The tokenizer of a folder, ready for user text.

    Args:
        slow: class of ``transformers`` that reads the vocabulary where there is no ``tokenizer.json``; ``None``: the
            one that the folder names.

    Raises:
        ModelError: no tokenizer, or none that has a fast form.
        MissingExtraError: it has to be made by ``transformers``, which is not installed.
    """
    if (folder / TOKENIZER_FILE).exists() or (slow is None and not (folder / "tokenizer_config.json").exists()):
        return load_tokenizer(folder)
    try:
        import transformers
    except ImportError:
        raise MissingExtraError(f"{folder} has no {TOKENIZER_FILE}, and {TORCH_HINT}") from None
    if slow is not None and (absent := [n for n in ("vocab.json", "merges.txt") if not (folder / n).exists()]):
        raise ModelError(f"{folder} has neither {TOKENIZER_FILE} nor {absent[0]}; copy the whole checkpoint again")
    kind = getattr(transformers, slow or "AutoTokenizer")
    try:
        made = kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder} has no {TOKENIZER_FILE}, and what it has does not load: {first}") from None
    backend = getattr(made, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder} has no fast tokenizer ({TOKENIZER_FILE}), which is needed; save it with one")
    return ready_tokenizer(backend)


def settle_ends(tokenizer: Tokenizer, rows: int, pad: Any, ends: Any) -> tuple[int, int]:
    """Ids of padding and of the end of text; a model without padding pads with its end of text (it is never read).

    Args:
        rows: of the embedding table.
        pad, ends: ``pad_token_id`` and ``eos_token_id`` of the config; the latter may be a list.

    Raises:
        ModelError: no end of text inside the table.
    """
    named = ends if isinstance(ends, list) else [ends]
    usable = [i for i in (tokenizer.token_to_id(_END_OF_TEXT), *named) if i is not None and 0 <= i < rows]
    if not usable:
        raise ModelError("the checkpoint names no end-of-text token (eos_token_id in its config.json); add it")
    return (int(pad) if pad is not None and 0 <= pad < rows else int(usable[0])), int(usable[0])
