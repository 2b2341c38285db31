"""What the evaluations of ``cli_generated.py`` do: each verb calls one public function and shows what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from diffembed import console
from diffembed.verbs_evaluate import command, plain

if TYPE_CHECKING:
    from diffembed.data.beir import Split
    from diffembed.evaluation.generated.context import Reading
    from diffembed.evaluation.generated.haystacks import Haystacks
    from diffembed.evaluation.results import Result


def haystacks(
    kind: Literal["passkey", "needle"],
    model: str,
    form: dict[str, Any],
    asked: dict[str, Any],
    *,
    windows: bool,
    write: Path | None,
    into: Path,
    as_json: bool,
) -> None:
    """``diffembed evaluate passkey`` and ``needle``.

    Args:
        form: as of ``load_ranker``.
        asked: ``lengths`` and ``seed``; for ``needle`` ``prose`` as well.
    """
    from diffembed.evaluation.generated.lengths import evaluate_haystacks
    from diffembed.evaluation.ranker import load_ranker
    from diffembed.evaluation.results import ResultFolder

    stacks = _made(kind, **asked)
    if write is not None:
        _written(stacks.write(write), as_json)
        return
    ranker = load_ranker(model, **form)
    with console.progress("reading") as tick:
        result, kept = evaluate_haystacks(
            stacks, ranker, windows=windows, results=ResultFolder(into), command=command(), progress=tick
        )
    if as_json:
        console.emit_json(plain(result))
        return
    _head(result, kept, into)
    console.emit(_table(result, "length", "tokens", ("accuracy@1", "ceiling", "ndcg@10")))
    for by in ("limit", "depth", "depth beyond the limit"):
        if any(group.by == by for group in result.groups):
            console.emit("\n" + _table(result, by, by, ("accuracy@1",)))
    for note in result.notes:
        console.remark(note)


def _made(kind: str, lengths: list[int] | None, seed: int, prose: Path | None = None) -> Haystacks:
    from diffembed.evaluation.generated.haystacks import LENGTHS
    from diffembed.evaluation.generated.needle import needles, read_prose
    from diffembed.evaluation.generated.passkey import passkeys

    if kind == "passkey":
        return passkeys(lengths or LENGTHS, seed)
    return needles(read_prose(prose), lengths or LENGTHS, seed)


def contextual(
    model: str,
    form: dict[str, Any],
    asked: dict[str, Any],
    *,
    readings: Sequence[str],
    write: Path | None,
    into: Path,
    as_json: bool,
) -> None:
    """``diffembed evaluate contextual``: ``asked`` as of ``contextual``; no ``readings``: all that the model can."""
    from diffembed.evaluation.generated.context import evaluate_contextual, readings_of
    from diffembed.evaluation.generated.contextual import contextual as make
    from diffembed.evaluation.ranker import load_ranker
    from diffembed.evaluation.results import ResultFolder

    made = make(**asked)
    if write is not None:
        _written([made.write(write)], as_json)
        return
    ranker = load_ranker(model, **form)
    results: list[Result] = []
    for reading in cast("list[Reading]", list(dict.fromkeys(readings))) or readings_of(ranker):
        with console.progress(f"reading {reading}") as tick:
            result, kept = evaluate_contextual(
                made, ranker, reading, results=ResultFolder(into), command=command(), progress=tick
            )
        results.append(result)
        if kept:
            console.remark(f"{reading}: this was measured before: {into}")
    if as_json:
        console.emit_json({"model": model, "results": [plain(result) for result in results]})
        return
    measures = ("ndcg@10", "chunk@1", "document@1", "part@1")
    counted = f"{results[0].counts['queries']:,} questions, {results[0].counts['chunks']:,} chunks"
    console.emit(f"contextual: {model}, {counted}\n")
    rows = [[result.settings["reading"], *(result.scores[measure] for measure in measures)] for result in results]
    console.emit(console.table(["chunks read", *measures], rows))
    for by, head in (("language", "language"), ("domain", "kind"), ("chunk", "chunks after the name")):
        console.emit("\nndcg@10\n" + _side_by_side(results, by, head))
    for note in results[0].notes:
        console.remark(note)


def scale(
    model: str,
    form: dict[str, Any],
    data: Sequence[Path],
    distractors: Sequence[Path],
    *,
    work: Path | None,
    split: Split,
    seed: int,
    into: Path,
    as_json: bool,
) -> None:
    """``diffembed evaluate scale``: ``form`` as of ``load_ranker``."""
    from diffembed.evaluation.generated.scale import evaluate_scale
    from diffembed.evaluation.ranker import load_ranker
    from diffembed.evaluation.results import ResultFolder

    ranker = load_ranker(model, **form)
    with console.progress("passages") as tick:
        result, kept = evaluate_scale(
            ranker,
            data,
            distractors,
            work=work,
            split=split,
            seed=seed,
            results=ResultFolder(into),
            command=command(),
            progress=tick,
        )
    if as_json:
        console.emit_json(plain(result))
        return
    _head(result, kept, into)
    console.emit(_table(result, "documents", "documents", ("recall@10", "recall@100", "recall@1000")))
    if same := result.counts["duplicates_of_targets"]:
        console.remark(f"{same:,} distractors have the vector of a target; they were taken for it and not counted")
    if left_out := result.counts["distractors_left_out"]:
        console.remark(f"{left_out:,} distractor texts could not be encoded and are not in the corpus")


def _written(folders: Sequence[Path], as_json: bool) -> None:
    if as_json:
        console.emit_json({"folders": [str(folder) for folder in folders]})
        return
    for folder in folders:
        console.emit(console.printable(str(folder)))


def _head(result: Result, kept: bool, into: Path) -> None:
    if kept:
        console.remark(f"this was measured before: {into}")
    settings = result.settings
    form = f", {settings['dtype']}, {settings['dims']} dims" if settings.get("dims") else ""
    limit = f", reads {settings['max_tokens']:,} tokens" if settings.get("max_tokens") else ""
    score = f"{result.main} {result.score:.4f}"
    console.emit(f"{result.benchmark}: {result.model}{form}{limit}: {score} of {result.counts['queries']:,} queries\n")


def _table(result: Result, by: str, head: str, measures: Sequence[str]) -> str:
    """The groups of a kind, and those of the measures that they have."""
    groups = [group for group in result.groups if group.by == by]
    shown = [measure for measure in measures if all(measure in group.scores for group in groups)]
    rows = [[group.value, group.queries, *(group.scores[measure] for measure in shown)] for group in groups]
    return console.table([head, "queries", *shown], rows)


def _side_by_side(results: Sequence[Result], by: str, head: str) -> str:
    """The main score of each part, a column a result."""
    parts = [[group for group in result.groups if group.by == by] for result in results]
    rows = [
        [same[0].value, same[0].queries, *(group.scores[results[0].main] for group in same)]
        for same in zip(*parts, strict=True)
    ]
    return console.table([head, "queries", *(result.settings["reading"] for result in results)], rows)
