"""What a batch of rows holds, as texts, and what is true of every one."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.training.contrastive_rows import END, SOURCE, TOKENIZER

from diffembed.text.batching import TokenizedSequence
from diffembed.training.configs import SourceConfig
from diffembed.training.contrastive_batch import ContrastiveBatch


def source(**keys: Any) -> SourceConfig:
    return dataclasses.replace(SOURCE, **keys)


def chunk_texts(sequence: TokenizedSequence) -> list[str]:
    ids = list(map(int, sequence.token_ids))
    return [TOKENIZER.decode(ids[a:b], skip_special_tokens=False) for a, b in sequence.spans]


def queries_of(batch: ContrastiveBatch) -> list[str]:
    return [chunk_texts(s)[0] for s in batch.sequences[: batch.queries]]


def documents_of(batch: ContrastiveBatch) -> list[list[str]]:
    return [chunk_texts(s) for s in batch.documents]


def assert_whole(batch: ContrastiveBatch, limit: int = 64, query_limit: int = 32) -> None:
    """What holds for every batch."""
    total = len(batch.documents)
    for sequence in batch.sequences[: batch.queries]:
        assert sequence.spans == ((0, len(sequence)),) and 0 < len(sequence) <= query_limit
    for sequence in batch.documents:
        assert 0 < len(sequence) <= limit
        between = [0, *(edge for span in sequence.spans for edge in span), len(sequence)]
        assert between[0] == between[1] and between[-1] == between[-2], "spans begin and end it"
        assert all(a < b for a, b in sequence.spans)
        for (_, end), (start, _) in zip(sequence.spans[:-1], sequence.spans[1:], strict=True):
            assert start == end + 1 and sequence.token_ids[end] == END, "one separator, in no span"
    count = len(batch.chunk_documents)
    assert count == sum(len(s.spans) for s in batch.documents) == len(batch.chunk_ids) == len(batch.chunk_tokens)
    assert len(batch.document_ids) == total and len(batch.query_ids) == len(batch.scores) == batch.queries
    for positive, gold, negatives in zip(batch.positives, batch.gold, batch.negatives, strict=True):
        assert 0 <= positive < total and -1 <= gold < count
        assert gold < 0 or batch.chunk_documents[gold] == positive
        assert all(-1 <= n < total for n in negatives)
