"""A merge stage: the models of its parents put together, at the share that scores best."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from diffembed.models.checkpoint import read_model_config, save_model
from diffembed.models.merging import merge_models, merged_backbone, read_parents
from diffembed.training.configs import StageConfig
from diffembed.training.products import Products

_SWEEP = "sweep"


def merge_stage(stage: StageConfig, products: Products) -> dict[str, float]:
    """Merge ``stage.parents`` into the stage's model directory; every share of a sweep is scored, the best is kept.

    Which kind of model it is (its widths apart, which are those that all have) follows the last parent: the merge of
    a contextual and a triplet model embeds passages.

    Returns:
        The mean score by share; empty where there was nothing to choose.
    """
    folder = products.output / stage.name
    paths = [products.output / name / "model" for name in stage.parents]
    shares = stage.sweep if stage.method != "soup" else ()
    scores: dict[str, float] = {}
    if len(shares) > 1:
        scores = {f"{share:g}": _scored(stage, paths, share, folder / _SWEEP, products) for share in shares}
        shares = (max(shares, key=lambda share: scores[f"{share:g}"]),)
        products.report(f"{stage.name}: {_shown(scores)}: {shares[0]:g} of '{stage.parents[-1]}' is best")
    facts: dict[str, Any] = {"kind": "merge", "method": stage.method, "parents": list(stage.parents)}
    facts |= ({"share": shares[0]} if shares else {}) | ({"sweep": scores} if scores else {})
    like = read_model_config(paths[-1]).manifest
    training = {"steps": 0, "tokens": 0, "seconds": 0.0} | {k: like["training"][k] for k in ("precision", "device")}
    manifest = products.manifest(stage, training, {}, facts)
    merge_models(
        paths,
        folder / "model",
        method=stage.method,
        weights=(1 - shares[0], shares[0]) if shares else (),
        like=len(paths) - 1,
        name=f"{products.recipe.run.name}-{stage.name}",
        extra_manifest=manifest,
    )
    shutil.rmtree(folder / _SWEEP, ignore_errors=True)
    return scores


def _scored(stage: StageConfig, paths: list[Path], share: float, folder: Path, products: Products) -> float:
    """The mean score at one share."""
    from diffembed.models.attention import PACKED

    parents = read_parents(paths, like=len(paths) - 1, attn_implementation=PACKED)
    backbone = merged_backbone(parents, stage.method, (1 - share, share))
    config = dataclasses.replace(parents.config, name=f"{stage.name} {share:g}")
    model = folder / f"{share:g}" / "model"
    save_model(model, backbone, parents.tokenizer, config)
    return products.retrieval(model)["mean"]


def _shown(scores: dict[str, float]) -> str:
    return ", ".join(f"{share} {score:.4f}" for share, score in scores.items())
