"""What systems and tasks are called: by what tells them from the others among the results, and by nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffembed.evaluation.results import Result

SEED = "seed"
# Settings that choose what is asked and searched: of the task, not of the system.
_ASKED = ("split", "split_by", "sections", "lengths", "languages", "documents", "queries", "questions", "corpus")
# The orders of study/recipe.py, which needs torch; a test holds them equal.
BACKBONES = ("causal", "opened", "mntp", "diffusion", "diffusion-noshift", "diffusion-aligned")
POOLINGS = ("last", "mean", "mask")
_WORDS = {"dtype": "{value}", "query_dtype": "{value} queries", "dims": "{value} dims"}


def task_labels(results: Sequence[Result]) -> list[str]:
    """The task of each result: with what was asked, and with the rows' hash, where its name stands for several."""
    alike: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        alike.setdefault((result.benchmark, result.task), []).append(result)
    varying = {place: _varying(own, _ASKED) for place, own in alike.items()}
    hashes: dict[tuple[str, ...], set[str]] = {}
    for result in results:
        hashes.setdefault(_asked_with_seed(result), set()).add(rows_of(result))
    labels = []
    for result in results:
        keys = varying[result.benchmark, result.task]
        parts = [f"{key} {plain(result.settings[key])}" for key in keys if result.settings.get(key) is not None]
        if len(hashes[_asked_with_seed(result)]) > 1:
            parts.append(f"rows {rows_of(result)[:8] or 'unknown'}")
        labels.append(f"{result.task} ({', '.join(parts)})" if parts else result.task)
    return labels


def system_labels(results: Sequence[Result]) -> list[str]:
    """The system of each result: model, the settings in which its results on one task differ, and of need revision."""
    names = _short_names(result.model for result in results)
    alike: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for result in results:
        alike.setdefault((result.benchmark, result.model), {}).setdefault(result.task, []).append(result)
    telling: dict[tuple[str, str], dict[str, None]] = {}
    for place, by_task in alike.items():
        keys = [key for own in by_task.values() for key in _varying(own, _settings(own))]
        telling[place] = dict.fromkeys(key for key in sorted(keys) if key not in (SEED, *_ASKED))
    labels = [
        _with_settings(names[result.model], result, telling[result.benchmark, result.model]) for result in results
    ]
    revisions: dict[tuple[str, str], set[str]] = {}
    for result, label in zip(results, labels, strict=True):
        revisions.setdefault((result.benchmark, label), set()).add(result.revision)
    return [
        _joined(label, f"revision {result.revision[:8]}") if len(revisions[result.benchmark, label]) > 1 else label
        for result, label in zip(results, labels, strict=True)
    ]


def rows_of(result: Result) -> str:
    """What stands for the rows: their hash, or the revision of a data set; empty where neither is known."""
    return str(result.data.get("sha256") or result.data.get("revision") or "")


def _settings(results: Sequence[Result]) -> list[str]:
    return sorted({name for result in results for name in result.settings})


def _varying(results: Sequence[Result], keys: Iterable[str]) -> list[str]:
    """The settings in which results differ."""
    return [key for key in keys if len({repr(result.settings.get(key)) for result in results}) > 1]


def _asked_with_seed(result: Result) -> tuple[str, ...]:
    asked = [repr(result.settings.get(key)) for key in (*_ASKED, SEED)]
    return result.benchmark, result.task, *asked


def _with_settings(name: str, result: Result, telling: Iterable[str]) -> str:
    """``minilm (binary, int8 queries, 128 dims)``."""
    settings = result.settings
    told = dict.fromkeys(telling)
    if "dtype" in told:
        told["query_dtype"] = None
    if settings.get("query_dtype") == settings.get("dtype"):
        told.pop("query_dtype", None)
    order = [key for key in _WORDS if key in told] + [key for key in told if key not in _WORDS]
    shown = [key for key in order if settings.get(key) is not None]
    parts = [_WORDS.get(key, "{key} {value}").format(key=key, value=plain(settings[key])) for key in shown]
    return f"{name} ({', '.join(parts)})" if parts else name


def _joined(label: str, part: str) -> str:
    return f"{label[:-1]}, {part})" if label.endswith(")") and " (" in label else f"{label} ({part})"


def plain(value: Any) -> str:
    """A setting's value as text.

    >>> plain(True), plain(2048), plain([256, 512]), plain("dev")
    ('yes', '2,048', '256/512', 'dev')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return "/".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short_names(models: Iterable[str]) -> dict[str, str]:
    """A path by as many of its last parts as tell it from the others; any other name as it is.

    >>> _short_names(["bm25", "st:org/mini", "/a/x/model", "/a/y/model"])
    {'bm25': 'bm25', 'st:org/mini': 'st:org/mini', '/a/x/model': 'x/model', '/a/y/model': 'y/model'}
    """
    models = list(dict.fromkeys(models))
    shown = {model: model for model in models}
    for model in models:
        prefix, path = ("st:", model[3:]) if model.startswith("st:") else ("", model)
        if not path.startswith(("/", "./", "../", "~")):
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..", "~")]
        for count in range(1, len(parts) + 1):
            tail = "/".join(parts[-count:])
            if not any(other != model and ("/" + other).endswith("/" + tail) for other in models):
                shown[model] = prefix + tail
                break
    return shown


def studied_place(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Where a cell of a study stands: backbones and poolings as ``diffembed study`` orders them, others after them.

    >>> studied_place({"backbone": "mntp", "pooling": "mean"}), studied_place({"dtype": "int8"})
    ((2, 1), (6, 3))
    """
    orders = ((BACKBONES, settings.get("backbone")), (POOLINGS, settings.get("pooling")))
    backbone, pooling = (known.index(value) if value in known else len(known) for known, value in orders)
    return backbone, pooling


def natural(text: str) -> tuple[object, ...]:
    """A key that orders numbers, and numbers in names, by size.

    >>> sorted(["k-1024", "k-256", "k", "a (64 dims)", "a (512 dims)"], key=natural)
    ['a (64 dims)', 'a (512 dims)', 'k', 'k-256', 'k-1024']
    >>> sorted(["0.5", "4096", "0.25", "512"], key=natural)
    ['0.25', '0.5', '512', '4096']
    """
    if re.fullmatch(r"\d+\.\d+", text):
        return ((0, 0, ""), (1, float(text), ""), (0, 0, ""))
    pieces = re.split(r"(\d+)", text.casefold())
    return tuple((1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces)
