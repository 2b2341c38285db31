"""Tiny sentence-transformers checkpoints, built and saved by sentence-transformers itself."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tests.conftest import CORPUS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedTokenizerFast

PAD = 1  # as in RoBERTa, where positions begin after it
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_WORDS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SHAPE: dict[str, Any] = _WORDS | {
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "pad_token_id": PAD,
    "eos_token_id": 2,
}
_OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "modernbert": {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16, "is_causal": True},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": PAD},
}


@cache
def _trained() -> str:
    """Trained once: two trainings on the same texts may number equally frequent pieces differently."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *(text.lower() for text in CORPUS)], trainer)
    text: str = tokenizer.to_str()
    return text


def word_tokenizer(*, framed: bool = True) -> Tokenizer:
    """Word pieces of ``CORPUS``; ``framed`` puts ``<s>`` and ``</s>`` around a text."""
    tokenizer = Tokenizer.from_str(_trained())
    if framed:
        ends = [("<s>", 0), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


def transformer_dir(folder: Path, kind: str, *, framed: bool = True, **changes: Any) -> Path:
    """A random model of a stock architecture with its tokenizer, as ``transformers`` saves them."""
    tokenizer = word_tokenizer(framed=framed)
    settings = _SHAPE | {"vocab_size": tokenizer.get_vocab_size()} | _OWN.get(kind, {}) | changes
    config = CONFIG_MAPPING[kind](**settings)
    torch.manual_seed(7)
    made: Any = MODEL_MAPPING[type(config)]
    model = made(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>",
        unk_token="<unk>", mask_token="<mask>", model_max_length=60,
        padding_side="left" if kind == "qwen3" else "right",
    )  # fmt: skip
    fast.save_pretrained(folder)
    return folder


def stack_dir(folder: Path, modules: Sequence[Any], **options: Any) -> Path:
    """Modules saved as one SentenceTransformer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        SentenceTransformer(modules=list(modules), device="cpu", **options).save(str(folder), create_model_card=False)
    return folder


def library() -> Any:
    """The library's modules, wherever its version keeps them; its import warns about its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import models as modules
    return modules
