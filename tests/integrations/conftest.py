"""A contextual model of exact weights, and documents cut into chunks, for all adapters."""

from __future__ import annotations

import os

import pytest

# Frameworks that would otherwise report their use over the network.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

BOOK = [
    "The lighthouse keeper counts ships at dawn.",
    "He writes each name into a grey book.",
    "In winter nobody passes for weeks.",
]
RECIPE = ["Melt the butter slowly.", "He writes each name into a grey book.", "Fold in the flour, then the eggs."]
LETTER = ["Dear Anna, the train was late again."]


@pytest.fixture
def library() -> dict[str, list[str]]:
    """Three documents in chunks; two of them have a chunk in common, word for word."""
    return {"book": list(BOOK), "recipe": list(RECIPE), "letter": list(LETTER)}
