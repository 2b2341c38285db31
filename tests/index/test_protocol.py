"""``SearchIndex``: the same tests, with the same expected answers, for an index on disk and for a Qdrant collection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.index import oracle, records

from diffembed.errors import InputError
from diffembed.index.index import Index
from diffembed.index.protocol import SearchIndex
from diffembed.index.qdrant import QdrantIndex
from diffembed.index.qdrant_forms import CollectionSettings

Create = Callable[..., SearchIndex]
METHODS = sorted(
    name
    for name, value in vars(SearchIndex).items()
    if inspect.isfunction(value) and (name == "__len__" or not name.startswith("_"))
)
RECORDS: list[dict[str, Any]] = [
    *records.RECORDS,
    {"id": "odd", "text": "Odd ones.", "metadata": {"n": "2", "draft": 1, "tags": [], "by": {"lang": "en", 'q"%': 0}}},
    {"id": "none", "text": "Nothing said."},
]
CHUNKS = [(str(r["id"]), text) for r in RECORDS for text in r.get("chunks", [r.get("text")])]
FILTERS: list[dict[str, Any]] = [
    {"lang": "en"},
    {"lang": {"ne": "en"}},
    {"lang": {"in": ["de", "fr", 1, None]}},
    {"lang": {"prefix": "e"}},
    {"lang": {"prefix": ""}},
    {"by.lang": "en"},
    {'by.q"%': 0},
    {"n": {"gte": 2}},
    {"n": {"gt": 1, "lt": 2.5}},
    {"n": 1.0},
    {"n": "2"},
    {"n": 2},
    {"n": {"prefix": "2"}},
    {"n": 2**60 + 1},
    {"n": 2**60},
    {"draft": True},
    {"draft": False},
    {"draft": 1},
    {"end": None},
    {"n": None},
    {"missing": None},
    {"missing": {"ne": 5}},
    {"missing": {"lt": 5}},
    {"tags": "code"},
    {"tags": {"ne": "code"}},
    {"tags": {"in": []}},
    {"key": "7"},
    {"key": {"prefix": "b"}},
    {"key": {"in": ["owls", "none", "nobody"]}},
    {"key": {"in": []}},
    {"not": {"or": [{"lang": "de"}, {"n": {"lt": 2}}]}},
    {"lang": "en", "not": {"tags": "rust"}},
    {"and": []},
    {"or": []},
    {},
]


KINDS = ["disk", "qdrant"]


@pytest.fixture(params=KINDS)
def create(request: pytest.FixtureRequest, tmp_path: Path) -> Create:
    """Makes an empty index, for each kind there is."""
    if request.param == "disk":
        return lambda **options: Index.create(tmp_path / "index", **options)
    make: Create = request.getfixturevalue("make_collection")
    return make


@pytest.fixture
def index(create: Create, encoder: Any) -> SearchIndex:
    """The records, in an index that a test may change."""
    made = create(model=encoder)
    made.add(RECORDS)
    return made


@pytest.fixture(scope="module", params=KINDS)
def kept(
    request: pytest.FixtureRequest, make_encoder: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SearchIndex]:
    """The records with all indexes there are, for tests that only read."""
    encoder = make_encoder()
    made: Index | QdrantIndex
    if request.param == "disk":
        made = Index.create(tmp_path_factory.mktemp("kept") / "index", model=encoder)
    else:
        form = CollectionSettings(hybrid=True, filters=("lang", "n", "kind"))
        made = QdrantIndex.create(request.getfixturevalue("server")[0], "protocol", model=encoder, form=form)
    with made:
        made.add(RECORDS)
        yield made


def arguments(cls: type, name: str) -> list[tuple[str, object, bool]]:
    parameters = inspect.signature(getattr(cls, name)).parameters.values()
    return [(p.name, p.kind, p.default is p.empty) for p in parameters]


def test_there_is_something_to_compare() -> None:
    assert {"add", "upsert", "delete", "search", "search_all", "search_vectors", "stats", "__len__"} <= set(METHODS)


@pytest.mark.parametrize("cls", [Index, QdrantIndex])
@pytest.mark.parametrize("name", METHODS)
def test_methods_take_the_same_arguments(cls: type, name: str) -> None:
    assert arguments(cls, name) == arguments(SearchIndex, name)


def test_defaults_agree() -> None:
    for name in METHODS:
        here, there = (inspect.signature(getattr(cls, name)).parameters for cls in (Index, QdrantIndex))
        assert {n: p.default for n, p in here.items()} == {n: p.default for n, p in there.items()}, name


# Searching


@pytest.mark.parametrize("exact", [False, True])
def test_hits_are_in_the_order_of_their_cosines(kept: SearchIndex, encoder: Any, exact: bool) -> None:
    for query in ("owls hear mice in the snow", "bake a loaf", "an owner of a value"):
        vector = encoder.encode_queries([query], dtype="int8").values[0]
        cosines = oracle.cosines(vector, encoder.encode_documents([text for _, text in CHUNKS], dtype="int8").values)
        best = np.argsort(-cosines, kind="stable")[:4]
        hits = kept.search(query, top=4, exact=exact)
        assert [(h.key, h.text) for h in hits] == [CHUNKS[n] for n in best]
        assert [h.cosine for h in hits] == pytest.approx(cosines[best].tolist(), abs=5e-4)
        assert [h.score for h in hits] == [h.cosine for h in hits]


def test_what_a_hit_says(kept: SearchIndex) -> None:
    hit = kept.search("a mouse under the snow")[0]
    assert (hit.key, hit.metadata, hit.path, hit.bm25) == ("owls", {"lang": "en", "n": 1}, None, None)
    assert hit.best_sentence == "They hear a mouse under the snow."
    assert (hit.line_start, hit.line_end) == (1, 1)
    bare = kept.search("a mouse under the snow", sentences=False)[0]
    assert bare.best_sentence == bare.text == RECORDS[0]["text"]


def test_groups_and_neighbours(kept: SearchIndex) -> None:
    grouped = kept.search("bake the loaf of flour and water", group=True, top=6)
    assert sorted(h.key for h in grouped) == sorted(str(r["id"]) for r in RECORDS)
    assert (grouped[0].key, grouped[0].text) in {("bread", "Bake the loaf."), ("bread", "Mix flour and water.")}
    middle = kept.search("bake the loaf", neighbours=1, top=1)[0]
    assert (middle.before, middle.text, middle.after) == (
        ("Mix flour and water.",),
        "Bake the loaf.",
        ("Eat it warm.",),
    )
    first = kept.search("mix flour and water", neighbours=5, top=1)[0]
    assert (first.before, first.after) == ((), ("Bake the loaf.", "Eat it warm."))


def test_many_queries_go_together(kept: SearchIndex) -> None:
    queries = ["owls", "bake the loaf", "an owner"]
    together = kept.search_all(queries, top=2)
    assert [[(h.key, h.score) for h in hits] for hits in together] == [
        [(h.key, h.score) for h in kept.search(query, top=2)] for query in queries
    ]
    assert kept.search_all([]) == []


@pytest.mark.parametrize("fusion", ["rrf", "weighted", True])
def test_words_count_in_hybrid_search(kept: SearchIndex, fusion: Any) -> None:
    hits = kept.search("flour snow", hybrid=fusion, top=8)
    assert {h.key for h in hits[:2]} == {"owls", "bread"}
    assert [(h.bm25 or 0) > 0 for h in hits] == [True, True, *[False] * 6]
    assert [h.key for h in kept.search("flour snow", hybrid=fusion, where={"n": 1})] == ["owls"]
    assert {h.key for h in kept.search("xylophone", hybrid=fusion, top=8)} == {str(r["id"]) for r in RECORDS}


def test_a_filter_lets_through_what_it_should(kept: SearchIndex, encoder: Any) -> None:
    vector = encoder.encode_queries(["anything"], dtype="int8").values
    for where in FILTERS:
        expected = sorted(c for c in CHUNKS for r in RECORDS if str(r["id"]) == c[0] and _passes(where, r))
        found = kept.search("anything", where=where, top=20, sentences=False)
        assert sorted((h.key, h.text) for h in found) == expected, where
        ids, cosines = kept.search_vectors(vector, 10, where=where)
        assert ids.shape == cosines.shape == (1, 10)
        assert (ids >= 0).sum() == np.isfinite(cosines).sum() == len(expected), where
        assert (ids[0, len(expected) :] == -1).all()


def _passes(where: dict[str, Any], record: dict[str, Any]) -> bool:
    return oracle.passes(where, str(record["id"]), record.get("metadata", {}))


def test_filters_as_sentences_and_by_kind(index: SearchIndex) -> None:
    index.upsert([{"id": "main", "text": "def main(): pass", "kind": "code"}])
    assert {h.key for h in index.search("x", where='lang = en and not tags = "rust"')} == {"owls"}
    assert {h.key for h in index.search("x", where="kind = code")} == {"main"}
    assert index.search("x", where={"path": {"prefix": ""}}) == []  # no files


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"query": " "}, "the query is empty"),
        ({"top": 0}, "top is 0; ask for at least 1"),
        ({"neighbours": -1}, "neighbours is -1"),
        ({"hybrid": "bm25"}, "hybrid is 'bm25'"),
        ({"weight": 2}, "weight is 2"),
        ({"where": {"a": [1]}}, "field 'a' of the filter has a list"),
        ({"where": "a ="}, "the filter"),
        ({"where": {"key": {"gt": 7}}}, "key is a string; compare it with strings"),
        ({"where": {"kind": {"in": ["code", None]}}}, "kind is a string; compare it with strings"),
    ],
    ids=str,
)
def test_questions_that_are_none(kept: SearchIndex, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        kept.search(**{"query": "x", **options})


# Writing


def test_upsert_replaces_a_document_and_all_its_chunks(index: SearchIndex) -> None:
    report = index.upsert(
        [
            {"id": "bread", "chunks": ["Buy bread."], "metadata": {"n": 9}},
            RECORDS[0],
            {**RECORDS[3], "metadata": {"lang": "nl"}},
            {"id": "new", "text": "A new one."},
        ]
    )
    assert (report.added, report.replaced, report.described, report.unchanged, report.chunks) == (1, 1, 1, 1, 2)
    assert len(index) == 7
    assert [h.text for h in index.search("bread", where="n = 9")] == ["Buy bread."]
    assert [h.key for h in index.search("Mehl", where="lang = nl")] == ["brot"]
    assert index.search("Mehl", where="lang = de") == []


def test_the_same_id_twice(index: SearchIndex) -> None:
    report = index.upsert({"id": "owls", "text": text} for text in ("One.", "Two.", "Two."))
    assert (report.replaced, report.unchanged) == (2, 1)
    assert [h.text for h in index.search("one", where={"key": "owls"})] == ["Two."]
    with pytest.raises(InputError, match="id 'fresh' is there twice"):
        index.add([{"id": "fresh", "text": "One."}] * 2)


def test_many_records_in_several_commits(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffembed.index.records.BATCH_CHUNKS", 300)
    index = create(dims=8)
    rows = np.random.default_rng(3).integers(-99, 100, (700, 8)).astype(np.int8)
    told: list[int] = []
    report = index.upsert(
        ({"id": n, "text": f"number {n}", "vector": row, "metadata": {"n": n}} for n, row in enumerate(rows)),
        progress=lambda done, _: told.append(done),
    )
    assert (report.added, len(index), told) == (700, 700, [300, 600, 700])
    again = [{"id": n, "text": f"number {n}", "vector": row, "metadata": {"n": -n}} for n, row in enumerate(rows)]
    assert index.upsert(again).described == 699  # 0 has the metadata that it had
    assert index.search_vectors(rows[5:6], 3, where={"n": -5})[0].tolist()[0][1:] == [-1, -1]
    assert index.search_vectors(rows[5:6], 3, where={"n": 5})[0].tolist() == [[-1, -1, -1]]


def test_add_refuses_an_id_that_is_there(index: SearchIndex) -> None:
    with pytest.raises(InputError, match="'owls' is in the index already; use upsert"):
        index.add([{"id": "fresh", "text": "x y"}, RECORDS[0]])


def test_records_that_are_none(index: SearchIndex) -> None:
    for wrong in ("owls", {"id": "x"}, {"text": "x"}, {"id": "x", "text": "x", "metadata": {"a": {1, 2}}}):
        with pytest.raises(InputError):
            index.upsert([wrong])  # type: ignore[list-item]
    with pytest.raises(InputError, match="holds documents; give records"):
        index.add_vectors(np.ones((1, 64), np.int8), [1])
    assert len(index) == 8


def test_delete_says_how_many_there_were(index: SearchIndex) -> None:
    assert index.delete(["bread", 7, "nobody", "bread"]) == 2
    assert {h.key for h in index.search("anything")} == {"owls", "brot", "odd", "none"}
    assert index.delete([]) == 0
    with pytest.raises(InputError, match="give a list of ids"):
        index.delete("owls")
    assert (len(index), index.stats().documents, index.stats().rows) == (4, 4, 4)


def test_stats(kept: SearchIndex) -> None:
    stats = kept.stats()
    assert (stats.documents, stats.rows) == (6, 8)
    told = stats.to_dict()
    assert (told["documents"], told["rows"], told["dims"], told["model"]) == (6, 8, 64, "fake")


# Vectors only


def test_vectors_only(create: Create) -> None:
    index = create(dims=16, vectors_only=True)
    rows = np.random.default_rng(5).integers(-90, 91, (600, 16)).astype(np.int8)
    ids = np.random.default_rng(6).permutation(10_000)[:600]
    ids[0] = 2**63 - 1
    assert index.add_vectors(rows, ids) == 600
    assert index.add_vectors(rows[:1, ::-1], ids[:1]) == 1  # in the place of the first
    rows[0] = rows[0, ::-1].copy()
    assert len(index) == 600
    truth = np.array([oracle.cosines(query, rows) for query in rows[:20]])
    found, cosines = index.search_vectors(rows[:20], 5, exact=True)
    assert found[:, 0].tolist() == ids[:20].tolist()
    assert np.abs(cosines - np.sort(truth, axis=1)[:, ::-1][:, :5]).max() < 5e-4
    assert index.delete([int(ids[1]), 10_001]) == 1
    assert (len(index), index.stats().rows, index.stats().documents) == (599, 599, 0)
    assert int(ids[1]) not in index.search_vectors(rows[1:2], 10)[0]
    for wrong, said in (
        (lambda: index.search("x"), "vectors only"),
        (lambda: index.add([{"id": 1, "text": "x"}]), "vectors only"),
        (lambda: index.search_vectors(rows[:1], 1, where={"a": 1}), "vectors only"),
        (lambda: index.add_vectors(rows[:2], [1, 1]), "id 1 is there twice"),
        (lambda: index.add_vectors(rows[:1], [-1]), "out of range"),
        (lambda: index.add_vectors(rows[:1, :3], [1]), r"shape \[1, 3\]"),
        (lambda: index.search_vectors(rows[:1, :3], 1), "3"),
        (lambda: index.delete(["x"]), "no id of an index of vectors only"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()


def test_a_vector_of_zeros_is_close_to_nothing(create: Create) -> None:
    index = create(dims=16, vectors_only=True)
    index.add_vectors(np.concatenate([np.zeros((1, 16), np.int8), np.eye(16, dtype=np.int8) * 9]), np.arange(17))
    ids, cosines = index.search_vectors(np.full((1, 16), 5, np.int8), 17)
    assert ids[0, -1] == 0
    assert cosines[0, -1] == 0
    assert np.abs(cosines[0, :-1] - 0.25).max() < 5e-4


# Documents


def as_records(found: Any) -> list[dict[str, Any]]:
    return [document.to_record() for document in found]


def expected_records(records_: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(r["id"]),
            "chunks": list(r.get("chunks", [r.get("text")])),
            "kind": "prose",
            "metadata": r.get("metadata", {}),
        }
        for r in records_
    ]


def test_get_gives_what_was_stored(kept: SearchIndex) -> None:
    found = kept.get([7, "bread", "nobody", "bread"])
    assert as_records(found) == expected_records([RECORDS[2], RECORDS[1]])
    assert [(d.key, d.path, len(d.chunk_ids)) for d in found] == [("7", None, 1), ("bread", None, 3)]
    assert [c.line_start for c in found[1].chunks] == [1, 2, 3]
    assert found[0].vectors is None
    assert kept.get([]) == []
    hit = kept.search("bake the loaf", top=1)[0]
    assert hit.chunk_id == found[1].chunk_ids[1]


def test_get_gives_the_vectors_that_searches_compare(kept: SearchIndex, encoder: Any) -> None:
    [bread] = kept.get(["bread"], vectors=True)
    assert bread.vectors is not None and bread.vectors.dtype == np.int8
    texts = [chunk.text for chunk in bread.chunks]
    made = encoder.encode_documents(texts, dtype="int8").values
    own = [oracle.cosines(row, made)[number] for number, row in enumerate(bread.vectors)]
    assert min(own) > 0.999  # a collection keeps directions, to half precision
    again = kept.search_vectors(bread.vectors[1:2], 1)[0]
    assert again[0, 0] == bread.chunk_ids[1]


def test_scroll_goes_through_everything_once(kept: SearchIndex) -> None:
    found = list(kept.scroll())
    assert sorted(d.key for d in found) == sorted(str(r["id"]) for r in RECORDS)
    by_key = {d.key: d for d in found}
    assert as_records(by_key[str(r["id"])] for r in RECORDS) == expected_records(RECORDS)
    order = [d.key for d in found]
    for size in (1, 2, 4, 100):  # page by page comes the same, in the same order
        pages: list[str] = []
        while page := list(kept.scroll(limit=size, after=pages[-1] if pages else None)):
            assert len(page) <= size
            pages += [d.key for d in page]
        assert pages == order
    assert list(kept.scroll(after=order[-1])) == []


def test_scroll_and_count_take_the_filters_of_a_search(kept: SearchIndex) -> None:
    for where in FILTERS:
        expected = sorted(str(r["id"]) for r in RECORDS if _passes(where, r))
        assert sorted(d.key for d in kept.scroll(where)) == expected, where
        assert kept.count(where) == len(expected), where
    assert (kept.count(), len(kept)) == (6, 8)
    assert kept.count("lang = en or lang = de") == 3


@pytest.mark.parametrize("count", [300, 700])
def test_scroll_reads_more_than_a_page(create: Create, count: int) -> None:
    index = create(dims=8)
    rows = np.random.default_rng(3).integers(-99, 100, (count, 8)).astype(np.int8)
    index.add({"id": n, "text": f"number {n}", "vector": row, "metadata": {"n": n}} for n, row in enumerate(rows))
    found = list(index.scroll({"n": {"gte": 10}}, vectors=True))
    assert sorted(int(d.key) for d in found) == list(range(10, count))
    for d in found:
        assert d.vectors is not None
        assert oracle.cosines(d.vectors[0], rows[int(d.key)][None])[0] > 0.999
    assert len(list(index.scroll(limit=290))) == 290


def test_records_come_back_as_they_were(index: SearchIndex) -> None:
    before = as_records(index.scroll())
    report = index.upsert(before)
    assert (report.added, report.described, report.replaced + report.unchanged) == (0, 0, 6)
    assert as_records(index.scroll()) == before


def test_delete_by_filter(index: SearchIndex) -> None:
    assert index.delete(where={"lang": {"in": ["en", "de"]}}) == 3
    assert sorted(d.key for d in index.scroll()) == ["bread", "none", "odd"]
    assert (len(index), index.stats().documents) == (5, 3)
    assert {h.key for h in index.search("owls", top=9)} == {"bread", "none", "odd"}
    assert index.delete(where="lang = en") == 0
    assert index.delete(where={"n": {"gt": 2}}) == 1
    assert sorted(d.key for d in index.scroll()) == ["none", "odd"]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda i: i.delete(), "neither ids nor a filter"),
        (lambda i: i.delete(["owls"], where={"n": 1}), "both ids and a filter"),
        (lambda i: i.delete(where={}), "the filter is empty, so every document would be deleted"),
        (lambda i: i.delete(where={"and": []}), "the filter is empty"),
        (lambda i: i.delete(where={"n": [1]}), "field 'n' of the filter has a list"),
        (lambda i: i.get("owls"), "ids is 'owls'; give a list of ids"),
        (lambda i: i.get(7), "ids is 7; give a list of ids"),
        (lambda i: i.get([None]), "None is no id"),
        (lambda i: i.scroll({"n": [1]}), "field 'n' of the filter has a list"),
        (lambda i: i.scroll(limit=0), "limit is 0; give a whole number from 1"),
        (lambda i: i.scroll(limit=True), "limit is True"),
        (lambda i: i.count({"n": [1]}), "field 'n' of the filter has a list"),
    ],
)
def test_documents_that_cannot_be_asked_for(index: SearchIndex, ask: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ask(index)
    assert len(index) == 8


def test_pages_of_a_search_and_a_least_score(kept: SearchIndex) -> None:
    for options in ({}, {"hybrid": "rrf"}, {"hybrid": True}, {"group": True}, {"where": "n >= 1"}):
        whole = kept.search("bake the loaf of flour", top=6, **options)  # type: ignore[arg-type]
        paged = [
            hit
            for page in range(3)
            for hit in kept.search("bake the loaf of flour", top=2, offset=2 * page, **options)  # type: ignore[arg-type]
        ]
        assert [(h.key, h.text, h.score) for h in paged] == [(h.key, h.text, h.score) for h in whole], options
        least = whole[1].score
        above = kept.search("bake the loaf of flour", top=6, min_score=least, **options)  # type: ignore[arg-type]
        assert [h.chunk_id for h in above] == [h.chunk_id for h in whole if h.score >= least]
    assert kept.search("owls", offset=8) == []
    assert kept.search("owls", min_score=1.01) == []
    for wrong, said in (
        ({"offset": -1}, "offset is -1"),
        ({"offset": 1.5}, "offset is 1.5"),
        ({"offset": True}, "offset"),
    ):
        with pytest.raises(InputError, match=said):
            kept.search("owls", **wrong)  # type: ignore[arg-type]
    for least_ in (float("nan"), "0.5", True):
        with pytest.raises(InputError, match="min_score is"):
            kept.search("owls", min_score=least_)  # type: ignore[arg-type]


def test_vectors_only_by_id(create: Create) -> None:
    index = create(dims=16, vectors_only=True)
    rows = np.random.default_rng(5).integers(-90, 91, (600, 16)).astype(np.int8)
    rows[3] = 0
    ids = np.random.default_rng(6).permutation(10_000)[:600]
    index.add_vectors(rows, ids)
    asked = [5, 3, 599, 5]
    found = index.vectors(ids[asked])
    assert found.dtype == np.int8 and found.shape == (4, 16)
    for row, number in zip(found, asked, strict=True):
        same = oracle.cosines(row, rows[number][None])[0]
        assert same > 0.999 if number != 3 else not row.any()
    assert index.vectors([]).shape[0] == 0
    assert index.count() == 600
    missing = int(np.setdiff1d(np.arange(10_000), ids)[0])
    index.delete([int(ids[0])])
    for wrong, said in (
        (lambda: index.vectors([missing]), f"no (row|vector) {missing}"),
        (lambda: index.vectors([int(ids[0])]), f"no (row|vector) {ids[0]}"),
        (lambda: index.vectors([-1]), "id -1 is out of range"),
        (lambda: index.vectors(3), "give a list of integers"),
        (lambda: index.vectors(["3"]), "only takes integers"),
        (lambda: index.get([1]), "vectors only, no documents; ask for vectors"),
        (lambda: index.scroll(), "vectors only"),
        (lambda: index.count("a = 1"), "vectors only"),
        (lambda: index.delete(where="a = 1"), "vectors only"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()
