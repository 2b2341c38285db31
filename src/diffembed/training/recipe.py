"""Recipes: a training run as one TOML file, read into frozen dataclasses; an unknown key is an error.

A recipe names a tokenizer, a model shape and stages; each stage names its parent (the stage before it by default).
Everything that decides the weights stands here, so the hash of a stage and its parents says what a checkpoint is.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from diffembed.errors import RecipeError
from diffembed.objectives.denoising import Weighting
from diffembed.objectives.schedules import Draw, Schedule

StageKind = Literal["causal", "diffusion", "mntp", "pair"]
PRETRAINING: tuple[str, ...] = ("causal", "diffusion", "mntp")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where a run lives, and how it computes. Paths are relative to the recipe's own folder.

    A checkpoint is written every ``save_seconds``, and the last ``keep`` stay. ``parallel`` says how processes that
    ``torchrun`` started share the model: whole copies (``ddp``) or shards (``fsdp2``).
    """

    name: str
    output: str
    data_root: str
    seed: int = 0
    threads: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    save_seconds: float = 300.0
    log_every: int = 10
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
    ``objectives/denoising.py``; ``truncate_share`` of the sequences are cut to a random length; ``shuffle_share`` of
    the readable tokens are permuted within ``shuffle_window`` and predicted too. ``alignment_weight`` times one minus
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
    shift: bool = True
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

    def fingerprint(self, stage: StageConfig) -> str:
        """Hash of everything that decides this stage's weights: tokenizer, shape, seed, it and its parents.

        Only what differs from the defaults counts, so that a new option does not disown the checkpoints before it.
        """
        chain: list[Any] = []
        current: StageConfig | None = stage
        while current is not None:
            chain.append(_chosen(current))
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
    recipe: Recipe = _build(Recipe, data, f"{path}", "")
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


def _build(cls: Any, data: Any, path: str, where: str) -> Any:
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: [{where}] must be a table")
    hints = typing.get_type_hints(cls)
    names = {f.name: f for f in fields(cls)}
    place = f"[{where}]" if where else "the recipe"
    if unknown := sorted(set(data) - set(names)):
        raise RecipeError(f"{path}: unknown key '{unknown[0]}' in {place}; known: {', '.join(sorted(names))}")
    absent = [n for n, f in names.items() if n not in data and f.default is MISSING and f.default_factory is MISSING]
    if absent:
        raise RecipeError(f"{path}: {place} lacks '{absent[0]}'")
    return cls(**{n: _value(hints[n], v, path, f"{where}.{n}" if where else n) for n, v in data.items()})


