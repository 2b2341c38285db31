"""The one training loop. Stages differ by the steps they plan, not by loop.

A step is planned as parts, one a forward pass; their gradients add up, are clipped, and move AdamW along a
warmup-stable-decay schedule. Nothing here remembers data: what step n reads is a function of n, so going on after a
kill, on any number of processes, needs only weights, moments and n.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffembed.errors import StoppedError, TrainingError, UnfinishedError
from diffembed.models.embedder import Embedder
from diffembed.models.files import atomic_file
from diffembed.training.configs import RunConfig, StageConfig
from diffembed.training.machine import Machine, full_tensor
from diffembed.training.metrics import Metrics
from diffembed.training.state import Report, load_state, save_state

STATE = "state"
BAD_STEP = "bad-step.json"
_NAMED = 5  # texts named in an error; the file beside the log has all

Part = Callable[[Embedder], Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """One step as a stage plans it.

    Attributes:
        parts: one a forward pass of this process; their losses, summed over parts and processes, are the step's loss.
            More than one process: every process has equally many.
        facts: for the log; ``"tokens"`` counts those of all processes.
        flops: operations of all processes, 0 where nobody counted.
        origins: where each text of the step came from; asked only when something is wrong with them.
    """

    parts: Sequence[Part]
    facts: dict[str, Any]
    flops: float
    origins: Callable[[], list[str]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is: steps done, tokens a second, seconds left, share of the machine's peak (0: not known)."""

    stage: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    mfu: float


