"""What a stage writes down while it trains: ``log.jsonl``, a line a logged step, and on request TensorBoard's files."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffembed.errors import TrainingError
from diffembed.models.files import atomic_file

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


class Metrics:
    """Rows of numbers by step. A run that goes on after step n continues files that know the steps before n only.

    Raises:
        TrainingError: the disk takes no more; checkpoints are not touched by that.
    """

    def __init__(self, folder: Path, start: int, *, tensorboard: bool) -> None:
        self._folder, self._log, self._board = folder, None, None  # type: tuple[Path, Any, Any]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / LOG
            kept = []
            if path.is_file():
                kept = [x for x in path.read_text(encoding="utf-8").splitlines() if _step_of(x) < start]
            with atomic_file(path) as partial:
                partial.write_text("".join(f"{x}\n" for x in kept), encoding="utf-8")
            self._log = path.open("a", encoding="utf-8")
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=start)
        except OSError as error:
            raise self._full(error) from None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._log, self._board):
            if file is not None:
                with suppress(OSError):  # what could not be flushed was reported when it was written
                    file.close()

    def write(self, row: dict[str, Any]) -> None:
        """One step; ``row["step"]`` is its number."""
        try:
            self._log.write(json.dumps(row) + "\n")
            self._log.flush()
            if self._board is not None:
                for name, value in row.items():
                    if name != "step" and isinstance(value, int | float):
                        self._board.add_scalar(name, value, row["step"])
                self._board.flush()
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"the log in {self._folder} cannot be written ({error}); the last checkpoint is whole: free space on the "
            "disk, then run it again"
        )


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # the line that a kill cut short
        return math.inf
