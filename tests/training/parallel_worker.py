"""What ``test_parallel.py`` runs under ``torchrun``: recipes in turn, stopped by SIGTERM where the name says so.

Usage: ``torchrun --standalone --nproc-per-node 2 tests/training/parallel_worker.py RECIPE[:STOP] ...``; STOP is the
number of diffusion steps after which rank 0 gets SIGTERM. Beside each recipe: what became of it (``.outcome``) and the
modules that its last stage sharded, each a group of its own (``.groups``).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed.fsdp import FSDPModule

from diffembed.errors import StoppedError
from diffembed.training.configs import PRETRAINING
from diffembed.training.loop import Progress
from diffembed.training.machine import Machine
from diffembed.training.run import run_recipe


def run(path: Path, stop: int) -> str:
    """Run a recipe's pretraining; what became of it."""

    def watch(at: Progress) -> None:
        if at.stage == "diffusion" and at.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run_recipe(path, kinds=PRETRAINING, report=lambda _: None, watch=watch)
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


if __name__ == "__main__":
    groups = note_groups()
    for argument in sys.argv[1:]:
        name, _, stop = argument.partition(":")
        outcome = run(Path(name), int(stop or 0))
        if os.environ["RANK"] == "1":  # the one that was not sent the signal
            Path(name).with_suffix(".outcome").write_text(outcome, encoding="utf-8")
            Path(name).with_suffix(".groups").write_text(json.dumps(groups), encoding="utf-8")
