"""Filters: what they let through is compared with the same filter worked out in Python (``oracle.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index import oracle

from diffembed.errors import InputError
from diffembed.index import Index
from diffembed.index.filters import MAX_DEPTH, AllOf, AnyOf, Compare, Negation, OneOf, Prefix, parse_filter

RECORDS: list[tuple[str, dict[str, Any]]] = [
    ("a1", {"lang": "en", "year": 2020, "tags": ["x", "y"], "by": {"name": "Ann"}}),
    ("a2", {"lang": "de", "year": 2021.5, "tags": [], "draft": True}),
    ("b1", {"lang": "en", "year": "2020", "tags": "x", "draft": False, "none": None}),
    ("b'2\"; DROP TABLE facts; --", {"lang": "日本", "year": -5, "path": "own", "and": 1}),
    ("c", {}),
    ("d", {"year": 2**53 + 1, "tags": [["x"], {"deep": "z"}], "a.b": 1, "n": 0.1}),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, make_encoder: Any) -> Index:
    folder = tmp_path_factory.mktemp("filters")
    index = Index.create(folder / "index", model=make_encoder(dims=16))
    index.add([{"id": key, "chunks": ["one", "two"], "metadata": metadata} for key, metadata in RECORDS])
    (folder / "src").mkdir()
    (folder / "src" / "main.py").write_text("def main(): pass\n")
    (folder / "notes.md").write_text("# Notes\n\nText.\n")
    index.refresh([folder / "src", folder / "notes.md"])
    return index


def keys(index: Index, where: Any) -> list[str]:
    rows = index._rows_where(where)
    assert rows is not None and rows.tolist() == sorted(rows.tolist())
    chunks = index.chunks(rows.tolist())
    found = [chunk.document.key for chunk in chunks if chunk.id == chunk.document.first_chunk]
    assert sum(index._catalog.document(key).chunks for key in found) == len(chunks)  # type: ignore[union-attr]
    return found


SCALARS: Any = st.sampled_from(
    ["en", "de", "x", "z", "Ann", "2020", 2020, 2021.5, 2**53, -5, 0.1, True, False, None, ""]
)
NAMES = st.sampled_from(["lang", "year", "tags", "by.name", "draft", "none", "missing", "n", "a.b"])
ORDERED = SCALARS.filter(lambda value: not isinstance(value, bool) and value is not None)
LEAVES = st.one_of(
    st.tuples(NAMES, SCALARS),
    st.tuples(NAMES, st.dictionaries(st.sampled_from(["lt", "lte", "gt", "gte"]), ORDERED, min_size=1)),
    st.tuples(NAMES, st.fixed_dictionaries({"in": st.lists(SCALARS, max_size=4)})),
    st.tuples(NAMES, st.fixed_dictionaries({"ne": SCALARS})),
    st.tuples(NAMES, st.fixed_dictionaries({"prefix": st.sampled_from(["", "e", "20", "A", "日"])})),
    st.tuples(st.just("key"), st.fixed_dictionaries({"prefix": st.sampled_from(["a", "b'", ""])})),
    st.tuples(st.just("key"), st.sampled_from([key for key, _ in RECORDS])),
).map(lambda pair: {pair[0]: pair[1]})
FILTERS: Any = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: {"and": parts}),
        st.lists(inner, max_size=3).map(lambda parts: {"or": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(where=FILTERS)
def test_as_in_python(index: Index, where: Any) -> None:
    assert [key for key in keys(index, where) if key[0] != "/"] == [
        key for key, metadata in RECORDS if oracle.passes(where, key, _flat(metadata))
    ]


def _flat(metadata: dict[str, Any]) -> dict[str, Any]:
    """What dots and lists in lists come to, for the oracle, which knows neither."""
    if "a.b" in metadata:
        return {"year": metadata["year"], "n": 0.1, "tags": ["x"], "a": {"b": 1}}
    return metadata


def test_a_list_of_objects(index: Index) -> None:
    assert keys(index, {"tags.deep": "z"}) == ["d"]
    assert keys(index, "tags = x") == ["a1", "b1", "d"]


def test_built_in_fields(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(index.path.parent)
    here = str(index.path.parent)
    assert keys(index, {"path": {"prefix": "src/"}}) == [f"{here}/src/main.py"]
    assert keys(index, {"path": "notes.md"}) == keys(index, {"path": {"in": [f"{here}/notes.md", "other"]}})
    assert {Path(key).name for key in keys(index, 'path prefix ""')} == {"main.py", "notes.md"}
    assert [Path(key).name for key in keys(index, "kind = code")] == ["main.py"]
    assert len(keys(index, "kind != code")) == len(RECORDS) + 1
    assert keys(index, {"metadata.path": "own"}) == [RECORDS[3][0]]
    assert keys(index, {"metadata.and": 1}) == [RECORDS[3][0]]
    assert keys(index, {"key": {"in": []}}) == []
    with pytest.raises(InputError, match="kind is a string; compare it with strings"):
        keys(index, {"kind": 3})


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("lang = en", Compare("lang", "=", "en")),
        ("lang='it\\'s' ", Compare("lang", "=", "it's")),
        ('"a field" != "x y"', Negation(Compare("a field", "=", "x y"))),
        ("n >= -1.5e3", Compare("n", ">=", -1500.0)),
        ("n<2", Compare("n", "<", 2)),
        ("n = '2'", Compare("n", "=", "2")),
        ("draft = true", Compare("draft", "=", True)),
        ("x = null", Compare("x", "=", None)),
        ("date > 2024-01-31", Compare("date", ">", "2024-01-31")),
        ("version = 1.2.3", Compare("version", "=", "1.2.3")),
        ("path PREFIX src/", Prefix("path", "src/")),
        ("t in (a, 2, true)", OneOf("t", ("a", 2, True))),
        ("t not in (a)", Negation(OneOf("t", ("a",)))),
        ("a=1 and b=2 or c=3", AnyOf((AllOf((Compare("a", "=", 1), Compare("b", "=", 2))), Compare("c", "=", 3)))),
        ("a=1 and (b=2 or c=3)", AllOf((Compare("a", "=", 1), AnyOf((Compare("b", "=", 2), Compare("c", "=", 3)))))),
        ("not a=1 and b=2", AllOf((Negation(Compare("a", "=", 1)), Compare("b", "=", 2)))),
        ("sprache = Français", Compare("sprache", "=", "Français")),
    ],
)
def test_sentences(text: str, tree: Any) -> None:
    assert parse_filter(text) == tree


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", r"wrong at its end: expected a field; e\.g\. lang = en"),
        ("lang", r"at its end: expected =, !=, <, <=, >, >=, 'prefix' or 'in'"),
        ("lang = ", "at its end: expected a value"),
        ("lang = en de", "wrong at 'de': expected 'and', 'or' or the end"),
        ("(lang = en", r"expected '\)'"),
        ("t in a", r"wrong at 'a': expected '\('"),
        ("t in (a b)", r"wrong at 'b\)': expected ',' or '\)'"),
        ("a = 'b", 'wrong at "\'b"'),
        ("a = 1; DROP TABLE facts", "wrong at '; DROP TABLE facts'"),
        ("= 3", "expected a field"),
        ("a < true", "'lt' of field 'a' has True.*an order needs a number or a string"),
        ("(" * 300 + "a = 1" + ")" * 300, "nested more than 16 deep"),
        ("a = 1 or (" * 17 + "a = 1" + ")" * 17, "nested more than 16 deep"),
        ({"a": "\ud800"}, "field 'a' of the filter has a lone surrogate"),
        ({"\udcff": "a"}, "a field of the filter has a lone surrogate"),
        ({"a": {"prefix": "x\ud800"}}, "'prefix' of field 'a' has a lone surrogate .* at character 1"),
        ({"or": [{"a": {"in": list(range(6000))}}] * 2}, "lists of the filter have 12000 values, at most 10000"),
        (" and ".join(["a = 1"] * 300), "301 conditions, at most 200"),
        ({"a": [1]}, r'field \'a\' of the filter has a list; write {"a": {"in": \[...\]}}'),
        ({"a": {"like": "x"}}, "operator 'like'; use one of eq, lt"),
        ({"a": {"in": "abc"}}, "'in' of field 'a' has 'abc'"),
        ({"a": {"prefix": 3}}, "'prefix' of field 'a' has 3"),
        ({"a": {}}, "empty condition"),
        ({"a": float("nan")}, "finite number"),
        ({"a": 2**70}, "beyond 64 bits"),
        ({"a": object()}, "give a string, number, boolean or null"),
        ({"and": {"a": 1}}, "'and' of the filter has .* not a list of filters"),
        ({"not": 3}, r"what stands in 'not' is 3 \(int\), not a dict"),
        ({3: 4}, r"a field of the filter is called 3"),
        (["a"], r"the filter is \['a'\] \(list\), not a dict"),
        ({"a": {"in": list(range(10_001))}}, "10001 values, at most 10000"),
    ],
)
def test_what_is_no_filter(where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_filter(where)
    assert len(str(error.value)) < 4000


@pytest.mark.parametrize("word", ["and", "or", "not"])
def test_sqlite_takes_the_deepest_filter(index: Index, make_encoder: Any, word: str) -> None:
    leaf = {"n": {"in": [1, "a", True, None]}}
    where: Any = leaf
    for _ in range(MAX_DEPTH):
        where = {"not": where} if word == "not" else {word: [leaf, where]}
    index.search("owl", where=where, encoder=make_encoder(dims=index.settings.dims))
    with pytest.raises(InputError, match="nested more than 16 deep"):
        index.search("owl", where={"not": where}, encoder=make_encoder(dims=index.settings.dims))


def test_nothing_passes_is_no_error(index: Index, make_encoder: Any) -> None:
    assert index.search("one", where="lang = fr", encoder=make_encoder(dims=16)) == []
    assert index.search("one", where="lang = fr", hybrid=True, encoder=make_encoder(dims=16)) == []
    ids, scores = index.search_vectors(
        make_encoder(dims=16).encode_queries(["one"], dtype="int8").values, 3, where="lang = fr"
    )
    assert ids.tolist() == [[-1, -1, -1]]
    assert (scores == -float("inf")).all()


def test_filters_follow_what_is_written(index: Index, make_encoder: Any) -> None:
    assert keys(index, "draft = true") == ["a2"]
    index.upsert([{"id": "a2", "chunks": ["one", "two"], "metadata": {"draft": False}}])
    assert keys(index, "draft = true") == []
    assert keys(index, "lang = de") == []
    index.upsert([{"id": "a2", "chunks": ["one", "two"], "metadata": RECORDS[1][1]}])
    assert keys(index, "draft = true") == ["a2"]
