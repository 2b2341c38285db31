"""Hard negatives against a brute force in float64: every rule, every setting, and who judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.data.mining_oracle import (
    Fake,
    brute_force,
    flat,
    pairs_of,
    read_triplets,
    reranked,
    rules,
    tasks,
    write_pairs,
)

from diffembed.data import mining
from diffembed.data.examples import Pair
from diffembed.data.mining import MiningReport, MiningSettings, mine_for_pairs, mine_negatives
from diffembed.errors import InputError, ModelError


@settings(max_examples=100, deadline=None)
@given(tasks(), rules(), st.booleans(), st.booleans(), st.sampled_from([1, 3, 512]), st.sampled_from([2, 7, 8192]))
def test_every_rule_agrees_with_the_brute_force(
    task: tuple[list[Pair], list[str] | None],
    chosen: MiningSettings,
    with_teacher: bool,
    with_reranker: bool,
    queries: int,
    documents: int,
) -> None:
    pairs, corpus = task
    assume(corpus is None or any(map(str.strip, corpus)))
    teacher, reranker = Fake("teacher") if with_teacher else None, reranked if with_reranker else None
    with pytest.MonkeyPatch.context() as patch:  # block borders must not be seen
        patch.setattr("diffembed.data.negatives.QUERY_BLOCK", queries)
        patch.setattr("diffembed.data.candidates._DOCUMENT_BLOCK", documents)
        patch.setattr("diffembed.data.candidates._ENCODED_AT_ONCE", documents)
        triplets, report = mine_for_pairs(pairs, Fake(), chosen, corpus=corpus, teacher=teacher, reranker=reranker)
    expected, counts = brute_force(pairs, corpus, chosen, Fake(), teacher, reranker)
    assert [(t.query, t.document, t.document_id, t.instruction) for t in triplets] == [
        (p.query, p.document, p.document_id, p.instruction) for p, _ in expected
    ]
    assert [tuple(map(flat, t.negatives)) for t in triplets] == [tuple(map(flat, found)) for _, found in expected]
    tally = report.tally
    for reason, count in counts.items():
        assert tally.dropped.get(reason, getattr(tally, reason, 0)) == count, reason
    assert tally.candidates == sum(tally.dropped.values()) + tally.unused + tally.negatives
    assert (tally.pairs, tally.triplets) == (len(pairs), len(triplets))
    assert (sum(tally.positive_scores), sum(tally.negative_scores)) == (tally.pairs, tally.negatives)
    if corpus is not None:
        filled = [text for text in corpus if text.strip()]
        assert report.documents == len(set(map(flat, filled)))
        assert (report.blank_documents, report.duplicate_documents) == (
            len(corpus) - len(filled),
            len(filled) - report.documents,
        )


def test_a_negative_cosine_of_the_positive_lowers_the_bound() -> None:
    bound = MiningSettings(relative_margin=0.5).limit(np.array([0.8, -0.4]))
    assert bound.tolist() == pytest.approx([0.4, -0.6])


def test_draws_depend_on_the_seed_and_the_pair_alone() -> None:
    pairs, chosen = pairs_of(60), MiningSettings(sampling="random", seed=1, relative_margin=0.0)
    first, report = mine_for_pairs(pairs, Fake(), chosen)
    again, other = mine_for_pairs(pairs, Fake(), chosen)
    assert first == again
    assert report.to_dict() | {"seconds": 0} == other.to_dict() | {"seconds": 0}
    assert mine_for_pairs(pairs, Fake(), replace(chosen, seed=2))[0] != first
    top, _ = mine_for_pairs(pairs, Fake(), replace(chosen, sampling="top"))
    assert top == mine_for_pairs(pairs, Fake(), replace(chosen, sampling="top", seed=2))[0]
    assert top != first


def test_a_document_is_encoded_once_and_a_teacher_reads_what_it_judges(tmp_path: Path) -> None:
    pairs, encoder, teacher = pairs_of(60), Fake(), Fake("teacher")
    chosen = MiningSettings(negatives=1)
    in_memory, _ = mine_for_pairs(pairs, encoder, chosen, teacher=teacher)
    assert set(encoder.documents.values()) == set(teacher.documents.values()) == {1}
    mapped, _ = mine_for_pairs(pairs, Fake(), chosen, teacher=Fake("teacher"), folder=tmp_path)
    assert mapped == in_memory
    assert not any(tmp_path.iterdir())


def test_long_texts_are_cut_and_counted() -> None:
    pairs = [*pairs_of(10), Pair("(t1) " + "long " * 50, "(t1) " + "longer " * 50)]
    _, report = mine_for_pairs(pairs, Fake(limit=100), MiningSettings(relative_margin=0.0))
    assert (report.tally.truncated_queries, report.truncated_documents) == (1, 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"negatives": 0}, "negatives is 0; it must be a whole number from 1"),
        ({"negatives": 2.0}, "negatives is 2.0"),
        ({"negatives": True}, "negatives is True"),
        ({"first": 5, "last": 3}, "first is 5 and last is 3"),
        ({"first": 98}, "ranks 98 to 100 hold 3 documents, fewer than the 4"),
        ({"last": 10_001}, "last is 10001"),
        ({"margin": -0.1}, "margin is -0.1; it must be from 0 to 2"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"relative_margin": 1.5}, "relative_margin is 1.5; it must be from 0 to 1"),
        ({"relative_margin": "0.1"}, "relative_margin is '0.1'"),
        ({"teacher_margin": 3}, "teacher_margin is 3"),
        ({"reranker_margin": float("inf")}, "reranker_margin is inf"),
        ({"min_score": 2}, "min_score is 2; it must be a cosine"),
        ({"min_score": 0.5, "max_score": 0.4}, "min_score 0.5 is above max_score 0.4"),
        ({"sampling": "bottom"}, "sampling is 'bottom'"),
        ({"seed": -1}, "seed is -1"),
        ({"dims": 0}, "dims is 0"),
    ],
)
def test_every_setting_has_its_range(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as raised:
        MiningSettings(**wrong)
    assert words in str(raised.value)


def test_models_that_settings_name_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(mining, "load_embedder", lambda name: asked.append(name) or Fake(name))
    monkeypatch.setattr(mining, "load_reranker", lambda name: asked.append(name) or reranked)
    data = write_pairs(tmp_path / "pairs.jsonl", pairs_of(30))
    named = MiningSettings(teacher="teacher", reranker="reranker", negatives=1)
    report = mine_negatives(data, tmp_path / "out.jsonl", model="ranker", split="all", settings=named)
    assert asked == ["ranker", "teacher", "reranker"]
    given, _ = mine_for_pairs(pairs_of(30), Fake("ranker"), named, teacher=Fake("teacher"), reranker=reranked)
    assert read_triplets(tmp_path / "out.jsonl") == given
    assert isinstance(report, MiningReport)
    assert {"teacher", "reranker"} <= report.tally.dropped.keys()


@pytest.mark.slow
def test_sentence_transformers_models_rank_and_rerank(minilm_source: Path, tmp_path: Path) -> None:
    from tests.conftest import make_tokenizer
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), pad_token="[pad]", sep_token="<|endoftext|>", model_max_length=64
    )
    for name, labels in (("one", 1), ("three", 3)):
        config = BertConfig(vocab_size=400, num_labels=labels, pad_token_id=0, **shape)
        BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        tokens.save_pretrained(tmp_path / name)
    pairs = [
        Pair(f"What do {name} eat?", f"{name} eat {food}.")
        for name, food in zip("abc", ("hay", "rice", "ice"), strict=True)
    ]
    chosen = MiningSettings(negatives=1, relative_margin=0.0, teacher=f"st:{minilm_source}")
    triplets, report = mine_for_pairs(pairs, mining.load_embedder(f"st:{minilm_source}"), chosen)
    assert report.model == f"st:{minilm_source}"
    assert report.tally.pairs == 3 >= len(triplets)
    scores = mining.load_reranker(str(tmp_path / "one"))([("a", "b"), ("a", "c")])
    assert np.shape(scores) == (2,)
    with pytest.raises(ModelError, match="one finite number each"):
        mine_for_pairs(pairs, Fake(), replace(chosen, teacher="", reranker=str(tmp_path / "three")))
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        mining.load_reranker(str(tmp_path / "nowhere"))
