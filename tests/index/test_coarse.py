from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from tests.index.vectors import embedded, oracle, unit

from diffembed.errors import IndexStoreError
from diffembed.index import coarse as coarse_module
from diffembed.index import coarse_build, tuning
from diffembed.index import scan as scan_module
from diffembed.index.coarse import Coarse, selector
from diffembed.index.coarse_build import Design, build_coarse
from diffembed.index.rescoring import rescored
from diffembed.index.scan import Part, Sealed, Snapshot
from diffembed.index.segments import Segment, open_segment, write_segment
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


def test_questions_that_are_harder_than_rows_take_more(rows: np.ndarray, coarse: Coarse) -> None:
    segment = Segment.in_memory(rows)
    strange = np.random.default_rng(2).integers(-127, 128, (200, DIMS)).astype(np.int8)
    own, given = (tune(segment, coarse, "pq2", wanted=0.9, questions=asked) for asked in (None, strange))
    assert (own.given, given.given) == (0, 200)
    assert Tuning.from_json(given.to_json()) == given
    assert given.settings[0].probes > own.settings[0].probes
    view = Snapshot([Part(segment, None, Sealed(coarse, given))])
    others = np.random.default_rng(3).integers(-127, 128, (200, DIMS)).astype(np.int8)
    assert found_share(view.search(others, 10)[0], oracle(rows, others, 10)[0]) >= 0.88


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


