"""LoRA: a stage that learns low-rank additions to the linear layers and adds them in at its end (Hu et al. 2021,
arXiv 2106.09685): ``W x + (alpha / rank) B A x``, where only A and B learn and B begins at 0. The layers come from
``peft``; they replace the backbone's own in place, so everything else sees the same model as without.
"""

from __future__ import annotations

from typing import Any

import torch

from diffembed.errors import RecipeError
from diffembed.models.embedder import Embedder
from diffembed.training.configs import StageConfig


def add_adapters(embedder: Embedder, stage: StageConfig, seed: int) -> Any:
    """Freeze the model and give the backbone's linear layers adapters.

    Args:
        stage: ``lora_rank``, ``lora_alpha``, ``lora_dropout`` (of what goes into A), and ``lora_targets`` (endings of
            module names; none: every linear layer).
        seed: A is drawn from it, so that every process and every attempt draws the same.

    Returns:
        What ``merge_adapters`` needs.

    Raises:
        RecipeError: no module has one of the names.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    model = embedder.backbone
    linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
    targets = list(stage.lora_targets) or linear
    if unknown := sorted(set(targets) - set(linear)):
        raise RecipeError(
            f"stage '{stage.name}' has lora_targets '{unknown[0]}', which is no linear layer of the model; "
            f"known: {', '.join(linear)}"
        )
    alpha = stage.lora_alpha or 2.0 * stage.lora_rank
    torch.manual_seed(seed)
    config = LoraConfig(
        r=stage.lora_rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=targets,
        lora_dropout=stage.lora_dropout,
    )
    embedder.requires_grad_(False)
    return LoraModel(model, config, "default")


def merge_adapters(embedder: Embedder, tuner: Any) -> None:
    """Add the adapters into the weights, give the backbone its own layers back and let all of it learn again."""
    embedder.backbone = tuner.merge_and_unload()
    embedder.requires_grad_(True)
