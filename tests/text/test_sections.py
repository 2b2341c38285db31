"""Sections: every word once and in order, cut at headings and between paragraphs, never inside one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.text.blocks import marked_up_blocks
from diffembed.text.sections import Section, split_sections


def body(name: str, words: int) -> str:
    return " ".join(f"{name}{i}" for i in range(words))


def headings(sections: list[Section]) -> list[str]:
    return [section.heading for section in sections]


def assert_whole(text: str, sections: list[Section]) -> None:
    """All words, in order, as slices of the text."""
    assert [word for section in sections for word in section.text.split()] == text.split()
    at = 0
    for section in sections:
        assert section.text and section.text == section.text.strip()
        at = text.index(section.text, at) + len(section.text)


_word = st.text("abc#=`~-*.", min_size=1, max_size=4)
_line = st.lists(_word, min_size=1, max_size=6).map(" ".join)
_piece = st.one_of(
    _line,
    _line.map(lambda line: f"## {line}"),
    st.tuples(_line, st.sampled_from("=-~^")).map(lambda t: f"{t[0]}\n{t[1] * max(3, len(t[0]))}"),
    st.lists(_line, min_size=1, max_size=3).map(lambda lines: "```\n" + "\n\n# ".join(lines) + "\n```"),
    st.sampled_from(["", "```", "~~~~", "    indented", "\t", "- item\n- item", "====\nTitle\n===="]),
)


@settings(max_examples=200)
@given(
    pieces=st.lists(_piece, max_size=12),
    most=st.integers(1, 20),
    least=st.integers(0, 12),
    end=st.sampled_from(["\n", "\n\n", "\r\n"]),
)
def test_every_word_once_and_in_order(pieces: list[str], most: int, least: int, end: str) -> None:
    text = end.join(pieces)
    assert_whole(text, split_sections(text, max_words=most, min_words=least))


@settings(max_examples=200)
@given(text=st.text("ab #=`~-\n\r\t'\"", max_size=80), most=st.integers(1, 9), least=st.integers(0, 9))
def test_any_text(text: str, most: int, least: int) -> None:
    assert_whole(text, split_sections(text, max_words=most, min_words=least))


@pytest.mark.parametrize(
    "mark",
    [
        "# {}",
        "###### {} ######",
        "{}\n=======",
        "{}\n-------",
        "=======\n{}\n=======",
        "{}\n~~~~~~~",
        '{}\n"""""""',
    ],
)
def test_headings_of_markdown_and_rest(mark: str) -> None:
    names = ["Purpose", "Design!", "A + B C"]
    text = body("intro", 30) + "".join(f"\n\n{mark.format(name)}\n\n{body('w', 30)}" for name in names)
    sections = split_sections(text)
    assert_whole(text, sections)
    assert headings(sections) == ["", *names]
    assert all(section.text.startswith(mark.format(name)) for section, name in zip(sections[1:], names, strict=True))


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_code_is_no_heading_and_stays_whole(fence: str) -> None:
    code = f"{fence}python\n# a comment\n\nTitle\n=====\n\n{body('x', 90)}\n{fence}"
    text = f"# First\n\n{body('a', 30)}\n\n{code}\n\n# Second\n\n{body('b', 30)}"
    sections = split_sections(text, max_words=50)
    assert_whole(text, sections)
    assert headings(sections) == ["First", "", "Second"], "a block that is too long is a piece of its own"
    assert sections[1].text == code
    assert headings(split_sections(text, max_words=500)) == ["First", "Second"]


def test_tildes_under_a_title_are_no_fence() -> None:
    text = f"Title\n~~~~~\n\n{body('a', 30)}\n\nCode:\n~~~\n# none\n~~~\n\nOther\n~~~~~~~\n\n{body('b', 30)}"
    sections = split_sections(text)
    assert_whole(text, sections)
    assert headings(sections) == ["Title", "Other"]


def test_a_fence_that_is_never_closed_runs_to_the_end() -> None:
    text = f"# First\n\n{body('a', 30)}\n\n```\n# none\n\n{body('b', 30)}"
    assert headings(split_sections(text)) == ["First"]
    assert_whole(text, split_sections(text))


def test_a_long_section_is_cut_between_paragraphs() -> None:
    paragraphs = [body(f"p{i}w", 40) for i in range(5)]
    text = "# Long\n\n" + "\n\n".join(paragraphs) + f"\n\n# Next\n\n{body('n', 40)}"
    sections = split_sections(text, max_words=100)
    assert_whole(text, sections)
    assert headings(sections) == ["Long", "", "", "Next"]
    for section in sections:
        assert len(section.text.split()) <= 100
    pieces = [piece for section in sections[:3] for piece in section.text.split("\n\n")]
    assert pieces == ["# Long", *paragraphs], "none is cut inside"
    (giant,) = split_sections(body("g", 999), max_words=100)
    assert len(giant.text.split()) == 999, "one paragraph is never cut"


def test_what_is_too_short_joins_its_neighbour() -> None:
    text = f"# Title\n\n## Part\n\n{body('a', 30)}\n\n{body('b', 80)}\n\n{body('c', 10)}\n\n# Odd\n\nfew words"
    sections = split_sections(text, max_words=90, min_words=25)
    assert_whole(text, sections)
    assert headings(sections) == ["Part", "", "Odd"]
    assert sections[0].text.startswith("# Title\n\n## Part"), "a bare heading belongs to what follows"
    assert sections[1].text.endswith("c9"), "a short rest to what stands before it"
    assert sections[2].text == "# Odd\n\nfew words", "a heading at the end has nothing to join"


def test_blank_texts() -> None:
    for text in ("", " \n\n\t\n"):
        assert split_sections(text) == []


@given(text=st.text("ab #=`~-\n\r", max_size=60), fences=st.booleans())
def test_blocks_cover_the_text(text: str, fences: bool) -> None:
    units = marked_up_blocks(text, fences=fences)
    assert "".join(text[unit.start : unit.end] for unit in units) == text
