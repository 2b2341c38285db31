"""mteb's result of a task as one of ours: the same figures under our names, by language or length, and by query."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import InputError
from diffembed.evaluation.metrics import score_queries
from diffembed.evaluation.results import Group, Result, Scores
from diffembed.models.files import atomic_file

# Kept of each query: enough for the main figures of mteb's tasks, not the forty measures that it computes.
_BY_QUERY = re.compile(r"(ndcg|map)@(1|3|5|10|1000)|recall@(1|10|100)")
_LEFT_OUT = ("nauc", "hit_rate", "precision")
_LENGTH = re.compile(r"test_(\d+)")  # the splits of LongEmbed's synthetic tasks


def our_name(measure: str) -> str:
    """mteb's or trec_eval's name of a measure as ours.

    >>> [our_name(name) for name in ("ndcg_at_10", "ndcg_cut_10", "recall_100", "p-MRR", "cosine_spearman")]
    ['ndcg@10', 'ndcg@10', 'recall@100', 'p-MRR', 'cosine_spearman']
    """
    return re.sub(r"^(\w+?)(?:_at|_cut)?_(\d+)$", r"\1@\2", measure)


@dataclass(frozen=True, slots=True)
class QueryScores:
    """The scores of single queries of one task, kept beside mteb's result, which has none: one file a part.

    Attributes:
        folder: of one model in one form, and one task.
    """

    folder: Path

    def start(self, data: Mapping[str, Any]) -> bool:
        """Whether what is kept there, and by mteb, was measured on these data; if not, it is forgotten."""
        marker = self.folder / "data.json"
        if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == data:
            return True
        known = marker.is_file()
        for file in self.folder.glob("*.json"):
            file.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(marker) as partial:
            partial.write_text(json.dumps(dict(data), indent=1) + "\n", encoding="utf-8")
        # Results of the hub's data may have come from elsewhere; a copy's are known to be of this copy or they are not.
        return not known and "sha256" not in data

    def write(self, split: str, subset: str, scores: Mapping[str, Scores]) -> None:
        """Keep the scores of one part."""
        with atomic_file(self._file(split, subset)) as partial:
            partial.write_text(json.dumps(scores, ensure_ascii=False) + "\n", encoding="utf-8")

    def read(self, split: str, subset: str) -> dict[str, Scores]:
        """The scores of one part; empty where they were not kept."""
        file = self._file(split, subset)
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def _file(self, split: str, subset: str) -> Path:
        return self.folder / f"{split}.{subset}.scores.json".replace("/", "-")


def load_theirs(cache: Any, task: str, card: Any) -> Any:
    """mteb's own result of a task (``mteb.TaskResult``), ``None`` where there is none.

    Args:
        cache: ``mteb.ResultCache``.
        task: its name.
        card: of the model, as mteb's.

    Raises:
        InputError: the file cannot be read: it is damaged, or of a version of mteb that wrote another form.
    """
    try:
        return cache.load_task_result(task, card)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        file, reason = cache.get_task_result_path(task, card), " ".join(str(error).split())[:200]
        raise InputError(
            f"{file} cannot be read as a result of mteb ({type(error).__name__}: {reason}); remove it, and the task is "
            "measured again"
        ) from error


def watch(task: Any, kept: QueryScores) -> None:
    """Let a retrieval task of mteb tell the scores of its queries, which its result does not hold."""
    original = getattr(task, "task_specific_scores", None)
    if original is None:
        return
    main = our_name(task.metadata.main_score)

    def telling(scores: Any, qrels: Any, results: Any, *, hf_split: str, hf_subset: str) -> Any:
        found = {query: _of_query(values, main) for query, values in scores.items()}
        if main == "mrr@10":  # which trec_eval does not cut
            for query, values in score_queries(qrels, results).items():
                found[query][main] = values[main]
        kept.write(hf_split, hf_subset, found)
        return original(scores, qrels, results, hf_split=hf_split, hf_subset=hf_subset)

    task.task_specific_scores = telling


def to_result(
    theirs: Any,
    task: Any,
    kept: QueryScores,
    *,
    benchmark: str,
    model: str,
    revision: str,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    counts: Mapping[str, int],
    notes: Sequence[str],
) -> Result:
    """Our result of ``theirs`` (``mteb.TaskResult``). A task's figure is the mean over its parts, as mteb's is."""
    main = our_name(task.metadata.main_score)
    there = [(split, entry) for split in theirs.scores for entry in theirs.scores[split]]
    # mteb's file may hold languages and splits that were measured for somebody else.
    parts = [one for one in there if one[0] in task.eval_splits and one[1]["hf_subset"] in task.hf_subsets] or there
    scores = [_plain(entry, main) for _, entry in parts]
    shared = [name for name in scores[0] if all(name in one for one in scores)]
    by_part = [kept.read(split, entry["hf_subset"]) for split, entry in parts]
    whole = all(by_part)
    groups = _groups(parts, scores, by_part) if len(parts) > 1 else ()
    by_query: dict[str, Scores] = {}
    for (split, entry), found in zip(parts, by_part, strict=True):
        prefix = _prefix(split, entry["hf_subset"], parts)
        by_query |= {prefix + query: values for query, values in found.items()} if whole else {}
    if not whole:
        notes = (*notes, "Scores of single queries are not known: mteb's result was there already, or has none.")
    return Result(
        benchmark=benchmark,
        task=task.metadata.name,
        model=model,
        revision=revision,
        main=main,
        scores={name: float(np.mean([one[name] for one in scores])) for name in shared},
        settings=dict(settings),
        groups=tuple(groups),
        by_query=by_query,
        counts=dict(counts) | ({"queries": len(by_query)} if by_query else {}),
        cost={"seconds": float(theirs.evaluation_time)} if theirs.evaluation_time else {},
        data=dict(data),
        environment={"mteb": str(theirs.mteb_version)},
        notes=tuple(notes),
    )


def _plain(entry: Mapping[str, Any], main: str) -> Scores:
    values = {
        our_name(name): float(value)
        for name, value in entry.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not name.startswith(_LEFT_OUT)
    }
    figure = values.pop("main_score")
    return {main: figure} | values | {main: figure}


def _of_query(values: Mapping[str, float], main: str) -> Scores:
    named = {our_name(name): float(value) for name, value in values.items()}
    return {name: value for name, value in named.items() if name == main or _BY_QUERY.fullmatch(name)}


def _prefix(split: str, subset: str, parts: Sequence[tuple[str, Any]]) -> str:
    """Ids of queries may come again in another part."""
    splits, subsets = {one for one, _ in parts}, {entry["hf_subset"] for _, entry in parts}
    return "".join(f"{word}/" for word, all_words in ((split, splits), (subset, subsets)) if len(all_words) > 1)


def _groups(
    parts: Sequence[tuple[str, Any]], scores: Sequence[Scores], by_part: Sequence[Mapping[str, Scores]]
) -> list[Group]:
    """By language or another subset, by length or another split; the mean over parts where both are there."""
    found: list[Group] = []
    languages = [tuple(entry["languages"]) for _, entry in parts]
    by_subset = "language" if len(set(languages)) == len({entry["hf_subset"] for _, entry in parts}) else "subset"
    by_split = "length" if all(_LENGTH.fullmatch(split) for split, _ in parts) else "split"
    for by, names in (
        (by_subset, [str(entry["hf_subset"]) for _, entry in parts]),
        (by_split, [split.removeprefix("test_") if by_split == "length" else split for split, _ in parts]),
    ):
        order = list(dict.fromkeys(names))
        for name in order if len(order) > 1 else ():
            rows = [i for i, other in enumerate(names) if other == name]
            measures = [one for one in scores[rows[0]] if all(one in scores[i] for i in rows)]
            means = {one: float(np.mean([scores[i][one] for i in rows])) for one in measures}
            found.append(Group(by, name, sum(len(by_part[i]) for i in rows), means))
    return found
