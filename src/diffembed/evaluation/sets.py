"""Folders in BEIR layout as results: one, or every one below a folder, each measured once for one model and its data.

A result is used again where the model's revision, the settings and every byte of the set are the same; so a run that
was stopped goes on where it was, and a second model is measured beside the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffembed.data.beir import RetrievalTask, Split, load_beir
from diffembed.data.sections import load_sections
from diffembed.errors import InputError
from diffembed.evaluation.breakdown import breakdown
from diffembed.evaluation.ranker import Ranker
from diffembed.evaluation.results import Result, ResultFolder, Scores
from diffembed.evaluation.retrieval import report_on

Progress = Callable[[int, int], None] | None
BENCHMARK = "beir"
_SUFFIXES = {".gz", ".jsonl", ".tsv", ".zst"}


def find_sets(root: Path, only: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """The sets in and below a folder: name (the path from it) and folder, in order of name.

    Args:
        root: a folder; where it is a set itself, that one has the folder's own name.
        only: patterns such as ``xling-*`` of which a name must match one; all names unless given.

    Raises:
        InputError: no folder, no set in it, or none that matches.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give one that holds sets in BEIR layout")
    folders = sorted({corpus.parent for corpus in root.rglob("corpus.jsonl*") if _is_set(corpus.parent)})
    sets = [(_name(folder, root), folder) for folder in folders]
    if not sets:
        raise InputError(
            f"no folder in or below {root} has corpus.jsonl[.gz], queries.jsonl[.gz] and qrels.tsv (or qrels/*.tsv)"
        )
    chosen = [(name, folder) for name, folder in sets if not only or any(fnmatch(name, pattern) for pattern in only)]
    if not chosen:
        some = ", ".join(name for name, _ in sets[:5]) + ", ..." * (len(sets) > 5)
        raise InputError(f"none of the {len(sets)} sets below {root} matches {', '.join(only)}; there are {some}")
    return chosen


def data_digest(folder: Path) -> str:
    """SHA-256 over every file of a set, in order of path."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def evaluate_set(
    folder: Path,
    ranker: Ranker,
    *,
    name: str | None = None,
    split: Split = "all",
    sections: bool = False,
    into: ResultFolder | None = None,
    command: str = "",
    progress: Progress = None,
) -> tuple[Result, bool]:
    """One set: its result, and whether it was there already.

    Args:
        folder: in BEIR layout.
        ranker: the model.
        name: of the set in the results; the folder's unless given.
        split: which queries are asked.
        sections: cut the documents at their headings and ask for sections (``diffembed.data.sections``).
        into: where results are kept; measured anew and not kept unless given.
        command: what was called, for the result's environment.
        progress: called with (documents encoded, documents).

    Raises:
        InputError: unusable data, an untrained width.
    """
    name = name or folder.resolve().name
    data = {"source": name, "sha256": data_digest(folder)} if folder.is_dir() else {}
    task = replace(load_sections(folder, split) if sections else load_beir(folder, split), name=name)
    settings = settings_of(ranker, task) | {"split": split} | ({"sections": True} if sections else {})
    if into is not None:
        kept = into.find(BENCHMARK, name, ranker.model, ranker.revision, settings)
        if kept is not None and kept.data == data:
            return kept, True
    report = report_on(task, ranker.rank(task, progress=progress), model=ranker.model, split=split)
    # Chunks that are read alone are far below the limit, however long their document is.
    at_once = task.doc_ids is None or settings["contextual"]
    groups = breakdown(
        task,
        report.by_query,
        count_tokens=getattr(ranker.encoder, "count_tokens", None),
        limit=ranker.settings.get("max_tokens") if at_once else None,
    )
    result = report.to_result(ranker.revision, benchmark=BENCHMARK, settings=settings, data=data, groups=groups)
    result = replace(result, notes=_notes(result, task))
    if into is not None:
        into.write(result, command)
    return result, False


def evaluate_sets(
    root: Path,
    ranker: Ranker,
    *,
    into: ResultFolder,
    only: Sequence[str] = (),
    split: Split = "all",
    command: str = "",
    report: Callable[[str], None] | None = None,
) -> list[Result]:
    """Every set in and below a folder. ``report`` is told of each as it is done.

    Raises:
        InputError: no set there, or one that cannot be used; what was measured before stands.
    """
    results: list[Result] = []
    sets = find_sets(root, only)
    for number, (name, folder) in enumerate(sets, start=1):
        result, kept = evaluate_set(folder, ranker, name=name, split=split, into=into, command=command)
        results.append(result)
        if report is not None:
            took = "was there" if kept else f"{result.cost['seconds']:.1f} s"
            report(f"{ranker.model} {number}/{len(sets)} {name}: {result.main} {result.score:.4f} ({took})")
    return results


def settings_of(ranker: Ranker, task: RetrievalTask) -> dict[str, Any]:
    """The settings that the result of a task has: those of the ranker, and whether chunks are read together there."""
    together = bool(ranker.settings.get("contextual")) and task.doc_ids is not None
    return {"dtype": "none", "query_dtype": "none", "dims": 0} | ranker.settings | {"contextual": together}


def mean_of_sets(results: Sequence[Result]) -> Scores:
    """Each measure that all results have: its mean over them, every set counting the same."""
    shared = [name for name in results[0].scores if all(name in result.scores for result in results)]
    return {name: sum(result.scores[name] for result in results) / len(results) for name in shared}


def means_of_parts(results: Sequence[Result], parts: Mapping[str, str]) -> dict[str, Scores]:
    """A benchmark's own figures: ``all`` of its tasks, and those of each of its parts; every task counts the same.

    Args:
        parts: of every task, in the benchmark's order, the part it belongs to.

    Returns:
        Empty while a task is missing: a mean over others could be mistaken for these.
    """
    by_task = {result.task: result for result in results}
    if set(by_task) != set(parts):
        return {}
    found = {"all": mean_of_sets(results)}
    for part in dict.fromkeys(parts.values()):
        found[part] = mean_of_sets([by_task[task] for task, which in parts.items() if which == part])
    return found


def _is_set(folder: Path) -> bool:
    judged = (folder / "qrels.tsv").is_file() or any((folder / "qrels").glob("*.tsv"))
    return judged and any(folder.glob("queries.jsonl*"))


def _name(folder: Path, root: Path) -> str:
    name = folder.relative_to(root).as_posix()
    return folder.resolve().name if name == "." else name


def _notes(result: Result, task: RetrievalTask) -> tuple[str, ...]:
    counts: dict[str, Any] = result.counts
    said = []
    if cut := counts["truncated_documents"]:
        said.append(f"{cut:,} of {len(task.texts):,} documents were cut to the model's limit.")
    if empty := counts["empty_documents"]:
        said.append(f"{empty:,} documents have no text and cannot be found.")
    if unjudged := counts["unjudged_queries"]:
        said.append(f"{unjudged:,} queries were not asked: no document is relevant to them.")
    return tuple(said)
