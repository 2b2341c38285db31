r"""Full-text search over the chunks: BM25 by SQLite's FTS5, with words told apart by the script they are written in.

Two things happen to a text, the same for chunks and queries:

- ``form`` (here): runs of some scripts become overlapping pieces of so many characters, the ends of a run shorter ones.
  Pairs of Chinese, Japanese and Korean (whose particles stick to words); threes of Thai, Lao, Khmer and Burmese, which
  set no blanks between words either, and of Arabic script, where articles and endings stick to them.
  ``benchmarks/hybrid.py`` compares this with words and with threes everywhere.
- FTS5's tokenizer ``porter unicode61`` then splits at everything but letters, digits and marks, lowers case, drops the
  accents of Latin letters, and takes English endings off. The endings are rules about ASCII letters, so other scripts
  never meet them; in other languages of the Latin script they cost less than they bring (docs/index.md has figures).

The ranges of ``form`` and the tables of ``unicode61`` are fixed, so that a chunk can be taken out of the index by any
later Python just as it was put in: the index keeps no text of its own.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from functools import lru_cache

import numpy as np
import numpy.typing as npt

TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* Co M*'"
SCHEMA = f"""
CREATE VIEW lexical_content AS SELECT id, lexical_form(text) AS form FROM chunks;
CREATE VIRTUAL TABLE lexical USING fts5(
    form, content='lexical_content', content_rowid='id', tokenize="{TOKENIZER}");
CREATE VIRTUAL TABLE lexical_terms USING fts5vocab('lexical', 'row');
"""

_LISTED_IDS = 10_000
_PIECES = {
    2: "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    "\u1100-\u11ff\uac00-\ud7af",  # Korean
    3: "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u0620-\u064a\u066e-\u06d3\u0750-\u077f",  # Arabic
}
_RUNS = re.compile("|".join(f"(?P<of_{size}>[{letters}]+)" for size, letters in _PIECES.items()))
MAX_TERMS = 64
"""Of a longer query the rarest words are looked for."""
MAX_VISITS = 200_000
"""Rows that a search looks at, counted word by word: of words that together stand in more, the commonest are left out,
never the rarest."""


def form(text: str) -> str:
    """A text as the tokenizer gets it: runs of some scripts as overlapping pieces.

    >>> form("雪の下 owls ไทย")
    ' 雪の の下 下  owls  ไทย ทย ย '
    """
    return _RUNS.sub(lambda run: f" {' '.join(_pieces(run, whole=False))} ", text)


def _pieces(run: re.Match[str], *, whole: bool) -> list[str]:
    """The pieces of a run; ``whole``: without the shorter ones at its end, unless there is nothing else."""
    text, size = run[0], _size(run)
    return [text[i : i + size] for i in range(max(1, len(text) - size + 1) if whole else len(text))]


def _size(run: re.Match[str]) -> int:
    return int(str(run.lastgroup).removeprefix("of_"))


def add(db: sqlite3.Connection, first: int, count: int) -> None:
    """Enter chunks that the table ``chunks`` has just got."""
    db.execute(
        "INSERT INTO lexical (rowid, form) SELECT id, form FROM lexical_content WHERE id >= ? AND id < ?",
        (first, first + count),
    )


def remove(db: sqlite3.Connection, first: int, count: int) -> None:
    """Take out chunks that are about to leave the table ``chunks``."""
    db.execute(
        "INSERT INTO lexical (lexical, rowid, form) "
        "SELECT 'delete', id, form FROM lexical_content WHERE id >= ? AND id < ?",
        (first, first + count),
    )


def tidy(db: sqlite3.Connection) -> None:
    """Join the parts of the full-text index, so that searches are faster; inside a transaction."""
    db.execute("INSERT INTO lexical (lexical) VALUES ('optimize')")


def check(db: sqlite3.Connection) -> None:
    """Compare the full-text index with the chunks.

    Raises:
        sqlite3.DatabaseError: they do not belong together.
    """
    # rank 1: with the contents of the table, which older versions of SQLite compare in any case
    db.execute("INSERT INTO lexical (lexical, rank) VALUES ('integrity-check', 1)")


def search(
    db: sqlite3.Connection, query: str, top: int, within: npt.NDArray[np.int64] | None = None
) -> list[tuple[int, float]]:
    """The chunks that share words with a query, best BM25 first (k1 = 1.2, b = 0.75), equal scores by id.

    Args:
        db: of the catalog.
        query: plain text; nothing in it has a special meaning.
        top: how many at most.
        within: ascending ids of the chunks that may be found; ``None`` for all.

    Returns:
        ``(chunk id, score)``, the score above 0.
    """
    words = _worthwhile(db, terms(query))
    if not words or (within is not None and not len(within)):
        return []
    match = " OR ".join(f'"{word}"*' if _is_short(word) else f'"{word}"' for word in words)
    # "+" keeps SQLite from asking FTS5 for one row after the other.
    few = within is not None and len(within) <= _LISTED_IDS
    only = "AND +rowid IN (SELECT value FROM json_each(?))" if few else ""
    values = [json.dumps(within.tolist())] if within is not None and few else []
    limit = "" if within is not None and not few else f"LIMIT {int(top)}"
    rows = db.execute(
        f"SELECT rowid, rank FROM lexical WHERE lexical MATCH ? {only} ORDER BY rank, rowid {limit}", (match, *values)
    )
    found: list[tuple[int, float]] = []
    while len(found) < top and (block := rows.fetchmany(1000)):
        if within is not None and not few:
            ids = np.array([row[0] for row in block], np.int64)
            places = np.minimum(np.searchsorted(within, ids), len(within) - 1)
            block = [row for row, there in zip(block, within[places] == ids, strict=True) if there]
        found += [(int(id_), -float(rank)) for id_, rank in block]
    rows.close()
    return found[:top]


def _is_short(word: str) -> bool:
    # Less than a piece: it stands at the head of pieces, or at the end of a run.
    run = _RUNS.fullmatch(word)
    return run is not None and len(word) < _size(run)


_tokenizing = threading.Lock()


@lru_cache(maxsize=1)
def _tokenizer() -> sqlite3.Connection:
    """FTS5's tokenizer, with the endings (``stems``) and without (``words``), in a database of its own."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for table, tokenizer in (("stems", TOKENIZER), ("words", TOKENIZER.removeprefix("porter "))):
        db.execute(f"CREATE VIRTUAL TABLE {table} USING fts5(form, content='', tokenize=\"{tokenizer}\")")
        db.execute(f"CREATE VIRTUAL TABLE {table}_terms USING fts5vocab('{table}', 'instance')")
    return db


