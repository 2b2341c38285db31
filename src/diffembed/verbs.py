"""The verbs of the command line: each calls one public function and shows what it returns (searching and indexes:
``verbs_index.py``, measuring: ``verbs_evaluate.py``).

``cli.py`` says which options there are, this file what they do, ``console.py`` how it looks. Libraries are imported
inside the verbs: a search should not wait for the modules of training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed import console
from diffembed.errors import DiffembedError, InputError

if TYPE_CHECKING:
    from diffembed.data.beir import Split
    from diffembed.models.export import Precision

_NAMED = 3  # of what was left out, so many are named


def encode(sources: Sequence[str], output: Path, options: dict[str, Any], *, as_json: bool) -> None:
    """``diffembed encode --output``: ``options`` as of ``encode_file``."""
    from diffembed.bulk import encode_file

    with console.progress("encoding") as tick:
        report = encode_file(sources, output, progress=tick, **options)
    if as_json:
        console.emit_json(_plain(report))
        return
    console.remark(str(report))


def encode_folder(sources: Sequence[str], into: Path, options: dict[str, Any], *, strict: bool, as_json: bool) -> None:
    """``diffembed encode --into``: ``options`` as of ``encode_folder``."""
    from diffembed.bulk import encode_folder as encode_all

    with console.progress("encoding") as tick:
        report = encode_all(sources, into, progress=tick, **options)
    if as_json:
        console.emit_json(_plain(report))
    else:
        console.remark(str(report))
        if len(report.environments) > 1:
            console.remark(f"made in {len(report.environments)} environments: last bits may differ from shard to shard")
    if report.quarantined:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
        said = (
            f"rows without a vector: {report.quarantined:,} ({kinds}); {into / 'quarantine.jsonl'} says which and why"
        )
        if strict:
            sys.stdout.flush()
            raise InputError(said)
        if not as_json:
            console.remark(said)


def verify(
    folder: Path, *, model: str | None, source: Sequence[str] | None, sample: int, seed: int, as_json: bool
) -> None:
    """``diffembed verify``: leaves with exit code 1 when something is wrong."""
    from diffembed.bulk import verify_folder

    with console.progress("verifying") as tick:
        report = verify_folder(folder, model=model, source=source, sample=sample, seed=seed, progress=tick)
    if as_json:
        console.emit_json(_plain(report))
    else:
        for problem in report.problems:
            console.emit(f"wrong: {console.printable(problem)}")
        for note in report.notes:
            console.remark(note)
        console.remark(str(report))
    if report.problems:
        sys.stdout.flush()
        more = f" (and {len(report.problems) - 1:,} more)" if len(report.problems) > 1 else ""
        raise DiffembedError(f"{folder} is not sound: {report.problems[0]}{more}")


def train(recipe: Path, *, only_pretraining: bool, resume: bool, as_json: bool) -> None:
    """``diffembed pretrain`` and ``diffembed train``."""
    from diffembed.training.configs import PRETRAINING
    from diffembed.training.run import run_recipe

    with console.training() as (line, step):
        kinds = PRETRAINING if only_pretraining else None
        report = run_recipe(recipe, kinds=kinds, resume=resume, report=line, watch=step)
    if os.environ.get("RANK", "0") != "0":
        return  # of the processes that torchrun started, the first speaks for all
    if as_json:
        console.emit_json(_plain(report))
        return
    scores = {stage: found["ndcg@10"] for stage, found in report.stages.items() if "ndcg@10" in found}
    if scores:
        console.emit("nDCG@10 after each stage (dev queries, int8)\n")
        sets = list(dict.fromkeys(name for found in scores.values() for name in found))
        rows = [[name, *(found.get(name, "") for found in scores.values())] for name in sets]
        console.emit(console.table(["set", *scores], rows))
    console.remark(f"the model is in {report.model}")


def dry_run(recipe: Path, *, only_pretraining: bool, as_json: bool) -> None:
    """``diffembed pretrain --dry-run`` and ``diffembed train --dry-run``."""
    from diffembed.training.configs import PRETRAINING
    from diffembed.training.estimate import estimate_recipe

    found = estimate_recipe(recipe, kinds=PRETRAINING if only_pretraining else None)
    if as_json:
        console.emit_json(found.to_dict())
    else:
        console.emit(console.printable(found.to_text()))


def mine(
    data: Path,
    into: Path,
    *,
    model: str,
    index: Path | None,
    corpus: Path | None,
    split: Split,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """``diffembed mine``: ``settings`` as in ``MiningSettings``."""
    from diffembed.data.mining import MiningSettings, mine_negatives

    chosen = MiningSettings(**settings)
    with console.progress("mining") as tick:
        report = mine_negatives(
            data, into, model=model, index=index, corpus=corpus, split=split, settings=chosen, progress=tick
        )
    if as_json:
        console.emit_json(_plain(report))
        return
    tally = report.tally
    console.remark(str(report))
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in tally.dropped.items() if count)
    console.remark(f"of {tally.candidates:,} candidates dropped: {dropped or 'none'}")
    if tally.left_out:
        more = f" and {tally.left_out - _NAMED:,} more" if tally.left_out > _NAMED else ""
        console.remark(f"left out, no negative passed: {', '.join(tally.left_out_named[:_NAMED])}{more}")
    if report.outside_split:
        console.remark(f"{report.outside_split:,} pairs are not in split {split}; --split all takes them too")


def adapt(
    paths: Sequence[Path],
    model: str,
    into: Path,
    *,
    settings: dict[str, Any],
    general: Sequence[Path],
    general_eval: Sequence[Path],
    work: Path | None,
    as_json: bool,
) -> None:
    """``diffembed adapt``: ``settings`` as in ``AdaptSettings``."""
    from diffembed.training.adapt import adapt as run
    from diffembed.training.adapt_recipe import AdaptSettings

    with console.training() as (line, step):
        report = run(
            paths,
            model,
            into,
            settings=AdaptSettings(**settings),
            general=general,
            general_eval=general_eval,
            work=work,
            report=line,
            watch=step,
        )
    if as_json:
        console.emit_json(_plain(report))
        return
    rows = [[name, *report.figures(name)] for name in ("held-out documents", *report.general)]
    console.emit(console.table(["", "ndcg@10 before", "after", "recall@10 before", "after"], rows))
    for reason, count in {**report.left_out, **report.silent}.items():
        console.remark(f"{count:,} files: {reason}")
    console.remark(f"the model is in {report.model}, its data and recipe in {report.work}")


def infill(
    text: str,
    *,
    model: str | None,
    tokens: Sequence[int],
    steps: int | None,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """``diffembed infill``."""
    from diffembed.doctor import default_cache
    from diffembed.infill import infill as fill
    from diffembed.infill import newest_diffusion_model

    if model is None:
        model = str(newest_diffusion_model([Path("out"), default_cache() / "models"]))
        console.remark(f"model: {model}")
    report = fill(text, model=model, tokens=tokens, steps=steps, temperature=temperature, seed=seed)
    if as_json:
        console.emit_json(report.to_dict())
        return
    console.emit(console.printable(report.filled))
    for number, blank in enumerate(report.blanks, start=1):
        others = ", ".join(f"{token!r} {probability:.3f}" for token, probability in blank.alternatives)
        console.remark(f"blank {number}: {blank.text!r}; its first token before anything was filled in: {others}")


def export(
    model: str,
    into: Path,
    *,
    precisions: Sequence[Precision],
    calibrate: Path | None,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """``diffembed export``: ``settings`` as in ``Int8Options``."""
    from diffembed.data.rows import first_texts
    from diffembed.models.export import Int8Options, export_onnx
    from diffembed.models.files import fetch_model
    from diffembed.models.integers import Int8Report

    if calibrate is not None:
        settings = settings | {"texts": first_texts(calibrate)}
    int8, costs = Int8Options(**settings), list[Int8Report]()
    written = export_onnx(fetch_model(model), into, precisions=precisions, int8=int8, report=costs.append)
    files = {p.relative_to(into).as_posix(): p.stat().st_size for p in sorted(into.rglob("*")) if p.is_file()}
    if as_json:
        console.emit_json({"model": str(written), "files": files, "int8": asdict(costs[0]) if costs else None})
        return
    for line in (*map(str, costs), f"wrote {into}: {len(files)} files, {sum(files.values()) / 1e6:.1f} MB"):
        console.remark(line)


def models(folders: Sequence[Path], *, as_json: bool) -> None:
    """``diffembed models``."""
    from diffembed.doctor import BUNDLED, default_cache
    from diffembed.models.foreign import model_directories

    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give model directories or folders that hold some")
    places = [("default", BUNDLED)] if (BUNDLED / "diffembed.json").exists() else []
    found = {path for root in (default_cache() / "models", *folders) for path in model_directories(root)}
    places += [(str(path), path) for path in sorted(found)]
    rows = [_describe(label, path) for label, path in places]
    if as_json:
        console.emit_json({"models": rows})
        return
    if not rows:
        console.remark("no models: this install has no embedded one, and none was found in the cache or in a DIR given")
        return
    keys = ("model", "name", "dims", "max_tokens", "contextual", "megabytes", "state")
    console.emit(console.table(keys, [[console.number(row[key]) for key in keys] for row in rows]))


def doctor(*, as_json: bool) -> None:
    """``diffembed doctor``: leaves with exit code 1 when something needed is broken."""
    from diffembed.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        console.emit_json(diagnosis.to_json())
    else:
        for finding in diagnosis.findings:
            console.emit(f"{finding.status:<7} {finding.name}: {console.printable(finding.detail)}")
            if finding.mend:
                console.emit(f"        mend: {console.printable(finding.mend)}")
    if not diagnosis.healthy:
        broken = [finding.name for finding in diagnosis.findings if finding.status == "broken"]
        sys.stdout.flush()
        raise DiffembedError(f"broken: {', '.join(broken)}; the lines with 'mend' above say what to do")


def _describe(label: str, path: Path) -> dict[str, Any]:
    from diffembed.models.foreign import read_config

    megabytes = round(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6, 1)
    row: dict[str, Any] = {"model": label, "path": str(path), "megabytes": megabytes}
    try:
        config = read_config(path, download=False)
    except DiffembedError as error:
        return row | {"name": "", "dims": [], "max_tokens": 0, "contextual": False, "state": str(error)}
    row |= {"name": config.name, "dims": list(config.dims), "max_tokens": config.max_tokens}
    return row | {"contextual": config.contextual, "state": "ok"}


def _plain(report: Any) -> dict[str, Any]:
    """A report as plain values: by its own ``to_dict`` where it has one."""
    if hasattr(report, "to_dict"):
        return dict(report.to_dict())
    plain: dict[str, Any] = asdict(report)
    return plain
