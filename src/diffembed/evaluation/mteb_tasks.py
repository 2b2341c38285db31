"""mteb's benchmarks and tasks by their official names, and their data: on the hub, in its cache, or in a local copy.

A local copy is a folder with the files of the dataset's repository (``hf download`` writes one). mteb's own loaders
read it, as they read the hub. It lies in ``DATA/TASK`` or, for the tasks that share one dataset, in ``DATA/ORG/NAME``.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffembed.errors import InputError, MissingExtraError

RETRIEVAL_TYPES = ("Retrieval", "InstructionRetrieval", "InstructionReranking")
SINGLE = "mteb"  # the benchmark of a task that is run by itself
_NEAREST = 5


class DataError(InputError):
    """The data of a task cannot be had, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for.

    Attributes:
        benchmark: its official name, or ``mteb`` for a single task.
        tasks: tasks of mteb, in its order.
        left_out: names of the benchmark's tasks that are of other types, or not of text.
    """

    benchmark: str
    tasks: tuple[Any, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A task with its size, as far as mteb knows it."""

    task: str
    type: str
    queries: int | None
    documents: int | None
    measure: str
    dataset: str

    @classmethod
    def of(cls, task: Any) -> Listed:
        """From mteb's own statistics, added up over splits."""
        statistics = (task.metadata.descriptive_stats or {}).values()
        sizes = [[split.get(name) for split in statistics] for name in ("num_queries", "num_documents")]
        queries, documents = (sum(size) if size and None not in size else None for size in sizes)
        metadata = task.metadata
        path = f"{len(task.tasks)} datasets" if hasattr(task, "tasks") else str(metadata.dataset["path"])
        return cls(metadata.name, metadata.type, queries, documents, metadata.main_score, path)


def import_mteb() -> Any:
    """mteb, or the error that says how to get it."""
    try:
        import mteb
    except ImportError as error:
        raise MissingExtraError(
            f"benchmarks by name are run by mteb, which is not installed ({error}); add it with: pip install "
            "'diffembed[mteb]'"
        ) from error
    return mteb


def find_tasks(
    name: str, *, types: Sequence[str] = (), languages: Sequence[str] = (), verbs: Sequence[str] = ()
) -> Found:
    """The tasks behind the official name of a benchmark or a task.

    Args:
        name: such as ``MTEB(Multilingual, v2)``, ``LongEmbed`` or ``NFCorpus``.
        types: of a benchmark's tasks: those of ``RETRIEVAL_TYPES`` unless given; ``all`` for every one.
        languages: only these, as ISO 639-3 (``deu``) or with a script (``deu-Latn``).
        verbs: other words that could have been meant, for the error's list of nearest names.

    Raises:
        InputError: no such name, type or language, or a benchmark without such tasks.
        MissingExtraError: mteb is not installed.
    """
    if name in verbs:
        raise InputError(f"{name} is a verb of diffembed evaluate, not a benchmark")
    try:
        mteb = import_mteb()
    except MissingExtraError as error:
        near = difflib.get_close_matches(name, verbs)
        raise MissingExtraError(f"{name} is no verb of diffembed evaluate{_said(near)}; {error}") from error
    benchmarks = {one.name: one for one in mteb.get_benchmarks()}
    benchmarks |= {alias: one for one in benchmarks.values() for alias in one.aliases or ()}
    # The papers write MTEB(Code), mteb's alias is MTEB(code): no two benchmarks differ in case alone.
    benchmark = {one.casefold(): benchmarks[one] for one in benchmarks}.get(name.casefold())
    if benchmark is not None:
        chosen, left_out = _of_types(benchmark, types)
        return Found(benchmark.name, _in_languages(chosen, languages, name), left_out)
    names = task_names()
    if name in names:
        task = mteb.get_task(name)
        if not _of_text(task):
            raise InputError(f"{name} is about {' and '.join(task.metadata.modalities)}; only tasks on text can be run")
        return Found(SINGLE, _in_languages([task], languages, name))
    known = [*verbs, *benchmarks, *names]
    folded = {one.casefold(): one for one in reversed(known)}
    near = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, _NEAREST, 0.5)]
    raise InputError(
        f"{name!r} is neither a verb of diffembed evaluate nor a benchmark or task of mteb {_version()}{_said(near)}; "
        "diffembed evaluate --list names the benchmarks"
    )


