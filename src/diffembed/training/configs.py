"""What a recipe holds, as frozen dataclasses: the tables and keys of its TOML file, and what they are by default.

``recipe.py`` reads the file into them and refuses what cannot be meant; ``ranges.py`` says what their numbers may be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from diffembed.models.checkpoint import Attention
from diffembed.objectives.denoising import Weighting
from diffembed.objectives.schedules import Draw, Schedule
from diffembed.text.batching import Pooling
from diffembed.vectors.quantize import Quantizer

StageKind = Literal["causal", "diffusion", "mntp", "pair", "contextual", "triplet", "merge"]
PRETRAINING: tuple[str, ...] = ("causal", "diffusion", "mntp")
CONTRASTIVE: tuple[str, ...] = ("pair", "contextual", "triplet")
BEGINNING = "[model]"  # as a stage's parent: what the recipe's [model] gives, whatever stages stand before


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
    split. ``groups``: BEIR folders whose rows have ``doc_id``: whole documents as chunks, with the judged queries;
    ``split_by = "doc_id"`` keeps the development side's documents out. ``sections``: BEIR folders of long documents,
    cut at their headings, with the questions of ``data/sections.py``; documents of the train side. ``rows``: pair,
    triplet or grouped rows of JSONL and Parquet files (``data/examples.py``); ``bad_rows`` says whether a bad one stops
    the run. ``spans``: pairs cut out of one document: a short span of a window against the window, from which the span
    is taken out with probability ``remove_span``.

    Texts and rows are read in blocks of ``shuffle_megabytes``: what fits is permuted as a whole. ``languages`` weighs
    them by their ``lang``; those of languages that are not named are left out.

    ``document_tokens`` bounds a document, of a grouped one all chunks together: a longer one gives the stretch of whole
    chunks around one of its answers. Up to ``questions`` queries are asked of a document in a step. ``chunk_tokens``
    (smallest, largest) forgets the chunks of documents and cuts them anew, one length a step.

    ``in_batch = false``: queries of this source are compared with their own negatives alone. ``symmetric``: documents
    look for their queries too. ``instruction`` is what its queries ask for, unless a row says so itself;
    ``instruction_format`` is how the two become one text.
    """

    name: str
    paths: tuple[str, ...]
    kind: Literal["text", "pairs", "spans", "groups", "sections", "rows"] = "text"
    weight: float = 1.0
    query_tokens: int = 64
    document_tokens: int = 192
    batch: int = 0
    remove_span: float = 0.5
    languages: dict[str, float] = field(default_factory=dict)
    shuffle_megabytes: int = 256
    split_by: Literal["query", "doc_id"] = "query"
    bad_rows: Literal["stop", "skip"] = "stop"
    questions: int = 2
    chunk_tokens: tuple[int, ...] = ()
    in_batch: bool = True
    symmetric: bool = False
    instruction: str = ""
    instruction_format: str = "{instruction} {query}"


