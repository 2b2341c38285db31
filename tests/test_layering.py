"""The house: imports run downward, nothing on the search path needs torch, files stay small and movable."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SRC = REPO / "src"
PACKAGE = SRC / "diffembed"
# Child processes see this tree whether or not it is installed.
ENV = {**os.environ, "PYTHONPATH": str(SRC)}

# A module may import from its own layer and from those before it.
LAYERS = [
    {"errors"},
    {"text", "vectors"},
    {"models", "runtime", "objectives"},
    {"encoder", "chunker", "bulk", "infill", "training", "data"},
    {"index", "evaluation", "synthesis", "integrations", "study", "report"},
    {
        "serving",
        "scale",
        "console",
        "exits",
        "doctor",
        "verbs",
        "verbs_index",
        "verbs_records",
        "cli_records",
        "verbs_cluster",
        "verbs_evaluate",
        "verbs_benchmark",
        "verbs_rag",
        "cli_cluster",
        "cli_evaluate",
        "cli_report",
        "verbs_report",
        "cli_benchmark",
        "cli_generated",
        "verbs_generated",
        "cli_rag",
        "cli_options",
        "cli_bulk",
        "cli_index",
        "cli_training",
        "cli_study",
        "verbs_study",
        "cli",
        "__main__",
    },
]
# Upward imports that are meant: importer, imported part, and why.
MEANT: dict[tuple[str, str], str] = {
    (
        "training",
        "evaluation",
    ): "a run scores its own model with the evaluation's public function, imported when it does",
    ("data", "evaluation"): "hard negatives are mined with a sentence-transformers model where one is named",
    ("data", "index"): "hard negatives are mined from an index where one is named",
}
TORCH_FREE = [
    "errors",
    "text",
    "vectors",
    "runtime/onnx.py",
    "encoder.py",
    "chunker.py",
    "bulk",
    "index",
    "report",
    "serving",
    "console.py",
    "doctor.py",
]
TORCH_FREE += [
    "verbs.py",
    "verbs_index.py",
    "verbs_records.py",
    "cli_records.py",
    "verbs_cluster.py",
    "verbs_evaluate.py",
    "verbs_benchmark.py",
    "verbs_rag.py",
    "cli_cluster.py",
    "cli_evaluate.py",
    "cli_report.py",
    "verbs_report.py",
    "cli_benchmark.py",
    "cli_generated.py",
    "verbs_generated.py",
    "cli_rag.py",
    "synthesis",
    "cli.py",
    "cli_options.py",
    "cli_bulk.py",
    "cli_index.py",
    "cli_training.py",
    "cli_study.py",
    "verbs_study.py",
    "exits.py",
    "__init__.py",
    "__main__.py",
    "models/adopt.py",
    "models/checkpoint.py",
    "models/files.py",
    "models/foreign.py",
    "models/lora.py",
    "models/modules_file.py",
    "models/released.py",
    "models/stack.py",
    "runtime/start.py",
]
HEAVY = {"torch", "transformers", "accelerate", "sentence_transformers"}
# They need torch, or the tokenizers of transformers, inside the functions that load or write.
LAZY_IN = {"models/checkpoint.py", "models/released.py"}
FORBIDDEN = {"pickle", "cPickle", "shelve", "marshal", "joblib", "dill", "cloudpickle"}


def modules(*parts: str) -> list[Path]:
    if not parts:
        return sorted(PACKAGE.rglob("*.py"))
    found: list[Path] = []
    for part in parts:
        path = PACKAGE / part
        found += (
            sorted(path.rglob("*.py")) if path.is_dir() else [p for p in (path, path.with_suffix(".py")) if p.is_file()]
        )
    return found


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def type_checking_lines(path: Path) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in node.body:
                lines.update(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return lines


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[str, int]]:
    """Modules that a file imports at run time, with the line; imports for type checkers are left out."""
    skip = type_checking_lines(path)
    within = (
        {
            id(n)
            for f in ast.walk(tree(path))
            if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
            for n in ast.walk(f)
        }
        if top_level_only
        else set()
    )
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Import | ast.ImportFrom) or node.lineno in skip or id(node) in within:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        else:
            assert node.level == 0, f"{name(path)}:{node.lineno}: relative import; write it out"
            base = node.module or ""
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def part_of(module: str) -> str | None:
    """``diffembed.index.store`` -> ``index``; ``None`` for what is not ours (or the package itself)."""
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "diffembed" and len(pieces) > 1 else None


def layer(part: str) -> int | None:
    return next((i for i, names in enumerate(LAYERS) if part in names), None)


def test_every_module_has_a_layer() -> None:
    own = {Path(name(p)).parts[0].removesuffix(".py") for p in modules()} - {"__init__"}
    assert {part for part in own if layer(part) is None} == set(), "give the new part its layer in LAYERS"


@pytest.mark.parametrize("path", modules(), ids=name)
def test_imports_run_downward(path: Path) -> None:
    own = Path(name(path)).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the lazy public names come from everywhere
    here = layer(own)
    assert here is not None
    upward = []
    for module, line in imports(path):
        part = part_of(module)
        there = layer(part) if part else None
        if part and there is not None and there > here and (own, part) not in MEANT:
            upward.append(f"{name(path)}:{line} imports {module}")
    assert upward == []


@pytest.mark.parametrize("path", modules(*TORCH_FREE), ids=name)
def test_search_path_never_names_torch(path: Path) -> None:
    lazy = name(path) in LAZY_IN
    found = [f"{m} (line {n})" for m, n in imports(path, top_level_only=lazy) if m.split(".")[0] in HEAVY]
    assert found == []


def test_search_path_imports_with_torch_blocked() -> None:
    names = sorted(
        {
            "diffembed." + name(p).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for p in modules(*TORCH_FREE)
            if name(p) not in {"__init__.py", "__main__.py"}
        }
    )
    code = f"""