def task_names() -> list[str]:
    """Every task that mteb has."""
    import_mteb()
    from mteb.get_tasks import TASK_LIST

    return [str(task.metadata.name) for task in TASK_LIST]


def benchmark_rows() -> list[tuple[str, int, int]]:
    """Name, tasks, and tasks of retrieval of every benchmark of mteb."""
    rows = []
    for one in import_mteb().get_benchmarks():
        retrieval = [task for task in one.tasks if task.metadata.type in RETRIEVAL_TYPES and _of_text(task)]
        rows.append((str(one.name), len(one.tasks), len(retrieval)))
    return sorted(rows)


def localise(task: Any, data: Path) -> list[Path]:
    """Let a task read its data from a local copy; the folder that it reads, of a task made of others one for each.

    Raises:
        DataError: there is none below ``data``.
    """
    if hasattr(task, "tasks"):
        return [place for part in task.tasks for place in localise(part, data)]
    dataset: dict[str, Any] = task.metadata.dataset
    places = [data / task.metadata.name, data.joinpath(*str(dataset["path"]).split("/"))]
    for place in places:
        if place.is_dir():
            task.metadata = task.metadata.model_copy(update={"dataset": {**dataset, "path": str(place.resolve())}})
            return [place]
    raise DataError(
        f"neither {places[0]} nor {places[1]} is there, and {task.metadata.name} needs its data; {fetching(task, data)}"
    )


def fetching(task: Any, data: Path | None = None) -> str:
    """How to fetch a task's dataset where there is a network, and where to put it."""
    dataset = type(task).metadata.dataset
    folder = (data or Path("DATA")).joinpath(*str(dataset["path"]).split("/"))
    command = f"hf download {dataset['path']} --repo-type dataset --revision {dataset['revision']} --local-dir {folder}"
    return f"where there is a network: {command}; then give --data {data or 'DATA'}"


def unavailable(task: Any, reason: str) -> str:
    """The error of data that the hub does not give."""
    dataset = type(task).metadata.dataset
    named = f"{dataset['path']} (revision {dataset['revision']})"
    return (
        f"{task.metadata.name} needs the dataset {named}, which cannot be had from the hub ({reason}); {fetching(task)}"
    )


def in_cache(path: str) -> bool:
    """Whether the libraries have a dataset of the hub in their caches, in whatever revision."""
    from datasets import config
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    if Path(config.HF_DATASETS_CACHE, path.replace("/", "___")).is_dir():
        return True
    try:
        return any(repo.repo_id == path and repo.repo_type == "dataset" for repo in scan_cache_dir().repos)
    except CacheNotFound:
        return False


def load_data(task: Any, folder: Path | None) -> None:
    """Read a task's data with mteb's own loader.

    Args:
        task: of mteb; ``localise`` has told it of a copy.
        folder: the copy it reads, for the error.

    Raises:
        DataError: the data is not there, cannot be reached, or is not in the form that the loader reads.
    """
    dataset = type(task).metadata.dataset
    named = f"{dataset['path']} (revision {dataset['revision']})"
    try:
        task.load_data()
        convert = getattr(task, "convert_v1_dataset_format_to_v2", None)
        if convert is not None:
            convert(num_proc=None)
    except Exception as error:
        if folder is not None:
            raise DataError(
                f"{folder} cannot be read as the dataset {named} of {task.metadata.name}: {_reason(error)}; it must "
                "hold every file of that repository, README.md too, which names the parts"
            ) from error
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("huggingface_hub", "httpx"):
            raise DataError(unavailable(task, " ".join(str(error).split())[:300] or type(error).__name__)) from error
        raise DataError(
            f"the dataset {named} of {task.metadata.name} cannot be read: {_reason(error)}; is mteb {_version()} up to "
            "date?"
        ) from error


