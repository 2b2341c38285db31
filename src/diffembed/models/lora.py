"""LoRA adapters in peft's layout (``adapter_config.json`` + ``adapter_model.safetensors``) as DiffEmbed saves them.

Reading needs no torch. Merging hands peft a config of the few values that change the arithmetic, never the file
itself, and puts the adapter's tensors under the names of the stock class: an adapter of Dream or LLaDA was trained on
classes that came with those checkpoints, and their code is not run here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.errors import MissingExtraError, ModelError
from diffembed.models.checkpoint import read_json
from diffembed.models.files import check_safetensors, fetch_model
from diffembed.models.released import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LLM2VEC_FILE = "llm2vec_config.json"
_USED = {"r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern"}
# They say how an adapter was begun and trained, or name what its tensors name better.
_TRAINING_ONLY = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "target_modules", "task_type",
}  # fmt: skip
# Begins of training that leave the base as it is; the others (PiSSA, OLoRA, LoftQ, ...) take a part out of its weights.
_BEGINNINGS = ("gaussian", "eva", "orthogonal")
_PLAIN = {"bias": "none", "revision": "main"}  # the one value besides nothing that changes nothing
_TENSOR = re.compile(r"(.+)\.(lora_[AB]\.(?:weight|bias)|lora_embedding_[AB]|lora_magnitude_vector)")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's directory.

    Attributes:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: directory of the model that it was trained on.
        base_name: how the adapter names that model.
        settings: ``adapter_config.json``.
        max_tokens: longest text that it was trained with, where it says so.
    """

    folder: Path
    base: Path
    base_name: str
    settings: dict[str, Any]
    max_tokens: int | None = None


def read_adapter(folder: Path, *, download: bool = True) -> Adapter:
    """Read and check an adapter's directory.

    Args:
        download: fetch a base model that is named by its hub id; else it is an error if it is not a directory here.

    Raises:
        ModelError: no safetensors, an adapter of another kind, an option that is not known here, no base model.
    """
    file = folder / ADAPTER_CONFIG
    settings = read_json(file)
    if (kind := settings.get("peft_type")) != "LORA":
        raise ModelError(
            f"{file} is an adapter of type {kind!r}; only LORA is supported: merge it with peft and save it"
        )
    known = _USED | _TRAINING_ONLY
    odd = (k for k, v in settings.items() if v and k not in known and v != _PLAIN.get(k))
    if (name := next(odd, None)) is not None:
        raise ModelError(f"{file} sets {name}, which is not supported; merge the adapter with peft and save the model")
    beginning = settings.get("init_lora_weights")
    if isinstance(beginning, str) and beginning.lower() not in _BEGINNINGS:
        raise ModelError(
            f"{file} sets init_lora_weights to {beginning!r}, which changes the base's weights; merge the adapter with "
            "peft and save the model"
        )
    if not (folder / ADAPTER_WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise ModelError(f"{folder} has adapter_model.bin, a pickle, which is never read; save it as {ADAPTER_WEIGHTS}")
    check_safetensors(folder / ADAPTER_WEIGHTS)
    named = str(settings.get("base_model_name_or_path") or "")
    beside = folder / named
    base = beside if named and beside.is_dir() else Path(named)
    if named and download and not base.is_dir():
        base = _fetched(named)
    if not named or not (base / "config.json").exists():
        raise ModelError(
            f"{file} names the base model {named!r}, which is no model directory here"
            f"{'' if download else ' yet'}; correct base_model_name_or_path to its directory or hub id"
        )
    if (base / ADAPTER_CONFIG).exists():
        raise ModelError(
            f"the base model of {folder}, {base}, is an adapter itself; merge it with peft and save it first"
        )
    return Adapter(folder, base, named, settings, _trained_length(folder))


@cache
def _fetched(name: str) -> Path:
    """Once a process, however often an adapter is looked at: asking the hub takes its time."""
    return fetch_model(name)


def _trained_length(folder: Path) -> int | None:
    """What the DiffEmbed and LLM2Vec wrappers note beside an adapter; pooling other than theirs here is refused."""
    file = folder / LLM2VEC_FILE
    if not file.exists():
        return None
    noted = read_json(file)
    if noted.get("pooling_mode", "mean") != "mean" or noted.get("skip_instruction"):
        raise ModelError(
            f"{file} has pooling_mode {noted.get('pooling_mode')!r} and skip_instruction "
            f"{noted.get('skip_instruction')!r}; supported is the mean over all tokens, the instruction's included"
        )
    length = noted.get("max_length")
    return None if length is None else int(length)


def merge_adapter(model: PreTrainedModel, adapter: Adapter, layout: Layout) -> PreTrainedModel:
    """Add an adapter into the weights of the stock base model, through peft.

    Args:
        model: the base, changed in place.
        layout: what the base's checkpoint is, for the names of its tensors.

    Raises:
        ModelError: a tensor that does not fit the base, or none at all.
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError:
        raise MissingExtraError("LoRA adapters need peft; add it with: pip install 'diffembed[train]'") from None
    from peft.utils.other import get_pattern_key

    file = adapter.folder / ADAPTER_WEIGHTS
    tensors, theirs = _stock_tensors(file, layout)
    linear = {name for name, module in model.named_modules() if getattr(module, "weight", None) is not None}
    if unknown := sorted(set(theirs) - linear):
        raise ModelError(f"{file} adapts {theirs[unknown[0]]}, which {adapter.base_name} does not have; another base")

    def patterns(key: str) -> dict[str, Any]:
        """Values for single modules, which the file gives for patterns over the checkpoint's own names."""
        given = adapter.settings.get(key) or {}
        found = {ours: get_pattern_key(list(given), name) for ours, name in theirs.items()}
        return {re.escape(ours): given[name] for ours, name in found.items() if name in given}

    settings = adapter.settings
    config = LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        use_rslora=bool(settings.get("use_rslora")),
        use_dora=bool(settings.get("use_dora")),
        lora_bias=bool(settings.get("lora_bias")),
        target_modules=sorted(theirs),
        rank_pattern=patterns("rank_pattern"),
        alpha_pattern=patterns("alpha_pattern"),
        init_lora_weights=False,
    )
    tuner = LoraModel(model, config, "default")
    try:
        result = tuner.load_state_dict({f"model.{name}": tensor for name, tensor in tensors.items()}, strict=False)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{file} does not fit {adapter.base_name}: {first}; give the base it was trained on") from None
    absent = [name for name in result.missing_keys if "lora_" in name]
    if odd := [*result.unexpected_keys, *absent]:
        raise ModelError(f"{file} does not fit {adapter.base_name}: {odd[0]}; give the base it was trained on")
    try:
        merged: Any = tuner.merge_and_unload(safe_merge=True)
    except ValueError as error:  # what does not fit into fp16
        raise ModelError(f"{file} cannot be merged in {model.dtype}: {error}; load it in 'fp32' or 'bf16'") from None
    merged.train(False)
    whole: PreTrainedModel = merged
    return whole


