"""What ``diffembed evaluate`` does: each verb calls one public function and shows what it returns.

``cli_evaluate.py`` says which options there are, ``console.py`` how it looks.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed import console
from diffembed.errors import InputError

if TYPE_CHECKING:
    from diffembed.data.beir import Split
    from diffembed.evaluation.compare import Comparison
    from diffembed.evaluation.results import Result


def retrieval(
    data: Path,
    *,
    model: str,
    form: dict[str, Any],
    split: Split,
    sections: bool,
    by: Sequence[str],
    into: Path | None,
    as_json: bool,
) -> None:
    """``diffembed evaluate retrieval``: ``form`` as of ``load_ranker``."""
    from diffembed.evaluation.ranker import load_ranker
    from diffembed.evaluation.results import ResultFolder
    from diffembed.evaluation.sets import evaluate_set

    if model == "bm25" and "length" in by:
        raise InputError("bm25 has no tokenizer that lengths could be told in; give --by characters")
    ranker = load_ranker(model, **form)
    folder = ResultFolder(into) if into else None
    with console.progress("asking" if model == "bm25" else "encoding") as tick:
        result, kept = evaluate_set(
            data, ranker, split=split, sections=sections, into=folder, command=command(), progress=tick
        )
    if as_json:
        console.emit_json(plain(result))
        return
    if kept and folder is not None:
        console.remark(f"this was measured before: {folder.path}")
    _show(result)
    for word in by:
        show_groups(word, result)


def sets(
    root: Path,
    *,
    model: str,
    form: dict[str, Any],
    only: Sequence[str],
    split: Split,
    into: Path,
    as_json: bool,
) -> None:
    """``diffembed evaluate sets``: ``form`` as of ``load_ranker``."""
    from diffembed.evaluation.compare import interval
    from diffembed.evaluation.ranker import load_ranker
    from diffembed.evaluation.results import ResultFolder
    from diffembed.evaluation.sets import evaluate_sets, find_sets, mean_of_sets

    find_sets(root, only)  # before a model is loaded for nothing
    results = evaluate_sets(
        root,
        load_ranker(model, **form),
        into=ResultFolder(into),
        only=only,
        split=split,
        command=command(),
        report=console.remark,
    )
    means = mean_of_sets(results)
    if as_json:
        console.emit_json({"model": model, "mean": means, "results": [plain(result) for result in results]})
        return
    rows: list[list[object]] = []
    for result in results:
        found = interval([scores[result.main] for scores in result.by_query.values()])
        counted = [result.counts[name] for name in ("queries", "documents")]
        around = f"{found.low:.3f} to {found.high:.3f}"
        rows.append(
            [result.task, *counted, result.score, around, *(result.scores[m] for m in ("recall@10", "recall@100"))]
        )
    head = ["set", "queries", "documents", "ndcg@10", "95% interval", "recall@10", "recall@100"]
    console.emit(console.table(head, rows))
    if len(results) > 1:
        console.emit("")
        console.emit(
            f"mean of {len(results)} sets: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        )


def compare(places: Sequence[Path], *, models: Sequence[str], settings: dict[str, Any], as_json: bool) -> None:
    """``diffembed evaluate compare``: ``settings`` as of ``compare_many``."""
    from diffembed.evaluation.compare import compare_many, has_queries
    from diffembed.evaluation.pairing import pair_results

    paired = pair_results(places, models)
    tested = [has_queries(*pair, settings["measure"]) for pair in paired.pairs]
    pairs = list(compress(paired.pairs, tested))
    untested = [f"{a.benchmark}/{a.task}" for (a, _), fit in zip(paired.pairs, tested, strict=True) if not fit]
    found = compare_many(pairs or paired.pairs, **settings)
    if as_json:
        rows = [one.to_dict() for one in found]
        others = {"unpaired": list(paired.unpaired), "untested": untested}
        console.emit_json({"a": paired.a, "b": paired.b, **others, "comparisons": rows})
        return
    console.emit(f"a: {paired.a}\nb: {paired.b}\n")
    console.emit(console.table(_COMPARED, [_compared(one) for one in found]))
    if left_out := sum(one.left_out for one in found[: len(pairs)]):
        console.remark(f"{left_out:,} queries were answered by one model alone and are left out")
    if untested:
        console.remark(f"left out, as there are no scores of single queries to test: {', '.join(untested)}")
    if paired.unpaired:
        console.remark(f"only one of the models has: {', '.join(paired.unpaired)}")


def plain(result: Result) -> dict[str, Any]:
    """A result as in its file, without the scores of single queries."""
    values = result.to_dict()
    del values["by_query"]
    return values


def command() -> str:
    """What was called, as a shell would read it."""
    return shlex.join(["diffembed", *sys.argv[1:]])


def show_groups(word: str, result: Result, measures: Sequence[str] = ()) -> None:
    """A table of the scores of a result by language, length, ..., or a remark where it has none."""
    groups = [group for group in result.groups if group.by == word]
    if not groups:
        console.remark(f"the rows of {result.task} do not say their {word}")
        return
    names = list(measures or groups[0].scores)
    console.emit("")
    rows = [[group.value, group.note, group.queries, *(group.scores[name] for name in names)] for group in groups]
    console.emit(console.table([word, "", "queries", *names], rows))


_COMPARED = ("task", "measure", "queries", "a", "b", "b - a", "interval", "p", "p (Holm)", "wins/losses/ties")


def _compared(one: Comparison) -> list[object]:
    low, high = one.difference.low, one.difference.high
    shown = [
        one.task,
        one.measure,
        one.queries,
        one.a,
        one.b,
        f"{one.difference.mean:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
    ]
    return [*shown, f"{one.p:.4f}", f"{one.p_holm:.4f}", f"{one.wins}/{one.losses}/{one.ties}"]


def _show(result: Result) -> None:
    counts, cost, form = result.counts, result.cost, result.settings
    rows: list[tuple[str, object]] = [*result.scores.items()]
    rows += [("queries", counts["queries"]), ("documents", counts["documents"])]
    rows += [("truncated", counts["truncated_queries"] + counts["truncated_documents"])]
    speed = cost["tokens"] / cost["encode_seconds"] if cost["encode_seconds"] else 0.0
    rows += [("seconds", round(cost["seconds"], 2)), ("tokens/s", round(speed))]
    kind = (
        f"{form['query_dtype']} queries on {form['dtype']}" if form["query_dtype"] != form["dtype"] else form["dtype"]
    )
    vectors = "bm25" if form["dims"] == 0 else f"{result.model}, {kind}, {form['dims']} dims"
    console.emit(f"{result.task} ({form['split']} queries): {vectors}{', chunks read together' * form['contextual']}\n")
    console.emit("\n".join(f"{name:<12}{console.number(value):>10}" for name, value in rows))
