"""Does conversion help? Held-out diffusion loss after N steps: from an autoregressive base, and from fresh weights.

    python benchmarks/conversion.py --data ../shared/data [--quick] [--json] [--work out/conversion]

Every run is a recipe, written into the work folder and run by `diffembed.training.run`, as `diffembed pretrain` would;
a run that was killed goes on when the same command is given again. By seed there are two recipes with one tokenizer,
one shape, one rate and, in the diffusion stage, the same texts and masks in the same order (checked):

converted    BASE causal steps (the autoregressive base), then STEPS diffusion steps with a new optimizer
scratch      BASE + STEPS diffusion steps from fresh weights

The rate does not decay, so one run passes through the model of every N. Each is measured on the same held-out texts
with the same masks: the ELBO bound in nats a token (`training/heldout.py`). The scratch run is read twice: after N
steps, and after BASE + N steps, when it has seen as many tokens as the base and its conversion together.

The full run: 1.9M parameters (hidden 192, 4 layers, vocabulary 4096), steps of 4096 tokens in sequences of 128, 200
steps of base, 200 of diffusion, measured every 25, 2 seeds: 6.6M training tokens, 20 to 25 minutes on two CPU cores.
The seed also draws the sample that the tokenizer is trained on, so the spread between seeds includes the tokenizer's.

converted.seedS.stepN.elbo_nats      step0: before the first diffusion step; without seedS: mean over the seeds
scratch.seedS.stepN.elbo_nats        the same steps of diffusion and nothing before them
equal_tokens.seedS.stepN.elbo_nats   scratch after BASE + N steps
gap.stepN                            scratch - converted, mean over the seeds: above 0 conversion helps
equal_tokens_gap.stepN               equal_tokens - converted: above 0 it helps at equal total tokens too
smallest_gap, always_below           over all N >= 1 and seeds; 1 if converted is below at each of them
base.operations                      of a causal step, as a multiple of a diffusion step's: it predicts every token
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from _common import REPOSITORY, parser, progress, report, result_path

BOUND = "elbo_nats_per_token"
STAGE = "diffusion"  # the same name in both recipes: a stage's texts and masks are drawn by seed and name
Curve = dict[int, float]  # nats a token after so many steps


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the experiment: model, text of a step, and how long."""

    hidden: int
    layers: int
    vocabulary: int
    tokenizer_characters: int
    batch: int
    sequence: int
    base: int
    steps: int
    every: int
    seeds: int


FULL = Size(192, 4, 4096, 6_000_000, batch=4096, sequence=128, base=200, steps=200, every=25, seeds=2)
QUICK = Size(64, 2, 1024, 500_000, batch=1024, sequence=64, base=30, steps=30, every=15, seeds=1)

RECIPE = """\
# written by benchmarks/conversion.py
[run]
name = "conversion-{arm}"
output = "{arm}"
data_root = {data}
seed = {seed}
precision = "float32"
held_out_every = {size.every}
save_seconds = 60
keep = 1

[tokenizer]
vocab_size = {size.vocabulary}
max_characters = {size.tokenizer_characters}
paths = {paths}

[model]
hidden_size = {size.hidden}
layers = {size.layers}
heads = {heads}
kv_heads = 1
head_dim = 64
intermediate_size = {intermediate}
max_tokens = {size.sequence}
"""
STAGE_TABLE = """
[[stage]]
name = "{name}"
kind = "{kind}"
steps = {steps}
batch = {size.batch}
sequence_tokens = {size.sequence}
lr = {lr}
warmup = 20
decay_share = 0.0
[[stage.source]]
name = "english"
paths = {paths}
"""


def main() -> None:
    args, size = settle()
    try:
        import matplotlib  # noqa: F401  (asked for now, not after the training)
    except ImportError:
        raise SystemExit("the figure needs matplotlib: pip install matplotlib") from None
    converted: dict[int, Curve] = {}
    scratch: dict[int, Curve] = {}
    for seed in range(1, size.seeds + 1):
        converted[seed] = trained(args, size, seed, "converted", {"base": size.base, STAGE: size.steps})
        scratch[seed] = trained(args, size, seed, "scratch", {STAGE: size.base + size.steps})
        check_alike(args.work / f"seed{seed}", size.steps)
    metrics = compare(converted, scratch, size)
    metrics |= facts(args.work / "seed1" / "scratch" / STAGE / "model", size)
    figure = result_path(args).with_suffix(".svg")
    draw(figure, converted, scratch, size)
    progress(f"written: {figure.relative_to(REPOSITORY)}")
    notes = (
        f"float32, rate {args.lr:g} after 20 steps of warmup, no decay; {size.seeds} seeds (weights, order of texts, "
        f"masks, tokenizer sample); trained on {', '.join(args.paths)}, measured on texts held out of it; "
        f"a step is {size.batch} tokens; the base is {size.base} causal steps"
    )
    report(args, metrics, notes=notes, packages=("matplotlib", "accelerate"))


