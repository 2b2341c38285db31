"""Start-up: import, load, first answer, each in fresh processes.

    python benchmarks/startup.py [--quick] [--json] [--model default] [--folder samples]
    python benchmarks/startup.py --data ../shared/data --files 10000 --name startup-100k

import.seconds                 `import diffembed`, measured inside the process
load.seconds                   `Encoder.load(...)` after the imports; load.with_imports_seconds with them
first_vector.seconds           whole process: start, load, one query encoded, exit
first_vector.peer_seconds      the same with sentence-transformers on the same weights
search.first_use_seconds       `diffembed search QUERY FOLDER` as a whole process that has to build its index
search.warm_seconds            the same again: the index is there and is checked against the files
search.warm_slowest_seconds    the slowest of the warm runs
search.compacted_seconds       warm once more, after `diffembed index compact` (which gives a large index a coarse one)
search.chunks, search.files    what the index of the folder holds

`--data` makes a large folder instead: the corpora of the English sets (`SETS`), a section for each document, in so many
Markdown files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _common import REPOSITORY, parser, progress, report

IMPORT = """
import sys, time
start = time.perf_counter()
import diffembed
print(time.perf_counter() - start, int("torch" in sys.modules))
"""
LOAD = """
import sys, time
begin = time.perf_counter()
import numpy, onnxruntime, tokenizers
from diffembed import Encoder
start = time.perf_counter()
Encoder.load(sys.argv[1])
print(time.perf_counter() - start, time.perf_counter() - begin)
"""
OURS = "import sys; from diffembed import Encoder; Encoder.load(sys.argv[1]).encode_queries([sys.argv[2]])"
PEER = """
import sys
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").encode([sys.argv[2]])
"""
SETS = "en-computing-terms en-debdesc en-docs-sections en-gcide-def en-man en-office-help en-wordnet-def".split()
QUERY = "how are special tokens kept out of the vectors"


def main() -> None:
    options = parser("startup", __doc__)
    options.add_argument("--model", default="default", help="default or a model directory")
    options.add_argument("--folder", type=Path, default=REPOSITORY / "samples", help="the folder to search")
    options.add_argument("--data", type=Path, help="search the corpora of some sets in this folder instead")
    options.add_argument("--files", type=int, default=10_000, help="with --data: how many files they are cut into")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if args.data is not None:
            args.folder = Path(made) / "corpora"
            write_corpora(args.data, args.folder, args.files)
        measure(args)


def measure(args: argparse.Namespace) -> None:
    if not args.folder.is_dir():
        raise SystemExit(f"{args.folder} is not a folder; give --folder")
    from diffembed.encoder import resolve_model
    from diffembed.index import Index

    path, repeats = str(resolve_model(args.model)), 3 if args.quick else 9
    progress("import, load, first vector")
    imports = [[float(x) for x in python(IMPORT).split()] for _ in range(repeats + 1)][1:]  # the first reads the disk
    loads = [[float(x) for x in python(LOAD, path).split()] for _ in range(repeats + 1)][1:]
    ours = [seconds([sys.executable, "-c", OURS, path, QUERY]) for _ in range(repeats)]
    peer = [seconds([sys.executable, "-c", PEER, path, QUERY]) for _ in range(max(2, repeats // 3))]
    metrics: dict[str, float] = {
        "import.seconds": median(x for x, _ in imports),
        "import.brings_torch": max(torch for _, torch in imports),
        "load.seconds": median(x for x, _ in loads),
        "load.with_imports_seconds": median(x for _, x in loads),
        "first_vector.seconds": median(ours),
        "first_vector.peer_seconds": median(peer),
    }
    progress(f"search in {args.folder.name}")
    with tempfile.TemporaryDirectory() as cache:
        diffembed = [sys.executable, "-m", "diffembed"]
        command = [*diffembed, "search", QUERY, str(args.folder), "--model", args.model, "--json"]
        metrics["search.first_use_seconds"] = seconds(command, cache)
        warm = [seconds(command, cache) for _ in range(repeats + 1)][1:]
        answer = json.loads(subprocess.run(command, env=environment(cache), capture_output=True, check=True).stdout)
        with Index.open(answer["index"]) as index:
            metrics["search.chunks"], metrics["search.files"] = len(index), index.stats().files
        seconds([*diffembed, "index", "compact", answer["index"]], cache)
        compacted = [seconds(command, cache) for _ in range(repeats + 1)][1:]
    if not answer["hits"]:
        raise SystemExit("the search found nothing: not a figure to report")
    metrics |= {"search.warm_seconds": median(warm), "search.warm_slowest_seconds": max(warm)}
    metrics["search.compacted_seconds"] = median(compacted)
    report(args, metrics, notes=f"medians of {repeats} fresh processes")


def write_corpora(data: Path, into: Path, files: int) -> None:
    """The documents of ``SETS``, each a section, as so many Markdown files in folders of a hundred."""
    sections = []
    for name in SETS:
        with gzip.open(data / name / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                sections.append(f"# {row['title'] or row['_id']}\n\n{row['text']}\n")
    for number in range(files):
        path = into / f"{number // 100:03d}" / f"{number:05d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(sections[number::files]), encoding="utf-8")


def environment(cache: str | None = None) -> dict[str, str]:
    """This process's environment with the source tree importable and, if given, a cache folder of its own."""
    made = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])}
    return made | ({"XDG_CACHE_HOME": cache} if cache else {})


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout


def seconds(command: list[str], cache: str | None = None) -> float:
    """Wall time of a whole process that must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, env=environment(cache), capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command[2]} failed with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return taken


if __name__ == "__main__":
    main()
