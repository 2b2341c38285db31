"""What ``diffembed report`` does: it calls the functions of ``diffembed.report`` and shows what they return."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from diffembed import console

Form = Literal["terminal", "markdown", "json"]


def report(places: Sequence[Path], *, into: Path | None, form: Form, title: str) -> None:
    """``diffembed report RESULTS...``."""
    from diffembed.report.report import check_target, make_report, maps_of, write_report

    if into is not None:
        check_target(into, places)
    found = make_report(places, title=title, maps=maps_of(into) if into is not None else ())
    if form == "json":
        console.emit_json(found.to_json())
    elif form == "markdown":
        console.emit(console.printable(found.to_markdown()).rstrip("\n"))
    else:
        console.emit(f"{found.title}\n{found.summary}")
        for section in found.sections:
            for table in (table.shown() for table in section.tables):
                note = f"\n{table.note}" if table.note else ""
                console.emit(
                    f"\n{table.title}\n\n{console.table(table.head, table.texts(), right=table.numeric)}{note}"
                )
    if form == "terminal":
        for note in found.notes:
            console.remark(f"note: {note}")
    if into is not None:
        with console.progress("drawing") as tick:
            page, notes = write_report(found, into, progress=tick)
        for note in notes:
            console.remark(f"note: {note}")
        console.remark(f"the page is {page}, with {len(found.charts)} figures")


def map_documents(data: Path, into: Path, options: dict[str, Any], *, as_json: bool) -> None:
    """``diffembed report map``: ``options`` as of ``map_documents``."""
    from diffembed.report.figures import draw
    from diffembed.report.points import map_documents as lay_out
    from diffembed.report.report import FIGURES, MAPS
    from diffembed.report.style import matplotlib_module

    matplotlib_module()  # known to be there before anything is encoded
    with console.progress("encoding") as tick:
        found = lay_out(data, progress=tick, **options)
    kept = found.write(into / MAPS)
    chart = found.to_chart()
    notes = draw(chart, into / FIGURES)
    if as_json:
        figures = [str(into / FIGURES / f"{chart.name}.{kind}") for kind in ("png", "svg")]
        values = {"map": str(kept), "figures": figures, "documents": len(found.ids), "notes": [*found.notes, *notes]}
        console.emit_json(values | {"r_precision": found.precision, "by_chance": found.chance})
        return
    console.emit(f"R-precision {found.precision:.4f}, by chance {found.chance:.4f}, {len(found.ids):,} documents")
    for note in (*found.notes, *notes):
        console.remark(note)
    console.remark(f"drawn in {into / FIGURES / chart.name}.png and .svg")
