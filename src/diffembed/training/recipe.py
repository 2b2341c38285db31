"""Recipes: a training run as one TOML file, read into frozen dataclasses; an unknown key is an error.

A recipe names a tokenizer, a model shape and stages; each stage names its parent (the stage before it by default).
Everything that decides the weights stands here, so the hash of a stage and its parents says what a checkpoint is.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffembed.errors import RecipeError
from diffembed.objectives.denoising import Weighting
from diffembed.objectives.schedules import Draw, Schedule
from diffembed.training.ranges import CHECKPOINT, RUN, SHAPE, SOURCE, STAGE, check_ranges
from diffembed.training.tables import build

StageKind = Literal["causal", "diffusion", "mntp", "pair"]
PRETRAINING: tuple[str, ...] = ("causal", "diffusion", "mntp")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where a run lives, and how it computes. Paths are relative to the recipe's own folder.

    A checkpoint is written every ``save_seconds``, and the last ``keep`` stay. ``parallel`` says how processes that
    ``torchrun`` started share the model: whole copies (``ddp``) or shards (``fsdp2``). Stages that model language are
    measured on held-out text before, after, and every ``held_out_every`` steps (0: only before and after).
    """

    name: str
    output: str
    data_root: str
    seed: int = 0
    threads: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    save_seconds: float = 300.0
    log_every: int = 10
    held_out_every: int = 0
    keep: int = 2
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """A byte-level BPE tokenizer trained on a sample of the corpus."""

    vocab_size: int
    paths: tuple[str, ...]
    max_characters: int = 40_000_000
    lowercase: bool = True


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Qwen3-shaped decoder."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    max_tokens: int = 2048
    rope_theta: float = 10_000.0


