"""What every benchmark shares: the command line, fair timing, and the result file.

A benchmark is a script that anyone can run (`python benchmarks/NAME.py`), that measures the peer in the same run
as diffembed, and that leaves its figures in `benchmarks/results/NAME.json`. The README's tables are generated from
these files (`readme_tables.py`), so a figure that is not in a result file cannot be in the README.

    from _common import interleaved, parse, report

    args = parse("encode", __doc__)
    timings = interleaved({"ours": ours, "peer": peer}, repeats=3 if args.quick else 9)
    report(args, {"speedup": timings["peer"].median / timings["ours"].median}, notes="one thread each")

A `--quick` run (under two minutes) writes to `benchmarks/results/quick/`, which is not committed: its figures are for
looking at, not for quoting.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
PACKAGES = ("numpy", "onnxruntime", "tokenizers", "faiss-cpu", "torch", "transformers", "sentence-transformers")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one contender: every repeat, in order; ``median`` is the figure to quote, ``spread`` its honesty."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: above 0.3 or so the machine was busy with something else."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.median else 0.0

    def percentile(self, percent: float) -> float:
        """Nearest-rank percentile, ``percent`` in 0..100."""
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def interleaved(contenders: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Time the contenders in turns (a b c, b c a, c a b, ...), so that a slow minute of the machine hits all alike.

    Each is called ``warmup`` times untimed first. The order rotates, so none is always the one after the heaviest.
    """
    names = list(contenders)
    for name in names * warmup:
        contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark takes: ``--json``, ``--quick``, ``--name``."""
    first = (description or name).strip().splitlines()[0]
    made = argparse.ArgumentParser(prog=f"python benchmarks/{Path(sys.argv[0]).name}", description=first)
    made.add_argument("--json", action="store_true", help="print the result file's JSON on stdout, not a table")
    made.add_argument("--quick", action="store_true", help="under two minutes; writes to results/quick/ instead")
    made.add_argument("--name", default=name, help="name of the result file (default: %(default)s)")
    return made


def parse(name: str, description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """``parser(...).parse_args(...)`` for a benchmark without options of its own."""
    return parser(name, description).parse_args(arguments)


def progress(message: str) -> None:
    """A line on stderr: stdout carries data only."""
    print(message, file=sys.stderr, flush=True)


def read_words(folder: Path, least: int) -> list[str]:
    """All words of a folder's text files, in order of path; fewer than ``least`` end the program with a line."""
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    words = [word for file in files for word in file.read_text(encoding="utf-8", errors="ignore").split()]
    if len(words) < least:
        raise SystemExit(f"{folder} holds {len(words)} words, at least {least} are needed; give --texts FOLDER")
    return words


def result_path(args: argparse.Namespace) -> Path:
    """Where this run's result goes: ``results/NAME.json``, or ``results/quick/NAME.json``."""
    return (RESULTS / "quick" if args.quick else RESULTS) / f"{args.name}.json"


def report(
    args: argparse.Namespace, metrics: Mapping[str, float], *, notes: str = "", packages: Sequence[str] = ()
) -> Path:
    """Write the result file and print it (``--json``) or its metrics (a table). Returns the file's path.

    ``metrics`` are flat: ``"english.minilm.tokens_per_second": 5120.0``. ``packages`` adds to the versions noted.
    """
    result = make_result(args.name, metrics, notes=notes, packages=packages)
    path = result_path(args)
    write_result(path, result)
    if args.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        width = max((len(name) for name in result["metrics"]), default=0)
        for name, value in result["metrics"].items():
            print(f"{name:<{width}}  {value:g}")
    progress(f"written: {path.relative_to(REPOSITORY)}")
    return path


def make_result(
    name: str, metrics: Mapping[str, float], *, notes: str = "", packages: Sequence[str] = ()
) -> dict[str, Any]:
    """The result in the form that all of them share. A metric that is not a finite number is refused."""
    numbers = {key: float(value) for key, value in metrics.items()}
    broken = [key for key, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(f"metrics must be finite numbers; these are not: {', '.join(broken)}")
    return {
        "name": name,
        "command": command(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "versions": versions((*PACKAGES, *packages)),
        "metrics": {key: float(f"{value:.6g}") for key, value in numbers.items()},
        "notes": notes,
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write whole or not at all: to a neighbour first, then renamed over the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def command() -> str:
    """The command line as a stranger would type it: this machine's absolute paths are shortened to their last part."""
    words = [f"python benchmarks/{Path(sys.argv[0]).name}"]
    for word in sys.argv[1:]:
        option, separator, value = re.fullmatch(r"(.*?)([:=]?)([^:=]*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
        words.append(shlex.quote(f"{option}{separator}{Path(value).name if Path(value).is_absolute() else value}"))
    return " ".join(words)


def commit() -> str:
    """The checked-out commit, with ``-dirty`` where tracked files differ from it; ``unknown`` outside a repository."""
    head = _output("git", "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    return (head + ("-dirty" if changed else "")) if head else "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GB, and the GPU or ``none``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    gpu = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return {"cpu": _processor(), "cores": cores, "ram_gb": round(memory / 2**30), "gpu": gpu[0] if gpu else "none"}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Python's version and that of every named package that is installed."""
    found = {"python": platform.python_version()}
    for package in dict.fromkeys(packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _output(*arguments: str) -> str:
    """stdout of a command run in the repository, or an empty string where it is missing or fails."""
    try:
        done = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