def settle() -> tuple[argparse.Namespace, Size]:
    """The command line, and the size that it asks for."""
    options = parser("conversion", __doc__)
    options.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="folder of the texts")
    options.add_argument("--paths", nargs="+", default=["pretrain/en-prose*.jsonl.gz"], help="texts under --data")
    options.add_argument("--work", type=Path, help="where recipes and checkpoints live (default: out/conversion)")
    options.add_argument("--base", type=int, help=f"causal steps of the base (default: {FULL.base})")
    options.add_argument("--steps", type=int, help=f"diffusion steps after it (default: {FULL.steps})")
    options.add_argument("--every", type=int, help=f"steps between measurements (default: {FULL.every})")
    options.add_argument("--seeds", type=int, help=f"seeds 1 to this (default: {FULL.seeds})")
    options.add_argument("--lr", type=float, default=2e-3, help="rate of all stages (default: %(default)s)")
    args = options.parse_args()
    usual = QUICK if args.quick else FULL
    chosen = {name: usual_of(getattr(args, name), getattr(usual, name)) for name in ("base", "steps", "every", "seeds")}
    size = Size(**{name: chosen.get(name, getattr(usual, name)) for name in Size.__slots__})
    if min(chosen.values()) < 1 or size.base % size.every or size.steps % size.every:
        raise SystemExit("--base and --steps must be multiples of --every, and all of them 1 or more")
    if not args.data.is_dir():
        raise SystemExit(f"{args.data} is not a folder; give --data")
    args.data = args.data.resolve()
    work = args.work or REPOSITORY / "out" / ("conversion-quick" if args.quick else "conversion")
    args.work = work.resolve()
    return args, size


def usual_of(given: int | None, usual: int) -> int:
    return usual if given is None else given


