"""Rebuild the documents of ``samples/`` from a folder of data sets: ``python scripts/make_samples.py DATA``.

The sample folder is what ``make demo`` searches: prose, manuals and code in several languages, one document a file,
all under licences that let it be passed on (``samples/README.md``). Which documents are taken is decided by rules and
not by chance, so that the same data give the same files. README, QUERIES and the licence texts are kept by hand.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "samples"
LIMIT_BYTES = 2_500_000


@dataclass(frozen=True)
class Sample:
    """One file to be written, its path relative to ``samples/``."""

    path: str
    text: str


def records(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a compressed JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def slug(text: str, limit: int = 48) -> str:
    """A file name for a title: ASCII letters and digits where it has any.

    >>> slug("XXVIII — The Ironmaster’s Son")
    'xxviii-the-ironmasters-son'
    """
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if c not in "’'" and not unicodedata.combining(c))
    plain = re.sub(r"[^a-z0-9]+", "-", bare.lower()).strip("-")
    return plain[:limit].strip("-")


def first_line(text: str) -> str:
    """The first line, if it can be a title."""
    line = text.split("\n", 1)[0].strip().lstrip("#").strip()
    return line if 3 < len(line) < 80 and line[-1] not in ".:,;。：、…!?)”" else ""


BOOKS = {
    "herman-melville_moby-dick": ("moby-dick", 22),
    "arthur-conan-doyle_the-adventures-of-sherlock-holmes": ("sherlock-holmes", 4),
    "h-g-wells_the-time-machine": ("the-time-machine", 6),
    "mary-shelley_frankenstein": ("frankenstein", 7),
    "jane-austen_pride-and-prejudice": ("pride-and-prejudice", 8),
    "jules-verne_twenty-thousand-leagues-under-the-seas_f-p-walter": ("twenty-thousand-leagues", 6),
    "charles-darwin_the-origin-of-species": ("the-origin-of-species", 4),
    "victor-hugo_les-miserables_isabel-f-hapgood": ("les-miserables", 14),
    "miguel-de-cervantes-saavedra_don-quixote_john-ormsby": ("don-quixote", 8),
    "adam-smith_the-wealth-of-nations": ("the-wealth-of-nations", 5),
    "alexandre-dumas_the-count-of-monte-cristo_chapman-and-hall": ("the-count-of-monte-cristo", 5),
    "leo-tolstoy_anna-karenina_constance-garnett": ("anna-karenina", 8),
    "plato_dialogues_benjamin-jowett": ("plato", 3),
}


def books(data: Path) -> Iterator[Sample]:
    """The shortest chapters, of those that are there from their heading on, of some novels and treatises."""
    chapters: dict[str, list[str]] = {}
    for record in records(data / "pretrain/en-prose.jsonl.gz"):
        book = record["source"].removeprefix("standardebooks/")
        head = record["text"].split("\n\n")[0]
        if book in BOOKS and len(head) < 60 and head[-1] not in ".!?”:":
            chapters.setdefault(book, []).append(record["text"])
    for book, (name, count) in BOOKS.items():
        for text in sorted(sorted(chapters.get(book, []), key=len)[:count]):
            parts = text.split("\n\n")
            second = parts[1] if len(parts) > 1 and len(parts[1]) < 90 and parts[1][-1] not in ".!?”" else ""
            yield Sample(f"books/{name}/{slug(parts[0] + ' ' + second)}.txt", text)


def peps(data: Path) -> Iterator[Sample]:
    """Short Python enhancement proposals, the abstract put back in front."""
    yield from _proposals(data / "long-peps", "python-peps/pep-{}.rst", "Abstract\n========\n\n{}\n\n\n{}", 45)


def eips(data: Path) -> Iterator[Sample]:
    """Short Ethereum improvement proposals, under their one-line description."""
    yield from _proposals(data / "long-eips", "ethereum-eips/eip-{}.md", "# {}\n\n{}", 30)


def _proposals(folder: Path, name: str, layout: str, count: int) -> Iterator[Sample]:
    head = {record["_id"].removeprefix("q"): record["text"] for record in records(folder / "queries.jsonl.gz")}
    found = sorted(records(folder / "corpus.jsonl.gz"), key=lambda record: len(record["text"]))
    for record in [record for record in found if len(record["text"]) > 1500][:count]:
        text = layout.format(head[record["_id"]], record["text"])
        yield Sample(name.format(record["_id"]), text)


def fastapi(data: Path) -> Iterator[Sample]:
    """Short pages of FastAPI's manual."""
    pages = [r for r in records(data / "xling-fastapi-long/corpus.jsonl.gz") if r["_id"].startswith("en:")]
    for record in sorted(pages, key=lambda record: len(record["text"]))[:30]:
        name = record["_id"].removeprefix("en:").removesuffix(".md").replace("/", "-")
        yield Sample(f"fastapi-manual/{slug(name)}.md", record["text"])


