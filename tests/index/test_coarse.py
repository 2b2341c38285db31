from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.index.vectors import embedded, oracle, unit

from diffembed.errors import IndexStoreError
from diffembed.index import coarse_build
from diffembed.index.coarse import Coarse, selector
from diffembed.index.coarse_build import Design, build_coarse, train_centroids
from diffembed.index.scan import Part, Sealed, Snapshot
from diffembed.index.segments import Segment
from diffembed.index.tuning import Setting, Tuning, tune

ROWS, DIMS = 6000, 32
DESIGN = Design(lists=64)


def built(rows: np.ndarray, folder: Path, design: Design = DESIGN) -> Coarse:
    (folder / "segments").mkdir(parents=True, exist_ok=True)
    path = folder / "segments" / "a.seg.coarse"
    build_coarse(Segment.in_memory(rows), path, folder / "work", design=design)
    return Coarse(path, rows=len(rows), dims=rows.shape[1])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return embedded(ROWS, DIMS)


@pytest.fixture(scope="module")
def coarse(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Coarse:
    return built(rows, tmp_path_factory.mktemp("coarse"))


def snapshot(rows: np.ndarray, coarse: Coarse, live: np.ndarray | None = None, probes: int = 64) -> Snapshot:
    tuning = Tuning("pq2", 0.95, (Setting(10, probes, 200, 0.99),))
    return Snapshot([Part(Segment.in_memory(rows), live, Sealed(coarse, tuning))])


def found_share(found: np.ndarray, exact: np.ndarray) -> float:
    hits = [len(set(f) & set(e[e >= 0])) for f, e in zip(found.tolist(), exact, strict=True)]
    return sum(hits) / int((exact >= 0).sum())


@pytest.mark.parametrize("codes", ["pq2", "pq4", "rabitq", "rabitq2"])
def test_the_lists_are_those_that_faiss_itself_makes(rows: np.ndarray, tmp_path: Path, codes: str) -> None:
    """Codes of ours, packed and mapped, give the places and distances that faiss gives after ``add``."""
    import faiss

    coarse = built(rows, tmp_path, Design(lists=16, codes=codes))  # type: ignore[arg-type]
    coarse.verify()
    peer = faiss.deserialize_index(coarse._file.section(64, coarse._file.first, "u1"))
    units = unit(rows).astype(np.float32)
    peer.quantizer = coarse._index.quantizer  # its graph finds lists of its own accord: here all are scanned
    peer.own_fields = False
    peer.nprobe = 16
    peer.add(units)
    for query in embedded(20, DIMS, seed=1):
        distances, places = peer.search(unit(query[None]).astype(np.float32), 50)
        found, estimated = coarse.search(query, probes=16, candidates=50)
        assert len(set(found.tolist()) & set(places[0].tolist())) >= 49  # equal estimates at the end may differ
        np.testing.assert_allclose(estimated, distances[0], rtol=1e-3, atol=1e-4)


def test_recall_against_exact_search(rows: np.ndarray, coarse: Coarse) -> None:
    queries = embedded(100, DIMS, seed=1)
    exact, cosines = oracle(rows, queries, 10)
    for probes, least in ((64, 0.99), (16, 0.9), (1, 0.3)):
        found, scores = snapshot(rows, coarse, probes=probes).search(queries, 10)
        assert found_share(found, exact) >= least
    assert 0.3 < found_share(found, exact) < 0.95, "one list of 64 cannot hold everything"
    truly = np.take_along_axis(unit(queries) @ unit(rows).T, found, axis=1)
    np.testing.assert_allclose(scores, truly, atol=3e-7)
    assert (np.diff(scores, axis=1) <= 0).all()
    found, scores = snapshot(rows, coarse, probes=1).search(queries, 10, exact=True)
    np.testing.assert_allclose(scores, cosines, atol=3e-7)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_filters_of_every_selectivity(
    rows: np.ndarray, coarse: Coarse, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffembed.index.scan._SURVIVOR_VALUES", 100 * DIMS)  # filters reach the coarse search early
    rng = np.random.default_rng(5)
    allowed = np.flatnonzero(rng.random(ROWS) < share)
    live = rng.random(ROWS) < 0.8
    counted = allowed[live[allowed]]
    queries = embedded(50, DIMS, seed=2)
    exact, _ = oracle(rows[counted], queries, 10, counted)
    found, _ = snapshot(rows, coarse, live, probes=16).search(queries, 10, allowed=allowed)
    assert np.isin(found[found >= 0], counted).all()
    assert ((found >= 0).sum(axis=1) == min(10, len(counted))).all()
    assert found_share(found, exact) >= 0.9


def test_dead_rows_cost_no_answers(rows: np.ndarray, coarse: Coarse) -> None:
    queries = embedded(50, DIMS, seed=3)
    nearest, _ = oracle(rows, queries, 20)
    live = ~np.isin(np.arange(ROWS), nearest)  # the best answers of all queries are gone
    exact, _ = oracle(rows[live], queries, 10, np.flatnonzero(live))
    found, _ = snapshot(rows, coarse, live).search(queries, 10)
    assert live[found].all()
    assert found_share(found, exact) >= 0.98


def test_many_results_many_queries_and_threads_agree(rows: np.ndarray, coarse: Coarse) -> None:
    queries = embedded(40, DIMS, seed=4)
    view = snapshot(rows, coarse)
    together = view.search(queries, 1000, threads=3)
    for number in (0, 17, 39):
        alone = view.search(queries[number : number + 1], 1000, threads=1)
        np.testing.assert_array_equal(alone[0][0], together[0][number])
        np.testing.assert_array_equal(alone[1][0], together[1][number])
    assert found_share(together[0], oracle(rows, queries, 1000)[0]) >= 0.95


def test_several_sealed_segments_and_small_ones(rows: np.ndarray, tmp_path: Path) -> None:
    parts = []
    for number, piece in enumerate(np.array_split(rows, 4)):
        segment = Segment.in_memory(piece, range(1500 * number, 1500 * number + 1500))
        sealed = None
        if number < 3:
            tuning = Tuning("pq2", 0.95, (Setting(10, 16, 60, 0.99),))
            sealed = Sealed(built(piece, tmp_path / str(number), Design(lists=16)), tuning)
        parts.append(Part(segment, None, sealed))
    queries = embedded(50, DIMS, seed=5)
    assert found_share(Snapshot(parts).search(queries, 10)[0], oracle(rows, queries, 10)[0]) >= 0.97


def test_tuning_reaches_the_recall_that_was_asked_for(rows: np.ndarray, coarse: Coarse) -> None:
    segment = Segment.in_memory(rows)
    tuned = tune(segment, coarse, "pq2", wanted=0.9)
    more = tune(segment, coarse, "pq2", wanted=0.99)
    assert [setting.top for setting in tuned.settings] == [10, 100, 1000]
    for less, much in zip(tuned.settings, more.settings, strict=True):
        assert less.recall >= 0.9
        assert much.recall >= 0.99
        assert (less.probes, less.candidates) != (much.probes, much.candidates)
        assert less.probes <= much.probes
    queries = embedded(200, DIMS, seed=6)
    view = Snapshot([Part(segment, None, Sealed(coarse, tuned))])
    for top in (10, 100):
        assert found_share(view.search(queries, top)[0], oracle(rows, queries, top)[0]) >= 0.9


def test_a_tiny_segment_can_be_tuned(tmp_path: Path) -> None:
    rows = embedded(20, 8)
    coarse = built(rows, tmp_path, Design(lists=2))
    tuned = tune(Segment.in_memory(rows), coarse, "pq2")
    assert [setting.top for setting in tuned.settings] == [10, 19]
    assert tuned.settings[-1].recall == 1.0


def test_an_interrupted_build_goes_on(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coarse: Coarse
) -> None:
    monkeypatch.setattr(coarse_build, "PART_ROWS", 1000)
    steps: list[tuple[str, int]] = []

    class KilledError(Exception):
        pass

    def until(limit: int) -> None:
        def told(step: str, done: int, _: int) -> None:
            steps.append((step, done))
            if len(steps) == limit:
                raise KilledError

        path = tmp_path / "segments" / "a.seg.coarse"
        build_coarse(Segment.in_memory(rows), path, tmp_path / "work", design=Design(lists=64), progress=told)

    (tmp_path / "segments").mkdir()
    for limit in (1, 2, 2):
        steps.clear()
        with pytest.raises(KilledError):
            until(limit)
    steps.clear()
    until(-1)
    assert ("train", 0) not in steps
    assert len([step for step in steps if step[0] == "code"]) < 6
    whole = (Path(coarse._file.path)).read_bytes()
    assert (tmp_path / "segments" / "a.seg.coarse").read_bytes() == whole


def test_every_flipped_byte_gives_an_error_or_the_right_answer(tmp_path: Path) -> None:
    rows, queries = embedded(90, 4), embedded(3, 4, seed=1)
    path = built(rows, tmp_path, Design(lists=3, graph=4))._file.path

    def answers() -> list[np.ndarray]:
        opened = Coarse(path, rows=90, dims=4)
        return [np.sort(opened.search(query, probes=2, candidates=12)[0]) for query in queries]

    right = answers()
    errors = 0
    with open(path, "r+b") as file:
        for at in range(os.path.getsize(path)):
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ (1 << at % 8)]), at)
            try:
                for found, expected in zip(answers(), right, strict=True):
                    np.testing.assert_array_equal(found, expected)
            except IndexStoreError:
                errors += 1
            if at % 16 == 0:
                with pytest.raises(IndexStoreError, match="delete that folder and index the files again"):
                    Coarse(path, rows=90, dims=4).verify()
            os.pwrite(file.fileno(), byte, at)
    assert errors > 3000
    Coarse(path, rows=90, dims=4).verify()


def test_a_coarse_index_of_other_rows_is_refused(coarse: Coarse) -> None:
    with pytest.raises(IndexStoreError, match=f"is for {ROWS} x {DIMS} vectors, the catalog says 7 x {DIMS}"):
        Coarse(coarse._file.path, rows=7, dims=DIMS)


def test_selectors_hold_exactly_the_chosen() -> None:
    chosen = np.random.default_rng(0).random(77) < 0.5
    held = selector(chosen)
    assert [held.is_member(place) for place in range(77)] == chosen.tolist()


def test_two_levels_of_centroids_are_about_as_good_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = unit(embedded(8000, 16)).astype(np.float32)

    def spread(centroids: np.ndarray) -> float:
        return float(((sample[:, None] - centroids[None]) ** 2).sum(axis=2).min(axis=1).mean())

    flat = train_centroids(sample, 100)
    monkeypatch.setattr(coarse_build, "_FLAT_LISTS", 16)
    levels = train_centroids(sample, 100)
    assert flat.shape == levels.shape == (100, 16)
    assert spread(flat) < 0.75 * spread(sample[:100])
    assert spread(levels) < 1.15 * spread(flat)
