"""A model by name, as mteb wants it: ours, one of sentence-transformers through mteb's own wrapper, or BM25."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.errors import InputError, ModelError
from diffembed.evaluation.baselines import Bm25
from diffembed.evaluation.ranker import load_encoder
from diffembed.evaluation.revision import model_revision

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import VectorDtype

Progress = Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True)
class MtebModel:
    """A loaded model.

    Attributes:
        name: as the user named it.
        revision: of its weights (``model_revision``).
        settings: ``dtype, query_dtype, dims, contextual, max_tokens``, as they stand in result files.
        model: what ``mteb.evaluate`` takes; its ``mteb_model_meta`` says the same name and revision.
    """

    name: str
    revision: str
    settings: dict[str, Any]
    model: Any

    @property
    def meta(self) -> Any:
        """mteb's card of the model."""
        return self.model.mteb_model_meta

    @property
    def truncated(self) -> int | None:
        """Inputs cut to the model's limit so far; ``None`` where nobody counts."""
        return getattr(self.model, "truncated", None)


def load_mteb_model(
    model: str, *, dtype: VectorDtype | None = None, dims: int | None = None, progress: Progress = None
) -> MtebModel:
    """Load a model for mteb.

    Args:
        model: ``default``, a model directory, a hub id, ``st:NAME_OR_PATH`` or ``bm25``.
        dtype: ``int8`` unless given; ``float32`` for ``st:``, which has no other.
        dims: a trained width; the full one unless given. ``st:`` has none to choose.
        progress: called with (texts encoded, texts) of each call of mteb; not of ``st:`` and ``bm25``.

    Raises:
        InputError: a form of vectors that the model has not.
        ModelError: an unusable model.
        MissingExtraError: a library that it needs is not installed.
    """
    if model == "bm25":
        if dtype is not None or dims is not None:
            raise InputError("bm25 has no vectors; leave dtype and dims out")
        return _bm25()
    if model.startswith("st:"):
        if dtype not in (None, "float32") or dims is not None:
            raise InputError(f"{model} gives float32 vectors of one width; leave dtype and dims out")
        return _sentence_transformers(model)
    return _own(model, dtype or "int8", dims, progress)


def _own(model: str, dtype: VectorDtype, dims: int | None, progress: Progress) -> MtebModel:
    from diffembed.encoder import Encoder
    from diffembed.integrations.mteb import MtebEncoder

    encoder = Encoder.load(model)
    wrapped = MtebEncoder(encoder, dtype=dtype, dims=dims, progress=progress)
    revision = model_revision(model, encoder)
    wrapped.mteb_model_meta = wrapped.mteb_model_meta.model_copy(update={"revision": revision})
    settings = {"dtype": dtype, "query_dtype": dtype, "dims": dims or max(encoder.dims)}
    settings |= {"contextual": wrapped.contextual, "max_tokens": encoder.max_tokens}
    return MtebModel(model, revision, settings, wrapped)


