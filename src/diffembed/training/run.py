"""Run a recipe: tokenizer, stages, scores, export. What is complete is skipped, what was cut short goes on.

OUTPUT/tokenizer.json
OUTPUT/STAGE/state/       what a killed run goes on from; removed when the stage is complete
OUTPUT/STAGE/log.jsonl    loss, gradient norm, rate, tokens/s by step; held-out losses every held_out_every steps
OUTPUT/STAGE/model/       a model directory: written whole when the stage is complete
OUTPUT/STAGE/scores.json  held-out losses and nDCG@10 before and after
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffembed import __version__
from diffembed.errors import RecipeError
from diffembed.models.backbone import set_causal
from diffembed.models.checkpoint import ModelConfig, load_backbone, load_head, read_model_config, save_model
from diffembed.models.embedder import Embedder
from diffembed.models.lexical import lexical_start
from diffembed.models.pretrained import load_pretrained
from diffembed.training.adapters import add_adapters, merge_adapters
from diffembed.training.base import first_model, read_json, settle_base, write_text
from diffembed.training.batches import StageData
from diffembed.training.card import model_card
from diffembed.training.checks import check_fit
from diffembed.training.configs import PRETRAINING, StageConfig
from diffembed.training.heldout import HeldOut, held_out_losses, read_held_out
from diffembed.training.lm import frozen_parent, objective_facts
from diffembed.training.loop import STATE, Progress, Step, recompute_activations, train
from diffembed.training.machine import probe_as_trained, settle_machine
from diffembed.training.plans import language_plan, pair_plan
from diffembed.training.recipe import Recipe, read_recipe
from diffembed.training.scoring import retrieval_scores, write_graphs
from diffembed.training.state import Report, clear_state, last_state, load_weights
from diffembed.training.throughput import peak_rate, step_cost

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
    path: Path,
    *,
    kinds: tuple[str, ...] | None = None,
    resume: bool = True,
    report: Report = _stderr,
    watch: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Run what is not done yet of the recipe at ``path``; its relative paths are relative to the recipe's folder.

    Under ``torchrun`` every process calls this; rank 0 reports, writes and scores, the others help to train.

    Args:
        kinds: only stages of these kinds (``PRETRAINING`` for ``diffembed pretrain``); the export needs all.
        resume: ``False`` removes what an earlier run of this recipe left in its stage folders.
        report: told in lines what happens.
        watch: told of every logged step, in place of a line.

    Raises:
        RecipeError, InputError, TrainingError: one line that says what to mend.
        StoppedError: SIGTERM came while a stage trained.
    """
    path = Path(path)
    return _Run(read_recipe(path), path.resolve().parent, report, watch).run(kinds, resume)


