"""Run a recipe: tokenizer, stages, scores, export. What is complete is skipped, what was cut short goes on.

OUTPUT/tokenizer.json
OUTPUT/STAGE/state/       what a killed run goes on from; removed when the stage is complete
OUTPUT/STAGE/log.jsonl    loss, gradient norm, rate, tokens/s by step; held-out losses every held_out_every steps
OUTPUT/STAGE/negatives/   hard negatives that the stage mined, a file a source, with a report beside each
OUTPUT/STAGE/model/       a model directory: written whole when the stage is complete
OUTPUT/STAGE/scores.json  held-out losses and nDCG@10 before and after
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffembed.errors import RecipeError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import set_causal
from diffembed.models.checkpoint import load_backbone, read_model_config
from diffembed.models.embedder import Embedder
from diffembed.models.lexical import lexical_start
from diffembed.models.pretrained import load_pretrained
from diffembed.training.adapters import add_adapters, merge_adapters
from diffembed.training.base import first_model, settle_base
from diffembed.training.batches import TextData
from diffembed.training.checks import check_fit
from diffembed.training.configs import CONTRASTIVE, PRETRAINING, StageConfig
from diffembed.training.contrastive_data import ContrastiveData
from diffembed.training.heldout import HeldOut, held_out_losses, read_held_out
from diffembed.training.lm import frozen_parent
from diffembed.training.loop import STATE, Progress, Step, recompute_activations, train
from diffembed.training.machine import probe_as_trained, settle_machine
from diffembed.training.merge_stage import merge_stage
from diffembed.training.mined import with_mined_negatives
from diffembed.training.plans import contrastive_plan, language_plan
from diffembed.training.products import Products, machine_facts
from diffembed.training.recipe import Recipe, read_recipe
from diffembed.training.state import Report, clear_state, last_state, load_weights
from diffembed.training.teacher import Teacher
from diffembed.training.throughput import peak_rate, step_cost


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
    recipe = read_recipe(path)
    stages = [s for s in recipe.stage if kinds is None or s.kind in kinds]
    if not stages:
        raise RecipeError(f"the recipe has no stage of kind {' or '.join(kinds or ())}; use diffembed train")
    return _Run(recipe, path.resolve().parent, report, watch).run(stages, resume=resume, export=kinds is None)


def run_stages(
    recipe: Recipe,
    folder: Path,
    names: Sequence[str],
    *,
    command: str,
    until: float = math.inf,
    report: Report = _stderr,
    watch: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Run some stages of a recipe that need not be a file; nothing is exported.

    Args:
        recipe: checked (``check_recipe``).
        folder: where its relative paths start.
        names: of the stages, parents before children; those before them must be complete.
        command: that began all this, for the manifests.
        until: ``time.monotonic()`` at which to stop.
        report, watch: as of :func:`run_recipe`.

    Raises:
        UnfinishedError: it was ``until``, and the checkpoint is written. Else as :func:`run_recipe`.
    """
    stages = [s for s in recipe.stage if s.name in names]
    return _Run(recipe, folder, report, watch, until, command).run(stages, resume=True, export=False)


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        report: Report,
        watch: Callable[[Progress], None] | None,
        until: float = math.inf,
        command: str = "",
    ) -> None:
        self.recipe, self.folder, self.report, self.watch, self.until = recipe, folder, report, watch, until
        self.command = command or f"diffembed train runs/{recipe.run.name}.toml"
        self.output = (folder / recipe.run.output).resolve()
        self.data_root = (folder / recipe.run.data_root).resolve()
        self.into = (folder / recipe.export.into).resolve() if recipe.export.into else self.output / "final"
        if not self.data_root.is_dir():
            raise RecipeError(f"data_root {self.data_root} is not a folder; correct it in the recipe")

    def run(self, stages: list[StageConfig], *, resume: bool, export: bool) -> RunReport:
        self.machine = settle_machine(self.recipe.run)
        if not self.machine.main:
            self.report = lambda _: None
        with self.machine.main_first():  # the others find what rank 0 wrote
            again = not resume and self.machine.main
            self.base = settle_base(
                self.recipe, self.folder, self.data_root, self.output, resume=not again, report=self.report
            )
        self.recipe = self.recipe.with_shift(self.base.shift)
        stages = [s for s in self.recipe.stage if s.name in {x.name for x in stages}]
        for stage in stages:
            check_fit(stage, self.base.hidden_size, self.base.max_tokens)
        self.products = Products(
            self.recipe, self.base, self.folder, self.output, self.into, self.data_root, self.report, self.command
        )
        if self.machine.main:
            self.products.score_untrained()
        for stage in stages:
            self._stage(stage, resume)
        scores = self.products.all_scores(stages)
        model = self.output / stages[-1].name / "model"
        if export:
            if self.machine.main:
                self.products.export(stages[-1], scores)
            self.machine.wait()
            model = self.into
        return RunReport(str(model), scores)

    def _stage(self, stage: StageConfig, resume: bool) -> None:
        folder, machine = self.output / stage.name, self.machine
        if not resume and machine.main:
            clear_state(folder)
        machine.wait()
        if self._complete(stage):
            self.report(f"{stage.name}: complete, skipped")
            if machine.main and not (folder / "scores.json").is_file():
                self.products.scores(folder, {})
            machine.wait()
            return
        if stage.kind == "merge":
            if machine.main:
                self._need_parents(stage)
                sweep = merge_stage(stage, self.products)
                self.products.scores(folder, {"sweep": sweep} if sweep else {})
            machine.wait()
            return
        embedder = self._start(stage)
        self._report_shift(stage)
        probe_as_trained(embedder.backbone, machine, causal=stage.causal)
        with machine.main_first():  # rank 0 mines and counts, the others read what it wrote
            data = self._data(stage)
        if stage.lexical_start:
            assert isinstance(data, ContrastiveData)  # the recipe was checked
            lexical_start(embedder.backbone, data.token_counts())
            if machine.main:
                self.products.score_start(stage, embedder)
        held_out = self._read_held_out(stage)
        before = self._held_out(stage, embedder, held_out)
        frozen = frozen_parent(embedder) if stage.alignment_weight else None
        tuner = add_adapters(embedder, stage, self.recipe.run.seed) if stage.lora_rank else None
        if stage.gradient_checkpointing:
            recompute_activations(embedder.backbone, True)
        cost = step_cost(embedder, causal=stage.causal)
        plan: Callable[[int], Step]
        if isinstance(data, ContrastiveData):
            teacher = Teacher(self._teacher(stage), self.base.tokenizer) if stage.teacher else None
            plan = contrastive_plan(
                stage, data, dims=self.products.dims(stage), machine=machine, cost=cost, teacher=teacher
            )
        else:
            mask = self.base.mask_token_id
            plan = language_plan(stage, data, mask_token_id=mask, machine=machine, cost=cost, teacher=frozen)
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
            until=self.until,
        )
        if machine.main:
            self._finish(stage, embedder, tuner, data, facts, held_out, before)
        machine.wait()

    def _data(self, stage: StageConfig) -> TextData | ContrastiveData:
        base, seed, cache = self.base, self.recipe.run.seed, self.output / "corpus"
        if stage.kind in PRETRAINING:
            return TextData(
                stage,
                base.tokenizer,
                self.data_root,
                seed,
                eot_token_id=base.eot_token_id,
                cache=cache,
                report=self.report,
            )
        if stage.mine:
            self._need_parents(stage)
            stage = with_mined_negatives(
                stage,
                self.output / self.recipe.parents_of(stage)[0].name / "model",
                self.data_root,
                self.output / stage.name,
                seed,
                mine=self.machine.main,
                report=self.report,
            )
        return ContrastiveData(
            stage,
            base.tokenizer,
            self.data_root,
            seed,
            end_token_id=base.eot_token_id,
            mask_token_id=base.mask_token_id,
            max_tokens=base.max_tokens,
            cache=cache,
            report=self.report,
        )

    def _teacher(self, stage: StageConfig) -> str:
        """A directory beside the recipe where there is one, else as given."""
        local = self.folder / stage.teacher
        return str(local) if local.is_dir() else stage.teacher

    def _need_parents(self, stage: StageConfig) -> None:
        for parent in self.recipe.parents_of(stage):
            if not (self.output / parent.name / "model").is_dir():
                raise RecipeError(f"stage '{stage.name}' needs '{parent.name}', which is not complete: run it")

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
        elif stage.kind in CONTRASTIVE:
            self._need_parents(stage)
            embedder = Embedder(load_backbone(self.output / parent.name / "model", attn_implementation=PACKED))
        else:
            self._need_parents(stage)
            loaded = load_pretrained(self.output / parent.name / "model")
            embedder = Embedder(loaded.model, loaded.head)
        if stage.kind in CONTRASTIVE:
            embedder.head = None  # nothing is predicted: an output matrix of its own would learn nothing
        embedder.pooling = stage.pooling
        set_causal(embedder.backbone, stage.causal)
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
        data: TextData | ContrastiveData,
        facts: dict[str, Any],
        held_out: HeldOut | None,
        before: dict[str, float],
    ) -> None:
        """Whole weights again, measured and saved as a model directory; then the checkpoints may go."""
        folder, machine = self.output / stage.name, self.machine
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
        sources = {
            s.name: {"paths": list(s.paths), "rows": len(r)} for s, r in zip(stage.source, data.sources, strict=True)
        }
        manifest = self.products.manifest(stage, facts | machine_facts(machine), sources)
        config = self.products.config(f"{self.recipe.run.name}-{stage.name}", stage, manifest)
        self.products.save(folder / "model", embedder, config)
        self.products.scores(folder, {"held_out_before": before, "held_out_after": after} if before else {})
        clear_state(folder / STATE)

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
