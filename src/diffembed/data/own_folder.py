"""A user's own folder: its documents, cleaned, each with the questions that it asks itself, in three parts.

Files are read as an index reads them. What stands in many of them (licence headers, navigation), tables of links and
files with the text of another are taken out; what gives nothing is listed with its reason. Which part a document goes
to follows from a hash of its text: held out for the report, kept for choices (dev), or trained on. Everything is held
in memory. ``own_work.py`` writes it as training and test data.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffembed.data.own_text import Asked, ask, key, size, title_of, without
from diffembed.errors import InputError
from diffembed.text.readers import MAX_FILE_BYTES, SourceText, UnreadableFile, is_text_format, read_source, too_large
from diffembed.text.walk import Excluded, Skipped, resolve_roots, walk

LEAST_DOCUMENTS, LEAST_PAIRS = 20, 100
_SHARE, _MOST_SHARE = 0.1, 0.25  # of the documents that ask, those in each of dev and held-out
_ENOUGH = 50  # questions of each of them
_REPEATED_IN = 4  # documents that a paragraph stands in to be boilerplate
_LEAST_PARAGRAPH, _LEAST_TEXT = 8, 20  # words
_FEW_NUMBERS = 3
_SNIFFED = 8192

PARAGRAPH = re.compile(r"(?:[^\n]*\S[^\n]*(?:\n|$))+")
_NUMBER = re.compile(r"\d+")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)---[ \t]*(?:\n|$)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)
_NOTES = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_LICENCE = re.compile(r"copyright|\blicen[sc]ed?\b|SPDX-|all rights reserved|without warranty", re.IGNORECASE)
_LINK = re.compile(
    r"!?\[[^\[\]]*\](?:\([^()\s]*\)|\[[^\[\]]*\]|:[ \t]*\S+)|:\w+:`[^`]*`|<?https?://\S+|^[ \t]*/[\w./-]+$", re.M
)
_COMMENT_LINE = re.compile(r"[ \t]*(?:#|//|/?\*|--|;;|<!--|\"\"\"|'''|\.\. )")


@dataclass(frozen=True, slots=True)
class OwnDocument:
    """A file of the folder, cleaned.

    Attributes:
        id: its path from the folder.
        title: its first heading, or its name.
        digest: of its text before that, as hexadecimal digits; documents are in this order.
        asked: the questions that no other document asks.
    """

    id: str
    title: str
    source: SourceText
    digest: str
    asked: tuple[Asked, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnFolder:
    """What was read.

    Attributes:
        train, dev, held_out: the documents of each part.
        left_out: files that give no text, and why.
        silent: files that give text but no question, and why.
        ambiguous: questions that several documents ask, which were dropped.
        boilerplate: paragraphs that were taken out.
    """

    train: tuple[OwnDocument, ...]
    dev: tuple[OwnDocument, ...]
    held_out: tuple[OwnDocument, ...]
    left_out: tuple[Skipped, ...]
    silent: tuple[Skipped, ...]
    ambiguous: int
    boilerplate: int

    @property
    def documents(self) -> tuple[OwnDocument, ...]:
        """All of them."""
        return (*self.train, *self.dev, *self.held_out)


def read_own_folder(paths: Sequence[str | Path]) -> OwnFolder:
    """Read files and folders.

    Raises:
        InputError: a path that is not there; too little to learn from, and what was left out.
    """
    documents, left_out = _read(paths)
    documents, removed, empty = _cleaned(documents)
    left_out += empty
    asked = {d.id: ask(d.source, d.title) for d in documents}
    times = Counter(key(a.query) for found in asked.values() for a in found)
    ambiguous = sum(count for count in times.values() if count > 1)
    silent = []
    for number, document in enumerate(documents):
        own = tuple(a for a in asked[document.id] if times[key(a.query)] == 1)
        documents[number] = replace(document, asked=own)
        if not own:
            silent.append(Skipped(Path(document.id), _why_silent(document, bool(asked[document.id]))))
    asking = [d for d in documents if d.asked]
    pairs = sum(len(d.asked) for d in asking)
    if len(asking) < LEAST_DOCUMENTS or pairs < LEAST_PAIRS:
        raise InputError(_too_small(paths, len(asking), pairs, [*left_out, *silent]))
    held_out = _part(asking, len(asking))
    dev = _part([d for d in asking if d not in held_out], len(asking))
    apart = {d.id for d in (*held_out, *dev)}
    train = tuple(d for d in documents if d.id not in apart)
    return OwnFolder(train, dev, held_out, tuple(left_out), tuple(silent), ambiguous, removed)


def _read(paths: Sequence[str | Path]) -> tuple[list[OwnDocument], list[Skipped]]:
    """The files, ordered by the hash of their text; of two alike the first by path."""
    roots = resolve_roots(paths)
    found: dict[str, OwnDocument] = {}
    left_out: list[Skipped] = []
    for entry in walk(roots):
        if isinstance(entry, Skipped):
            left_out += [] if isinstance(entry, Excluded) else [entry]
            continue
        try:
            source = _source(entry.path)
        except UnreadableFile as error:
            left_out.append(Skipped(entry.path, str(error)))
            continue
        source = replace(source, text=source.text) if "\r" not in source.text else _newlines(source)
        digest = _digest(source.text)
        root = next(r for r in roots if entry.path.is_relative_to(r))
        inside = entry.path.relative_to(root if root.is_dir() else root.parent)
        name = (Path(root.name) / inside if len(roots) > 1 and root.is_dir() else inside).as_posix()
        if digest in found:
            left_out.append(Skipped(entry.path, f"the same text as {found[digest].id}"))
        else:
            found[digest] = OwnDocument(" ".join(name.split()), "", source, digest)
    return [found[digest] for digest in sorted(found)], left_out


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()


def _source(path: Path) -> SourceText:
    try:
        size_now = path.stat().st_size
        if size_now > MAX_FILE_BYTES:
            raise UnreadableFile(too_large(size_now))
        with path.open("rb") as file:
            content = file.read(_SNIFFED)
            if b"\0" in content and is_text_format(path):
                raise UnreadableFile("binary file")
            content += file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise UnreadableFile(f"cannot be read ({(error.strerror or str(error)).lower()})") from None
    return read_source(path, content)


def _newlines(source: SourceText) -> SourceText:
    if source.breaks:
        return source
    return SourceText.plain(source.text.replace("\r\n", "\n").replace("\r", "\n"), source.kind)


def _cleaned(documents: Sequence[OwnDocument]) -> tuple[list[OwnDocument], int, list[Skipped]]:
    """Documents without boilerplate, each with its title; how many paragraphs went; documents that give none now."""
    times: Counter[int] = Counter()
    for document in documents:
        times.update({k for found in PARAGRAPH.finditer(document.source.text) if (k := _paragraph_key(found[0]))})
    repeated = {k for k, count in times.items() if count >= _REPEATED_IN}
    kept: list[OwnDocument] = []
    empty: list[Skipped] = []
    seen: dict[str, str] = {}
    removed = 0
    for document in documents:
        source, title, gone = _clean(document.source, repeated)
        removed += gone
        if not source.text.strip():
            empty.append(Skipped(Path(document.id), "nothing but boilerplate"))
            continue
        if (first := seen.setdefault(_digest(source.text), document.id)) != document.id:
            empty.append(Skipped(Path(document.id), f"the same text as {first}"))
            continue
        kept.append(replace(document, source=source, title=title or title_of(source, name_of(document.id))))
    return kept, removed, empty


def _clean(source: SourceText, repeated: set[int]) -> tuple[SourceText, str, int]:
    if source.kind == "records":
        return source, "", 0
    text, title = source.text, ""
    if front := _FRONT_MATTER.match(text):
        named = _TITLE.search(front[1])
        title = named[1] if named else ""
        text = text[front.end() :]
    if source.kind in ("markdown", "prose"):
        text = _NOTES.sub("", text)
    gone = []
    for number, found in enumerate(PARAGRAPH.finditer(text)):
        words = found[0]
        comment = source.kind != "code" or all(_COMMENT_LINE.match(line) for line in words.splitlines())
        licence = number < 3 and comment and len(_LICENCE.findall(words)) > (source.kind != "code")
        if licence or _paragraph_key(words) in repeated or (source.kind != "code" and _is_links(words)):
            gone.append(found.span())
    cleaned = without(text, gone)[0] if gone else text
    return (source if cleaned == source.text else SourceText.plain(cleaned, source.kind)), title, len(gone)


def _paragraph_key(paragraph: str) -> int:
    """The same for paragraphs that differ in case, spacing and a few numbers (years, versions); 0 for short ones."""
    if size(paragraph) < _LEAST_PARAGRAPH:
        return 0
    folded = " ".join(paragraph.casefold().split())
    if len(_NUMBER.findall(folded)) <= _FEW_NUMBERS:
        folded = _NUMBER.sub("0", folded)
    return zlib.crc32(folded.encode("utf-8", "surrogatepass")) << 32 | zlib.adler32(
        folded.encode("utf-8", "surrogatepass")
    )


def _is_links(paragraph: str) -> bool:
    """Whether a paragraph is a table of links."""
    links = len(_LINK.findall(paragraph))
    return links >= 3 and size(_LINK.sub(" ", paragraph)) < 2 * links


def name_of(identifier: str) -> str:
    """What a file is about, by its name.

    >>> name_of("guide/getting-started.md"), name_of("guide/README.md"), name_of("MAX_PATH.txt")
    ('getting started', 'guide', 'MAX_PATH')
    """
    path = Path(identifier)
    stem = path.stem
    if stem.lower() in ("readme", "index", "__init__", "main", "mod") and path.parent.name:
        stem = path.parent.name
    return re.sub(r"[-_]+", " ", stem).strip() if stem == stem.lower() else stem


def _part(asking: Sequence[OwnDocument], of: int) -> tuple[OwnDocument, ...]:
    """The first documents, a tenth of all or as many as have enough questions, a quarter at most."""
    taken: list[OwnDocument] = []
    questions = 0
    for document in asking:
        if len(taken) >= _SHARE * of and (questions >= _ENOUGH or len(taken) >= _MOST_SHARE * of):
            break
        taken.append(document)
        questions += len(questions_apart(document))
    return tuple(taken)


def questions_apart(document: OwnDocument) -> list[Asked]:
    """The questions of a document that a test asks: of those whose answers overlap, one."""
    kept: list[Asked] = []
    order = sorted(document.asked, key=lambda a: zlib.crc32(a.query.encode("utf-8", "surrogatepass")))
    for asked in order:
        if not any(asked.answer[0] < other.answer[1] and other.answer[0] < asked.answer[1] for other in kept):
            kept.append(asked)
    return sorted(kept, key=lambda a: a.answer)


def _why_silent(document: OwnDocument, ambiguous: bool) -> str:
    if ambiguous:
        return "its questions are asked by other documents too"
    if size(document.source.text) < _LEAST_TEXT:
        return f"fewer than {_LEAST_TEXT} words"
    if document.source.kind == "code":
        return "no definition with a comment"
    return "no heading, question or first sentence with an answer below it"


def _too_small(paths: Sequence[str | Path], documents: int, pairs: int, left_out: Sequence[Skipped]) -> str:
    reasons = Counter(skipped.reason for skipped in left_out).most_common(3)
    listed = "; files that gave nothing: " + ", ".join(f"{count} x {why}" for why, count in reasons) if reasons else ""
    return (
        f"{', '.join(map(str, paths))}: {documents} documents ask {pairs} questions; at least {LEAST_DOCUMENTS} "
        f"documents and {LEAST_PAIRS} questions are needed to adapt a model and to test it: give more text{listed}"
    )
