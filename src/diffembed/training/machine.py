"""Where a run computes: threads, device, number type, and the processes that share the work (through ``accelerate``).

One process is the usual case. Under ``torchrun`` every process runs the whole program: all plan every step, each
computes its share, and rank 0 alone reports and writes. ``Machine`` is what the rest of training sees of this.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from diffembed.errors import TrainingError
from diffembed.models.backbone import require_attention
from diffembed.training.configs import RunConfig

PATIENCE = timedelta(hours=3)  # the others wait while rank 0 trains a tokenizer, scores or exports
_LEAVE_SECONDS = 0.2  # much longer than a thread is kept waiting on a busy machine


@dataclass(frozen=True, slots=True)
class Machine:
    """Device, number type and processes of a run; with one process every collective is the identity."""

    device: torch.device
    dtype: torch.dtype
    accelerator: Accelerator
    sharded: bool = False

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model as it must be called (wrapped by DDP, sharded in place by FSDP2), and its optimiser.

        Args:
            model: with more than one process, its ``forward`` is the only way in: what shares gradients hangs there.
        """
        wrapped, prepared = self.accelerator.prepare(model, optimizer)
        return wrapped, prepared.optimizer

    def autocast(self) -> AbstractContextManager[Any]:
        """The number type that forward passes compute in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def accumulating(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Backward passes that add to gradients without sharing them yet.

        Only DDP waits for the last one: FSDP2 would keep whole gradients on every process meanwhile.
        """
        return nullcontext() if self.sharded else self.accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        """Add a part's gradients; where the forward pass was in bfloat16 by autocast, so are matrix products here.

        DDP and FSDP2 average gradients over processes, but the parts are shares of a sum: hence the factor.
        """
        with nullcontext() if self.sharded else self.autocast():
            self.accelerator.backward(loss * self.world if self.world > 1 else loss)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return [float(x) for x in sums.tolist()]

    def wait(self) -> None:
        """Go on when every process has come here."""
        self.accelerator.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the block alone, then the others do (and find what it wrote)."""
        with self.accelerator.main_process_first():
            yield

    def agree(self, problem: str | None) -> None:
        """Stop every process when one has met a problem, so that none waits for it for ever.

        Raises:
            TrainingError: ``problem`` where it is known, elsewhere that another process stopped.
        """
        if self.total([float(problem is not None)])[0]:
            raise TrainingError(problem or "another process of this run stopped; its message says why")


def settle_machine(run: RunConfig) -> Machine:
    """Threads, allocator, processes, device and compute type.

    On CPUs without bfloat16 instructions bfloat16 is ten times slower than float32, so ``auto`` asks the processor.
    """
    share = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(run.threads or max(1, (os.cpu_count() or 1) // share))
    if platform.libc_ver()[0] == "glibc":  # activations are megabytes: without mmap for each, pages stay mapped
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
    # oneDNN keeps a kernel for every shape it meets (1,024 of them), and packs are all of unlike shapes
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    cuda = torch.cuda.is_available()
    fast_bf16 = cuda or "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
    bf16 = run.precision == "bfloat16" or (run.precision == "auto" and fast_bf16)
    accelerator, sharded = _accelerator(run, cuda, bf16)
    return Machine(accelerator.device, torch.bfloat16 if bf16 else torch.float32, accelerator, sharded)


def _accelerator(run: RunConfig, cuda: bool, bf16: bool) -> tuple[Accelerator, bool]:
    launched = "LOCAL_RANK" in os.environ
    plugin = _sharding(bf16) if launched and run.parallel == "fsdp2" else None
    AcceleratorState._reset_state(reset_partial_state=True)  # another run of this Python process may have chosen others
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision="bf16" if bf16 else "no",
        fsdp_plugin=plugin,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
    )
    if plugin is not None and not accelerator.is_fsdp2:  # accelerate shards on accelerators only; gloo can do it too
        accelerator.state.fsdp_plugin = plugin
        accelerator.state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # read again when an optimiser is wrapped
    if launched:
        atexit.register(_leave)
    return accelerator, plugin is not None


def _sharding(bf16: bool) -> FullyShardedDataParallelPlugin:
    """FSDP2, a shard group a decoder layer; the rest (embedding, final norm, head) is one group with the root.

    In bfloat16 the gathered weights are bfloat16, the shards, gradients and moments float32.
    """
    kwargs: dict[str, Any] = {"fsdp_version": 2, "auto_wrap_policy": "transformer_based_wrap"}
    if bf16:
        kwargs["mixed_precision_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
    return FullyShardedDataParallelPlugin(**kwargs)


def _leave() -> None:
    if not torch.distributed.is_initialized():
        return
    gloo = torch.distributed.get_backend() == "gloo"
    torch.distributed.destroy_process_group()
    if gloo:
        # Torch's caches of shards keep the group, and so gloo's threads, alive. One that was paused between the end of
        # the last exchange and letting go of its tensors aborts a process whose interpreter ends meanwhile.
        time.sleep(_LEAVE_SECONDS)


def probe_as_trained(model: PreTrainedModel, machine: Machine, *, causal: bool) -> None:
    """Refuse a backbone whose mask is not as the stage needs it, on the attention that will train.

    Kernels are chosen by number type, so the probe runs in float32 and again as the forward passes of the loop run.

    Raises:
        ModelError: names the fault.
    """

    def rounded(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.to(machine.dtype)
        return output

    require_attention(model, causal=causal)
    if machine.dtype == torch.float32:
        return
    hook = model.register_forward_hook(rounded)  # autocast leaves states float32; the probe's bound goes by their type
    try:
        with machine.autocast():
            require_attention(model, causal=causal)
    finally:
        hook.remove()


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor put together (every process must ask); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
