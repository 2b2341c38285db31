"""A dry run: what a recipe would take, worked out without reading data and without weights.

The model is built on torch's meta device, from its shape or its checkpoint's ``config.json``: parameters are counted,
not guessed. Tokens follow from the recipe: exactly where a stage models language (short texts aside), as the most its
limits allow where it compares texts. Operations are those of ``throughput.py``, memory that of ``estimate_memory.py``;
hours are the operations over an assumed share of an accelerator's rate. Every check that a run makes before its first
step is made here too, save those that need the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedModel

from diffembed.errors import ModelError, RecipeError
from diffembed.models.backbone import build_qwen3, token_embedding
from diffembed.models.checkpoint import CONFIG_FILE, HEAD_FILE, read_json
from diffembed.models.embedder import Embedder
from diffembed.models.families import opened, require_family
from diffembed.models.released import layout_of
from diffembed.objectives.schedules import mask_rate
from diffembed.text.batching import IntArray
from diffembed.training.adapters import add_adapters
from diffembed.training.checks import check_fit
from diffembed.training.configs import PRETRAINING, Converted, ModelShape, SourceConfig, StageConfig
from diffembed.training.estimate_memory import Memory, learned, stage_memory
from diffembed.training.estimate_report import GpuEstimate, Parameters, RecipeEstimate, StageEstimate
from diffembed.training.estimate_tables import CONFIGS, GPUS, MFU, Gpu
from diffembed.training.products import DEFAULT_DIMS
from diffembed.training.recipe import Recipe, read_recipe
from diffembed.training.throughput import step_cost

_Floats = npt.NDArray[np.float64]

CHUNK_TOKENS = 64  # of a chunk, where only the length of its document is known: for the number of vectors
_FLOAT = 4  # bytes of a weight
_CHECKPOINT = 12  # bytes a weight that learns: itself and two moments


def estimate_recipe(path: Path, *, kinds: tuple[str, ...] | None = None) -> RecipeEstimate:
    """A dry run of the recipe at ``path``.

    Args:
        kinds: only stages of these kinds.

    Raises:
        RecipeError: what ``read_recipe`` refuses; widths or lengths that the model does not have; a hub id whose shape
            is not known here.
        ModelError: a checkpoint directory without a usable ``config.json``.
    """
    path = Path(path)
    recipe = read_recipe(path)
    stages = [s for s in recipe.stage if kinds is None or s.kind in kinds]
    if not stages:
        raise RecipeError(f"the recipe has no stage of kind {' or '.join(kinds or ())}; use diffembed train")
    return estimate_stages(recipe, path.resolve().parent, stages)


def estimate_stages(recipe: Recipe, folder: Path, stages: Sequence[StageConfig]) -> RecipeEstimate:
    """A dry run of stages of a recipe that need not be a file, nor hold the stages.

    Args:
        folder: where the recipe's relative paths start.

    Raises:
        RecipeError, ModelError: as :func:`estimate_recipe`.
    """
    embedder, label = meta_model(recipe, folder)
    config = embedder.backbone.config
    given = recipe.model.max_tokens
    max_tokens = int(given or config.max_position_embeddings)
    for stage in stages:
        check_fit(stage, config.hidden_size, max_tokens)
    half = recipe.run.precision != "float32"
    head = 0 if embedder.head is None else embedder.head.numel()
    total = sum(p.numel() for p in embedder.parameters())
    found = []
    for stage in stages:
        trained = embedder
        if stage.lora_rank:  # adapters stay in the model that they are put into
            trained, _ = meta_model(recipe, folder)
            with torch.device("meta"):
                add_adapters(trained, stage, recipe.run.seed)
        keep = recipe.run.keep
        found.append(_merge(stage, total) if stage.kind == "merge" else _stage(stage, trained, max_tokens, half, keep))
    parameters = Parameters(total, token_embedding(embedder.backbone).numel(), head)
    precision = "bfloat16" if half else "float32"
    return RecipeEstimate(recipe.run.name, label, parameters, precision, tuple(found), _together(found))


def meta_model(recipe: Recipe, folder: Path) -> tuple[Embedder, str]:
    """The model that a recipe begins with, on the meta device: shapes without weights.

    Args:
        folder: the recipe's own, where relative paths start.

    Returns:
        The model, and where its shape is from.

    Raises:
        RecipeError, ModelError: as ``estimate_recipe``.
    """
    if isinstance(recipe.model, ModelShape):
        assert recipe.tokenizer is not None  # the recipe was checked
        shape = asdict(recipe.model) | {"vocab_size": recipe.tokenizer.vocab_size}
        with torch.device("meta"):
            return Embedder(build_qwen3(**shape, pad_token_id=0, eos_token_id=2, seed=0)), "the recipe's [model]"
    stock, label, own_head = _published(recipe.model, folder)
    layout = layout_of(stock, label)
    require_family(layout.model_type, label, allow_unproven=recipe.model.allow_unproven)
    try:
        config: Any = CONFIG_MAPPING[layout.model_type](**opened(layout.model_type, layout.stock))
        kind: Any = MODEL_MAPPING[type(config)]
        with torch.device("meta"):
            model: PreTrainedModel = kind(config)
            untied = own_head if own_head is not None else not config.tie_word_embeddings
            head = torch.empty(token_embedding(model).shape) if untied else None
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{label} is no {layout.model_type} config: {first}; copy it again") from error
    return Embedder(model, head), label


def _published(model: Converted, folder: Path) -> tuple[dict[str, Any], str, bool | None]:
    """A checkpoint's ``config.json``, where it is from, and whether an output matrix stands beside it (``None``: as the
    config says): of the directory, of what the hub's client has fetched before, or of the table."""
    name = model.checkpoint
    for root in (folder / name, Path(name)):
        if root.is_dir():
            own = (root / HEAD_FILE).exists() if (root / CONFIG_FILE).exists() else None
            return read_json(root / "config.json"), f"{name} (its config.json)", own
    cached = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 else None
    if isinstance(cached, str):
        return read_json(Path(cached)), f"{name} (config.json in the hub cache)", None
    if name in CONFIGS:
        return dict(CONFIGS[name]), f"{name} (published config)", None
    raise RecipeError(
        f"checkpoint {name} is no directory beside the recipe, and a dry run fetches nothing; the shapes it knows are "
        f"those of {', '.join(sorted(CONFIGS))}. Put the checkpoint's config.json into a folder and name that folder "
        "as checkpoint, or fetch the checkpoint first"
    )


