"""``mine_negatives``: pairs to triplets with hard negatives, by a model's own ranking.

Reads a BEIR folder or a JSONL file of pairs, writes ``triplet`` rows (``data/examples.py``) and ``FILE.report.json``
beside them. Vectors stand in a memory-mapped int8 file in a temporary folder next to the output, which goes when the
call ends; texts of a JSONL file stay in the file. ``mine_for_pairs`` does the same with pairs in memory.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from diffembed.data.beir import Split
from diffembed.data.candidates import Embedder, Int8Rows, IntArray, Progress, Vectors
from diffembed.data.examples import Pair, Triplet, example_line
from diffembed.data.jsonl import COMPRESSED
from diffembed.data.mining_models import Predict, Reranker, Teacher, load_embedder, load_reranker
from diffembed.data.negatives import (
    Asked,
    CorpusPool,
    Found,
    Judge,
    Miner,
    MiningSettings,
    Pool,
    Tally,
)
from diffembed.data.pair_files import PairData, pairs_in_memory, pairs_of_beir, pairs_of_rows
from diffembed.errors import InputError
from diffembed.models.files import atomic_file

if TYPE_CHECKING:
    from diffembed.index import Index

__all__ = ["MiningReport", "MiningSettings", "load_embedder", "load_reranker", "mine_for_pairs", "mine_negatives"]

Report = Callable[[str], None]
DEFAULTS = MiningSettings()
_SPARE = 32  # chunks of an index asked for beyond the window: some are the query's own document


@dataclass(frozen=True, slots=True)
class MiningReport:
    """What one call did.

    Attributes:
        output, data, corpus, index, split: what was written and read; empty where there was none.
        model, model_fingerprint, fingerprint: who ranked, and SHA-256 of the files read.
        settings: as given.
        documents: distinct documents (of an index: chunks) that were searched.
        blank_documents, duplicate_documents: documents without text, and with the text of an earlier one.
        truncated_documents: cut to the model's limit.
        blank_positives: pairs left out, as their document has no text.
        outside_split: pairs of the other split, not asked.
        tally: pairs, triplets, candidates and what became of each, scores (``Tally``).
        seconds: of the whole call.
    """

    output: str
    data: str
    corpus: str
    index: str
    split: str
    model: str
    model_fingerprint: str
    fingerprint: dict[str, str]
    settings: MiningSettings
    documents: int
    blank_documents: int
    duplicate_documents: int
    truncated_documents: int
    blank_positives: int
    outside_split: int
    tally: Tally
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, those of the tally among them."""
        rows = {name: getattr(self, name) for name in self.__slots__ if name not in ("tally", "settings", "seconds")}
        return {**rows, "settings": asdict(self.settings), **self.tally.to_dict(), "seconds": self.seconds}

    def __str__(self) -> str:
        tally = self.tally
        left_out = f", {tally.left_out:,} pairs left out" if tally.left_out else ""
        return (
            f"wrote {self.output}: {tally.triplets:,} triplets with {tally.negatives:,} negatives from {tally.pairs:,} "
            f"pairs and {self.documents:,} documents in {self.seconds:.1f} s ({tally.short:,} with fewer than "
            f"{self.settings.negatives}{left_out})"
        )


