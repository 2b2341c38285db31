"""Contextual documents: the name is in no gold chunk and changes none; with the first chunk before it all is clear."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.evaluation.word_encoder import WordEncoder

from diffembed.data.beir import load_beir
from diffembed.errors import InputError
from diffembed.evaluation.baselines import words
from diffembed.evaluation.generated.context import _scores, evaluate_contextual, readings_of
from diffembed.evaluation.generated.contextual import DOCUMENTS, ContextualSet, contextual
from diffembed.evaluation.generated.draws import Draws
from diffembed.evaluation.generated.stories import Language, languages, read_language
from diffembed.evaluation.ranker import load_ranker, ranker_of
from diffembed.evaluation.results import Group, Result, ResultFolder


@pytest.fixture(scope="module")
def made() -> ContextualSet:
    return contextual()


@pytest.fixture(scope="module")
def small() -> ContextualSet:
    return contextual(["en", "zh"], documents=3, questions=2)


def groups(result: Result, by: str) -> dict[str, Group]:
    return {group.value: group for group in result.groups if group.by == by}


def test_texts_follow_from_the_seed_alone(made: ContextualSet) -> None:
    """The hash is that of every machine; whoever changes the texts changes the benchmark."""
    assert made.sha256() == "917d713caae9d73af11826432dd3bc34d86427f82967059d6473c3db3ac50392"
    assert contextual(["fr"], seed=1).sha256() == "82a99fb60ba8f991a3d3c6dcf6289fe7b019f7217a5c9d25c2f6c3653e459cfb"
    assert contextual(["fr"], seed=1).sha256() != contextual(["fr"]).sha256()


def test_at_least_five_languages_of_eight_kinds() -> None:
    assert len(languages()) >= 5
    kinds = {code: [story.kind for story in read_language(code).stories] for code in languages()}
    assert len(kinds["en"]) >= 8
    assert all(found == kinds["en"] for found in kinds.values())
    assert {len(story.parts) for code in languages() for story in read_language(code).stories} == {5}


def test_sizes_and_labels(made: ContextualSet) -> None:
    task = made.task
    documents = task.documents()
    assert len(documents) == len(languages()) * 8 * DOCUMENTS
    assert {len(rows) for rows in documents} == {6}
    assert len(task.queries) == 3 * len(documents)
    row = {identifier: number for number, identifier in enumerate(task.document_ids)}
    for query, judged in task.qrels.items():
        (gold,) = judged
        assert gold.partition("#")[0] == query.partition("?")[0]
        assert made.parts[row[gold]] == int(query.partition("?")[2])
    assert [made.parts[rows[0]] for rows in documents] == [-1] * len(documents)
    assert {tuple(sorted(made.parts[row] for row in rows)) for rows in documents} == {(-1, 0, 1, 2, 3, 4)}
    places = [made.task.chunk_idx[row[gold]] for judged in task.qrels.values() for gold in judged]  # type: ignore[index]
    assert {places.count(place) > len(places) / 8 for place in (1, 2, 3, 4, 5)} == {True}


def test_no_mark_is_left(made: ContextualSet) -> None:
    left = [text for text in (*made.task.texts, *made.task.queries.values()) if re.search(r"[\[\]{}<>|]|\.\.", text)]
    assert [text for text in left if "..." not in text] == []
    assert all(
        " " in text or code == "zh" for text, code in zip(made.task.texts, made.task.document_langs, strict=True)
    )


def test_names_stand_in_openings_and_questions_alone(made: ContextualSet) -> None:
    """Whoever reads a gold chunk alone does not learn what it is about."""
    task = made.task
    stems = {
        code: {(start + end).lower() for start in read_language(code).starts for end in read_language(code).ends}
        for code in languages()
    }
    found = [
        (text, stem)
        for text, part, code in zip(task.texts, made.parts, task.document_langs, strict=True)
        if part >= 0
        for stem in stems[code]
        if stem in text.lower()
    ]
    assert found == []
    openings = {rows[0]: task.texts[rows[0]].lower() for rows in task.documents()}
    owner = {task.document_ids[rows[0]].partition("#")[0]: rows[0] for rows in task.documents()}
    for query, text in task.queries.items():
        (stem,) = {s for s in stems[query[:2]] if s in text.lower()}
        assert [row for row, opening in openings.items() if stem in opening] == [owner[query.partition("?")[0]]]


def test_other_names_leave_every_other_chunk_as_it_is(made: ContextualSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the chunks say nothing of the name, however cleverly they are read."""
    stems = Language.stems
    monkeypatch.setattr(Language, "stems", lambda language, draws: stems(language, draws)[::-1])
    other = contextual()
    assert other.task.qrels == made.task.qrels
    for one, two, part in zip(made.task.texts, other.task.texts, made.parts, strict=True):
        assert (one == two) == (part >= 0)
    assert all(made.task.queries[query] != text for query, text in other.task.queries.items())