class _Routed(nn.Module):
    """What DDP and FSDP2 wrap: a forward pass is whatever part of a step it is handed."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder
        # accelerate makes a shard group of every module of these classes; it asks only the module that it is given
        found = {type(module).__name__ for module in embedder.modules()}
        self._no_split_modules = sorted(found & set(embedder.backbone._no_split_modules or ()))

    def forward(self, part: Part) -> Tensor:
        return part(self.embedder)


def learning_rate(step: int, stage: StageConfig) -> float:
    """Warmup-stable-decay: linear up over ``warmup`` steps, flat, linear down over the last ``decay_share``.

    >>> s = StageConfig("s", "pair", steps=10, batch=1, lr=1.0, source=(), warmup=2, decay_share=0.4)
    >>> [round(learning_rate(i, s), 2) for i in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    up = min(1.0, (step + 1) / max(1, stage.warmup))
    decay = stage.decay_share * stage.steps
    down = min(1.0, (stage.steps - step) / decay) if decay else 1.0
    return stage.lr * min(up, down)


def make_optimizer(model: nn.Module, stage: StageConfig) -> torch.optim.AdamW:
    """AdamW, fused where there is such a kernel; norms are not decayed.

    Everything but the token table learns at ``layer_lr`` times the rate.
    """
    groups: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0 if name.endswith("embed_tokens.weight") else stage.layer_lr
        decay = stage.weight_decay if parameter.ndim > 1 else 0.0
        for group in groups:
            if (group["scale"], group["weight_decay"]) == (scale, decay):
                group["params"].append(parameter)
                break
        else:
            groups.append({"params": [parameter], "scale": scale, "weight_decay": decay})
    fused = {p.device.type for g in groups for p in g["params"]} <= {"cpu", "cuda", "mps", "xpu"}
    return torch.optim.AdamW(groups, lr=stage.lr, betas=(stage.betas[0], stage.betas[1]), fused=fused)


def recompute_activations(model: PreTrainedModel, on: bool) -> None:
    """Gradient checkpointing: keep no activations inside the layers, compute them again on the way back."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # the older name
    switch = getattr(model, f"{name}_checkpointing_{'enable' if on else 'disable'}")
    switch({"use_reentrant": False}) if on else switch()


def train(
    embedder: Embedder,
    stage: StageConfig,
    plan: Callable[[int], Step],
    *,
    run: RunConfig,
    machine: Machine,
    folder: Path,
    expected: dict[str, str],
    report: Report,
    watch: Callable[[Progress], None] | None = None,
    measure: Callable[[], dict[str, float]] | None = None,
    peak: float = 0.0,
    until: float = math.inf,
) -> dict[str, Any]:
    """Run ``stage`` to its last step, from its last checkpoint if there is one.

    Afterwards the last checkpoint holds the result, and so does ``embedder``, unless it was sharded.

    Args:
        plan: the step of a number; called ahead of time, from another thread.
        folder: where checkpoints and ``log.jsonl`` live.
        expected: what a checkpoint must say to belong to this stage (its fingerprints).
        watch: told of every logged step; without it a line is reported.
        measure: held-out figures of ``embedder``, asked of rank 0 every ``run.held_out_every`` steps but the last.
        peak: operations a second of one process at best; 0: the log has no MFU.
        until: stop after the step that is under way at this ``time.monotonic()``.

    Returns:
        steps, tokens, operations (``flops``) and seconds of training (all attempts together) and the last loss.

    Raises:
        TrainingError: a loss that is not finite, named with its step and texts, or a checkpoint that cannot be written;
            the last one stays whole.
        StoppedError: SIGTERM came; the step was finished and its checkpoint written.
        UnfinishedError: it was ``until``; likewise.
    """
    model, optimizer = machine.prepare(_Routed(embedder).to(machine.device), make_optimizer(embedder, stage))
    found = load_state(folder / STATE, embedder, optimizer, expected, report)
    start, spent, tokens, loss = 0, 0.0, 0, None
    flops = 0.0
    if found:
        start, spent, tokens, loss = (found[key] for key in ("step", "seconds", "tokens", "loss"))
        flops = found.get("flops", 0.0)  # which older checkpoints did not count
    if start:
        report(f"{stage.name}: going on after step {start} of {stage.steps}")
    metrics = Metrics(folder, start, tensorboard=run.tensorboard) if machine.main else None
    bad = None
    begun = saved = shown = time.monotonic()
    shown_tokens, shown_flops = tokens, flops
    embedder.train()
    with metrics or nullcontext(), _terminated() as stop, _planned(plan, start, stage.steps) as steps:
        for number, step in steps:
            rate = learning_rate(number, stage)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            torch.manual_seed(_step_seed(run.seed, number, machine.rank))
            own, norm = _gradients(model, optimizer, step.parts, machine, stage.clip)
            now = time.monotonic()
            overdue = machine.main and now - saved >= run.save_seconds
            loss, stopping, late, due = machine.total([own, stop.is_set(), now >= until, overdue])
            if not (math.isfinite(loss) and math.isfinite(norm)):
                bad = number, step, loss, norm
                break
            optimizer.step()
            tokens += step.facts["tokens"]
            flops += step.flops
            now, done = time.monotonic(), number + 1
            last = done == stage.steps
            figures: dict[str, float] = {}
            if metrics and measure and run.held_out_every and done % run.held_out_every == 0 and not last:
                figures = {f"held_out/{name}": value for name, value in measure().items()}
                embedder.train()
                pause = time.monotonic() - now  # no part of the time that training takes
                now, begun, shown = now + pause, begun + pause, shown + pause
            if metrics and (number % run.log_every == 0 or last or figures):
                took = max(1e-9, now - shown)
                speed = (tokens - shown_tokens) / took
                mfu = (flops - shown_flops) / took / (peak * machine.world or math.inf)
                left = (stage.steps - done) * (now - begun) / (done - start)
                row = {"step": number, "loss": loss, "grad_norm": norm, "lr": rate, "tokens_per_s": speed}
                metrics.write(row | ({"mfu": mfu} if peak else {}) | step.facts | figures)
                (watch or _lines(report, rate, norm))(Progress(stage.name, done, stage.steps, loss, speed, left, mfu))
                shown, shown_tokens, shown_flops = now, tokens, flops
            if last or stopping or late or due:
                body = {**expected, "seconds": spent + now - begun, "tokens": tokens, "flops": flops, "loss": loss}
                save_state(folder / STATE, embedder, optimizer, done, body, keep=run.keep, machine=machine)
                saved = time.monotonic()
            if stopping:
                raise StoppedError(
                    f"stopped by SIGTERM after step {done} of {stage.steps} of stage '{stage.name}'; its checkpoint is "
                    "written: run the same command to go on"
                )
            if late and not last:
                raise UnfinishedError(f"the time is over after step {done} of {stage.steps} of stage '{stage.name}'")
    if bad:  # asked for here, where no other thread reads the sources
        raise TrainingError(_bad_step(stage, *bad, folder, machine))
    embedder.eval()
    machine.accelerator.free_memory()  # it holds on to every model that it prepared
    return {
        "steps": stage.steps,
        "tokens": tokens,
        "flops": flops,
        "seconds": round(spent + time.monotonic() - begun, 1),
        "loss": loss,
    }


def _step_seed(seed: int, step: int, rank: int) -> int:
    """What dropout draws in a step follows from its number, so that a run that goes on draws what it would have."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


def _gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, parts: Sequence[Part], machine: Machine, clip: float
) -> tuple[float, float]:
    """Gradients of a step, clipped: this process's share of the loss, and the norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for i, part in enumerate(parts):
        with nullcontext() if i + 1 == len(parts) else machine.accumulating(model):
            loss = model(part)
            losses.append(loss.detach())
            machine.backward(loss)
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip)
    return sum(torch.stack(losses).tolist()) if losses else 0.0, float(full_tensor(norm))


@contextmanager
def _planned(plan: Callable[[int], Step], start: int, stop: int) -> Iterator[Iterator[tuple[int, Step]]]:
    """Steps ``start ... stop - 1``, each planned while the one before it is computed."""
    with ThreadPoolExecutor(1, "plan") as planner:

        def steps() -> Iterator[tuple[int, Step]]:
            ahead: Future[Step] | None = None
            for number in range(start, stop):
                step = ahead.result() if ahead else plan(number)
                ahead = planner.submit(plan, number + 1) if number + 1 < stop else None
                yield number, step

        try:
            yield steps()
        finally:
            planner.shutdown(cancel_futures=True)


@contextmanager
def _terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, instead of ending the process at once."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen  # only the main thread may ask for signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: seen.set())
    try:
        yield seen
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(report: Report, rate: float, norm: float) -> Callable[[Progress], None]:
    def line(at: Progress) -> None:
        share = f", {at.mfu:.0%} of peak" if at.mfu else ""
        report(
            f"{at.stage} {at.step}/{at.steps} loss {at.loss:.4f} norm {norm:.2f} lr {rate:.1e} "
            f"{at.tokens_per_second:,.0f} tok/s{share}, {at.seconds_left / 60:.0f} min left"
        )

    return line


def _bad_step(
    stage: StageConfig, number: int, step: Step, loss: float, norm: float, folder: Path, machine: Machine
) -> str:
    """The message for a loss that is not finite; all of the step's texts go into a file."""
    texts, listed = step.origins(), folder / BAD_STEP
    if machine.main:
        with atomic_file(listed) as partial:
            rows = {"stage": stage.name, "step": number, "facts": step.facts, "texts": texts}
            partial.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return (
        f"stage '{stage.name}', step {number}, {step.facts}: loss {loss}, gradient norm {norm}; read "
        f"{'; '.join(texts[:_NAMED])}{f' and {len(texts) - _NAMED} more' * (len(texts) > _NAMED)} (all in {listed}); "
        f"the last checkpoint is whole in {folder / STATE}; lower lr or look at those texts"
    )
