"""``modules.json`` and its folders: what lets sentence-transformers load a model directory of ours.

The library's float32 vectors are ours, causal attention included. The token that is read where a model does not average
is put after the text by the directory's ``tokenizer.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.models.checkpoint import CONFIG_FILE, OURS, WEIGHTS_FILE, ModelConfig
from diffembed.models.files import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LAST = "pooling_mode_lasttoken"
_MODES = {"mean": "pooling_mode_mean_tokens", "last": _LAST, "mask": _LAST}


def write_sentence_transformers_files(folder: Path, config: ModelConfig) -> None:
    """Pooling, then tanh (an identity ``Dense``) or normalisation."""
    hidden = config.dims[-1]
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if config.quantizer == "tanh-int8":
        modules.append(("2_Dense", "Dense"))
    if config.normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    entries: list[dict[str, Any]] = [
        {"idx": i, "name": str(i), "path": sub, "type": f"sentence_transformers.models.{kind}"}
        for i, (sub, kind) in enumerate(modules)
    ]
    entries[0][OURS] = CONFIG_FILE  # sentence-transformers passes over it, and leaves it out when it saves
    write_json(folder / "modules.json", entries)
    for sub, _ in modules[1:]:
        (folder / sub).mkdir(exist_ok=True)
    modes = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False} | {_MODES[config.pooling]: True}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})
    if config.quantizer == "tanh-int8":
        _write_tanh(folder / "2_Dense", hidden)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": config.max_tokens, "do_lower_case": False})
    prompts = {"query": config.query_prompt, "document": config.document_prompt}
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine", "prompts": prompts})


def ended(tokenizer: Tokenizer, config: ModelConfig) -> Tokenizer:
    """The tokenizer as other libraries need it where a model puts a token after every text: one that puts it there."""
    if not config.readout_ids:
        return tokenizer
    from tokenizers import Tokenizer as Own
    from tokenizers.processors import TemplateProcessing

    (number,) = config.readout_ids
    token = tokenizer.id_to_token(number)
    ended = Own.from_str(tokenizer.to_str())
    ended.post_processor = TemplateProcessing(single=["$A", token], special_tokens=[(token, number)])
    return ended


def tokenizer_config(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Any]:
    """What ``tokenizer_config.json`` says."""
    named = {"pad_token": config.pad_token_id, "eos_token": config.eot_token_id, "mask_token": config.mask_token_id}
    tokens = {name: tokenizer.id_to_token(i) for name, i in named.items() if i is not None}
    known = {name: token for name, token in tokens.items() if token is not None}  # a table may outgrow the vocabulary
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.max_tokens, **known}


def _write_tanh(folder: Path, hidden: int) -> None:
    from safetensors.numpy import save_file

    dense = {
        "in_features": hidden,
        "out_features": hidden,
        "bias": False,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    write_json(folder / "config.json", dense)
    save_file({"linear.weight": np.eye(hidden, dtype=np.float16)}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
