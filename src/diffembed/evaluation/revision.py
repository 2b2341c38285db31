"""The revision of a model: what a score belongs to, so that it is used again for these weights and for no others.

- a directory: the first 16 hexadecimal digits of a SHA-256 over weights, tokenizer and configuration, and over the ONNX
  graph where one runs (its weights were rounded when it was exported)
- a model of the hub: the commit that was fetched
- ``bm25``: the version of bm25s, and that of how texts are parted into words
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from diffembed.errors import InputError

if TYPE_CHECKING:
    from diffembed.evaluation.ranking import TextEncoder

DIGITS = 16
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")
# What a sentence-transformers folder is made of; its README and graphs for other runtimes do not change a vector.
_ST_FILES = {".safetensors", ".bin", ".json", ".txt", ".model"}


def model_revision(model: str, encoder: TextEncoder | None = None) -> str:
    """The revision of a model, as it stands in result files.

    Args:
        model: as the user named it; ``bm25`` needs no encoder.
        encoder: what was loaded under that name: an ``Encoder``, or a sentence-transformers model.

    Raises:
        InputError: an encoder of another kind without a ``fingerprint``.
    """
    if model == "bm25":
        return _bm25()
    path = getattr(encoder, "path", None)
    if isinstance(path, Path) and (commit := hub_commit(path)):
        return commit
    if isinstance(path, Path) and model.startswith("st:"):
        return _of_files(path)
    fingerprint = getattr(encoder, "fingerprint", None)
    if not isinstance(fingerprint, str):
        raise InputError(
            f"{model} is a {type(encoder).__name__} without a fingerprint, so nobody could tell its scores from those "
            "of other weights; give it a fingerprint, or name a model directory"
        )
    return hashlib.sha256(fingerprint.encode() + _graph(encoder)).hexdigest()[:DIGITS]


def hub_commit(path: Path) -> str | None:
    """The commit of a folder in the hub's cache, ``None`` for any other folder.

    >>> hub_commit(Path("hub/models--org--name/snapshots/" + "0f" * 20))
    '0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f'
    >>> hub_commit(Path("my/model"))
    """
    found = _SNAPSHOT.search(path.as_posix())
    return found.group(1) if found else None


def _bm25() -> str:
    from importlib.metadata import PackageNotFoundError, version

    from diffembed.errors import MissingExtraError
    from diffembed.evaluation.baselines import WORDS_VERSION

    try:
        return f"bm25s-{version('bm25s')}-words-{WORDS_VERSION}"
    except PackageNotFoundError as error:
        message = "bm25 needs bm25s, which is not installed; run: pip install 'diffembed[eval]'"
        raise MissingExtraError(message) from error


def _graph(encoder: object) -> bytes:
    """The digest of the graph that runs; nothing where none does."""
    from diffembed.bulk.manifest import graph_digest
    from diffembed.encoder import Encoder

    return graph_digest(encoder).encode() if isinstance(encoder, Encoder) else b""


def _of_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and file.suffix in _ST_FILES and not name.startswith((".", "onnx/", "openvino/")):
            digest.update(name.encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:DIGITS]
