"""General sets beside an adaptation: read along against forgetting, and measured on questions that nobody read.

What a model was trained on it remembers when it has forgotten the rest, so the train side of the hash rule, which the
starting model may know as well, measures nothing. The other questions are halved by a second hash: one half chooses
the share of the merge, the other is reported.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffembed.data.beir import RetrievalTask, load_beir, split_of
from diffembed.errors import InputError

_FEWEST = 2  # questions have a standard error
_MOST = 300  # questions of a set to choose by
_SPLIT_FROM = 400  # questions that a set must have for its sides to be told apart, where nothing of it is read


def named(folders: Sequence[Path], taken: Sequence[str]) -> dict[str, Path]:
    """Folders by a name that is no other's."""
    times = Counter([*taken, *(folder.name for folder in folders)])
    return {folder.name if times[folder.name] == 1 else str(folder): folder for folder in folders}


def halves(folder: Path, *, read: bool) -> tuple[RetrievalTask, RetrievalTask]:
    """The questions to choose by and those to report, by a hash of their ids.

    Both of the dev side, or of all questions of a small set of which nothing is read.

    Raises:
        InputError: one of the halves has a single question, or none.
    """
    whole = load_beir(folder)
    small = not read and len(whole.queries) < _SPLIT_FROM
    unread = [query for query in whole.queries if small or split_of(query) == "dev"]
    sides = [[q for q in unread if zlib.crc32(q.encode("utf-8")) // 10 % 2 == side] for side in range(2)]
    if min(map(len, sides)) < _FEWEST:
        raise InputError(
            f"{folder} has {len(unread)} judged queries that nothing is trained on, too few to choose by some and to "
            "report others (of a set that is read along those are one in ten, by the hash of their ids); name another "
            "set with --general-eval"
        )
    choice, reported = (
        replace(whole, queries={q: whole.queries[q] for q in side}, qrels={q: whole.qrels[q] for q in side})
        for side in (sides[0][:_MOST], sides[1])
    )
    return choice, reported