def manuals(
    shard: str, source: str, into: str, languages: dict[str, int], suffix: str
) -> Callable[..., Iterator[Sample]]:
    """Pages of a manual that begin with a title, the shortest of more than 600 bytes first."""

    def take(data: Path) -> Iterator[Sample]:
        found: dict[str, list[str]] = {}
        for record in records(data / f"pretrain/{shard}.jsonl.gz"):
            text = record["text"]
            wanted = record["source"] == source and record["lang"] in languages and len(text.encode()) > 600
            if wanted and first_line(text) and (text.startswith("#") or suffix != ".md"):
                found.setdefault(record["lang"], []).append(text)
        for language, count in languages.items():
            for text in sorted(found.get(language, []), key=len)[:count]:
                folder = f"{into}/{language}" if len(languages) > 1 else into
                yield Sample(f"{folder}/{slug(first_line(text)) or 'page'}{suffix}", text)

    return take


CODE = (
    # shard, source, folder, language, how a whole file begins, how its subject is named, suffix, files, longest
    ("code", "lodash", "lodash", "javascript", r"(var|/\*\*|import)", r"module\.exports = (\w+)", ".js", 22, 6000),
    ("code", "ramda", "ramda", "javascript", r"(var|/\*\*)", r"module\.exports = (\w+)", ".js", 14, 6000),
    ("code", "go-src", "go", "go", r"// Copyright", r"^func (?:\([^)]*\) )?(\w+)", ".go", 22, 7000),
    ("code", "rust-src", "rust", "rust", r"(//!|use |#!\[)", r"^(?:pub )?(?:fn|struct|enum) (\w+)", ".rs", 18, 7000),
    ("code", "cpython-stdlib", "python", "python", r'("""|#|import |from )', r"^(?:class|def) (\w+)", ".py", 14, 9000),
    ("code", "toolz", "toolz", "python", r'("""|#|import |from )', r"^(?:class|def) (\w+)", ".py", 5, 9000),
)  # fmt: skip


def code(data: Path) -> Iterator[Sample]:
    """Source files that are there from their first line on, the shortest first."""
    for shard, source, folder, language, begins, subject, suffix, count, longest in CODE:
        found = [
            record["text"]
            for record in records(data / f"pretrain/{shard}.jsonl.gz")
            if record["source"] == source and record["lang"] == language and re.match(begins, record["text"])
        ]
        named = [(re.search(subject, text, re.MULTILINE), text) for text in sorted(found, key=len)]
        kept = [(match[1], text) for match, text in named if match and 1200 < len(text) <= longest]
        for name, text in kept[:count]:
            yield Sample(f"code/{folder}/{re.sub('^_+', '', name)}{suffix}", text)


SOURCES: tuple[Callable[[Path], Iterator[Sample]], ...] = (
    books,
    manuals("en-prose", "rust-book", "rust-book", {"en": 40}, ".md"),
    peps,
    eips,
    fastapi,
    manuals(
        "multilingual",
        "python-docs",
        "python-manual",
        {"es": 12, "fr": 12, "ja": 12, "ko": 12, "zh": 12, "pt-BR": 12},
        ".txt",
    ),
    manuals(
        "multilingual",
        "django-docs",
        "django-manual",
        {"it": 5, "pl": 5, "el": 2, "es": 4, "fr": 2, "pt-BR": 4, "zh": 1, "ko": 2},
        ".txt",
    ),
    manuals("multilingual-2", "apache2-doc", "apache-httpd-manual", {"de": 5, "ja": 6, "ko": 5, "fr": 6}, ".txt"),
    code,
)


def collect(data: Path) -> list[Sample]:
    """All samples, names that occur twice numbered."""
    taken: dict[str, int] = {}
    samples = []
    for sample in (sample for source in SOURCES for sample in source(data)):
        taken[sample.path] = number = taken.get(sample.path, 0) + 1
        stem, dot, suffix = sample.path.rpartition(".")
        path = sample.path if number == 1 else f"{stem}-{number}{dot}{suffix}"
        samples.append(Sample(path, sample.text.rstrip() + "\n"))
    return samples


def main() -> int:
    """Write the files and say what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that holds pretrain/, long-peps/ and the other data sets")
    data = parser.parse_args().data
    if not (data / "pretrain").is_dir():
        print(f"{data} holds no folder pretrain/; name the folder of the data sets", file=sys.stderr)
        return 2
    samples = collect(data)
    total = sum(len(sample.text.encode()) for sample in samples)
    if total > LIMIT_BYTES:
        print(f"{total:,} bytes are more than the {LIMIT_BYTES:,} that the repository should carry", file=sys.stderr)
        return 1
    for folder in sorted({sample.path.split("/")[0] for sample in samples}):
        shutil.rmtree(SAMPLES / folder, ignore_errors=True)
    counts: dict[str, int] = {}
    for sample in samples:
        path = SAMPLES / sample.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sample.text, encoding="utf-8", newline="")
        counts[sample.path.split("/")[0]] = counts.get(sample.path.split("/")[0], 0) + 1
    for folder, count in counts.items():
        print(f"{count:4}  {folder}")
    print(f"{len(samples):4}  files, {total:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
