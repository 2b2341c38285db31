"""What a run leaves behind: model directories with their manifests, scores by stage, the exported model."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffembed import __version__
from diffembed.models.backbone import set_causal
from diffembed.models.checkpoint import ModelConfig, load_backbone, load_head, read_model_config, save_model
from diffembed.models.embedder import Embedder
from diffembed.training.base import Base, first_model, read_json, write_text
from diffembed.training.card import model_card
from diffembed.training.configs import CONTRASTIVE, PRETRAINING, StageConfig
from diffembed.training.lm import objective_facts
from diffembed.training.machine import Machine
from diffembed.training.recipe import Recipe
from diffembed.training.scoring import retrieval_scores, write_graphs
from diffembed.training.state import Report

UNTRAINED = "untrained"
START = "-start"  # after a stage's name: its lexical start, before any step
DEFAULT_DIMS = (64, 128, 256, 512, 768, 1024)


@dataclasses.dataclass(frozen=True, slots=True)
class Products:
    """Writes and scores the models of one run.

    Attributes:
        folder: the recipe's own; ``output`` holds the stages, ``into`` the finished model.
        command: that makes them.
    """

    recipe: Recipe
    base: Base
    folder: Path
    output: Path
    into: Path
    data_root: Path
    report: Report
    command: str

    def dims(self, stage: StageConfig) -> tuple[int, ...]:
        """Matryoshka widths of a contrastive stage, the hidden size always among them."""
        hidden = self.base.hidden_size
        return tuple(sorted({*(d for d in (stage.dims or DEFAULT_DIMS) if d < hidden), hidden}))

    def config(self, name: str, stage: StageConfig | None, manifest: dict[str, Any]) -> ModelConfig:
        """What ``diffembed.json`` says of a model that ``stage`` has trained (or, without manifest, begins from)."""
        base = self.base
        trained = stage is not None and stage.kind in CONTRASTIVE and bool(manifest)
        plain = stage is not None and trained and stage.quantize == "none"
        return ModelConfig(
            name=name,
            dims=self.dims(stage) if stage and trained else (base.hidden_size,),
            max_tokens=base.max_tokens,
            mask_token_id=base.mask_token_id,
            pad_token_id=base.pad_token_id,
            eot_token_id=base.eot_token_id,
            contextual=trained and stage is not None and stage.kind == "contextual",
            pooling=stage.pooling if stage else "mean",
            attention=stage.attention if stage else "bidirectional",
            quantizer="none" if plain else "tanh-int8",
            normalize=plain,
            shift=self.recipe.shift_after(stage, base.shift),
            manifest=manifest,
        )

    def manifest(
        self,
        stage: StageConfig,
        training: Mapping[str, Any],
        data: Mapping[str, Any],
        objective: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What a stage's model was made from."""
        parents = self.recipe.parents_of(stage)
        return {
            "recipe": self.recipe.run.name,
            "stage": stage.name,
            "stage_fingerprint": self.recipe.fingerprint(stage),
            "parent": parents[0].name if parents else None,
            "base": self.base.facts,
            "objective": objective_facts(stage, self.base.mask_token_id) if objective is None else dict(objective),
            "training": dict(training),
            "earlier": self._earlier(parents),
            "seed": self.recipe.run.seed,
            "data": dict(data),
            "versions": {"diffembed": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "command": self.command,
        }

    def _earlier(self, parents: tuple[StageConfig, ...]) -> list[dict[str, Any]]:
        """The stages before, each once, parents before children."""
        found: dict[str, dict[str, Any]] = {}
        for parent in parents:
            manifest = read_model_config(self.output / parent.name / "model").manifest
            own = {k: manifest[k] for k in ("stage", "objective", "training", "data")}
            found |= {stage["stage"]: stage for stage in [*manifest["earlier"], own] if stage["stage"] not in found}
        return list(found.values())

    def save(self, path: Path, embedder: Embedder, config: ModelConfig) -> None:
        """Write a model directory."""
        head = None if embedder.head is None else embedder.head.detach()
        save_model(path, embedder.backbone, self.base.tokenizer, config, head=head)

    def score_untrained(self) -> None:
        """Score what the run begins from, unless that was done."""
        folder = self.output / UNTRAINED
        if not (self.recipe.score.untrained and self._judged) or (folder / "scores.json").is_file():
            return
        embedder = first_model(self.recipe, self.folder, self.base)
        set_causal(embedder.backbone, False)
        self.save(folder / "model", embedder, self.config(UNTRAINED, None, {}))
        write_text(folder / "scores.json", json.dumps({"ndcg@10": self.retrieval(folder / "model")}))

    def score_start(self, stage: StageConfig, embedder: Embedder) -> None:
        """What a lexical start alone is worth: without it the stage would be given credit for it."""
        name = f"{stage.name}{START}"
        folder = self.output / name
        if not self._judged or (folder / "scores.json").is_file():
            return
        self.save(folder / "model", embedder, self.config(name, None, {}))
        write_text(folder / "scores.json", json.dumps({"ndcg@10": self.retrieval(folder / "model")}))

    def scores(self, folder: Path, scores: dict[str, Any]) -> None:
        """Score a stage's model and write its ``scores.json``."""
        if self._judged:
            scores = scores | {"ndcg@10": self.retrieval(folder / "model")}
        write_text(folder / "scores.json", json.dumps(scores, indent=2))
        for name, values in scores.items():
            self.report(f"{folder.name} {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def retrieval(self, model: Path) -> dict[str, float]:
        """nDCG@10 by development set."""

        def report(line: str) -> None:
            self.report(f"{model.parent.name}: {line}")

        return retrieval_scores(model, self.data_root, self.recipe.score, report)

    def all_scores(self, stages: list[StageConfig]) -> dict[str, dict[str, Any]]:
        """What the run knows, by stage."""
        names = [UNTRAINED, *(n for s in stages for n in (s.name + START, s.name))]
        return {n: s for n in names if (s := read_json(self.output / n / "scores.json"))}

    def export(self, stage: StageConfig, scores: dict[str, dict[str, Any]]) -> None:
        """The finished model, as users get it."""
        source, export = self.output / stage.name / "model", self.recipe.export
        config = dataclasses.replace(read_model_config(source), name=self.recipe.run.name)
        self.report(f"export: {self.into}")
        card = model_card(config, scores, measured=bool(export.into))
        head = load_head(source) if stage.kind in PRETRAINING else None  # embedding does not need it
        backbone = load_backbone(source)
        save_model(self.into, backbone, self.base.tokenizer, config, dtype=export.dtype, card=card, head=head)

        def report(line: str) -> None:
            self.report(f"export: {line}")

        write_graphs(self.into, ("int8", "fp32") if export.fp32_onnx else ("int8",), report)

    @property
    def _judged(self) -> bool:
        score = self.recipe.score
        return bool(score.sets or score.contextual or score.sections)


def machine_facts(machine: Machine) -> dict[str, Any]:
    """What a stage computed with, for its manifest."""
    precision = str(machine.dtype).removeprefix("torch.")
    return {"precision": precision, "device": machine.device.type, "processes": machine.world}
