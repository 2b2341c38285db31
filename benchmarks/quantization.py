"""What quantization costs on one model: vector types and widths, and int8 weights against fp32 weights.

    python benchmarks/quantization.py --data ../shared/data [--model default] [--sets en-nq en-man ...] [--quick]

Every text is read once by the torch runtime (fp32 weights) and once by onnxruntime (int8 weights); the vectors of all
types and widths come from the same states. Metrics, nDCG@10 on the dev split, means over the sets:

    torch-fp32.{float32,int8,binary}.DIMS.ndcg@10     vector type and width, fp32 weights
    torch-fp32.binary-documents.DIMS.ndcg@10          int8 queries against binary documents
    onnx-int8.int8.DIMS.ndcg@10                       int8 vectors, int8 weights
    loss.int8-vectors, .binary-vectors, .binary-documents   points (x100) lost to float32 vectors at full width
    loss.int8-weights                                 points lost by int8 weights, int8 vectors, full width
    cosine.mean, cosine.min                           int8-weight against fp32-weight document vectors
    SET.VARIANT.ndcg@10                               every set at full width
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from _common import parser, progress, report
from _once import EncodedOnce
from diffembed.data.beir import load_beir
from diffembed.encoder import Encoder
from diffembed.evaluation.retrieval import evaluate_encoder
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.quantize import unit

SETS = ("en-nq", "en-wiki-ctx", "en-office-help", "en-man", "en-squad-sent", "en-wordnet-sense", "tool-apibench")


def main() -> None:
    options = parser("quantization", __doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with the retrieval sets")
    options.add_argument("--model", default="default")
    options.add_argument("--sets", nargs="+", default=list(SETS))
    args = options.parse_args()
    sets = args.sets[:1] if args.quick else args.sets
    full = EncodedOnce(Encoder.load(args.model, runtime="torch", precision="fp32"))
    small = EncodedOnce(Encoder.load(args.model, runtime="onnx", precision="int8"), "int8")
    dims = full.inner.dims
    variants: list[tuple[str, EncodedOnce, VectorDtype, VectorDtype]] = [
        ("torch-fp32.float32", full, "float32", "float32"),
        ("torch-fp32.int8", full, "int8", "int8"),
        ("torch-fp32.binary", full, "binary", "binary"),
        ("torch-fp32.binary-documents", full, "binary", "int8"),
        ("onnx-int8.int8", small, "int8", "int8"),
    ]
    scores: dict[str, list[float]] = {}
    metrics: dict[str, float] = {}
    cosines = []
    for name in sets:
        task = load_beir(args.data / name, "dev")
        progress(f"{name}: {len(task.texts)} documents")
        for encoder in (full, small):
            encoder.kept.clear()
        full.check(list(task.texts[:64]))
        for label, encoder, dtype, query_dtype in variants:
            for width in dims:
                report_ = evaluate_encoder(task, encoder, dtype=dtype, query_dtype=query_dtype, dims=width)
                scores.setdefault(f"{label}.{width}", []).append(report_.scores["ndcg@10"])
            metrics[f"{name}.{label.replace('.', '-')}.ndcg@10"] = scores[f"{label}.{dims[-1]}"][-1]
        texts = [t for t in task.texts if t.strip()]
        a, b = (unit(e.encode_documents(texts, dtype="int8").values) for e in (full, small))
        cosines.append((a * b).sum(axis=1))
    means = {key: float(np.mean(values)) for key, values in scores.items()}
    metrics |= {f"{key}.ndcg@10": value for key, value in means.items()}

    def lost(better: str, worse: str) -> float:
        return 100 * (means[f"{better}.{dims[-1]}"] - means[f"{worse}.{dims[-1]}"])

    metrics["loss.int8-vectors"] = lost("torch-fp32.float32", "torch-fp32.int8")
    metrics["loss.binary-vectors"] = lost("torch-fp32.float32", "torch-fp32.binary")
    metrics["loss.binary-documents"] = lost("torch-fp32.float32", "torch-fp32.binary-documents")
    metrics["loss.int8-weights"] = lost("torch-fp32.int8", "onnx-int8.int8")
    every = np.concatenate(cosines)
    metrics["cosine.mean"], metrics["cosine.min"] = float(every.mean()), float(every.min())
    notes = f"model {full.inner.config.name}; dev split of {', '.join(sets)}; {len(every)} documents for the cosines"
    report(args, metrics, notes=notes, packages=("torch", "transformers", "onnxruntime", "numpy"))


if __name__ == "__main__":
    main()
