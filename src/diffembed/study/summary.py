"""What a study found, as plain rows: every figure with its interval over seeds and queries, and what each model cost.

A measure's score is the mean over its sets of nDCG@10, every set counting the same (``findings.py``).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.evaluation.breakdown import sought_lengths, upper_edge
from diffembed.models.files import atomic_file
from diffembed.study.arms import (
    ATTENTIONS,
    Arm,
    Reading,
    attention_arm,
    grid_arm,
    grid_arms,
    operation_arms,
    readings_of,
    sample_arms,
)
from diffembed.study.findings import Findings, Row
from diffembed.study.measure import study_command, task_name
from diffembed.study.recipe import FAMILIES, Backbone, Study
from diffembed.training.base import read_json

SUMMARY = "summary.json"
_PHASES = ("base", "adapt", "tune")


def summarise(found: Findings, output: Path) -> dict[str, Any]:
    """The rows of a finished study, written to ``summary.json`` and given back."""
    study = found.study
    summary = {
        "study": study.name,
        "command": study_command(study),
        "seeds": list(study.grid.seeds),
        "sets": _sets(found),
        "grid": _grid(found),
        "by_set": _by_set(found),
        "differences": _differences(found),
        "lengths": _lengths(found),
        "attention": _attention(found),
        "samples": _samples(found),
        "operations": _operations(found),
        "language": _language(study, output),
        "spent": _spent(found),
    }
    with atomic_file(output / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return summary


def samples_of(study: Study, steps: int) -> int:
    """Rows that a tuning of so many steps reads, in the mean over the turns of its sources."""
    sources = study.tune.source
    weights = np.array([source.weight for source in sources])
    return round(steps * float(weights @ np.array([s.batch or study.tune.batch for s in sources]) / weights.sum()))


def weights_of(backbone: Backbone) -> str:
    """What the attention ablation calls the weights that it tunes under both masks."""
    return "autoregressive" if backbone == "opened" else backbone


def _cell(arm: Arm) -> Row:
    return {"backbone": arm.backbone, "pooling": arm.pooling}


def _sets(found: Findings) -> list[Row]:
    rows = []
    arm = grid_arms(found.study)[0]
    for one in found.study.measure.set:
        reading = Reading(one, False, arm.attention)
        counts = found.results(arm, reading)[0].counts
        sizes = {"queries": counts["queries"], "documents": counts["documents"], "cut": counts["truncated_documents"]}
        rows.append({"set": task_name(reading), "family": one.family, "split": one.split, **sizes})
    return rows


def _grid(found: Findings) -> list[Row]:
    return [
        {"measure": measure, **_cell(arm), **found.row(found.tables(arm, measure))}
        for measure in found.measures()
        for arm in grid_arms(found.study)
    ]


def _by_set(found: Findings) -> list[Row]:
    return [
        {
            "set": task_name(reading),
            "family": reading.set.family,
            **_cell(arm),
            **found.row([found.table(arm, reading)]),
        }
        for arm in grid_arms(found.study)
        for reading in readings_of(found.study, FAMILIES, (arm.attention,))
    ]


def _differences(found: Findings) -> list[Row]:
    """Every cell of the grid minus each reference, seed by seed and query by query."""
    rows = []
    arms = {arm.name: arm for arm in grid_arms(found.study)}
    for measure in found.measures():
        tables = {name: found.tables(arm, measure) for name, arm in arms.items()}
        for reference in found.study.grid.references:
            for name in sorted(arms.keys() - {reference}, key=list(arms).index):
                row = found.row([a - b for a, b in zip(tables[name], tables[reference], strict=True)])
                above = {"seeds_above": sum(value > 0 for value in row["by_seed"])}
                rows.append({"measure": measure, "reference": reference, **_cell(arms[name]), **row, **above})
    return rows


def _lengths(found: Findings) -> list[Row]:
    """The family ``long`` by the length of the sought document in characters, the queries of all sets together."""
    readings = readings_of(found.study, ("long",), ("bidirectional",))
    edges: list[int] = []
    for reading in readings:
        lengths = sought_lengths(found.measured.task(reading))
        edges += [upper_edge(lengths[query]) for query in sorted(lengths)]
    rows = []
    for arm in grid_arms(found.study) if readings else ():
        tables = [found.table(arm, replace(reading, attention=arm.attention)) for reading in readings]
        whole, where = np.concatenate(tables, axis=1), np.array(edges)
        for edge in sorted(set(edges)):
            part = whole[:, where == edge]
            rows.append({"characters": edge, "queries": part.shape[1], **_cell(arm), **found.row([part])})
    return rows


def _attention(found: Findings) -> list[Row]:
    part = found.study.attention
    if part is None:
        return []
    return [
        {
            "measure": measure,
            "weights": weights_of(backbone),
            "pooling": pooling,
            "trained": trained,
            "tested": tested,
            **found.row(found.tables(attention_arm(found.study, backbone, pooling, trained), measure, tested)),
        }
        for measure in found.measures(part.families)
        for backbone in part.backbones
        for pooling in part.poolings
        for trained in ATTENTIONS
        for tested in ATTENTIONS
    ]


def _samples(found: Findings) -> list[Row]:
    """Trainings of their own with fewer steps, and the grid's, which have all."""
    part = found.study.samples
    if part is None:
        return []
    whole = [grid_arm(found.study, b, p) for b in part.backbones for p in part.poolings]
    rows = []
    for measure in found.measures(part.families):
        for arm in sorted([*sample_arms(found.study), *whole], key=lambda arm: arm.steps):
            counted = {"steps": arm.steps, "samples": samples_of(found.study, arm.steps)}
            rows.append({"measure": measure, **_cell(arm), **counted, **found.row(found.tables(arm, measure))})
    return rows


def _operations(found: Findings) -> list[Row]:
    part = found.study.operations
    return [
        {"measure": measure, **_cell(arm), **found.row(found.tables(arm, measure))}
        for measure in (found.measures(part.families) if part else ())
        for arm in operation_arms(found.study)
    ]


def _language(study: Study, output: Path) -> list[Row]:
    """What the stages that model language have come to on held-out text: bits a byte, a bound where text is masked."""
    rows = []
    names = ("base", *dict.fromkeys(arm.adaptation for arm in (*grid_arms(study), *operation_arms(study))))
    for name in names:
        files = [output / f"seed-{seed}" / name / "scores.json" for seed in study.grid.seeds]
        after = [found for file in files if (found := read_json(file).get("held_out_after"))]
        for key in ("next_token_bits_per_byte", "elbo_bits_per_byte"):
            values = [figures[key] for figures in after if key in figures]
            if values:
                rows.append({"stage": name, "figure": key, "mean": round(float(np.mean(values)), 5), "by_seed": values})
    return rows


def _spent(found: Findings) -> list[Row]:
    """Tokens, operations and seconds of each phase, means over the seeds."""
    study, rows = found.study, []
    for arm in (*grid_arms(study), *operation_arms(study)):
        part = study.operations if arm.equal == "operations" else None
        reading = readings_of(study, part.families if part else FAMILIES, (arm.attention,))[0]
        costs = [result.cost for result in found.results(arm, reading)]
        names = [f"{phase}_{what}" for phase in _PHASES for what in ("tokens", "flops", "seconds")]
        means = {name: float(np.mean([cost[name] for cost in costs])) for name in names if name in costs[0]}
        rows.append({**_cell(arm), "equal": arm.equal, **means})
    return rows
