"""Which runtime runs a model directory: the choice between onnxruntime, torch and sentence-transformers' modules."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.models.checkpoint import ModelConfig
from diffembed.models.foreign import find_source
from diffembed.runtime import Runtime
from diffembed.runtime.onnx import GRAPHS, OnnxRuntime, find_graph

RuntimeName = Literal["auto", "onnx", "torch"]
Precision = Literal["auto", "int8", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]


def start_runtime(
    path: Path,
    config: ModelConfig,
    runtime: RuntimeName = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    threads: int | None = None,
) -> Runtime:
    """Load a model's weights into the runtime that fits what was asked for.

    Args:
        path: a model directory of any layout.
        config: what ``read_config`` says of it.
        runtime: ``onnx``, ``torch``, or ``auto``: onnx where the directory has a graph of ours that will do, else
            torch. Stacks of sentence-transformers modules run through that library, on torch.
        precision: of weights and activations: ``int8`` and ``fp32`` on onnx; ``fp32``, ``bf16`` and ``fp16`` on torch;
            ``auto`` is int8 where there is such a graph, else fp32.
        device: ``cpu``, ``cuda`` (torch only), or ``auto``: on torch a GPU if there is one.
        threads: CPU threads; ``None`` leaves the choice to the runtime.

    Raises:
        InputError: a word that is not known, a combination that no runtime has.
        ModelError: the directory is damaged, or has no graph and onnx was asked for.
            Also: it is a directory of ours without a graph that will do, and torch is not installed.
        MissingExtraError: torch, peft or sentence-transformers is needed and not installed.
    """
    for value, known in ((runtime, RuntimeName), (precision, Precision), (device, Device)):
        if value not in get_args(known):
            raise InputError(f"{value!r} is not known to Encoder.load; choose one of {', '.join(get_args(known))}")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; give at least 1, or None to leave the choice to the runtime")
    if runtime == "torch" and precision == "int8":
        raise InputError("the torch runtime has no int8 weights; ask for precision fp32, or for runtime onnx")
    if runtime == "onnx" and precision in ("bf16", "fp16"):
        raise InputError(f"the onnx runtime has no {precision} weights; ask for int8 or fp32, or for runtime torch")
    wants_onnx = runtime == "onnx" or precision == "int8"
    if wants_onnx and device == "cuda":
        raise InputError("the onnx runtime runs on the CPU; for device cuda ask for runtime torch and precision fp32")
    source = find_source(path)
    if source.kind == "modules":
        if wants_onnx:
            raise ModelError(f"{path} is a stack of sentence-transformers modules, which has no ONNX form; use torch")
        from diffembed.runtime.modules import ModulesRuntime

        return ModulesRuntime(path, config, precision=precision, device=device, threads=threads)
    if source.kind != "diffembed" and wants_onnx:
        raise ModelError(
            f"{path} has no ONNX graph of diffembed's; use runtime='torch', or make a model directory that has one: "
            f"diffembed export {path} --into DIR"
        )
    if config.attention == "causal" and wants_onnx:
        raise ModelError(f"{path} has causal attention, which has no ONNX form; use runtime='torch' (precision 'fp32')")
    may_onnx = source.kind == "diffembed" and runtime != "torch" and device != "cuda" and config.attention != "causal"
    if may_onnx and precision != "bf16" and precision != "fp16" and (wants_onnx or find_graph(path, precision)):
        return OnnxRuntime(path, precision=precision, threads=threads, pad_token_id=config.pad_token_id)
    from diffembed.runtime.torch import TorchRuntime

    try:
        return TorchRuntime(
            path,
            precision=precision,
            device=device,
            threads=threads,
            pad_token_id=config.pad_token_id,
            max_tokens=config.max_tokens,
        )
    except MissingExtraError as error:
        if not may_onnx or precision in ("bf16", "fp16"):
            raise
        graphs = GRAPHS.values() if precision == "auto" else (GRAPHS[precision],)
        raise ModelError(
            f"{path} has no ONNX graph ({', '.join(graphs)}): copy the whole model directory again, or make one where "
            f"torch is with: diffembed export {path} --into {path}. Without a graph, {error}"
        ) from None
