from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.errors import IndexStoreError
from diffembed.index.blocks import BLOCK
from diffembed.index.segments import Segment, open_segment, row_norms, stream_segment, write_segment

ROWS, DIMS = 7, 9
NAMED = r"segment a\.seg of .*delete that folder and index the files again"


@pytest.fixture(params=["with gaps", "without gaps"])
def stored(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, np.ndarray, np.ndarray]:
    folder = tmp_path / "index" / "segments"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    rows = rng.integers(-127, 128, (ROWS, DIMS), dtype=np.int8)
    ids = np.sort(rng.choice(1000, ROWS, replace=False)) if request.param == "with gaps" else np.arange(40, 40 + ROWS)
    write_segment(folder / "a.seg", ids, rows)
    return folder / "a.seg", ids, rows


def opened(path: Path) -> Segment:
    return open_segment(path, rows=ROWS, dims=DIMS)


def seen(segment: Segment) -> list[list[object]]:
    """Everything that a reader can ask of a segment."""
    everywhere = np.arange(len(segment))
    blocks = list(segment.blocks(3))
    return [
        segment.ids.tolist(),
        segment.ids_at(everywhere).tolist(),
        [segment.first_id],
        segment.rows.tolist(),
        segment.rows_at(everywhere).tolist(),
        [at for at, _, _ in blocks],
        [row for _, rows, _ in blocks for row in rows.tolist()],
        [norm for _, _, norms in blocks for norm in norms.tolist()],
        segment.places_of(segment.ids[::2]).tolist(),
    ]


def test_what_is_written_is_read(stored: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, ids, rows = stored
    segment = opened(path)
    segment.verify()
    assert len(segment) == ROWS
    assert segment.dims == DIMS
    norms = row_norms(rows).tolist()
    every = [0, 3, 6]
    expected = [ids.tolist(), ids.tolist(), [ids[0]], rows.tolist(), rows.tolist(), every, rows.tolist(), norms]
    assert seen(segment) == [*expected, [0, 2, 4, 6]]
    assert list(path.parent.iterdir()) == [path]


def test_every_flipped_byte_gives_an_error_or_what_was_written(stored: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, _, _ = stored
    whole = path.read_bytes()
    right = seen(opened(path))
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        with pytest.raises(IndexStoreError, match=NAMED):
            opened(path).verify()
        with contextlib.suppress(IndexStoreError):
            assert seen(opened(path)) == right


def test_only_what_is_touched_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "index" / "segments"
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(-127, 128, (500, 64), dtype=np.int8)
    write_segment(folder / "a.seg", np.arange(500), rows)
    damaged = bytearray((folder / "a.seg").read_bytes())
    damaged[BLOCK + 300 * 64] ^= 1  # in row 300
    (folder / "a.seg").write_bytes(damaged)
    segment = open_segment(folder / "a.seg", rows=500, dims=64)
    np.testing.assert_array_equal(segment.rows_at(np.arange(0, 200)), rows[:200])
    for touch in (lambda: segment.rows_at(np.array([300])), lambda: segment.rows, lambda: list(segment.blocks(100))):
        with pytest.raises(IndexStoreError, match=r"fails its checksum at byte \d+"):
            touch()
    np.testing.assert_array_equal(segment.rows_at(np.array([450, 3])), rows[[450, 3]])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 200, BLOCK, -4, -1])
def test_a_truncated_or_longer_file_is_noticed(stored: tuple[Path, np.ndarray, np.ndarray], size: int) -> None:
    path, _, _ = stored
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(IndexStoreError, match=NAMED):
        opened(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(IndexStoreError, match="instead of"):
        opened(path)


def test_a_missing_or_foreign_file(stored: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, _, _ = stored
    with pytest.raises(IndexStoreError, match=f"holds {ROWS} x {DIMS} vectors, the catalog says 5 x {DIMS}"):
        open_segment(path, rows=5, dims=DIMS)
    path.unlink()
    with pytest.raises(IndexStoreError, match="cannot be read"):
        opened(path)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    rows = np.ones((3, 8), np.int8)
    with pytest.raises(OSError, match="No such file"):
        write_segment(tmp_path / "missing" / "a.seg", np.arange(3), rows)
    with pytest.raises(ValueError, match="int8"):
        write_segment(tmp_path / "a.seg", np.arange(3), rows.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 ids came with 3 rows"):
        stream_segment(tmp_path / "a.seg", np.arange(4), 8, iter([rows]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1, 100, 1500])
def test_many_rows_are_wanted_in_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Every byte of every row is asked for; of many rows, those that lie close together by one call."""
    dims, rows = 300, 40_000
    write_segment(tmp_path / "a.seg", np.arange(rows), np.ones((rows, dims), np.int8))
    segment = open_segment(tmp_path / "a.seg", rows=rows, dims=dims)
    asked = np.zeros((tmp_path / "a.seg").stat().st_size, np.bool_)
    calls = 0

    def advise(self: object, advice: str, start: int, size: int) -> None:
        nonlocal calls
        calls += 1
        asked[start : start + size] = True

    monkeypatch.setattr("diffembed.index.blocks.CheckedFile._advise", advise)
    chance = np.random.default_rng(count)
    places = chance.permutation(rows // 8)[:count]  # in a part of the file, and some far away
    places[: count // 10] += rows // 2
    segment.want(places)
    for place in places.tolist():
        start = segment._places["rows"] + place * dims
        assert asked[start : start + dims].all()
    assert calls == count if count <= 128 else calls < count / 10
    assert asked.sum() < 2 * (rows // 4) * dims


def test_norms_of_many_rows() -> None:
    rows = np.random.default_rng(1).integers(-127, 128, (5000, 16), dtype=np.int8)
    np.testing.assert_allclose(row_norms(rows), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-6)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_shape_streams_in_any_pieces(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("index") / "segments"
    folder.mkdir()
    count, dims = data.draw(st.integers(1, 300)), data.draw(st.sampled_from([1, 7, 64, 100, 1024]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows = rng.integers(-128, 128, (count, dims), dtype=np.int8)
    ids = np.sort(rng.choice(3 * count, count, replace=False)) - count
    pieces = np.array_split(rows, data.draw(st.integers(1, 5)))
    stream_segment(folder / "a.seg", ids, dims, iter(pieces))
    segment = open_segment(folder / "a.seg", rows=count, dims=dims)
    segment.verify()
    np.testing.assert_array_equal(segment.rows, rows)
    np.testing.assert_array_equal(segment.ids, ids)
    asked = np.arange(-count, 2 * count)
    np.testing.assert_array_equal(segment.places_of(asked), np.flatnonzero(np.isin(ids, asked)))
