"""ToolRet: finding the tools that a task needs among 43,000 (arXiv 2503.01763), with and without instruction.

The data are two sets of the hub:

    mangopy/ToolRet-Queries   a configuration for each task, split "queries":
                              {"id", "query", "instruction", "labels", "category"}; "labels" is a JSON string,
                              a list of {"id", "relevance", ...}
    mangopy/ToolRet-Tools     configurations "web", "code" and "customized", split "tools": {"id", "documentation"}

A task's score is the mean over its queries, the benchmark's the mean over the tasks. As in the authors' code, every
query is searched in the tools of all three categories (mteb's ``ToolRetrieval`` takes those of the task's category
alone, an easier task: ``corpus="category"``), and an instruction is put before its query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.evaluation.hub_rows import hub_folder
from diffembed.evaluation.metrics import Qrels, Run, trec_scores
from diffembed.evaluation.ranker import Ranker
from diffembed.evaluation.ranking import Ranking
from diffembed.evaluation.results import Group, Result, ResultFolder, Scores
from diffembed.evaluation.sets import means_of_parts, settings_of

Progress = Callable[[int, int], None] | None
Category = Literal["web", "code", "customized"]
Corpus = Literal["all", "category"]

BENCHMARKS = {False: "ToolRet", True: "ToolRet with instruction"}
MAIN = "ndcg@10"
CUTS = (5, 10, 20)
_TASKS_OF: dict[Category, str] = {
    "web": """
        apibank apigen autotools-food autotools-music autotools-weather mnms restgpt-spotify restgpt-tmdb reversechain
        rotbench t-eval-dialog t-eval-step taskbench-daily toolace toolbench toolemu tooleyes toollens ultratool""",
    "code": "craft-math-algebra craft-tabmwp craft-vqa gorilla-huggingface gorilla-pytorch gorilla-tensor toolink",
    "customized": """
        appbench gpt4tools gta metatool taskbench-huggingface taskbench-multimedia tool-be-honest toolalpaca
        toolbench-sam""",
}
TASKS: Mapping[str, Category] = {task: category for category, names in _TASKS_OF.items() for task in names.split()}
_QUERIES, _TOOLS = "mangopy/ToolRet-Queries", "mangopy/ToolRet-Tools"
_MEASURES = {"ndcg_cut": "ndcg", "P": "p", "recall": "recall"}


@dataclass(frozen=True, slots=True)
class ToolQuery:
    """One query: its text, the instruction that says what kind of tool it wants, and its tools with their relevance."""

    text: str
    instruction: str
    labels: Mapping[str, int]

    def read_as(self, *, instruction: bool, bm25: bool) -> str:
        """What a model is asked. BM25 gets the words alone, any other model the usual form of instructed queries."""
        if not instruction:
            return self.text
        return f"{self.instruction} {self.text}" if bm25 else f"Instruct: {self.instruction}\nQuery: {self.text}"


@dataclass(frozen=True, slots=True)
class ToolRet:
    """The benchmark as it was read.

    Attributes:
        tools: category -> tool id -> documentation.
        tasks: task -> query id -> query.
        data: ``source`` and ``sha256`` of the tools, and of each task's queries, for result files.
    """

    tools: Mapping[Category, Mapping[str, str]]
    tasks: Mapping[str, Mapping[str, ToolQuery]]
    data: dict[str, dict[str, Any]] = field(repr=False)


def load_toolret(data: Path | None = None, tasks: Sequence[str] = tuple(TASKS)) -> ToolRet:
    """Read the tools and some tasks: copies ``ToolRet-Queries`` and ``ToolRet-Tools`` below ``data``, or from the hub.

    Raises:
        InputError: an unknown task, data that is not there, an id given twice, labels that are no JSON list, or a label
            that names a tool of no category.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise InputError(f"ToolRet has no task {unknown[0]!r}; its tasks are: {', '.join(TASKS)}")
    if not tasks:
        raise InputError(f"no task of ToolRet was named; its tasks are: {', '.join(TASKS)}")
    tool_folder = hub_folder(_TOOLS, ("ToolRet-Tools",), data)
    tools: dict[Category, dict[str, str]] = {}
    known: set[str] = set()
    for category in get_args(Category):
        tools[category] = _tools(tool_folder.rows(category, "tools", ("id", "documentation")), known)
        known |= tools[category].keys()
    folder = hub_folder(_QUERIES, ("ToolRet-Queries",), data)
    columns = ("id", "query", "instruction", "labels")
    read = {task: _queries(folder.rows(task, "queries", columns), known) for task in dict.fromkeys(tasks)}
    digests = {"tools": {"source": tool_folder.source}, **{task: {"source": folder.source} for task in read}}
    digests["tools"]["sha256"] = tool_folder.sha256(*((category, "tools") for category in tools))
    for task in read:
        digests[task]["sha256"] = folder.sha256((task, "queries"))
    return ToolRet(tools, read, digests)