import importlib, sys
for heavy in {sorted(HEAVY)!r}:
    sys.modules[heavy] = None  # importing it now raises ImportError
for module in {names!r}:
    importlib.import_module(module)
"""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=ENV)
    assert ran.returncode == 0, ran.stderr


def best_of(runs: int, code: str) -> float:
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=ENV)
        best = min(best, time.perf_counter() - start)
    return best


def test_import_takes_less_than_a_fifth_of_a_second() -> None:
    assert best_of(5, "import diffembed") - best_of(5, "pass") < 0.2


@pytest.mark.parametrize("path", modules(), ids=name)
def test_no_pickle_and_no_remote_code(path: Path) -> None:
    bad = [f"{m} (line {n})" for m, n in imports(path) if m.split(".")[0] in FORBIDDEN]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and ast.unparse(node.value) != "False":
            bad.append(f"trust_remote_code (line {node.value.lineno})")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "torch.save", "eval", "exec"}:
            bad.append(f"{ast.unparse(node.func)} (line {node.lineno})")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            bad.append(f"allow_pickle (line {node.value.lineno})")
    assert bad == []


@pytest.mark.parametrize("path", modules(), ids=name)
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    if text.strip():
        assert ast.get_docstring(tree(path)), "a module docstring says what the file is for"


def own_files() -> list[Path]:
    """What the repository holds, as git sees it; without git, what is in its folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    if not names:
        names = [
            p.relative_to(REPO).as_posix()
            for part in ("src", "tests", "docs", "runs")
            for p in (REPO / part).rglob("*")
        ]
    return [REPO / n for n in names if n and (REPO / n).is_file()]


def test_no_path_of_one_machine_in_the_repository() -> None:
    home = re.compile(r"(?<![\w.$}/-])/(?:work|home|root|Users|mnt|media)/\w")
    suffixes = {".py", ".toml", ".md", ".sh", ".json", ".txt", ".cfg", ""}
    found = []
    for path in own_files():
        relative = path.relative_to(REPO)
        if path.suffix not in suffixes or relative.parts[0] == "samples" or path == Path(__file__):
            continue
        if path.stat().st_size > 1_000_000 or path.name in {"tokenizer.json", "LICENSE"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if home.search(line):
                found.append(f"{relative}:{number}: {line.strip()[:100]}")
    assert found == []
