"""What is installed, which runtime would be used, what is broken, and the command that mends each broken point.

``diagnose`` looks and never changes anything: it imports the base libraries (a wheel for the wrong machine fails only
then), reads the embedded model with the model directory's own checks, encodes one text with it, and looks at the
processor and the cache folder. torch is looked up, not imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from diffembed import __version__
from diffembed.errors import DiffembedError

Status = Literal["ok", "note", "broken"]

BUNDLED = Path(__file__).with_name("bundled")
# Distribution, module and oldest version that diffembed works with; a test holds them equal to pyproject.toml.
BASE = (
    ("numpy", "numpy", "2.0"),
    ("onnxruntime", "onnxruntime", "1.20"),
    ("tokenizers", "tokenizers", "0.21"),
    ("faiss-cpu", "faiss", "1.13.2"),
    ("typer", "typer", "0.16"),
    ("rich", "rich", "13.7"),
    ("pyarrow", "pyarrow", "17"),
    ("pathspec", "pathspec", "0.12"),
)
EXTRAS = {
    "train": (
        ("torch", "2.11"),
        ("transformers", "5.4"),
        ("accelerate", "1.2"),
        ("safetensors", "0.5"),
        ("onnx", "1.17"),
        ("onnxscript", "0.5"),
        ("peft", "0.17"),
        ("tensorboard", "2.18"),
        ("pytrec-eval-terrier", "0.5.6"),
    ),
    "eval": (("bm25s", "0.2.6"), ("pytrec-eval-terrier", "0.5.6"), ("sentence-transformers", "5.2")),
    "report": (("matplotlib", "3.9"), ("scikit-learn", "1.6")),
    "readers": (("pypdf", "5"), ("python-docx", "1.1")),
    "qdrant": (("qdrant-client", "1.20"),),
    "langchain": (("langchain-core", "1.0"),),
    "llamaindex": (("llama-index-core", "0.14"),),
    "haystack": (("haystack-ai", "2.20"),),
    "sklearn": (("scikit-learn", "1.6"),),
    "mteb": (("mteb", "2.26"),),
}
_LEAST_FREE_BYTES = 500_000_000
_CPU_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "asimddp": "DotProd",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One point that was looked at.

    Attributes:
        name: what was looked at.
        status: ``ok``; ``note`` for something that is missing but not needed; ``broken``.
        detail: what was found.
        mend: the command or step that mends it, empty where nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, in the order in which they were made."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Nothing that ``index``, ``search`` and ``encode`` need is broken."""
        return all(finding.status != "broken" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values."""
        return {"version": __version__, "healthy": self.healthy, "findings": [asdict(f) for f in self.findings]}


def diagnose(*, bundled: Path = BUNDLED, cache: Path | None = None) -> Diagnosis:
    """Look at everything that ``index``, ``search``, ``encode`` and ``train`` stand on.

    Args:
        bundled: folder of the embedded model.
        cache: cache folder; the one that ``search`` uses when absent.
    """
    base = [_library(*entry) for entry in BASE]
    usable = all(finding.status == "ok" for finding in base)
    findings = [_python(), *base, *(_extra(name) for name in EXTRAS), _processor(), _runtime(usable)]
    findings.append(_embedded_model(bundled, usable))
    findings.extend(_cache(cache if cache is not None else default_cache()))
    return Diagnosis(tuple(findings))


def _python() -> Finding:
    found = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    return Finding("diffembed", "ok", f"{__version__} in {Path(__file__).parent}, {found}")


def _library(distribution: str, module: str, least: str) -> Finding:
    mend = f"{_pip()} install --force-reinstall '{distribution}>={least}'"
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken native library can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding(distribution, "broken", f"does not import: {reason}", mend)
    version = _version(distribution)
    if version is None:
        return Finding(distribution, "ok", "imports; its version is unknown")
    if _older(version, least):
        return Finding(distribution, "broken", f"{version} is too old, {least} or newer is needed", mend)
    return Finding(distribution, "ok", version)


def _extra(name: str) -> Finding:
    found, wrong = [], []
    for distribution, least in EXTRAS[name]:
        version = _version(distribution)
        if version is None:
            wrong.append(f"{distribution} is missing")
        elif _older(version, least):
            wrong.append(f"{distribution} {version} is older than {least}")
        else:
            found.append(f"{distribution} {version}")
    if wrong:
        return Finding(f"extra {name}", "note", "; ".join(wrong), f"{_pip()} install 'diffembed[{name}]'")
    return Finding(f"extra {name}", "ok", ", ".join(found))


def _processor() -> Finding:
    flags = _cpu_flags()
    if flags is None:
        return Finding(
            "processor", "note", f"{os.cpu_count()} cores; its features cannot be read on {platform.system()}"
        )
    named = [label for flag, label in _CPU_FLAGS.items() if flag in flags]
    detail = f"{os.cpu_count()} cores, {', '.join(named) if named else 'no vector features known to matter'}"
    if platform.machine().lower() in {"x86_64", "amd64"} and "avx2" not in flags:
        return Finding("processor", "note", f"{detail}; without AVX2 the int8 weights run slowly")
    return Finding("processor", "ok", detail)


def _cpu_flags() -> set[str] | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    if sys.platform == "darwin":
        try:
            ran = subprocess.run(
                ["sysctl", "-n", "hw.optional.arm.FEAT_DotProd"], capture_output=True, text=True, timeout=5
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return {"asimddp"} if ran.stdout.strip() == "1" else set()
    return None


def _runtime(usable: bool) -> Finding:
    torch = _version("torch")
    other = (
        f"torch {torch} is there for training and runtime='torch'" if torch else "torch is not installed and not needed"
    )
    if not usable:
        return Finding("runtime", "broken", "no runtime: see the broken libraries above", f"{_pip()} install diffembed")
    import onnxruntime

    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    return Finding("runtime", "ok", f"onnxruntime on the CPU (providers here: {providers}); {other}")


def _embedded_model(bundled: Path, usable: bool) -> Finding:
    name, mend = "embedded model", "install diffembed again (in a clone: git checkout -- src/diffembed/bundled)"
    if not (bundled / "diffembed.json").exists():
        return Finding(
            name,
            "broken",
            f"{bundled} holds no model",
            f"{mend}, or train it (diffembed train runs/bundled.toml), or use --model DIR",
        )
    if not usable:
        return Finding(name, "note", "not tried, because a library above is broken")
    try:
        from diffembed.encoder import Encoder

        start = time.perf_counter()
        encoder = Encoder.load(bundled)
        loaded = time.perf_counter()
        encoder.encode_queries(["is anybody there?"])
        answered = time.perf_counter()
    except DiffembedError as error:
        return Finding(name, "broken", str(error), mend)
    except Exception as error:  # whatever onnxruntime or a damaged file raises is a finding, not a crash
        return Finding(name, "broken", f"does not run: {type(error).__name__}: {str(error).splitlines()[0]}", mend)
    megabytes = sum(file.stat().st_size for file in bundled.rglob("*") if file.is_file()) / 1e6
    widths = ", ".join(map(str, encoder.dims))
    timing = f"loads in {(loaded - start) * 1000:.0f} ms, first query in {(answered - loaded) * 1000:.0f} ms"
    return Finding(name, "ok", f"whole, {megabytes:.1f} MB, widths {widths}, {encoder.max_tokens} tokens, {timing}")


def default_cache() -> Path:
    """The folder of the indexes that ``search`` makes, and of models."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a path that is not absolute.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "diffembed"


def _cache(cache: Path) -> list[Finding]:
    there = cache
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        mend = "set XDG_CACHE_HOME to a folder that you may write, or use: diffembed index PATH --into DIR"
        return [Finding("cache folder", "broken", f"{cache} cannot be written ({there} does not allow it)", mend)]
    free = shutil.disk_usage(there).free
    space = f"{free / 1e9:.1f} GB free"
    if free < _LEAST_FREE_BYTES:
        mend = "free some space, or set XDG_CACHE_HOME to a folder on a larger disk"
        return [Finding("cache folder", "ok", str(cache)), Finding("disk", "broken", space, mend)]
    return [Finding("cache folder", "ok", str(cache)), Finding("disk", "ok", space)]


def _pip() -> str:
    return f"{sys.executable} -m pip"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _older(version: str, least: str) -> bool:
    """Whether a version comes before another, by their numbers.

    >>> _older("1.9.0.post1", "1.9"), _older("0.20.1", "0.21"), _older("2.13.0+cpu", "2.11")
    (False, True, False)
    """
    return _numbers(version) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.partition("+")[0].split("."):
        match = re.match(r"\d+", part)
        if match is None:
            break
        numbers.append(int(match.group()))
    return tuple(numbers)