def trained(args: argparse.Namespace, size: Size, seed: int, arm: str, stages: Mapping[str, int]) -> Curve:
    """Run an arm's recipe (what is done is skipped) and read its diffusion stage's curve."""
    from diffembed.training.configs import PRETRAINING
    from diffembed.training.run import run_recipe

    folder = args.work / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"arm": arm, "seed": seed, "size": size, "lr": args.lr}
    common |= {"data": json.dumps(str(args.data)), "paths": json.dumps(args.paths)}
    text = RECIPE.format(**common, heads=size.hidden // 64, intermediate=size.hidden * 8 // 3)
    for name, steps in stages.items():
        kind = STAGE if name == STAGE else "causal"
        text += STAGE_TABLE.format(**common, name=name, kind=kind, steps=steps)
    recipe = folder / f"{arm}.toml"
    recipe.write_text(text, encoding="utf-8")
    progress(f"seed {seed}, {arm}: {', '.join(f'{steps} steps of {name}' for name, steps in stages.items())}")
    run_recipe(recipe, kinds=PRETRAINING, report=progress)
    return curve(folder / arm / STAGE, stages[STAGE], size.every)


def curve(stage: Path, steps: int, every: int) -> Curve:
    """The bound before, between and after the steps of a complete stage."""
    scores = json.loads((stage / "scores.json").read_text(encoding="utf-8"))
    found = {0: scores["held_out_before"][BOUND], steps: scores["held_out_after"][BOUND]}
    for row in rows(stage):
        if f"held_out/{BOUND}" in row:
            found[row["step"] + 1] = row[f"held_out/{BOUND}"]
    if missing := sorted(set(range(0, steps + 1, every)) - set(found)):
        raise SystemExit(f"{stage} was not measured after {missing[0]} steps; give another --work, or remove it")
    return {step: found[step] for step in range(0, steps + 1, every)}


def rows(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def check_alike(folder: Path, steps: int) -> None:
    """Refuse to compare arms whose tokenizers, texts or masks differ, looked up at the first and the last common step.

    What a step masks is drawn from the seed of the stage's data and the number of the step.
    """
    from diffembed.models.checkpoint import load_tokenizer
    from diffembed.training.batches import TextData
    from diffembed.training.recipe import read_recipe

    seen = []
    for arm in ("converted", "scratch"):
        recipe = read_recipe(folder / f"{arm}.toml")
        stage = next(s for s in recipe.stage if s.name == STAGE)
        data = TextData(stage, load_tokenizer(folder / arm), Path(recipe.run.data_root), recipe.run.seed)
        ids = [batch.token_ids.tolist() for step in (0, steps - 1) for batch in data.batches(step)]
        seen.append((data.seed, data.fingerprint, ids, (folder / arm / "tokenizer.json").read_bytes()))
    if seen[0] != seen[1]:
        raise SystemExit(f"{folder}: the arms differ in more than their start; remove the folder and run again")


def compare(converted: Mapping[int, Curve], scratch: Mapping[int, Curve], size: Size) -> dict[str, float]:
    """The curves, their means over the seeds and the gaps between them, as flat metrics."""
    plotted = range(size.every, size.steps + 1, size.every)
    equal = {seed: shifted(c, size.base) for seed, c in scratch.items()}
    metrics: dict[str, float] = {}
    for arm, curves in (("converted", converted), ("scratch", scratch), ("equal_tokens", equal)):
        for step in (0, *plotted):
            for seed, values in curves.items():
                metrics[f"{arm}.seed{seed}.step{step}.elbo_nats"] = values[step]
            metrics[f"{arm}.step{step}.elbo_nats"] = average(curves, step)
    for step in plotted:
        metrics[f"gap.step{step}"] = average(scratch, step) - average(converted, step)
        metrics[f"equal_tokens_gap.step{step}"] = average(equal, step) - average(converted, step)
    for prefix, other in (("", scratch), ("equal_tokens_", equal)):
        smallest = min(other[seed][step] - converted[seed][step] for seed in converted for step in plotted)
        metrics |= {f"{prefix}smallest_gap": smallest, f"{prefix}always_below": float(smallest > 0)}
    return metrics


def shifted(values: Curve, by: int) -> Curve:
    """A curve read from step ``by`` on, which becomes its step 0."""
    return {step - by: value for step, value in values.items() if step >= by}


def average(curves: Mapping[int, Curve], step: int) -> float:
    return mean(values[step] for values in curves.values())


def facts(model: Path, size: Size) -> dict[str, float]:
    """How large the model is, how much it read, and what a causal step costs against a diffusion step."""
    import numpy as np

    from diffembed.models.embedder import Embedder
    from diffembed.models.pretrained import load_pretrained
    from diffembed.training.throughput import step_cost

    embedder = Embedder(load_pretrained(model).model)
    lengths = np.full(size.batch // size.sequence, size.sequence)
    targets = int(lengths.sum()) - len(lengths)  # a causal step predicts all but first tokens, diffusion half of them
    causal = step_cost(embedder, causal=True).of(lengths, targets)
    return {
        "base.operations": causal / step_cost(embedder, causal=False).of(lengths, targets // 2),
        "base.tokens": size.base * size.batch,
        "diffusion.tokens": size.steps * size.batch,
        "parameters": sum(p.numel() for p in embedder.parameters()),
    }


def draw(path: Path, converted: Mapping[int, Curve], scratch: Mapping[int, Curve], size: Size) -> None:
    """The arms over diffusion steps: the mean over the seeds as a line, their range as a band."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator, ScalarFormatter

    matplotlib.rcParams.update({"svg.hashsalt": "conversion", "font.size": 9})
    steps = list(range(size.every, size.steps + 1, size.every))
    equal = {seed: shifted(values, size.base) for seed, values in scratch.items()}
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    arms: Sequence[tuple[str, Mapping[int, Curve], str, str]] = (
        ("from scratch", scratch, "#b3541e", "-"),
        (f"from scratch, {size.base} more diffusion steps\n(equal total tokens)", equal, "#8a8a8a", "--"),
        (f"from an autoregressive base ({size.base} steps)", converted, "#1f5fa8", "-"),
    )
    for label, curves, color, style in arms:
        low, high = ([pick(c[step] for c in curves.values()) for step in steps] for pick in (min, max))
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        means = [average(curves, step) for step in steps]
        axes.plot(steps, means, style, color=color, label=label, marker="o", markersize=3, linewidth=1.5)
    axes.set_xscale("log")
    axes.set_xticks([step for step in steps if step in (steps[0], steps[-1]) or (step // size.every).bit_count() == 1])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"diffusion steps N ({size.batch:,} tokens each)")
    axes.set_ylabel("held-out ELBO bound (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
