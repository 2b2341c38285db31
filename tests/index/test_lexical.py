"""Words: how texts of many scripts are cut, BM25 by hand, and the fusion of two rankings."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.index import oracle

from diffembed.errors import InputError
from diffembed.index import Index, lexical
from diffembed.index.fusion import check_fusion, reciprocal_ranks, weighted_sums

TEXTS = {
    "owl": "Owls hunt at night; they hear a mouse under the snow.",
    "hunting": "A hunter hunting, hunted by owls. Owls owls!",
    "ja": "梟は夜に狩りをする。雪の下の鼠の音を聞く。",
    "zh": "猫头鹰在夜间捕猎，它们能听到雪下的老鼠。",
    "th": "นกฮูกออกล่าในเวลากลางคืน",
    "ko": "올빼미는 밤에 사냥을 한다",
    "fr": "La chouette chasse l'été, près des forêts.",
    "ar": "والبومة تصطاد في الليل",
    "hi": "उल्लू रात में शिकार करता है",
    "code": "def parse_config(path): raise ValueError('E1142')",
    "signs": '" * ( NEAR OR AND',
}


@pytest.fixture
def index(tmp_path: Path, encoder: Any) -> Index:
    index = Index.create(tmp_path / "index", model=encoder)
    index.add([{"id": key, "chunks": [text]} for key, text in TEXTS.items()])
    return index


def found(index: Index, query: str, top: int = 10) -> list[str]:
    ids = [id_ for id_, _ in index._catalog.lexical(query, top)]
    return [chunk.document.key for chunk in index.chunks(ids)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("hears nights", "owl"),
        ("owls hunting", "hunting"),
        ("雪の", "ja"),
        ("鼠の音", "ja"),
        ("夜间", "zh"),
        ("老鼠", "zh"),
        ("กลางคืน", "th"),
        ("กล", "th"),
        ("البومة", "ar"),
        ("بومة", "ar"),
        ("사냥", "ko"),
        ("ete", "fr"),
        ("FORÊTS", "fr"),
        ("शिकार", "hi"),
        ("e1142", "code"),
        ("parse_config", "code"),
        ("near", "signs"),
    ],
)
def test_words_are_found(index: Index, query: str, first: str) -> None:
    assert found(index, query)[0] == first


@pytest.mark.parametrize("query", ["", '"', "* ( )", "NEAR(", "form: ^ -", "nothing-of-the-kind", "\0", "🦉"])
def test_signs_have_no_meaning(index: Index, query: str) -> None:
    assert found(index, query) in ([], ["signs"], ["owl"], ["signs", "owl"], ["th"])


def test_scores_are_those_of_the_formula(index: Index) -> None:
    ids = index._rows_where({})
    assert ids is not None
    words = {c.id: tokens(c.chunk.text) for c in index.chunks(ids.tolist())}
    for query in ("owls hunting snow", "雪の下", "hunt hunting hunter", "a the"):
        expected = oracle.bm25(list(lexical.terms(query)), words)
        given = dict(index._catalog.lexical(query, 100))
        assert given.keys() == expected.keys()
        np.testing.assert_allclose([given[i] for i in expected], list(expected.values()), rtol=1e-9)
        only = np.array([2, 3, 5], np.int64)
        assert dict(index._catalog.lexical(query, 100, only)) == {i: s for i, s in given.items() if i in only}


def tokens(text: str) -> list[str]:
    """By FTS5 alone, in a database of its own."""
    db = sqlite3.connect(":memory:")
    db.execute(f'CREATE VIRTUAL TABLE t USING fts5(form, tokenize="{lexical.TOKENIZER}")')
    db.execute("CREATE VIRTUAL TABLE v USING fts5vocab('t', 'instance')")
    db.execute("INSERT INTO t VALUES (?)", (lexical.form(text),))
    words = [row[0] for row in db.execute("SELECT term FROM v ORDER BY offset")]
    db.close()
    return words


def test_many_ids_and_few_give_the_same(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    within = np.array([1, 2, 4, 7], np.int64)
    few = index._catalog.lexical("owls hunt at night", 2, within)
    monkeypatch.setattr(lexical, "_LISTED_IDS", 0)
    assert index._catalog.lexical("owls hunt at night", 2, within) == few


def test_common_words_are_left_out_of_a_long_query(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(found(index, "mouse owls")) == ["hunting", "owl"]
    monkeypatch.setattr(lexical, "MAX_VISITS", 1)
    assert found(index, "mouse owls") == ["owl"]
    monkeypatch.setattr(lexical, "MAX_TERMS", 1)
    assert found(index, "a e1142") == ["code"]


def test_what_is_taken_away_is_not_found(index: Index) -> None:
    assert sorted(found(index, "雪")) == ["ja", "zh"]
    index.delete(["owl", "ja"])
    assert found(index, "mouse") == []
    assert sorted(found(index, "雪")) == ["zh"]
    index.upsert([{"id": "fr", "text": "Tout autre chose."}])
    assert found(index, "chouette") == []
    assert found(index, "autre") == ["fr"]
    assert index.verify().problems == ()


# Fusion


def test_hybrid_search_finds_what_only_words_tell(index: Index, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = index.search("E1142", encoder=encoder)
    hits = index.search("E1142", hybrid=True, top=3, encoder=encoder)
    assert hits[0].key == "code"
    assert hits[0].bm25 is not None and hits[0].bm25 > 0
    assert all(hit.bm25 is None for hit in plain)
    assert {hit.key: hit.cosine for hit in plain}["code"] == pytest.approx(hits[0].cosine, abs=1e-6)
    assert hits[0].to_dict()["bm25"] == hits[0].bm25


@pytest.mark.parametrize("query", ["owls hunt at night", "雪の下 owls", "La chouette"])
def test_fused_scores_are_those_of_the_two_rankings(index: Index, encoder: Any, query: str) -> None:
    dense = {hit.chunk_id: hit.cosine for hit in index.search(query, top=100, encoder=encoder)}
    words = dict(index._catalog.lexical(query, 100))
    ranks = {i: sum(1 / (60 + 1 + list(r).index(i)) for r in (dense, words) if i in r) for i in dense}
    fused = index.search(query, top=100, hybrid="rrf", encoder=encoder)
    assert {hit.chunk_id: hit.score for hit in fused} == pytest.approx(ranks)
    assert [hit.score for hit in fused] == sorted(ranks.values(), reverse=True)
    low, high, most = min(dense.values()), max(dense.values()), max(words.values())
    sums = {i: 0.3 * (c - low) / (high - low) + 0.7 * words.get(i, 0) / most for i, c in dense.items()}
    fused = index.search(query, top=100, hybrid="weighted", weight=0.3, encoder=encoder)
    assert {hit.chunk_id: hit.score for hit in fused} == pytest.approx(sums, abs=1e-6)


def test_no_word_in_common_leaves_the_vectors(index: Index, encoder: Any) -> None:
    assert [h.key for h in index.search("xyzzy", hybrid="weighted", encoder=encoder)] == [
        h.key for h in index.search("xyzzy", encoder=encoder)
    ]


def test_fusion_of_nothing() -> None:
    assert reciprocal_ranks([[], []]) == {}
    assert weighted_sums({}, {}, 0.5) == {}
    assert weighted_sums({1: 0.4, 2: 0.4}, {}, 0.5) == {1: 0.5, 2: 0.5}


def test_other_fusions_are_refused(index: Index, encoder: Any) -> None:
    assert (check_fusion(True, 0.5), check_fusion(False, 0.5), check_fusion("rrf", 1)) == ("weighted", None, "rrf")
    with pytest.raises(InputError, match="hybrid is 'sum'; choose one of weighted, rrf"):
        index.search("owls", hybrid="sum", encoder=encoder)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="weight is 1.5; give the share of the cosine, from 0 to 1"):
        index.search("owls", hybrid="weighted", weight=1.5, encoder=encoder)
