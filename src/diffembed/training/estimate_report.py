"""What a dry run found, as plain values and as the text that the command line prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from diffembed.training.estimate_memory import Memory
from diffembed.training.estimate_tables import MFU, USABLE


@dataclass(frozen=True, slots=True)
class Parameters:
    """Weights of a model, counted: all, the token table, and an output matrix that is not tied to it."""

    total: int
    embedding: int
    head: int


@dataclass(frozen=True, slots=True)
class GpuEstimate:
    """A stage, or a whole recipe, on one kind of accelerator.

    Attributes:
        ddp: it fits where every process holds the whole model.
        fsdp2: how many are needed where they share it; ``None``: the passes alone are too large.
        hours: of one accelerator; of n, about an n-th part. ``None``: no rate is known for float32.
    """

    gpu: str
    ddp: bool
    fsdp2: int | None
    hours: float | None


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What a stage would take.

    Attributes:
        exact: the tokens are as the recipe says; else the most that its limits allow.
        tokens_per_step: mean over the stage's sources; ``largest_step`` is that of the largest.
        flops: operations of the stage as MFU counts them; ``repeated`` are those that gradient checkpointing and
            GradCache do again.
        trainable: parameters that learn.
        memory: of one process, at the largest step.
        checkpoint_bytes: of one checkpoint in ``state/``; ``disk_bytes``: of those that stay, one that is being written
            and the finished model.
        notes: what is not in the figures.
    """

    name: str
    kind: str
    steps: int
    exact: bool
    tokens_per_step: int
    largest_step: int
    tokens: int
    flops: float
    repeated: float
    trainable: int
    memory: Memory
    checkpoint_bytes: int
    disk_bytes: int
    gpus: tuple[GpuEstimate, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"memory": self.memory.to_dict(), "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class RecipeEstimate:
    """What a recipe would take: its model, its stages, and all of them on each kind of accelerator."""

    name: str
    model: str
    parameters: Parameters
    precision: str
    stages: tuple[StageEstimate, ...]
    gpus: tuple[GpuEstimate, ...]

    @property
    def tokens(self) -> int:
        """Of all stages."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def flops(self) -> float:
        """Of all stages, what is done twice counted once."""
        return sum(stage.flops for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, assumptions included."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own |= {"parameters": asdict(self.parameters), "gpus": [asdict(gpu) for gpu in self.gpus]}
        own |= {"stages": [stage.to_dict() for stage in self.stages]}
        return own | {"tokens": self.tokens, "flops": self.flops, "assumed": {"mfu": MFU, "usable_memory": USABLE}}

    def to_text(self) -> str:
        """Tables of work, memory and accelerators, a line a stage."""
        count = self.parameters
        own = f", {short(count.head)} an output matrix of its own" if count.head else ""
        return "\n\n".join(
            [
                f"{self.name}: {self.model}\n"
                f"{count.total:,} parameters, {short(count.embedding)} of them the token table{own}; {self.precision}",
                _lines(
                    ("stage", "kind", "steps", "learn", "tokens a step", "tokens", "FLOP", "done again"), self._work()
                ),
                "GB (1e9 bytes) of one process at its largest step, and of a checkpoint on disk\n"
                + _lines((*_MEMORY, "all", "checkpoint"), self._memory(), first="stage"),
                f"Hours of one GPU at {MFU:.0%} of its data sheet's bfloat16 rate; {USABLE:.0%} of its memory is used\n"
                + _lines([gpu.gpu for gpu in self.gpus], self._machines(), first="stage"),
                *self._remarks(),
            ]
        )

    def _work(self) -> list[list[str]]:
        rows = []
        for stage in self.stages:
            bound = "" if stage.exact else "<= "
            tokens = [bound + short(stage.tokens_per_step), bound + short(stage.tokens)]
            work = [f"{stage.flops:.2e}", f"{stage.repeated:.2e}"]
            rows.append([stage.name, stage.kind, f"{stage.steps:,}", short(stage.trainable), *tokens, *work])
        return rows

    def _memory(self) -> list[list[str]]:
        rows = []
        for stage in self.stages:
            parts = [getattr(stage.memory, name) for name in _MEMORY]
            rows.append([stage.name, *(f"{x / 1e9:.2f}" for x in (*parts, stage.memory.ddp, stage.checkpoint_bytes))])
        return rows

    def _machines(self) -> list[list[str]]:
        rows = [[stage.name, *(_hours(gpu.hours) for gpu in stage.gpus)] for stage in self.stages]
        rows.append(["all", *(_hours(gpu.hours) for gpu in self.gpus)])
        rows.append(["one holds a whole model (ddp)", *("yes" if gpu.ddp else "no" for gpu in self.gpus)])
        rows.append(["needed for the memory (fsdp2)", *(f"{gpu.fsdp2 or 'none fits'}" for gpu in self.gpus)])
        return rows

    def _remarks(self) -> list[str]:
        lines = [f"{stage.name}: {note}" for stage in self.stages for note in stage.notes]
        if not all(stage.exact for stage in self.stages):
            lines.append("<=: as if every text were as long as its source's limit; the hours of such a stage, too")
        return ["\n".join(lines)] if lines else []


_MEMORY = ("weights", "gradients", "moments", "casts", "activations", "loss")


def short(value: float) -> str:
    """A count in three figures.

    >>> short(251_658_240_000), short(596_049_920), short(16_384), short(12), short(0.066)
    ('252B', '596M', '16.4k', '12', '0.066')
    """
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]], first: str = "") -> str:
    """A table: names to the left, everything else to the right."""
    head = (first, *head) if first else tuple(head)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in (head, *rows)
    )
