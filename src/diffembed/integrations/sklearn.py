"""scikit-learn: texts to features, as a transformer for pipelines, grid searches and column transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from diffembed.errors import InputError, ModelError
from diffembed.integrations.bound import BoundEncoder, as_floats, bind, missing_extra
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.quantize import FloatArray

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise missing_extra("sklearn", "scikit-learn", error) from error

__all__ = ["DiffembedVectorizer"]


class DiffembedVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Texts to vectors. ``fit`` learns nothing: it loads the model and notes which one it was.

    A fitted vectorizer is pickled by its options; the copy loads the model again when it is first used, and refuses one
    that has changed since, as whatever was trained on its features would then be fed with others.

    Args:
        model: ``default``, a directory or a hub id.
        dtype: ``float32``; ``int8`` (floats of integer value, -127 to 127); ``binary`` (-1.0 and 1.0 a dimension).
        dims: one of the model's widths; ``None`` for the widest.
        kind: whether texts are read as a ``document`` or as a ``query``, for models whose prompts tell them apart.
        truncate: cut texts over the model's limit (the log says how many) instead of refusing them.
        windows: read them through several windows instead.
        runtime, precision, device, threads: of ``Encoder.load``.

    Attributes:
        fingerprint_: of the model that ``fit`` loaded (``Encoder.fingerprint``).
    """

    def __init__(
        self,
        model: str = "default",
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        kind: Literal["document", "query"] = "document",
        truncate: bool = False,
        windows: bool = False,
        runtime: Literal["auto", "onnx", "torch"] = "auto",
        precision: Literal["auto", "int8", "fp32", "bf16", "fp16"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int | None = None,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.dims = dims
        self.kind = kind
        self.truncate = truncate
        self.windows = windows
        self.runtime = runtime
        self.precision = precision
        self.device = device
        self.threads = threads

    _bound: BoundEncoder | None  # absent before fit, None in a copy that was unpickled

    def fit(self, X: Iterable[str], y: Any = None) -> DiffembedVectorizer:
        """Load the model.

        Args:
            X: texts; not looked at.
            y: not looked at.

        Raises:
            InputError: an option that the model does not have.
            ModelError: no such model, or it is damaged.
        """
        bound = self._load()
        bound.documents([])  # names an unknown width or dtype before any text is read
        self._bound = bound
        self._n_features_out = bound.width
        self.fingerprint_ = bound.encoder.fingerprint
        return self

    def transform(self, X: Iterable[str]) -> FloatArray:
        """``[texts, dims]`` float32 vectors.

        Args:
            X: texts, none empty: a list, an array, a column of a table.
        """
        check_is_fitted(self, "fingerprint_")
        if isinstance(X, str):
            raise InputError("one string was given; give a list of strings")
        if self._bound is None:
            bound = self._load()
            if bound.encoder.fingerprint != self.fingerprint_:
                raise ModelError(
                    f"the model {self.model!r} is another one than this vectorizer was fitted with; fit it, and what "
                    "was trained on its features, again"
                )
            self._bound = bound
        texts = list(X)
        return as_floats(self._bound.queries(texts) if self.kind == "query" else self._bound.documents(texts))

    def _load(self) -> BoundEncoder:
        if self.kind not in ("document", "query"):
            raise InputError(f"kind {self.kind!r} is not known; give 'document' or 'query'")
        return bind(**{name: value for name, value in self.get_params().items() if name != "kind"})

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"_bound": None} if "_bound" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags
