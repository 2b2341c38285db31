from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.index.vectors import embedded, oracle

from diffembed.errors import IndexStoreError, InputError
from diffembed.index import coarse_build, compaction, tuning
from diffembed.index.catalog import Catalog
from diffembed.index.parts import open_snapshot
from diffembed.index.scan import Snapshot
from diffembed.index.schema import Settings
from diffembed.index.store import Store, create_store, open_existing
from diffembed.index.tuning import Tuning

DIMS = 16
SETTINGS = Settings(model="", fingerprint="", dims=DIMS, contextual=False, chunk_tokens=0, vectors_only=True)
FEW_QUESTIONS = {10: 64, 100: 32, 1000: 16}  # enough for so few rows, and quick
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compaction, "SEAL_VALUES", 500 * DIMS)
    monkeypatch.setattr(compaction, "SEALED_ROWS", 2000)
    monkeypatch.setattr(tuning, "_QUESTIONS", FEW_QUESTIONS)
    create_store(tmp_path / "index", SETTINGS)
    return tmp_path / "index"


def view(folder: Path) -> Snapshot:
    catalog = Catalog.open(folder)
    try:
        with catalog.reading():
            return open_snapshot(folder, catalog, SETTINGS)
    finally:
        catalog.close()


def sealed(folder: Path) -> list[bool]:
    return [part.sealed is not None for part in view(folder).parts]


def batches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(rows), size):
        yield np.arange(start, min(start + size, len(rows))), rows[start : start + size]


def holds(folder: Path, ids: np.ndarray, rows: np.ndarray) -> None:
    """The index holds exactly these rows, and its files are those that the catalog lists."""
    snapshot = view(folder)
    assert snapshot.rows == len(ids)
    found = [part.segment.ids[slice(None) if part.live is None else part.live] for part in snapshot.parts]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), ids)
    queries = embedded(20, DIMS, seed=8)
    exact_ids, exact = oracle(rows, queries, 5, ids)
    np.testing.assert_allclose(snapshot.search(queries, 5, exact=True)[1], exact, atol=3e-7)
    got, _ = snapshot.search(queries, 5)
    assert np.mean([len(set(g) & set(e)) / 5 for g, e in zip(got.tolist(), exact_ids.tolist(), strict=True)]) >= 0.9
    files = {name.name for name in (folder / "segments").iterdir()}
    listed = {p.segment.path.name for p in snapshot.parts}
    assert files == listed | {p.segment.path.name + ".coarse" for p in snapshot.parts if p.sealed}
    for part in snapshot.parts:
        part.segment.verify()
        if part.sealed:
            part.sealed.coarse.verify()


def test_compaction_joins_seals_and_drops_dead_rows(folder: Path) -> None:
    rows = embedded(5000, DIMS)
    ticks: list[tuple[int, int]] = []
    with open_existing(folder) as store:
        for ids, batch in batches(rows, 700):
            store.add_rows(ids, batch)
        store.remove_rows(np.arange(0, 5000, 9))
        store.compact(progress=lambda done, total: ticks.append((done, total)))
    live = np.setdiff1d(np.arange(5000), np.arange(0, 5000, 9))
    holds(folder, live, rows[live])
    assert all(sealed(folder))
    assert all(part.live is None and len(part.segment) <= 2000 for part in view(folder).parts)
    assert ticks[-1] == (len(live), len(live))
    assert not (folder / "compacting").exists()

    names = sorted((folder / "segments").iterdir())
    with open_existing(folder) as store:
        store.compact()  # nothing is left to do
    assert sorted((folder / "segments").iterdir()) == names


def test_another_recall_tunes_anew_and_builds_nothing(folder: Path) -> None:
    rows = embedded(1500, DIMS)
    with open_existing(folder) as store:
        store.add_rows(np.arange(1500), rows)
        store.compact(recall=0.5)
        catalog, before = Catalog.open(folder), view(folder)
        files = {path: path.stat().st_mtime_ns for path in (folder / "segments").iterdir()}
        store.compact()  # what is tuned stays so
        assert [part.sealed.tuning.wanted for part in view(folder).parts if part.sealed] == [0.5]
        store.compact(recall=0.99)
    with catalog.reading():
        after = open_snapshot(folder, catalog, SETTINGS, before)  # a reader that holds the old state sees the new one
    catalog.close()
    assert {path: path.stat().st_mtime_ns for path in (folder / "segments").iterdir()} == files
    old, new = before.parts[0].sealed, after.parts[0].sealed
    assert old and new and new.coarse is old.coarse
    assert (old.tuning.wanted, new.tuning.wanted) == (0.5, 0.99)
    assert new.tuning.settings[0].recall >= 0.99 > old.tuning.settings[0].recall
    assert new.tuning.at(10) > old.tuning.at(10)


