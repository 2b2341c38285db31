"""Results made by code for the tests of the report: no model was measured, and no name claims that one was."""

from __future__ import annotations

import math
import random
from pathlib import Path

from diffembed.evaluation.results import Group, Result, ResultFolder, Scores

MODELS = ("model-a", "model-b", "st:model-c")


def result(
    benchmark: str,
    task: str,
    model: str,
    *,
    skill: float,
    queries: int = 40,
    measure: str = "ndcg@10",
    groups: tuple[Group, ...] = (),
    cost: dict[str, float] | None = None,
    data: str = "",
    revision: str = "",
    **settings: object,
) -> Result:
    """A result whose queries score ``skill`` with some spread."""
    draws = random.Random(f"{benchmark} {task} {model} {sorted(settings.items())}")
    by_query: dict[str, Scores] = {
        f"q{i}": {measure: min(1.0, max(0.0, draws.gauss(skill, 0.25)))} for i in range(queries)
    }
    score = sum(one[measure] for one in by_query.values()) / queries if queries else skill
    return Result(
        benchmark,
        task,
        model,
        revision or f"{model}-1",
        measure,
        {measure: score},
        settings=dict(settings),
        groups=groups,
        by_query=by_query,
        counts={"queries": queries, "documents": 1000, "truncated": 3},
        cost={"seconds": 12.5, "tokens": 40_000.0} | (cost or {}),
        data={"source": task, "sha256": data or f"{task}-rows"},
        environment={"date": "2026-01-02T03:04:05Z", "diffembed": "0", "numpy": "2", "command": f"evaluate {task}"},
    )


def retrieval(tasks: int = 5) -> list[Result]:
    """Three models and bm25 on some tasks, with languages; the last task has two of them only."""
    found = []
    for number in range(tasks):
        for order, model in enumerate(("bm25", *MODELS)):
            if number == tasks - 1 and order > 1:
                continue
            skill = 0.35 + 0.08 * order + 0.25 * math.sin(number + order / 2) ** 2
            found.append(result("beir", f"set-{number}", model, skill=skill, split="dev"))
    return found


def languages() -> list[Result]:
    """Two models on one task in four languages."""
    found = []
    for order, model in enumerate(MODELS[:2]):
        groups = tuple(
            Group("language", name, 20, {"ndcg@10": 0.3 + 0.1 * order + 0.05 * at}, "few queries")
            for at, name in enumerate(("de", "en", "ja", "zh-Hant"))
        )
        found.append(result("tongues", "many", model, skill=0.5, groups=groups))
    return found


def lengths() -> list[Result]:
    """Passkeys at six lengths and five depths, by models that read 512, 2048 and any number of tokens."""
    found = []
    for model, limit in zip(MODELS, (512, 2048, 32768), strict=True):
        for task in ("passkey", "needle"):
            groups = []
            for tokens in (256, 512, 1024, 2048, 4096, 8192):
                ceiling = min(1.0, limit / tokens)
                score = round(ceiling * (0.98 if task == "passkey" else 0.8) * 50) / 50
                groups.append(Group("length", str(tokens), 50, {"accuracy": score, "ceiling": ceiling}))
            for depth in range(5):
                share = round((1 - depth / 5 if limit < 8192 else 0.95) * 60) / 60
                groups.append(Group("depth", str(depth / 4), 60, {"accuracy": share}))
            found.append(
                result(
                    "longdoc",
                    task,
                    model,
                    skill=0.6,
                    measure="accuracy",
                    groups=tuple(groups),
                    max_tokens=limit,
                    seed=0,
                )
            )
    return found


def corpora() -> list[Result]:
    """Two models in a corpus that grows, and in training that goes on."""
    found = []
    for order, model in enumerate(MODELS[:2]):
        sizes = tuple(
            Group("documents", str(10**size), 100, {"recall@10": 0.95 - (size - 3) * (0.1 - 0.04 * order)})
            for size in range(3, 8)
        )
        found.append(result("scale", "growing", model, skill=0.7, measure="recall@10", groups=sizes))
        trained = tuple(
            Group("samples", str(count), 80, {"ndcg@10": 0.3 + 0.1 * order + 0.1 * math.log2(count / 3200)})
            for count in (3200, 4800, 6400, 8000, 9600, 10880)
        )
        found.append(result("amount", "theorems", model, skill=0.5, groups=trained))
    return found


def forms() -> list[Result]:
    """One model in three widths and three dtypes on two tasks."""
    found = []
    for task in ("set-0", "set-1"):
        for dtype, size, loss in (("float32", 4.0, 0.0), ("int8", 1.0, 0.01), ("binary", 1 / 8, 0.08)):
            for dims in (64, 128, 256):
                skill = 0.6 - loss - 8 / dims
                cost = {"bytes_per_document": dims * size}
                found.append(result("widths", task, "model-a", skill=skill, cost=cost, dtype=dtype, dims=dims))
    return found


def study() -> list[Result]:
    """Four backbones by three poolings by three seeds on two tasks."""
    found = []
    for task in ("short", "long"):
        for b, backbone in enumerate(("causal", "opened", "mntp", "diffusion")):
            for p, pooling in enumerate(("last", "mean", "mask")):
                for seed in range(3):
                    name = f"{backbone}-{pooling}"
                    skill = 0.3 + 0.07 * b + 0.05 * (p == 1)
                    found.append(
                        result("study", task, name, skill=skill, backbone=backbone, pooling=pooling, seed=seed)
                    )
    return found


def everything() -> list[Result]:
    """One of each kind."""
    return [*retrieval(), *languages(), *lengths(), *corpora(), *forms(), *study()]


def write(folder: Path, results: list[Result]) -> Path:
    """The files of some results."""
    for one in results:
        ResultFolder(folder).write(one)
    return folder
