"""Passkey and needle: the published sizes, one text a seed, tasks that a reader of words solves, and the ceiling."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.word_encoder import WordEncoder

from diffembed.data.beir import load_beir
from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation.baselines import SentenceTransformersEncoder, words
from diffembed.evaluation.generated import needle as needle_module
from diffembed.evaluation.generated.haystacks import LENGTHS, Haystack
from diffembed.evaluation.generated.lengths import evaluate_haystacks
from diffembed.evaluation.generated.needle import CHARACTERS as NEEDLE_CHARACTERS
from diffembed.evaluation.generated.needle import Prose, facts, needle, needles, read_prose
from diffembed.evaluation.generated.passkey import CHARACTERS, passkey, passkeys
from diffembed.evaluation.generated.reading import characters_read, through_windows
from diffembed.evaluation.ranker import load_ranker, ranker_of
from diffembed.evaluation.results import Group, Result, ResultFolder
from diffembed.vectors.embeddings import Embeddings

REPO = Path(__file__).parents[3]
# Sentences of 20 to 90 characters: enough of them for the longest document.
PROSE = Prose("made", tuple(f"Sentence {n} says " + "so and " * (n % 11) + "no more." for n in range(3000)))


class ShortSighted(WordEncoder):
    """Reads the first words of a text and knows how far that is."""

    max_tokens = 1000

    def _embed(self, texts: Sequence[str]) -> Embeddings:
        return super()._embed([text[:end] for text, end in zip(texts, self.characters_read(texts), strict=True)])

    def characters_read(self, texts: Sequence[str]) -> list[int]:
        found = []
        for text in texts:
            ends = [match.end() for match in re.finditer(r"\w+", text)]
            found.append(ends[self.max_tokens - 1] if len(ends) > self.max_tokens else len(text))
        return found


def accuracy(stack: Haystack, read: Callable[[str], str] = str) -> float:
    """Of a reader who counts how many of the question's words a document has."""
    known = [set(words(read(text))) for text in stack.task.texts]
    right = 0
    for number, question in enumerate(stack.task.queries.values()):
        shared = [len(set(words(question)) & words_of) for words_of in known]
        right += int(np.argmax(shared)) == number and shared.count(max(shared)) == 1
    return right / len(stack.task.queries)


def groups(result: Result, by: str) -> dict[str, Group]:
    return {group.value: group for group in result.groups if group.by == by}


def test_texts_follow_from_the_seed_alone() -> None:
    """The hashes are those of every machine; whoever changes the texts changes the benchmark."""
    assert passkey(256).sha256() == "0ac32ed729c85b63ecc45660d14479965a2e369e79ec16b4ce5b070bdbb00c1c"
    assert passkey(1024, seed=3).sha256() == "e42b5a0bdc7f3f6e1f0f0e17875b9207ee2209602f12a6dcb5239d74d6b61aba"
    assert needle(256, PROSE).sha256() == "a80eddc8dd72754f04720e8236a8274568f3913071764af3e7c5ccb237572452"
    assert needle(1024, PROSE, seed=3).sha256() == "4d6762d35affddc1cc8450837fc9a3223e482a89481f38a4d656a2b8592b104a"
    assert passkey(256, seed=1).sha256() != passkey(256).sha256()


@pytest.mark.parametrize("tokens", LENGTHS)
def test_sizes_are_the_published_ones(tokens: int) -> None:
    for stack, characters in ((passkey(tokens), CHARACTERS), (needle(tokens, PROSE), NEEDLE_CHARACTERS)):
        lengths = [len(text) for text in stack.task.texts]
        assert len(lengths) == 100
        assert len(stack.task.queries) == 50
        assert max(abs(length - characters[tokens]) for length in lengths) <= 24
        assert [*stack.task.qrels.values()] == [{f"ctx{tokens}_doc{i}": 1} for i in range(50)]


def test_a_document_names_one_person_and_one_key() -> None:
    stack = passkey(512)
    said = [text[start:end] for text, (start, end) in zip(stack.task.texts, stack.statements, strict=True)]
    found = [
        re.fullmatch(r"(.+ .+)'s pass key is (\d{5})\. Remember it\. \2 is the pass key for \1\.", s) for s in said
    ]
    names, keys = {match[1] for match in found if match}, {match[2] for match in found if match}
    assert len(names) == len(keys) == 100
    for text, (start, end) in zip(stack.task.texts, stack.statements, strict=True):
        around = text[:start] + text[end:]
        assert not any(name in around for name in names)
        assert re.fullmatch(r"(The grass is green\.|The sky is blue\.|[\w ,.]+)+", around)
    assert [*stack.task.queries.values()] == [f"what is the passkey for {match[1]}?" for match in found[:50] if match]


@pytest.mark.parametrize("stack", [passkey(4096), needle(8192, PROSE)], ids=["passkey", "needle"])
def test_statements_stand_everywhere_alike(stack: Haystack) -> None:
    depths = np.sort([stack.depth(number) for number in range(50)])
    assert np.abs(depths - (np.arange(50) + 0.5) / 50).max() < 0.03
    assert abs(np.corrcoef(range(50), [stack.depth(n) for n in range(50)])[0, 1]) < 0.4  # in no order


