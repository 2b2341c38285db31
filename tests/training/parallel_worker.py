"""What ``test_parallel.py`` runs under ``torchrun``: recipes in turn, stopped by SIGTERM where the name says so.

Usage: ``torchrun --standalone --nproc-per-node 2 tests/training/parallel_worker.py RECIPE[:STOP] ...``; STOP is the
number of diffusion steps after which rank 0 gets SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from diffembed.errors import StoppedError
from diffembed.training.loop import Progress
from diffembed.training.recipe import PRETRAINING
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


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, stop = argument.partition(":")
        outcome = run(Path(name), int(stop or 0))
        if os.environ["RANK"] == "1":  # the one that was not sent the signal
            Path(name).with_suffix(".outcome").write_text(outcome, encoding="utf-8")
