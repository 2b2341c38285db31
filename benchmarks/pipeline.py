"""What each stage of the pipeline earns: `runs/cpu-small.toml` with several seeds, scored after every stage.

    python benchmarks/pipeline.py --data ../shared/data [--seeds 1 2 3] [--side-by-side] [--quick] [--json]

Every seed is a run of its own in `out/cpu-small-SEED` (kept; what is complete is not run again). `--side-by-side` runs
all seeds that are not complete at once, one thread each, and logs to `out/cpu-small-SEED.log`. `--quick` runs nothing
and reports of the seeds that are complete. nDCG@10 of int8 vectors on development queries, means over seeds:

    STAGE.SET.ndcg@10                  SET is a set, `NAME-sections` (chunks read alone) or `NAME-sections-late`
    STAGE.SET.spread                   largest less smallest of the seeds
    gain.STAGE-over-PARENT.passages    points (x100) on the passage sets that a stage adds to its parent; .least: of the
                                       seed with the least
    gain.late-over-alone               pair model, sections: chunks read together against alone
    gain.contextual-over-late          contextual model against the pair model, chunks read together; .least
    loss.merged-to-triplet             points of passage scores that the merge loses to the triplet branch; .most
    vectors.DTYPE.DIMS.ndcg@10         triplet model, passage sets; float32, int8, binary, binary-documents (int8
                                       queries); `contextual-vectors`: contextual model, sections read together
    loss.vectors.int8.DIMS             points lost by int8 to float32, at each width; .binary: binary to int8
    minutes                            of a whole run, on the machine named, with the threads that the notes say
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from _common import REPOSITORY, parser, progress, report
from _once import EncodedOnce
from diffembed.data.beir import load_beir
from diffembed.data.sections import load_sections
from diffembed.encoder import Encoder
from diffembed.evaluation.retrieval import evaluate_encoder
from diffembed.training.recipe import Recipe, read_recipe
from diffembed.training.run import run_recipe
from diffembed.vectors.embeddings import VectorDtype

OUT = REPOSITORY / "out"
RECIPE = REPOSITORY / "runs" / "cpu-small.toml"
VECTORS: tuple[tuple[str, VectorDtype, VectorDtype], ...] = (
    ("float32", "float32", "float32"),
    ("int8", "int8", "int8"),
    ("binary", "binary", "binary"),
    ("binary-documents", "binary", "int8"),
)

Scores = dict[str, dict[str, float]]


def main() -> None:
    """Run what is missing, score, write the result."""
    options = parser("pipeline", __doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with the retrieval sets")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--side-by-side", action="store_true", help="seeds at once, one thread each")
    options.add_argument("--threads", type=int, default=0, help="of a run that begins now (default: all)")
    args = options.parse_args()
    if args.side_by_side:
        side_by_side(args.seeds, args.data)
    recipe = read_recipe(RECIPE)
    runs: list[Scores] = []
    minutes = []
    seeds = []
    vectors: list[dict[str, float]] = []
    for seed in args.seeds:
        folder = OUT / f"cpu-small-{seed}"
        if args.quick and not (folder / "merged" / "scores.json").is_file():
            continue
        runs.append(stage_scores(seed, folder, args.threads, minutes))
        vectors.append(vector_scores(folder, recipe, args.data))
        seeds.append(seed)
    if not runs:
        raise SystemExit("no seed is complete; run without --quick first")
    metrics = gains(runs, recipe)
    for stage in runs[0]:
        for name in runs[0][stage]:
            values = [100 * run[stage][name] for run in runs]
            metrics[f"{stage}.{plain(name)}.ndcg@10"] = float(np.mean(values)) / 100
            metrics[f"{stage}.{plain(name)}.spread"] = (max(values) - min(values)) / 100
    metrics |= {name: float(np.mean([found[name] for found in vectors])) for name in vectors[0]}
    for kind in ("vectors", "contextual-vectors"):
        for dims in widths(recipe):
            score = {label: metrics[f"{kind}.{label}.{dims}.ndcg@10"] for label, *_ in VECTORS}
            metrics[f"loss.{kind}.int8.{dims}"] = 100 * (score["float32"] - score["int8"])
            metrics[f"loss.{kind}.binary.{dims}"] = 100 * (score["int8"] - score["binary"])
            metrics[f"loss.{kind}.binary-documents.{dims}"] = 100 * (score["int8"] - score["binary-documents"])
    if minutes:
        metrics["minutes"] = float(np.median(minutes))
    if len(args.seeds) == 1 and args.threads:
        return  # one of several side by side, of which the first process reports
    threads = ", ".join(f"{seed}: {threads_of(seed) or 'all'}" for seed in seeds)
    notes = f"runs/cpu-small.toml, seeds and threads {threads}; development queries, int8 unless said"
    report(args, metrics, notes=notes, packages=("accelerate",))


def side_by_side(seeds: Sequence[int], data: Path) -> None:
    """Bring every seed to its end, all at once in processes of one thread."""
    OUT.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--data", str(data), "--threads", "1", "--seeds"]
    running = []
    for seed in seeds:
        log = (OUT / f"cpu-small-{seed}.log").open("a")
        running.append(subprocess.Popen([*command, str(seed)], stdout=log, stderr=log))
    if failed := [seed for seed, process in zip(seeds, running, strict=True) if process.wait()]:
        raise SystemExit(f"seeds {failed} ended with an error; see their logs in {OUT}")


def recipe_file(seed: int) -> Path:
    """Where the recipe of a seed stands: beside the runs, where its relative paths hold."""
    return OUT / f"cpu-small-{seed}.toml"


def threads_of(seed: int) -> int:
    """Threads that a seed's recipe asks for; 0: all."""
    found = re.search(r"(?m)^threads = (\d+)$", recipe_file(seed).read_text(encoding="utf-8"))
    return int(found[1]) if found else 0