def _stage(stage: StageConfig, embedder: Embedder, max_tokens: int, half: bool, keep: int) -> StageEstimate:
    loads = [_load(stage, source, max_tokens) for source in stage.source]
    weights = np.array([1.0 if stage.windows == "all" else source.weight for source in stage.source])
    shares = weights / weights.sum()
    flops, repeated = (stage.steps * float(shares @ values) for values in _operations(embedder, stage, loads))
    memory = stage_memory(
        embedder,
        stage,
        tokens=_held_tokens(stage, loads),
        half=half,
        queries=max(load.queries for load in loads),
        spans=max(load.spans for load in loads),
        widths=_widths(stage, int(embedder.backbone.config.hidden_size)),
    )
    trainable = sum(p.numel() for p in learned(embedder, stage))
    whole = sum(p.numel() for name, p in embedder.named_parameters() if "lora_" not in name)
    mean = float(shares @ np.array([load.tokens for load in loads]))
    return StageEstimate(
        stage.name,
        stage.kind,
        stage.steps,
        stage.kind in PRETRAINING,
        round(mean),
        max(load.tokens for load in loads),
        round(stage.steps * mean),
        flops,
        repeated,
        trainable,
        memory,
        _CHECKPOINT * trainable,
        (keep + 1) * _CHECKPOINT * trainable + _FLOAT * whole,
        tuple(_on(gpu, memory, flops + repeated, half) for gpu in GPUS),
        tuple(_notes(stage)),
    )


def _merge(stage: StageConfig, parameters: int) -> StageEstimate:
    gpus = tuple(GpuEstimate(gpu.name, True, 1, 0.0) for gpu in GPUS)
    notes = ("a merge has no steps and runs on the CPU",)
    return StageEstimate(
        stage.name, stage.kind, 0, True, 0, 0, 0, 0.0, 0.0, 0, Memory(), 0, _FLOAT * parameters, gpus, notes
    )


