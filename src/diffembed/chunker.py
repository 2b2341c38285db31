"""``Chunker``: the door to chunking for users and for the index, with a model and a strategy chosen once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.text.adaptive import adaptive_chunks
from diffembed.text.batching import IntArray
from diffembed.text.checks import check_texts
from diffembed.text.chunking import STRATEGIES, Chunk, Strategy, chunk_document
from diffembed.text.fixed import fixed_chunks
from diffembed.text.readers import SourceText, TextKind
from diffembed.vectors.embeddings import Embeddings, VectorDtype

CHUNK_TOKENS = 256
_KINDS: dict[str, TextKind] = {"markdown": "markdown", "code": "code"}


class ChunkEncoder(Protocol):
    """The part of ``Encoder`` that chunking uses."""

    @property
    def model_id(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...
    def token_spans(self, texts: Sequence[str]) -> list[IntArray]: ...
    def encode_chunks(
        self, documents: Sequence[Sequence[str]], *, dtype: VectorDtype = ..., windows: bool = ...
    ) -> Embeddings: ...


class Chunker:
    """Cuts documents into chunks that a model can read.

    Strategies:

    - ``structure``: whatever the text has: paragraphs, sections, definitions or records, packed up to the limit.
    - ``sentence``: whole sentences, packed up to the limit.
    - ``markdown``: a chunk a section; ``code``: a chunk a definition. Longer ones are cut by structure, and so are
      documents of other kinds.
    - ``fixed``: windows of exactly so many tokens, with an overlap if one is wanted.
    - ``adaptive``: borders where the model sees the subject change (``text/adaptive.py`` has the objective).

    Args:
        strategy: its name.
        max_tokens: longest chunk in tokens of the model, those that it puts around every text included; ``None`` for
            256, or the model's limit if that is lower.
        overlap: tokens that neighbouring chunks share; for ``fixed`` only.
        encoder: an ``Encoder``, or the name of a model; it counts the tokens, and reads the text for ``adaptive``.

    Raises:
        InputError: an unknown strategy, a limit that the model cannot read, an overlap that the strategy has not.

    >>> chunker = Chunker("sentence", max_tokens=12)
    >>> chunker.split_text("The owl hunts at night. It hears the mouse under the snow.")
    ['The owl hunts at night.', 'It hears the mouse under the snow.']
    """

    def __init__(
        self,
        strategy: Strategy = "structure",
        *,
        max_tokens: int | None = None,
        overlap: int = 0,
        encoder: ChunkEncoder | str = "default",
    ) -> None:
        check_strategy(strategy)
        if overlap and strategy != "fixed":
            raise InputError(f"strategy {strategy!r} has no overlap; leave it out, or choose fixed")
        if isinstance(encoder, str):
            from diffembed.encoder import Encoder  # heavy: only where a model is needed

            encoder = Encoder.load(encoder)
        self.strategy: Strategy = strategy
        self.max_tokens = chunk_limit(encoder, max_tokens)
        self.overlap = overlap
        self.encoder = encoder

    def chunk(self, text: str | SourceText, *, kind: TextKind | None = None) -> list[Chunk]:
        """The chunks of a document, in order; each an exact slice of it with its place and lines.

        Args:
            text: a text, or one that a reader has read (``diffembed.text.readers``), whose kind is known.
            kind: how to read a plain text: ``prose``, ``markdown``, ``rst``, ``code``; ``None`` for what the strategy
                is for, else ``prose``.
        """
        if isinstance(text, str):
            check_texts([text], "text", may_be_empty=True)
            source = SourceText.plain(text, kind or _KINDS.get(self.strategy, "prose"))
        elif kind in (None, text.kind):
            source = text
        else:
            raise InputError(f"the text was read as {text.kind}, not as {kind}; leave kind out")
        count, limit = self.encoder.count_tokens, self.max_tokens
        if self.strategy == "fixed":
            spans = self.encoder.token_spans
            return fixed_chunks(source, count_tokens=count, token_spans=spans, max_tokens=limit, overlap=self.overlap)
        if self.strategy == "adaptive":
            return adaptive_chunks(source, count_tokens=count, span_vectors=self._span_vectors, max_tokens=limit)
        return chunk_document(source, count_tokens=count, max_tokens=limit, strategy=self.strategy)

    def split_text(self, text: str) -> list[str]:
        """The texts of the chunks of a text, under the name that text splitters elsewhere have for it."""
        return [chunk.text for chunk in self.chunk(text)]

    def _span_vectors(self, documents: Sequence[Sequence[str]]) -> list[npt.NDArray[np.generic]]:
        # int8 as an index stores it: rounding takes away what differs from one run of a model to the next. Windows: a
        # span has more tokens than its parts if blanks in it count, which may be more than the model reads at once.
        return list(self.encoder.encode_chunks(documents, dtype="int8", windows=True).documents())


def check_strategy(strategy: str) -> None:
    """Raise ``InputError`` for a name that is no strategy."""
    if strategy not in STRATEGIES:
        raise InputError(f"chunking {strategy!r} is not known; choose one of {', '.join(STRATEGIES)}")


def chunk_limit(encoder: ChunkEncoder, max_tokens: int | None) -> int:
    """The longest chunk in tokens: as asked for, or 256, or what the model reads if that is less."""
    if max_tokens is None:
        return min(CHUNK_TOKENS, encoder.max_tokens)
    if not 1 <= max_tokens <= encoder.max_tokens:
        raise InputError(f"chunks of {max_tokens} tokens: {encoder.model_id} reads 1 to {encoder.max_tokens} tokens")
    return max_tokens
