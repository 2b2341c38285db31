"""Adapt a model to a user's own folder: read it, train a little on it, merge with the model as it was, and measure.

    folder -> documents with the questions they ask (data/own_folder.py) -> training text and pairs, two tests
    starting model -> [masked diffusion on the text] -> pairs -> merged with the starting model, share by share
    chosen: the share that is best on the dev questions, among those that keep the general sets within a bound

No label and no language model is needed. Held-out documents are in no step of it but the report.
"""

from __future__ import annotations

import math
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffembed import __version__
from diffembed.data.beir import RetrievalTask, load_beir
from diffembed.data.own_folder import OwnFolder, read_own_folder
from diffembed.data.own_work import DEV, HELD_OUT, WorkReport, write_work
from diffembed.encoder import Encoder, resolve_model
from diffembed.errors import InputError, ModelError, TrainingError
from diffembed.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, read_model_config, save_model
from diffembed.models.files import check_safetensors
from diffembed.models.merging import Parents, merged_backbone, read_parents
from diffembed.training.adapt_card import adapt_card
from diffembed.training.adapt_general import halves, named
from diffembed.training.adapt_recipe import DIFFUSION, PAIRS, AdaptSettings, general_data, recipe_text
from diffembed.training.adapt_speed import fills_in, steps_in
from diffembed.training.loop import Progress
from diffembed.training.run import run_recipe
from diffembed.training.scoring import write_graphs
from diffembed.training.state import Report

