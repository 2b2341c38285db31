"""The model test: random operations, kills among them, against plain dictionaries.

Each runs twice: with segments that are scanned, where every answer has to be exact, and with such that are sealed (from
some dozens of rows on, for this test), where ``exact=True`` has to be and any other search has to find nearly as much.

The seed is printed; ``DIFFEMBED_MODEL_SEED`` repeats a run and ``DIFFEMBED_MODEL_OPERATIONS`` (20,000 for the long run)
says how long it is.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.index import oracle

from diffembed.index import Index, exchange, lexical
from diffembed.index.coarse import Coarse

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
OPERATIONS = int(os.environ.get("DIFFEMBED_MODEL_OPERATIONS", "250"))
DIMS = 32
WORDS = "owl snow mouse night barn wing 梟は夜に 雪の下 river stone bridge hunting hunts été naïve ไทย x7 42".split()
KEYS = [f"r{n}" for n in range(120)]


class Killed(Exception):
    """The worker was killed before it acknowledged."""


class Worker:
    """The process that writes; started again after every kill."""

    def __init__(self, folder: Path, sealing: bool) -> None:
        self.folder = folder
        self.sealing = sealing
        self.kills = 0
        self.times: dict[str, list[float]] = {}
        self.start()

    def start(self) -> None:
        code = f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(SOURCE)!r}]; import worker; worker.main"
        code += f"(worker.Path({str(self.folder)!r}), {DIMS}, {self.sealing})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, asked: dict[str, Any], chance: random.Random, *, kill: bool = False) -> int:
        """The result of an operation; with ``kill`` the process may die in the middle of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        assert self.line() == "begun"
        began = time.perf_counter()
        times = self.times.setdefault(asked["op"], [])
        kill = kill and bool(times)  # how long it takes here has to be known first
        if kill:
            time.sleep(chance.uniform(0, 1.2) * statistics.median(times[-50:]))
            self.process.kill()
        answer = self.line()
        times.append(time.perf_counter() - began)
        if kill:
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdin.close()
            self.process.stdout.close()
            self.start()
            self.kills += 1
            if not answer:
                raise Killed
        assert answer.startswith("done "), answer
        return int(answer.split()[1])

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture
def chance(record_property: Callable[[str, object], None]) -> random.Random:
    seed = int(os.environ.get("DIFFEMBED_MODEL_SEED", "0")) or random.SystemRandom().randrange(10**6)
    record_property("seed", seed)
    print(f"DIFFEMBED_MODEL_SEED={seed}")  # shown by pytest when the test fails
    return random.Random(seed)


