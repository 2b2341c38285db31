"""Questions with known answers, and how an answer or a passage is judged, as BERGEN does it (arXiv 2407.01102).

A file of questions is JSON lines or Parquet, its rows of one of these forms (the form is told by the keys):

    {"question", "answers": [...], "id"?, "evidence"?: [passage or document ids]}      ours
    {"id", "input", "output": [{"answer", "provenance": [{"wikipedia_id"}]}]}          KILT: NQ, HotpotQA
    {"question", "answer": {"value", "aliases"}, "question_id"}                        TriviaQA
    {"question", "possible_answers": "[...]", "id"}                                    PopQA
    {"ambiguous_question", "qa_pairs": [{"short_answers": [...]}], "sample_id"}        ASQA
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.jsonl import read_objects
from diffembed.errors import InputError
from diffembed.evaluation.baselines import words
from diffembed.evaluation.hub_rows import parquet_rows
from diffembed.evaluation.results import Scores

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FORMS = "question and answers; KILT's input and output; or the columns of TriviaQA, PopQA or ASQA"


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Attributes:
        id: of its row; the row's number, from 1, where it has none.
        text: what is asked.
        answers: each of them is right.
        evidence: ids of passages, or of whole documents, that hold the answer; empty where nobody said.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    evidence: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Questions:
    """A file of questions: its name without the ending, the questions, and the digest of the file."""

    name: str
    rows: tuple[Question, ...]
    sha256: str


def read_questions(file: Path) -> Questions:
    """All questions of a file.

    Raises:
        InputError: a file that is not there or cannot be read, a row of no known form, without a question or without an
            answer, or an id given twice.
    """
    if not file.is_file():
        raise InputError(f"{file} is not a file; give questions as JSON lines or Parquet: rows with {_FORMS}")
    rows: dict[str, Question] = {}
    for number, (where, row) in enumerate(parquet_rows(file) if file.suffix == ".parquet" else read_objects(file), 1):
        question = _question(row, where, str(number))
        if question.id in rows:
            raise InputError(f"{where}: the id {question.id!r} was given before; ids must be unique")
        rows[question.id] = question
    if not rows:
        raise InputError(f"{file} holds no questions")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Questions(file.name.split(".")[0], tuple(rows.values()), digest)


def normalise(text: str) -> str:
    """Lower case, without punctuation (ASCII), English articles and surplus white space: the form that is compared.

    >>> normalise("  The Eiffel-Tower, in Paris! ")
    'eiffeltower in paris'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def match(text: str, answers: Sequence[str]) -> float:
    """BERGEN's measure: 1 where one of the answers stands in the text, both in their normal form, else 0.

    An answer of which nothing is left in normal form ("The") is in no text (in BERGEN's code it is in every one).

    >>> match("It was painted by Leonardo da Vinci.", ["Da Vinci", "Leonardo"]), match("Nobody knows", ["Leonardo"])
    (1.0, 0.0)
    """
    said = normalise(text)
    return float(any(plain in said for answer in answers if (plain := normalise(answer))))


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 where the text is one of the answers, both in their normal form, else 0.

    >>> exact_match("the Louvre.", ["Louvre"]), exact_match("In the Louvre", ["Louvre"])
    (1.0, 0.0)
    """
    return float(any(normalise(text) == normalise(answer) for answer in answers))


def f1(text: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the words, of the answer that fits best (SQuAD's F1).

    >>> round(f1("Leonardo of Vinci", ["Leonardo da Vinci", "Michelangelo"]), 3)
    0.667
    """
    said = Counter(normalise(text).split())
    best = 0.0
    for answer in answers:
        wanted = Counter(normalise(answer).split())
        shared = (said & wanted).total()
        if shared:
            best = max(best, 2 * shared / (said.total() + wanted.total()))
    return best


def answer_scores(text: str, question: Question) -> Scores:
    """How good an answer is: ``match``, ``exact_match`` and ``f1``, each 0..1."""
    answers = question.answers
    return {"match": match(text, answers), "exact_match": exact_match(text, answers), "f1": f1(text, answers)}


