"""diffembed: text embedders from diffusion pretraining, from a language model to a search hit.

The public names below are imported when they are first used, so that ``import diffembed`` stays fast and never brings
in torch. Everything that is not listed in ``__all__`` may change without notice.

>>> import diffembed
>>> diffembed.__version__
'0.1.0'
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffembed.chunker import Chunker
    from diffembed.encoder import Encoder
    from diffembed.errors import (
        DiffembedError,
        IndexStoreError,
        InputError,
        MissingExtraError,
        ModelError,
        RecipeError,
        TrainingError,
    )
    from diffembed.index import Hit, Index
    from diffembed.text.chunking import Chunk
    from diffembed.vectors.embeddings import Embeddings

__version__ = "0.1.0"

# onnxruntime's wheels leave a device id and a queue of events for its makers in the user's cache folder, unless this is
# set before they are imported. A program that reads someone's files leaves neither; a value that is set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Encoder": "diffembed.encoder",
    "Chunker": "diffembed.chunker",
    "Chunk": "diffembed.text.chunking",
    "Index": "diffembed.index",
    "Hit": "diffembed.index",
    "Embeddings": "diffembed.vectors.embeddings",
    "DiffembedError": "diffembed.errors",
    "InputError": "diffembed.errors",
    "ModelError": "diffembed.errors",
    "IndexStoreError": "diffembed.errors",
    "RecipeError": "diffembed.errors",
    "TrainingError": "diffembed.errors",
    "MissingExtraError": "diffembed.errors",
}

__all__ = [
    "Encoder",
    "Chunker",
    "Chunk",
    "Index",
    "Hit",
    "Embeddings",
    "DiffembedError",
    "InputError",
    "ModelError",
    "IndexStoreError",
    "RecipeError",
    "TrainingError",
    "MissingExtraError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'diffembed' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