def test_questions_of_the_users_tune_what_is_sealed_and_what_is_new(folder: Path) -> None:
    rows, questions = embedded(1500, DIMS), embedded(80, DIMS, seed=9)
    with open_existing(folder) as store:
        store.add_rows(np.arange(1500), rows)
        store.compact(recall=0.8)
        store.compact(questions=questions)
        (part,) = view(folder).parts
        assert part.sealed and (part.sealed.tuning.given, part.sealed.tuning.wanted) == (
            64,
            0.8,
        )  # those of ten results
        with pytest.raises(InputError, match="49 questions say too little .* give 50 or more"):
            store.compact(questions=questions[:49])
        store.add_rows(np.arange(1500, 4500), embedded(3000, DIMS, seed=4))
        store.compact(questions=questions)
    assert {part.sealed.tuning.given for part in view(folder).parts if part.sealed} == {64}


def test_rows_that_come_later_and_ids_in_any_order(folder: Path) -> None:
    rows = embedded(3000, DIMS)
    order = np.random.default_rng(1).permutation(3000)
    with open_existing(folder) as store:
        for part in np.array_split(order, 7):
            store.add_rows(part, rows[part])
        store.compact()
        again = embedded(100, DIMS, seed=3)
        store.add_rows(np.arange(50, 150), again)  # these rows are replaced
        expected = rows.copy()
        expected[50:150] = again
        holds(folder, np.arange(3000), expected)
        store.compact()
    holds(folder, np.arange(3000), expected)


def test_small_collections_are_joined_but_not_sealed(folder: Path) -> None:
    rows = embedded(400, DIMS)
    with open_existing(folder) as store:
        for ids, batch in batches(rows, 50):
            store.add_rows(ids, batch)
        store.compact()
    assert sealed(folder) == [False]
    holds(folder, np.arange(400), rows)


def test_everything_deleted(folder: Path) -> None:
    with open_existing(folder) as store:
        store.add_rows(np.arange(600), embedded(600, DIMS))
        store.compact()
        store.remove_rows(np.arange(600))
        store.compact()
    assert view(folder).parts == ()
    assert list((folder / "segments").iterdir()) == []


def test_scans_that_get_slow_are_sealed_by_the_step_after_a_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "EXACT_VALUES", 1000 * DIMS)
    rows = embedded(1500, DIMS)
    with open_existing(folder) as store:
        for ids, batch in batches(rows, 300):
            store.add_rows(ids, batch)
            store.merge_small()
    assert sealed(folder) == [True, False]
    holds(folder, np.arange(1500), rows)
    with open_existing(folder) as store:
        store.remove_rows(np.arange(400))  # a third of the sealed segment
        store.merge_small()
    assert [part.live is None for part in view(folder).parts] == [True, True]
    holds(folder, np.arange(400, 1500), rows[400:])


def test_a_reader_keeps_its_state_while_files_go(folder: Path) -> None:
    rows = embedded(1200, DIMS)
    with open_existing(folder) as store:
        for ids, batch in batches(rows, 300):
            store.add_rows(ids, batch)
        before = view(folder)
        store.compact()
        queries = embedded(10, DIMS, seed=2)
        np.testing.assert_array_equal(before.search(queries, 5)[0], oracle(rows, queries, 5)[0])
        catalog = Catalog.open(folder)
        after = open_snapshot(folder, catalog, SETTINGS, before)
        assert [part.sealed is not None for part in after.parts] == [True]
        catalog.close()


def test_one_large_segment_is_sealed_as_it_stands(folder: Path) -> None:
    with open_existing(folder) as store:
        store.add_rows(np.arange(900), embedded(900, DIMS))
        (path,) = (folder / "segments").iterdir()
        before = path.stat().st_ino
        store.compact()
    assert path.stat().st_ino == before
    assert sealed(folder) == [True]


