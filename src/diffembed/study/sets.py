"""The sets of a study, cut to a size at which dozens of models can be scored: seeded samples, the same for every model.

A smaller corpus is an easier one, so the figures are for comparing the study's models with each other, not with those
of whole sets.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffembed.data.beir import RetrievalTask, load_beir
from diffembed.data.sections import load_sections
from diffembed.errors import InputError
from diffembed.study.recipe import SetConfig


def load_set(config: SetConfig, data_root: Path, seed: int) -> RetrievalTask:
    """A set as it is measured.

    Args:
        seed: of the samples.

    Raises:
        InputError: unusable data; nothing is left of it; a contextual set whose rows are no chunks of documents.
    """
    folder = data_root / config.path
    task = load_sections(folder, config.split) if config.sections else load_beir(folder, config.split)
    task = replace(task, name=f"{config.path} sections" if config.sections else config.path)
    if config.family == "contextual" and task.doc_ids is None:
        raise InputError(f"{folder} has no doc_id: its documents are no chunks that could be read together")
    rng = np.random.default_rng((seed, zlib.crc32(task.name.encode())))
    return sampled(task, config.queries, config.documents, rng)


def sampled(task: RetrievalTask, queries: int, documents: int, rng: np.random.Generator) -> RetrievalTask:
    """A task with fewer queries and documents; all that answers a query stays with it.

    Args:
        queries: at most so many; 0: all.
        documents: at most so many; 0: all. Of plain documents, queries are drawn as long as what answers them fits, and
            others fill up. Of chunks, whole documents are drawn as long as they fit, then queries that they answer.

    Raises:
        InputError: not a single query and what answers it fit.
    """
    ids = list(task.queries)
    order = [ids[i] for i in rng.permutation(len(ids))]
    rows = {identifier: row for row, identifier in enumerate(task.document_ids)}
    room = documents or len(rows)
    if task.doc_ids is None:
        asked, kept = _fitting(order, task, queries or len(ids), room)
        others = [identifier for identifier in task.document_ids if identifier not in kept]
        filling = rng.permutation(len(others))[: room - len(kept)]
        kept |= {others[i] for i in filling}
    else:
        kept = _whole_documents(task, room, rng)
        asked = [query for query in order if set(task.qrels[query]) <= kept][: queries or len(ids)]
    if not asked:
        raise InputError(
            f"{task.name}: no query and all that answers it fit into {documents} documents; allow more of them"
        )
    return _restricted(task, asked, sorted(rows[identifier] for identifier in kept))


def _fitting(order: Sequence[str], task: RetrievalTask, queries: int, room: int) -> tuple[list[str], set[str]]:
    """Queries in their order whose answers fit, and these answers."""
    asked: list[str] = []
    kept: set[str] = set()
    for query in order:
        together = kept | set(task.qrels[query])
        if len(together) <= room and len(asked) < queries:
            asked.append(query)
            kept = together
    return asked, kept


def _whole_documents(task: RetrievalTask, room: int, rng: np.random.Generator) -> set[str]:
    groups = task.documents()
    kept: set[str] = set()
    for i in rng.permutation(len(groups)).tolist():
        if len(kept) + len(groups[i]) <= room:
            kept |= {task.document_ids[row] for row in groups[i]}
    return kept


def _restricted(task: RetrievalTask, queries: Sequence[str], rows: Sequence[int]) -> RetrievalTask:
    """The task of some queries, in the task's own order, over some rows."""
    wanted = set(queries)
    numbers = [number for number, query in enumerate(task.queries) if query in wanted]
    names = [query for query in task.queries if query in wanted]
    left = {task.document_ids[row] for row in rows}
    return replace(
        task,
        document_ids=tuple(task.document_ids[row] for row in rows),
        texts=tuple(task.texts[row] for row in rows),
        queries={query: task.queries[query] for query in names},
        qrels={query: task.qrels[query] for query in names},
        doc_ids=None if task.doc_ids is None else tuple(task.doc_ids[row] for row in rows),
        chunk_idx=None if task.chunk_idx is None else tuple(task.chunk_idx[row] for row in rows),
        excluded={query: kept for query in names if (kept := task.excluded.get(query, frozenset()) & left)},
        document_langs=tuple(task.document_langs[row] for row in rows) if task.document_langs else (),
        query_langs=tuple(task.query_langs[number] for number in numbers) if task.query_langs else (),
    )
