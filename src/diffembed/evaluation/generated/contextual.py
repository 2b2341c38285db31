"""Documents whose chunks only make sense together, in several languages.

The first chunk of a document names what it is about; the others say "the company" or "she" and tell one thing each. A
question has the name and asks for one of these things, so the chunk that answers it does not hold the name, and other
documents of its kind have a chunk that says the same with other values. Whoever reads chunks alone can at best guess
among those; whoever has read the document knows. That is the case that contextual embedders are made for (ConTEB, arXiv
2505.24782), here with nothing else to go by.

All that a document says is drawn apart from its name: another name would have left every gold chunk as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffembed.data.beir import RetrievalTask, write_beir
from diffembed.errors import InputError
from diffembed.evaluation.generated.draws import Draws
from diffembed.evaluation.generated.stories import Language, Story, filled, languages, read_language

DOCUMENTS, QUESTIONS = 12, 3


@dataclass(frozen=True, slots=True)
class ContextualSet:
    """Documents cut into chunks, and questions whose answers are single chunks.

    Attributes:
        task: rows are chunks, with ``doc_ids`` and ``chunk_idx``.
        kinds: ``[rows]`` the kind of each chunk's document.
        parts: ``[rows]`` which part of the story the chunk tells; -1 for the opening.
        settings: what the texts depend on, as it stands in result files: ``languages``, ``documents`` of each kind in
            each language, ``questions`` about each, ``seed``.
    """

    task: RetrievalTask
    kinds: tuple[str, ...]
    parts: tuple[int, ...]
    settings: dict[str, Any]

    def prepended(self) -> RetrievalTask:
        """The same task where every chunk is read with its document's opening before it.

        That is a way to give context to any model, and what a model that reads chunks together can be compared with.
        """
        texts = list(self.task.texts)
        for opening, *others in self.task.documents():
            for row in others:
                texts[row] = f"{texts[opening]}\n{texts[row]}"
        return replace(self.task, texts=tuple(texts), doc_ids=None, chunk_idx=None)

    def write(self, folder: Path) -> Path:
        """The task as a folder in BEIR layout; rows and queries say their ``kind``, chunks their ``part``."""
        kind = dict(zip(self.task.document_ids, self.kinds, strict=True))
        asked = [kind[next(iter(judged))] for judged in self.task.qrels.values()]
        target = folder / self.task.name
        write_beir(target, self.task, documents={"kind": self.kinds, "part": self.parts}, queries={"kind": asked})
        return target

    def sha256(self) -> str:
        """Of every text and id."""
        digest = hashlib.sha256()
        for identifier, text in (
            *zip(self.task.document_ids, self.task.texts, strict=True),
            *self.task.queries.items(),
        ):
            digest.update(f"{identifier}\t{text}\n".encode())
        return digest.hexdigest()


@dataclass(slots=True)
class _Rows:
    """What has been made so far."""

    ids: list[str]
    texts: list[str]
    langs: list[str]
    owners: list[str]
    places: list[int]
    kinds: list[str]
    parts: list[int]
    queries: dict[str, str]
    query_langs: list[str]
    qrels: dict[str, dict[str, int]]


def contextual(
    wanted: Sequence[str] = (), *, documents: int = DOCUMENTS, questions: int = QUESTIONS, seed: int = 0
) -> ContextualSet:
    """Make the set.

    Args:
        wanted: languages; all there are unless given.
        documents: of each kind in each language, all of them with questions: each is a distractor of the others.
        questions: about each document, on different parts.
        seed: another one gives other names and values.

    Raises:
        InputError: a language without texts, more documents than there are names for, more questions than parts.

    >>> made = contextual(["en"], documents=2, questions=1)
    >>> len(made.task.texts), len(made.task.queries)
    (96, 16)
    >>> query, text = next(iter(made.task.queries.items()))
    >>> text
    'What was the person who leads the board of Lorshaw Ltd before?'
    >>> made.task.texts[made.task.document_ids.index(*made.task.qrels[query])][:66]
    'The board is led by a former judge, who came from outside and took'
    """
    codes = list(dict.fromkeys(wanted)) or languages()
    rows = _Rows([], [], [], [], [], [], [], {}, [], {})
    for code in codes:
        language = read_language(code)
        _check(language, documents, questions)
        names = iter(language.stems(Draws("contextual names", code, seed)))
        for story in language.stories:
            for number in range(documents):
                _add(rows, code, story, number, _name(story, next(names), code, number, seed), questions, seed)
    task = RetrievalTask(
        name="contextual",
        document_ids=tuple(rows.ids),
        texts=tuple(rows.texts),
        queries=rows.queries,
        qrels=rows.qrels,
        doc_ids=tuple(rows.owners),
        chunk_idx=tuple(rows.places),
        document_langs=tuple(rows.langs),
        query_langs=tuple(rows.query_langs),
    )
    settings = {"languages": codes, "documents": documents, "questions": questions, "seed": seed}
    return ContextualSet(task, tuple(rows.kinds), tuple(rows.parts), settings)


def _check(language: Language, documents: int, questions: int) -> None:
    names = len(language.starts) * len(language.ends) // len(language.stories)
    parts = min(len(story.parts) for story in language.stories)
    if not 2 <= documents <= names:
        raise InputError(f"{documents} documents of a kind are not possible in {language.code!r}; give 2 to {names}")
    if not 1 <= questions <= parts:
        raise InputError(f"{questions} questions about a document are not possible; give 1 to {parts}")


def _form(story: Story, code: str, seed: int) -> int:
    """Which of two forms is used: the same for all of a kind, or "she" would tell half of the persons apart."""
    return Draws("contextual form", code, story.kind, seed).below(2)


def _name(story: Story, stem: str, code: str, number: int, seed: int) -> str:
    draws = Draws("contextual name", code, story.kind, number, seed)
    first = draws.choice(story.first_names[_form(story, code, seed)]) if story.first_names else ""
    return filled(story.name, draws, 0).replace("{stem}", stem).replace("{first}", first)


def _add(rows: _Rows, code: str, story: Story, number: int, name: str, questions: int, seed: int) -> None:
    """One document with its questions. The parts stand in random order, so that none has its place."""
    form = _form(story, code, seed)
    draws = Draws("contextual values", code, story.kind, number, seed)
    owner = f"{code}-{story.kind}-{number}"
    order = draws.shuffled(range(len(story.parts)))
    asked = set(draws.shuffled(range(len(story.parts)))[:questions])
    texts = [filled(story.opening, draws, form, name), *(filled(story.parts[part][0], draws, form) for part in order)]
    for place, (part, text) in enumerate(zip([-1, *order], texts, strict=True)):
        rows.ids.append(f"{owner}#{place}")
        rows.texts.append(text)
        rows.langs.append(code)
        rows.owners.append(owner)
        rows.places.append(place)
        rows.kinds.append(story.kind)
        rows.parts.append(part)
        if part in asked:
            query = f"{owner}?{part}"
            rows.queries[query] = filled(story.parts[part][1], draws, form, name)
            rows.query_langs.append(code)
            rows.qrels[query] = {f"{owner}#{place}": 1}