@pytest.mark.parametrize("order", ["mixed", "by subject"])
def test_segments_share_their_candidates(
    rows: np.ndarray, tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six segments find what one would, with far fewer rows rescored than they name together."""
    if order == "by subject":  # all answers of a query stand in one or two segments
        rows = rows[np.argsort(rows[:, 0].astype(int) + rows[:, 1])]
    monkeypatch.setattr(tuning, "_QUESTIONS", {10: 128, 100: 64, 1000: 16})
    parts = []
    for number, piece in enumerate(np.array_split(rows, 6)):
        segment = Segment.in_memory(piece, range(1000 * number, 1000 * number + 1000))
        made = built(piece, tmp_path / str(number), Design(lists=16, codes="pq4"))
        parts.append(Part(segment, None, Sealed(made, tune(segment, made, "pq4", wanted=0.9))))
    counted: list[int] = []

    def counting(segment: Segment, query: np.ndarray, places: np.ndarray) -> np.ndarray:
        counted.append(len(places))
        return rescored(segment, query, places)

    monkeypatch.setattr(scan_module, "rescored", counting)
    queries = embedded(100, DIMS, seed=7)
    for top in (3, 10, 60):
        counted.clear()
        found, _ = Snapshot(parts).search(queries, top, threads=1)
        assert found_share(found, oracle(rows, queries, top)[0]) >= 0.9
        named = sum(part.sealed.tuning.at(top)[1] for part in parts if part.sealed)
        assert sum(counted) / len(queries) < 0.75 * named


def test_what_a_tuned_segment_grants(rows: np.ndarray, coarse: Coarse) -> None:
    for setting in tune(Segment.in_memory(rows), coarse, "pq2").settings:
        tuned = Tuning("pq2", 0.95, (setting,))
        assert Tuning.from_json(tuned.to_json()) == tuned
        granted = [tuned.granted(setting.top, share) for share in (1, 0.5, 0.3, 0.1, 0.01)]
        assert granted[0] == pytest.approx(setting.candidates)
        assert granted == sorted(granted, reverse=True)
        assert granted[-1] >= 1
        assert tuned.granted(2 * setting.top, 1) == pytest.approx(2 * setting.candidates)


def test_questions_lie_off_rows_only_where_rows_differ() -> None:
    """Noise in dims that no row uses would be no difficulty, and the recall that it finds too good."""
    rows = np.zeros((500, 4 * DIMS), np.int8)
    rows[:, :DIMS] = embedded(500, DIMS)
    places, questions = tuning._questions(Segment.in_memory(rows), 200)
    assert not questions[:, DIMS:].any()
    away = 1 - (unit(questions) * unit(rows[places])).sum(axis=1)
    assert away.min() > 0.02
    assert 0.15 < away.mean() < 0.5


def test_a_row_that_asks_does_not_count_as_found() -> None:
    rows = embedded(50, 8)

    class OnlyNearest:
        """Names the row nearest to the question, which is the row that asks, or close to it."""

        lists = 4

        def search(self, query: np.ndarray, *, probes: int, candidates: int) -> tuple[np.ndarray, None]:
            return np.array([np.argmax(unit(rows) @ unit(query[None])[0])]), None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tuning, "_MOVED", (0.0, 0.01))
        tuned = tune(Segment.in_memory(rows), OnlyNearest(), "pq2")  # type: ignore[arg-type]
    assert [setting.recall for setting in tuned.settings] == [0.0, 0.0]


def test_a_large_filter_is_worked_out_once(rows: np.ndarray, coarse: Coarse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "_SURVIVOR_VALUES", 100 * DIMS)
    monkeypatch.setattr(scan_module, "_LARGE_FILTER", 1000)
    made: list[int] = []
    monkeypatch.setattr(scan_module, "selector", lambda mask: made.append(1) or selector(mask))
    view, queries = snapshot(rows, coarse), embedded(5, DIMS, seed=2)
    even, odd = np.arange(0, ROWS, 2), np.arange(1, ROWS, 2)
    for allowed, count in ((even, 1), (even, 1), (odd, 2), (odd, 2), (even, 3), (even.copy(), 4)):
        found, _ = view.search(queries, 10, allowed=allowed)
        assert np.isin(found, allowed).all()
        assert len(made) == count


def test_rows_of_all_segments_are_asked_for_before_one_is_read(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold disk works on them in parallel; ids, which may lie on the disk too, are read of the results only."""
    parts, calls = [], []
    for number, piece in enumerate(np.array_split(rows[:2000], 2)):
        folder = tmp_path / str(number) / "segments"
        folder.mkdir(parents=True)
        write_segment(folder / "a.seg", np.arange(number, 2000, 2), piece)  # with gaps
        segment = open_segment(folder / "a.seg", rows=1000, dims=DIMS)
        settings = Tuning("pq2", 0.95, (Setting(10, 16, 15, 0.99),))
        parts.append(Part(segment, None, Sealed(built(piece, folder.parent, Design(lists=16)), settings)))
    for name in ("want", "rows_at", "want_ids", "ids_at"):
        whole = getattr(Segment, name)
        monkeypatch.setattr(
            Segment, name, lambda self, at, n=name, w=whole: (calls.append((n, len(at))), w(self, at))[1]
        )
    Snapshot(parts).search(rows[:1], 3)
    assert [name for name, _ in calls] == ["want", "want", *2 * ["rows_at", "want_ids", "ids_at"]]
    assert all(count <= 3 for name, count in calls if name.endswith("ids"))
    assert 15 <= sum(count for name, count in calls if name == "rows_at") <= 30


def test_lists_are_asked_of_a_cold_disk_all_at_once(rows: np.ndarray, tmp_path: Path) -> None:
    coarse = built(rows, tmp_path)
    asked: list[int] = []
    coarse.search(rows[0], probes=4, candidates=10)  # opens it
    want = coarse._file.want
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(coarse._file, "want", lambda starts, sizes: (asked.append(len(starts)), want(starts, sizes)))
        coarse.search(rows[0], probes=4, candidates=10)
        assert asked == [], "they were checked before, and nothing is cold"
        coarse.search(rows[0], probes=12, candidates=10)
        assert asked == [8]
        waits = iter(range(100))
        patched.setattr(coarse_module, "waits_for_disk", lambda: next(waits))
        coarse.search(rows[0], probes=12, candidates=10)
        coarse.search(rows[0], probes=12, candidates=10)
    assert asked == [8, 12]


def test_a_coarse_index_whose_file_went_can_still_be_searched(rows: np.ndarray, tmp_path: Path) -> None:
    """A reader may open a state and first search it when compaction has replaced the file."""
    coarse = built(rows, tmp_path)
    expected, _ = coarse.search(rows[5], probes=8, candidates=10)
    late = Coarse(coarse._file.path, rows=ROWS, dims=DIMS)
    coarse._file.path.unlink()
    np.testing.assert_array_equal(late.search(rows[5], probes=8, candidates=10)[0], expected)
    del coarse  # its lists stand in its own map: that of the other must not go with it
    gc.collect()
    np.testing.assert_array_equal(late.search(rows[5], probes=8, candidates=10)[0], expected)
