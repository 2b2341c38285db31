"""What chunking strategies find: borders between subjects, documents by their best chunk, passages within a budget.

    python benchmarks/chunking.py --data ../shared/data [--model default] [--quick] [--json]

The adaptive strategy cuts at 256 tokens; every other one gets the limit at which it makes as many chunks of the same
texts (but for `markdown`, whose chunks are sections), so that none gains by smaller chunks.

Borders. Passages on unlike subjects end to end, in three settings: `far`, from unlike sets, all sentences in one
paragraph; `near`, from articles of one encyclopedia, the same; `paragraphs`, the passages of `near` in paragraphs of
one to three sentences. A border is where the passage changes; units are sentences, and a chunk that begins inside a
sentence counts for the nearest beginning of one. `percentile` is the rule of LangChain's SemanticChunker (a border
where the cosine distance of neighbouring three-sentence windows is in the top percentiles), given as many borders too.

    borders.SETTING.STRATEGY.pk, .windowdiff    probability of error over half a passage (0 is perfect)
    borders.SETTING.STRATEGY.f1                 borders found within one sentence
    borders.SETTING.chunks_per_passage          how many chunks that is

Retrieval. int8 vectors, as an index has them.

    documents.SET.STRATEGY.ndcg@10              long documents (the first 120 of a set), each scored by its best chunk
    passages.STRATEGY.recall                    share of the paragraph that answers in the first 512 tokens of chunks,
                                                articles of en-wiki-ctx, development queries
    *.STRATEGY.chunks                           how many chunks were searched
    cost.STRATEGY.tokens_per_second             of cutting, the reading for `adaptive` included
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from _common import parser, progress, report
from diffembed.chunker import Chunker
from diffembed.data.beir import RetrievalTask, load_beir
from diffembed.encoder import Encoder
from diffembed.evaluation.metrics import score_run
from diffembed.index.encoding import encode_chunks
from diffembed.text.chunking import Chunk, Strategy
from diffembed.text.sentences import sentences
from diffembed.vectors.quantize import unit

FAR = ("en-wiki-ctx", "en-office-help", "en-docs-sections", "long-peps", "reason-gsm8k-p2s", "en-nq")
LONG = ("long-eips", "long-rust-rfcs")
EQUALLED: tuple[Strategy, ...] = ("structure", "fixed", "sentence")
LIMIT, BUDGET = 256, 512
PASSAGES = 12  # of a text with known borders
DOCUMENTS = 120  # of a long set
TRIES = 5
SENTENCES = (4, 14)  # of a passage
SEED = 5


def main() -> None:
    options = parser("chunking", __doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with the retrieval sets")
    options.add_argument("--model", default="default")
    args = options.parse_args()
    encoder = Encoder.load(args.model)
    texts = 6 if args.quick else 24
    metrics: dict[str, float] = {}
    for setting, marked in made_texts(args.data, texts).items():
        metrics |= {f"borders.{setting}.{name}": value for name, value in borders(marked, encoder).items()}
        progress(f"borders, {setting}: {len(marked)} texts")
    for name in LONG[:1] if args.quick else LONG:
        task = load_beir(args.data / name)
        metrics |= {f"documents.{name}.{key}": value for key, value in documents(task, encoder, args.quick).items()}
        progress(f"documents, {name}")
    found, cost = passages(load_beir(args.data / "en-wiki-ctx", "dev"), encoder, args.quick)
    metrics |= {f"passages.{name}": value for name, value in found.items()}
    metrics |= {f"cost.{name}": value for name, value in cost.items()}
    notes = (
        f"model {encoder.config.name} on {encoder.runtime.name}; {texts} texts of {PASSAGES} passages a setting; "
        f"adaptive at {LIMIT} tokens; all queries of the long sets, which the model may have been trained on"
    )
    report(args, metrics, notes=notes)


# Borders


@dataclass(frozen=True, slots=True)
class Marked:
    """A text whose borders are known, as numbers of its sentences, and where its sentences begin."""

    text: str
    borders: frozenset[int]
    starts: tuple[int, ...]


def made_texts(data: Path, count: int) -> dict[str, list[Marked]]:
    rng = np.random.default_rng(SEED)
    by_set = [list(flat_passages(load_beir(data / name))) for name in FAR]
    for found in by_set:
        rng.shuffle(found)  # type: ignore[arg-type]
    far = []
    for number in range(count):
        order = [*rng.permutation(len(FAR)), *rng.permutation(len(FAR))]
        chosen = [by_set[at][(number * 2 + turn // len(FAR)) % len(by_set[at])] for turn, at in enumerate(order)]
        far.append(marked([[passage] for passage in chosen], " "))
    articles = list(wiki_articles(load_beir(data / "en-wiki-ctx")).values())
    near, kept = [], []
    for _ in range(count):
        some = [articles[at] for at in rng.choice(len(articles), PASSAGES, replace=False)]
        chosen = [article[rng.integers(len(article))] for article in some]
        near.append(marked([[passage] for passage in chosen], " "))
        kept.append(marked([in_paragraphs(passage, rng) for passage in chosen], "\n\n"))
    return {"far": far, "near": near, "paragraphs": kept}


def in_paragraphs(passage: str, rng: np.random.Generator) -> list[str]:
    """A passage in paragraphs of one to three sentences."""
    spans = sentences(passage)
    found, at = [], 0
    while at < len(spans):
        last = min(len(spans), at + int(rng.integers(1, 4)))
        found.append(passage[spans[at][0] : spans[last - 1][1]])
        at = last
    return found


def flat_passages(task: RetrievalTask) -> Iterator[str]:
    """Running text of a set, each passage on one line: paragraphs that are sentences and nothing else."""
    for text in task.texts:
        for paragraph in text.split("\n\n"):
            flat = " ".join(paragraph.split())
            prose = (
                flat[:1].isalpha() and flat.endswith(".") and not any(mark in flat for mark in ("::", "|", "{", "..."))
            )
            if prose and SENTENCES[0] <= len(sentences(flat)) <= SENTENCES[1]:
                yield flat
                break  # one of a document


def wiki_articles(task: RetrievalTask) -> dict[str, list[str]]:
    """Paragraphs of each article in order, without the title that every row repeats."""
    found = {}
    for rows in task.documents():
        paragraphs = [" ".join(task.texts[row].partition("\n")[2].split()) for row in rows]
        found[str(task.doc_ids[rows[0]])] = [p for p in paragraphs if p]  # type: ignore[index]
    return found


def marked(parts: Sequence[Sequence[str]], joint: str) -> Marked:
    text = joint.join(paragraph for part in parts for paragraph in part)
    starts = [start for start, _ in sentences(text)]
    at = 0
    borders = set()
    for part in parts:
        if at:
            borders.add(nearest(starts, at))
        at += sum(len(paragraph) + len(joint) for paragraph in part)
    return Marked(text, frozenset(borders), tuple(starts))


def nearest(starts: Sequence[int], at: int) -> int:
    return int(np.abs(np.asarray(starts) - at).argmin())


def borders(texts: Sequence[Marked], encoder: Encoder) -> dict[str, float]:
    cut = equalled([m.text for m in texts], encoder)
    found = {
        name: [
            {nearest(m.starts, chunk.start) for chunk in chunks} - {0} for m, chunks in zip(texts, cuts, strict=True)
        ]
        for name, cuts in cut.items()
    }
    found["percentile"] = percentile_borders(texts, encoder, sum(map(len, found["adaptive"])))
    metrics = {"chunks_per_passage": sum(map(len, cut["adaptive"])) / sum(len(m.borders) + 1 for m in texts)}
    for name, guesses in found.items():
        scores = [border_scores(m, guess) for m, guess in zip(texts, guesses, strict=True)]
        metrics |= {f"{name}.{key}": float(np.mean([score[key] for score in scores])) for key in scores[0]}
    return metrics


def border_scores(marked: Marked, guess: set[int]) -> dict[str, float]:
    """Pk (Beeferman et al. 1999), WindowDiff (Pevzner and Hearst 2002), F1 of borders within one sentence."""
    count = len(marked.starts)
    true_N, guess_N = (np.isin(np.arange(count), list(side)).astype(int) for side in (marked.borders, guess))
    width = max(2, round(count / (len(marked.borders) + 1) / 2))
    ahead = [np.convolve(side[1:], np.ones(width, int), "valid") for side in (true_N, guess_N)]
    left = set(guess)
    hits = 0
    for border in sorted(marked.borders):
        near = next((at for at in (border, border - 1, border + 1) if at in left), None)
        if near is not None:
            left.remove(near)
            hits += 1
    return {
        "pk": float(np.mean((ahead[0] > 0) != (ahead[1] > 0))),
        "windowdiff": float(np.mean(ahead[0] != ahead[1])),
        "f1": 2 * hits / max(1, len(marked.borders) + len(guess)),
    }


def percentile_borders(texts: Sequence[Marked], encoder: Encoder, total: int) -> list[set[int]]:
    """As many borders in all, where neighbouring windows of three sentences are least alike; the same share of each."""
    found = []
    share = total / sum(len(m.starts) - 1 for m in texts)
    for m in texts:
        ends = [*m.starts[1:], len(m.text)]
        windows = [m.text[m.starts[max(0, i - 1)] : ends[min(i + 1, len(ends) - 1)]] for i in range(len(ends))]
        u = unit(encoder.encode_documents(windows, truncate=True).values)
        distance = 1 - (u[1:] * u[:-1]).sum(axis=1)
        found.append(set((1 + np.argsort(-distance, kind="stable")[: round(share * len(distance))]).tolist()))
    return found


# Retrieval


def documents(task: RetrievalTask, encoder: Encoder, quick: bool) -> dict[str, float]:
    """nDCG@10 of long documents by their best chunk."""
    rows = range(len(task.texts))[: 20 if quick else DOCUMENTS]
    ids = [task.document_ids[row] for row in rows]
    asked = {query: text for query, text in task.queries.items() if set(task.qrels[query]) <= set(ids)}
    cuts = equalled([task.texts[row] for row in rows], encoder, kind="markdown", others=("markdown",))
    metrics = {}
    for name, chunks in cuts.items():
        cosines = chunk_cosines(encoder, list(asked.values()), chunks)
        owner = np.repeat(np.arange(len(chunks)), [len(c) for c in chunks])
        best = np.full((len(asked), len(ids)), -1.0)
        np.maximum.at(best, (slice(None), owner), cosines)
        run = {q: dict(zip(ids, scores, strict=True)) for q, scores in zip(asked, best.tolist(), strict=True)}
        metrics[f"{name}.ndcg@10"] = score_run({query: task.qrels[query] for query in asked}, run)["ndcg@10"]
        metrics[f"{name}.chunks"] = float(len(owner))
    return metrics


def passages(task: RetrievalTask, encoder: Encoder, quick: bool) -> tuple[dict[str, float], dict[str, float]]:
    """How much of the paragraph that answers is in the best chunks, within a budget; and what cutting costs."""
    articles = wiki_articles(task)
    names = list(articles)[: 8 if quick else None]
    place: dict[str, tuple[int, int, int]] = {}  # of a row: article, start, end
    for rows in task.documents():
        name, at = str(task.doc_ids[rows[0]]), 0  # type: ignore[index]
        if name not in names:
            continue
        for row in rows:
            size = len(" ".join(task.texts[row].partition("\n")[2].split()))
            if size:
                place[task.document_ids[row]] = (names.index(name), at, at + size)
                at += size + 2
    asked = {q: text for q, text in task.queries.items() if set(task.qrels[q]) <= place.keys()}
    texts = ["\n\n".join(articles[name]) for name in names]
    seconds: dict[str, float] = {}
    cuts = equalled(texts, encoder, seconds=seconds)
    metrics = {}
    for name, chunks in cuts.items():
        flat = [(number, chunk) for number, some in enumerate(chunks) for chunk in some]
        sizes = encoder.count_tokens([chunk.text for _, chunk in flat])
        cosines = chunk_cosines(encoder, list(asked.values()), chunks)
        shares = [
            covered(np.argsort(-row, kind="stable"), flat, sizes, [place[row] for row in task.qrels[query]])
            for query, row in zip(asked, cosines, strict=True)
        ]
        metrics[f"{name}.recall"] = float(np.mean(shares))
        metrics[f"{name}.chunks"] = float(len(flat))
    tokens = sum(encoder.count_tokens(texts))
    return metrics, {f"{name}.tokens_per_second": tokens / taken for name, taken in seconds.items()}


def covered(
    order: np.ndarray, flat: Sequence[tuple[int, Chunk]], sizes: Sequence[int], wanted: Sequence[tuple[int, int, int]]
) -> float:
    """The share of the wanted characters in the first chunks that fit the budget (the first one always does)."""
    left, seen = BUDGET, 0
    for turn, number in enumerate(order.tolist()):
        if turn and sizes[number] > left:
            break
        left -= sizes[number]
        document, chunk = flat[number]
        seen += sum(max(0, min(e, chunk.end) - max(s, chunk.start)) for d, s, e in wanted if d == document)
    return seen / sum(end - start for _, start, end in wanted)


def chunk_cosines(encoder: Encoder, queries: list[str], chunks: Sequence[Sequence[Chunk]]) -> np.ndarray:
    rows, _ = encode_chunks(encoder, [[chunk.text for chunk in some] for some in chunks])
    return unit(encoder.encode_queries(queries, dtype="int8", truncate=True).values) @ unit(rows).T


# Equal sizes


def equalled(
    texts: Sequence[str],
    encoder: Encoder,
    *,
    kind: Any = "prose",
    others: Sequence[Strategy] = (),
    seconds: dict[str, float] | None = None,
) -> dict[str, list[list[Chunk]]]:
    """The chunks of each text by every strategy; `seconds` is given the time of the final cut of each."""
    taken: dict[str, float] = {} if seconds is None else seconds

    def cut(strategy: Strategy, limit: int) -> list[list[Chunk]]:
        start = time.perf_counter()
        chunker = Chunker(strategy, max_tokens=limit, encoder=encoder)
        chunks = [chunker.chunk(text, kind=kind) for text in texts]
        taken[strategy] = time.perf_counter() - start
        return chunks

    made = {"adaptive": cut("adaptive", LIMIT)} | {name: cut(name, LIMIT) for name in others}
    wanted = sum(map(len, made["adaptive"]))
    for strategy in EQUALLED:
        made[strategy] = closest(lambda limit, strategy=strategy: cut(strategy, limit), wanted)  # type: ignore[misc]
    return made


def closest(cut: Callable[[int], list[list[Chunk]]], wanted: int) -> list[list[Chunk]]:
    """The cut whose number of chunks is nearest to ``wanted``: that number falls about as the limit grows."""
    limit, tried = LIMIT, dict[int, list[list[Chunk]]]()

    def off(limit: int) -> int:
        return abs(sum(map(len, tried[limit])) - wanted)

    while limit not in tried and len(tried) < TRIES:
        tried[limit] = cut(limit)
        if off(limit) <= wanted / 200:
            break
        limit = min(2 * LIMIT, max(8, round(limit * sum(map(len, tried[limit])) / wanted)))
    return tried[min(tried, key=off)]


if __name__ == "__main__":
    main()