@dataclass(frozen=True, slots=True)
class MineConfig:
    """Hard negatives that a triplet stage mines with its parent before its first step, by source of kind ``pairs``.

    Every query gets up to ``negatives`` documents of ranks ``first ... last`` (those that answer it not counted), none
    nearer to it than its own document's cosine times ``1 - relative_margin`` (``data/mining.py``).
    """

    negatives: int = 4
    first: int = 1
    last: int = 100
    margin: float = 0.0
    relative_margin: float = 0.05
    sampling: Literal["top", "random"] = "top"


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage: an objective, its data, its optimiser.

    ``parent`` names the stage whose weights it starts from, by default the one before; ``"[model]"`` is what the recipe
    begins with, so that one recipe can hold several trainings of it. Stages of one ``order`` read the same sources in
    the same order, as comparisons need; by default every stage has an order of its own.

    ``batch`` counts tokens for stages that model language, rows (pairs, triplets, documents) for contrastive ones; a
    source may ask for another. ``micro_tokens`` bounds the tokens of one forward pass. Steps of a contrastive stage up
    to ``memory_tokens`` keep their activations; larger ones are read twice, pass by pass (``training/grad_cache.py``).

    ``windows`` of a language-model stage: ``random`` takes one source a step and one window at a random place of each
    text; ``all`` takes every window of every document, from all sources in every step.

    ``pooling`` and ``attention`` of contrastive stages are the model's own from then on: the vector of a text or chunk
    is the ``mean`` of its tokens' states, or the state of a token that is put after it, the end token (``last``) or a
    ``mask`` token; under ``causal`` attention a token sees what stands before it.

    The objective of contrastive stages (``objectives/contrastive.py``, ``contextual.py``): ``temperature``; ``margin``
    (by default 0.1 for ``pair`` and ``contextual``, none for ``triplet``); ``query_negatives`` (by default all but
    ``triplet``); ``similarity``; ``dims``, the Matryoshka widths, each seen through ``quantize``; ``binary_weight``
    times the loss of the sign vectors is added. ``triplet``: up to ``negatives`` hard ones a query, from the rows or
    from ``mine``. ``contextual``: ``alpha`` and ``beta`` (first and last value of its cosine schedule) weigh the terms;
    ``gold = false`` does not ask which chunk answers, a document is as near as its nearest chunk. ``teacher``, a model
    (directory, hub id, ``st:NAME``), adds ``distill_weight`` times ``distill``: ``kl`` of in-batch similarities,
    ``cosine`` of vectors, ``chunks`` (KL of the relevance of a document's chunks).

    ``lexical_start`` begins a pair stage from a weighted bag of words (``models/lexical.py``); ``layer_lr`` is the rate
    of everything but the token table, as a share of ``lr``: the damped layers of such a start would otherwise outgrow
    the table within a few steps.

    A ``merge`` stage has no data and no steps: it puts the models of ``parents`` together by ``method``, for ``slerp``
    and ``linear`` of two at each share of the second in ``sweep``, and keeps what scores best in the mean of
    ``[score]``.

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
    steps: int = 0
    batch: int = 0
    lr: float = 0.0
    source: tuple[SourceConfig, ...] = ()
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
    margin: float | None = None
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
    lora_dropout: float = 0.0
    memory_tokens: int = 16_384
    query_negatives: bool | None = None
    similarity: Literal["cosine", "dot"] = "cosine"
    quantize: Quantizer = "tanh-int8"
    negatives: int = 4
    mine: MineConfig | None = None
    alpha: float = 0.2
    beta: tuple[float, ...] = (0.2, 0.5)
    gold: bool = True
    teacher: str = ""
    distill: Literal["kl", "cosine", "chunks"] = "kl"
    distill_weight: float = 1.0
    teacher_temperature: float = 0.02
    parents: tuple[str, ...] = ()
    method: Literal["slerp", "linear", "soup"] = "slerp"
    sweep: tuple[float, ...] = (0.5,)
    pooling: Pooling = "mean"
    attention: Attention = "bidirectional"
    order: str = ""

    @property
    def causal(self) -> bool:
        """Whether a token sees only what stands before it while the stage trains."""
        return self.kind == "causal" or self.attention == "causal"

    @property
    def predicts_next(self) -> bool:
        """Whether a state predicts the next token; where ``shift`` is open, it does, as after a causal parent."""
        return self.kind != "diffusion" or self.shift is not False

    @property
    def mask_margin(self) -> float | None:
        """How much nearer than the positive a negative may be (in cosine); ``None``: as near as it likes."""
        if self.margin is None:
            return None if self.kind == "triplet" else 0.1
        return None if math.isinf(self.margin) else self.margin

    @property
    def asks_queries(self) -> bool:
        """Whether the other queries of the batch are negatives."""
        return self.kind != "triplet" if self.query_negatives is None else self.query_negatives


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """Development sets that the run scores after every stage (nDCG@10, int8, dev split).

    ``contextual`` sets, whose documents are consecutive chunks, are scored twice: every chunk read alone, and the
    chunks of a document read together (``NAME late``); so are the questions for ``sections`` of sets of long documents
    (``data/sections.py``). ``split_by = "doc_id"`` asks the queries of whole documents that sources with the same key
    leave out.
    """

    sets: tuple[str, ...] = ()
    contextual: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    split_by: Literal["query", "doc_id"] = "query"
    untrained: bool = True


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Where the finished model goes, and in which form."""

    into: str = ""
    dtype: Literal["float32", "float16"] = "float32"
    fp32_onnx: bool = True
