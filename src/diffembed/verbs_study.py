"""What ``diffembed study`` does: run, plan or show a controlled comparison."""

from __future__ import annotations

from pathlib import Path

from diffembed import console
from diffembed.errors import InputError


def study(recipe: Path, *, minutes: float | None, dry_run: bool, tables: bool, as_json: bool) -> None:
    """``diffembed study``: the summary as tables, or whole as JSON."""
    from diffembed.study import plan_study, read_summary, run_study
    from diffembed.study.tables import markdown

    if dry_run and tables:
        raise InputError("--dry-run and --tables were both given; one says what would be done, the other what was")
    if dry_run:
        plan = plan_study(recipe)
        console.emit_json(plan) if as_json else console.emit(console.printable(_planned(plan)))
        return
    if tables:
        summary = read_summary(recipe)
    else:
        with console.training() as (line, step):
            summary = run_study(recipe, minutes=minutes, report=line, watch=step)
    console.emit_json(summary) if as_json else console.emit(console.printable(markdown(summary)))


def _planned(plan: dict[str, object]) -> str:
    rows = plan["stages"]
    assert isinstance(rows, list)
    head = ["stage", "kind", "steps", "million tokens", "TFLOP"]
    lines = [[r["stage"], r["kind"], r["steps"], r["tokens"] / 1e6, r["flops"] / 1e12] for r in rows]
    return (
        f"{console.table(head, lines)}\n\nof each of {plan['seeds']} seeds (tokens and operations at most): "
        f"{plan['models']} models in all, {plan['measured']} of {plan['measurements']} measurements are there"
    )