def test_a_reader_of_chunks_alone_has_to_guess(made: ContextualSet) -> None:
    """Even one who knows which part is asked for, and in which language, is left with one chunk of each document."""
    task = made.task
    alike: dict[tuple[str, str, int], list[str]] = {}
    for identifier, code, kind, part in zip(
        task.document_ids, task.document_langs, made.kinds, made.parts, strict=True
    ):
        alike.setdefault((code, kind, part), []).append(identifier)
    row = {identifier: number for number, identifier in enumerate(task.document_ids)}
    run = {}
    for query, judged in task.qrels.items():
        gold = row[next(iter(judged))]
        same = alike[task.document_langs[gold], made.kinds[gold], made.parts[gold]]
        order = Draws(query).shuffled(same)
        run[query] = {chunk: float(len(order) - place) for place, chunk in enumerate(order)}
    scores = list(_scores(made, run).values())
    means = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
    assert means["part@1"] == 1
    assert means["chunk@1"] == means["document@1"] == pytest.approx(1 / DOCUMENTS, abs=0.025)
    assert means["ndcg@10"] < 0.45


def test_with_the_first_chunk_before_it_words_are_enough() -> None:
    made, ranker = contextual(documents=4), load_ranker("bm25")
    alone, _ = evaluate_contextual(made, ranker, "alone")
    prepended, _ = evaluate_contextual(made, ranker, "prepended")
    assert prepended.scores["ndcg@10"] > 0.999
    assert prepended.scores["chunk@1"] > 0.999
    assert alone.scores["ndcg@10"] < 0.65
    assert alone.scores["chunk@1"] < 1 / 4  # the opening, which has the name, comes first
    assert alone.scores["document@1"] > 0.3
    assert set(groups(prepended, "language")) == set(languages())
    assert {group.scores["ndcg@10"] for group in prepended.groups} == {1.0}


def test_prepended_texts_begin_with_the_opening(small: ContextualSet) -> None:
    task = small.prepended()
    assert task.doc_ids is None
    for opening, *others in small.task.documents():
        assert task.texts[opening] == small.task.texts[opening]
        for row in others:
            assert task.texts[row] == f"{small.task.texts[opening]}\n{small.task.texts[row]}"


def test_a_model_that_reads_documents_is_given_documents(small: ContextualSet, tmp_path: Path) -> None:
    encoder = WordEncoder(contextual=True)
    ranker = ranker_of("words", encoder, dtype="float32")
    assert readings_of(ranker) == ["together", "alone", "prepended"]
    folder = ResultFolder(tmp_path)
    results = [evaluate_contextual(small, ranker, reading, results=folder)[0] for reading in readings_of(ranker)]
    assert [kind for kind, _ in encoder.asked] == ["queries", "chunks", "queries", "documents", "queries", "documents"]
    assert [len(texts) for kind, texts in encoder.asked if kind != "queries"] == [48, 288, 288]
    together, alone, _ = (result.scores for result in results)
    assert together["chunk@1"] > alone["chunk@1"]
    assert together["ndcg@10"] > alone["ndcg@10"] + 0.1
    assert [result.settings["reading"] for result in results] == ["together", "alone", "prepended"]
    assert {group.by for group in results[0].groups} == {"language", "domain", "chunk"}
    assert sum(group.queries for group in groups(results[0], "chunk").values()) == len(small.task.queries) == 96
    asked = len(encoder.asked)
    again, kept = evaluate_contextual(small, ranker, "together", results=folder)
    assert kept
    assert len(encoder.asked) == asked
    assert again.scores == together


