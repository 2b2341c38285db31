"""How well a model finds the judged documents of a task, by exact search over all of them.

No index is involved: every query is compared with every document (``ranking.py``), so the figures are those of the
vectors alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.data.beir import RetrievalTask, Split, SplitBy, load_beir
from diffembed.data.sections import load_sections
from diffembed.evaluation.metrics import mean_scores, score_queries
from diffembed.evaluation.ranker import load_ranker
from diffembed.evaluation.ranking import Progress, Ranking, TextEncoder, rank_bm25, rank_encoder
from diffembed.evaluation.results import Group, Result

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import VectorDtype

_BYTES = {"float32": 4.0, "int8": 1.0, "binary": 0.125}  # of one dimension


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """The scores of one model on one task, and what they rest on.

    Attributes:
        data, model, split: what was scored.
        dtype, query_dtype, dims: the vectors (``"none"`` and 0 for bm25).
        contextual: chunks of a document were encoded together.
        scores: ``ndcg@10, mrr@10, recall@1, recall@10, recall@100``, each 0..1, the mean over the queries.
        queries, documents: how many were asked and searched.
        seconds: encoding and searching; ``encode_seconds`` of it encoding (for bm25: indexing).
        tokens: tokens read (for bm25: terms indexed); ``tokens_per_second`` is ``tokens / encode_seconds``.
        truncated: inputs cut to the model's limit, ``truncated_queries`` and ``truncated_documents`` together.
            A contextual document counts once.
        empty_documents: documents without text; they are not encoded and cannot be found.
        excluded_pairs: query-document pairs left out of the ranking (``exclude.tsv``, or a query that is a document).
        unjudged_queries: queries of the split that were not asked, as no document is relevant to them.
        by_query: the scores of each query; not among the plain values.
    """

    data: str
    model: str
    split: str
    dtype: str
    query_dtype: str
    dims: int
    contextual: bool
    scores: dict[str, float]
    queries: int
    documents: int
    seconds: float
    encode_seconds: float
    tokens: int
    tokens_per_second: float
    truncated: int
    truncated_queries: int
    truncated_documents: int
    empty_documents: int
    excluded_pairs: int
    unjudged_queries: int
    by_query: dict[str, dict[str, float]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the attributes."""
        values = asdict(self)
        del values["by_query"]
        return values

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_result(
        self,
        revision: str,
        *,
        benchmark: str = "beir",
        settings: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        groups: Sequence[Group] = (),
    ) -> Result:
        """What ``ResultFolder`` keeps.

        Args:
            revision: of the model (``model_revision``).
            benchmark: ``beir``, or what the set belongs to.
            settings: further ones, or others than those that the report knows (dtypes, width, contextual, split).
            data: where the rows came from, and a digest of them.
            groups: the scores of parts (``breakdown``).
        """
        form = {name: getattr(self, name) for name in ("dtype", "query_dtype", "dims", "contextual", "split")}
        counts = ["queries", "documents", "truncated_queries", "truncated_documents", "empty_documents"]
        counts += ["excluded_pairs", "unjudged_queries"]
        cost = {"seconds": self.seconds, "encode_seconds": self.encode_seconds, "tokens": float(self.tokens)}
        if self.dims:
            cost["bytes_per_document"] = self.dims * _BYTES[self.dtype]
        return Result(
            benchmark=benchmark,
            task=self.data,
            model=self.model,
            revision=revision,
            main="ndcg@10",
            scores=dict(self.scores),
            settings=form | dict(settings or {}),
            groups=tuple(groups),
            by_query={query: dict(scores) for query, scores in self.by_query.items()},
            counts={name: getattr(self, name) for name in counts},
            cost=cost,
            data=dict(data or {}),
        )


def evaluate_retrieval(
    data: Path,
    *,
    model: str = "default",
    split: Split = "all",
    split_by: SplitBy = "query",
    dtype: VectorDtype | None = None,
    query_dtype: VectorDtype | None = None,
    dims: int | None = None,
    sections: bool = False,
    contextual: bool | None = None,
    progress: Progress = None,
) -> RetrievalReport:
    """Score a model on a folder in BEIR layout (see ``diffembed.data.beir``).

    Args:
        data: the folder.
        model: ``default``, a model directory, a hub id, ``st:NAME_OR_PATH`` or ``bm25``.
        split: ``train``, ``dev`` (the hash rule) or ``all`` queries; the corpus is always whole.
        split_by: hash a query's id, or that of the document it is about (see ``load_beir``).
        dtype: ``int8`` unless given; ``float32`` for ``st:``, which has no other.
        query_dtype: of the queries, where it is not that of the documents (int8 or float32 against binary).
        dims: a trained width; the full one unless given.
        sections: cut the documents at their headings and ask for sections (see ``diffembed.data.sections``).
        contextual: whether the chunks of a document are read together; as the model was trained unless given.
        progress: called with (documents encoded, documents).

    Raises ``InputError`` for unusable data or an untrained width, ``ModelError`` for an unusable model,
    ``MissingExtraError`` where bm25s, sentence-transformers or pytrec-eval-terrier is missing.
    """
    task = load_sections(data, split) if sections else load_beir(data, split, split_by=split_by)
    ranker = load_ranker(model, dtype=dtype, query_dtype=query_dtype, dims=dims, contextual=contextual)
    return report_on(task, ranker.rank(task, progress=progress), model=model, split=split)


def evaluate_encoder(
    task: RetrievalTask,
    encoder: TextEncoder,
    *,
    dtype: VectorDtype = "int8",
    query_dtype: VectorDtype | None = None,
    dims: int | None = None,
    contextual: bool | None = None,
    model: str | None = None,
    split: str = "all",
    progress: Progress = None,
) -> RetrievalReport:
    """Score anything that encodes. ``model`` and ``split`` only name it in the report.

    Raises ``InputError`` for ``contextual=True`` on a set whose rows are no chunks of documents.
    """
    ranking = rank_encoder(
        task, encoder, dtype=dtype, query_dtype=query_dtype, dims=dims, contextual=contextual, progress=progress
    )
    return report_on(task, ranking, model=model, split=split)


def evaluate_bm25(task: RetrievalTask, *, split: str = "all", progress: Progress = None) -> RetrievalReport:
    """Score BM25. A document that shares no term with the query is not in its ranking."""
    return report_on(task, rank_bm25(task, progress=progress), split=split)


def report_on(
    task: RetrievalTask, ranking: Ranking, *, model: str | None = None, split: str = "all"
) -> RetrievalReport:
    """Score a ranking. ``model`` and ``split`` only name it in the report."""
    by_query = score_queries(task.qrels, ranking.run)
    return RetrievalReport(
        data=task.name,
        model=model or ranking.model,
        split=split,
        dtype=ranking.dtype,
        query_dtype=ranking.query_dtype,
        dims=ranking.dims,
        contextual=ranking.contextual,
        scores=mean_scores(by_query),
        queries=len(task.queries),
        documents=len(task.texts),
        seconds=ranking.seconds,
        encode_seconds=ranking.encode_seconds,
        tokens=ranking.tokens,
        tokens_per_second=ranking.tokens / ranking.encode_seconds if ranking.encode_seconds else 0.0,
        truncated=ranking.truncated_queries + ranking.truncated_documents,
        truncated_queries=ranking.truncated_queries,
        truncated_documents=ranking.truncated_documents,
        empty_documents=ranking.empty_documents,
        excluded_pairs=sum(map(len, task.excluded.values())),
        unjudged_queries=task.unjudged,
        by_query=by_query,
    )
