"""A benchmark in parts: each can be run alone (`--only PART`), and its figures join those of the others in one result.

What a part measures has names that begin with one of its prefixes, and its notes begin with its name. A run of some
parts takes the figures and notes of the others from the result file that is there, and notes when these were measured.
Figures of another machine or other packages are not mixed with new ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from _common import PACKAGES, machine, result_path, versions

Parts = Mapping[str, Sequence[str]]  # prefixes of metrics, by part


def earlier(args: argparse.Namespace, packages: Sequence[str]) -> dict[str, Any]:
    """The result that a run of some parts adds to; nothing where all are run, or where there is none.

    Raises:
        SystemExit: it is of another machine or of other packages.
    """
    path = result_path(args)
    if not args.only or not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now: dict[str, dict[str, Any]] = {"machine": machine(), "versions": versions((*PACKAGES, *packages))}
    for what, values in now.items():
        before: dict[str, Any] = found[what]
        other = {name for name in values.keys() | before.keys() if values.get(name) != before.get(name)}
        if what == "versions":  # a contender's package that one run alone has: the other run left it out
            other -= (set(packages) - set(PACKAGES)) & (values.keys() ^ before.keys())
        if other:
            said = ", ".join(f"{name} {before.get(name)}, now {values.get(name)}" for name in sorted(other))
            raise SystemExit(f"{path.name} has another {what} ({said}); run all parts, or use --name")
    return found


def joined(
    parts: Parts, run: Sequence[str], new: Mapping[str, float], notes: Sequence[str], before: Mapping[str, Any]
) -> tuple[dict[str, float], list[str]]:
    """Metrics and notes of the parts that were run, and of the others as they were.

    Args:
        parts: all there are, in the order of the result.
        run: those that were run now.
        new, notes: what they gave; a note of a part begins with ``PART: ``, one of the whole run has no such beginning.
        before: what ``earlier`` gave.
    """
    metrics: dict[str, float] = {}
    kept = [part for part in parts if part not in run]
    old: dict[str, float] = before.get("metrics", {})
    said = [note for note in before.get("notes", "").split("; ") if note.startswith(tuple(f"{p}: " for p in kept))]
    for part, prefixes in parts.items():
        source = new if part in run else old
        own = {name: value for name, value in source.items() if name.startswith(tuple(prefixes))}
        metrics |= own
        mark = f"{part}: measured by `"
        if own and part in kept and not any(note.startswith(mark) for note in said):
            gone = before["versions"].keys() - versions(before["versions"]).keys()  # those of contenders
            beside = "".join(f", {name} {before['versions'][name]}" for name in sorted(gone - {"python"}))
            said.append(f"{mark}{before['command']}` at {before['commit']}, {before['date'][:10]}{beside}")
    if lost := sorted(set(new) - set(metrics)):
        raise ValueError(f"metrics of no part that was run: {', '.join(lost)}")
    return metrics, [*(note.replace("; ", ", ") for note in notes), *said]  # "; " stands between notes
