"""What ``test_parallel.py`` runs under ``torchrun``: recipes in turn, stopped by SIGTERM where the name says so.

Usage: ``torchrun --standalone --nproc-per-node 2 tests/training/parallel_worker.py RECIPE[:STOP] ... FOLDER``; STOP is
the number of diffusion steps after which rank 0 gets SIGTERM. Beside each recipe: what became of it (``.outcome``), the
modules that its last stage sharded, each a group of its own (``.groups``), and the processes that mined (``.mined-N``).
In FOLDER: what ``gather_rows`` gave to each process (``gathered-N.json``).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from torch.distributed.fsdp import FSDPModule

from diffembed.data.mining import mine_negatives
from diffembed.errors import StoppedError
from diffembed.training import mined
from diffembed.training.configs import StageKind
from diffembed.training.gather import gather_rows
from diffembed.training.loop import Progress
from diffembed.training.machine import Machine
from diffembed.training.run import run_recipe


def run(path: Path, stop: int) -> str:
    """Run a recipe's stages, without the export; what became of it."""

    def watch(at: Progress) -> None:
        if at.stage == "diffusion" and at.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run_recipe(path, kinds=get_args(StageKind), report=lambda _: None, watch=watch)
    except StoppedError as error:
        return str(error)
    return "complete"


def note_groups() -> list[str]:
    """A list that from now on holds the names of the modules that were sharded last."""
    groups: list[str] = []
    prepare = Machine.prepare

    def noting(machine: Machine, *arguments: Any) -> Any:
        wrapped, optimizer = prepare(machine, *arguments)
        groups[:] = [name for name, module in wrapped.named_modules() if isinstance(module, FSDPModule)]
        return wrapped, optimizer

    setattr(Machine, "prepare", noting)  # noqa: B010 (mypy allows no assignment to a method)
    return groups


COUNTS = (3, 5)  # rows of each process


def gathered(rank: int) -> dict[str, Any]:
    """Rows of another number on each process, and their gradients of a loss that each process takes a share of."""
    rows = torch.arange(sum(COUNTS) * 2, dtype=torch.float32).reshape(-1, 2)
    own = torch.split(rows, list(COUNTS))[rank].clone().requires_grad_()
    every = gather_rows(own, COUNTS, rank)
    (every.square() * (rank + 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    return {"values": every.tolist(), "gradient": own.grad.tolist()}


def note_mining(notes: list[str]) -> None:
    """Have every call of mining noted."""

    def noting(data: Path, into: Path, **options: Any) -> Any:
        notes.append(str(into))
        return mine_negatives(data, into, **options)

    setattr(mined, "mine_negatives", noting)  # noqa: B010 (mypy allows no assignment to a function)


if __name__ == "__main__":
    groups = note_groups()
    mining: list[str] = []
    note_mining(mining)
    for argument in sys.argv[1:-1]:
        name, _, stop = argument.partition(":")
        mining.clear()
        outcome = run(Path(name), int(stop or 0))
        if mining:
            Path(name).with_suffix(f".mined-{os.environ['RANK']}").write_text(json.dumps(mining), encoding="utf-8")
        if os.environ["RANK"] == "1":  # the one that was not sent the signal
            Path(name).with_suffix(".outcome").write_text(outcome, encoding="utf-8")
            Path(name).with_suffix(".groups").write_text(json.dumps(groups), encoding="utf-8")
    rank = int(os.environ["RANK"])
    Path(sys.argv[-1], f"gathered-{rank}.json").write_text(json.dumps(gathered(rank)), encoding="utf-8")