def mine_negatives(
    data: Path,
    into: Path,
    *,
    model: str | Path | Embedder = "default",
    index: Path | None = None,
    corpus: Path | None = None,
    split: Split = "train",
    settings: MiningSettings = DEFAULTS,
    teacher: Embedder | None = None,
    reranker: Predict | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> MiningReport:
    """Write triplets with hard negatives for the pairs of ``data``, in their order.

    Every text is encoded alone, as a triplet stage reads it; texts over the model's limit are cut and counted.

    Args:
        data: a BEIR folder, or pair rows in ``.jsonl`` (``.gz``, ``.zst``); there every row's document is a candidate
            for the others.
        into: the ``.jsonl`` file to write.
        model: as for ``Encoder.load``, ``st:NAME_OR_PATH``, or an encoder with int8 vectors.
        index: an index folder; its chunks are the candidates, and its model is the default. A chunk that holds the
            document of the query, or is part of it, is none. (Sealed segments of an index are searched through
            their coarse index, see ``index/scan.py``; everything else exactly.)
        corpus: a JSONL file with ``_id``, ``text`` and maybe ``title``: the candidates for pair rows. A row's
            ``document_id`` names an ``_id``.
        split: which queries are asked: ``train`` and ``dev`` by the hash of the query's id (of a pair row: of its
            ``id``, else of the query); all documents are searched.
        teacher, reranker: in place of those that ``settings`` name.
        progress: called with (documents and pairs done, in all).
        report: told what is going on.

    Raises:
        InputError: a file missing or unreadable, a row that is no pair, a split without pairs, no negative at all.
        ModelError, MissingExtraError: a model that does not load.
        IndexStoreError: an index that is damaged, or of another model.
    """
    start = time.perf_counter()
    data, into = Path(data), Path(into)
    _check_files(data, into, index, corpus, split, settings)
    tell = report or (lambda _: None)
    with ExitStack() as stack:
        opened = stack.enter_context(_open_index(index)) if index else None
        encoder, name = _encoder_of(model, opened)
        teacher, reranker = _judges_of(settings, teacher, reranker)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{into.name}.mining-", dir=into.parent)))
        tell(f"reading {data}")
        source = pairs_of_beir(data, split) if data.is_dir() else pairs_of_rows(data, corpus, split, folder)
        run = _Run(source, encoder, settings, opened, teacher, reranker, folder)
        tell(f"{source.asked:,} pairs, {run.documents:,} documents; ranking with {name}")
        with atomic_file(into) as partial:
            with partial.open("w", encoding="utf-8", newline="\n") as stream:
                for triplet in run.triplets(progress):
                    stream.write(example_line(triplet))
            if not run.tally.triplets:
                reasons = ", ".join(f"{count:,} {reason}" for reason, count in run.tally.dropped.items() if count)
                raise InputError(
                    f"no pair of {data} got a negative (dropped: {reasons or 'none'}); loosen the settings"
                )
            written = _beside(into)
            written.unlink(missing_ok=True)  # that of an earlier FILE must not stand beside this one
        found = MiningReport(
            output=str(into),
            data=str(data),
            corpus=str(corpus or ""),
            index=str(index or ""),
            split=split,
            model=name,
            seconds=time.perf_counter() - start,
            **run.facts(),
        )
        with atomic_file(written) as partial:
            partial.write_text(json.dumps(found.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return found


def mine_for_pairs(
    pairs: Sequence[Pair],
    encoder: Embedder,
    settings: MiningSettings = DEFAULTS,
    *,
    corpus: Sequence[str] | None = None,
    folder: Path | None = None,
    teacher: Embedder | None = None,
    reranker: Predict | None = None,
    progress: Progress | None = None,
) -> tuple[list[Triplet], MiningReport]:
    """The triplets of pairs in memory, in their order; pairs without any negative are left out and counted.

    Args:
        encoder: gives int8 vectors, as ``Encoder`` and a model in training do.
        corpus: the candidates; ``None``: the documents of the pairs.
        folder: where vectors are memory-mapped meanwhile; ``None`` keeps them in memory.
        teacher, reranker, progress: as in :func:`mine_negatives`.
    """
    start = time.perf_counter()
    if not pairs:
        raise InputError("there are no pairs to mine negatives for; give at least one")
    teacher, reranker = _judges_of(settings, teacher, reranker)
    filled = None if corpus is None else [text for text in corpus if text.strip()]
    if filled == []:
        raise InputError("the corpus has no text; give documents to search, or None for those of the pairs")
    table, texts, read = pairs_in_memory(pairs, filled)
    source = PairData(table, texts, read, len(pairs))
    if corpus is not None and filled is not None:
        blank, twice = len(corpus) - len(filled), len(filled) - table.searchable
        source = replace(source, blank_documents=blank, duplicate_documents=twice)
    with ExitStack() as stack:
        if folder is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".mining-", dir=folder)))
        run = _Run(source, encoder, settings, None, teacher, reranker, folder)
        triplets = list(run.triplets(progress))
        facts, seconds = run.facts(), time.perf_counter() - start
    name = str(getattr(encoder, "model_id", type(encoder).__name__))
    return triplets, MiningReport("", "", "", "", "all", name, seconds=seconds, **facts)


