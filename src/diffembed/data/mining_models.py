"""The models of mining: who ranks the documents, and who may reject a candidate afterwards (teacher, reranker)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffembed.data.candidates import Embedder, IntArray, TakeTexts, Vectors, cosines
from diffembed.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import Embeddings, VectorDtype

Predict = Callable[[list[tuple[str, str]]], Sequence[float]]


class Teacher:
    """Cosines of another embedder."""

    name = "teacher"

    def __init__(self, encoder: Embedder, vectors: Vectors, margin: float) -> None:
        self._encoder, self._vectors, self.margin = encoder, vectors, margin

    def ask(self, queries: Sequence[str]) -> None:
        """Encode them."""
        self._queries = self._encoder.encode_queries(queries, dtype="int8", truncate=True).values

    def scores(self, queries: IntArray, documents: IntArray) -> npt.NDArray[np.float64]:
        """``[N]`` cosines."""
        return cosines(self._queries[queries], self._vectors.take(documents)).astype(np.float64)


class Reranker:
    """Scores of a model that reads query and document together."""

    name = "reranker"

    def __init__(self, predict: Predict, take: TakeTexts, margin: float) -> None:
        self._predict, self._take, self.margin = predict, take, margin

    def ask(self, queries: Sequence[str]) -> None:
        """Keep them."""
        self._queries = queries

    def scores(self, queries: IntArray, documents: IntArray) -> npt.NDArray[np.float64]:
        """``[N]`` in the model's units."""
        pairs = [(self._queries[q], text) for q, text in zip(queries, self._take(documents.tolist()), strict=True)]
        found = np.asarray(self._predict(pairs), np.float64)
        if found.shape != (len(pairs),) or not np.isfinite(found).all():
            raise ModelError(f"the reranker gave {found.shape} scores for {len(pairs)} pairs; one finite number each")
        return found


def load_embedder(model: str) -> Embedder:
    """A model with int8 vectors: as for ``Encoder.load``, or ``st:NAME_OR_PATH``.

    Raises:
        ModelError, MissingExtraError: it does not load.
    """
    if model.startswith("st:"):
        from diffembed.evaluation.baselines import SentenceTransformersEncoder

        return _Int8(SentenceTransformersEncoder(model.removeprefix("st:")))
    from diffembed.encoder import Encoder

    return Encoder.load(model)


class _Int8:
    """A sentence-transformers model whose vectors are stretched to int8 one by one (``scaled_int8``)."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.model_id: str = encoder.model_id

    def encode_queries(
        self, texts: Sequence[str], *, dtype: VectorDtype = "int8", dims: int | None = None, truncate: bool = False
    ) -> Embeddings:
        """``[texts, dims]`` int8."""
        return self._int8(self._encoder.encode_queries(texts, dims=dims, truncate=truncate))

    def encode_documents(
        self, texts: Sequence[str], *, dtype: VectorDtype = "int8", dims: int | None = None, truncate: bool = False
    ) -> Embeddings:
        """``[texts, dims]`` int8."""
        return self._int8(self._encoder.encode_documents(texts, dims=dims, truncate=truncate))

    def _int8(self, vectors: Embeddings) -> Embeddings:
        from diffembed.vectors.embeddings import Embeddings
        from diffembed.vectors.quantize import scaled_int8

        return Embeddings(scaled_int8(vectors.values), "int8", vectors.dims, vectors.tokens, vectors.truncated)


def load_reranker(model: str) -> Predict:
    """A sentence-transformers ``CrossEncoder`` with one score, by path or hub id.

    Raises:
        ModelError, MissingExtraError: it does not load, or gives several scores.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        message = f"reranker {model} needs sentence-transformers, which is not installed"
        raise MissingExtraError(f"{message}; run: pip install 'diffembed[eval]'") from error
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        raise ModelError(f"reranker {model} is not a folder; give that of a CrossEncoder, or a hub id")
    try:
        loaded = CrossEncoder(str(Path(model).expanduser()), trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"sentence-transformers cannot load the reranker {model!r}: {reason}") from error
    return lambda pairs: loaded.predict(pairs, convert_to_numpy=True, show_progress_bar=False)
