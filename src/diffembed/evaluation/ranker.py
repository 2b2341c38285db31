"""A model with the settings it is scored under: what every benchmark asks for rankings, and files its results by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.evaluation.baselines import SentenceTransformersEncoder
from diffembed.evaluation.ranking import TOP, Progress, Ranking, TextEncoder, rank_bm25, rank_encoder
from diffembed.evaluation.revision import model_revision

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import VectorDtype


@dataclass(frozen=True, slots=True)
class Ranker:
    """A loaded model (or BM25), ready to rank the documents of any task. Use :func:`load_ranker`.

    Attributes:
        model: as the user named it.
        revision: of its weights (``revision.py``).
        settings: ``dtype, query_dtype, dims, contextual, max_tokens``, as they stand in result files; bm25 has no
            vectors (``none``) and no limit.
        encoder: ``None`` of bm25.
        insists: reading together was asked for, so a task whose rows are no chunks is refused.
    """

    model: str
    revision: str
    settings: dict[str, Any]
    encoder: TextEncoder | None = field(default=None, repr=False)
    insists: bool = False

    def rank(self, task: RetrievalTask, *, top: int = TOP, progress: Progress = None) -> Ranking:
        """The ``top`` documents of every query of a task. A model reads chunks together only where there are any."""
        if self.encoder is None:
            return rank_bm25(task, top=top, progress=progress)
        return rank_encoder(
            task,
            self.encoder,
            dtype=self.settings["dtype"],
            query_dtype=self.settings["query_dtype"],
            dims=self.settings["dims"],
            contextual=self.settings["contextual"] if task.doc_ids is not None or self.insists else None,
            top=top,
            progress=progress,
        )


def load_ranker(
    model: str = "default",
    *,
    dtype: VectorDtype | None = None,
    query_dtype: VectorDtype | None = None,
    dims: int | None = None,
    contextual: bool | None = None,
) -> Ranker:
    """Load a model to be scored.

    Args:
        model: ``default``, a model directory, a hub id, ``st:NAME_OR_PATH`` or ``bm25``.
        dtype: ``int8`` unless given; ``float32`` for ``st:``, which has no other.
        query_dtype: of the queries, where it is not that of the documents (int8 or float32 against binary).
        dims: a trained width; the full one unless given.
        contextual: whether the chunks of a document are read together; as the model was trained unless given.

    Raises:
        InputError: options that the model has not.
        ModelError, MissingExtraError: it cannot be loaded.

    >>> load_ranker("default").settings["dtype"]
    'int8'
    """
    if model == "bm25":
        if any(given is not None for given in (dtype, query_dtype, dims, contextual)):
            raise InputError("bm25 has no vectors; leave dtype, query_dtype, dims and contextual out")
        settings = {"dtype": "none", "query_dtype": "none", "dims": 0, "contextual": False}
        return Ranker("bm25", model_revision("bm25"), settings)
    encoder = load_encoder(model)
    return ranker_of(model, encoder, dtype=dtype, query_dtype=query_dtype, dims=dims, contextual=contextual)


def ranker_of(
    model: str,
    encoder: TextEncoder,
    *,
    dtype: VectorDtype | None = None,
    query_dtype: VectorDtype | None = None,
    dims: int | None = None,
    contextual: bool | None = None,
) -> Ranker:
    """A model that is loaded already, under a name; the arguments are those of :func:`load_ranker`."""
    dtype = dtype or ("float32" if model.startswith("st:") else "int8")
    widths = getattr(encoder, "dims", None)
    settings = {
        "dtype": dtype,
        "query_dtype": query_dtype or dtype,
        "dims": dims if dims is not None or not widths else max(widths),
        "contextual": bool(getattr(encoder, "contextual", False)) if contextual is None else contextual,
        "max_tokens": getattr(encoder, "max_tokens", None),
    }
    return Ranker(model, model_revision(model, encoder), settings, encoder, insists=contextual is True)


def load_encoder(model: str) -> TextEncoder:
    """The encoder behind a model's name: ``default``, a model directory, a hub id or ``st:NAME_OR_PATH``."""
    if model.startswith("st:"):
        return SentenceTransformersEncoder(model.removeprefix("st:"))
    from diffembed.encoder import Encoder

    return Encoder.load(model)