@dataclass(frozen=True, slots=True)
class Converted:
    """A released checkpoint to go on from, in place of a shape: a directory (relative to the recipe) or a hub id.

    ``mask_token`` is the token (or its id) that becomes the mask, where the checkpoint has none of its own; without it
    a rare one is chosen. ``max_tokens`` 0: as many positions as the checkpoint has. ``allow_unproven`` admits families
    that are not among the tested ones, if they pass the probe.
    """

    checkpoint: str
    mask_token: int | str = ""
    max_tokens: int = 0
    allow_unproven: bool = False


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One source of a stage.

    ``text``: documents (JSONL files, or the corpora of BEIR folders). ``pairs``: judged pairs of BEIR folders, train
    split. ``spans``: pairs cut out of one document: a short span of a window against the window, from which the span
    is taken out with probability ``remove_span``.

    Texts are read in blocks of ``shuffle_megabytes``: what fits is permuted as a whole. ``languages`` weighs the texts
    by their ``lang``; texts of languages that are not named are left out.
    """

    name: str
    paths: tuple[str, ...]
    kind: Literal["text", "pairs", "spans"] = "text"
    weight: float = 1.0
    query_tokens: int = 64
    document_tokens: int = 192
    batch: int = 0
    remove_span: float = 0.5
    languages: dict[str, float] = field(default_factory=dict)
    shuffle_megabytes: int = 256


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage: an objective, its data, its optimiser.

    ``batch`` counts tokens for ``causal`` and ``diffusion`` and pairs for ``pair``; a source may ask for another.
    ``micro_tokens`` bounds the tokens of one forward pass. ``lexical_start`` begins a pair stage from a weighted bag of
    words (``models/lexical.py``); ``layer_lr`` is the rate of everything but the token table, as a share of ``lr``: the
    damped layers of such a start would otherwise outgrow the table within a few steps. ``binary_weight`` times the pair
    loss of the sign vectors is added to that of the INT8 vectors.

    ``windows`` of a language-model stage: ``random`` takes one source a step and one window at a random place of each
    text; ``all`` takes every window of every document, from all sources in every step.

    The objective of a ``diffusion`` stage: ``schedule``, ``weighting``, ``draw`` and ``shift`` as in
    ``objectives/denoising.py``, ``shift`` by default as what the stage starts from has it (``Recipe.with_shift``);
    ``truncate_share`` of the sequences are cut to a random length; ``shuffle_share`` of the readable tokens are
    permuted within ``shuffle_window`` and predicted too. ``alignment_weight`` times one minus
    the cosine to the states of the frozen autoregressive parent is added (``mntp`` too). An ``mntp`` stage masks a
    share ``mask_rate`` in ``mask_style``.

    ``gradient_checkpointing`` keeps no activations inside the layers and computes them again on the way back.
    ``lora_rank`` above 0: only low-rank additions to the layers ``lora_targets`` (every linear one by default) learn,
    scaled by ``lora_alpha`` (twice the rank by default) over the rank; they are merged at the end of the stage.
    """

    name: str
    kind: StageKind
    steps: int
    batch: int
    lr: float
    source: tuple[SourceConfig, ...]
    parent: str = ""
    sequence_tokens: int = 256
    micro_tokens: int = 8192
    warmup: int = 20
    decay_share: float = 0.3
    weight_decay: float = 0.01
    clip: float = 1.0
    betas: tuple[float, ...] = (0.9, 0.98)
    shift: bool | None = None
    temperature: float = 0.02
    margin: float = 0.1
    dims: tuple[int, ...] = ()
    lexical_start: bool = False
    layer_lr: float = 1.0
    binary_weight: float = 0.0
    windows: Literal["random", "all"] = "random"
    schedule: Schedule = "linear"
    weighting: Weighting = "elbo"
    draw: Draw = "uniform"
    truncate_share: float = 0.0
    shuffle_share: float = 0.0
    shuffle_window: int = 8
    alignment_weight: float = 0.0
    mask_rate: float = 0.2
    mask_style: Literal["bert", "all"] = "bert"
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    lora_alpha: float = 0.0
    lora_targets: tuple[str, ...] = ()

    @property
    def predicts_next(self) -> bool:
        """Whether a state predicts the next token; where ``shift`` is open, it does, as after a causal parent."""
        return self.kind != "diffusion" or self.shift is not False


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """Development sets that the run scores after every stage (nDCG@10, int8, dev split)."""

    sets: tuple[str, ...] = ()
    untrained: bool = True


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Where the finished model goes, and in which form."""

    into: str = ""
    dtype: Literal["float32", "float16"] = "float32"
    fp32_onnx: bool = True


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run."""

    run: RunConfig
    model: ModelShape | Converted
    stage: tuple[StageConfig, ...]
    tokenizer: TokenizerConfig | None = None
    score: ScoreConfig = ScoreConfig()
    export: ExportConfig = ExportConfig()

    def parent_of(self, stage: StageConfig) -> StageConfig | None:
        """The stage whose weights this one starts from; ``None``: fresh weights."""
        names = [s.name for s in self.stage]
        if stage.parent:
            return self.stage[names.index(stage.parent)]
        at = names.index(stage.name)
        return self.stage[at - 1] if at else None

    def shift_after(self, stage: StageConfig | None, base: bool) -> bool:
        """Whether a state of the model that ``stage`` leaves predicts the next token.

        Args:
            stage: ``None``: before the first.
            base: whether a state of the model does so that the recipe begins with.
        """
        if stage is None:
            return base
        if stage.kind == "pair" or (stage.kind == "diffusion" and stage.shift is None):
            return self.shift_after(self.parent_of(stage), base)
        return stage.predicts_next

    def with_shift(self, base: bool) -> Recipe:
        """The recipe with the ``shift`` of every diffusion stage settled: as given, else as its parent has it."""
        settled = [replace(s, shift=self.shift_after(s, base)) if s.kind == "diffusion" else s for s in self.stage]
        return replace(self, stage=tuple(settled))

    def fingerprint(self, stage: StageConfig) -> str:
        """Hash of everything that decides this stage's weights: tokenizer, shape, seed, it and its parents.

        Only what differs from the defaults counts, so that a new option does not disown the checkpoints before it.
        For the same reason a ``shift`` that is true counts as one that is not given: true was once the default.
        """
        chain: list[Any] = []
        current: StageConfig | None = stage
        while current is not None:
            chain.append(_chosen(replace(current, shift=None) if current.shift else current))
            current = self.parent_of(current)
        decides = [self.run.seed, self.run.data_root, _chosen(self.tokenizer), _chosen(self.model), chain]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: no such file, not TOML, a key unknown or missing, a value of the wrong type or out of range.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"recipe {path} does not exist; runs/ holds the ones that come with diffembed") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} is not a readable TOML file: {error}") from None
    recipe: Recipe = build(Recipe, data, f"{path}")
    _check(recipe, str(path))
    return recipe


def _chosen(config: Any) -> Any:
    if isinstance(config, tuple):
        return [_chosen(c) for c in config]
    if not is_dataclass(config):
        return config
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    usual = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(config)}
    return {name: _chosen(value) for name, value in values.items() if value != usual[name]}


