from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffembed.errors import InputError
from diffembed.text.chunking import Chunk, CountingStrategy, chunk_document
from diffembed.text.readers import SourceText, TextKind, read_source


def words(texts: Sequence[str]) -> list[int]:
    """Every word and every other visible character is a token; CJK has no words, so each character is one."""
    return [len(re.findall(r"[a-zA-Z]+|[^\sa-zA-Z]", text)) for text in texts]


def merging(texts: Sequence[str]) -> list[int]:
    """A tokenizer whose counts do not add up: five characters a token, but at least two tokens a text."""
    return [max(2, len(text) // 5 + 2 * text.count("x")) if text else 0 for text in texts]


def cut(
    text: str, kind: TextKind = "prose", max_tokens: int = 8, strategy: CountingStrategy = "structure"
) -> list[Chunk]:
    return chunk_document(SourceText.plain(text, kind), count_tokens=words, max_tokens=max_tokens, strategy=strategy)


def texts(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


ALPHABET = st.sampled_from(
    [*"ab x.é梟。!#=-`>|1", " ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "👩‍👩‍👧", "🇯🇵", "def ", "```\n"]
)


@given(
    st.lists(ALPHABET, max_size=120).map("".join),
    st.sampled_from(["prose", "markdown", "rst", "code"]),
    st.integers(1, 20),
    st.sampled_from([words, merging]),
)
@settings(max_examples=300, deadline=None)
def test_chunks_are_exact_in_order_complete_and_within_the_limit(text, kind, max_tokens, count) -> None:  # type: ignore[no-untyped-def]
    source = SourceText.plain(text, kind)
    chunks = chunk_document(source, count_tokens=count, max_tokens=max_tokens)
    covered: set[int] = set()
    end = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert chunk.start >= end
        end = chunk.end
        covered.update(range(chunk.start, chunk.end))
        assert (chunk.line_start, chunk.line_end) == (source.line_at(chunk.start), source.line_at(chunk.end - 1))
        assert count([chunk.text])[0] <= max_tokens or len(chunk.text.strip()) == 1 or len(chunk.text) <= 2
    assert all(i in covered or c.isspace() for i, c in enumerate(text))


LINES = st.sampled_from(
    [*"ab.!#-=`1", " ", "\n", "\n\n", "# One", "Owls hunt. ", "def a():", "    b", "```", "梟。", "==="]
)


@given(
    st.lists(LINES, max_size=60).map("".join),
    st.sampled_from(["prose", "markdown", "rst", "code"]),
    st.integers(1, 12),
    st.sampled_from(["structure", "sentence", "markdown", "code"]),
    st.sampled_from(["\r\n", "\r"]),
)
@settings(max_examples=300, deadline=None)
@example("    b\n\n\n\n", "prose", 1, "structure", "\r\n")
@example("a梟。\na", "prose", 2, "structure", "\r\n")
def test_line_ends_of_other_systems_change_nothing(text, kind, max_tokens, strategy, end) -> None:  # type: ignore[no-untyped-def]
    found = texts(cut(text.replace("\n", end), kind, max_tokens, strategy))
    assert [chunk.replace(end, "\n") for chunk in found] == texts(cut(text, kind, max_tokens, strategy))


def test_short_paragraphs_share_a_chunk() -> None:
    chunks = cut("One two.\n\nThree four.\n\nFive six seven.\n")
    assert texts(chunks) == ["One two.\n\nThree four.", "Five six seven."]
    assert [(c.line_start, c.line_end) for c in chunks] == [(1, 3), (5, 5)]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    assert texts(cut("One two three. Four five six. Seven eight nine ten. Eleven.")) == [
        "One two three. Four five six.",
        "Seven eight nine ten. Eleven.",
    ]


def test_cjk_is_cut_between_sentences_too() -> None:
    assert texts(cut("梟は夜に。雪が降る。鼠の音を聞く。", max_tokens=10)) == ["梟は夜に。雪が降る。", "鼠の音を聞く。"]


def test_a_heading_stays_with_what_it_heads() -> None:
    text = "# A\n\nOne two three four.\n\n## B\n\nFive six seven.\n\nC\n===\n\nEight nine.\n"
    assert texts(cut(text, "markdown")) == [
        "# A\n\nOne two three four.",
        "## B\n\nFive six seven.",
        "C\n===\n\nEight nine.",
    ]


def test_headings_without_text_are_packed_like_text() -> None:
    contents = "".join(f"# H{n}\n\n" for n in range(9))  # three tokens each
    assert [chunk.count("#") for chunk in texts(cut(contents, "markdown", 10))] == [3, 3, 3]
    above = "# A\n\n## B\n\n"
    assert texts(cut(f"{above}One two three four five.\n", "markdown", 10)) == [
        "# A",
        "## B\n\nOne two three four five.",
    ]


def test_rst_titles_with_and_without_a_line_above() -> None:
    text = "=====\nTitle\n=====\n\nOne two three.\n\nPart\n----\n\nFour five six seven.\n"
    assert texts(cut(text, "rst", 16)) == [
        "=====\nTitle\n=====\n\nOne two three.",
        "Part\n----\n\nFour five six seven.",
    ]


def test_a_fence_is_not_read_as_markdown() -> None:
    text = "Intro words here.\n\n```py\n# not a heading\n\nx = 1\n```\n\nAfter the code.\n"
    assert texts(cut(text, "markdown", 14)) == [
        "Intro words here.",
        "```py\n# not a heading\n\nx = 1\n```",
        "After the code.",
    ]


def test_code_is_cut_at_definitions_and_keeps_its_indentation() -> None:
    code = "import os\n\ndef one(a):\n    b = a\n\n    return b\n\n\ndef two():\n    return 2\n"
    chunks = cut(code, "code", 17)
    assert texts(chunks) == ["import os\n\ndef one(a):\n    b = a\n\n    return b", "def two():\n    return 2"]
    assert [(c.line_start, c.line_end) for c in chunks] == [(1, 6), (9, 10)]
    assert texts(cut(code, "code", 10))[2:] == ["    return b\n\n\ndef two():\n    return 2"]


def test_records_are_never_mixed() -> None:
    from pathlib import Path

    source = read_source(
        Path("a.jsonl"), b'{"text": "one"}\n{"text": "two"}\n{"text": "three four five. Six seven."}\n'
    )
    chunks = chunk_document(source, count_tokens=words, max_tokens=5)
    assert texts(chunks) == ["one", "two", "three four five.", "Six seven."]
    assert [c.line_start for c in chunks] == [1, 2, 3, 3]


def test_emoji_are_not_cut_in_two() -> None:
    family = "👩‍👩‍👧"
    chunks = chunk_document(
        SourceText.plain(family * 40, "prose"), count_tokens=lambda ts: [len(t) for t in ts], max_tokens=12
    )
    assert all(text == family * (len(text) // len(family)) for text in texts(chunks))


def test_crlf_offsets_and_lines() -> None:
    chunks = cut("One two three four.\r\n\r\nFive six seven eight.\r\n", max_tokens=5)
    assert [(c.text, c.start, c.line_start) for c in chunks] == [
        ("One two three four.", 0, 1),
        ("Five six seven eight.", 23, 3),
    ]


@pytest.mark.parametrize(
    "text", ["a" * 400_000, "word " * 80_000, "梟" * 100_000, "\n" * 1_000_000 + "x", "((" * 100_000]
)
def test_very_long_runs_are_cut_before_they_are_tokenized(text: str) -> None:
    longest = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal longest
        longest = max([longest, *map(len, texts)])
        return [max(1, len(text) // 4) if text else 0 for text in texts]

    chunks = chunk_document(SourceText.plain(text, "prose"), count_tokens=count, max_tokens=256)
    assert "".join("".join(c.text.split()) for c in chunks) == "".join(text.split())
    assert longest <= 12 * 256


MARKDOWN = "Intro.\n\n# A\n\nOne.\n\n## B\n\n### C\n\nTwo three.\n\nFour.\n\n# D\n\nFive.\n"


def test_sections_never_share_a_chunk() -> None:
    chunks = cut(MARKDOWN, "markdown", 100, "markdown")
    assert [(c.text, c.headings) for c in chunks] == [
        ("Intro.", ()),
        ("# A\n\nOne.", ("A",)),
        ("## B\n\n### C\n\nTwo three.\n\nFour.", ("A", "B", "C")),
        ("# D\n\nFive.", ("D",)),
    ]
    assert len(cut(MARKDOWN, "markdown", 100)) == 1, "the default strategy packs them"


def test_a_long_section_is_cut_by_structure_and_keeps_its_path() -> None:
    text = "Owls\n====\n\nOne two three.\n\nFour five six seven.\n\nEars\n----\n\nEight.\n"
    chunks = cut(text, "rst", 12, "markdown")
    assert [(c.text, c.headings) for c in chunks] == [
        ("Owls\n====\n\nOne two three.", ("Owls",)),
        ("Four five six seven.", ("Owls",)),
        ("Ears\n----\n\nEight.", ("Owls", "Ears")),
    ]


@pytest.mark.parametrize("strategy", ["markdown", "code"])
def test_documents_of_another_kind_are_cut_by_structure(strategy: CountingStrategy) -> None:
    for kind in ("prose", "code" if strategy == "markdown" else "markdown"):
        assert cut(MARKDOWN, kind, 12, strategy) == cut(MARKDOWN, kind, 12)


def test_whole_sentences_are_packed_whatever_the_paragraphs() -> None:
    assert texts(cut("One two.\n\nThree. Four five six.\n\n# A\n\nSeven.", "markdown", 6, "sentence")) == [
        "One two.\n\nThree.",
        "Four five six.\n\n# A",
        "Seven.",
    ]


def test_tokens_around_a_text_are_counted_once_a_chunk() -> None:
    def around(texts: Sequence[str]) -> list[int]:
        return [2 + count for count in words(texts)]

    source = SourceText.plain("One. Two. Three. Four. Five.", "prose")
    chunks = chunk_document(source, count_tokens=around, max_tokens=12)
    assert texts(chunks) == ["One. Two. Three. Four. Five."]
    assert len(chunk_document(source, count_tokens=around, max_tokens=11)) == 2


def test_a_strategy_that_needs_a_model() -> None:
    with pytest.raises(InputError, match="'adaptive' is not one of structure, sentence"):
        cut("a", strategy="adaptive")  # type: ignore[arg-type]


def test_a_limit_that_makes_no_sense() -> None:
    with pytest.raises(InputError, match="chunks of 0 tokens"):
        cut("a", max_tokens=0)
