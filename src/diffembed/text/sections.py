"""A document as its sections: stretches under a heading (Markdown, reST, or a title on a line of its own)."""

from __future__ import annotations

from dataclasses import dataclass

from diffembed.text.blocks import marked_up_blocks
from diffembed.text.headings import heading_text


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a document.

    Attributes:
        heading: without its marks; empty for what stands before the first, and for the later pieces of a long section.
        text: the stretch as it stands in the document, its heading included, white space around it taken off.
    """

    heading: str
    text: str


def split_sections(text: str, *, max_words: int = 250, min_words: int = 25) -> list[Section]:
    """The sections of a document, in order; together they hold all its words.

    Args:
        max_words: a longer section is cut between paragraphs (never inside one).
        min_words: a shorter section without a heading joins the one before it; a heading without that much below it
            joins what follows.

    >>> text = "# Owls\\n\\nThey hunt at night.\\n\\n## Ears\\n\\nOne is higher.\\n\\nSo they hear up and down."
    >>> [(s.heading, len(s.text)) for s in split_sections(text, max_words=6, min_words=2)]
    [('Owls', 27), ('Ears', 23), ('', 25)]
    """
    pieces: list[tuple[str, int, int, int]] = []  # heading, start, end, words
    for unit in marked_up_blocks(text, fences=True):
        words = len(text[unit.start : unit.end].split())
        if unit.heading:
            pieces.append((heading_text(text[unit.start : unit.end]), unit.start, unit.end, words))
        elif pieces and (pieces[-1][3] + words <= max_words or pieces[-1][3] < min_words):
            heading, start, _, before = pieces[-1]
            pieces[-1] = (heading, start, unit.end, before + words)
        else:
            pieces.append(("", unit.start, unit.end, words))
    joined: list[tuple[str, int, int, int]] = []
    for piece in pieces:
        if joined and piece[3] < min_words and not piece[0]:
            heading, start, _, before = joined[-1]
            joined[-1] = (heading, start, piece[2], before + piece[3])
        elif joined and joined[-1][0] and joined[-1][3] < min_words:
            heading, start, _, before = joined[-1]
            joined[-1] = (piece[0] or heading, start, piece[2], before + piece[3])
        else:
            joined.append(piece)
    return [Section(heading, text[start:end].strip()) for heading, start, end, _ in joined if text[start:end].strip()]