def _stock_tensors(file: Path, layout: Layout) -> tuple[dict[str, Any], dict[str, str]]:
    """The adapter's tensors as peft names them over the stock class, and each module's name in the checkpoint."""
    from diffembed.models.weights import read_tensor

    tensors: dict[str, Any] = {}
    theirs: dict[str, str] = {}
    for name in check_safetensors(file):
        inner = name.removeprefix("base_model.model.")
        found = _TENSOR.fullmatch(inner)
        if found is None:
            raise ModelError(f"{file} holds {name}, which is no LoRA tensor; merge it with peft and save the model")
        module = stock_module(found[1], layout)
        theirs[module] = found[1]
        kind, _, leaf = found[2].partition(".")
        leaf = leaf or ("weight" if kind == "lora_magnitude_vector" else "")
        tensors[".".join(filter(None, (module, kind, "default", leaf)))] = read_tensor(file, name)
    if not tensors:
        raise ModelError(f"{file} holds no tensors; copy the adapter again")
    return tensors, theirs


def stock_module(name: str, layout: Layout) -> str:
    """A module's name in the stock base class, from its name under whichever class the adapter was trained on.

    >>> layout = Layout("llada", "llama", {}, rename={r"^model\\.transformer\\.blocks\\.(\\d+)\\.ff_proj\\.":
    ...                                               r"layers.\\1.mlp.gate_proj."})
    >>> stock_module("transformer.blocks.3.ff_proj", layout), stock_module("model.layers.0.mlp.up_proj", layout)
    ('layers.3.mlp.gate_proj', 'layers.0.mlp.up_proj')
    """
    for whole in (f"{name}.", f"model.{name}."):
        for pattern, ours in layout.rename.items():
            renamed, count = re.subn(pattern, ours, whole)
            if count:
                return renamed.removesuffix(".")
    return name.removeprefix("model.")
