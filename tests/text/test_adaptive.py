"""Borders by the model: the objective against an exhaustive search, and what the model is and is not asked."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import make_tokenizer
from tests.text.fake_reader import FakeReader

from diffembed.chunker import Chunker
from diffembed.encoder import BUNDLED, Encoder
from diffembed.text.adaptive import INSIDE, PENALTY, SHORTEST, choose_borders
from diffembed.text.readers import SourceText
from diffembed.text.sentences import sentences
from diffembed.vectors.quantize import unit

OWLS = (
    "Owls hunt at night. The owl hears a mouse under the snow. The barn owl lives in barns and church towers. The "
    "feathers of an owl make no sound in flight. An owl swallows the mouse whole. Young owls leave the nest after "
    "eight weeks. Owls sleep by day in hollow trees."
)
BREAD = (
    "Bread is made of flour, water and yeast. Let the dough of the bread rise for an hour. Knead the dough again and "
    "shape a loaf of bread. Bake the bread in a hot oven for forty minutes. The crust of the bread should be brown. "
    "Let the loaf of bread cool before you cut it. Good bread keeps for three days."
)


def cost(firsts: tuple[int, ...], vectors: np.ndarray, tokens: np.ndarray, opens: np.ndarray, room: int) -> float:
    """The objective as the module states it, term by term; infinite where a chunk is over the limit."""
    neighbours = [np.sum((a - b) ** 2) / 2 for a, b in pairwise(vectors)]
    penalty = PENALTY * max(float(np.median(neighbours)), 1e-4)
    total = 0.0
    for a, b in zip(firsts, [*firsts[1:], len(vectors)], strict=True):
        if tokens[a:b].sum() > room and b - a > 1:
            return float("inf")
        mean = vectors[a:b].mean(axis=0)
        total += float(sum(np.sum((v - mean) ** 2) for v in vectors[a:b]))
        total += penalty * (1 if opens[a] or opens.sum() == 1 else 1 + INSIDE)
        total += 1e6 * penalty * (tokens[a:b].sum() < room / SHORTEST)
    return total


@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.integers(8, 40), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_no_other_borders_cost_less(count: int, seed: int, room: int, like: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(count, 5)) + like * 4 * rng.normal(size=(2, 5))[rng.integers(0, 2, count)])
    tokens = rng.integers(1, 14, count)
    opens = rng.random(count) < 0.4
    opens[0] = True
    chosen = choose_borders(vectors, tokens, opens, room=room)
    found = cost(tuple(chosen), vectors, tokens, opens, room)
    every = [(0, *rest) for size in range(count) for rest in combinations(range(1, count), size)]
    best = min(cost(firsts, vectors, tokens, opens, room) for firsts in every)
    assert found <= best * (1 + 1e-6) + 1e-6


def test_alike_sentences_stay_together_and_equal_choices_are_the_longest() -> None:
    same = np.tile(unit(np.ones((1, 3))), (12, 1))
    opens = np.arange(12) == 0
    assert choose_borders(same, np.full(12, 10), opens, room=1000) == [0]
    assert choose_borders(same, np.full(12, 10), opens, room=60) == [0, 6]


def test_a_chunk_is_short_only_where_it_must_be() -> None:
    vectors = unit(np.eye(6)[[0, 0, 1, 2, 2, 2]])
    opens = np.ones(6, bool)
    assert choose_borders(vectors, np.full(6, 10), opens, room=60) == [0, 2, 3]
    tokens = np.array([10, 10, 5, 10, 10, 10])
    firsts = choose_borders(vectors, tokens, opens, room=60)
    assert len(firsts) > 1
    assert min(np.add.reduceat(tokens, firsts)) >= 60 / SHORTEST
    assert choose_borders(vectors[1:4], np.array([60, 5, 60]), opens[:3], room=60) == [0, 1, 2]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    if not (BUNDLED / "diffembed.json").exists():
        pytest.skip("the embedded model has not been trained yet")
    return Encoder.load("default", threads=1)


@pytest.mark.parametrize("joint", [" ", "\n\n", "\r\n"])
def test_the_border_between_two_subjects(encoder: Encoder, joint: str) -> None:
    chunker = Chunker("adaptive", max_tokens=256, encoder=encoder)
    assert chunker.split_text(OWLS + joint + BREAD) == [OWLS, BREAD]
    assert chunker.split_text(BREAD + joint + OWLS) == [BREAD, OWLS]
    mixed = " ".join(sentence for pair in zip(OWLS.split(". "), BREAD.split(". "), strict=True) for sentence in pair)
    assert len(chunker.split_text(mixed)) == 1, "where every sentence changes the subject, none is a border"


def test_longer_than_the_models_window(tiny_model_dir: object) -> None:
    encoder = Encoder.load(str(tiny_model_dir), threads=1)
    assert encoder.contextual
    text = " ".join([OWLS, BREAD] * 8)
    assert encoder.count_tokens([text])[0] > 5 * encoder.max_tokens
    chunks = Chunker("adaptive", max_tokens=64, encoder=encoder).chunk(text)
    assert all(n <= 64 for n in encoder.count_tokens([chunk.text for chunk in chunks]))
    assert [s for c in chunks for s in c.text.split()] == text.split()
    starts = {start for start, _ in sentences(text)}
    assert {chunk.start for chunk in chunks} <= starts, "every sentence fits, so none is cut"


def reader() -> FakeReader:
    return FakeReader(make_tokenizer(), around=2)


def test_one_sentence_is_not_read() -> None:
    fake = reader()
    assert Chunker("adaptive", max_tokens=64, encoder=fake).split_text("Owls hunt at night.") == ["Owls hunt at night."]
    assert fake.read == []


def test_the_model_is_shown_sentences_with_their_headings() -> None:
    fake = reader()
    text = "# Owls\n\nThey hunt. They hear.\n\n```\na. b. c\n```\n\n## Bread\n\nIt rises.\n"
    Chunker("adaptive", max_tokens=64, encoder=fake).chunk(SourceText.plain(text, "markdown"))
    assert fake.read == [["# Owls\n\nThey hunt.", "They hear.", "```\na. b. c\n```", "## Bread\n\nIt rises."]]


def test_records_are_read_one_by_one() -> None:
    fake = reader()
    rows = ["Owls hunt. Owls hear.\n", "One sentence.\n", "Bread rises. Bread bakes."]
    source = SourceText("".join(rows), "records", (0,), breaks=(len(rows[0]), len(rows[0] + rows[1])))
    Chunker("adaptive", max_tokens=64, encoder=fake).chunk(source)
    assert fake.read == [["Owls hunt.", "Owls hear."], ["Bread rises.", "Bread bakes."]]


def test_code_is_shown_by_blocks() -> None:
    fake = reader()
    code = "import os\n\ndef a():\n    x = 1. \n    return x\n\ndef b():\n    pass\n"
    Chunker("adaptive", max_tokens=64, encoder=fake).chunk(code, kind="code")
    assert [span for spans in fake.read for span in spans][-1] == "def b():\n    pass"
    assert all(span.count("def ") <= 1 for spans in fake.read for span in spans)