def test_statements_stand_between_sentences() -> None:
    for stack in (passkey(256), needle(1024, PROSE)):
        for text, (start, end) in zip(stack.task.texts, stack.statements, strict=True):
            assert start == 0 or text[start - 2 : start] in (". ", "? ", "! ")
            assert text[end : end + 1] in ("", " ")


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_a_bag_of_words_solves_passkey_as_far_as_it_reads(tokens: int) -> None:
    stack = passkey(tokens)
    assert accuracy(stack) == 1
    half = CHARACTERS[tokens] // 2
    names = [question.removeprefix("what is the passkey for ")[:-1] for question in stack.task.queries.values()]
    named = sum(half >= start + len(name) for (start, _), name in zip(stack.statements, names, strict=False)) / 50
    assert abs(accuracy(stack, lambda text: text[:half]) - named) < 0.03  # of one the first name alone may be left
    assert 0.45 < named < 0.55


def test_facts_are_a_hundred_of_ten_fields() -> None:
    assert len({fact.text for fact in facts()}) == len({fact.question for fact in facts()}) == 100
    fields = [fact.field for fact in facts()]
    assert {fields.count(field) for field in fields} == {10}
    for fact in facts():
        assert fact.text.endswith(".")
        assert fact.question.endswith("?")


def test_needle_asks_five_facts_of_each_field_and_the_same_at_all_lengths() -> None:
    one, other = needle(256, PROSE), needle(512, PROSE)
    assert [*one.task.queries.values()] == [*other.task.queries.values()]
    assert {one.fields.count(field) for field in one.fields} == {5}
    assert [*needle(256, PROSE, seed=1).task.queries.values()] != [*one.task.queries.values()]
    known = {fact.question: fact.text for fact in facts()}
    for number, question in enumerate(one.task.queries.values()):
        start, end = one.statements[number]
        assert one.task.texts[number][start:end] == known[question]


def test_facts_are_not_in_the_sample_books() -> None:
    if not (REPO / "samples" / "books").is_dir():
        pytest.skip("samples/books is not here: the prose of needle comes with a checkout")
    prose = read_prose(REPO / "samples" / "books")
    assert prose.characters > max(NEEDLE_CHARACTERS.values())
    text = " ".join(prose.sentences)
    assert not [fact.text for fact in facts() if fact.text in text]


def test_prose_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One is here. " * 40, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(
        '{"text": "' + "Two  was there. " * 40 + '"}\n{"text": "Title"}\n', encoding="utf-8"
    )
    (tmp_path / "c.md").write_text("Three is not read. " * 40, encoding="utf-8")
    assert read_prose(tmp_path).sentences == ("One is here.",) * 40 + ("Two was there.",) * 40
    assert read_prose(tmp_path / "b.jsonl").sentences == ("Two was there.",) * 40
    for place, said in ((tmp_path / "c.md", "neither"), (tmp_path / "no.txt", "does not exist")):
        with pytest.raises(InputError, match=said):
            read_prose(place)
    with pytest.raises(InputError, match=r"has 520 characters of prose.*1,013"):
        needle(256, read_prose(tmp_path / "a.txt"))
    (tmp_path / "b.jsonl").write_text('{"body": 1}\n', encoding="utf-8")
    with pytest.raises(InputError, match='line 1 has no "text"'):
        read_prose(tmp_path / "b.jsonl")


def test_prose_that_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(needle_module, "__file__", str(tmp_path / "a" / "b" / "c" / "d" / "needle.py"))
    with pytest.raises(InputError, match="--prose PATH"):
        read_prose()


def test_unknown_lengths_are_named() -> None:
    with pytest.raises(InputError, match="length 300 is not one of the published"):
        passkeys([256, 300])
    with pytest.raises(InputError, match="none"):
        passkeys([])


def test_written_folders_are_read_again(tmp_path: Path) -> None:
    folders = passkeys([256, 512]).write(tmp_path)
    assert [folder.name for folder in folders] == ["passkey-256", "passkey-512"]
    stack = passkey(512)
    assert load_beir(folders[1]) == stack.task


def test_bm25_scores_one_at_every_length(tmp_path: Path) -> None:
    result, kept = evaluate_haystacks(passkeys([256, 2048]), load_ranker("bm25"))
    assert not kept
    assert result.scores["accuracy@1"] == 1
    assert {group.scores["accuracy@1"] for group in result.groups} == {1.0}
    assert groups(result, "length")["2048"].scores["ceiling"] == 1
    assert sum(group.queries for group in groups(result, "depth").values()) == 100
    assert result.notes == ("every document was read whole",)


