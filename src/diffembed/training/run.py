"""Run a recipe: tokenizer, stages, scores, export. What is complete is skipped, what was cut short goes on.

OUTPUT/tokenizer.json
OUTPUT/STAGE/state/       what a killed run goes on from; removed when the stage is complete
OUTPUT/STAGE/log.jsonl    loss, gradient norm, rate, tokens/s by step
OUTPUT/STAGE/model/       a model directory: written whole when the stage is complete
OUTPUT/STAGE/scores.json  held-out losses and nDCG@10 before and after
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffembed import __version__
from diffembed.errors import ModelError, RecipeError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import build_qwen3, probe_direction, require_bidirectional, set_causal
from diffembed.models.checkpoint import ModelConfig, load_backbone, load_tokenizer, read_model_config, save_model
from diffembed.models.embedder import Embedder
from diffembed.models.files import atomic_file
from diffembed.models.lexical import lexical_start
from diffembed.models.quantizer import signs, tanh_int8
from diffembed.objectives.contrastive import matryoshka, pair_info_nce
from diffembed.training.batches import PairBatch, StageData
from diffembed.training.card import model_card
from diffembed.training.heldout import causal_loss, denoising_losses, held_out_batches
from diffembed.training.lm import lm_losses
from diffembed.training.loop import Report, clear_state, settle_machine, train
from diffembed.training.recipe import PRETRAINING, Recipe, StageConfig, read_recipe
from diffembed.training.tokenizer import EOT_ID, MASK_ID, PAD_ID, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNTRAINED = "untrained"
START = "-start"  # after a stage's name: its lexical start, before any step
DEFAULT_DIMS = (64, 128, 256, 512, 768, 1024)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run made: the finished model's directory and, by stage, its scores."""

    model: str
    stages: dict[str, dict[str, Any]]


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_recipe(
    path: Path, *, kinds: tuple[str, ...] | None = None, resume: bool = True, report: Report = _stderr
) -> RunReport:
    """Run what is not done yet of the recipe at ``path``; its relative paths are relative to the recipe's folder.

    Args:
        kinds: only stages of these kinds (``PRETRAINING`` for ``diffembed pretrain``); the export needs all.
        resume: ``False`` removes what an earlier run of this recipe left in its stage folders.

    Raises:
        RecipeError, InputError, TrainingError: one line that says what to mend.
    """
    path = Path(path)
    recipe = read_recipe(path)
    return _Run(recipe, path.resolve().parent, report).run(kinds, resume)