def _check(recipe: Recipe, path: str) -> None:
    if isinstance(recipe.model, Converted) != (recipe.tokenizer is None):
        raise RecipeError(
            f"{path}: [tokenizer] belongs to a model given by its shape and nowhere else: a checkpoint brings its own"
        )
    check_ranges(recipe.run, RUN, f"{path}: [run]")
    check_ranges(recipe.model, SHAPE if isinstance(recipe.model, ModelShape) else CHECKPOINT, f"{path}: [model]")
    if recipe.run.held_out_every and recipe.run.parallel == "fsdp2":
        raise RecipeError(
            f'{path}: [run] held_out_every needs whole weights; with parallel = "fsdp2" they are shards until the '
            "stage ends: set it to 0, or use ddp"
        )
    names = [s.name for s in recipe.stage]
    if not names or len(set(names)) != len(names):
        raise RecipeError(f"{path}: stages need names of their own, and there must be at least one; found {names}")
    wanted = {"causal": {"text"}, "diffusion": {"text"}, "mntp": {"text"}, "pair": {"pairs", "spans"}}
    for at, stage in enumerate(recipe.stage):
        if stage.parent and stage.parent not in names[:at]:
            raise RecipeError(
                f"{path}: stage '{stage.name}' names parent '{stage.parent}', which is not an earlier stage"
            )
        where = f"{path}: stage '{stage.name}'"
        check_ranges(stage, STAGE, where)
        for source in stage.source:
            check_ranges(source, SOURCE, f"{path}: source '{source.name}' of stage '{stage.name}'")
            if source.kind not in wanted[stage.kind]:
                raise RecipeError(
                    f"{where} ({stage.kind}) cannot read source '{source.name}' of kind "
                    f"'{source.kind}'; expected {' or '.join(sorted(wanted[stage.kind]))}"
                )
        _check_data(stage, path)
        _check_objective(recipe, stage, path)
        if stage.lexical_start and stage.kind != "pair":
            raise RecipeError(f"{where} is {stage.kind}; lexical_start is for pair stages")
        if not stage.source:
            raise RecipeError(f"{where} has no source; give it a [[stage.source]]")
        if isinstance(recipe.model, ModelShape):
            check_fit(stage, recipe.model.hidden_size, recipe.model.max_tokens)
        if (stage.lora_targets or stage.lora_alpha) and not stage.lora_rank:
            raise RecipeError(f"{where} has lora_targets or lora_alpha but no lora_rank; set it")


def check_fit(stage: StageConfig, hidden_size: int, max_tokens: int) -> None:
    """Refuse widths that a model cannot be cut to, and sequences longer than it reads."""
    if bad := [d for d in stage.dims if not 0 < d <= hidden_size or d % 8]:
        raise RecipeError(
            f"stage '{stage.name}' has dims {bad[0]}; widths are multiples of 8 up to hidden_size {hidden_size}"
        )
    if stage.kind in PRETRAINING and stage.sequence_tokens > max_tokens:
        raise RecipeError(
            f"stage '{stage.name}' has sequence_tokens = {stage.sequence_tokens}; the model reads max_tokens "
            f"{max_tokens}: give no more than that"
        )


def _check_data(stage: StageConfig, path: str) -> None:
    if stage.windows == "all" and stage.kind == "pair":
        raise RecipeError(f"{path}: stage '{stage.name}' is pair; windows is for stages that model language")
    for source in stage.source:
        where = f"{path}: source '{source.name}' of stage '{stage.name}'"
        if source.languages and source.kind == "pairs":
            raise RecipeError(f"{where} is of kind 'pairs'; languages are for text and spans")
        if source.batch and stage.windows == "all":
            raise RecipeError(f'{where} has a batch of its own; with windows = "all" every step mixes all: use weight')


_ONLY_FOR = {
    "diffusion": ("schedule", "weighting", "draw", "truncate_share", "shuffle_share", "shuffle_window"),
    "mntp": ("mask_rate", "mask_style"),
}


def _check_objective(recipe: Recipe, stage: StageConfig, path: str) -> None:
    usual = {f.name: f.default for f in fields(StageConfig)}
    where = f"{path}: stage '{stage.name}'"
    for kind, names in _ONLY_FOR.items():
        if stage.kind != kind and (given := [n for n in names if getattr(stage, n) != usual[n]]):
            raise RecipeError(f"{where} is {stage.kind}; {given[0]} is for {kind} stages")
    if stage.kind != "diffusion" and stage.shift is False:
        does = "keeps what its parent predicts" if stage.kind == "pair" else "predicts the next token"
        raise RecipeError(f"{where} is {stage.kind} and {does}; shift = false is for diffusion stages, leave it out")
    if not stage.alignment_weight:
        return
    parent = recipe.parent_of(stage)
    causal = parent.kind == "causal" if parent else isinstance(recipe.model, Converted)
    if stage.kind not in ("diffusion", "mntp") or not causal:
        raise RecipeError(
            f"{where} has alignment_weight {stage.alignment_weight}; it is for diffusion and mntp stages whose parent "
            "is a causal stage or a checkpoint"
        )
