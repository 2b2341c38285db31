"""Runs benchmarks and tasks of mteb by their official names, and keeps their results in both forms.

``mteb.evaluate`` does the work, so that the figures are those of the leaderboard. Its own files (results, the model's
card, versions) lie in ``INTO/mteb-files``, the folder of an ``mteb.ResultCache``, from which they are submitted; ours
are written from them. A task that was measured for this revision of the model, in this form and on these data is not
measured again; a task that was stopped goes on with the language or split that is missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffembed.evaluation.mteb_models import MtebModel
from diffembed.evaluation.mteb_result import QueryScores, load_theirs, to_result, watch
from diffembed.evaluation.mteb_tasks import (
    DataError,
    Found,
    copies_digest,
    import_mteb,
    in_cache,
    load_data,
    localise,
    oddities,
    unavailable,
)
from diffembed.evaluation.results import MTEB_FILES, Result, ResultFolder

Report = Callable[[str], None]
_BATCH = 32  # of sentence-transformers models; ours choose their own batches
_NOISY = ("huggingface_hub", "datasets", "mteb")


def run_benchmark(
    found: Found,
    model: MtebModel,
    into: Path,
    *,
    data: Path | None = None,
    command: str = "",
    report: Report | None = None,
) -> list[Result]:
    """Every task that ``find_tasks`` found, one after the other.

    Args:
        found: a benchmark or a task.
        model: of ``load_mteb_model``.
        into: the folder of result files.
        data: local copies of the datasets (see ``mteb_tasks``); without, they come from the hub or its cache.
        command: what was called, for the results' environment.
        report: told of each task as it is done.

    Raises:
        DataError: data that cannot be had or read. Where ``data`` lacks some of the tasks, before anything is
            measured; where the hub does, after all other tasks were.
    """
    import_mteb()
    places = {task.metadata.name: localise(task, data) for task in found.tasks} if data is not None else {}
    results: list[Result] = []
    missing: dict[str, str] = {}
    reachable = True
    for number, task in enumerate(found.tasks, start=1):
        name = task.metadata.name
        parts = getattr(task, "tasks", None) or [task]
        path = name if len(parts) > 1 else str(task.metadata.dataset["path"])  # tasks may share a dataset
        runner = _Task(task, found.benchmark, model, into, places.get(name, []))
        where, kept = f"{model.name} {number}/{len(found.tasks)} {name}", runner.kept()
        try:
            if kept is None and path in missing:
                continue
            if kept is None and not reachable:  # each try takes the hub's client half a minute
                for part in parts:
                    if not in_cache(str(part.metadata.dataset["path"])):
                        raise DataError(unavailable(part, "it could not be reached before"))
            result = kept or runner.run(command)
        except DataError as error:
            if data is not None or len(found.tasks) == 1:
                raise
            reachable = reachable and not isinstance(error.__cause__, ConnectionError)
            missing[path] = str(error)
            if report is not None:
                report(f"{where}: left out, its data is missing")
            continue
        results.append(result)
        if report is not None:
            took = "was there" if kept is not None else f"{result.cost.get('seconds', 0.0):.1f} s"
            report(f"{where}: {result.main} {result.score:.4f} ({took})")
    write_card(model, into)
    if missing:
        said = "; ".join(missing.values())
        raise DataError(f"{len(found.tasks) - len(results)} of {len(found.tasks)} tasks were not measured: {said}")
    return results


class _Task:
    """One task, one model, and what is kept of them."""

    def __init__(self, task: Any, benchmark: str, model: MtebModel, into: Path, places: Sequence[Path]) -> None:
        self.task, self.benchmark, self.model, self.places = task, benchmark, model, places
        self.folder = ResultFolder(into)
        dataset = type(task).metadata.dataset
        self.data = {"source": str(dataset["path"]), "revision": str(dataset["revision"])}
        if places:
            self.data["sha256"] = copies_digest(places)
        self.settings = model.settings | {"split": ",".join(task.eval_splits)}
        if set(task.hf_subsets) != set(type(task).metadata.hf_subsets):
            self.settings["subsets"] = sorted(task.hf_subsets)
        key = json.dumps([model.name, model.revision, model.settings], sort_keys=True, default=str)
        mark = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.cache = into / MTEB_FILES
        self.queries = QueryScores(self.cache / "queries" / mark / task.metadata.name)

    def kept(self) -> Result | None:
        """The result, if it is there and of the same data."""
        name, model = self.task.metadata.name, self.model
        found = self.folder.find(self.benchmark, name, model.name, model.revision, self.settings)
        return found if found is not None and found.data == self.data else None

    def run(self, command: str) -> Result:
        """Measure what is missing, and write the result."""
        mteb = import_mteb()
        cache, task = mteb.ResultCache(self.cache), self.task
        same_data = self.queries.start(self.data)
        theirs = load_theirs(cache, task.metadata.name, self.model.meta) if same_data else None
        notes, counts, cut = list[str](), dict[str, int](), self.model.truncated
        with _quiet():
            try:
                if theirs is None or theirs.get_missing_evaluations(task) or not theirs.is_mergeable(task):
                    notes, counts = self._load()
                    watch(task, self.queries)
                (found,) = mteb.evaluate(
                    self.model.model,
                    task,
                    cache=cache,
                    overwrite_strategy="only-missing" if same_data else "always",
                    co2_tracker=False,
                    show_progress_bar=False,
                    encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False},
                ).task_results
            finally:
                for part in (task, *getattr(task, "tasks", ())):
                    part.unload_data()
        if theirs is None and cut is not None:  # else only a part of the task was read now
            counts["truncated"] = (self.model.truncated or 0) - cut
        if self.places:
            notes.append(f"Read from a local copy, taken for revision {self.data['revision']} of the dataset.")
        result = to_result(
            found,
            task,
            self.queries,
            benchmark=self.benchmark,
            model=self.model.name,
            revision=self.model.revision,
            settings=self.settings,
            data=self.data,
            counts=counts,
            notes=notes,
        )
        self.folder.write(result, command)
        return result

    def _load(self) -> tuple[list[str], dict[str, int]]:
        """Load the data first, so that what is wrong with them is told from what is wrong with the model."""
        parts = getattr(self.task, "tasks", None)  # a task may be made of others
        for number, task in enumerate(parts or [self.task]):
            load_data(task, self.places[number] if self.places else None)
        retrieval = parts is None and hasattr(self.task, "task_specific_scores")
        return oddities(self.task) if retrieval else ([], {})


def write_card(model: MtebModel, into: Path) -> Path | None:
    """Write the head of a model card, as the hub shows it, with all results of this model that mteb's files hold.

    One card for each revision and form of a model, beside mteb's files; ``None`` where there are no results.
    """
    from huggingface_hub import EvalResult, ModelCardData

    cache = import_mteb().ResultCache(into / MTEB_FILES)
    folder = cache.get_task_result_path("any", model.meta).parent
    names = sorted(file.stem for file in folder.glob("*.json") if file.name != "model_meta.json")
    rows = []
    for found in (load_theirs(cache, name, model.meta) for name in names):
        if hasattr(found.task, "tasks"):  # its parts have files of their own, and datasets
            continue
        metadata = found.task.metadata
        parts = [(split, entry) for split, entries in found.scores.items() for entry in entries]
        rows += [
            EvalResult(
                task_type=_HUB_TYPES.get(metadata.type, "other"),
                task_name=metadata.type,
                dataset_type=metadata.dataset["path"],
                dataset_name=f"MTEB {found.task_name} ({entry['hf_subset']}, {split})",
                dataset_config=entry["hf_subset"],
                dataset_split=split,
                dataset_revision=found.dataset_revision,
                metric_type=metadata.main_score,
                metric_value=round(100 * entry["main_score"], 3),
            )
            for split, entry in parts
        ]
    if not rows:
        return None
    card = ModelCardData(model_name=model.meta.name, tags=["mteb"], eval_results=rows)
    file: Path = into / MTEB_FILES / "cards" / folder.relative_to(cache.cache_path / "results") / "README.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"---\n{card.to_yaml()}\n---\n", encoding="utf-8")
    return file


_HUB_TYPES = {
    **dict.fromkeys(("Retrieval", "InstructionRetrieval"), "text-retrieval"),
    **dict.fromkeys(("Reranking", "InstructionReranking"), "text-ranking"),
    **dict.fromkeys(("Classification", "MultilabelClassification", "PairClassification"), "text-classification"),
    "STS": "sentence-similarity",
    "Summarization": "summarization",
    "BitextMining": "translation",
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own bars and remarks on stderr, retries of a hub that is not there among them."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