def _value(hint: Any, value: Any, path: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        hint = _one_of(arguments, value)
    if is_dataclass(hint):
        return _build(hint, value, path, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{path}: '{where}' must be a list")
        return tuple(_value(arguments[0], v, path, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{path}: '{where}' must be a table")
        return {n: _value(arguments[1], v, path, f"{where}.{n}") for n, v in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{path}: '{where}' is {value!r}; expected one of {', '.join(map(repr, arguments))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise RecipeError(f"{path}: '{where}' is {value!r}; expected {getattr(hint, '__name__', hint)}")
    return value


def _one_of(hints: tuple[Any, ...], value: Any) -> Any:
    """Which of several types a value is meant for: the table whose keys fit best, else the first plain type it has."""
    tables = [h for h in hints if is_dataclass(h)]
    if tables and isinstance(value, dict):
        return max(tables, key=lambda h: len({f.name for f in fields(h)} & set(value)))
    if value is None or tables:
        return tables[0] if tables else hints[0]
    return next((h for h in hints if isinstance(value, h) and not isinstance(value, bool)), hints[0])


def _check(recipe: Recipe, path: str) -> None:
    if isinstance(recipe.model, Converted) != (recipe.tokenizer is None):
        raise RecipeError(
            f"{path}: [tokenizer] belongs to a model given by its shape and nowhere else: a checkpoint brings its own"
        )
    if recipe.run.keep < 1:
        raise RecipeError(f"{path}: [run] keep is {recipe.run.keep}; at least the last checkpoint must be kept")
    names = [s.name for s in recipe.stage]
    if not names or len(set(names)) != len(names):
        raise RecipeError(f"{path}: stages need names of their own, and there must be at least one; found {names}")
    wanted = {"causal": {"text"}, "diffusion": {"text"}, "mntp": {"text"}, "pair": {"pairs", "spans"}}
    for at, stage in enumerate(recipe.stage):
        if stage.parent and stage.parent not in names[:at]:
            raise RecipeError(
                f"{path}: stage '{stage.name}' names parent '{stage.parent}', which is not an earlier stage"
            )
        if (
            min(stage.steps, stage.batch, stage.micro_tokens, stage.sequence_tokens) < 1
            or min(stage.lr, stage.layer_lr) <= 0
        ):
            raise RecipeError(f"{path}: stage '{stage.name}' needs steps, batch, tokens and lr above 0")
        for source in stage.source:
            if source.kind not in wanted[stage.kind]:
                raise RecipeError(
                    f"{path}: stage '{stage.name}' ({stage.kind}) cannot read source '{source.name}' of kind "
                    f"'{source.kind}'; expected {' or '.join(sorted(wanted[stage.kind]))}"
                )
        _check_data(stage, path)
        _check_objective(recipe, stage, path)
        if stage.lexical_start and stage.kind != "pair":
            raise RecipeError(f"{path}: stage '{stage.name}' is {stage.kind}; lexical_start is for pair stages")
        if not stage.source or any(s.weight <= 0 for s in stage.source):
            raise RecipeError(f"{path}: stage '{stage.name}' needs sources with weights above 0")
        if isinstance(recipe.model, ModelShape):
            check_dims(stage, recipe.model.hidden_size)
        if (stage.lora_targets or stage.lora_alpha) and not stage.lora_rank:
            raise RecipeError(f"{path}: stage '{stage.name}' has lora_targets or lora_alpha but no lora_rank; set it")


def check_dims(stage: StageConfig, hidden_size: int) -> None:
    """Refuse widths that a model cannot be cut to."""
    if bad := [d for d in stage.dims if not 0 < d <= hidden_size or d % 8]:
        raise RecipeError(
            f"stage '{stage.name}' has dims {bad[0]}; widths are multiples of 8 up to hidden_size {hidden_size}"
        )


def _check_data(stage: StageConfig, path: str) -> None:
    if stage.windows == "all" and stage.kind == "pair":
        raise RecipeError(f"{path}: stage '{stage.name}' is pair; windows is for stages that model language")
    for source in stage.source:
        where = f"{path}: source '{source.name}' of stage '{stage.name}'"
        if source.languages and source.kind == "pairs":
            raise RecipeError(f"{where} is of kind 'pairs'; languages are for text and spans")
        if any(weight <= 0 for weight in source.languages.values()) or source.shuffle_megabytes < 1:
            raise RecipeError(f"{where} needs languages with weights above 0 and shuffle_megabytes of at least 1")
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
    if not (0 <= stage.truncate_share <= 1 and 0 <= stage.shuffle_share <= 1 and 0 < stage.mask_rate < 1):
        raise RecipeError(f"{where}: truncate_share and shuffle_share lie in 0 to 1, mask_rate between 0 and 1")
    if stage.shuffle_window < 2:
        raise RecipeError(f"{where} has shuffle_window {stage.shuffle_window}; 2 tokens are the fewest to permute")
    if not stage.alignment_weight:
        return
    parent = recipe.parent_of(stage)
    causal = parent.kind == "causal" if parent else isinstance(recipe.model, Converted)
    if stage.alignment_weight < 0 or stage.kind not in ("diffusion", "mntp") or not causal:
        raise RecipeError(
            f"{where} has alignment_weight {stage.alignment_weight}; it must not be negative, and is for diffusion and "
            "mntp stages whose parent is a causal stage or a checkpoint"
        )