def stage_scores(seed: int, folder: Path, threads: int, minutes: list[float]) -> Scores:
    """nDCG@10 by stage and set of one seed's run, which is brought to its end if need be."""
    file = recipe_file(seed)
    if file.is_file():
        threads = threads_of(seed)  # of the run as it began
    text = RECIPE.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^seed = \d+$", f"seed = {seed}" + (f"\nthreads = {threads}" if threads else ""), text)
    text = text.replace('output = "../out/cpu-small"', f'output = "../out/cpu-small-{seed}"')
    file.parent.mkdir(exist_ok=True)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
    whole = not (folder / "tokenizer.json").is_file()
    start = time.perf_counter()
    run = run_recipe(file, report=progress)
    if whole:
        minutes.append((time.perf_counter() - start) / 60)
        (folder / "minutes.json").write_text(json.dumps(minutes[-1]), encoding="utf-8")
    elif (folder / "minutes.json").is_file():
        minutes.append(json.loads((folder / "minutes.json").read_text(encoding="utf-8")))
    return {stage: found["ndcg@10"] for stage, found in run.stages.items()}


def gains(runs: Sequence[Scores], recipe: Recipe) -> dict[str, float]:
    """What stages add to each other, in points; every seed is compared with itself."""
    passages = recipe.score.sets
    sections = [f"{name} sections" for name in recipe.score.sections]

    def mean(scores: Mapping[str, float], names: Sequence[str]) -> float:
        return 100 * float(np.mean([scores[name] for name in names]))

    found: dict[str, float] = {}

    def note(name: str, values: Sequence[float], *, worst: str = "least") -> None:
        found[name] = float(np.mean(values))
        found[f"{name}.{worst}"] = max(values) if worst == "most" else min(values)

    for stage in recipe.stage:
        parent = recipe.parents_of(stage)[-1] if recipe.parents_of(stage) else None
        if parent:
            gained = [mean(run[stage.name], passages) - mean(run[parent.name], passages) for run in runs]
            note(f"gain.{stage.name}-over-{parent.name}.passages", gained)
    pairs = next(recipe.parents_of(s)[0].name for s in recipe.stage if s.kind == "contextual")
    late = [f"{name} late" for name in sections]
    note("gain.late-over-alone", [mean(run[pairs], late) - mean(run[pairs], sections) for run in runs])
    note("gain.contextual-over-late", [mean(run["contextual"], late) - mean(run[pairs], late) for run in runs])
    lost = [mean(run["triplet"], passages) - mean(run["merged"], passages) for run in runs]
    note("loss.merged-to-triplet", lost, worst="most")
    return found


def vector_scores(folder: Path, recipe: Recipe, data: Path) -> dict[str, float]:
    """nDCG@10 by type and width, of the triplet model on passages and of the contextual one on sections."""
    kept = folder / "vectors.json"
    if kept.is_file():
        stored: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return stored
    scores: dict[str, list[float]] = {}
    tasks = [("vectors", "triplet", load_beir(data / name, "dev"), False) for name in recipe.score.sets]
    tasks += [
        ("contextual-vectors", "contextual", load_sections(data / name, "dev"), True) for name in recipe.score.sections
    ]
    for kind, stage, task, together in tasks:
        encoder = EncodedOnce(Encoder.load(folder / stage / "model"))
        encoder.check(list(task.texts[:32]))
        for label, dtype, query_dtype in VECTORS:
            for dims in widths(recipe):
                found = evaluate_encoder(
                    task, encoder, dtype=dtype, query_dtype=query_dtype, dims=dims, contextual=together
                )
                scores.setdefault(f"{kind}.{label}.{dims}.ndcg@10", []).append(found.scores["ndcg@10"])
        progress(f"{folder.name}: vectors of {task.name}")
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    kept.write_text(json.dumps(means), encoding="utf-8")
    return means


def widths(recipe: Recipe) -> tuple[int, ...]:
    """Matryoshka widths of the triplet stage."""
    return next(stage.dims for stage in recipe.stage if stage.kind == "triplet")


def plain(name: str) -> str:
    """A set's name without spaces, as metrics have it."""
    return name.replace(" ", "-").replace("/", "-")


if __name__ == "__main__":
    main()