def test_a_short_sighted_reader_stands_at_the_ceiling() -> None:
    ranker = ranker_of("short", ShortSighted(), dtype="float32")
    result, _ = evaluate_haystacks(passkeys([512, 2048, 4096]), ranker)
    by_length = groups(result, "length")
    assert by_length["512"].scores["ceiling"] == by_length["512"].scores["accuracy@1"] == 1
    for length in ("2048", "4096"):
        found = by_length[length].scores
        assert found["ceiling"] < 1
        assert abs(found["accuracy@1"] - found["ceiling"]) <= 0.04  # a cut statement, or luck
    assert by_length["4096"].scores["ceiling"] == pytest.approx(1000 * 4.4 / 14518, abs=0.04)  # 4.4 characters a word
    limit = groups(result, "limit")
    assert (limit["within"].queries, limit["beyond"].queries) == (50, 100)
    deep = groups(result, "depth beyond the limit")
    assert deep["0.05"].scores["accuracy@1"] == 1
    assert deep["0.95"].scores["accuracy@1"] <= 0.1
    assert {group.scores["accuracy@1"] for group in groups(result, "depth").values()} == {1.0}
    assert "cut to 1,000 tokens" in result.notes[0]
    assert len(result.by_query) == 150
    assert result.settings["over_limit"] == "truncate"


def test_a_length_is_within_the_limit_when_all_its_statements_are_read() -> None:
    """Nominal tokens are not the model's: this one takes 2,048 for its limit and reads no more than 1,000 words."""
    ranker = ranker_of("short", ShortSighted(), dtype="float32")
    ranker = replace(ranker, settings=ranker.settings | {"max_tokens": 2048})
    result, _ = evaluate_haystacks(passkeys([512, 2048]), ranker)
    assert groups(result, "length")["2048"].scores["ceiling"] < 1
    assert {value: group.queries for value, group in groups(result, "limit").items()} == {"within": 50, "beyond": 50}
    assert {group.scores["accuracy@1"] for group in groups(result, "depth").values()} == {1.0}


def test_an_encoder_that_cannot_tell_has_no_ceiling() -> None:
    result, _ = evaluate_haystacks(passkeys([256]), ranker_of("words", WordEncoder(), dtype="float32"))
    assert "ceiling" not in groups(result, "length")["256"].scores
    assert "not known" in result.notes[0]


def test_results_are_kept(tmp_path: Path) -> None:
    folder, encoder = ResultFolder(tmp_path), WordEncoder()
    ranker = ranker_of("words", encoder, dtype="float32")
    first, kept = evaluate_haystacks(needles(PROSE, [256]), ranker, results=folder, command="me")
    asked = len(encoder.asked)
    again, kept_again = evaluate_haystacks(needles(PROSE, [256]), ranker, results=folder)
    assert (kept, kept_again) == (False, True)
    assert len(encoder.asked) == asked
    assert again.scores == first.scores
    assert again.environment["command"] == "me"
    assert {group.by for group in again.groups} == {"length", "limit", "depth", "domain"}
    other = needles(Prose("other", PROSE.sentences[::-1]), [256])
    assert not evaluate_haystacks(other, ranker, results=folder)[1]


def test_characters_read_are_what_the_model_reads(tiny_model_dir: Path) -> None:
    """Cutting a text where the model is said to stop changes nothing; cutting a word earlier does."""
    encoder = Encoder.load(tiny_model_dir)
    texts = [passkey(256).task.texts[0], "Die Katze schläft. " * 40, "short"]
    ends = characters_read(encoder, texts)
    assert ends is not None
    assert ends[2] == 5
    for text, end in zip(texts[:2], ends, strict=False):
        assert 0 < end < len(text)
        whole, cut, less = (
            encoder.encode_documents([piece], truncate=True).values for piece in (text, text[:end], text[: end - 6])
        )
        np.testing.assert_array_equal(whole, cut)
        assert not np.array_equal(whole, less)


def test_characters_read_by_sentence_transformers(minilm_source: Path) -> None:
    encoder = SentenceTransformersEncoder(str(minilm_source))
    text = passkey(512).task.texts[0]
    (end,) = encoder.characters_read([text])
    assert 0 < end < len(text)
    whole, cut, less = (
        encoder.encode_documents([piece], truncate=True).values for piece in (text, text[:end], text[: end - 6])
    )
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    assert np.abs(whole - less).max() > 1e-4


def test_windows_read_everything(tiny_model_dir: Path) -> None:
    ranker = load_ranker(str(tiny_model_dir))
    result, _ = evaluate_haystacks(passkeys([256]), ranker, windows=True)
    assert result.settings["over_limit"] == "windows"
    assert result.counts["truncated_documents"] == 0
    assert groups(result, "length")["256"].scores["ceiling"] == 1
    cut, _ = evaluate_haystacks(passkeys([256]), ranker)
    assert cut.counts["truncated_documents"] == 100
    assert groups(cut, "length")["256"].scores["ceiling"] < 1
    with pytest.raises(InputError, match="bm25 has no windows"):
        through_windows(load_ranker("bm25"))


def test_progress_counts_documents_of_all_lengths(tiny_model_dir: Path) -> None:
    seen: list[Any] = []
    evaluate_haystacks(passkeys([256, 512]), load_ranker(str(tiny_model_dir)), progress=lambda *at: seen.append(at))
    assert seen[-1] == (200, 200)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
