"""What holds for every chunking strategy: exact slices in order, nothing lost, the limit kept, bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import make_tokenizer
from tests.text.fake_reader import FakeReader
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from diffembed.chunker import Chunker
from diffembed.text.chunking import STRATEGIES, Chunk, Strategy
from diffembed.text.readers import SourceText, TextKind
from diffembed.text.sentences import safe_cut

TOKENIZER: Tokenizer = make_tokenizer()
FAMILY = "👩‍👩‍👧"
PIECES = st.sampled_from(
    [
        *"ab x.é梟。!#=-`>|1\u0301\u200d\u0000שؤ।",
        *(" ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", FAMILY, "🇯🇵", "👍🏽", "e\u0301", "नि", "def a():\n", "```\n"),
        *("\u2028", "\x85", "# One\n", "Owls hunt. ", "梟は夜に。", "مرحبا. ", "class B:\n    ", "@x\n", "}\n"),
    ]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)
KINDS = st.sampled_from([kind for kind in get_args(TextKind) if kind != "records"])


def check(source: SourceText, chunks: Sequence[Chunk], reader: FakeReader, limit: int, overlap: int = 0) -> None:
    text = source.text
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert (chunk.line_start, chunk.line_end) == (source.line_at(chunk.start), source.line_at(chunk.end - 1))
    if chunks:
        counts = reader.count_tokens([chunk.text for chunk in chunks])
        assert all(n <= limit or len(c.text) == 1 for n, c in zip(counts, chunks, strict=True))
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        assert overlap or before.end <= after.start
    covered = bytearray(len(text))
    for chunk in chunks:
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    assert not [at for at, character in enumerate(text) if not covered[at] and not character.isspace()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(text=TEXTS, kind=KINDS, limit=st.integers(1, 24), around=st.integers(0, 2), data=st.data())
@settings(max_examples=80, deadline=None)
def test_exact_in_order_complete_within_the_limit_and_the_same_again(
    strategy: Strategy, text: str, kind: TextKind, limit: int, around: int, data: st.DataObject
) -> None:
    reader = FakeReader(TOKENIZER, around=around)
    room = max(1, limit - around)
    overlap = data.draw(st.integers(0, room // 2)) if strategy == "fixed" else 0
    chunker = Chunker(strategy, max_tokens=limit, overlap=overlap, encoder=reader)
    source = SourceText.plain(text, kind)
    chunks = chunker.chunk(source)
    if limit > around:  # else not even one token fits
        check(source, chunks, reader, limit, overlap)
    assert chunker.chunk(source) == chunks


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=5), st.integers(3, 24))
@settings(max_examples=25, deadline=None)
def test_records_are_never_mixed(strategy: Strategy, records: list[str], limit: int) -> None:
    reader = FakeReader(TOKENIZER)
    ends = [sum(map(len, records[: n + 1])) for n in range(len(records))]
    source = SourceText("".join(records), "records", (0,), breaks=tuple(ends[:-1]))
    chunks = Chunker(strategy, max_tokens=limit, encoder=reader).chunk(source)
    check(source, chunks, reader, limit)
    for chunk in chunks:
        assert not any(chunk.start < end < chunk.end for end in ends)


LONG, SHORTER = 100_000, 30_000
RUNS = {
    "letter": "a" * LONG,
    "combining": "a" + "\u0301" * LONG,
    "nul": "\0" * LONG,
    "crlf": "x" + "\r\n" * (LONG // 2) + "x",
    "blank": " " * LONG + "x" + " " * LONG,
    "flag": "🇯" * SHORTER,
    "family": FAMILY * (SHORTER // 5),
    "cjk": "梟" * SHORTER,
    "rtl": "ش" * SHORTER,
    "word": "word " * (SHORTER // 5),
    "stop": ". " * (SHORTER // 2),
    "ellipsis": "." * LONG + "x",
    "rule": "# a" + "-" * LONG + "b",
    "contents": "# a\n\n" * (SHORTER // 5),
    "definition": "def a():\n" * (SHORTER // 9),
    "heading": "# a\n" * (SHORTER // 4),
    "fence": "```\n" * (LONG // 4),
    "nested": "".join(f"{' ' * n}class A:\n" for n in range(150)),
}
SECONDS = 10.0  # of the processor; most take less than one, and a quadratic step takes minutes


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", RUNS)
def test_endless_runs_take_bounded_time(strategy: Strategy, name: str) -> None:
    reader = FakeReader(TOKENIZER)
    kind: TextKind = {"code": "code", "markdown": "markdown"}.get(strategy, "prose")  # type: ignore[assignment]
    source = SourceText.plain(RUNS[name], kind)
    start = time.process_time()
    chunks = Chunker(strategy, max_tokens=256, encoder=reader).chunk(source)
    assert time.process_time() - start < SECONDS
    check(source, chunks, reader, 256)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_million_letters_are_cut_before_they_are_tokenized(strategy: Strategy) -> None:
    reader = FakeReader(TOKENIZER)
    Chunker(strategy, max_tokens=256, encoder=reader).chunk("a" * 1_000_000)
    assert reader.longest <= 4096


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(st.lists(st.sampled_from([FAMILY, "🇯🇵", "👍🏽", "e\u0301", "नि", "a", "\r\n"]), max_size=40).map("".join))
@settings(max_examples=25, deadline=None)
def test_what_a_reader_sees_as_one_character_stays_whole(strategy: Strategy, text: str) -> None:
    # the longest of them, a family, has 18 bytes: every one fits
    for chunk in Chunker(strategy, max_tokens=20, encoder=FakeReader(TOKENIZER)).chunk(text):
        assert safe_cut(text, chunk.start) == chunk.start
        assert safe_cut(text, chunk.end) == chunk.end


DROPPING = Tokenizer(WordPiece({"[UNK]": 0, "a": 1, "b": 2, ".": 3}, unk_token="[UNK]"))
DROPPING.normalizer = BertNormalizer()  # drops control and format characters
DROPPING.pre_tokenizer = BertPreTokenizer()
SILENCE = st.sampled_from(["a", "b.", " ", "\n\n", "\u200b", "\0" * 200, "# ", "def a():\n"])


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(st.lists(SILENCE, max_size=30).map("".join), KINDS)
@settings(max_examples=25, deadline=None)
def test_no_chunk_is_empty_to_the_model(strategy: Strategy, text: str, kind: TextKind) -> None:
    reader = FakeReader(DROPPING, around=2)
    chunks = Chunker(strategy, max_tokens=8, encoder=reader).chunk(text, kind=kind)
    assert all(2 < count <= 8 for count in reader.count_tokens([chunk.text for chunk in chunks]))
    assert "".join(re.sub(r"[\s\0\u200b]", "", chunk.text) for chunk in chunks) == re.sub(r"[\s\0\u200b]", "", text)


def test_nothing_to_read_gives_no_chunks() -> None:
    for strategy in get_args(Strategy):
        chunker = Chunker(strategy, max_tokens=20, encoder=FakeReader(TOKENIZER))
        assert [chunker.chunk(text) for text in ("", " \r\n\t ")] == [[], []]