class _Run:
    """One pass over one set of pairs."""

    def __init__(
        self,
        source: PairData,
        encoder: Embedder,
        settings: MiningSettings,
        index: Index | None,
        teacher: Embedder | None,
        reranker: Predict | None,
        folder: Path | None,
    ) -> None:
        self._source, self._encoder, self._settings, self._index = source, encoder, settings, index
        file = folder / "documents.int8" if folder else None
        self._vectors = Vectors(source.texts, encoder, dims=settings.dims, file=file)
        pool: Pool
        if index is not None:
            pool = IndexPool(index, source, self._vectors)
            self.documents = len(index)
        else:
            pool = CorpusPool(source.table, source.texts, self._vectors)
            self.documents = source.table.searchable
        judges: list[Judge] = []
        if teacher is not None:
            vectors = Vectors(pool.texts, teacher, file=folder / "teacher.int8" if folder else None)
            judges.append(Teacher(teacher, vectors, settings.teacher_margin))
        if reranker is not None:
            judges.append(Reranker(reranker, pool.texts, settings.reranker_margin))
        self._miner = Miner(pool, encoder, settings, judges)
        self.tally = self._miner.tally

    def triplets(self, progress: Progress | None) -> Iterator[Triplet]:
        """Encode what is searched, then ask pair by pair."""
        ahead = 0 if self._index is not None else self.documents
        total = ahead + self._source.asked
        if ahead:
            self._vectors.fill(ahead, (lambda done, _: progress(done, total)) if progress else None)
        for done, triplet in enumerate(self._miner.mine(self._source.read()), ahead + 1):
            if triplet is not None:
                yield triplet
            if progress is not None:
                progress(done, total)

    def facts(self) -> dict[str, Any]:
        """The part of the report that the run knows."""
        source = self._source
        return {
            "model_fingerprint": str(getattr(self._encoder, "fingerprint", "")),
            "fingerprint": dict(source.fingerprint),
            "settings": self._settings,
            "documents": self.documents,
            "blank_documents": source.blank_documents,
            "duplicate_documents": source.duplicate_documents,
            "truncated_documents": self._vectors.truncated,
            "blank_positives": source.blank_positives,
            "outside_split": source.outside_split,
            "tally": self.tally,
        }


class IndexPool:
    """The chunks of an index. The documents of the pairs keep their numbers, chunk ``i`` is number ``offset + i``."""

    def __init__(self, index: Index, source: PairData, vectors: Vectors) -> None:
        self._index, self._source, self._vectors = index, source, vectors
        self._offset = len(source.table)

    def vectors(self, documents: IntArray) -> Int8Rows:
        """``[N, D]`` of documents of the pairs."""
        return self._vectors.take(documents)

    def texts(self, documents: Sequence[int]) -> list[str]:
        """Of documents and chunks."""
        own = [i for i in documents if i < self._offset]
        chunks = [i - self._offset for i in documents if i >= self._offset]
        found = dict(zip(own, self._source.texts(own), strict=True))
        found.update((chunk.id + self._offset, chunk.chunk.text) for chunk in self._index.chunks(chunks))
        return [found[i] for i in documents]

    def nearest(self, asked: Sequence[Asked], queries_QD: Int8Rows, top: int) -> Found:
        """See ``Found``. Asks the index for more until every query has ``top`` that are not its own answer."""
        rows, documents, _ = self._source.table.barred(np.array([a.query for a in asked], np.uint64))
        answers: list[set[str]] = [set() for _ in asked]
        for row, text in zip(rows.tolist(), self._source.texts(documents.tolist()), strict=True):
            answers[row].add(_flat(text))
        size, many = len(self._index), top + _SPARE
        while True:
            ids, scores = self._index.search_vectors(queries_QD, min(many, size))
            texts = {
                chunk.id: _flat(chunk.chunk.text) for chunk in self._index.chunks(np.unique(ids[ids >= 0]).tolist())
            }
            kept = [_places(row.tolist(), own, texts, top) for row, own in zip(ids, answers, strict=True)]
            if many >= size or all(len(places) == top for places, _ in kept):
                break
            many *= 2
        found = np.full((len(asked), top), -1, np.int64)
        cosine = np.full((len(asked), top), -np.inf, np.float32)
        for i, (places, _) in enumerate(kept):
            found[i, : len(places)] = ids[i, places] + self._offset
            cosine[i, : len(places)] = scores[i, places]
        return Found(found, cosine, {"same_text": np.array([dropped for _, dropped in kept])})