def _operations(embedder: Embedder, stage: StageConfig, loads: Sequence[_Load]) -> tuple[_Floats, _Floats]:
    """Of a step of each source: as MFU counts them, and those of passes forward that are made again."""
    cost = step_cost(embedder, causal=stage.causal)
    forward = step_cost(embedder, causal=stage.causal, backward=False)
    parent = step_cost(embedder, causal=True, backward=False)
    once, again = [], []
    for load in loads:
        cached = stage.kind not in PRETRAINING and load.tokens > stage.memory_tokens
        once.append(cost.of(load.lengths, load.targets) + (parent.of(load.lengths, 0) if stage.alignment_weight else 0))
        again.append(forward.of(load.lengths, 0) * (stage.gradient_checkpointing + cached))
    return np.array(once), np.array(again)


def _held_tokens(stage: StageConfig, loads: Sequence[_Load]) -> int:
    """The most tokens whose activations a process holds: those of a pass, or of a step that is read once."""
    passed = max(stage.micro_tokens, *(int(load.lengths.max()) for load in loads))
    return min(
        max(load.tokens for load in loads), passed if stage.kind in PRETRAINING else max(passed, stage.memory_tokens)
    )


@dataclass(frozen=True, slots=True)
class _Load:
    """A step of one source: its sequences' lengths, predicted tokens, queries, and vectors in all."""

    lengths: IntArray
    targets: int
    queries: int
    spans: int

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())


def _load(stage: StageConfig, source: SourceConfig, max_tokens: int) -> _Load:
    batch = source.batch or stage.batch
    if stage.kind in PRETRAINING:
        rows = max(1, -(-batch // stage.sequence_tokens))
        lengths = np.full(rows, stage.sequence_tokens, dtype=np.int64)
        return _Load(lengths, round(_predicted(stage) * rows * (stage.sequence_tokens - 1)), 0, 0)
    asked = source.questions if source.kind in ("groups", "sections", "rows") else 1
    documents = 1 + (stage.negatives if stage.kind == "triplet" else 0)
    limit = min(source.document_tokens, max_tokens)
    lengths = np.repeat(
        np.array([min(source.query_tokens, max_tokens), limit], dtype=np.int64), [batch * asked, batch * documents]
    )
    chunks = -(-limit // (source.chunk_tokens[0] if source.chunk_tokens else CHUNK_TOKENS))
    vectors = batch * (chunks if stage.kind == "contextual" else documents)
    return _Load(lengths, 0, batch * asked, batch * asked + vectors)


def _predicted(stage: StageConfig) -> float:
    """The mean share of tokens that a stage predicts."""
    if stage.kind == "causal":
        return 1.0
    if stage.kind == "mntp":
        return stage.mask_rate
    masked = float(mask_rate(np.linspace(0.0, 1.0, 10_001), stage.schedule).mean())
    return masked + stage.shuffle_share * (1.0 - masked)


def _widths(stage: StageConfig, hidden: int) -> Sequence[int]:
    """The widths at which vectors are compared, once more for those of signs."""
    widths = sorted({*(d for d in (stage.dims or DEFAULT_DIMS) if d < hidden), hidden})
    return widths * (2 if stage.binary_weight else 1)


def _on(gpu: Gpu, memory: Memory, flops: float, half: bool) -> GpuEstimate:
    hours = flops / (gpu.rate * MFU) / 3600 if half else None
    return GpuEstimate(gpu.name, memory.ddp <= gpu.budget, memory.gpus(gpu), hours)


def _together(stages: Sequence[StageEstimate]) -> tuple[GpuEstimate, ...]:
    """All stages: memory that suffices for each, hours of one after the other."""
    found = []
    for each in zip(*(stage.gpus for stage in stages), strict=True):
        counts, hours = [g.fsdp2 for g in each], [g.hours for g in each]
        fsdp2 = None if None in counts else max(c for c in counts if c is not None)
        total = None if None in hours else sum(h for h in hours if h is not None)
        found.append(GpuEstimate(each[0].gpu, all(g.ddp for g in each), fsdp2, total))
    return tuple(found)


def _notes(stage: StageConfig) -> list[str]:
    notes = []
    if stage.teacher:
        notes.append(f"without the teacher {stage.teacher}")
    if stage.mine:
        notes.append("without mining its negatives")
    return notes
