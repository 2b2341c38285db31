"""Checkpoints of a stage: what a killed run needs to go on, on any number of processes.

STAGE/state/step-00000120/model.safetensors        weights that learn, whole (never shards)
                          exp_avg.safetensors      AdamW's moments, under the weights' names
                          exp_avg_sq.safetensors
                          step.safetensors         AdamW's own count of steps
                          state.json               step, fingerprints, tokens and seconds so far
                          complete.json            the marker: every file's size; written last

A checkpoint is written beside its place and moved there when it is on disk, so a kill or a full disk leaves the ones
before it as they were. One without its marker (half copied, half deleted) is passed over, and said so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from diffembed.errors import TrainingError
from diffembed.models.files import atomic_directory
from diffembed.training.machine import Machine, full_tensor

MARKER = "complete.json"
_STATE = "state.json"
_MODEL = "model"
_KINDS = (_MODEL, "exp_avg", "exp_avg_sq", "step")

Report = Callable[[str], None]


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    body: dict[str, Any],
    *,
    keep: int,
    machine: Machine,
) -> None:
    """Write the checkpoint after ``step`` steps and remove all but the last ``keep``; every process must call it.

    Args:
        folder: the stage's ``state`` folder.
        model: unwrapped; its parameters may be shards.
        body: goes into ``state.json``.

    Raises:
        TrainingError: it could not be written (a full disk); the checkpoints before it are whole.
    """
    problem: Exception | None = None
    target = folder / f"step-{step:08d}"
    parameters = learning(model)
    try:
        with ExitStack() as stack:
            partial = None
            if machine.main:
                try:
                    partial = stack.enter_context(atomic_directory(target))
                except OSError as error:
                    problem = error
            for kind in _KINDS:  # after a failure too: the other processes gather with this one
                tensors = _gathered(kind, parameters, optimizer, wanted=partial is not None and problem is None)
                if partial is not None and problem is None:
                    try:
                        save_file(tensors, partial / f"{kind}.safetensors")
                    except (OSError, SafetensorError) as error:
                        problem = error
            if problem is not None:
                raise problem
            if partial is not None:
                (partial / _STATE).write_text(json.dumps({"step": step, **body}), encoding="utf-8")
                sizes = {p.name: p.stat().st_size for p in sorted(partial.iterdir())}
                (partial / MARKER).write_text(json.dumps({"files": sizes}), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        problem = error
    machine.agree(None if problem is None else _not_written(target, problem, folder))
    if machine.main:
        _prune(folder, keep)


def _gathered(
    kind: str, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, *, wanted: bool
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensor = parameter if kind == _MODEL else optimizer.state.get(parameter, {}).get(kind)
        if tensor is not None:
            whole = full_tensor(tensor.detach())
            if wanted:
                found[name] = whole.cpu().contiguous()
    return found


def _not_written(target: Path, problem: Exception, folder: Path) -> str:
    whole = [p.name for p in _steps(folder) if _defect(p) is None]
    before = f"{whole[-1]} before it is whole" if whole else "there is none before it"
    return f"checkpoint {target} was not written ({problem}); {before}: free space on the disk, then run it again"


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    expected: dict[str, str],
    report: Report,
) -> dict[str, Any] | None:
    """Load the last whole checkpoint; ``None`` when the stage has none to go on from.

    Args:
        expected: what ``state.json`` must say, such as the recipe's fingerprint.

    Raises:
        TrainingError: there are checkpoints but none is whole, or the last belongs to another recipe or data.
    """
    found = last_state(folder, report)
    if found is None:
        return None
    path, body = found
    for key, value in expected.items():
        if body.get(key) != value:
            raise TrainingError(
                f"{path} belongs to an unfinished run with a different {key} (the recipe's stage, a parent or the "
                "data has changed); finish it as it was begun, or remove the folder to start the stage anew"
            )
    parameters = load_weights(path, model)
    for kind in _KINDS[1:]:
        for name, tensor in read_tensors(path, kind, parameters):
            optimizer.state[parameters[name]][kind] = tensor
    return body


@torch.no_grad()
def load_weights(path: Path, model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of a checkpoint, into a model; its parameters that learn."""
    parameters = learning(model)
    for name, tensor in read_tensors(path, _MODEL, parameters):
        parameters[name].copy_(tensor)
    return parameters


def last_state(folder: Path, report: Report) -> tuple[Path, dict[str, Any]] | None:
    """The last whole checkpoint of a ``state`` folder and its ``state.json``; those passed over are reported.

    Raises:
        TrainingError: something is there, but no whole checkpoint.
    """
    if not folder.is_dir():
        return None
    passed: list[str] = []
    for path in reversed(_steps(folder)):
        defect = _defect(path)
        if defect is None:
            for line in passed:
                report(f"{line}; passed over, going on from {path.name}")
            body: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
            return path, body
        passed.append(defect)
    present = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    if present:
        reason = passed[0] if passed else f"it holds {', '.join(present[:3])}"
        raise TrainingError(
            f"{folder} has no whole checkpoint ({reason}); copy one back, or remove the folder to start the stage anew"
        )
    return None


def read_tensors(path: Path, kind: str, parameters: dict[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint's file as the parameters are: on their device, sharded where they are.

    Raises:
        TrainingError: the file is damaged, or its names or shapes are not the parameters'.
    """
    file = path / f"{kind}.safetensors"
    try:
        with safe_open(file, "pt") as stored:
            names = set(stored.keys())
            if names - set(parameters) or (kind == _MODEL and names != set(parameters)):
                odd = sorted(names ^ set(parameters))[0]
                raise TrainingError(
                    f"{file} does not fit the model (first at {odd}); remove {path.parent} to start anew"
                )
            for name in stored.keys():  # noqa: SIM118 (not a dict)
                tensor, like = stored.get_tensor(name), parameters[name]
                if kind != "step" and tensor.shape != like.shape:
                    raise TrainingError(
                        f"{file}: {name} is {list(tensor.shape)}, the model's {list(like.shape)}; "
                        f"remove {path.parent} to start anew"
                    )
                tensor = tensor.to(like.device)
                shards = like.data
                if kind != "step" and isinstance(shards, DTensor):
                    tensor = distribute_tensor(tensor, shards.device_mesh, shards.placements, src_data_rank=None)
                yield name, tensor
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{file} is damaged ({error}); remove {path} to go on from the one before") from None


def clear_state(folder: Path) -> None:
    """Remove a folder of checkpoints, or a whole stage."""
    shutil.rmtree(folder, ignore_errors=True)


def _steps(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def _defect(path: Path) -> str | None:
    """Why a checkpoint is not whole; ``None`` when it is."""
    marker = path / MARKER
    try:
        sizes: dict[str, int] = json.loads(marker.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{path.name} has no completion marker ({MARKER})"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} has a damaged completion marker ({MARKER})"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{path.name}/{name} is missing or not {size:,} bytes long"
    return None


def _prune(folder: Path, keep: int) -> None:
    """Keep the last ``keep`` whole checkpoints; broken ones and what killed saves left behind go too."""
    found = _steps(folder)
    kept = [p for p in found if _defect(p) is None][-max(1, keep) :]
    for path in found:
        if path not in kept:
            (path / MARKER).unlink(missing_ok=True)  # a removal that is cut short leaves nothing that looks whole
            shutil.rmtree(path, ignore_errors=True)
    for stale in folder.glob(".step-*.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