def _sentence_transformers(model: str) -> MtebModel:
    """mteb's registry knows the prompts of many models; others, and folders, are wrapped as they are."""
    from mteb.models.model_implementations import MODEL_REGISTRY

    name = model.removeprefix("st:")
    known = MODEL_REGISTRY.get(name if "/" in name else f"sentence-transformers/{name}")
    if known is not None and not Path(name).expanduser().exists():
        return _registered(model, known)
    from mteb.models import SentenceTransformerEncoderWrapper

    encoder = load_encoder(model)
    with warnings.catch_warnings():
        # mteb asks for the width by the name of older versions, and warns of its own default.
        warnings.filterwarnings("ignore", message=".*get_sentence_embedding_dimension", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*fill_missing", category=DeprecationWarning)
        wrapped = SentenceTransformerEncoderWrapper(encoder.model)  # type: ignore[attr-defined]
    revision = model_revision(model, encoder)
    hub_id = name.count("/") == 1 and not Path(name).expanduser().exists()
    # mteb files a model under owner and name; a folder has no owner.
    filed = name if hub_id else f"local/{Path(name).expanduser().resolve().name}"
    wrapped.mteb_model_meta = wrapped.mteb_model_meta.model_copy(update={"name": filed, "revision": revision})
    return MtebModel(model, revision, _st_settings(wrapped), wrapped)


def _registered(model: str, card: Any) -> MtebModel:
    """A model of mteb's registry, by the loader and the revision that stand there."""
    loader = getattr(card.loader, "func", card.loader)
    of_st = getattr(loader, "__module__", "").startswith(("mteb.models.sentence_tr", "mteb.models.instruct_wrapper"))
    if not of_st or card.loader_kwargs.get("trust_remote_code"):
        raise ModelError(
            f"mteb loads {card.name} with code of its own or of the hub ({getattr(loader, '__name__', loader)}), which "
            "diffembed does not run; evaluate it with mteb itself, and diffembed reads its result files"
        )
    try:
        loaded = card.load_model()
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"mteb cannot load {card.name}: {reason}") from error
    return MtebModel(model, str(card.revision), _st_settings(loaded), loaded)


def _st_settings(wrapped: Any) -> dict[str, Any]:
    limit = getattr(wrapped.model, "max_seq_length", None)
    card = wrapped.mteb_model_meta.embed_dim
    width = max(card) if isinstance(card, Sequence) else card
    form = {"dtype": "float32", "query_dtype": "float32", "dims": width or 0, "contextual": False}
    return form | {"max_tokens": limit}


def _bm25() -> MtebModel:
    from mteb.models import ModelMeta

    revision = model_revision("bm25")
    update = {"name": "diffembed/bm25", "revision": revision, "model_type": ["sparse"]}
    card = ModelMeta.create_empty(overwrites=update)
    settings = {"dtype": "none", "query_dtype": "none", "dims": 0, "contextual": False}
    return MtebModel("bm25", revision, settings, Bm25Search(card))


class Bm25Search:
    """Our BM25 with the methods that mteb asks of what searches by itself (its ``SearchProtocol``)."""

    def __init__(self, card: Any) -> None:
        self.mteb_model_meta = card
        self._ids: list[str] = []
        self._index: Bm25 | None = None

    def index(self, corpus: Any, **options: Any) -> None:
        """Take a corpus: title and text of each document."""
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(corpus)
        self._ids = list(corpus["id"])
        self._index = Bm25([f"{title or ''}\n{text}" for title, text in zip(titles, corpus["text"], strict=True)])

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, Sequence[str]] | None = None, **options: Any
    ) -> dict[str, dict[str, float]]:
        """The ``top_k`` documents of each query, of those in ``top_ranked`` where there are such lists."""
        if self._index is None:
            raise InputError("search was called before index; mteb calls them in the other order")
        columns = queries.column_names
        told = queries["instruction"] if "instruction" in columns else [None] * len(queries)
        place = {identifier: row for row, identifier in enumerate(self._ids)}
        found: dict[str, dict[str, float]] = {}
        for query, text, instruction in zip(queries["id"], queries["text"], told, strict=True):
            scores = self._index.scores(" ".join(part for part in (_flat(text), instruction) if part))
            if top_ranked is not None:
                rows = np.array([place[one] for one in top_ranked.get(query, ())], np.int64)
            else:
                rows = np.flatnonzero(scores > 0)
            best = rows[np.argsort(-scores[rows], kind="stable")[:top_k]]
            found[query] = {self._ids[row]: float(scores[row]) for row in best}
        return found


def _flat(text: Any) -> str:
    """A query as one text; the turns of a conversation one after the other.

    >>> _flat([{"role": "user", "content": "Which data?"}, {"role": "agent", "content": "Census."}])
    'Which data? Census.'
    """
    if isinstance(text, str):
        return text
    return " ".join(turn if isinstance(turn, str) else str(turn.get("content", "")) for turn in text)
