"""What ``diffembed evaluate NAME`` does: benchmarks and tasks of mteb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed import console
from diffembed.verbs_evaluate import command, plain, show_groups

if TYPE_CHECKING:
    from diffembed.evaluation.results import Result


def run(
    name: str,
    wanted: dict[str, Any],
    *,
    model: str,
    form: dict[str, Any],
    data: Path | None,
    into: Path,
    as_json: bool,
) -> None:
    """``wanted`` as of ``find_tasks``, ``form`` as of ``load_mteb_model``."""
    from diffembed.evaluation.mteb_models import load_mteb_model
    from diffembed.evaluation.mteb_run import run_benchmark
    from diffembed.evaluation.mteb_tasks import find_tasks

    found = find_tasks(name, **wanted)
    if found.left_out:
        console.remark(f"{len(found.left_out)} tasks of other types or media are left out (--types, --list)")
    with console.progress("encoding") as tick:
        loaded = load_mteb_model(model, progress=tick, **form)
        results = run_benchmark(found, loaded, into, data=data, command=command(), report=console.remark)
    kinds = {task.metadata.name: str(task.metadata.type) for task in found.tasks}
    means = _means(results, kinds)
    if as_json:
        rows = [plain(result) for result in results]
        console.emit_json({"benchmark": found.benchmark, "model": model, "means": means, "results": rows})
        return
    head = ["task", "type", "queries", "measure", "score"]
    shown = [[r.task, kinds[r.task], r.counts.get("queries", ""), r.main, r.score] for r in results]
    console.emit(console.table(head, shown))
    if len(results) == 1:  # those of many tasks are in the files, and in the report
        for word in dict.fromkeys(group.by for group in results[0].groups):
            show_groups(word, results[0], [results[0].main])
    for kind, mean in means.items() if len(results) > 1 else ():
        console.emit(f"\nmean of {sum(kinds[r.task] == kind for r in results)} tasks of {kind}: {mean:.4f}")
    console.remark(f"results are in {into}; in mteb's own form, ready to submit, in {into / 'mteb-files'}")


def show_names(name: str | None, wanted: dict[str, Any], *, as_json: bool) -> None:
    """``--list``: the tasks of a name, or all benchmarks."""
    from diffembed.evaluation.mteb_tasks import Listed, benchmark_rows, find_tasks

    if name is None:
        rows = benchmark_rows()
        if as_json:
            keys = ("benchmark", "tasks", "retrieval")
            console.emit_json({"benchmarks": [dict(zip(keys, row, strict=True)) for row in rows]})
        else:
            console.emit(console.table(["benchmark", "tasks", "retrieval"], rows))
        return
    found = find_tasks(name, **wanted)
    tasks = [Listed.of(task) for task in found.tasks]
    if as_json:
        named = {"benchmark": found.benchmark, "left_out": list(found.left_out)}
        console.emit_json(named | {"tasks": [{key: getattr(one, key) for key in _LISTED} for one in tasks]})
        return
    cells = [["" if (cell := getattr(one, key)) is None else cell for key in _LISTED] for one in tasks]
    console.emit(console.table(_LISTED, cells))
    if found.left_out:
        console.remark(f"of other types or media: {', '.join(found.left_out)}")


_LISTED = ("task", "type", "queries", "documents", "measure", "dataset")


def _means(results: Sequence[Result], kinds: dict[str, str]) -> dict[str, float]:
    """The mean figure of each type, as on mteb's leaderboard."""
    order = dict.fromkeys(kinds[result.task] for result in results)
    scores = {kind: [result.score for result in results if kinds[result.task] == kind] for kind in order}
    return {kind: sum(values) / len(values) for kind, values in scores.items()}
