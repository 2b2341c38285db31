"""The result file: what one model scored on one task, with all that is needed to trust, compare and draw it.

A result is one JSON file, ``FOLDER/BENCHMARK/TASK/MODEL.SETTINGS.json``: its name says what was measured, so that a run
that was stopped goes on where it was (``ResultFolder.find``) and two models lie side by side. ``diffembed report`` and
``diffembed evaluate compare`` read these files and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffembed import __version__
from diffembed.errors import InputError
from diffembed.models.files import atomic_file

FORMAT = "diffembed-result"
VERSION = 1
MTEB_FILES = "mteb-files"  # in a folder of results: files in mteb's own form, which are not results of ours

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Group:
    """The scores of a part of the queries.

    Attributes:
        by: what parts them: ``language``, ``length``, ``depth``, ``domain``, ``documents`` (size of the corpus), ...
        value: which part, as text; numbers are written plainly (``"4096"``), so that figures can order them.
        queries: how many there are in it; a part may be counted in other things, such as documents.
        scores: measure -> value.
        note: what a reader must know of this part alone (``"over the limit of 2,048 tokens"``).
    """

    by: str
    value: str
    queries: int
    scores: Scores
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One model on one task.

    Attributes:
        benchmark: ``beir``, ``passkey``, ``conteb``, ``MTEB(Code, v1)``, ``study``, ...
        task: one set of it.
        model: as the user named it; ``revision`` is a hash of its weights, or what stands for it (``bm25s 0.2.6``).
        main: which of ``scores`` is the benchmark's own figure.
        scores: measure -> value, each 0..1 unless its name says otherwise.
        settings: what changes the scores: ``dtype, query_dtype, dims, contextual, split, max_tokens, seed``, ...
        groups: the same scores by parts.
        by_query: query id -> measure -> value, for tests of significance; may be empty.
        counts: ``queries, documents, truncated``, ...
        cost: ``seconds, tokens, bytes_per_document``, ...
        data: what was asked: ``source`` and ``sha256`` of the rows, or the seed they were made with.
        environment: versions, date, command; filled in where it is left empty.
        notes: sentences for readers.
    """

    benchmark: str
    task: str
    model: str
    revision: str
    main: str
    scores: Scores
    settings: dict[str, Any] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    by_query: dict[str, Scores] = field(default_factory=dict, repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.main not in self.scores:
            raise InputError(f"{self.label}: the main score {self.main!r} is not among {', '.join(self.scores)}")

    @property
    def label(self) -> str:
        """``benchmark/task of model``, for messages."""
        return f"{self.benchmark}/{self.task} of {self.model}"

    @property
    def score(self) -> float:
        """The main score."""
        return self.scores[self.main]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the result") -> Result:
        """The opposite of ``to_dict``. Raises ``InputError`` for anything else, naming ``source``."""
        if values.get("format") != FORMAT:
            raise InputError(f"{source} is not a result of diffembed evaluate: it has no format {FORMAT!r}")
        if values.get("version") != VERSION:
            raise InputError(
                f"{source} has version {values.get('version')!r} of the result format and this diffembed reads "
                f"version {VERSION}; move it away and evaluate again, or use the diffembed that wrote it"
            )
        names = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - names - {"format", "version"})
        missing = sorted({"benchmark", "task", "model", "revision", "main", "scores"} - set(values))
        if unknown or missing:
            wrong = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"no {', '.join(missing)}"] * bool(missing)
            raise InputError(f"{source} is not a whole result: {'; '.join(wrong)}")
        if odd := _odd_keys(values):
            raise InputError(f"{source} is not a whole result: {', '.join(odd)} cannot be what it should hold there")
        plain = {name: values[name] for name in names & set(values)}
        try:
            plain["groups"] = tuple(Group(**group) for group in plain.get("groups", ()))
            plain["notes"] = tuple(plain.get("notes", ()))
            return cls(**plain)
        except TypeError as error:
            raise InputError(f"{source} is not a whole result: {error}") from error


