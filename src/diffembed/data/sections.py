"""Questions for the sections of a document: what it is about and which part of it is asked for.

Specifications have sections of the same names ("Motivation", "Backwards compatibility", "Alternatives") in every
document, so "Motivation: add opcodes for transient storage" is answered by one section that often does not say what it
is about. Whoever reads the section alone cannot know; whoever reads the document can. Both halves of the question are
people's words: a query that is judged relevant for the document (or its title), and the heading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffembed.data.beir import RetrievalTask, Split, load_beir, split_of
from diffembed.data.examples import Grouped, Question
from diffembed.errors import InputError
from diffembed.text.sections import split_sections

_TOPIC_WORDS = 24
_LEAST = 3  # sections of a document that has context to speak of


def section_row(
    text: str, topics: Sequence[str], *, document_id: str = "", language: str = "", max_words: int = 250
) -> Grouped | None:
    """A document cut at its headings, with a question for every topic and every heading that stands once in it.

    Args:
        topics: what the document is about, in a sentence or so each; the first words of each are used.
        max_words: a longer section is several chunks, of which the first answers.

    Returns:
        ``None`` for a document of fewer than three sections, or without such headings.

    >>> body = " ".join(["word"] * 30)
    >>> row = section_row(f"# Why\\n\\n{body}\\n\\n# How\\n\\n{body}\\n\\n# Costs\\n\\n{body}", ["An owl house."])
    >>> [(q.query, q.chunk) for q in row.questions]
    [('Why: An owl house.', 0), ('How: An owl house.', 1), ('Costs: An owl house.', 2)]
    """
    sections = split_sections(text, max_words=max_words)
    times = Counter(section.heading.lower() for section in sections)
    short = [" ".join(topic.split()[:_TOPIC_WORDS]) for topic in topics]
    questions = [
        Question(f"{section.heading}: {topic}", number)
        for number, section in enumerate(sections)
        if section.heading and times[section.heading.lower()] == 1
        for topic in short
    ]
    if len(sections) < _LEAST or not questions:
        return None
    return Grouped(tuple(s.text for s in sections), tuple(questions), document_id=document_id, language=language)


def section_rows(folder: Path, *, side: Split = "all") -> dict[str, Grouped]:
    """By document id the rows of a BEIR folder of whole documents; the judged queries of each are its topics.

    Args:
        side: a document with a query of the train side is of that side, and only such queries are its topics; the
            others are of the dev side.

    Raises:
        InputError: the folder cannot be read, or its documents are chunks already.
    """
    task = load_beir(folder)
    if task.doc_ids is not None:
        raise InputError(f"{folder} has doc_id: its documents are chunks already; read it as groups")
    asked: dict[str, list[str]] = {}
    for query, judged in task.qrels.items():
        for document in judged:
            asked.setdefault(document, []).append(query)
    rows: dict[str, Grouped] = {}
    for number, (document, text) in enumerate(zip(task.document_ids, task.texts, strict=True)):
        queries = asked.get(document, [])
        if side != "all":
            train = [query for query in queries if split_of(query) == "train"]
            queries = train if side == "train" else [] if train else queries
        topics = [task.queries[query] for query in queries]
        language = task.document_langs[number] if task.document_langs else ""
        if row := section_row(text, topics, document_id=document, language=language):
            rows[document] = row
    return rows


def load_sections(folder: Path, split: Split = "all") -> RetrievalTask:
    """A retrieval task made from a BEIR folder of whole documents: questions about sections, the sections as corpus.

    Args:
        split: which documents (see ``section_rows``); a document's sections are on one side with it.

    Raises:
        InputError: see ``section_rows``; no document has sections; none of the split.
    """
    ids: list[str] = []
    texts: list[str] = []
    owners: list[str] = []
    places: list[int] = []
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for document, row in section_rows(folder, side=split).items():
        for place, text in enumerate(row.chunks):
            ids.append(f"{document}#{place}")
            texts.append(text)
            owners.append(document)
            places.append(place)
        for number, question in enumerate(row.questions):
            queries[f"{document}?{number}"] = question.query
            qrels[f"{document}?{number}"] = {f"{document}#{question.chunk}": 1}
    if not queries:
        raise InputError(
            f"{folder} has no document with sections{'' if split == 'all' else f' in split {split!r}'}; sections need "
            "headings (Markdown, reST), and judged queries that say what a document is about"
        )
    name = f"{Path(folder).resolve().name} sections"
    return RetrievalTask(name, tuple(ids), tuple(texts), queries, qrels, tuple(owners), tuple(places))
