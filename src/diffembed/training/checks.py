"""What a recipe may not say: combinations of keys that no run could mean, each refused with its place and a way out."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from diffembed.errors import RecipeError
from diffembed.training.configs import (
    BEGINNING,
    CONTRASTIVE,
    PRETRAINING,
    Converted,
    MineConfig,
    ModelShape,
    SourceConfig,
    StageConfig,
    StageKind,
)
from diffembed.training.ranges import CHECKPOINT, MERGE, MINE, RUN, SHAPE, SOURCE, STAGE, check_ranges

if TYPE_CHECKING:
    from diffembed.training.recipe import Recipe

_SOURCES = {
    **dict.fromkeys(PRETRAINING, ("text",)),
    "pair": ("pairs", "rows", "spans"),
    "triplet": ("pairs", "rows"),
    "contextual": ("groups", "rows", "sections"),
}
_ONLY_FOR: dict[tuple[str, ...], tuple[str, ...]] = {
    ("diffusion",): ("schedule", "weighting", "draw", "truncate_share", "shuffle_share", "shuffle_window"),
    ("mntp",): ("mask_rate", "mask_style"),
    ("pair",): ("lexical_start",),
    ("contextual",): ("alpha", "beta", "gold"),
    ("triplet",): ("negatives", "mine"),
    ("merge",): ("parents", "method", "sweep"),
    CONTRASTIVE: (
        *("temperature", "margin", "query_negatives", "similarity", "quantize", "binary_weight", "memory_tokens"),
        *("teacher", "distill", "distill_weight", "teacher_temperature"),
        *("pooling", "attention"),
    ),
}
_ASKED = ("instruction", "instruction_format")
_SOURCE_ONLY_FOR = {
    "groups": ("questions", "chunk_tokens", "split_by", *_ASKED),
    "sections": ("questions", "chunk_tokens", *_ASKED),
    "rows": ("questions", "chunk_tokens", "bad_rows", *_ASKED),
    "spans": ("remove_span",),
    "pairs": ("split_by", *_ASKED),
}


def check_recipe(recipe: Recipe, path: str) -> None:
    """Refuse what cannot be meant.

    Raises:
        RecipeError: names ``path``, the table and the key.
    """
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
    for at, stage in enumerate(recipe.stage):
        for parent in (*stage.parents, *({stage.parent} - {"", BEGINNING})):
            if parent not in names[:at]:
                raise RecipeError(
                    f"{path}: stage '{stage.name}' names parent '{parent}', which is not an earlier stage"
                )
        _check_keys(stage, path)
        if stage.kind == "merge":
            _check_merge(recipe, stage, path)
        else:
            _check_training(recipe, stage, path)


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


def keys_for_others(kind: StageKind) -> list[str]:
    """The keys that only stages of other kinds have.

    >>> "mask_rate" in keys_for_others("diffusion"), "mask_rate" in keys_for_others("mntp")
    (True, False)
    """
    return [name for kinds, names in _ONLY_FOR.items() if kind not in kinds for name in names]


def _check_keys(stage: StageConfig, path: str) -> None:
    """Keys that other kinds of stages have."""
    usual = {f.name: f.default for f in fields(StageConfig)}
    for kinds, names in _ONLY_FOR.items():
        if stage.kind not in kinds and (given := [n for n in names if getattr(stage, n) != usual[n]]):
            raise RecipeError(
                f"{path}: stage '{stage.name}' is {stage.kind}; {given[0]} is for {' and '.join(kinds)} stages"
            )


def _check_merge(recipe: Recipe, stage: StageConfig, path: str) -> None:
    where = f"{path}: stage '{stage.name}' (merge)"
    usual = {f.name: f.default for f in fields(StageConfig)}
    own = {"name", "kind", "parents", "method", "sweep"}
    if given := [n for n, value in usual.items() if n not in own and getattr(stage, n) != value]:
        raise RecipeError(f"{where} has {given[0]}; a merge has no data and no steps, only {', '.join(sorted(own))}")
    if len(set(stage.parents)) < 2 or len(set(stage.parents)) != len(stage.parents):
        raise RecipeError(f"{where} has parents {list(stage.parents)}; name two or more different stages")
    if causal := [parent.name for parent in recipe.parents_of(stage) if parent.kind == "causal"]:
        raise RecipeError(f"{where} has parent '{causal[0]}', which is causal; merge models that read both ways")
    if stage.method != "soup" and len(stage.parents) != 2:
        raise RecipeError(f"{where}: {stage.method} is between two parents, not {len(stage.parents)}; use soup")
    if stage.method == "soup" and stage.sweep != usual["sweep"]:
        raise RecipeError(f"{where}: a soup is the mean of its parents; sweep is for slerp and linear")
    check_ranges(stage, MERGE, where)
    if len(stage.sweep) > 1 and not (recipe.score.sets or recipe.score.contextual or recipe.score.sections):
        raise RecipeError(f"{where} chooses among {len(stage.sweep)} shares by score; give [score] sets to score on")


def _check_training(recipe: Recipe, stage: StageConfig, path: str) -> None:
    where = f"{path}: stage '{stage.name}'"
    check_ranges(stage, STAGE, where)
    for source in stage.source:
        _check_source(stage, source, path)
    if stage.mine:
        _check_mining(recipe, stage, stage.mine, where)
    _check_objective(recipe, stage, path)
    if not stage.source:
        raise RecipeError(f"{where} has no source; give it a [[stage.source]]")
    if isinstance(recipe.model, ModelShape):
        check_fit(stage, recipe.model.hidden_size, recipe.model.max_tokens)
    if (stage.lora_targets or stage.lora_alpha or stage.lora_dropout) and not stage.lora_rank:
        raise RecipeError(f"{where} has lora_targets, lora_alpha or lora_dropout but no lora_rank; set it")


def _check_mining(recipe: Recipe, stage: StageConfig, mine: MineConfig, where: str) -> None:
    if not recipe.parents_of(stage):
        raise RecipeError(f"{where} mines with its parent, and has none; put a pair stage before it")
    check_ranges(mine, MINE, f"{where}, [stage.mine]")
    if mine.last < mine.first:
        raise RecipeError(f"{where} mines ranks {mine.first} to {mine.last}; last must not be smaller")
    if all(source.kind != "pairs" for source in stage.source):
        raise RecipeError(f'{where} mines negatives for sources of kind "pairs", and has none; remove [stage.mine]')
    if by := [source.name for source in stage.source if source.kind == "pairs" and source.split_by != "query"]:
        raise RecipeError(
            f"{where} mines source '{by[0]}' by the side of its queries; split_by = \"doc_id\" is not for mining"
        )


def _check_source(stage: StageConfig, source: SourceConfig, path: str) -> None:
    where = f"{path}: source '{source.name}' of stage '{stage.name}'"
    check_ranges(source, SOURCE, where)
    allowed = _SOURCES[stage.kind] + (("pairs",) if stage.kind == "contextual" and not stage.gold else ())
    if source.kind not in allowed:
        raise RecipeError(
            f"{path}: stage '{stage.name}' ({stage.kind}) cannot read source '{source.name}' of kind "
            f"'{source.kind}'; expected {' or '.join(sorted(allowed))}"
        )
    usual = {f.name: f.default for f in fields(SourceConfig)}
    every = {name for names in _SOURCE_ONLY_FOR.values() for name in names}
    for name in sorted(every - set(_SOURCE_ONLY_FOR.get(source.kind, ()))):
        if getattr(source, name) != usual[name] and not (name == "chunk_tokens" and stage.kind == "contextual"):
            raise RecipeError(f"{where} is of kind '{source.kind}'; {name} is for others")
    if source.languages and source.kind in ("pairs", "groups", "sections"):
        raise RecipeError(f"{where} is of kind '{source.kind}'; languages are for text, spans and rows")
    if source.batch and stage.windows == "all":
        raise RecipeError(f'{where} has a batch of its own; with windows = "all" every step mixes all: use weight')
    if source.chunk_tokens and stage.kind != "contextual":
        raise RecipeError(f"{where} has chunk_tokens; only contextual stages read documents as chunks: leave it out")
    if source.chunk_tokens and stage.gold:
        raise RecipeError(
            f"{where} cuts chunks anew (chunk_tokens), so that none is known to answer; set gold = false in the stage"
        )
    if stage.kind == "triplet" and source.kind == "pairs" and not stage.mine:
        raise RecipeError(f"{where} has pairs without negatives; give the stage a [stage.mine], or rows with negatives")
    if source.symmetric and (stage.kind not in ("pair", "triplet") or not source.in_batch):
        raise RecipeError(
            f"{where} is symmetric, which compares documents with all queries of the batch; it is for pair and triplet "
            "stages and needs in_batch"
        )
    if not source.in_batch and stage.kind != "triplet":
        raise RecipeError(
            f"{where} has in_batch = false, but rows of a {stage.kind} stage have no negatives of their own; it is "
            "for triplets"
        )
    if "{query}" not in source.instruction_format or "{instruction}" not in source.instruction_format:
        raise RecipeError(
            f"{where} has instruction_format = {source.instruction_format!r}; it must hold {{instruction}} and "
            "{query}"
        )


def _check_objective(recipe: Recipe, stage: StageConfig, path: str) -> None:
    where = f"{path}: stage '{stage.name}'"
    if stage.windows == "all" and stage.kind in CONTRASTIVE:
        raise RecipeError(f"{where} is {stage.kind}; windows is for stages that model language")
    if stage.kind != "diffusion" and stage.shift is False:
        does = "keeps what its parent predicts" if stage.kind in CONTRASTIVE else "predicts the next token"
        raise RecipeError(f"{where} is {stage.kind} and {does}; shift = false is for diffusion stages, leave it out")
    if stage.similarity == "dot" and stage.kind == "contextual":
        raise RecipeError(
            f'{where} is contextual, which compares by cosine; similarity = "dot" is for pair and triplet'
        )
    if stage.similarity == "dot" and stage.kind in CONTRASTIVE and stage.mask_margin is not None:
        raise RecipeError(
            f'{where} has similarity = "dot" and margin {stage.mask_margin}, which is in cosine units; set margin = inf'
        )
    if stage.kind == "contextual" and stage.query_negatives not in (None, stage.gold):
        raise RecipeError(
            f"{where} is contextual: with gold chunks other queries are negatives too, without them they are not; "
            "leave query_negatives out"
        )
    if stage.kind == "contextual" and not stage.gold:
        usual = {f.name: f.default for f in fields(StageConfig)}
        if given := [name for name in ("alpha", "beta") if getattr(stage, name) != usual[name]]:
            raise RecipeError(f"{where} has gold = false and so no terms to weigh; leave {given[0]} out")
    if stage.distill == "chunks" and stage.teacher and stage.kind != "contextual":
        raise RecipeError(
            f'{where} is {stage.kind}; distill = "chunks" judges the chunks of a document: contextual only'
        )
    if stage.pooling != "mean" and stage.lexical_start:
        raise RecipeError(
            f"{where} has lexical_start, a bag of words that only its mean can show, and pooling = "
            f'"{stage.pooling}"; leave one of them out'
        )
    if stage.pooling != "mean" and any(
        source.chunk_tokens or min(source.query_tokens, source.document_tokens) < 2 for source in stage.source
    ):
        raise RecipeError(
            f'{where} has pooling = "{stage.pooling}", whose token ends every text and chunk: no source can cut chunks '
            "anew (chunk_tokens), and query_tokens and document_tokens must be at least 2"
        )
    usual = {f.name: f.default for f in fields(StageConfig)}
    if stage.kind in CONTRASTIVE and not stage.teacher:
        names = ("distill",) if stage.kind == "contextual" else ("distill", "distill_weight", "teacher_temperature")
        if given := [name for name in names if getattr(stage, name) != usual[name]]:
            raise RecipeError(f"{where} has {given[0]} but no teacher; name a model, or leave it out")
    if not stage.alignment_weight:
        return
    parent = recipe.parent_of(stage)
    causal = parent.kind == "causal" if parent else isinstance(recipe.model, Converted)
    if stage.kind not in ("diffusion", "mntp") or not causal:
        raise RecipeError(
            f"{where} has alignment_weight {stage.alignment_weight}; it is for diffusion and mntp stages whose parent "
            "is a causal stage or a checkpoint"
        )
