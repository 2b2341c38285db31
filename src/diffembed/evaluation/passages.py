"""Passages for questions: from a folder in BEIR layout, searched with any model, or from an index of diffembed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffembed.data.beir import RetrievalTask, load_corpus
from diffembed.data.jsonl import jsonl_file
from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation.bergen import Question
from diffembed.evaluation.ranker import Ranker, load_ranker, ranker_of
from diffembed.evaluation.sets import settings_of
from diffembed.index import Index
from diffembed.index.catalog import Catalog

Progress = Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that was found: its id, the id of the document that it is of (its own where it is none's), the text."""

    id: str
    document: str
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """The best passages of every question, and what finding them took.

    Attributes:
        passages: question id -> passages, best first.
        sha256: of all of their ids and texts.
        counts, cost: as in result files.
    """

    passages: dict[str, tuple[Passage, ...]]
    sha256: str
    counts: dict[str, int]
    cost: dict[str, float]


@dataclass(frozen=True, slots=True)
class CorpusPassages:
    """A corpus in BEIR layout: every passage is compared with every question. ``sha256`` is that of its file."""

    task: RetrievalTask
    ranker: Ranker
    sha256: str

    @property
    def name(self) -> str:
        """The folder's."""
        return self.task.name

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the model."""
        return settings_of(self.ranker, self.task)

    def find(self, questions: Sequence[Question], top: int, progress: Progress = None) -> Found:
        """The ``top`` passages of each question."""
        task = replace(self.task, queries={question.id: question.text for question in questions})
        ranking = self.ranker.rank(task, top=top, progress=progress)
        rows = {identifier: row for row, identifier in enumerate(task.document_ids)}
        found: dict[str, tuple[Passage, ...]] = {}
        for question in questions:
            scores = ranking.run.get(question.id, {})
            # as trec_eval orders them: of equals the larger id first
            best = sorted(scores, key=lambda name: (scores[name], name.encode()), reverse=True)
            found[question.id] = tuple(self._passage(name, rows[name]) for name in best)
        counts = {
            "documents": len(task.texts),
            "truncated_queries": ranking.truncated_queries,
            "truncated_documents": ranking.truncated_documents,
            "empty_documents": ranking.empty_documents,
        }
        cost = {"seconds": ranking.seconds, "encode_seconds": ranking.encode_seconds, "tokens": float(ranking.tokens)}
        return Found(found, _digest_of(found), counts, cost)

    def _passage(self, name: str, row: int) -> Passage:
        owner = self.task.doc_ids[row] if self.task.doc_ids is not None else None
        return Passage(name, owner or name, self.task.texts[row])


@dataclass(frozen=True, slots=True)
class IndexPassages:
    """An index of files or records: searched as ``diffembed search`` does, with the model that made it.

    It has no ``sha256``: what is in it is told by what it finds.
    """

    name: str
    ranker: Ranker
    folder: Path
    encoder: Encoder = field(repr=False)
    sha256: None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the index: int8 vectors at its width."""
        with Index.open(self.folder) as opened:
            made = opened.settings
        vectors = {"dtype": made.dtype, "query_dtype": "int8", "dims": made.dims, "contextual": made.contextual}
        return vectors | {"index": True, "chunk_tokens": made.chunk_tokens}

    def find(self, questions: Sequence[Question], top: int, progress: Progress = None) -> Found:
        """The ``top`` chunks of each question; a chunk's document is the file (its path) or record (its id)."""
        start = time.perf_counter()
        with Index.open(self.folder) as opened:
            texts = [question.text for question in questions]
            hits = opened.search_all(texts, top=top, sentences=False, encoder=self.encoder)
            chunks = len(opened)
        if progress is not None:
            progress(len(questions), len(questions))
        found = {
            question.id: tuple(Passage(f"{hit.key}#{hit.chunk_id}", hit.key, hit.text) for hit in best)
            for question, best in zip(questions, hits, strict=True)
        }
        return Found(found, _digest_of(found), {"documents": chunks}, {"seconds": time.perf_counter() - start})


PassageSource = CorpusPassages | IndexPassages


def open_passages(folder: Path, model: str | None = None, **options: Any) -> PassageSource:
    """The passages of a folder: an index, or a corpus in BEIR layout (``corpus.jsonl``).

    Args:
        folder: either.
        model, options: what a corpus is searched with, as of ``load_ranker``. An index is searched with the model that
            made it, as it was made.

    Raises:
        InputError: neither is there; or another model, or options, for an index.
    """
    if not Catalog.exists(folder):
        digest = _digest(jsonl_file(folder, "corpus")) if folder.is_dir() else ""
        return CorpusPassages(load_corpus(folder), load_ranker(model or "default", **options), digest)
    with Index.open(folder) as opened:
        made = opened.settings
    if made.vectors_only or not made.model:
        raise InputError(f"{folder} is an index without texts or without a model; give one that has both")
    if model not in (None, made.model) or any(value is not None for value in options.values()):
        raise InputError(
            f"{folder} is an index: it is searched with the model that made it ({made.model}) and as it was made; "
            "leave the model and its options out, or give a folder with corpus.jsonl"
        )
    encoder = Encoder.load(made.model)
    return IndexPassages(folder.resolve().name, ranker_of(made.model, encoder), folder, encoder)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_of(found: dict[str, tuple[Passage, ...]]) -> str:
    digest = hashlib.sha256()
    for question, passages in found.items():
        for passage in passages:
            digest.update(f"{question}\0{passage.id}\0{passage.text}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