def _places(ids: Sequence[int], answers: set[str], texts: dict[int, str], top: int) -> tuple[list[int], int]:
    """Places of the first ``top`` chunks that are neither answers nor repeated, and how many were passed over."""
    seen: set[str] = set()
    places: list[int] = []
    dropped = 0
    for place, number in enumerate(ids):
        if number < 0 or len(places) == top:
            break
        text = texts[number]
        if text in seen or any(text in answer or answer in text for answer in answers):
            dropped += 1
            continue
        seen.add(text)
        places.append(place)
    return places, dropped


def _flat(text: str) -> str:
    return " ".join(text.split())


def _beside(into: Path) -> Path:
    return into.with_name(f"{into.name}.report.json")


def _check_files(
    data: Path, into: Path, index: Path | None, corpus: Path | None, split: str, settings: MiningSettings
) -> None:
    if split not in get_args(Split):
        raise InputError(f"unknown split {split!r}; give one of: {', '.join(get_args(Split))}")
    if not data.exists():
        raise InputError(f"{data} does not exist; give a BEIR folder or a .jsonl file of pairs")
    stem = data.with_suffix("") if data.suffix in COMPRESSED else data
    if not data.is_dir() and stem.suffix != ".jsonl":
        raise InputError(f"{data} is no folder and does not end in .jsonl; give a BEIR folder or pairs in JSONL")
    if corpus is not None and (data.is_dir() or index is not None):
        other = "a BEIR folder has its own" if data.is_dir() else "the index is what is searched"
        raise InputError(f"corpus {corpus} was given, but {other}; leave one of them out")
    if corpus is not None and not corpus.is_file():
        raise InputError(f'corpus {corpus} is not a file; give a .jsonl file with "_id" and "text"')
    if index is not None and settings.dims is not None:
        raise InputError(f"dims is {settings.dims}, but the vectors of an index have one width; leave dims out")
    if into.suffix != ".jsonl":
        raise InputError(f"output {into} must end in .jsonl")
    if not into.parent.is_dir():
        raise InputError(f"the folder of {into} does not exist; make it first")
    if into.resolve() in {path.resolve() for path in (data, corpus) if path is not None}:
        raise InputError(f"output {into} is what is read; name another file")


def _open_index(folder: Path) -> Index:
    from diffembed.index import Index

    return Index.open(folder)


def _encoder_of(model: str | Path | Embedder, index: Index | None) -> tuple[Embedder, str]:
    """The encoder and its name; with an index, the one that made it."""
    if index is not None and model == "default":
        model = index.settings.model
    encoder = load_embedder(str(model)) if isinstance(model, (str, Path)) else model
    if index is not None:
        from diffembed.index.encoding import check_model

        check_model(index.path, index.settings, encoder)  # type: ignore[arg-type]
    return encoder, str(getattr(encoder, "model_id", type(encoder).__name__))


def _judges_of(
    settings: MiningSettings, teacher: Embedder | None, reranker: Predict | None
) -> tuple[Embedder | None, Predict | None]:
    if teacher is None and settings.teacher:
        teacher = load_embedder(settings.teacher)
    if reranker is None and settings.reranker:
        reranker = load_reranker(settings.reranker)
    return teacher, reranker