def test_a_full_disk_leaves_the_index_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = embedded(900, DIMS)
    with open_existing(folder) as store:
        for ids, batch in batches(rows, 300):
            store.add_rows(ids, batch)
        for module, name in ((compaction, "stream_segment"), (coarse_build, "write_durably")):
            with monkeypatch.context() as patched:
                patched.setattr(module, name, full)
                with pytest.raises(IndexStoreError, match=r"No space left on device.*the index is as it was"):
                    store.compact()
            holds(folder, np.arange(900), rows)
        store.compact()
    assert sealed(folder) == [True]
    holds(folder, np.arange(900), rows)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_wanted_recall_is_kept_with_the_segment(folder: Path) -> None:
    with open_existing(folder) as store:
        store.add_rows(np.arange(900), embedded(900, DIMS))
        with pytest.raises(InputError, match="recall is 95"):
            store.compact(recall=95)
        store.compact(recall=0.8)
        (listed,) = store.catalog.segments()
    tuning = Tuning.from_json(listed.tuning)
    assert tuning is not None
    assert tuning.wanted == 0.8
    assert all(setting.recall >= 0.8 for setting in tuning.settings)


COMPACTOR = """
import sys
sys.path[:0] = [{source!r}, {root!r}]
from pathlib import Path
from diffembed.index import coarse_build, compaction, tuning
from diffembed.index.store import open_existing
import faiss
compaction.SEAL_VALUES, compaction.SEALED_ROWS, coarse_build.PART_ROWS = 8000, 2000, 500
tuning._QUESTIONS = {few}
print("ready", flush=True)
with open_existing(Path({into!r})) as store:
    store.compact()
print("done", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
def test_kill_at_random_moments_of_a_compaction(folder: Path) -> None:
    seed = int(os.environ.get("DIFFEMBED_CRASH_SEED", "0")) or random.SystemRandom().randrange(10**6)
    print(f"DIFFEMBED_CRASH_SEED={seed}")  # shown by pytest when the test fails
    chance = random.Random(seed)
    rows = embedded(6000, DIMS)
    dead = np.arange(0, 6000, 7)
    live = np.setdiff1d(np.arange(6000), dead)

    def fill(store: Store) -> None:
        for ids, batch in batches(rows, 500):
            store.add_rows(ids, batch)
        store.remove_rows(dead)

    with open_existing(folder) as store:
        fill(store)
    code = COMPACTOR.format(source=str(ROOT / "src"), root=str(ROOT), into=str(folder), few=FEW_QUESTIONS)
    killed, whole = 0, 0.6
    for _ in range(30):
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.perf_counter()
        time.sleep(chance.uniform(0, whole))
        process.send_signal(signal.SIGKILL)
        finished = "done" in process.communicate()[0]
        whole = max(0.05, 2 * (time.perf_counter() - began)) if finished else whole * 1.2
        killed += not finished
        with open_existing(folder):
            pass  # opening for writing removes what no commit has listed
        holds(folder, live, rows[live])
        if finished or killed >= 8:
            break
    assert killed >= 1 or finished
    with open_existing(folder) as store:
        store.compact()
    assert all(sealed(folder))
    holds(folder, live, rows[live])


def test_a_killed_run_finds_its_work_on_a_later_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done changes how many rows are left, which must not move the borders of the groups."""
    rows = embedded(4400, DIMS)
    works: list[Path] = []
    build = compaction.build_coarse

    def until_second(*args: object, **options: object) -> None:
        works.append(args[2].parent)  # type: ignore[attr-defined]
        if len(works) == 2:
            raise KeyboardInterrupt
        build(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(compaction, "build_coarse", until_second)
    with open_existing(folder) as store:
        for ids, batch in batches(rows, 400):
            store.add_rows(ids, batch)
    with pytest.raises(KeyboardInterrupt), open_existing(folder) as store:
        store.compact()
    assert (works[1] / "rows.seg").is_file()
    with open_existing(folder) as store:
        store.compact()
    assert works[2] == works[1]
    assert sorted(len(part.segment) for part in view(folder).parts) == [400, 2000, 2000]
    holds(folder, np.arange(4400), rows)


def test_a_coarse_index_that_no_commit_made_count_is_removed(folder: Path) -> None:
    with open_existing(folder) as store:
        store.add_rows(np.arange(100), embedded(100, DIMS))
    (segment,) = (folder / "segments").iterdir()
    orphan = segment.with_name(segment.name + ".coarse")
    orphan.write_bytes(b"of a run that died before its commit")
    with open_existing(folder):
        pass
    assert list((folder / "segments").iterdir()) == [segment]
