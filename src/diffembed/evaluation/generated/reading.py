"""What a model reads of a long text: up to which character, cut to its limit or through windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation.ranker import Ranker

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import Embeddings, EncodeOptions


@dataclass(frozen=True, slots=True)
class Windowed:
    """An encoder that reads through windows what an evaluation would have it cut."""

    encoder: Encoder
    contextual: bool = False

    def encode_queries(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        """As ``Encoder.encode_queries``."""
        return self.encoder.encode_queries(texts, **_windows(options))

    def encode_documents(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        """As ``Encoder.encode_documents``."""
        return self.encoder.encode_documents(texts, **_windows(options))

    def encode_chunks(self, documents: Sequence[Sequence[str]], **options: Unpack[EncodeOptions]) -> Embeddings:
        """As ``Encoder.encode_chunks``."""
        return self.encoder.encode_chunks(documents, **_windows(options))


def _windows(options: EncodeOptions) -> dict[str, Any]:
    return {**options, "truncate": False, "windows": options.get("truncate", False)}


def through_windows(ranker: Ranker) -> Ranker:
    """The same model, with windows over what is longer than its limit.

    Raises:
        InputError: a model that cannot: bm25 has no limit, models of sentence-transformers are cut by that library.
    """
    encoder = ranker.encoder
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{ranker.model} has no windows; leave --windows out, or name a model directory that diffembed loads itself"
        )
    return replace(ranker, encoder=Windowed(encoder, encoder.contextual))


def characters_read(encoder: object, texts: Sequence[str]) -> list[int] | None:
    """How many characters of each text the model reads, from the beginning on, by its own tokenizer.

    Args:
        encoder: of a ``Ranker``; ``None`` (bm25) reads everything.

    Returns:
        ``None`` for an encoder that is not ours and has no such method.
    """
    if encoder is None or isinstance(encoder, Windowed):
        return [len(text) for text in texts]
    if not isinstance(encoder, Encoder):
        tells = getattr(encoder, "characters_read", None)
        return None if tells is None else tells(texts)
    prompt = encoder.config.document_prompt
    room = encoder.max_tokens - encoder.count_tokens([""])[0]
    spans = encoder.token_spans([prompt + text for text in texts])
    ends = [
        int(span[room - 1, 1]) - len(prompt) if len(span) > room else len(t)
        for span, t in zip(spans, texts, strict=True)
    ]
    return [max(0, end) for end in ends]