class _Run:
    def __init__(self, recipe: Recipe, base: Path, report: Report) -> None:
        self.recipe, self.report = recipe, report
        self.output = (base / recipe.run.output).resolve()
        self.data_root = (base / recipe.run.data_root).resolve()
        self.into = (base / recipe.export.into).resolve() if recipe.export.into else self.output / "final"
        if not self.data_root.is_dir():
            raise RecipeError(f"data_root {self.data_root} is not a folder; correct it in the recipe")

    def run(self, kinds: tuple[str, ...] | None, resume: bool) -> RunReport:
        stages = [s for s in self.recipe.stage if kinds is None or s.kind in kinds]
        if not stages:
            raise RecipeError(f"the recipe has no stage of kind {' or '.join(kinds or ())}; use diffembed train")
        self.device, self.dtype = settle_machine(self.recipe.run)
        self.output.mkdir(parents=True, exist_ok=True)
        tokenizer = self._tokenizer(resume)
        if self.recipe.score.untrained and self.recipe.score.sets:
            self._score_untrained(tokenizer)
        for stage in stages:
            self._stage(stage, tokenizer, resume)
        names = [UNTRAINED, *(n for s in stages for n in (s.name + START, s.name))]
        scores = {n: s for n in names if (s := _read_json(self.output / n / "scores.json"))}
        model = self.output / stages[-1].name / "model"
        if kinds is None:
            model = self._export(stages[-1], tokenizer, scores)
        return RunReport(str(model), scores)

    def _tokenizer(self, resume: bool) -> Tokenizer:
        file, mark = self.output / "tokenizer.json", self.output / "tokenizer.recipe.json"
        wanted = {"tokenizer": asdict(self.recipe.tokenizer), "seed": self.recipe.run.seed}
        wanted = json.loads(json.dumps(wanted))
        if file.is_file() and resume:
            if _read_json(mark) != wanted:
                raise RecipeError(
                    f"{file} was trained by another recipe; choose another output, "
                    f"or remove {self.output} to start anew"
                )
            return load_tokenizer(self.output)
        self.report(f"training a tokenizer of {self.recipe.tokenizer.vocab_size} entries")
        tokenizer = train_tokenizer(self.recipe.tokenizer, self.data_root, self.recipe.run.seed)
        _write_text(mark, json.dumps(wanted))
        _write_text(file, tokenizer.to_str())
        return load_tokenizer(self.output)

    def _fresh(self, tokenizer: Tokenizer) -> Embedder:
        shape = asdict(self.recipe.model)
        vocabulary = tokenizer.get_vocab_size()
        backbone = build_qwen3(
            **shape, vocab_size=vocabulary, pad_token_id=PAD_ID, eos_token_id=EOT_ID, seed=self.recipe.run.seed
        )
        return Embedder(backbone)

    def _score_untrained(self, tokenizer: Tokenizer) -> None:
        folder = self.output / UNTRAINED
        if (folder / "scores.json").is_file():
            return
        embedder = self._fresh(tokenizer)
        set_causal(embedder.backbone, False)
        save_model(folder / "model", embedder.backbone, tokenizer, self._config(UNTRAINED, {}))
        _write_text(folder / "scores.json", json.dumps({"ndcg@10": self._retrieval(folder / "model")}))

    def _stage(self, stage: StageConfig, tokenizer: Tokenizer, resume: bool) -> None:
        folder, fingerprint = self.output / stage.name, self.recipe.fingerprint(stage)
        model = folder / "model"
        if not resume:
            clear_state(folder)
        if model.is_dir():
            made_by = read_model_config(model).manifest.get("stage_fingerprint")
            if made_by != fingerprint:
                raise RecipeError(
                    f"{model} was made by another recipe (stage '{stage.name}' or a parent has changed); "
                    f"choose another output, or remove {folder}"
                )
            self.report(f"{stage.name}: complete, skipped")
            if not (folder / "scores.json").is_file():
                self._scores(stage, folder, {})
            return
        embedder, parent = self._parent(stage, tokenizer), self.recipe.parent_of(stage)
        if stage.kind == "causal":
            if probe_direction(embedder.backbone):
                raise ModelError(f"stage '{stage.name}' is causal, but a late token changes an early state")
        else:
            require_bidirectional(embedder.backbone)
        data = StageData(stage, tokenizer, self.data_root, self.recipe.run.seed)
        if stage.lexical_start:
            lexical_start(embedder.backbone, data.token_counts())
            self._score_start(stage, embedder, tokenizer)
        before = self._held_out(stage, embedder, tokenizer)
        facts = train(
            embedder,
            stage,
            self._losses(stage, embedder, data),
            run=self.recipe.run,
            dtype=self.dtype,
            folder=folder,
            fingerprint=fingerprint,
            report=self.report,
        )
        after = self._held_out(stage, embedder, tokenizer)
        manifest = {
            "recipe": self.recipe.run.name,
            "stage": stage.name,
            "stage_fingerprint": fingerprint,
            "parent": parent.name if parent else None,
            "training": facts | {"precision": str(self.dtype).removeprefix("torch."), "device": self.device.type},
            "earlier": self._earlier(parent),
            "seed": self.recipe.run.seed,
            "data": {
                s.name: {"paths": list(s.paths), "rows": len(r)}
                for s, r in zip(stage.source, data.sources, strict=True)
            },
            "versions": {"diffembed": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "command": f"diffembed train runs/{self.recipe.run.name}.toml",
        }
        save_model(model, embedder.backbone, tokenizer, self._config(f"{self.recipe.run.name}-{stage.name}", manifest))
        self._scores(stage, folder, {"held_out_before": before, "held_out_after": after} if before else {})
        clear_state(folder / "state")

    def _parent(self, stage: StageConfig, tokenizer: Tokenizer) -> Embedder:
        """What the stage starts from, its mask as the stage needs it."""
        parent = self.recipe.parent_of(stage)
        if parent is None:
            embedder = self._fresh(tokenizer)
        else:
            source = self.output / parent.name / "model"
            if not source.is_dir():
                raise RecipeError(f"stage '{stage.name}' starts from '{parent.name}', which is not complete: run it")
            embedder = Embedder(load_backbone(source, attn_implementation=PACKED))
        set_causal(embedder.backbone, stage.kind == "causal")
        return embedder.to(self.device)

    def _score_start(self, stage: StageConfig, embedder: Embedder, tokenizer: Tokenizer) -> None:
        """What a lexical start alone is worth: without it the stage would be given credit for it."""
        name = f"{stage.name}{START}"
        folder = self.output / name
        if not self.recipe.score.sets or (folder / "scores.json").is_file():
            return
        save_model(folder / "model", embedder.backbone, tokenizer, self._config(name, {}))
        _write_text(folder / "scores.json", json.dumps({"ndcg@10": self._retrieval(folder / "model")}))

    def _earlier(self, parent: StageConfig | None) -> list[dict[str, Any]]:
        if parent is None:
            return []
        manifest = read_model_config(self.output / parent.name / "model").manifest
        own = {k: manifest[k] for k in ("stage", "training", "data")}
        return [*manifest["earlier"], own]

    def _losses(
        self, stage: StageConfig, embedder: Embedder, data: StageData
    ) -> Callable[[int], tuple[Iterator[Tensor], dict[str, Any]]]:
        def language_model(step: int) -> tuple[Iterator[Tensor], dict[str, Any]]:
            batches = data.text_batches(step)
            rng = np.random.default_rng((data.seed, step, 1))
            source = stage.source[int(data.choices[step])].name
            return lm_losses(embedder, batches, stage, rng), {
                "tokens": sum(b.tokens for b in batches),
                "source": source,
            }

        def pairs(step: int) -> tuple[Iterator[Tensor], dict[str, Any]]:
            batch = data.pair_batch(step)
            facts = {"tokens": batch.tokens, "source": batch.source, "pairs": len(batch.document_ids), "cut": batch.cut}
            return iter([pair_loss(embedder, batch, stage, self.dims(stage))]), facts

        return pairs if stage.kind == "pair" else language_model

    def dims(self, stage: StageConfig) -> tuple[int, ...]:
        """Matryoshka widths of a pair stage, the hidden size always among them."""
        hidden = self.recipe.model.hidden_size
        return tuple(sorted({*(d for d in (stage.dims or DEFAULT_DIMS) if d < hidden), hidden}))

    def _config(self, name: str, manifest: dict[str, Any]) -> ModelConfig:
        pair = [s for s in self.recipe.stage if s.kind == "pair"]
        trained = bool(pair) and manifest.get("stage") in {s.name for s in pair}
        return ModelConfig(
            name=name,
            dims=self.dims(pair[-1]) if trained else (self.recipe.model.hidden_size,),
            max_tokens=self.recipe.model.max_tokens,
            mask_token_id=MASK_ID,
            pad_token_id=PAD_ID,
            eot_token_id=EOT_ID,
            manifest=manifest,
        )

    def _held_out(self, stage: StageConfig, embedder: Embedder, tokenizer: Tokenizer) -> dict[str, float]:
        if stage.kind not in PRETRAINING:
            return {}
        batches = held_out_batches(stage, tokenizer, self.data_root)
        embedder.eval()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if stage.kind == "causal":
                return causal_loss(embedder, batches)
            return denoising_losses(embedder, batches, shift=stage.shift)

    def _scores(self, stage: StageConfig, folder: Path, scores: dict[str, Any]) -> None:
        if self.recipe.score.sets:
            scores = scores | {"ndcg@10": self._retrieval(folder / "model")}
        _write_text(folder / "scores.json", json.dumps(scores, indent=2))
        for name, values in scores.items():
            self.report(f"{stage.name} {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def _retrieval(self, model: Path) -> dict[str, float]:
        from diffembed.evaluation.retrieval import evaluate_retrieval
        from diffembed.models.export import export_onnx

        export_onnx(model, precisions=("fp32",))
        scores = {}
        for name in self.recipe.score.sets:
            result = evaluate_retrieval(self.data_root / name, model=str(model), split="dev", dtype="int8")
            scores[name] = round(result.scores["ndcg@10"], 4)
        scores["mean"] = round(float(np.mean(list(scores.values()))), 4)
        return scores

    def _export(self, stage: StageConfig, tokenizer: Tokenizer, scores: dict[str, dict[str, Any]]) -> Path:
        from diffembed.models.export import export_onnx

        source, export = self.output / stage.name / "model", self.recipe.export
        config = dataclasses.replace(read_model_config(source), name=self.recipe.run.name)
        self.report(f"export: {self.into}")
        card = model_card(config, scores, measured=bool(export.into))
        save_model(self.into, load_backbone(source), tokenizer, config, dtype=export.dtype, card=card)
        export_onnx(self.into, precisions=("int8", "fp32") if export.fp32_onnx else ("int8",))
        return self.into


def pair_loss(embedder: Embedder, batch: PairBatch, stage: StageConfig, dims: tuple[int, ...]) -> Tensor:
    """The pair stage's loss: span means, then at every width cut, quantizer and masked InfoNCE."""
    means = torch.cat([embedder(p) for p in batch.packs])
    with torch.autocast(means.device.type, enabled=False):
        ordered = means[torch.from_numpy(batch.order).to(means.device)]
        count = len(batch.document_ids)
        ids = torch.from_numpy(batch.document_ids).to(means.device)

        def loss(queries: Tensor, documents: Tensor) -> Tensor:
            return pair_info_nce(queries, documents, ids, temperature=stage.temperature, margin=stage.margin)

        total = matryoshka(loss, tanh_int8, ordered[:count], ordered[count:], dims)
        if stage.binary_weight:
            binary = matryoshka(loss, signs, ordered[:count], ordered[count:], dims)
            total = total + stage.binary_weight * binary
        return total


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
