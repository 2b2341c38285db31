"""Sources: what a training stage reads, as functions of the step number.

A source holds its texts in memory and answers "which texts does draw n use?" from its seed alone. There is no cursor to
save: a run that was killed asks for the same step again and gets the same batch, and the order never depends on how
often it was stopped.
"""

from __future__ import annotations

import glob
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from diffembed.data.beir import load_beir
from diffembed.data.jsonl import jsonl_file, read_objects
from diffembed.errors import InputError

HELD_OUT_SHARE = 50  # one text in fifty is kept for measuring language-model loss


def expand(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Paths that match glob patterns under ``root``, sorted; a pattern that matches nothing is an error."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(str(root / pattern), recursive=True))
        if not matches:
            raise InputError(f"nothing matches '{pattern}' under {root}; correct the recipe's data_root or the source")
        found.update(dict.fromkeys(Path(m) for m in matches))
    return list(found)


def held_out(text: str) -> bool:
    """Whether a text belongs to the held-out part of a language-model corpus (by its own bytes, so never by order)."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) % HELD_OUT_SHARE == 0


def read_texts(root: Path, patterns: Sequence[str]) -> list[str]:
    """The ``text`` of every line of the JSONL files, and of the corpora of the BEIR folders, that match."""
    return [text for path in expand(root, patterns) for text in _texts_of(path)]


@lru_cache(maxsize=256)  # the stages of a recipe read the same files
def _texts_of(path: Path) -> tuple[str, ...]:
    file = jsonl_file(path, "corpus") if path.is_dir() else path
    texts = []
    for where, row in read_objects(file):
        if not isinstance(row.get("text"), str):
            raise InputError(f"{where}: 'text' was expected in every line; found keys {sorted(row)}")
        text = f"{row['title']}\n{row['text']}" if row.get("title") else row["text"]
        if text.strip():
            texts.append(text)
    return tuple(texts)


def draw(size: int, start: int, count: int, seed: int) -> np.ndarray:
    """Item numbers of draws ``start ... start + count - 1``: epoch after epoch, each a fresh permutation.

    >>> draw(5, 0, 5, seed=1).tolist(), sorted(draw(5, 5, 5, seed=1).tolist())
    ([4, 0, 1, 2, 3], [0, 1, 2, 3, 4])
    >>> draw(5, 3, 4, seed=1).tolist() == [*draw(5, 3, 2, seed=1), *draw(5, 5, 2, seed=1)]
    True
    """
    out = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        epoch, offset = divmod(start + done, size)
        order = np.random.default_rng((seed, epoch)).permutation(size)
        part = order[offset : offset + count - done]
        out[done : done + len(part)] = part
        done += len(part)
    return out


@dataclass(frozen=True, slots=True)
class PairSource:
    """Judged pairs of one or more BEIR folders, train split only.

    ``document_ids`` number the documents, so that a batch that draws one twice does not use it as its own negative.
    """

    name: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    document_ids: tuple[int, ...]
    seed: int

    @classmethod
    def read(cls, name: str, root: Path, patterns: Sequence[str], seed: int) -> PairSource:
        """Every relevant pair whose query is on the train side of the hash rule."""
        queries: list[str] = []
        documents: list[str] = []
        numbers: list[int] = []
        offset = 0
        for folder in expand(root, patterns):
            task = load_beir(folder, "train")
            row_of = {key: row for row, key in enumerate(task.document_ids)}
            for query_id, judged in task.qrels.items():
                for document_id in judged:
                    text = task.texts[row_of[document_id]]
                    if text.strip() and task.queries[query_id].strip():
                        queries.append(task.queries[query_id])
                        documents.append(text)
                        numbers.append(offset + row_of[document_id])
            offset += len(task.document_ids)
        return cls(name, tuple(queries), tuple(documents), tuple(numbers), seed)

    def __len__(self) -> int:
        return len(self.queries)

    def rows(self, start: int, count: int) -> list[tuple[str, str, int]]:
        """(query, document, document number) of ``count`` draws."""
        return [
            (self.queries[i], self.documents[i], self.document_ids[i]) for i in draw(len(self), start, count, self.seed)
        ]


@dataclass(frozen=True, slots=True)
class TextSource:
    """Raw texts, for language modelling and for pairs cut out of one text."""

    name: str
    texts: tuple[str, ...]
    seed: int

    @classmethod
    def read(cls, name: str, root: Path, patterns: Sequence[str], seed: int) -> TextSource:
        """Training part of the texts that match (see ``held_out``)."""
        texts = tuple(t for t in read_texts(root, patterns) if not held_out(t))
        if not texts:
            raise InputError(f"source '{name}' has no text under {root} for {list(patterns)}; correct the recipe")
        return cls(name, texts, seed)

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, start: int, count: int) -> list[str]:
        """The texts of ``count`` draws."""
        return [self.texts[i] for i in draw(len(self), start, count, self.seed)]


def schedule(weights: Sequence[float], steps: int, seed: int) -> np.ndarray:
    """Which source feeds each step: ``[steps]`` numbers drawn by weight, the same whenever it is asked.

    >>> schedule([1.0, 3.0], 8, seed=0).tolist()
    [1, 0, 1, 1, 0, 1, 1, 1]
    """
    shares = np.asarray(weights, dtype=np.float64)
    return np.random.default_rng((seed, 0x5EED)).choice(len(shares), size=steps, p=shares / shares.sum())
