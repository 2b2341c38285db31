"""Question answering over what a model finds: passages, a prompt, an answer from any server, and how good it is.

What is measured is the retrieval, through the eyes of one fixed reader: how often the answer is right (BERGEN's
``match``), and whether the answer, or the known evidence, stood among the passages at all. Without a server the latter
alone is measured.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffembed.errors import InputError
from diffembed.evaluation.answers import answer_key, open_answers
from diffembed.evaluation.bergen import Question, Questions, answer_scores, passage_scores
from diffembed.evaluation.passages import Found, Passage, PassageSource
from diffembed.evaluation.results import Result, ResultFolder, Scores, plain_name
from diffembed.synthesis.client import Client, Message, Reply, Sampling

Progress = Callable[[int, int], None] | None

BENCHMARK = "RAG"
CUTS = (1, 5, 10, 20)
_PLACES = re.compile(r"\{(passages|question)\}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the reader is told.

    Attributes:
        system: the first message; left out where it is empty.
        user: the second; ``{passages}`` and ``{question}`` stand for what is put in.
    """

    system: str = (
        "You answer questions from the passages that come with them. Reply with the answer alone, in as few words as "
        "it takes."
    )
    user: str = "{passages}\n\nQuestion: {question}\nAnswer:"

    def __post_init__(self) -> None:
        if "{question}" not in self.user:
            raise InputError("the user's part of the prompt has no {question}; say where the question goes")

    def messages(self, question: str, passages: Sequence[Passage]) -> list[Message]:
        """The conversation up to the answer.

        >>> prompt = Prompt(system="", user="{passages}\\n{question}")
        >>> prompt.messages("Who?", [Passage("a", "a", "Ann {question}"), Passage("b", "b", "Bob")])
        [{'role': 'user', 'content': 'Passage 1:\\nAnn {question}\\n\\nPassage 2:\\nBob\\nWho?'}]
        """
        shown = "\n\n".join(f"Passage {number}:\n{passage.text}" for number, passage in enumerate(passages, start=1))
        parts = {"passages": shown, "question": question}
        user = {"role": "user", "content": _PLACES.sub(lambda place: parts[place.group(1)], self.user)}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]

    @property
    def mark(self) -> str:
        """Eight digits that tell prompts apart in result files."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Reader:
    """Who answers: a server's model, how it is asked, and how many questions at once."""

    client: Client
    sampling: Sampling = field(default_factory=Sampling)
    prompt: Prompt = field(default_factory=Prompt)
    at_once: int = 8

    @property
    def settings(self) -> dict[str, Any]:
        """As they stand in result files; the server's address and the key do not."""
        return {"llm": self.client.model, "prompt": self.prompt.mark, **self.sampling.to_dict()}


def evaluate_rag(
    questions: Questions,
    passages: PassageSource,
    reader: Reader | None,
    *,
    top: int = 5,
    into: ResultFolder | None = None,
    command: str = "",
    progress: Progress = None,
    answering: Progress = None,
) -> tuple[Result, bool]:
    """The result, and whether it was there already.

    Answers are kept in ``into/answers``, one line each as soon as they are there: a run that was stopped, or one with
    another model that finds the same passages, does not ask for them again.

    Args:
        questions: what is asked.
        passages: where the passages come from, and the model that finds them.
        reader: who answers; ``None`` measures the passages alone.
        top: how many passages the reader is shown, best first.
        into: where results and answers are kept.
        command: what was called, for the result's environment.
        progress: called with (passages encoded, passages).
        answering: called with (questions answered, questions).

    Raises:
        ServerError: the server does not answer; the answers it gave are kept.
    """
    if top < 1:
        raise InputError(f"{top} passages; the reader needs at least 1")
    ranker = passages.ranker
    settings = passages.settings | {"top": top, "passages": passages.name} | (reader.settings if reader else {})
    data = {"source": questions.name, "sha256": questions.sha256, "passages_sha256": passages.sha256}
    kept = into.find(BENCHMARK, questions.name, ranker.model, ranker.revision, settings) if into is not None else None
    if kept is not None and kept.data == data:
        return kept, True
    cuts = sorted({*CUTS, top})
    found = passages.find(questions.rows, max(cuts), progress)
    if passages.sha256 is None:
        data["passages_sha256"] = found.sha256
        if kept is not None and kept.data == data:
            return kept, True
    scored = {question.id: _passage_scores(question, found, cuts) for question in questions.rows}
    replies: dict[str, Reply] = {}
    if reader is not None:
        file = into.path / "answers" / f"{plain_name(reader.client.model)}.jsonl" if into is not None else None
        replies = ask(questions.rows, found, reader, top, file, answering)
        scored = {q.id: answer_scores(replies[q.id].text, q) | scored[q.id] for q in questions.rows}
    result = Result(
        benchmark=BENCHMARK,
        task=questions.name,
        model=ranker.model,
        revision=ranker.revision,
        main="match" if reader is not None else f"answer_recall@{top}",
        scores=_means(scored),
        settings=settings,
        by_query=scored,
        counts=found.counts | _counts(questions, replies),
        cost=found.cost,
        data=data,
        notes=_notes(questions, found, replies),
    )
    if into is not None:
        into.write(result, command)
    return result, False


