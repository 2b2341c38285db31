"""Formats with markup as readable text: HTML (standard library), PDF and DOCX (extra ``readers``).

HTML and DOCX become light Markdown (``#`` headings, ``-`` items), so that one chunker serves them. Only text is read:
no script runs, no link is followed, no image is fetched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from importlib import import_module
from typing import Any

from diffembed.text.readers import SourceText, UnreadableFile

_DROPPED = frozenset({"script", "style", "template", "noscript", "svg", "math", "head", "iframe", "object"})
_BLOCKS_LISTED = """
address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer
form header hr html legend main nav ol p pre section summary table tbody td tfoot th thead tr ul
"""
_BLOCKS = frozenset(_BLOCKS_LISTED.split())
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_NEW_LINE = "\r"  # as a piece: a line end, unless the line is still empty
_INSTALL = "install it with: pip install 'diffembed[readers]'"


class _HtmlText(HTMLParser):
    """Collects ``(text, source line)`` pieces; a ``None`` text asks for a blank line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[tuple[str | None, int]] = []
        self.title: list[str] = []
        self.has_heading = False
        self._dropped: list[str] = []
        self._in_title = False
        self._in_pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title" and "svg" not in self._dropped
        if tag == "body":
            self._dropped.clear()  # a head left open must not swallow the page
        if tag in _DROPPED:
            self._dropped.append(tag)
        elif tag == "br":
            self._put("\n")
        elif tag == "li":
            self._put(_NEW_LINE)
            self._put("- ")
        elif tag in _HEADINGS:
            self.has_heading = True
            self._put(None)
            self._put(_HEADINGS[tag])
        elif tag in _BLOCKS:
            self._put(None)
            self._in_pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if tag in self._dropped:
            del self._dropped[self._dropped.index(tag) :]
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._put(None)
            self._in_pre = max(0, self._in_pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._dropped:
            line = self.getpos()[0]
            if self._in_pre:
                for number, part in enumerate(data.replace("\r\n", "\n").split("\n")):
                    if number:
                        self.pieces.append(("\n", line + number))
                    self.pieces.append((part, line + number))
                return
            for number, part in enumerate(data.split("\n")):
                self.pieces.append((_BLANKS.sub(" ", part) + " " * (number < data.count("\n")), line + number))

    def _put(self, text: str | None) -> None:
        if not self._dropped:
            self.pieces.append((text, self.getpos()[0]))


def read_html(text: str) -> SourceText:
    """The readable text of a page; lines are those of the HTML source.

    >>> read_html("<title>Birds</title><ul><li>owl<li>jay</ul><pre>a\\n  b</pre>").text
    '# Birds\\n\\n- owl\\n- jay\\n\\na\\n  b'
    """
    parser = _HtmlText()
    parser.feed(text)
    parser.close()
    title = _BLANKS.sub(" ", "".join(parser.title)).strip()
    pieces: list[tuple[str | None, int]] = list(parser.pieces)
    if title and not parser.has_heading:
        pieces = [("# " + title, 1), (None, 1), *pieces]
    return _assemble(pieces)


def _assemble(pieces: Sequence[tuple[str | None, int]]) -> SourceText:
    out: list[str] = []
    offsets, numbers = [0], [1]
    length = 0
    blank_due = False
    last = "\n"  # the last character written: no blank after a line end, none twice
    for piece, line in pieces:
        if piece is None:
            blank_due = True
            continue
        if piece == _NEW_LINE:
            piece = "" if blank_due or last == "\n" else "\n"
        elif blank_due or last in " \n":
            piece = piece if piece.startswith("  ") else piece.lstrip(" ")  # two blanks: inside <pre>
        if not piece:
            continue
        if blank_due and length:
            out.append("\n\n")
            length += 2
        blank_due = False
        if line != numbers[-1]:
            offsets.append(length)
            numbers.append(line)
        out.append(piece)
        length += len(piece)
        last = piece[-1]
    text = "".join(out).rstrip()
    kept = [i for i, offset in enumerate(offsets) if i == 0 or offset < len(text)]
    return SourceText(text, "markdown", tuple(offsets[i] for i in kept), tuple(numbers[i] for i in kept))


def read_pdf(content: bytes) -> SourceText:
    """The text layer of a PDF; lines are those of the extracted text.

    Raises:
        UnreadableFile: pypdf is not installed, the file is damaged or encrypted.
    """
    pypdf = _optional("pypdf", "PDF")
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFile("an encrypted PDF; store it without a password to have it read")
        pages = [page.extract_text() or "" for page in reader.pages]
    except UnreadableFile:
        raise
    except Exception as error:  # a damaged PDF raises whatever the parser trips over
        raise UnreadableFile(f"a damaged PDF ({type(error).__name__})") from None
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    if not text:
        raise UnreadableFile("a PDF without a text layer (scanned pages?); run text recognition on it first")
    return SourceText.plain(text.encode("utf-8", "replace").decode("utf-8"), "prose")


def read_docx(content: bytes) -> SourceText:
    """The paragraphs and tables of a Word document; lines are those of the extracted text.

    Raises:
        UnreadableFile: python-docx is not installed, or the file is damaged.
    """
    docx = _optional("docx", "DOCX")
    try:
        document = docx.Document(io.BytesIO(content))
        parts = [_docx_block(block) for block in document.iter_inner_content()]
    except Exception as error:  # as above
        raise UnreadableFile(f"a damaged DOCX ({type(error).__name__})") from None
    return SourceText.plain("\n\n".join(part for part in parts if part.strip()), "markdown")


def _docx_block(block: Any) -> str:
    if hasattr(block, "rows"):
        return "\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows)
    style = (block.style.name if block.style is not None else "") or ""
    level = re.fullmatch(r"Heading ([1-6])", style)
    if not block.text.strip():
        return ""
    if level or style == "Title":
        return f"{'#' * int(level[1]) if level else '#'} {block.text}"
    return f"- {block.text}" if style.startswith("List") else str(block.text)


def _optional(module: str, what: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise UnreadableFile(f"{what} needs an optional reader; {_INSTALL}", lasting=False) from None
