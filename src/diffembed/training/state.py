"""What a killed run needs: weights, both AdamW moments and the step, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from diffembed.errors import TrainingError
from diffembed.models.files import atomic_directory

_STATE = "state.json"


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, fingerprint: str, extra: dict[str, Any]
) -> None:
    """Write the state after ``step`` steps. The folder appears complete or not at all, and replaces the one before."""
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"{key}.{name}"] = value.detach().contiguous()
    with atomic_directory(folder) as partial:
        save_file(tensors, partial / "state.safetensors")
        body = {"step": step, "fingerprint": fingerprint, **extra}
        (partial / _STATE).write_text(json.dumps(body), encoding="utf-8")


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> dict[str, Any] | None:
    """Load what ``save_state`` wrote; ``None`` when there is nothing to go on from.

    Raises:
        TrainingError: the state belongs to another recipe, or its file is damaged.
    """
    if not (folder / _STATE).is_file():
        return None
    body: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    if body["fingerprint"] != fingerprint:
        raise TrainingError(
            f"{folder} holds an unfinished run of a different recipe (its stage or a parent has changed); "
            "finish it with the old recipe, or remove the folder to start anew"
        )
    try:
        tensors = load_file(folder / "state.safetensors")
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{folder} is damaged ({error}); remove it to start the stage anew") from None
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"model.{name}"])
            state = {k: tensors[f"{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{name}" in tensors}
            if state:
                optimizer.state[p] = state
    return body


def clear_state(folder: Path) -> None:
    """Remove the state of a stage whose model directory is complete."""
    shutil.rmtree(folder, ignore_errors=True)
