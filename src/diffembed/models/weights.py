"""Weights into stock classes: one way for model directories and for released checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from diffembed.errors import ModelError
from diffembed.models.backbone import set_causal
from diffembed.models.files import weight_files
from diffembed.models.rotary import settle_rotary

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_stock(
    root: Path,
    config: PreTrainedConfig,
    *,
    attn_implementation: str,
    dtype: torch.dtype = torch.float32,
    rename: Mapping[str, str] | None = None,
    unused: str = r"^$",
    max_tokens: int | None = None,
    causal: bool = False,
) -> PreTrainedModel:
    """The stock base model of ``config`` with the weights of a directory, in eval mode, no remote code.

    Args:
        root: holds ``model.safetensors``, or shards and their index.
        rename: tensor names of the checkpoint to those of the class, as regular expressions.
        unused: regular expression of tensors that may be left over.
        max_tokens: longest text that will be read (see ``settle_rotary``).
        causal: leave the attention mask closed; it is opened otherwise.

    Raises:
        ModelError: a file is missing or truncated; tensors are missing, left over or of other shapes.
    """
    stored = weight_files(root)
    config.is_causal = causal
    settle_rotary(config, max_tokens)
    kind = config.model_type
    kind_of_model: Any = MODEL_MAPPING[type(config)]
    try:
        with quiet():
            model, report = kind_of_model.from_pretrained(
                root,
                config=config,
                dtype=dtype,
                attn_implementation=attn_implementation,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **({"key_mapping": dict(rename)} if rename else {}),
            )
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"the weights of {root} do not load as {kind}: {first}") from error
    # A pooler that the checkpoint lacks is never used; anything else missing would be random numbers.
    if missing := sorted(k for k in report["missing_keys"] if not k.startswith("pooler.")):
        raise ModelError(f"{_files(stored)} lacks {len(missing)} tensors, first {missing[0]}; copy or save it again")
    if odd := sorted(k for k in report["unexpected_keys"] if not re.search(unused, k)):
        raise ModelError(
            f"{_files(stored)} holds {len(odd)} tensors that a {kind} model has no place for, first {odd[0]}; "
            "it is of another architecture"
        )
    loaded: PreTrainedModel = model.eval()
    set_causal(loaded, causal)
    return loaded


def read_tensor(file: Path, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """One tensor of a safetensors file."""
    with safe_open(file, framework="pt") as stream:
        tensor: Tensor = stream.get_tensor(name)
    return tensor.to(dtype)


def _files(stored: dict[str, Path]) -> str:
    files = sorted(set(stored.values()))
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} shards)"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no report of ``transformers`` on stderr: what it would say is checked and raised."""
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