def terms(text: str) -> dict[str, str]:
    """The words of a query, in order, each once: what the index holds of it, and the word itself.

    >>> terms("Hearing the Häuser"), terms("雪の下"), terms("雪")
    ({'hear': 'hearing', 'the': 'the', 'hauser': 'hauser'}, {'雪の': '雪の', 'の下': 'の下'}, {'雪': '雪'})
    """
    # The short pieces at the end of a run say nothing that its last whole one does not say.
    shaped = _RUNS.sub(lambda run: f" {' '.join(_pieces(run, whole=True))} ", text)
    found: list[list[str]] = []
    with _tokenizing:
        db = _tokenizer()
        for table in ("stems", "words"):
            db.execute(f"INSERT INTO {table} ({table}) VALUES ('delete-all')")
            db.execute(f"INSERT INTO {table} (rowid, form) VALUES (1, ?)", (shaped,))
            found.append([row[0] for row in db.execute(f"SELECT term FROM {table}_terms ORDER BY offset")])
    return dict(zip(*found, strict=True))


def _worthwhile(db: sqlite3.Connection, words: dict[str, str]) -> list[str]:
    """Of many or common words the rarest; those in over half of all chunks, which weigh nothing, only if all are."""
    [(chunks,)] = db.execute("SELECT rows FROM state")
    counted = []
    for stem, word in words.items():
        row = db.execute("SELECT doc FROM lexical_terms WHERE term = ?", (stem,)).fetchone()
        if row is not None or _is_short(word):
            counted.append((int(row[0]) if row else 0, word))
    counted = sorted(pair for pair in counted if 2 * pair[0] <= chunks) or sorted(counted)
    kept: list[str] = []
    visits = 0
    for count, word in counted[:MAX_TERMS]:
        visits += count
        if kept and visits > MAX_VISITS:
            break
        kept.append(word)
    return kept