def _reason(error: BaseException) -> str:
    """What went wrong first: the library's outermost error says no more than that something did."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def oddities(task: Any) -> tuple[list[str], dict[str, int]]:
    """What is wrong with loaded retrieval data, as sentences, and how many queries and documents there are.

    The data is official, so it is scored as it is; but whoever reads the score should know.
    """
    absent, twice = "judgements of documents that are not in the corpus", "{} that are there twice"
    told = dict.fromkeys((absent, twice.format("documents"), twice.format("queries"), "queries without text"), 0)
    counts = {"queries": 0, "documents": 0}
    for splits in task.dataset.values():
        for split in splits.values():
            for name, part in (("queries", split["queries"]), ("documents", split["corpus"])):
                counts[name] += len(part)
                told[twice.format(name)] += len(part) - len(set(part["id"]))
            known = set(split["corpus"]["id"])
            told[absent] += sum(one not in known for pairs in split["relevant_docs"].values() for one in pairs)
            texts = split["queries"]["text"]
            told["queries without text"] += sum(not (text.strip() if isinstance(text, str) else text) for text in texts)
    return [f"The data has {count:,} {what}." for what, count in told.items() if count], counts


def copies_digest(folders: Sequence[Path]) -> str:
    """SHA-256 over local copies."""
    return hashlib.sha256("".join(copy_digest(folder.resolve()) for folder in folders).encode()).hexdigest()


@cache
def copy_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a local copy; what the hub's client keeps beside them is left out."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if name.startswith(".cache/"):
            continue
        digest.update(name.encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _of_types(benchmark: Any, types: Sequence[str]) -> tuple[list[Any], tuple[str, ...]]:
    known = {task.metadata.type for task in benchmark.tasks}
    if unknown := [one for one in types if one not in known and one != "all"]:
        raise InputError(f"{benchmark.name} has no tasks of type {unknown[0]!r}; there are {', '.join(sorted(known))}")
    wanted = known if "all" in types else set(types or RETRIEVAL_TYPES)
    chosen = [task for task in benchmark.tasks if task.metadata.type in wanted and _of_text(task)]
    if not chosen and known:
        raise InputError(
            f"{benchmark.name} has no tasks of type {', '.join(types or RETRIEVAL_TYPES)} on text; give --types with "
            f"some of {', '.join(sorted(known))}"
        )
    names = {task.metadata.name for task in chosen}
    return chosen, tuple(task.metadata.name for task in benchmark.tasks if task.metadata.name not in names)


def _of_text(task: Any) -> bool:
    return list(task.metadata.modalities) == ["text"]


def _in_languages(tasks: Sequence[Any], languages: Sequence[str], name: str) -> tuple[Any, ...]:
    """Copies, narrowed to some languages."""
    tasks = [_copied(task) for task in tasks]
    if not languages:
        return tuple(tasks)
    chosen, reasons = [], []
    for task in tasks:
        try:
            chosen.append(task.filter_languages(list(languages), hf_subsets=task.hf_subsets))
        except (ValueError, KeyError) as error:
            reasons.append(" ".join(str(error).split()))
    if not chosen:
        raise InputError(
            f"no task of {name} is in {', '.join(languages)} ({reasons[0]}); give ISO 639-3 codes such as deu"
        )
    return tuple(chosen)


def _copied(task: Any) -> Any:
    """A task to change: mteb hands out the same objects again."""
    own = copy.copy(task)
    if hasattr(own, "tasks"):  # made of others
        own.tasks = [copy.copy(part) for part in own.tasks]
        own.metadata = own.metadata.model_copy(update={"tasks": own.tasks})
    return own


def _said(near: Sequence[str]) -> str:
    return f" (nearest: {', '.join(near)})" if near else ""


def _version() -> str:
    from importlib.metadata import version

    return version("mteb")