def holds_answer(passage: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in a passage, as whole words, in any case (as DPR counts it).

    >>> holds_answer("Made by the ART-NOUVEAU school.", ["art nouveau"]), holds_answer("a party", ["art"])
    (True, False)
    """
    there = _as_words(passage)
    return any(plain in there for answer in answers if (plain := _as_words(answer)).strip())


def passage_scores(passages: Sequence[tuple[str, str, str]], question: Question, cuts: Collection[int]) -> Scores:
    """What stands among the first ``cut`` passages, for each of the cuts.

    Args:
        passages: (id, id of its document, text), best first.
        question: its answers, and its evidence, which may name passages or documents.
        cuts: how many of the first passages count.

    Returns:
        ``answer_recall@K``: 1 where one of them holds an answer; where evidence is known also ``evidence_recall@K``,
        1 where one of them is evidence, and ``evidence_all@K``, 1 where every piece of evidence is among them.
    """
    first = next((n for n, passage in enumerate(passages) if holds_answer(passage[2], question.answers)), None)
    scores = {f"answer_recall@{cut}": float(first is not None and first < cut) for cut in sorted(cuts)}
    if not question.evidence:
        return scores
    found = [question.evidence & {passage[0], passage[1]} for passage in passages]
    for cut in sorted(cuts):
        there = frozenset[str]().union(*found[:cut])
        scores[f"evidence_recall@{cut}"] = float(bool(there))
        scores[f"evidence_all@{cut}"] = float(there == question.evidence)
    return scores


def _as_words(text: str) -> str:
    return f" {' '.join(words(unicodedata.normalize('NFC', text)))} "


def _question(row: Mapping[str, Any], where: str, number: str) -> Question:
    if "input" in row and "output" in row:
        text, answers, evidence = row["input"], *_kilt(row["output"])
    elif "ambiguous_question" in row:
        text, evidence = row["ambiguous_question"], []
        answers = [answer for pair in _items(row.get("qa_pairs")) for answer in _items(_get(pair, "short_answers"))]
    elif "possible_answers" in row:
        text, answers, evidence = row.get("question"), _listed(row["possible_answers"], where), []
    elif isinstance(row.get("answer"), dict):
        answer = row["answer"]
        text, answers, evidence = row.get("question"), [answer.get("value"), *_items(answer.get("aliases"))], []
    elif "question" in row and "answers" in row:
        text, answers, evidence = row["question"], row["answers"], _items(row.get("evidence"))
    else:
        raise InputError(f"{where} has the keys {sorted(row)}; expected {_FORMS}")
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f"{where} has no question (KILT's TriviaQA comes without them: give TriviaQA's own file); mend or remove it"
        )
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{where}: the answers must be a list of strings, not {answers!r}")
    right = tuple(dict.fromkeys(answer for answer in answers if answer.strip()))
    if not right:
        raise InputError(f"{where} has no answer; mend or remove it")
    if not all(isinstance(each, (str, int)) for each in evidence):
        raise InputError(f"{where}: the evidence must be a list of ids, not {evidence!r}")
    name = next((row[key] for key in ("id", "_id", "question_id", "sample_id") if row.get(key) is not None), number)
    return Question(str(name), text, right, frozenset(map(str, evidence)))


def _kilt(output: Any) -> tuple[list[Any], list[Any]]:
    """Answers and the pages that prove them; KILT has entries with either alone."""
    entries = _items(output)
    answers = [answer for entry in entries if (answer := _get(entry, "answer"))]
    proofs = [_get(proof, "wikipedia_id") for entry in entries for proof in _items(_get(entry, "provenance"))]
    return answers, [proof for proof in proofs if proof]


def _listed(value: Any, where: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise InputError(f'{where}: "possible_answers" is no JSON list: {value[:80]!r}') from None


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None
