"""Which results are compared: two models out of result files and folders, task by task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.errors import InputError
from diffembed.evaluation.results import Result, read_results

_Tasks = dict[tuple[str, str], Result]


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models and what both were measured on.

    Attributes:
        a, b: how to call them: the model, and what else tells them apart.
        pairs: their results on each task that both have, in order of task.
        unpaired: tasks that one of them alone has.
    """

    a: str
    b: str
    pairs: tuple[tuple[Result, Result], ...]
    unpaired: tuple[str, ...]


def pair_results(places: Sequence[Path], models: Sequence[str] = ()) -> Paired:
    """Pair the results of two models.

    Args:
        places: result files or folders. Two of them hold one model each; else ``models`` picks two, or only two models
            are there.
        models: none, or two names, each with ``@`` and the beginning of a revision where one name has several.

    Raises:
        InputError: not two models, or several results of one model on one task.
    """
    if models:
        if len(models) != 2:
            raise InputError(f"--model was given {len(models)} times; two models are compared")
        results = read_results(places)
        sides = [_of_model(results, name) for name in models]
    elif len(places) == 2:
        sides = [read_results([place]) for place in places]
    else:
        results = read_results(places)
        names = sorted({result.model for result in results})
        if len(names) == 1:
            raise InputError(f"there are results of {names[0]} alone; nothing that it could be compared with")
        if len(names) != 2:
            raise InputError(f"there are results of {', '.join(names)}; name the two to compare with --model")
        sides = [[result for result in results if result.model == name] for name in names]
    a, b = (_by_task(side) for side in sides)
    shared = sorted(set(a) & set(b))
    if not shared:
        raise InputError(f"{_some(a)} and {_some(b)} have no task in common; measure both on the same sets")
    pairs = tuple((a[task], b[task]) for task in shared)
    unpaired = tuple("/".join(task) for task in sorted(set(a) ^ set(b)))
    return Paired(*_names([left for left, _ in pairs], [right for _, right in pairs]), pairs, unpaired)


def _of_model(results: Sequence[Result], name: str) -> list[Result]:
    found = [result for result in results if result.model == name]
    if not found and "@" in name:
        model, _, revision = name.rpartition("@")
        found = [result for result in results if result.model == model and result.revision.startswith(revision)]
    if not found:
        there = ", ".join(sorted({f"{result.model}@{result.revision}" for result in results}))
        raise InputError(f"no result is of {name}; there are {there}")
    return found


def _by_task(results: Iterable[Result]) -> _Tasks:
    found: _Tasks = {}
    for result in results:
        before = found.setdefault((result.benchmark, result.task), result)
        if before is not result:
            raise InputError(
                f"there are several results of {result.label}, apart by {_apart(before, result)}; give the files to "
                "compare, or --model MODEL@REVISION"
            )
    return found


def _apart(one: Result, other: Result) -> str:
    if one.model != other.model:
        return f"model ({one.model}, {other.model})"
    keys = [key for key in {**one.settings, **other.settings} if one.settings.get(key) != other.settings.get(key)]
    said = [f"{key} ({one.settings.get(key)}, {other.settings.get(key)})" for key in keys]
    if one.revision != other.revision:
        said.append(f"revision ({one.revision}, {other.revision})")
    return ", ".join(said) or "nothing but their files"


def _names(left: Sequence[Result], right: Sequence[Result]) -> tuple[str, str]:
    """Of each side its models, and where these are the same the settings and revisions that are not."""
    sides = [" + ".join(sorted({result.model for result in side})) for side in (left, right)]
    if sides[0] != sides[1]:
        return sides[0], sides[1]
    one, other = left[0], right[0]
    keys = [key for key in {**one.settings, **other.settings} if one.settings.get(key) != other.settings.get(key)]
    for i, result in enumerate((one, other)):
        said = [f"{key} {result.settings.get(key)}" for key in keys]
        sides[i] += "".join(f", {part}" for part in [*said, f"revision {result.revision}"])
    return sides[0], sides[1]


def _some(tasks: _Tasks) -> str:
    result = next(iter(tasks.values()))
    return f"{result.model} ({len(tasks)} tasks)"
