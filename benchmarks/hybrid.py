"""Meaning, words, or both: nDCG@10 of an index of diffembed on labelled sets of several languages and scripts.

    python benchmarks/hybrid.py --data ../shared/data [--set en-nq ...] [--model default] [--quick]

For every set an index is built (a record a document, one chunk each, cut where the model stops reading; BM25 reads
whole texts) and asked the dev queries, at most `--queries` of them:

NAME.dense.ndcg_at_10            vectors alone
NAME.bm25.ndcg_at_10             words alone: FTS5 with the index's tokenizer
NAME.rrf.ndcg_at_10              reciprocal ranks of both
NAME.weighted_0W.ndcg_at_10      scores of both, W tenths of the cosine
NAME.bm25_plain, .bm25_unstemmed, .bm25_triples.ndcg_at_10
                                 words alone, by other tokenizers: FTS5's unicode61 as it is; without the English
                                 endings; threes of characters (FTS5's trigram) everywhere
mean.*                           over the sets
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from _common import parser, progress, report
from diffembed.data.beir import RetrievalTask, load_beir
from diffembed.encoder import Encoder
from diffembed.evaluation.metrics import score_run
from diffembed.index import Index, lexical

SETS = (
    "en-nq",
    "en-squad-sent",
    "code-go",
    "zh-cmrc",
    "zh-drcd",
    "ja-jaquad-ctx",
    "th-iapp",
    "ar-arcd",
    "fr-piaf-ctx",
)
SETS += ("pt-faquad-ctx", "xling-django/el-en", "xling-django/pl-en")
WEIGHTS = (0.3, 0.5, 0.7, 0.8, 0.9)
DEEP = 100
Ranking = Mapping[str, float]


def main() -> None:
    options = parser("hybrid", __doc__)
    options.add_argument("--data", type=Path, required=True, help="folder that holds the sets, in BEIR layout")
    options.add_argument("--set", action="append", default=[], dest="sets", metavar="NAME", help="only these sets")
    options.add_argument("--model", default="default", help="default or a model directory")
    options.add_argument("--queries", type=int, default=400, help="at most so many of a set (default: %(default)s)")
    args = options.parse_args()
    names = args.sets or (SETS[:1] + SETS[3:4] if args.quick else SETS)
    encoder = Encoder.load(args.model)
    scores: dict[str, dict[str, float]] = {}
    for name in names:
        task = load_beir(args.data / name, "dev")
        asked = list(task.queries)[: args.queries]
        progress(f"{name}: {len(task.texts):,} documents, {len(asked):,} queries")
        scores[name] = {**indexed(task, asked, encoder), **tokenizers(task, asked)}
        progress("  " + "  ".join(f"{way} {score:.3f}" for way, score in scores[name].items()))
    metrics = {f"{name}.{way}.ndcg_at_10": score for name, ways in scores.items() for way, score in ways.items()}
    ways = list(next(iter(scores.values())))
    metrics |= {f"mean.{way}.ndcg_at_10": mean(found[way] for found in scores.values()) for way in ways}
    notes = f"dev queries, at most {args.queries} of a set; model {encoder.model_id}; BM25 with k1 1.2, b 0.75"
    report(args, metrics, notes=notes)


def ndcg(task: RetrievalTask, runs: Mapping[str, Ranking]) -> float:
    """nDCG@10 of the rankings of some queries."""
    kept = {
        query: {d: s for d, s in found.items() if d not in task.excluded.get(query, ())}
        for query, found in runs.items()
    }
    return score_run({query: task.qrels[query] for query in runs}, kept)["ndcg@10"]


def indexed(task: RetrievalTask, asked: Sequence[str], encoder: Encoder) -> dict[str, float]:
    """Every way of searching that the index has."""
    with tempfile.TemporaryDirectory() as folder, Index.create(Path(folder) / "index", model=encoder) as index:
        pairs = zip(task.document_ids, task.texts, strict=True)
        index.add({"id": id_, "chunks": [text]} for id_, text in pairs if text.strip())

        def asking(**how: object) -> dict[str, Ranking]:
            found = index.search_all(
                [task.queries[q] for q in asked],
                top=DEEP,
                sentences=False,
                encoder=encoder,
                **how,  # type: ignore[arg-type]
            )
            return {q: {hit.key: hit.score for hit in hits} for q, hits in zip(asked, found, strict=True)}

        def words(query: str) -> Ranking:
            found = dict(index._catalog.lexical(task.queries[query], DEEP))
            return {chunk.document.key: found[chunk.id] for chunk in index.chunks(list(found))}

        scores = {"dense": ndcg(task, asking()), "bm25": ndcg(task, {query: words(query) for query in asked})}
        scores["rrf"] = ndcg(task, asking(hybrid="rrf"))
        for weight in WEIGHTS:
            scores[f"weighted_{weight:g}".replace(".", "")] = ndcg(task, asking(hybrid="weighted", weight=weight))
        return scores


def tokenizers(task: RetrievalTask, asked: Sequence[str]) -> dict[str, float]:
    """BM25 by other ways to tell words apart."""
    unstemmed = lexical.TOKENIZER.removeprefix("porter ")
    ways: dict[str, tuple[str, Callable[[str], str]]] = {
        "bm25_plain": ("unicode61", str),
        "bm25_unstemmed": (unstemmed, lexical.form),
        "bm25_triples": ("trigram", str),
    }
    return {name: ndcg(task, bm25(task, asked, *way)) for name, way in ways.items()}


def bm25(task: RetrievalTask, asked: Sequence[str], tokenizer: str, form: Callable[[str], str]) -> dict[str, Ranking]:
    """Rankings by FTS5 with another tokenizer; a query's words are those that it finds."""
    db = sqlite3.connect(":memory:")
    db.execute(f'CREATE VIRTUAL TABLE words USING fts5(form, tokenize="{tokenizer}")')
    db.execute(f'CREATE VIRTUAL TABLE query USING fts5(form, tokenize="{tokenizer}")')
    db.execute("CREATE VIRTUAL TABLE terms USING fts5vocab('query', 'instance')")
    db.executemany("INSERT INTO words (rowid, form) VALUES (?, ?)", enumerate(map(form, task.texts)))
    runs = {}
    for query in asked:
        db.execute("DELETE FROM query")
        db.execute("INSERT INTO query VALUES (?)", (form(task.queries[query]),))
        terms = {row[0].replace('"', '""') for row in db.execute("SELECT DISTINCT term FROM terms")}
        match = " OR ".join(f'"{term}"' for term in sorted(terms))
        sql = "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        found = db.execute(sql, (match, DEEP)).fetchall() if terms else []
        runs[query] = {task.document_ids[row]: score for row, score in found}
    db.close()
    return runs


if __name__ == "__main__":
    main()