class _Run:
    def __init__(self, recipe: Recipe, folder: Path, report: Report, watch: Callable[[Progress], None] | None) -> None:
        self.recipe, self.folder, self.report, self.watch = recipe, folder, report, watch
        self.output = (folder / recipe.run.output).resolve()
        self.data_root = (folder / recipe.run.data_root).resolve()
        self.into = (folder / recipe.export.into).resolve() if recipe.export.into else self.output / "final"
        if not self.data_root.is_dir():
            raise RecipeError(f"data_root {self.data_root} is not a folder; correct it in the recipe")

    def run(self, kinds: tuple[str, ...] | None, resume: bool) -> RunReport:
        stages = [s for s in self.recipe.stage if kinds is None or s.kind in kinds]
        if not stages:
            raise RecipeError(f"the recipe has no stage of kind {' or '.join(kinds or ())}; use diffembed train")
        self.machine = settle_machine(self.recipe.run)
        if not self.machine.main:
            self.report = lambda _: None
        if self.machine.world > 1 and (pairs := [s.name for s in stages if s.kind == "pair"]):
            raise RecipeError(
                f"stage '{pairs[0]}' compares all pairs of a batch and runs on one process, {self.machine.world} were "
                "started; use torchrun for diffembed pretrain, and diffembed train without it for the rest"
            )
        with self.machine.main_first():  # the others find what rank 0 wrote
            again = not resume and self.machine.main
            self.base = settle_base(
                self.recipe, self.folder, self.data_root, self.output, resume=not again, report=self.report
            )
        self.recipe = self.recipe.with_shift(self.base.shift)
        stages = [s for s in self.recipe.stage if s.name in {x.name for x in stages}]
        for stage in stages:
            check_fit(stage, self.base.hidden_size, self.base.max_tokens)
        if self.machine.main and self.recipe.score.untrained and self.recipe.score.sets:
            self._score_untrained()
        for stage in stages:
            self._stage(stage, resume)
        names = [UNTRAINED, *(n for s in stages for n in (s.name + START, s.name))]
        scores = {n: s for n in names if (s := read_json(self.output / n / "scores.json"))}
        model = self.output / stages[-1].name / "model"
        if kinds is None:
            if self.machine.main:
                self._export(stages[-1], scores)
            self.machine.wait()
            model = self.into
        return RunReport(str(model), scores)

    def _score_untrained(self) -> None:
        folder = self.output / UNTRAINED
        if (folder / "scores.json").is_file():
            return
        embedder = first_model(self.recipe, self.folder, self.base)
        set_causal(embedder.backbone, False)
        self._save(folder / "model", embedder, self._config(UNTRAINED, None, {}))
        write_text(folder / "scores.json", json.dumps({"ndcg@10": self._retrieval(folder / "model")}))

    def _stage(self, stage: StageConfig, resume: bool) -> None:
        folder, machine = self.output / stage.name, self.machine
        if not resume and machine.main:
            clear_state(folder)
        machine.wait()
        if self._complete(stage):
            self.report(f"{stage.name}: complete, skipped")
            if machine.main and not (folder / "scores.json").is_file():
                self._scores(folder, {})
            machine.wait()
            return
        embedder = self._start(stage)
        self._report_shift(stage)
        probe_as_trained(embedder.backbone, machine, causal=stage.kind == "causal")
        with machine.main_first():  # rank 0 counts the corpus, the others read its counts
            data = StageData(
                stage,
                self.base.tokenizer,
                self.data_root,
                self.recipe.run.seed,
                eot_token_id=self.base.eot_token_id,
                cache=self.output / "corpus",
                report=self.report,
            )
        if stage.lexical_start:
            lexical_start(embedder.backbone, data.token_counts())
            self._score_start(stage, embedder)
        held_out = self._read_held_out(stage)
        before = self._held_out(stage, embedder, held_out)
        teacher = frozen_parent(embedder) if stage.alignment_weight else None
        tuner = add_adapters(embedder, stage, self.recipe.run.seed) if stage.lora_rank else None
        if stage.gradient_checkpointing:
            recompute_activations(embedder.backbone, True)
        cost = step_cost(embedder, causal=stage.kind == "causal")
        plan: Callable[[int], Step]
        if stage.kind == "pair":
            plan = pair_plan(stage, data, dims=self.dims(stage), cost=cost)
        else:
            mask = self.base.mask_token_id
            plan = language_plan(stage, data, mask_token_id=mask, machine=machine, cost=cost, teacher=teacher)
        facts = train(
            embedder,
            stage,
            plan,
            run=self.recipe.run,
            machine=machine,
            folder=folder,
            expected={"fingerprint": self.recipe.fingerprint(stage), "data": data.fingerprint},
            report=self.report,
            watch=self.watch if machine.main else None,
            measure=partial(self._held_out, stage, embedder, held_out) if stage.kind in PRETRAINING else None,
            peak=self._peak(stage, embedder),
        )
        if machine.main:
            self._finish(stage, embedder, tuner, data, facts, held_out, before)
        machine.wait()

    def _complete(self, stage: StageConfig) -> bool:
        model = self.output / stage.name / "model"
        if not model.is_dir():
            return False
        if read_model_config(model).manifest.get("stage_fingerprint") != self.recipe.fingerprint(stage):
            raise RecipeError(
                f"{model} was made by another recipe (stage '{stage.name}' or a parent has changed); "
                f"choose another output, or remove {model.parent}"
            )
        return True

    def _start(self, stage: StageConfig) -> Embedder:
        """What the stage starts from, its mask as the stage needs it."""
        parent = self.recipe.parent_of(stage)
        if parent is None:
            embedder = first_model(self.recipe, self.folder, self.base)
        else:
            source = self.output / parent.name / "model"
            if not source.is_dir():
                raise RecipeError(f"stage '{stage.name}' starts from '{parent.name}', which is not complete: run it")
            loaded = load_pretrained(source)
            embedder = Embedder(loaded.model, loaded.head)
        set_causal(embedder.backbone, stage.kind == "causal")
        return embedder.to(self.machine.device)

    def _report_shift(self, stage: StageConfig) -> None:
        """A stage may unlearn which token a state predicts, but not without a word."""
        parent = self.recipe.parent_of(stage)
        had = self.recipe.shift_after(parent, self.base.shift)
        if self.recipe.shift_after(stage, self.base.shift) != had:
            has, wants = ("the next token", "its own") if had else ("its own token", "the next")
            what = f"the model of '{parent.name}'" if parent else "the checkpoint"
            self.report(f"{stage.name}: a state of {what} predicts {has}, the stage asks for {wants}")

    def _peak(self, stage: StageConfig, embedder: Embedder) -> float:
        if not self.machine.main:
            return 0.0
        config = embedder.backbone.config
        rows = min(stage.micro_tokens, 8192)
        rate, origin = peak_rate(
            self.machine.device, self.machine.dtype, rows, config.hidden_size, config.intermediate_size
        )
        self.report(f"{stage.name}: peak {rate / 1e12:.3g} TFLOP/s a process ({origin})")
        return rate

    def _finish(
        self,
        stage: StageConfig,
        embedder: Embedder,
        tuner: Any,
        data: StageData,
        facts: dict[str, Any],
        held_out: HeldOut | None,
        before: dict[str, float],
    ) -> None:
        """Whole weights again, measured and saved as a model directory; then the checkpoints may go."""
        folder, machine, parent = self.output / stage.name, self.machine, self.recipe.parent_of(stage)
        if machine.sharded:  # what is in memory are shards
            embedder = self._start(stage)
            tuner = add_adapters(embedder, stage, self.recipe.run.seed) if stage.lora_rank else None
            found = last_state(folder / STATE, self.report)
            assert found is not None  # written by the loop
            load_weights(found[0], embedder)
            embedder.eval()
        if stage.gradient_checkpointing:
            recompute_activations(embedder.backbone, False)
        if tuner is not None:
            merge_adapters(embedder, tuner)
        after = self._held_out(stage, embedder, held_out)
        machine_facts = {"precision": str(machine.dtype).removeprefix("torch."), "device": machine.device.type}
        manifest = {
            "recipe": self.recipe.run.name,
            "stage": stage.name,
            "stage_fingerprint": self.recipe.fingerprint(stage),
            "parent": parent.name if parent else None,
            "base": self.base.facts,
            "objective": objective_facts(stage, self.base.mask_token_id),
            "training": facts | machine_facts | {"processes": machine.world},
            "earlier": self._earlier(parent),
            "seed": self.recipe.run.seed,
            "data": {
                s.name: {"paths": list(s.paths), "rows": len(r)}
                for s, r in zip(stage.source, data.sources, strict=True)
            },
            "versions": {"diffembed": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "command": f"diffembed train runs/{self.recipe.run.name}.toml",
        }
        config = self._config(f"{self.recipe.run.name}-{stage.name}", stage, manifest)
        self._save(folder / "model", embedder, config)
        self._scores(folder, {"held_out_before": before, "held_out_after": after} if before else {})
        clear_state(folder / STATE)

    def _save(self, path: Path, embedder: Embedder, config: ModelConfig) -> None:
        head = None if embedder.head is None else embedder.head.detach()
        save_model(path, embedder.backbone, self.base.tokenizer, config, head=head)

    def _score_start(self, stage: StageConfig, embedder: Embedder) -> None:
        """What a lexical start alone is worth: without it the stage would be given credit for it."""
        name = f"{stage.name}{START}"
        folder = self.output / name
        if not self.recipe.score.sets or (folder / "scores.json").is_file():
            return
        self._save(folder / "model", embedder, self._config(name, stage, {}))
        write_text(folder / "scores.json", json.dumps({"ndcg@10": self._retrieval(folder / "model")}))

    def _earlier(self, parent: StageConfig | None) -> list[dict[str, Any]]:
        if parent is None:
            return []
        manifest = read_model_config(self.output / parent.name / "model").manifest
        own = {k: manifest[k] for k in ("stage", "objective", "training", "data")}
        return [*manifest["earlier"], own]

    def dims(self, stage: StageConfig) -> tuple[int, ...]:
        """Matryoshka widths of a pair stage, the hidden size always among them."""
        hidden = self.base.hidden_size
        return tuple(sorted({*(d for d in (stage.dims or DEFAULT_DIMS) if d < hidden), hidden}))

    def _config(self, name: str, stage: StageConfig | None, manifest: dict[str, Any]) -> ModelConfig:
        base, pair = self.base, [s for s in self.recipe.stage if s.kind == "pair"]
        trained = bool(pair) and manifest.get("stage") in {s.name for s in pair}
        return ModelConfig(
            name=name,
            dims=self.dims(pair[-1]) if trained else (base.hidden_size,),
            max_tokens=base.max_tokens,
            mask_token_id=base.mask_token_id,
            pad_token_id=base.pad_token_id,
            eot_token_id=base.eot_token_id,
            shift=self.recipe.shift_after(stage, base.shift),
            manifest=manifest,
        )

    def _read_held_out(self, stage: StageConfig) -> HeldOut | None:
        """The held-out text of a stage that models language, on the process that measures."""
        if stage.kind not in PRETRAINING or not self.machine.main:
            return None
        found = read_held_out(
            stage,
            self.base.tokenizer,
            self.data_root,
            eot_token_id=self.base.eot_token_id,
            cache=self.output / "corpus",
        )
        if not found.batches:
            self.report(
                f"{stage.name}: no held-out figures: about one text in fifty is held out, and its sources have too few"
            )
        return found

    def _held_out(self, stage: StageConfig, embedder: Embedder, found: HeldOut | None) -> dict[str, float]:
        if found is None:
            return {}
        embedder.eval()
        with self.machine.autocast():
            return held_out_losses(stage, embedder, found, self.base.mask_token_id)

    def _scores(self, folder: Path, scores: dict[str, Any]) -> None:
        if self.recipe.score.sets:
            scores = scores | {"ndcg@10": self._retrieval(folder / "model")}
        write_text(folder / "scores.json", json.dumps(scores, indent=2))
        for name, values in scores.items():
            self.report(f"{folder.name} {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def _retrieval(self, model: Path) -> dict[str, float]:
        def report(line: str) -> None:
            self.report(f"{model.parent.name}: {line}")

        return retrieval_scores(model, self.data_root, self.recipe.score.sets, report)

    def _export(self, stage: StageConfig, scores: dict[str, dict[str, Any]]) -> None:
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
