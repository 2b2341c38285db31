"""Adapting the embedded model to a folder: what a search of it gains, what other sets lose, and which steps pay.

    python benchmarks/adapt.py --folder LABEL=DIR ... [--general DIR] [--other DIR] [--variant NAME:KEY=VALUE,...]
                               [--steps N] [--from M] [--quick] [--json]

Every folder is adapted to once as `diffembed adapt` does it, with the general set read along, and once for each variant
(`--variant diffusion:diffusion=true`, `--variant alone:general=`). The held-out questions are of documents that nothing
was trained on; `--other` sets take no part at all, not even in choosing the share. By default the folder is `samples`,
with nothing beside it. Metrics:

    LABEL.{documents,pairs,questions,chunks}            what the folder gave
    LABEL.VARIANT.{steps,share,seconds}                 `default` is the first variant
    LABEL.VARIANT.held-out.{ndcg@10,recall@10}.{before,after,bm25}
    LABEL.VARIANT.held-out.p                            chance of such a gain between equal models (paired, by queries)
    LABEL.VARIANT.SET.{ndcg@10,recall@10}.{before,after}   general and other sets, dev queries
    LABEL.VARIANT.share-S.{dev,SET}                     nDCG@10 by share of the merge, on the questions chosen by
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from _common import REPOSITORY, parser, progress, report

METRICS = ("ndcg@10", "recall@10")


def main() -> None:
    options = parser("adapt", __doc__)
    options.add_argument("--folder", action="append", default=[], metavar="LABEL=DIR", help="may be repeated")
    options.add_argument("--general", action="append", type=Path, default=[], help="BEIR folder, read along and judged")
    options.add_argument("--other", action="append", type=Path, default=[], help="BEIR folder that is only judged")
    options.add_argument("--variant", action="append", default=[], metavar="NAME:KEY=VALUE,...")
    options.add_argument("--from", dest="model", default="default", help="the model to begin from")
    options.add_argument("--steps", type=int, help="training steps (default: by the folder's size)")
    options.add_argument("--describe", default="", help="what the folders are: package and version")
    args = options.parse_args()
    metrics: dict[str, float] = {}
    for folder in args.folder or [f"samples={REPOSITORY / 'samples'}"]:
        label, _, path = folder.partition("=")
        for variant in ["default:", *args.variant]:
            name, _, changes = variant.partition(":")
            progress(f"{label}, {name}")
            found = measure(Path(path), changes, args)
            metrics |= {f"{label}.{key}": value for key, value in found.pop("folder").items()}
            metrics |= {f"{label}.{name}.{key}": value for key, value in found["variant"].items()}
    notes = (
        f"{args.describe + '; ' if args.describe else ''}questions made of the held-out documents as those of training "
        "are, their words taken out of the answers; int8 vectors, int8 weights"
    )
    report(args, metrics, notes=notes, packages=("bm25s",))


def measure(folder: Path, changes: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What one adaptation came to."""
    from diffembed.data.beir import load_beir
    from diffembed.encoder import Encoder
    from diffembed.evaluation.retrieval import evaluate_bm25
    from diffembed.training.adapt import adapt

    settings, general = read_changes(changes, args)
    with tempfile.TemporaryDirectory() as scratch:
        into = Path(scratch) / "adapted"
        made = adapt(
            [folder], args.model, into, settings=settings, general=general, general_eval=args.general, report=progress
        )
        held_out = load_beir(Path(made.work) / "heldout")
        found: dict[str, float] = {"steps": made.steps, "share": made.share, "seconds": made.seconds}
        for metric, score in evaluate_bm25(held_out).scores.items():
            if metric in METRICS:
                found[f"held-out.{metric}.bm25"] = score
        before, after = Encoder.load(args.model), Encoder.load(into)
        found["held-out.p"] = chance(gains(held_out, before), gains(held_out, after))
        sets = {"held-out": made.held_out, **made.general}
        for path in args.other:
            task = load_beir(path, "dev")
            sets[path.name] = {when: scores(task, model) for when, model in (("before", before), ("after", after))}
        for name, figures in sets.items():
            for when, values in figures.items():
                found |= {f"{name}.{metric}.{when}": values[metric] for metric in METRICS}
        for share in made.shares:
            found |= {f"share-{share.share:g}.{key}": getattr(share, key) for key in ("dev", "lost", "doubt")}
            found |= {f"share-{share.share:g}.{name}": score for name, score in share.general.items()}
    of_folder = {"documents": sum(made.documents.values()), "pairs": sum(made.pairs.values()), "chunks": made.chunks}
    return {"folder": of_folder | {"questions": made.questions["heldout"]}, "variant": found}


def read_changes(changes: str, args: argparse.Namespace) -> tuple[Any, list[Path]]:
    """The settings of a variant, and its general data (``general=`` for none)."""
    from diffembed.training.adapt_recipe import AdaptSettings

    known = {field.name for field in fields(AdaptSettings)}
    values: dict[str, Any] = {"steps": 6, "shares": (0.5,)} if args.quick else {"steps": args.steps}
    general = args.general
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        if key == "general":
            general = []
        elif key == "diffusion":
            values[key] = value == "true"
        elif key in known:
            values[key] = int(value) if value.isdigit() else float(value)
        else:
            raise SystemExit(f"{key} is no setting of an adaptation; known: general, {', '.join(sorted(known))}")
    return AdaptSettings(**values), general


def scores(task: Any, encoder: Any) -> dict[str, float]:
    """nDCG@10 and recall@10 of int8 vectors."""
    from diffembed.evaluation.retrieval import evaluate_encoder

    found = evaluate_encoder(task, encoder, dtype="int8").scores
    return {metric: found[metric] for metric in METRICS}


def gains(task: Any, encoder: Any) -> list[float]:
    """nDCG@10 by query."""
    from diffembed.evaluation.metrics import score_run
    from diffembed.evaluation.ranking import search

    queries = encoder.encode_queries(list(task.queries.values()), dtype="int8", truncate=True)
    documents = encoder.encode_documents(list(task.texts), dtype="int8", truncate=True)
    run = search(task, queries, documents)
    return [score_run({name: task.qrels[name]}, {name: run[name]})["ndcg@10"] for name in task.queries]


def chance(before: list[float], after: list[float], draws: int = 10_000) -> float:
    """How often random signs of the differences give a mean gain as large: a paired randomisation test."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    observed, generator = sum(differences), random.Random(0)
    hits = sum(sum(d if generator.random() < 0.5 else -d for d in differences) >= observed for _ in range(draws))
    return (hits + 1) / (draws + 1)


if __name__ == "__main__":
    main()