def test_what_the_first_hit_is_worth(small: ContextualSet) -> None:
    query, judged = next(iter(small.task.qrels.items()))
    gold = next(iter(judged))
    row = small.task.document_ids.index(gold)
    same_part = next(
        chunk
        for chunk, kind, part in zip(small.task.document_ids, small.kinds, small.parts, strict=True)
        if (kind, part) == (small.kinds[row], small.parts[row]) and chunk != gold
    )
    opening = gold.partition("#")[0] + "#0"
    wanted = {gold: (1, 1, 1), opening: (0, 1, 0), same_part: (0, 0, 1)}
    for first, (chunk, document, part) in wanted.items():
        scores = _scores(small, {query: {first: 2.0, "en-film-0#0": 1.0}})[query]
        assert (scores["chunk@1"], scores["document@1"], scores["part@1"]) == (chunk, document, part)
    nothing = _scores(small, {})[query]
    assert {nothing[name] for name in nothing} == {0.0}


def test_equal_scores_are_settled_by_id_as_in_trec_eval(small: ContextualSet) -> None:
    query, judged = next(iter(small.task.qrels.items()))
    gold = next(iter(judged))
    for other in ("zzz", "aaa"):
        texts = {gold: 1.0, f"{other}": 1.0}
        task_ids = {"zzz": False, "aaa": True}
        scores = _scores(_with(small, other), {query: texts})[query]
        assert bool(scores["chunk@1"]) == task_ids[other]
        assert (scores["mrr@10"] == 1) == task_ids[other]


def _with(small: ContextualSet, identifier: str) -> ContextualSet:
    """The set with its last chunk under another id."""
    ids = (*small.task.document_ids[:-1], identifier)
    return replace(small, task=replace(small.task, document_ids=ids))


def test_tiny_model_reads_in_all_three_ways(small: ContextualSet, tiny_model_dir: Path) -> None:
    ranker = load_ranker(str(tiny_model_dir))
    for reading in readings_of(ranker):
        result, _ = evaluate_contextual(small, ranker, reading)
        assert result.counts["queries"] == 96
        assert 0 <= result.scores["ndcg@10"] <= 1


def test_written_folder_is_read_again(small: ContextualSet, tmp_path: Path) -> None:
    assert load_beir(small.write(tmp_path)) == small.task


def test_bad_wishes_are_named(small: ContextualSet) -> None:
    with pytest.raises(InputError, match="no texts in language 'xx'; choose among de, en"):
        contextual(["en", "xx"])
    with pytest.raises(InputError, match="1 documents of a kind are not possible.*give 2 to 31"):
        contextual(["en"], documents=1)
    with pytest.raises(InputError, match="6 questions about a document.*give 1 to 5"):
        contextual(["en"], questions=6)
    with pytest.raises(InputError, match="bm25 cannot read chunks together"):
        evaluate_contextual(small, load_ranker("bm25"), "together")


def test_questions_share_a_word_with_their_answer_alone(made: ContextualSet) -> None:
    """Within a document, more of the question's words are in the gold chunk than in any other part."""
    task = made.task
    row = {identifier: number for number, identifier in enumerate(task.document_ids)}
    rows_of = {task.document_ids[rows[0]].partition("#")[0]: rows[1:] for rows in task.documents()}
    unclear = set()
    for query, text in task.queries.items():
        asked = set(words(text))
        gold = row[next(iter(task.qrels[query]))]
        shared = {number: len(asked & set(words(task.texts[number]))) for number in rows_of[query.partition("?")[0]]}
        if any(count >= shared[gold] for number, count in shared.items() if number != gold):
            unclear.add((task.document_langs[gold], made.kinds[gold], made.parts[gold]))
    assert len(unclear) <= 12  # those are told apart by how rare the words are
