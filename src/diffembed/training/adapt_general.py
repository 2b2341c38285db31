"""General sets beside an adaptation: read along against forgetting, and measured on questions that are not read.

A set has three parts: the dev side of the hash rule, which is reported; some questions of the train side, which the
share of the merge is chosen by; and the rest, which is read along. What was read tells nothing of what is forgotten.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffembed.data.beir import RetrievalTask, load_beir, split_of
from diffembed.errors import InputError

_CHOICE_QUERIES = 300  # of a set, to choose a share by
_CHOICE_PART = 3  # at most one in so many queries of the train side
_SPLIT_FROM = 400  # queries that a set must have for its sides to be told apart, where nothing of it is read


def named(folders: Sequence[Path], taken: Sequence[str]) -> dict[str, Path]:
    """Folders by a name that is no other's."""
    times = Counter([*taken, *(folder.name for folder in folders)])
    return {folder.name if times[folder.name] == 1 else str(folder): folder for folder in folders}


def reported(folder: Path, *, read: bool) -> RetrievalTask:
    """The queries that are reported: the dev side; all of a small set of which nothing is read."""
    whole = load_beir(folder)
    if not read and len(whole.queries) < _SPLIT_FROM:
        return whole
    if not any(split_of(query) == "dev" for query in whole.queries):
        raise InputError(
            f"{folder} is read along and has no judged query on the dev side (one in ten, by the hash of its id), so "
            "what is forgotten of it cannot be measured; name a set for that with --general-eval"
        )
    return load_beir(folder, "dev")


def chosen_by(folder: Path, *, read: bool) -> RetrievalTask:
    """The queries that the share is chosen by: some of the train side; all of a small set of which nothing is read."""
    whole = load_beir(folder)
    if not read and len(whole.queries) < _SPLIT_FROM:
        return whole
    side = load_beir(folder, "train")
    most = min(_CHOICE_QUERIES, len(side.queries) // _CHOICE_PART if read else len(side.queries))
    names = list(side.queries)[:: max(1, len(side.queries) // max(1, most))][: max(1, most)]
    return replace(side, queries={n: side.queries[n] for n in names}, qrels={n: side.qrels[n] for n in names})


def without(folder: Path, left_out: RetrievalTask, into: Path) -> Path:
    """A copy of a BEIR folder in which the queries of ``left_out`` are not judged, so that no source reads them."""
    whole = load_beir(folder)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and file.name != "qrels.tsv":
            try:
                (into / file.name).symlink_to(file.resolve())
            except OSError:  # no links on this file system
                shutil.copyfile(file, into / file.name)
    rows = [
        f"{query}\t{document}\t{gain:g}\n"
        for query, judged in whole.qrels.items()
        if query not in left_out.queries
        for document, gain in judged.items()
    ]
    (into / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8")
    return into
