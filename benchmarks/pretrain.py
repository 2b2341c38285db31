"""Pretraining speed: packed steps against padded ones and against transformers' Trainer; same model, same texts.

    python benchmarks/pretrain.py [--quick] [--json] [--shape small|base] [--precision float32] [--texts FOLDER]

`small` is the model of a CPU (10.6M parameters without the token table, texts of 8 to 255 tokens, log-uniform), `base`
that of a GPU (113M, sequences of 4,096 tokens). All learn from masked texts, half of the tokens on average, and read
every text once. `ours` is the project's own loop as `diffembed pretrain` runs it, tokenizing included;
`padded-arrival` and `padded-sorted` are the same loop and loss on padded batches and stock attention; `trainer-arrival`
and `trainer-sorted` are transformers' Trainer, a padding collator (DataCollatorForLanguageModeling) and the stock
causal model with its logits at every position, its sampler random or grouping by length. Time runs from the call of
`train` to the end of the last step, tokens are those of the texts, without padding.

    CONTENDER.tokens_per_second, .gemm_share   median over repeats; share: operations that the model's mathematics
                                               needs, over seconds, over `gemm.flops`
    speedup.vs_padded_trainer                  ours / trainer-arrival
    speedup.vs_sorted_trainer, .vs_padded, .vs_sorted
    gemm.flops                                 rate of matrix products of the model's own shapes, forward and
                                               backward, alone, in this process
    memory.VOCABULARY.{ours,stock}_mb          what the loss of 2,048 targets takes beyond table and gradients, each in
                                               a fresh process; memory.growth: ours at 151,936 over 32,768
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from _common import REPOSITORY, Timing, parser, progress, read_words, report
from diffembed.encoder import resolve_model
from diffembed.models.backbone import build_qwen3, set_causal
from diffembed.models.checkpoint import load_tokenizer, read_model_config
from diffembed.models.embedder import Embedder
from diffembed.objectives.cross_entropy import linear_cross_entropy
from diffembed.objectives.targets import Targets
from diffembed.text.batching import pack
from diffembed.training.batches import TextData, whole
from diffembed.training.configs import RunConfig, SourceConfig, StageConfig
from diffembed.training.lm import eligible_tokens, make_objective, plan_targets
from diffembed.training.loop import Progress, Step, train
from diffembed.training.machine import Machine, settle_machine
from diffembed.training.plans import language_plan
from diffembed.training.throughput import StepCost, step_cost

TEXTS_A_BATCH = 32
SHAPES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 384, "layers": 6, "heads": 6, "intermediate_size": 1024, "longest": 255},
    "base": {"hidden_size": 768, "layers": 12, "heads": 12, "intermediate_size": 3072, "longest": 4095},
}
VOCABULARIES = (8192, 32_768, 151_936)
MEMORY = """
import sys, torch
from pathlib import Path
from diffembed.objectives.cross_entropy import linear_cross_entropy
kind, vocabulary, hidden, targets = sys.argv[1], *map(int, sys.argv[2:])
def now(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
torch.manual_seed(0)
table = torch.randn(vocabulary, hidden).mul_(0.02).requires_grad_()
states = torch.randn(targets, hidden, requires_grad=True)
ids, weights = torch.randint(0, vocabulary, (targets,)), torch.ones(targets)
(states.detach()[:8] @ table.detach()[:8].T).log_softmax(-1)  # what libraries allocate once is not the loss's
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = now("VmRSS")
if kind == "ours":
    loss = linear_cross_entropy(states, table, ids, weights)
else:
    loss = torch.nn.functional.cross_entropy(states @ table.T, ids, reduction="sum")
loss.backward()
print(now("VmHWM") - before - 4 * (table.numel() + states.numel()) / 2**20)  # without the gradients themselves
"""


class Bench:
    """One model shape, one list of texts, and the ways to train on them."""

    def __init__(self, shape: dict[str, int], texts: list[str], folder: Path, batches: int, precision: Any) -> None:
        root = resolve_model("default")
        self.shape, self.texts, self.folder, self.batches = shape, texts, folder, batches
        self.tokenizer: Tokenizer = load_tokenizer(root)
        self.config = read_model_config(root)
        self.run = RunConfig("benchmark", "out", ".", log_every=1, save_seconds=1e9, keep=1, precision=precision)
        self.machine: Machine = settle_machine(self.run)
        self.ids = [
            [*e.ids, self.config.eot_token_id]
            for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]
        self.lengths = np.array([len(ids) for ids in self.ids])
        self.tokens = int(self.lengths.sum())
        with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        self.cost: StepCost = step_cost(self.embedder(), causal=False)
        self.runs = 0

    def model(self) -> Any:
        shape, config = self.shape, self.config
        model = build_qwen3(
            vocab_size=self.tokenizer.get_vocab_size(),
            hidden_size=shape["hidden_size"],
            layers=shape["layers"],
            heads=shape["heads"],
            kv_heads=shape["heads"],
            head_dim=64,
            intermediate_size=shape["intermediate_size"],
            max_tokens=shape["longest"] + 1,
            rope_theta=10_000.0,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eot_token_id,
            seed=0,
        )
        set_causal(model, False)
        return model

    def embedder(self) -> Embedder:
        return Embedder(self.model()).to(self.machine.device)

    def stage(self) -> StageConfig:
        return StageConfig(
            name="diffusion",
            kind="diffusion",
            steps=self.batches,
            batch=-(-self.tokens // self.batches),
            sequence_tokens=self.shape["longest"] + 1,
            windows="all",
            lr=1e-4,
            source=(SourceConfig("texts", ("texts.jsonl",)),),
        )

    def ours(self) -> float:
        """Seconds of one run of the loop over all texts; the data pipeline reads and tokenizes them meanwhile."""
        stage, embedder = self.stage(), self.embedder()
        data = TextData(stage, self.tokenizer, self.folder, 0, eot_token_id=self.config.eot_token_id)
        start = time.perf_counter()
        plan = language_plan(stage, data, mask_token_id=self.config.mask_token_id, machine=self.machine, cost=self.cost)
        return self._loop(embedder, stage, plan) - start

    def padded(self, *, by_length: bool) -> float:
        """The same loop and loss; batches of 32 texts padded to the longest, stock attention."""
        stage, embedder = self.stage(), self.embedder()
        embedder.backbone.set_attn_implementation("sdpa")
        start = time.perf_counter()
        order = np.argsort(self.lengths, kind="stable") if by_length else np.arange(len(self.ids))
        objective = make_objective(stage, self.config.mask_token_id)

        def plan(step: int) -> Step:
            chosen = order[step * TEXTS_A_BATCH : (step + 1) * TEXTS_A_BATCH]
            batch = pack([whole(self.ids[i]) for i in chosen])
            planned = plan_targets([batch], objective, np.random.default_rng(step))
            total = eligible_tokens(planned)
            facts = {"tokens": batch.tokens}
            return Step([partial(padded_loss, t, total) for t in planned], facts, 0.0, list)

        return self._loop(embedder, stage, plan) - start

    def _loop(self, embedder: Embedder, stage: StageConfig, plan: Callable[[int], Step]) -> float:
        """When the last step was done."""
        ended = 0.0

        def watch(_: Progress) -> None:
            nonlocal ended
            ended = time.perf_counter()

        self.runs += 1
        folder = self.folder / f"run{self.runs}"
        facts = train(
            embedder, stage, plan, run=self.run, machine=self.machine, folder=folder, expected={},
            report=lambda _: None, watch=watch,
        )  # fmt: skip
        assert abs(facts["tokens"] - self.tokens) <= self.shape["longest"] + 1, "not every text was read"
        return ended

    def trainer(self, *, by_length: bool) -> float:
        """transformers' Trainer as its documentation sets it up for masked language modelling."""
        from accelerate.state import AcceleratorState
        from transformers import (
            DataCollatorForLanguageModeling,
            PreTrainedTokenizerFast,
            Qwen3ForCausalLM,
            Trainer,
            TrainerCallback,
            TrainingArguments,
        )

        ended: list[float] = []

        class Watch(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ended.append(time.perf_counter())

        base = self.model()
        model = Qwen3ForCausalLM(base.config)
        model.model.load_state_dict(base.state_dict())
        model.set_attn_implementation("sdpa")
        tokens = {name: self.tokenizer.id_to_token(i) for name, i in (
            ("mask_token", self.config.mask_token_id), ("pad_token", self.config.pad_token_id),
        )}  # fmt: skip
        stock = PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, **tokens)
        collator = DataCollatorForLanguageModeling(
            stock, mlm_probability=0.5, mask_replace_prob=1.0, random_replace_prob=0.0
        )
        AcceleratorState._reset_state(reset_partial_state=True)  # as if no other loop had run in this process
        arguments = TrainingArguments(
            output_dir=str(self.folder / "trainer"),
            per_device_train_batch_size=TEXTS_A_BATCH,
            num_train_epochs=1,
            learning_rate=1e-4,
            use_cpu=self.machine.device.type == "cpu",
            bf16=self.machine.dtype == torch.bfloat16,
            train_sampling_strategy="group_by_length" if by_length else "random",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(model, arguments, data_collator=collator, train_dataset=_Rows(self.ids), callbacks=[Watch()])
        start = time.perf_counter()
        trainer.train()
        assert len(ended) == self.batches
        settle_machine(self.run)
        return ended[-1] - start

    def gemm_rate(self, seconds: float) -> float:
        """Operations a second of the matrix products of one step alone: every linear layer, forward and backward."""
        rows, total, spent = self.tokens // self.batches, 0.0, 0.0
        linear = {n: m for n, m in self.model().named_modules() if isinstance(m, torch.nn.Linear)}
        shapes: dict[tuple[int, int], int] = {}
        for module in linear.values():
            shape = (module.in_features, module.out_features)
            shapes[shape] = shapes.get(shape, 0) + 1
        for (inner, outer), count in shapes.items():
            x, w, g = (torch.randn(a, b, device=self.machine.device, dtype=self.machine.dtype)
                       for a, b in ((rows, inner), (outer, inner), (rows, outer)))  # fmt: skip
            taken = _median_seconds(lambda x=x, w=w, g=g: (x @ w.T, g @ w, g.T @ x), seconds / len(shapes))
            total += 6.0 * rows * inner * outer * count
            spent += taken * count
        return total / spent


class _Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Token ids as the Trainer wants them."""

    def __init__(self, ids: list[list[int]]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        return {"input_ids": self.ids[i]}


def padded_loss(targets: Targets, total: float, embedder: Embedder) -> Tensor:
    """The project's loss with states from a padded batch and stock attention."""
    table, batch = embedder.output_table(), targets.batch
    lengths = torch.from_numpy(batch.lengths)
    real = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).to(table.device)
    ids = torch.zeros(real.shape, dtype=torch.int64, device=table.device)
    ids[real] = torch.from_numpy(batch.token_ids).to(table.device)
    output = embedder.backbone(input_ids=ids, attention_mask=real.long(), use_cache=False)
    states = output.last_hidden_state[real][torch.from_numpy(targets.rows).to(table.device)]
    wanted, weights = (torch.from_numpy(x).to(table.device) for x in (targets.target_ids, targets.weights))
    return linear_cross_entropy(states, table, wanted, weights, excluded=targets.excluded) / total


def read_texts(folder: Path, count: int, longest: int, tokenizer: Tokenizer) -> list[str]:
    """``count`` stretches of the folder's texts, 8 to ``longest`` tokens, log-uniform, in random order."""
    words = read_words(folder, 10 * longest)
    rng = random.Random(0)
    texts: list[str] = []
    while len(texts) < count:
        wanted = round(8 * (longest / 8) ** rng.random())
        start = rng.randrange(max(1, len(words) - wanted))
        text = " ".join(words[start : start + wanted])
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        texts.append(text if len(offsets) <= wanted else text[: offsets[wanted - 1][1]])
    return texts


def memory(kind: str, vocabulary: int, hidden: int, targets: int) -> float:
    """MB, measured in a fresh process."""
    words = [sys.executable, "-c", MEMORY, kind, *map(str, (vocabulary, hidden, targets))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return max(0.0, float(done.stdout.split()[-1]))


def _median_seconds(call: Callable[[], Any], seconds: float) -> float:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    call()
    while len(taken) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return median(taken)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("pretrain", __doc__)
    options.add_argument("--shape", choices=SHAPES, default="small", help="of the model; base wants a GPU")
    options.add_argument("--texts", type=Path, default=REPOSITORY / "samples", help="a folder of text files")
    options.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of all contenders"
    )
    args = options.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    shape = SHAPES[args.shape]
    batches, repeats = (2, 1) if args.quick else (12, 5)
    texts = read_texts(args.texts, batches * TEXTS_A_BATCH, shape["longest"], load_tokenizer(resolve_model("default")))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(shape, texts, Path(folder), batches, args.precision)
        contenders: dict[str, Callable[[], float]] = {
            "ours": bench.ours,
            "padded-arrival": partial(bench.padded, by_length=False),
            "padded-sorted": partial(bench.padded, by_length=True),
            "trainer-arrival": partial(bench.trainer, by_length=False),
            "trainer-sorted": partial(bench.trainer, by_length=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        rates: list[float] = []
        names = list(contenders)
        for turn in range(repeats + 1):  # the first turn warms up
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                taken = contenders[name]()
                gc.collect()  # models stand in reference cycles
                progress(f"turn {turn}, {name}: {bench.tokens / taken:,.0f} tokens/s")
                if turn:
                    seconds[name].append(taken)
            rates.append(bench.gemm_rate(0.5 if args.quick else 2.0))
    timings = {name: Timing(tuple(taken)) for name, taken in seconds.items()}
    gemm = median(rates)
    flops = bench.cost.of(bench.lengths, bench.tokens // 2)
    metrics = {"gemm.flops": gemm}
    for name, timing in timings.items():
        metrics[f"{name}.tokens_per_second"] = bench.tokens / timing.median
        metrics[f"{name}.gemm_share"] = flops / timing.median / gemm
        metrics[f"{name}.spread"] = timing.spread
    for label, peer in (("padded_trainer", "trainer-arrival"), ("sorted_trainer", "trainer-sorted"),
                        ("padded", "padded-arrival"), ("sorted", "padded-sorted")):  # fmt: skip
        metrics[f"speedup.vs_{label}"] = timings[peer].median / timings["ours"].median
    for vocabulary in VOCABULARIES:
        for kind in ("ours", "stock"):
            metrics[f"memory.{vocabulary}.{kind}_mb"] = memory(kind, vocabulary, shape["hidden_size"], 2048)
    smaller, largest = (metrics[f"memory.{v}.ours_mb"] for v in VOCABULARIES[-2:])
    metrics["memory.growth"] = largest / smaller
    notes = (
        f"{args.shape}: {len(texts)} texts, {bench.tokens} tokens, {batches} steps a run, {repeats} runs; "
        f"{bench.machine.dtype}, {bench.machine.device}".replace("torch.", "")
    )
    report(args, metrics, notes=notes, packages=("accelerate",))


if __name__ == "__main__":
    main()