def evaluate_toolret(
    ranker: Ranker,
    *,
    data: Path | None = None,
    tasks: Sequence[str] = tuple(TASKS),
    instruction: bool,
    corpus: Corpus = "all",
    into: ResultFolder | None = None,
    command: str = "",
    progress: Progress = None,
) -> list[Result]:
    """A result for each task, those with instruction under a benchmark of their own.

    What ``into`` holds of this model, these settings and these data is not measured again.

    Args:
        ranker: the model.
        data: where copies of the data lie; ``None`` fetches them.
        tasks: which ones.
        instruction: whether the instruction is put before the query.
        corpus: search the tools of all categories, or those of the task's category.
        into: where results are kept.
        command: what was called, for the results' environment.
        progress: called with (tools encoded, tools).

    Raises:
        InputError: as :func:`load_toolret`.
    """
    read = load_toolret(data, tasks)
    done: dict[str, Result] = {}
    missing: dict[str, list[str]] = {}
    whole = _as_task(read, tuple(read.tasks), None, instruction=instruction, bm25=ranker.encoder is None)
    settings = settings_of(ranker, whole) | {"instruction": instruction, "corpus": corpus}
    for task in read.tasks:
        kept = into.find(BENCHMARKS[instruction], task, ranker.model, ranker.revision, settings) if into else None
        if kept is not None and kept.data == _data(read, task):
            done[task] = kept
        else:
            missing.setdefault("all" if corpus == "all" else TASKS[task], []).append(task)
    for where, group in missing.items():
        category = None if where == "all" else TASKS[group[0]]
        asked = _as_task(read, group, category, instruction=instruction, bm25=ranker.encoder is None)
        ranking = ranker.rank(asked, top=max(CUTS), progress=progress)
        for task in group:
            done[task] = _result(read, task, asked, ranking, ranker, settings)
            if into is not None:
                into.write(done[task], command)
    return [done[task] for task in read.tasks]


def means(results: Sequence[Result]) -> dict[str, Scores]:
    """The benchmark's own figures: ``all`` 35 tasks, and those of each category, every task counting the same.

    Empty while a task is missing: a mean over others could be mistaken for these.
    """
    return means_of_parts(results, TASKS)


def tool_scores(qrels: Qrels, run: Run) -> dict[str, Scores]:
    """nDCG, precision, recall and completeness at 5, 10 and 20 of every query.

    Completeness is 1 where all relevant tools are among the first, else 0: one that is missing may sink the task.

    >>> scores = tool_scores({"q": {"a": 1, "b": 1}}, {"q": {"a": 3.0, "x": 2.0, "b": 1.0}})["q"]
    >>> {name: round(value, 2) for name, value in scores.items() if name.endswith("@5")}
    {'ndcg@5': 0.92, 'p@5': 0.4, 'recall@5': 1.0, 'completeness@5': 1.0}
    """
    cuts = ",".join(map(str, CUTS))
    found = trec_scores(qrels, run, {f"{name}.{cuts}" for name in _MEASURES})
    scored: dict[str, Scores] = {}
    for query, values in found.items():
        scored[query] = {f"{ours}@{cut}": values[f"{name}_{cut}"] for name, ours in _MEASURES.items() for cut in CUTS}
        scored[query] |= {f"completeness@{cut}": float(values[f"recall_{cut}"] == 1) for cut in CUTS}
    return scored