@pytest.fixture(params=[False, True], ids=["scanned", "sealed"])
def sealing(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def start(tmp_path: Path, sealing: bool) -> Iterator[Callable[[], Worker]]:
    started: list[Worker] = []

    def begin() -> Worker:
        started.append(Worker(tmp_path / "index", sealing))
        return started[0]

    yield begin
    for worker in started:
        worker.close()


class Share:
    """How much of what exact search gives the other searches found, and how often a coarse index was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found = self.wanted = self.searches = self.asked = 0
        search = Coarse.search

        def counted(*args: Any, **options: Any) -> Any:
            self.asked += 1
            return search(*args, **options)

        monkeypatch.setattr(Coarse, "search", counted)

    def count(self, found: set[Any], wanted: set[Any]) -> None:
        self.searches += 1
        if len(wanted) <= 10:  # more are nearly all rows, which are scanned
            self.found += len(found & wanted)
            self.wanted += len(wanted)

    def check(self, sealing: bool) -> None:
        assert self.found >= (0.85 if sealing else 1) * self.wanted
        assert (self.asked > 0) == sealing


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Share:
    return Share(monkeypatch)


# Records


def some_record(chance: random.Random, key: str) -> dict[str, Any]:
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 9))) for _ in range(chance.randint(1, 3))]
    metadata: dict[str, Any] = {}
    if chance.random() < 0.8:
        metadata["year"] = chance.choice([2019, 2020, 2021, 2020.5, "2020", None, True])
    if chance.random() < 0.8:
        metadata["tags"] = chance.sample(["a", "ab", "b", "c"], chance.randint(0, 3))
    if chance.random() < 0.5:
        metadata["by"] = {"name": chance.choice(["Ann", "Anna", "Bob", "Çe\U0010ffff"])}
    return {"id": key, "chunks": texts, "metadata": metadata}


def some_filter(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    if depth < 2 and chance.random() < 0.4:
        parts = [some_filter(chance, depth + 1) for _ in range(chance.randint(0, 3))]
        return (
            {chance.choice(["and", "or"]): parts} if chance.random() < 0.7 else {"not": some_filter(chance, depth + 1)}
        )
    return chance.choice(
        [
            {"year": chance.choice([2020, "2020", None, True, 2020.5])},
            {"year": {chance.choice(["lt", "lte", "gt", "gte"]): chance.choice([2020, 2020.25, "2020"])}},
            {"year": {"gte": 2020, "lt": 2021}},
            {"tags": {"in": chance.sample(["a", "b", "c", 2020, True], 2)}},
            {"tags": {"prefix": chance.choice(["a", "ab", "", "z"])}},
            {"by.name": {"prefix": chance.choice(["Ann", "Ç", "Çe\U0010ffff"])}},
            {"by.name": {"ne": "Bob"}},
            {"key": {"prefix": "r1"}},
            {"key": {"in": chance.sample(KEYS, 5)}},
        ]
    )


def check_records(
    index: Index, expected: dict[str, dict[str, Any]], encoder: Any, chance: random.Random, share: Share
) -> None:
    """One search of each kind gives what the dictionary gives."""
    query = " ".join(chance.choices(WORDS, k=chance.randint(1, 4)))
    where = some_filter(chance) if chance.random() < 0.7 else None
    kept = {k: r for k, r in expected.items() if where is None or oracle.passes(where, k, r["metadata"])}
    chunks = [(key, number, text) for key, r in kept.items() for number, text in enumerate(r["chunks"])]
    query_D = encoder.encode_queries([query], dtype="int8").values[0]
    rows = (
        encoder.encode_documents([text for _, _, text in chunks], dtype="int8").values
        if chunks
        else np.empty((0, DIMS))
    )
    scores = oracle.cosines(query_D, rows)
    top = chance.choice([1, 5, 1000])
    hits = index.search(query, top=top, where=where, encoder=encoder, sentences=False, exact=True)
    assert len(hits) == min(top, len(chunks)), where
    np.testing.assert_allclose([h.score for h in hits], np.sort(scores)[::-1][:top], atol=1e-6)
    by_place = {(key, text): score for (key, _, text), score in zip(chunks, scores.tolist(), strict=True)}
    coarse = index.search(query, top=top, where=where, encoder=encoder, sentences=False)
    assert len(coarse) == len(hits)
    for hit in hits + coarse:
        assert abs(by_place[hit.key, hit.text] - hit.score) < 1e-6
        assert hit.metadata == expected[hit.key]["metadata"]
    assert len({hit.chunk_id for hit in hits}) == len({hit.chunk_id for hit in coarse}) == len(hits)
    share.count({hit.chunk_id for hit in coarse}, {hit.chunk_id for hit in hits})
    grouped = index.search(query, top=top, where=where, group=True, encoder=encoder, sentences=False, exact=True)
    best = {}
    for (key, _, _), score in zip(chunks, scores.tolist(), strict=True):
        best[key] = max(score, best.get(key, -2.0))
    np.testing.assert_allclose([h.score for h in grouped], sorted(best.values(), reverse=True)[:top], atol=1e-6)
    check_words(index, expected, query, kept, where)
    check_documents(index, expected, kept, where, encoder, chance)


def check_documents(index: Index, expected: Any, kept: Any, where: Any, encoder: Any, chance: random.Random) -> None:
    """Read by id and by filter, with the vectors of a few, there is what the dictionary has."""
    assert index.count(where) == len(kept)
    found = {d.key: (dict(d.metadata), [chunk.text for chunk in d.chunks]) for d in index.scroll(where)}
    assert found == plain(kept)
    asked = chance.sample(KEYS, 5)
    documents = index.get(asked, vectors=True)
    assert [d.key for d in documents] == [key for key in asked if key in expected]
    for document in documents:
        rows = encoder.encode_documents(expected[document.key]["chunks"], dtype="int8").values
        assert np.array_equal(document.vectors, rows)  # type: ignore[arg-type]
        assert np.array_equal(index.vectors(document.chunk_ids[::-1]), rows[::-1])


def check_words(index: Index, expected: Any, query: str, kept: Any, where: Any) -> None:
    """BM25 of the full-text index against the formula, over every chunk."""
    with index._catalog.reading():
        allowed = index._rows_where(where)
        found = dict(index._catalog.lexical(query, 1000, allowed))
        everything = index._rows_where({})
        assert everything is not None
        stored = {c.id: c for c in index._catalog.chunks(everything.tolist())}
    words = {id_: lexical_words(c.chunk.text) for id_, c in stored.items()}
    scores = oracle.bm25(list(lexical.terms(query)), words)
    wanted = {id_: score for id_, score in scores.items() if stored[id_].document.key in kept}
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose([found[i] for i in wanted], list(wanted.values()), rtol=1e-6)


def lexical_words(text: str) -> list[str]:
    """The words of a chunk as the index holds them, repetitions included."""
    with lexical._tokenizing:
        db = lexical._tokenizer()
        db.execute("INSERT INTO stems (stems) VALUES ('delete-all')")
        db.execute("INSERT INTO stems (rowid, form) VALUES (1, ?)", (lexical.form(text),))
        return [row[0] for row in db.execute("SELECT term FROM stems_terms ORDER BY offset")]


def test_records(
    tmp_path: Path,
    start: Callable[[], Worker],
    sealing: bool,
    share: Share,
    chance: random.Random,
    make_encoder: Any,
    record_property: Callable[[str, object], None],
) -> None:
    encoder = make_encoder(dims=DIMS)
    folder = tmp_path / "index"
    index = Index.create(folder, model=encoder)
    worker = start()
    expected: dict[str, dict[str, Any]] = {}
    for _ in range(OPERATIONS):
        act = chance.random()
        kill = chance.random() < 0.04
        if act < 0.45:
            new = [some_record(chance, key) for key in chance.sample(KEYS, chance.randint(1, 6))]
            op = "upsert"
            if act < 0.1:
                new, op = [record for record in new if record["id"] not in expected], "add"
            after = expected | {record["id"]: record for record in new}
            asked: dict[str, Any] = {"op": op, "records": new}
        elif act < 0.57:
            keys = chance.sample(KEYS, chance.randint(1, 8))
            after = {key: record for key, record in expected.items() if key not in keys}
            asked = {"op": "delete", "ids": keys}
        elif act < 0.6:
            where = {"and": [some_filter(chance), {"key": {"in": chance.sample(KEYS, 30)}}]}
            after = {k: r for k, r in expected.items() if not oracle.passes(where, k, r["metadata"])}
            asked = {"op": "delete", "where": where}
        elif act < 0.63:
            after, asked = expected, {"op": "compact"}
        elif act < 0.68:
            index.close()
            index = Index.open(folder)
            continue
        else:
            check_records(index, expected, encoder, chance, share)
            continue
        try:
            worker.ask(asked, chance, kill=kill)
            expected = after
        except Killed:
            index.close()
            index = Index.open(folder)
            found = contents(index)
            states = [state for state in (after, expected) if plain(state) == found]
            assert states, "a batch is half there, or something acknowledged is gone"
            expected = states[0]
    assert contents(index) == plain(expected)
    check_records(index, expected, encoder, chance, share)
    share.check(sealing)
    assert index.verify().problems == ()
    for name, value in (("operations", OPERATIONS), ("kills", worker.kills), ("searches", share.searches)):
        record_property(name, value)
    record_property("found_of_the_nearest", share.found / share.wanted)
    index.close()


def contents(index: Index) -> dict[str, Any]:
    """Everything that is stored, by the ids of the records."""
    with index._catalog.reading():
        documents = list(index._catalog.documents())
        ids = [range(d.first_chunk, d.first_chunk + d.chunks) for d in documents]
        texts = [[stored.chunk.text for stored in index._catalog.chunks(list(own))] for own in ids]
    return {d.key: (json.loads(d.metadata), own) for d, own in zip(documents, texts, strict=True)}


def plain(state: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The same of what is expected."""
    return {key: (record["metadata"], record["chunks"]) for key, record in state.items()}


# Vectors only


def test_vectors_only(
    tmp_path: Path,
    start: Callable[[], Worker],
    sealing: bool,
    share: Share,
    chance: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    folder = tmp_path / "index"
    index = Index.create(folder, dims=DIMS, vectors_only=True)
    worker = start()
    numbers = np.random.default_rng(chance.randrange(2**32))
    expected: dict[int, Any] = {}
    for _ in range(OPERATIONS):
        act = chance.random()
        if act < 0.45:
            ids = chance.sample(range(400), chance.randint(1, 30))
            rows = numbers.integers(-127, 128, (len(ids), DIMS)).astype(np.int8)
            after = expected | dict(zip(ids, rows, strict=True))
            asked: dict[str, Any] = {"op": "vectors", "ids": ids, "rows": rows.tolist()}
        elif act < 0.6:
            ids = chance.sample(range(400), chance.randint(1, 40))
            after = {id_: row for id_, row in expected.items() if id_ not in ids}
            asked = {"op": "delete", "ids": ids}
        elif act < 0.63:
            after, asked = expected, {"op": "compact"}
        elif act < 0.68:
            index.close()
            index = Index.open(folder)
            continue
        else:
            check_vectors(index, expected, numbers, share)
            continue
        try:
            worker.ask(asked, chance, kill=chance.random() < 0.04)
            expected = after
        except Killed:
            index.close()
            index = Index.open(folder)
            states = [
                state for state in (after, expected) if rows_of(index) == {i: r.tolist() for i, r in state.items()}
            ]
            assert states, "a batch is half there, or something acknowledged is gone"
            expected = states[0]
    check_vectors(index, expected, numbers, share)
    share.check(sealing)
    assert index.verify().problems == ()
    for name, value in (("operations", OPERATIONS), ("kills", worker.kills), ("searches", share.searches)):
        record_property(name, value)
    record_property("found_of_the_nearest", share.found / share.wanted)
    index.close()


def check_vectors(index: Index, expected: dict[int, Any], numbers: Any, share: Share) -> None:
    query = numbers.integers(-127, 128, (1, DIMS)).astype(np.int8)
    top = int(numbers.choice([1, 10, 1000]))
    assert len(index) == len(expected)
    rows = np.array(list(expected.values()), np.int8).reshape(-1, DIMS)
    cosines = oracle.cosines(query[0], rows)
    count = min(top, len(expected))
    of_row = dict(zip(expected, cosines.tolist(), strict=True))
    found: list[set[int]] = []
    for exact in (True, False):
        ids, scores = index.search_vectors(query, top, exact=exact)
        assert (ids[0, count:] == -1).all() and np.isneginf(scores[0, count:]).all()
        np.testing.assert_allclose(scores[0, :count], [of_row[i] for i in ids[0, :count].tolist()], atol=1e-6)
        found.append(set(ids[0, :count].tolist()))
        assert len(found[-1]) == count
        if exact:
            np.testing.assert_allclose(scores[0, :count], np.sort(cosines)[::-1][:top], atol=1e-6)
    share.count(found[1], found[0])
    some = numbers.choice(sorted(expected), 5) if expected else np.empty(0, np.int64)
    assert index.vectors(some).tolist() == [expected[int(id_)].tolist() for id_ in some]


def rows_of(index: Index) -> dict[int, list[int]]:
    """Every live row that an index of vectors only holds."""
    return index._reading(
        lambda snapshot: {
            id_: row
            for ids, rows in exchange.blocks(snapshot)
            for id_, row in zip(ids.tolist(), rows.tolist(), strict=True)
        }
    )