def ask(
    questions: Sequence[Question], found: Found, reader: Reader, top: int, file: Path | None, progress: Progress = None
) -> dict[str, Reply]:
    """The reader's answer to every question, from ``file`` as far as it has them.

    Raises:
        ServerError: one could not be had; those that came before are kept.
    """
    prompts = {q.id: reader.prompt.messages(q.text, found.passages[q.id][:top]) for q in questions}
    if file is None:
        return _ask(prompts, reader, {}, lambda name, reply: None, progress)
    with open_answers(file) as answers:
        keys = {name: answer_key(reader.client.model, prompt, reader.sampling) for name, prompt in prompts.items()}
        texts = {question.id: question.text for question in questions}
        kept = {name: reply for name, key in keys.items() if (reply := answers.get(key)) is not None}

        def keep(name: str, reply: Reply) -> None:
            answers.add(keys[name], reply, question=texts[name])

        return _ask(prompts, reader, kept, keep, progress)


def _ask(
    prompts: Mapping[str, Sequence[Message]],
    reader: Reader,
    kept: dict[str, Reply],
    keep: Callable[[str, Reply], None],
    progress: Progress,
) -> dict[str, Reply]:
    missing = ((name, prompt) for name, prompt in prompts.items() if name not in kept)
    replies = dict(kept)
    for name, reply in reader.client.complete_all(missing, reader.sampling, at_once=reader.at_once):
        keep(name, reply)
        replies[name] = reply
        if progress is not None:
            progress(len(replies), len(prompts))
    return replies


def _passage_scores(question: Question, found: Found, cuts: Sequence[int]) -> Scores:
    rows = [(passage.id, passage.document, passage.text) for passage in found.passages[question.id]]
    return passage_scores(rows, question, cuts)


def _means(scored: Mapping[str, Scores]) -> Scores:
    """Each measure's mean over the questions that have it: those without known evidence have none of evidence."""
    names = dict.fromkeys(name for scores in scored.values() for name in scores)
    means = {}
    for name in names:
        values = [scores[name] for scores in scored.values() if name in scores]
        means[name] = sum(values) / len(values)
    return means


def _counts(questions: Questions, replies: Mapping[str, Reply]) -> dict[str, int]:
    counts = {"queries": len(questions.rows), "with_evidence": sum(bool(q.evidence) for q in questions.rows)}
    if not replies:
        return counts
    return counts | {
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies.values()),
        "completion_tokens": sum(reply.completion_tokens for reply in replies.values()),
        "cut_answers": sum(reply.finish == "length" for reply in replies.values()),
        "empty_answers": sum(not reply.text.strip() for reply in replies.values()),
    }


def _notes(questions: Questions, found: Found, replies: Mapping[str, Reply]) -> tuple[str, ...]:
    counts = _counts(questions, replies)
    said = []
    if 0 < counts["with_evidence"] < counts["queries"]:
        said.append(f"Recall of evidence is over the {counts['with_evidence']:,} questions that name some.")
    if without := sum(not passages for passages in found.passages.values()):
        said.append(f"For {without:,} questions no passage was found.")
    names = sorted({reply.model for reply in replies.values() if reply.model})
    if names:
        more = "; they are not of one model" if len(names) > 1 else ""
        said.append(f"The server calls the model of these answers {', '.join(names)}{more}.")
    if counts.get("cut_answers"):
        said.append(f"{counts['cut_answers']:,} answers were cut at the most tokens that were allowed.")
    if counts.get("empty_answers"):
        said.append(f"{counts['empty_answers']:,} answers were empty.")
    if thoughts := sum("<think>" in reply.text for reply in replies.values()):
        said.append(f"{thoughts:,} answers hold the model's thoughts (<think>), which count as answer; turn them off.")
    return tuple(said)
