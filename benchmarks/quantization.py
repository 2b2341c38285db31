"""What quantization costs on one model: vector types and widths, and int8 weights against fp32 weights.

    python benchmarks/quantization.py --data ../shared/data [--model default] [--sets en-nq en-man ...] [--quick]

Every text is read once by the torch runtime (fp32 weights) and once by onnxruntime (int8 weights); the vectors of all
types and widths come from the same states. Metrics, nDCG@10 on the dev split, means over the sets:

    torch-fp32.{float32,int8,binary}.DIMS.ndcg@10     vector type and width, fp32 weights
    onnx-int8.int8.DIMS.ndcg@10                       int8 vectors, int8 weights
    loss.int8-vectors, loss.binary-vectors            points (x100) lost to float32 vectors at full width
    loss.int8-weights                                 points lost by int8 weights, int8 vectors, full width
    cosine.mean, cosine.min                           int8-weight against fp32-weight document vectors
    SET.VARIANT.ndcg@10                               every set at full width
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from _common import parser, progress, report
from diffembed.data.beir import load_beir
from diffembed.encoder import Encoder
from diffembed.evaluation.retrieval import evaluate_encoder
from diffembed.runtime import Runtime
from diffembed.text.batching import PackedBatch
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.quantize import FloatArray

SETS = ("en-nq", "en-wiki-ctx", "en-office-help", "en-man", "tool-apibench", "reason-planetmath", "reason-concepts")


class Remembering:
    """A runtime that keeps the states of every batch, so that several vector types cost one pass."""

    def __init__(self, inner: Runtime) -> None:
        self.inner, self.name, self.precision = inner, inner.name, inner.precision
        self.seen: dict[tuple[bytes, bytes], FloatArray] = {}

    def span_means(self, batch: PackedBatch) -> FloatArray:
        key = (batch.token_ids.tobytes(), batch.cu_seqlens.tobytes())
        if key not in self.seen:
            self.seen[key] = self.inner.span_means(batch)
        return self.seen[key]


def main() -> None:
    options = parser("quantization", __doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with the retrieval sets")
    options.add_argument("--model", default="default")
    options.add_argument("--sets", nargs="+", default=list(SETS))
    args = options.parse_args()
    sets = args.sets[:1] if args.quick else args.sets
    full = Encoder.load(args.model, runtime="torch")
    small = Encoder.load(args.model, runtime="onnx", precision="int8")
    dims = full.dims
    scores: dict[tuple[str, str, int], list[float]] = {}
    metrics: dict[str, float] = {}
    cosines = []
    for name in sets:
        task = load_beir(args.data / name, "dev")
        progress(f"{name}: {len(task.texts)} documents")
        for label, encoder in (("torch-fp32", full), ("onnx-int8", small)):
            encoder.runtime = Remembering(encoder.runtime)
            types: tuple[VectorDtype, ...] = ("float32", "int8", "binary") if label == "torch-fp32" else ("int8",)
            for dtype in types:
                for width in dims:
                    score = evaluate_encoder(task, encoder, dtype=dtype, dims=width).scores["ndcg@10"]
                    scores.setdefault((label, dtype, width), []).append(score)
                    if width == dims[-1]:
                        metrics[f"{name}.{label}-{dtype}.ndcg@10"] = score
        texts = [t for t in task.texts if t.strip()]
        a, b = (_unit(np.asarray(e.encode_documents(texts, truncate=True))) for e in (full, small))
        cosines.append((a * b).sum(axis=1))
        for encoder in (full, small):
            assert isinstance(encoder.runtime, Remembering)
            encoder.runtime = encoder.runtime.inner
    means = {key: float(np.mean(values)) for key, values in scores.items()}
    metrics |= {f"{label}.{dtype}.{width}.ndcg@10": value for (label, dtype, width), value in means.items()}
    widest = dims[-1]
    base = means["torch-fp32", "float32", widest]
    metrics["loss.int8-vectors"] = 100 * (base - means["torch-fp32", "int8", widest])
    metrics["loss.binary-vectors"] = 100 * (base - means["torch-fp32", "binary", widest])
    metrics["loss.int8-weights"] = 100 * (means["torch-fp32", "int8", widest] - means["onnx-int8", "int8", widest])
    every = np.concatenate(cosines)
    metrics["cosine.mean"], metrics["cosine.min"] = float(every.mean()), float(every.min())
    notes = f"model {full.config.name}; dev split of {', '.join(sets)}; {len(every)} documents for the cosines"
    report(args, metrics, notes=notes, packages=("torch", "transformers", "onnxruntime", "numpy"))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
