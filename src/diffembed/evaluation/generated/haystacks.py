"""What passkey and needle have in common: long documents with one statement each that is asked for.

For every length there are 100 documents and 50 questions, as in LongEmbed (arXiv 2404.12096); a question is answered by
a statement that stands somewhere in one of the documents. Where it stands is drawn uniformly over the document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffembed.data.beir import RetrievalTask, write_beir
from diffembed.errors import InputError

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # nominal tokens
DOCUMENTS, QUERIES = 100, 50  # of each length

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Haystack:
    """The documents and questions of one length.

    Attributes:
        kind: ``passkey`` or ``needle``.
        tokens: the nominal length; what a tokenizer makes of the documents is its own affair.
        task: the first ``QUERIES`` documents are the answers to the questions, in order.
        statements: ``[documents]`` where the statement stands in each text: first character, and that after the last.
        fields: ``[queries]`` what the question is about (``geography``); empty strings where all are of one kind.
    """

    kind: str
    tokens: int
    task: RetrievalTask
    statements: tuple[Span, ...]
    fields: tuple[str, ...]

    def depth(self, number: int) -> float:
        """How deep the statement stands in document ``number``: 0 at its beginning, 1 at its end."""
        start, end = self.statements[number]
        return start / max(1, len(self.task.texts[number]) - (end - start))

    def write(self, folder: Path) -> Path:
        """A folder in BEIR layout below ``folder``; its rows say more than is needed to score: where the keys stand."""
        about = {"context_length": [self.tokens] * len(self.task.texts)}
        about |= {"key_start": [start for start, _ in self.statements], "key_end": [end for _, end in self.statements]}
        target = folder / self.task.name
        write_beir(target, self.task, documents=about)
        return target

    def sha256(self) -> str:
        """Of every text and id: what tells whether two haystacks are the same."""
        digest = hashlib.sha256()
        for identifier, text in (
            *zip(self.task.document_ids, self.task.texts, strict=True),
            *self.task.queries.items(),
        ):
            digest.update(f"{identifier}\t{text}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Haystacks:
    """All lengths of one kind, each made when it is needed: the longest hold many millions of characters.

    Attributes:
        kind: ``passkey`` or ``needle``.
        lengths: ascending.
        make: of a length.
        settings: what the texts depend on, as it stands in result files; ``data`` says more of them.
    """

    kind: str
    lengths: tuple[int, ...]
    make: Callable[[int], Haystack] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> list[Path]:
        """A folder in BEIR layout for each length, ``KIND-LENGTH`` below ``folder``."""
        return [self.make(tokens).write(folder) for tokens in self.lengths]


def build(
    kind: str,
    tokens: int,
    texts: Sequence[str],
    statements: Sequence[Span],
    questions: Sequence[str],
    fields: Sequence[str],
) -> Haystack:
    """A haystack of its documents; question ``i`` is answered by document ``i``.

    Ids are those of LongEmbed: ``ctx256_doc10`` and ``ctx256_query10``.
    """
    documents = tuple(f"ctx{tokens}_doc{number}" for number in range(len(texts)))
    queries = {f"ctx{tokens}_query{number}": text for number, text in enumerate(questions)}
    task = RetrievalTask(
        name=f"{kind}-{tokens}",
        document_ids=documents,
        texts=tuple(texts),
        queries=queries,
        qrels={query: {documents[number]: 1} for number, query in enumerate(queries)},
        document_langs=("en",) * len(documents),
        query_langs=("en",) * len(queries),
    )
    return Haystack(kind, tokens, task, tuple(statements), tuple(fields))


def check_lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    """Lengths in order, each once. Raises ``InputError`` for one that is not among ``LENGTHS``, or none at all."""
    unknown = sorted(set(lengths) - set(LENGTHS))
    if unknown or not lengths:
        known = ", ".join(map(str, LENGTHS))
        raise InputError(f"length {unknown[0] if unknown else '(none)'} is not one of the published ones; give {known}")
    return tuple(sorted(set(lengths)))


def insert(pieces: Sequence[str], statement: str, depth: float, joint: str = " ") -> tuple[str, Span]:
    """The pieces joined, with the statement between two of them, and where it stands.

    Args:
        depth: 0..1; the statement comes to stand at the border that is nearest to this share of the pieces' characters.

    >>> insert(["One.", "Two two two.", "Three."], "Here!", 0.7)
    ('One. Two two two. Here! Three.', (18, 23))
    >>> insert(["One.", "Two two two.", "Three."], "Here!", 0.1)[0]
    'Here! One. Two two two. Three.'
    """
    borders = [0]
    for piece in pieces:
        borders.append(borders[-1] + len(piece) + len(joint))
    wanted = depth * borders[-1]
    at = min(range(len(borders)), key=lambda number: abs(borders[number] - wanted))
    before, after = joint.join(pieces[:at]), joint.join(pieces[at:])
    start = len(before) + len(joint) * bool(before)
    return joint.join(part for part in (before, statement, after) if part), (start, start + len(statement))