def _odd_keys(values: Mapping[str, Any]) -> list[str]:
    """The keys of a result file whose values are of a wrong kind."""

    def is_scores(given: Any) -> bool:
        return isinstance(given, dict) and all(type(value) in (int, float) for value in given.values())

    def is_by_query(given: Any) -> bool:
        return isinstance(given, dict) and all(map(is_scores, given.values()))

    def is_group(given: Any) -> bool:
        words = ("by", "value", "note")
        return (
            isinstance(given, dict)
            and all(isinstance(given.get(word, ""), str) for word in words)
            and type(given.get("queries", 0)) is int
            and is_scores(given.get("scores", {}))
        )

    kinds: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("benchmark", "task", "model", "revision", "main"), lambda given: isinstance(given, str)),
        **dict.fromkeys(("settings", "data", "environment"), lambda given: isinstance(given, dict)),
        **dict.fromkeys(("scores", "counts", "cost"), is_scores),
        "by_query": is_by_query,
        "groups": lambda given: isinstance(given, list) and all(map(is_group, given)),
        "notes": lambda given: isinstance(given, list) and all(isinstance(note, str) for note in given),
    }
    return [name for name, fits in kinds.items() if name in values and not fits(values[name])]


@dataclass(frozen=True, slots=True)
class ResultFolder:
    """A folder of result files."""

    path: Path

    def file(self, benchmark: str, task: str, model: str, revision: str, settings: Mapping[str, Any]) -> Path:
        """Where the result of these lies. Another revision or setting is another file."""
        key = json.dumps([model, revision, dict(settings)], sort_keys=True, default=str)
        mark = hashlib.sha256(key.encode()).hexdigest()[:8]
        return self.path / plain_name(benchmark) / plain_name(task) / f"{plain_name(model)}.{mark}.json"

    def find(self, benchmark: str, task: str, model: str, revision: str, settings: Mapping[str, Any]) -> Result | None:
        """The finished result of these, or ``None``."""
        file = self.file(benchmark, task, model, revision, settings)
        return read_result(file) if file.is_file() else None

    def write(self, result: Result, command: str = "") -> Path:
        """Keep a result, whole or not at all; its environment is filled in."""
        file = self.file(result.benchmark, result.task, result.model, result.revision, result.settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        values = result.to_dict()
        values["environment"] = environment(command) | result.environment
        with atomic_file(file) as partial:
            partial.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return file


def read_result(file: Path) -> Result:
    """One result file. Raises ``InputError`` naming it for anything that is not one."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} cannot be read as a result: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} is not a result of diffembed evaluate: it holds no JSON object")
    return Result.from_dict(values, str(file))


def read_results(places: Sequence[Path]) -> list[Result]:
    """All results of files and folders (see ``result_files``), in that order."""
    return [read_result(file) for file in result_files(places)]


def result_files(places: Sequence[Path]) -> list[Path]:
    """The result files among some places, each once: files as they are given, folders searched through, by path.

    Raises ``InputError`` for a place that is not there, or a folder without any ``.json`` file.
    """
    files: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            inside = sorted(file for file in place.rglob("*.json") if not file.name.startswith("."))
            found = [file for file in inside if MTEB_FILES not in file.relative_to(place).parts]
            if not found:
                raise InputError(f"{place} holds no result files; diffembed evaluate NAME --into {place} writes some")
        elif place.is_file():
            found = [place]
        else:
            raise InputError(f"{place} does not exist; give result files, or folders of diffembed evaluate --into")
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def environment(command: str = "") -> dict[str, str]:
    """Date, versions and the command of a run."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "diffembed": __version__}
    found["python"] = platform.python_version()
    for package in ("numpy", "onnxruntime", "tokenizers", "torch", "transformers", "sentence-transformers", "mteb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | ({"command": command} if command else {})


def plain_name(name: str) -> str:
    """A name as a file name; different names stay different by their marks in ``ResultFolder.file``.

    >>> plain_name("MTEB(Code, v1)"), plain_name("st:sentence-transformers/all-MiniLM-L6-v2")
    ('MTEB-Code-v1', 'st-sentence-transformers-all-MiniLM-L6-v2')
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:80] or "unnamed"