def _as_task(
    read: ToolRet, tasks: Collection[str], category: Category | None, *, instruction: bool, bm25: bool
) -> RetrievalTask:
    """The queries of some tasks over one corpus: the tools are encoded once for all of them."""
    tools = {tool: text for name, part in read.tools.items() if category in (None, name) for tool, text in part.items()}
    queries = {(task, query): row for task in tasks for query, row in read.tasks[task].items()}
    return RetrievalTask(
        name=f"ToolRet ({category or 'all'} tools)",
        document_ids=tuple(tools),
        texts=tuple(tools.values()),
        queries={_key(*at): row.read_as(instruction=instruction, bm25=bm25) for at, row in queries.items()},
        qrels={_key(*at): row.labels for at, row in queries.items()},
    )


def _key(task: str, query: str) -> str:
    return f"{task} {query}"


def _result(
    read: ToolRet, task: str, asked: RetrievalTask, ranking: Ranking, ranker: Ranker, settings: Mapping[str, Any]
) -> Result:
    queries = read.tasks[task]
    run = {query: ranking.run.get(_key(task, query), {}) for query in queries}
    by_query = tool_scores({query: row.labels for query, row in queries.items()}, run)
    known = set(asked.document_ids)
    counts = {
        "queries": len(by_query),
        "documents": len(asked.texts),
        "truncated_queries": ranking.truncated_queries,
        "truncated_documents": ranking.truncated_documents,
        "empty_documents": ranking.empty_documents,
        "empty_queries": sum(not asked.queries[_key(task, query)].strip() for query in queries),
        "unjudged_queries": len(queries) - len(by_query),
        "judged_outside_corpus": sum(tool not in known for row in queries.values() for tool in row.labels),
    }
    scores = {name: sum(s[name] for s in by_query.values()) / len(by_query) for name in next(iter(by_query.values()))}
    return Result(
        benchmark=BENCHMARKS[settings["instruction"]],
        task=task,
        model=ranker.model,
        revision=ranker.revision,
        main=MAIN,
        scores=scores,
        settings=dict(settings),
        groups=(Group("domain", TASKS[task], len(by_query), scores),),
        by_query=by_query,
        counts=counts,
        data=_data(read, task),
        notes=_notes(counts, len(read.tasks)),
    )


def _data(read: ToolRet, task: str) -> dict[str, Any]:
    return {"queries": read.data[task], "tools": read.data["tools"]}


def _notes(counts: Mapping[str, int], together: int) -> tuple[str, ...]:
    said = []
    if counts["truncated_queries"] or counts["truncated_documents"]:
        of = "" if together == 1 else f" (of {together} tasks that were asked together)"
        said.append(
            f"{counts['truncated_documents']:,} tools and {counts['truncated_queries']:,} queries{of} were cut to the "
            "model's limit."
        )
    if counts["empty_queries"]:
        said.append(f"{counts['empty_queries']:,} queries have no text; they score 0.")
    if counts["judged_outside_corpus"]:
        said.append(f"{counts['judged_outside_corpus']:,} judged tools are not in the corpus and cannot be found.")
    return tuple(said)


def _tools(rows: Iterable[tuple[str, dict[str, Any]]], known: Collection[str]) -> dict[str, str]:
    tools: dict[str, str] = {}
    for where, row in rows:
        identifier = _string(row, "id", where)
        if identifier in tools or identifier in known:
            raise InputError(f"{where}: the tool {identifier!r} was given before; ids must be unique")
        tools[identifier] = _string(row, "documentation", where)
    return tools


def _queries(rows: Iterable[tuple[str, dict[str, Any]]], known: Collection[str]) -> dict[str, ToolQuery]:
    queries: dict[str, ToolQuery] = {}
    for where, row in rows:
        identifier = _string(row, "id", where)
        if identifier in queries:
            raise InputError(f"{where}: the query {identifier!r} was given before; ids must be unique")
        labels = _labels(_string(row, "labels", where), where)
        if unknown := [tool for tool in labels if tool not in known]:
            raise InputError(
                f"{where} names the tool {unknown[0]!r}, which is in no category; fetch both data sets anew"
            )
        queries[identifier] = ToolQuery(_string(row, "query", where), _string(row, "instruction", where), labels)
    return queries


def _labels(text: str, where: str) -> dict[str, int]:
    try:
        return {str(label["id"]): int(label["relevance"]) for label in json.loads(text)}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f'{where}: "labels" must be a JSON list of objects with id and relevance: {text[:80]!r}'
        ) from None


def _string(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise InputError(f'{where}: "{name}" must be a string, not {type(value).__name__}')
    return value
