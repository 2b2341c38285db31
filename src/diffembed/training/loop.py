"""The one training loop. Stages differ by the losses they hand in, not by loop.

A step asks the stage for its losses, sums their gradients, clips, and moves AdamW along a warmup-stable-decay
schedule. Nothing here remembers data: the batch of step n is a function of n, so going on after a kill needs only
weights, moments and n.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffembed.errors import TrainingError
from diffembed.training.recipe import RunConfig, StageConfig
from diffembed.training.state import clear_state, load_state, save_state

Report = Callable[[str], None]
StepLosses = Callable[[int], tuple[Iterator[Tensor], dict[str, Any]]]


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
    """Fused AdamW; norms are not decayed, and everything but the token table learns at ``layer_lr`` times the rate."""
    groups: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        scale = 1.0 if name.endswith("embed_tokens.weight") else stage.layer_lr
        decay = stage.weight_decay if parameter.ndim > 1 else 0.0
        for group in groups:
            if (group["scale"], group["weight_decay"]) == (scale, decay):
                group["params"].append(parameter)
                break
        else:
            groups.append({"params": [parameter], "scale": scale, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=stage.lr, betas=(stage.betas[0], stage.betas[1]), fused=True)


def settle_machine(run: RunConfig) -> tuple[torch.device, torch.dtype]:
    """Threads, allocator, device and compute type.

    On CPUs without bfloat16 instructions bfloat16 is ten times slower than float32, so ``auto`` asks the processor.
    """
    torch.set_num_threads(run.threads or os.cpu_count() or 1)
    if platform.libc_ver()[0] == "glibc":  # activations are megabytes: without mmap for each, pages stay mapped
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
    cuda = torch.cuda.is_available()
    fast_bf16 = cuda or "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
    bf16 = run.precision == "bfloat16" or (run.precision == "auto" and fast_bf16)
    return torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if bf16 else torch.float32


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def train(
    model: nn.Module,
    stage: StageConfig,
    step_losses: StepLosses,
    *,
    run: RunConfig,
    dtype: torch.dtype,
    folder: Path,
    fingerprint: str,
    report: Report,
) -> dict[str, Any]:
    """Run ``stage`` to its last step, from its saved state if there is one; ``model`` holds the result.

    Args:
        step_losses: losses and facts (for the log) of a step; each loss is backpropagated before the next is asked for.
        folder: where the state and ``log.jsonl`` live.

    Returns:
        steps, tokens and seconds of training (all attempts together) and the last loss.

    Raises:
        TrainingError: a loss that is not finite, named with its step and source; the last state stays whole.
    """
    optimizer = make_optimizer(model, stage)
    state_folder = folder / "state"
    found = load_state(state_folder, model, optimizer, fingerprint)
    start, spent, tokens = (found["step"], found["seconds"], found["tokens"]) if found else (0, 0.0, 0)
    folder.mkdir(parents=True, exist_ok=True)
    log = _open_log(folder / "log.jsonl", start)
    if start:
        report(f"{stage.name}: going on after step {start} of {stage.steps}")
    device = next(model.parameters()).device
    begun = saved = shown = time.monotonic()
    loss_value, shown_tokens = math.nan, tokens
    model.train()
    for step in range(start, stage.steps):
        rate = learning_rate(step, stage)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        optimizer.zero_grad(set_to_none=True)
        loss_value = 0.0
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            losses, facts = step_losses(step)
            for loss in losses:
                loss.backward()  # type: ignore[no-untyped-call]
                loss_value += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip))
        if not (math.isfinite(loss_value) and math.isfinite(norm)):
            log.close()
            raise TrainingError(
                f"stage '{stage.name}', step {step}, {facts}: loss {loss_value}, gradient norm {norm}; the state of "
                f"the last save is whole in {state_folder}; lower lr or look at that source's texts"
            )
        optimizer.step()
        tokens += facts["tokens"]
        now = time.monotonic()
        last = step + 1 == stage.steps
        if step % run.log_every == 0 or last:
            speed = (tokens - shown_tokens) / max(1e-9, now - shown)
            left = (stage.steps - step - 1) * (now - begun) / (step + 1 - start)
            row = {"step": step, "loss": loss_value, "grad_norm": norm, "lr": rate, "tokens_per_s": speed, **facts}
            log.write(json.dumps(row) + "\n")
            log.flush()
            report(
                f"{stage.name} {step + 1}/{stage.steps} loss {loss_value:.4f} norm {norm:.2f} lr {rate:.1e} "
                f"{speed:,.0f} tok/s, {left / 60:.0f} min left"
            )
            shown, shown_tokens = now, tokens
        if last or now - saved >= run.save_seconds:
            extra = {"seconds": spent + now - begun, "tokens": tokens}
            save_state(state_folder, model, optimizer, step + 1, fingerprint, extra)
            saved = time.monotonic()
    log.close()
    model.eval()
    return {
        "steps": stage.steps,
        "tokens": tokens,
        "seconds": round(spent + time.monotonic() - begun, 1),
        "loss": loss_value,
    }


def _open_log(path: Path, steps: int) -> Any:
    """The log, without the lines of steps that a killed run had done after its last save."""
    kept = []
    if path.is_file():
        kept = [x for x in path.read_text(encoding="utf-8").splitlines() if _step_of(x) < steps]
    path.write_text("".join(f"{x}\n" for x in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # the line that a kill cut short
        return math.inf


__all__ = ["clear_state", "learning_rate", "make_optimizer", "settle_machine", "train"]
