"""From a file to its text: plain text, Markdown, reST, source code, HTML, CSV, JSONL, and with an extra PDF and DOCX.

Plain formats are returned character for character, so that offsets and lines are those of the file. Formats with markup
(HTML, DOCX, PDF) and records (CSV, JSONL) become readable text; HTML and records keep the lines of their source.
What cannot be read raises ``UnreadableFile`` with the reason, and the caller reports it.
"""

from __future__ import annotations

import bisect
import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffembed.errors import InputError

TextKind = Literal["prose", "markdown", "rst", "code", "records"]

MAX_FILE_BYTES = 64 * 1024 * 1024
_CODE_SUFFIXES_LISTED = """
.py .pyi .pyx .js .jsx .mjs .cjs .ts .tsx .java .kt .kts .scala .go .rs .c .h .cc .cpp .cxx .hh .hpp .hxx
.cs .swift .m .mm .rb .php .pl .pm .lua .r .jl .sh .bash .zsh .fish .ps1 .bat .sql .hs .ml .mli .ex .exs
.erl .clj .lisp .el .dart .zig .nim .v .vhd .asm .s .css .scss .less .vue .svelte .proto .graphql .tf
.cmake .gradle .groovy .f90 .ipynb .toml .yaml .yml .json .xml .ini .cfg .conf .diff .patch
"""
_CODE_SUFFIXES = frozenset(_CODE_SUFFIXES_LISTED.split())
_CODE_NAMES = frozenset({"Makefile", "Dockerfile", "CMakeLists.txt", "Rakefile", "Gemfile", "Jenkinsfile"})
_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdx"})
_LINE_END = re.compile(r"\r\n|\n|\r")


class UnreadableFile(Exception):
    """This file gives no text; the message is the reason, without the path.

    ``lasting`` says that the reason is in the file itself: reading it again is of no use until it changes.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class SourceText:
    """The text of one file.

    Attributes:
        text: what is chunked, encoded and shown.
        kind: how to cut it.
        line_offsets: where in ``text`` a line begins, ascending, the first 0.
        line_numbers: the 1-based line of the file for each of them, or ``()`` when that is simply 1, 2, 3, ...
        breaks: offsets that a chunk must not reach over (record borders).

    >>> source = SourceText.plain("one\\r\\ntwo\\nthree", "prose")
    >>> [source.line_at(offset) for offset in (0, 4, 5, 9)]
    [1, 1, 2, 3]
    """

    text: str
    kind: TextKind
    line_offsets: tuple[int, ...]
    line_numbers: tuple[int, ...] = ()
    breaks: tuple[int, ...] = ()

    @classmethod
    def plain(cls, text: str, kind: TextKind) -> SourceText:
        """A text whose lines are its own; ``\\n``, ``\\r\\n`` and ``\\r`` end a line."""
        return cls(text, kind, (0, *(match.end() for match in _LINE_END.finditer(text))))

    def line_at(self, offset: int) -> int:
        """The 1-based line of the file that the character at ``offset`` stands in."""
        position = bisect.bisect_right(self.line_offsets, offset) - 1
        return self.line_numbers[position] if self.line_numbers else position + 1


def kind_of(path: Path) -> TextKind:
    """How to cut a file of this name when it is read as plain text.

    >>> kind_of(Path("a/b.rs")), kind_of(Path("README.md")), kind_of(Path("notes"))
    ('code', 'markdown', 'prose')
    """
    suffix = path.suffix.lower()
    if suffix in _MARKDOWN_SUFFIXES:
        return "markdown"
    if suffix == ".rst":
        return "rst"
    return "code" if suffix in _CODE_SUFFIXES or path.name in _CODE_NAMES else "prose"


def is_text_format(path: Path) -> bool:
    """Whether a file of this name is read as text, so that a NUL byte tells that it is not."""
    return path.suffix.lower() not in _DOCUMENT_READERS


def too_large(size: int) -> str:
    """Why a file of ``size`` bytes is left out."""
    return f"{size:,} bytes; files over {MAX_FILE_BYTES:,} are left out, split it"


def read_source(path: Path, content: bytes) -> SourceText:
    """The text of a file, given its path (for the format) and its bytes.

    Raises:
        UnreadableFile: binary content, not UTF-8, a damaged record (named by its line), nothing but blanks, a
            format whose optional reader is not installed.

    >>> read_source(Path("a.html"), b"<h1>Owls</h1>\\n<p>They hunt<br>at night.").text
    '# Owls\\n\\nThey hunt\\nat night.'
    """
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableFile(too_large(len(content)))
    suffix = path.suffix.lower()
    if suffix in _DOCUMENT_READERS:
        source = _DOCUMENT_READERS[suffix](content)
    else:
        text = decode(content)
        reader = _TEXT_READERS.get(suffix)
        source = reader(text) if reader is not None else SourceText.plain(text, kind_of(path))
    if not source.text.strip():
        raise UnreadableFile("no text in it")
    return source


def read_file(path: Path) -> SourceText:
    """``read_source`` for a file on disk.

    Raises:
        InputError: the file cannot be opened or read as text.
    """
    try:
        return read_source(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    except UnreadableFile as error:
        raise InputError(f"{path}: {error}") from None


def decode(content: bytes) -> str:
    """UTF-8 to text; a byte-order mark is dropped, line ends stay as they are.

    >>> decode(b"\\xef\\xbb\\xbfna\\xc3\\xafve\\r\\n")
    'naïve\\r\\n'
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableFile("UTF-16 text; convert it to UTF-8 to have it read")
    if b"\0" in content:
        raise UnreadableFile("binary file")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableFile(f"not UTF-8 (byte 0x{content[error.start]:02x} in line {line}); convert it") from None


def _html(text: str) -> SourceText:
    from diffembed.text.markup import read_html

    return read_html(text)


def _csv(text: str) -> SourceText:
    from diffembed.text.records import read_csv

    return read_csv(text, ",")


def _tsv(text: str) -> SourceText:
    from diffembed.text.records import read_csv

    return read_csv(text, "\t")


def _jsonl(text: str) -> SourceText:
    from diffembed.text.records import read_jsonl

    return read_jsonl(text)


def _pdf(content: bytes) -> SourceText:
    from diffembed.text.markup import read_pdf

    return read_pdf(content)


def _docx(content: bytes) -> SourceText:
    from diffembed.text.markup import read_docx

    return read_docx(content)


_TEXT_READERS: dict[str, Callable[[str], SourceText]] = {
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
_DOCUMENT_READERS: dict[str, Callable[[bytes], SourceText]] = {".pdf": _pdf, ".docx": _docx}