RECIPE = "adapt.toml"
METRICS = ("ndcg@10", "recall@10")
_CHUNK_TOKENS = 256  # of an index
_FEWEST, _MOST = 30, 120  # steps
_LEAST_GROUPS = 20
Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Share:
    """A merge that was tried: how much of the adapted model, and nDCG@10 on the dev questions and, by set, general.

    ``lost`` is the mean loss over the general sets against the starting model, ``doubt`` its standard error.
    """

    share: float
    dev: float
    general: dict[str, float]
    lost: float = 0.0
    doubt: float = 0.0


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """What came of it.

    Attributes:
        model, work: the model directory, and the folder with the data and the recipe.
        documents: train, dev, held_out; ``left_out``: by reason, how many files gave no text; ``silent``: no question.
        pairs: of training, by where they are from.
        diffusion: whether there was such a stage, ``why``, and the held-out bound before and after.
        shares: every merge, share 0 (the starting model) first; ``share``: the one that was chosen.
        held_out, general: by set, ``before`` and ``after``, nDCG@10 and recall@10 each.
    """

    model: str
    work: str
    documents: dict[str, int]
    left_out: dict[str, int]
    silent: dict[str, int]
    pairs: dict[str, int]
    questions: dict[str, int]
    chunks: int
    steps: int
    diffusion: dict[str, Any]
    shares: tuple[Share, ...]
    share: float
    held_out: dict[str, Scores]
    general: dict[str, dict[str, Scores]]
    seconds: float

    def figures(self, name: str) -> list[float]:
        """nDCG@10 before and after, then recall@10, of a general set or (another name) the held-out documents."""
        scores = self.general.get(name, self.held_out)
        return [scores[when][metric] for metric in METRICS for when in ("before", "after")]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def adapt(
    paths: Sequence[str | Path],
    model: str | Path,
    into: str | Path,
    *,
    settings: AdaptSettings | None = None,
    general: Sequence[str | Path] = (),
    general_eval: Sequence[str | Path] = (),
    work: str | Path | None = None,
    report: Report = _stderr,
    watch: Callable[[Progress], None] | None = None,
) -> AdaptReport:
    """Make a model that searches the files under ``paths`` better.

    Args:
        paths: files and folders, read as an index reads them.
        model: what to begin from: ``default`` or a model directory that diffembed wrote.
        into: the model directory to make; one that is there is replaced.
        general: BEIR folders and files of pairs, read along against forgetting.
        general_eval: BEIR folders to measure forgetting on; ``general``'s folders unless given.
        work: where the data and the recipe go; ``into`` with ``-work`` after its name unless given.
        report, watch: as ``run_recipe`` takes them.

    Raises:
        InputError: a path that is not there, too small a folder, settings or places that cannot be meant.
        ModelError: the model is damaged, or is none that can be trained on.
        TrainingError: training or writing failed.
    """
    start = time.perf_counter()
    settings = settings or AdaptSettings()
    settings.check()
    source = resolve_model(model)
    config = read_model_config(source)
    if config.prefix_ids or config.suffix_ids:
        raise ModelError(f"{model} was made elsewhere and exported; adapt begins from a model that diffembed trained")
    data = general_data(general)
    judged = named(general_data(general_eval).folders or data.folders, (HELD_OUT, DEV))
    target, work = _places(paths, source, Path(into), work)
    encoder = Encoder.load(source)
    own = read_own_folder(paths)
    chunk_tokens = settings.chunk_tokens or min(_CHUNK_TOKENS, encoder.max_tokens)
    wrote = write_work(own, work, count_tokens=encoder.count_tokens, chunk_tokens=chunk_tokens)
    report(_read(own, wrote))
    if config.contextual and wrote.groups < _LEAST_GROUPS:
        raise InputError(
            f"{model} reads chunks together, and only {wrote.groups} training documents have three chunks and a "
            f"question ({_LEAST_GROUPS} are needed); give longer documents, or another model"
        )
    tasks, choice = {HELD_OUT: load_beir(work / HELD_OUT)}, {DEV: load_beir(work / DEV)}
    for name, path in judged.items():
        choice[name], tasks[name] = halves(path, read=path in data.folders)
    before = _scores(encoder, tasks, report, "before")
    diffusion = _diffusion(source, config, work, settings, report)
    steps = _steps(source, work, wrote, settings, report)
    diffusion_steps = max(_FEWEST // 3, steps // 3) if diffusion["done"] else 0
    text = recipe_text(
        target.name, source, config, settings, steps=steps, diffusion_steps=diffusion_steps, general=data
    )
    (work / RECIPE).write_text(text, encoding="utf-8")
    trained = run_recipe(work / RECIPE, report=report, watch=watch)
    if found := trained.stages.get(DIFFUSION):
        diffusion |= {when: found[f"held_out_{when}"] for when in ("before", "after") if f"held_out_{when}" in found}
    parents = read_parents([source, work / "run" / PAIRS / "model"], attn_implementation="sdpa")
    shares = _sweep(parents, encoder, choice, settings, work, report)
    best = _best(shares, settings)
    report(f"share {best:g} of the adapted model is chosen")
    described = _AsMade(own, wrote, settings, steps, diffusion, shares, best)
    adapted = _write(parents, best, target, source, described, report)
    after = _scores(adapted, tasks, report, "after")
    held_out, *others = ({"before": before[name], "after": after[name]} for name in tasks)
    result = AdaptReport(
        model=str(target),
        work=str(work),
        documents={"train": len(own.train), "dev": len(own.dev), "held_out": len(own.held_out)},
        left_out=dict(Counter(_kind(s.reason) for s in own.left_out)),
        silent=dict(Counter(s.reason for s in own.silent)),
        pairs=dict(wrote.origins),
        questions={DEV: wrote.dev_questions, HELD_OUT: wrote.held_out_questions},
        chunks=wrote.chunks,
        steps=steps,
        diffusion=diffusion,
        shares=tuple(shares),
        share=best,
        held_out=held_out,
        general=dict(zip(judged, others, strict=True)),
        seconds=round(time.perf_counter() - start, 1),
    )
    (target / "README.md").write_text(adapt_card(result.to_dict(), target.name, str(model)), encoding="utf-8")
    return result


@dataclass(frozen=True, slots=True)
class _AsMade:
    """What a finished model's manifest says."""

    own: OwnFolder
    wrote: WorkReport
    settings: AdaptSettings
    steps: int
    diffusion: dict[str, Any]
    shares: Sequence[Share]
    share: float


def _places(paths: Sequence[str | Path], source: Path, into: Path, work: str | Path | None) -> tuple[Path, Path]:
    """The model directory and the work folder, if they may be written."""
    target = into.resolve()
    place = Path(work).resolve() if work is not None else target.with_name(f"{target.name}-work")
    if target == source.resolve():
        raise InputError(f"{into} is the model to begin from; give another directory to write into")
    if target.exists() and not (target / CONFIG_FILE).is_file() and (target.is_file() or any(target.iterdir())):
        raise InputError(f"{into} holds other files; give a new directory, or a model directory to replace")
    if any(c in str(place) for c in "*?["):
        raise InputError(f"{place} has one of * ? [ in its name, which recipes read as a pattern; give another --work")
    for root in map(Path.resolve, map(Path, paths)):
        for written in (target, place):
            if written == root or written.is_relative_to(root):
                raise InputError(f"{written} lies in {root}, which is read; write outside of it")
    return target, place


def _read(own: OwnFolder, wrote: WorkReport) -> str:
    origins = ", ".join(f"{count:,} {origin}" for origin, count in sorted(wrote.origins.items()))
    return (
        f"{len(own.documents):,} documents: {wrote.pairs:,} pairs to train on ({origins}), {wrote.dev_questions:,} "
        f"questions to choose by and {wrote.held_out_questions:,} held out, {wrote.chunks:,} chunks; left out "
        f"{len(own.left_out):,} files without text of their own, {own.ambiguous:,} questions that several documents "
        f"ask, {own.boilerplate:,} paragraphs of boilerplate; {len(own.silent):,} documents ask nothing"
    )


def _kind(reason: str) -> str:
    """A reason without the file that it names."""
    return "the same text as another file" if reason.startswith("the same text as") else reason


def _scores(encoder: Encoder, tasks: dict[str, RetrievalTask], report: Report, when: str) -> dict[str, Scores]:
    """nDCG@10 and recall@10 of int8 vectors, by set; models that read chunks together do so."""
    from diffembed.evaluation.retrieval import evaluate_encoder

    found = {}
    for name, task in tasks.items():
        scores = evaluate_encoder(task, encoder, dtype="int8").scores
        found[name] = {metric: round(scores[metric], 4) for metric in METRICS}
        report(f"{when}: {name} " + ", ".join(f"{metric} {found[name][metric]:.4f}" for metric in METRICS))
    return found


def _diffusion(
    source: Path, config: ModelConfig, work: Path, settings: AdaptSettings, report: Report
) -> dict[str, Any]:
    """Whether to train by masked diffusion, and why."""
    if settings.diffusion is not None:
        return {"done": settings.diffusion, "why": "as asked"}
    nats, guess = fills_in(source, config, work)
    done = nats < guess
    why = f"at half of the tokens masked the model predicts them at {nats:.2f} nats, a guess among all at {guess:.2f}"
    report(f"diffusion stage: {'yes' if done else 'no'}, {why}")
    return {"done": done, "why": why}


def _steps(source: Path, work: Path, wrote: WorkReport, settings: AdaptSettings, report: Report) -> int:
    if settings.steps is not None:
        return settings.steps
    if settings.minutes is not None:
        steps = steps_in(settings.minutes * 60, source, work, settings)
        report(f"about {steps} steps fit into {settings.minutes:g} minutes of training")
        return steps
    own = 1 - settings.span_weight - settings.general_weight
    return max(_FEWEST, min(_MOST, math.ceil(2 * wrote.pairs / settings.batch / own)))


def _sweep(
    parents: Parents,
    encoder: Encoder,
    choice: dict[str, RetrievalTask],
    settings: AdaptSettings,
    work: Path,
    report: Report,
) -> list[Share]:
    """Every share on the questions that are chosen by; the starting model first."""
    from diffembed.evaluation.retrieval import evaluate_encoder

    found: list[Share] = []
    folder = work / "merged"
    start: dict[str, dict[str, dict[str, float]]] = {}
    for share in (0.0, *sorted(settings.shares)):
        tried = encoder
        if share:
            backbone = merged_backbone(parents, "slerp", (1 - share, share))
            save_model(folder, backbone, parents.tokenizer, parents.config)
            write_graphs(folder, ("int8",), report)
            tried = Encoder.load(folder)
        reports = {name: evaluate_encoder(task, tried, dtype="int8") for name, task in choice.items()}
        scores = {name: round(r.scores["ndcg@10"], 4) for name, r in reports.items()}
        start = start or {name: r.by_query for name, r in reports.items()}
        lost, doubt = _lost([(start[name], r.by_query) for name, r in reports.items() if name != DEV])
        found.append(Share(share, scores.pop(DEV), scores, lost, doubt))
        general = "".join(f", {name} {score:.4f}" for name, score in scores.items())
        report(
            f"share {share:g}: nDCG@10 {found[-1].dev:.4f} on dev questions{general}; lost {lost:.4f} +- {doubt:.4f}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _lost(sets: Sequence[tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]]) -> tuple[float, float]:
    """nDCG@10 lost in the mean over sets, before and after by query, and the standard error of that mean."""
    losses = [np.array([before[q]["ndcg@10"] - after[q]["ndcg@10"] for q in before]) for before, after in sets]
    if not losses:
        return 0.0, 0.0
    errors = [float(loss.std(ddof=1)) / math.sqrt(len(loss)) for loss in losses]
    mean = sum(float(loss.mean()) for loss in losses) / len(losses)
    return round(mean, 6), round(math.hypot(*errors) / len(losses), 6)


def _best(shares: Sequence[Share], settings: AdaptSettings) -> float:
    """The share that is best on the dev questions, of those that keep the general sets; the start does."""
    allowed = [s for s in shares if s.share == 0 or s.lost + s.doubt <= settings.most_loss]
    return max(allowed, key=lambda s: s.dev).share


def _write(parents: Parents, share: float, target: Path, source: Path, made: _AsMade, report: Report) -> Encoder:
    """The finished model; with the precision that the starting model's weights stand in."""
    half = {tensor.dtype for tensor in check_safetensors(source / WEIGHTS_FILE).values()} == {"F16"}
    backbone = merged_backbone(parents, "slerp", (1 - share, share))
    manifest = {
        "objective": {"kind": "merge"},
        "adapted": {
            "pairs": dict(made.wrote.origins),
            "documents": len(made.own.documents),
            "steps": made.steps,
            "diffusion": made.diffusion,
            "settings": asdict(made.settings),
            "shares": [asdict(s) for s in made.shares],
        },
        "merge": {"method": "slerp", "weights": [1 - share, share], "parents": list(parents.facts)},
        "seed": made.settings.seed,
        "versions": {"diffembed": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "command": "diffembed adapt",
        "begun_from": parents.config.manifest,
    }
    config = replace(parents.config, name=target.name, manifest=manifest)
    try:
        save_model(target, backbone, parents.tokenizer, config, dtype="float16" if half else "float32")
        write_graphs(target, ("int8",), report)
        return Encoder.load(target)
    except OSError as error:
        raise TrainingError(f"{target} was not written ({error}); free space on the disk, then run it again") from None
