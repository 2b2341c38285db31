"""Records that several test files store, and what a search of them tells."""

from __future__ import annotations

from typing import Any

from diffembed.index import Index
from diffembed.index.qdrant import QdrantIndex

RECORDS: list[dict[str, Any]] = [
    {"id": "owls", "text": "Owls hunt at night. They hear a mouse under the snow.", "metadata": {"lang": "en", "n": 1}},
    {"id": "bread", "chunks": ["Mix flour and water.", "Bake the loaf.", "Eat it warm."], "metadata": {"n": 2.5}},
    {"id": 7, "text": "Every value has an owner.", "metadata": {"lang": "en", "tags": ["rust", "code"], "draft": True}},
    {"id": "brot", "text": "Mehl und Wasser mischen.", "metadata": {"lang": "de", "n": 2**60 + 1, "end": None}},
]


def told(index: Index | QdrantIndex, query: str, **options: Any) -> list[tuple[Any, ...]]:
    """What the hits of a query say, but for numbers."""
    hits = index.search(query, **options)
    return [(h.key, h.text, h.metadata, h.best_sentence, h.line_start, h.before, h.after, h.path) for h in hits]
