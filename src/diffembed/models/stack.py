"""sentence-transformers directories (``modules.json``): what a stack of modules computes, read without torch.

Mean pooling over a stock architecture that our own runtimes run becomes plain data (``plain``). Every other stack of
the library's own modules is described so far that texts can be tokenized, limited and stored; ``runtime/modules.py``
runs it with the library itself. Modules that a checkpoint brings along as code are never run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diffembed.errors import ModelError
from diffembed.models.checkpoint import OURS, WEIGHTS_FILE, read_json, read_stock_config
from diffembed.models.families import FAMILIES
from diffembed.models.files import check_safetensors, map_tensor, weight_files
from diffembed.vectors.quantize import Quantizer

MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
# Encoders that read both ways by themselves; each is compared with sentence-transformers in the tests.
ENCODERS = ("albert", "bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta")
EAGER = ("mpnet",)  # has no fused attention in transformers
# Their positions begin after the padding token's number.
_LATE_POSITIONS = ("camembert", "mpnet", "roberta", "xlm-roberta")
_AFTER_FIRST = ("Dense", "Dropout", "LayerNorm", "Normalize", "Pooling")
_WITH_WEIGHTS = ("Dense", "LayerNorm")
_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_HARMLESS = {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "unpad_inputs"}
_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_ARGUMENTS = ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")
_UNLIMITED = 1_000_000  # tokens of a text that a bag of static vectors takes at once


@dataclass(frozen=True, slots=True)
class Stack:
    """What a sentence-transformers directory computes.

    Attributes:
        kinds: class names of the modules, in order.
        first: folder of the first module: its weights, ``config.json`` and tokenizer.
        stock: ``config.json`` of the transformer; empty for static vectors.
        width: of the vectors.
        max_tokens: longest sequence, special tokens included.
        pooling: how tokens become one vector, as the library calls it: ``mean``, ``cls``, ``mean+max``.
        plain: mean pooling over a known stock architecture, then ``quantizer`` and ``normalize``, nothing else.
        lowercase: texts are put into lower case before they are tokenized.
        query_prompt, document_prompt: put before texts.
        parts: folders of all modules that have files.
    """

    kinds: tuple[str, ...]
    first: Path
    stock: dict[str, Any]
    width: int
    max_tokens: int
    pooling: str
    plain: bool
    quantizer: Quantizer = "none"
    normalize: bool = False
    lowercase: bool = False
    query_prompt: str = ""
    document_prompt: str = ""
    parts: tuple[Path, ...] = ()

    @property
    def static(self) -> bool:
        """The first module is a table of static vectors, not a transformer."""
        return self.kinds[0] == "StaticEmbedding"


def read_stack(root: Path, base: Path | None = None) -> Stack:
    """Read a directory with ``modules.json``.

    Args:
        base: directory of the model under a PEFT adapter, where the first module is one.

    Raises:
        ModelError: a module that is not the library's or not known here, a file that is missing or damaged, settings
            that would change what is computed.
    """
    kinds, folders = _modules(root)
    first = folders[0]
    settings = _settings(first)
    about = read_json(root / PROMPTS_FILE) if (root / PROMPTS_FILE).exists() else {}
    if (kind := about.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise ModelError(f"{root} is a {kind} of sentence-transformers; Encoder reads its SentenceTransformers")
    query, document = read_prompts(about)

    if kinds[0] == "StaticEmbedding":
        stock: dict[str, Any] = {}
        width, limit = _static_width(first), _UNLIMITED
    else:
        stock = read_stock_config(base or first)
        width = int(stock.get("hidden_size") or stock.get("d_model") or stock.get("dim") or 0)
        limit = _limit(first, stock, settings)
    configs = [_module_config(folder) for folder in folders[1:]]
    pooling, width = _through(root, kinds, configs, width)
    cut = about.get("truncate_dim")
    quantizer, normalize = _finish(kinds[1:], folders[1:], configs)
    plain = (
        quantizer is not None
        and cut is None
        and pooling == "mean"
        and base is None
        and not any(settings.get(name) for name in _ARGUMENTS)
        and settings.get("modality_config", _TEXT_ONLY) == _TEXT_ONLY
        and (stock.get("model_type") in ENCODERS or _open_decoder(stock))
    )
    for kind, folder in zip(kinds, folders, strict=True):
        if kind in _WITH_WEIGHTS or (kind == kinds[0] and base is None):
            weight_files(folder)
    return Stack(
        kinds=kinds,
        first=first,
        stock=stock,
        width=min(width, int(cut)) if cut else width,
        max_tokens=limit,
        pooling=pooling,
        plain=plain,
        quantizer=quantizer if plain and quantizer else "none",
        normalize=plain and normalize,
        lowercase=bool(settings.get("do_lower_case")) and kinds[0] == "Transformer",
        query_prompt=query,
        document_prompt=document,
        parts=tuple(dict.fromkeys(folder for folder in folders if folder.is_dir())),
    )


def read_prompts(about: dict[str, Any]) -> tuple[str, str]:
    """The prompts of queries and of documents in a ``config_sentence_transformers.json``.

    They are those that the library documents for ``encode_query`` and ``encode_document``: of documents the first that
    is named, be it empty; where a checkpoint names neither, its default prompt stands before both, as in ``encode``.
    (Version 6.2 adds both names itself, empty, before it looks, so its two methods then use neither a ``passage`` nor a
    default prompt.)

    >>> read_prompts({"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "query"})
    ('q: ', 'p: ')
    >>> read_prompts({"prompts": {"query": "q: ", "passage": "p: ", "document": ""}})
    ('q: ', '')
    >>> read_prompts({"prompts": {"query": "q: "}}), read_prompts({"prompts": {"x": "x: "}, "default_prompt_name": "x"})
    (('q: ', ''), ('x: ', 'x: '))
    """
    prompts = {name: str(text or "") for name, text in (about.get("prompts") or {}).items()}
    of_documents = [prompts[name] for name in ("document", "passage", "corpus") if name in prompts]
    if "query" not in prompts and not of_documents:
        default = prompts.get(str(about.get("default_prompt_name")), "")
        return default, default
    return prompts.get("query", ""), next(iter(of_documents), "")


def require_mean_pooling(root: Path) -> None:
    """Refuse a released embedder whose ``modules.json``, if it has one, says that it pools otherwise.

    The names of its modules only are looked at: they are code that the checkpoint brings along, and its quantizer is
    known here.
    """
    file = root / MODULES_FILE
    if not file.exists():
        return
    parts = [(str(e.get("type", "")).rsplit(".", 1)[-1], root / str(e.get("path", ""))) for e in _entries(file)]
    kinds = [kind for kind, _ in parts]
    modes = [_pooling_modes(_module_config(folder)) for kind, folder in parts if kind == "Pooling"]
    if "Dense" in kinds or modes != [["mean"]]:
        raise ModelError(f"{file} lists {', '.join(kinds)}; of this model_type, mean pooling without Dense is known")


def _modules(root: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    file = root / MODULES_FILE
    kinds, folders = [], []
    for entry in _entries(file):
        path = PurePosixPath(str(entry.get("path", "")))
        kind = str(entry.get("type", ""))
        if OURS in entry:
            raise ModelError(f"{root} was written by diffembed, and its {entry[OURS]} is missing; copy all of it again")
        if not kind.startswith("sentence_transformers."):
            raise ModelError(
                f"{file} asks for {kind or 'a module without a type'}: code of its own, which is never run"
            )
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(f"{file} has a module outside its directory ({path}); copy the whole model again")
        kinds.append(kind.rsplit(".", 1)[-1])
        folders.append(root / path)
    if not kinds:
        raise ModelError(f"{file} lists no modules; copy the whole model again")
    if kinds[0] not in ("Transformer", "StaticEmbedding"):
        raise ModelError(
            f"{file} begins with {kinds[0]}; Encoder reads texts through Transformer or StaticEmbedding modules: "
            "images, sound and models that read queries and documents apart are not supported"
        )
    if odd := [kind for kind in kinds[1:] if kind not in _AFTER_FIRST]:
        raise ModelError(f"{file} lists {odd[0]}, which is not supported; known are {', '.join(_AFTER_FIRST)}")
    return tuple(kinds), tuple(folders)


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not whole JSON ({error}); copy it again") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelError(f"{file} is not a list of modules; copy it again")
    return entries


def _settings(first: Path) -> dict[str, Any]:
    file = next((first / name for name in _SETTINGS if (first / name).exists()), None)
    settings = {} if file is None else read_json(file)
    task, modalities = settings.get("transformer_task"), settings.get("modality_config")
    odd = sorted(k for k, v in settings.items() if v and k not in {*_HARMLESS, *_ARGUMENTS, "module_output_name"})
    if settings.get("module_output_name", "token_embeddings") != "token_embeddings":
        odd.append("module_output_name")
    if task not in (None, "feature-extraction"):
        odd.append("transformer_task")
    if modalities is not None and set(modalities) != {"text"}:
        odd.append("modality_config")
    if odd:
        raise ModelError(
            f"{file} sets {odd[0]} = {settings[odd[0]]!r}, which changes how texts are read; not supported"
        )
    return settings


def _limit(first: Path, stock: dict[str, Any], settings: dict[str, Any]) -> int:
    """Tokens of the longest text: the module's own limit, else the tokenizer's, within the model's positions."""
    named = settings.get("max_seq_length")
    if named is None and (first / "tokenizer_config.json").exists():
        named = read_json(first / "tokenizer_config.json").get("model_max_length")
    limits = [int(named)] if named is not None and int(named) < _UNLIMITED else []
    positions = next((int(stock[key]) for key in _POSITIONS if key in stock), -1)
    if positions > 0:
        late = stock.get("model_type") in _LATE_POSITIONS
        limits.append(positions - (int(stock.get("pad_token_id", 1)) + 1 if late else 0))
    if not limits:
        raise ModelError(f"{first} does not say how many tokens it reads; add max_seq_length to {_SETTINGS[0]}")
    return min(limits)


def _static_width(first: Path) -> int:
    file = first / WEIGHTS_FILE
    stored = check_safetensors(file)
    table = stored.get("embedding.weight") or stored.get("embeddings")
    if table is None:
        raise ModelError(f"{file} holds no table of static vectors (embedding.weight); copy or save the model again")
    return table.shape[1]


def _module_config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json") if (folder / "config.json").exists() else {}


def _through(root: Path, kinds: tuple[str, ...], configs: list[dict[str, Any]], width: int) -> tuple[str, int]:
    """How tokens are pooled, and the width at the end of the stack."""
    pooling = "mean" if kinds[0] == "StaticEmbedding" else ""
    for kind, config in zip(kinds[1:], configs, strict=True):
        if kind == "Pooling":
            modes = _pooling_modes(config)
            pooling = "+".join(modes)
            width = int(config.get("embedding_dimension") or config.get("word_embedding_dimension") or width)
            width *= len(modes)
            if config.get("include_prompt") is False:
                raise ModelError(
                    f"{root} leaves prompts out of pooling (include_prompt); here they are pooled with a text"
                )
        elif kind == "Dense":
            width = int(config["out_features"])
    if not pooling:
        raise ModelError(f"{root / MODULES_FILE} has no Pooling: it gives a vector a token, not one a text")
    if width < 1:
        raise ModelError(f"{root} does not say how wide its vectors are; copy or save the model again")
    return pooling, width


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    """The names of 6.0 and later, from either form of the file.

    >>> _pooling_modes({"pooling_mode": "cls"}), _pooling_modes({"pooling_mode_mean_tokens": True})
    (['cls'], ['mean'])
    """
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return [str(named)] if isinstance(named, str) else [str(mode) for mode in named]
    old = {
        "cls_token": "cls",
        "max_tokens": "max",
        "mean_tokens": "mean",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "weightedmean_tokens": "weightedmean",
        "lasttoken": "lasttoken",
    }
    return [new for name, new in old.items() if config.get(f"pooling_mode_{name}")] or ["mean"]


def _open_decoder(stock: dict[str, Any]) -> bool:
    return stock.get("model_type") in FAMILIES and stock.get("is_causal") is False


def _finish(
    kinds: tuple[str, ...], folders: tuple[Path, ...], configs: list[dict[str, Any]]
) -> tuple[Quantizer | None, bool]:
    """Quantizer and normalisation of what follows mean pooling; no quantizer where it is anything else."""
    if any("module_input_name" in config and config["module_input_name"] != "sentence_embedding" for config in configs):
        return None, False
    if kinds in (("Pooling",), ("Pooling", "Normalize")):
        return "none", len(kinds) == 2
    if kinds == ("Pooling", "Dense") and _is_bare_tanh(folders[1], configs[1]):
        return "tanh-int8", False
    return None, False


def _is_bare_tanh(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a Dense module only takes tanh: no bias, no residual, the identity matrix."""
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if config.get("bias", True) or config.get("use_residual") or activation.rsplit(".", 1)[-1] != "Tanh":
        return False
    stored = check_safetensors(folder / WEIGHTS_FILE)
    if set(stored) != {"linear.weight"}:
        return False
    matrix = np.asarray(map_tensor(folder / WEIGHTS_FILE, stored["linear.weight"]), dtype=np.float32)
    return bool(matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix), dtype=np.float32)))
