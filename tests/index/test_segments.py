from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffembed.errors import IndexStoreError
from diffembed.index.segments import Segment, open_segment, row_norms, sign_bits, write_segment

ROWS, DIMS = 7, 9


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    folder = tmp_path / "index" / "segments"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    rows = rng.integers(-127, 128, (ROWS, DIMS), dtype=np.int8)
    ids = np.sort(rng.choice(1000, ROWS, replace=False)).astype(np.int64)
    write_segment(folder / "a.seg", ids, rows)
    return folder / "a.seg", ids, rows


def opened(path: Path) -> Segment:
    return open_segment(path, rows=ROWS, dims=DIMS)


def test_what_is_written_is_read(stored: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, ids, rows = stored
    segment = opened(path)
    assert len(segment) == ROWS
    assert segment.dims == DIMS
    np.testing.assert_array_equal(segment.ids, ids)
    np.testing.assert_array_equal(segment.rows, rows)
    np.testing.assert_array_equal(segment.bits, sign_bits(rows))
    np.testing.assert_allclose(segment.norms, np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-6)
    assert list(path.parent.iterdir()) == [path]


def test_every_flipped_byte_is_noticed(stored: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, _, _ = stored
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        with pytest.raises(IndexStoreError, match=r"segment a\.seg of .*delete that folder and index the files again"):
            opened(path)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 200, -1])
def test_a_truncated_or_longer_file_is_noticed(stored: tuple[Path, np.ndarray, np.ndarray], size: int) -> None:
    path, _, _ = stored
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(IndexStoreError):
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
    assert list(tmp_path.iterdir()) == []


def test_norms_of_many_rows() -> None:
    rows = np.random.default_rng(1).integers(-127, 128, (5000, 16), dtype=np.int8)
    np.testing.assert_allclose(row_norms(rows), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-6)
