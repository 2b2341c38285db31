"""verify_folder: a sound folder passes, and every kind of damage is found and named."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bulk.folders import rows, write_jsonl

from diffembed.bulk import encode_folder, verify_folder
from diffembed.encoder import Encoder
from diffembed.errors import InputError

COUNT = 60


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> Encoder:
    return Encoder.load(tiny_model_dir, threads=1)


@pytest.fixture(scope="module")
def made(encoder: Encoder, corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and three folders made of it."""
    home = tmp_path_factory.mktemp("made")
    source = write_jsonl(home / "in.jsonl", rows(corpus, COUNT))
    for name, options in (
        ("int8-npy", {"dtype": "int8"}),
        ("float32-npy", {}),
        ("binary-parquet", {"dtype": "binary", "format": "parquet"}),
    ):
        encode_folder(source, home / name, model=encoder, shard_rows=25, **options)
    return home


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "float32-npy", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["int8-npy", "float32-npy", "binary-parquet"])
def test_a_sound_folder(made: Path, name: str) -> None:
    told: list[tuple[int, int]] = []
    report = verify_folder(made / name, sample=20, progress=lambda *at: told.append(at))
    assert (report.problems, report.notes) == ((), ())
    assert (report.shards, report.rows, report.quarantined, report.sampled) == (3, COUNT, 8, 20)
    assert report.vectors == json.loads((made / name / "manifest.json").read_text())["shards"][0]["vectors"] + sum(
        shard["vectors"] for shard in json.loads((made / name / "manifest.json").read_text())["shards"][1:]
    )
    assert report.expected <= report.least <= 1.0000001
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert "20 encoded again" in str(report)
    assert verify_folder(made / name, sample=20, seed=1).problems == ()
    assert verify_folder(made / name, sample=10**6).sampled == report.vectors
    assert verify_folder(made / name, sample=0).sampled == 0


def edit_manifest(folder: Path, change: Callable[[Any], None]) -> None:
    file = folder / "manifest.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def signed(folder: Path, shard: int) -> None:
    """Let the manifest hold the checksums of the files as they are now: only the contents can give it away."""

    def change(data: Any) -> None:
        files = data["shards"][shard]["files"]
        for name in files:
            files[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()

    edit_manifest(folder, change)


def remove(folder: Path) -> None:
    (folder / "rows-00001.jsonl").unlink()


def flip(folder: Path) -> None:
    data = bytearray((folder / "vectors-00001.npy").read_bytes())
    data[-1] ^= 1
    (folder / "vectors-00001.npy").write_bytes(data)


def cut(folder: Path) -> None:
    file = folder / "vectors-00002.npy"
    file.write_bytes(file.read_bytes()[:-500])


def not_finite(folder: Path) -> None:
    values = np.load(folder / "vectors-00000.npy")
    values[3, 3] = np.nan
    np.save(folder / "vectors-00000.npy", values)
    signed(folder, 0)


def other_type(folder: Path) -> None:
    np.save(folder / "vectors-00000.npy", np.load(folder / "vectors-00000.npy").astype(np.float16))
    signed(folder, 0)


def one_less(folder: Path) -> None:
    np.save(folder / "vectors-00000.npy", np.load(folder / "vectors-00000.npy")[:-1])
    signed(folder, 0)


def swapped(folder: Path) -> None:
    np.save(folder / "vectors-00000.npy", np.load(folder / "vectors-00000.npy")[::-1])
    signed(folder, 0)


def places(folder: Path, change: Callable[[list[Any]], None]) -> None:
    file = folder / "rows-00000.jsonl"
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    change(entries)
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    signed(folder, 0)


def other_line(folder: Path) -> None:
    places(folder, lambda entries: entries[0].update(line=2))


def other_chunk(folder: Path) -> None:
    places(folder, lambda entries: next(e for e in entries if e["chunk"] == 1).update(chunk=2))


def other_row(folder: Path) -> None:
    places(folder, lambda entries: entries[0].update(row=5))


def less_quarantined(folder: Path) -> None:
    file = folder / "quarantine.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))


def more_quarantined(folder: Path) -> None:
    with (folder / "quarantine.jsonl").open("a") as stream:
        stream.write('{"line": 61, "kind": "empty"}\n')


def emptied(folder: Path) -> None:
    (folder / "vectors-00001.npy").write_bytes(b"")


def few_places(folder: Path) -> None:
    places(folder, lambda entries: entries.__delitem__(slice(1, None)))


def huge_line(folder: Path) -> None:
    places(folder, lambda entries: entries[0].update(line=10**30))


def stranger(folder: Path) -> None:
    (folder / "vectors-00003.npy").write_bytes(b"x")


def unfinished(folder: Path) -> None:
    edit_manifest(folder, lambda data: data.update(complete=False))


def shard_lost(folder: Path) -> None:
    edit_manifest(folder, lambda data: data["shards"].pop(1))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove, "shard 1: rows-00001.jsonl is missing"),
        (flip, "shard 1: vectors-00001.npy does not have the checksum"),
        (cut, "shard 2: vectors-00002.npy does not have the checksum"),
        (not_finite, "shard 0: values that are not finite in vectors 0 to"),
        (other_type, "shard 0: its vectors are float16"),
        (one_less, "shard 0: 26 vectors, its manifest says 27"),
        (swapped, "encoded again, its similarity with itself is"),
        (other_line, "shard 0: of the rows 1 to 25 some are missing"),
        (other_chunk, "shard 0: chunks are missing, doubled or out of order"),
        (other_row, "shard 0 cannot be read (its rows are not numbered"),
        (emptied, "shard 1 cannot be read (No data left in file)"),
        (few_places, "shard 0: 27 vectors, but places of 1"),
        (huge_line, "shard 0 cannot be read (Python int too large"),
        (less_quarantined, "quarantine.jsonl lists 7 rows"),
        (more_quarantined, "quarantine.jsonl has"),
        (stranger, "vectors-00003.npy is in the folder, but not in its manifest"),
        (unfinished, "it is not complete"),
        (shard_lost, "begins at row 51, 26 was expected"),
    ],
)
def test_damage_is_found(folder: Path, damage: Callable[[Path], None], said: str, encoder: Encoder) -> None:
    assert verify_folder(folder, model=encoder, sample=10).problems == ()
    damage(folder)
    problems = verify_folder(folder, model=encoder, sample=10).problems
    assert any(said in problem for problem in problems), problems


def test_parquet_damage_is_found(made: Path, tmp_path: Path, encoder: Encoder) -> None:
    shutil.copytree(made / "binary-parquet", tmp_path / "out")
    file = tmp_path / "out" / "part-00001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows - 1), file)
    signed(tmp_path / "out", 1)
    problems = verify_folder(tmp_path / "out", model=encoder, sample=10**6).problems
    assert any(f"{table.num_rows - 1} vectors, its manifest says {table.num_rows}" in problem for problem in problems)
    lists = pa.array([[1]] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("vector"), "vector", lists), file)
    problems = verify_folder(tmp_path / "out", model=encoder).problems
    assert any("shard 1 cannot be read (its vectors are of type list<" in problem for problem in problems)
    file.write_bytes(file.read_bytes()[:-20])
    assert any("shard 1 cannot be read" in p for p in verify_folder(tmp_path / "out", model=encoder).problems)


def test_the_input_is_compared(made: Path, folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    lines = (made / "in.jsonl").read_bytes().splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join([*lines[:30], b'{"text": "changed"}\n', *lines[31:]]))
    report = verify_folder(folder, model=encoder, source=other)
    assert report.problems == ("shard 1 was not made of these rows of the input",)
    assert report.sampled > 0  # of the shard before
    other.write_bytes(b"".join([*lines, b'{"text": "more"}\n']))
    report = verify_folder(folder, model=encoder, source=other)
    assert report.problems == (f"the input goes on at {other}, line 61, after the last row of the folder",)
    (tmp_path / "in.txt").write_text("a\n")
    with pytest.raises(InputError, match="the source is text, the folder was made of jsonl"):
        verify_folder(folder, model=encoder, source=tmp_path / "in.txt")
    with pytest.raises(InputError, match="nowhere.jsonl does not exist"):
        verify_folder(folder, model=encoder, source=tmp_path / "nowhere.jsonl")


def test_what_is_not_at_hand_is_said(folder: Path, tmp_path: Path, encoder: Encoder, tiny_model_dir: Path) -> None:
    edit_manifest(folder, lambda data: data.update(sources=["-"]))
    report = verify_folder(folder, model=encoder)
    assert (report.problems, report.sampled) == ((), 0)
    assert "was read from stdin" in report.notes[0]
    edit_manifest(folder, lambda data: data.update(sources=[str(tmp_path / "gone.jsonl")]))
    assert "gone.jsonl is not there" in verify_folder(folder, model=encoder).notes[0]
    with pytest.raises(InputError, match="has no manifest.json"):
        verify_folder(tmp_path, model=encoder)


def test_stdin_among_several_inputs(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": ["one", "two"]}), "in.parquet")
    Path("-").write_text("a file that only happens to have this name\n")

    def stdin() -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "three"}\n')))

    stdin()
    encode_folder(["in.parquet", "-"], "out", model=encoder, stdin_format="jsonl")
    report = verify_folder("out", model=encoder)
    assert (report.problems, report.sampled) == ((), 0)
    assert "was read from stdin" in report.notes[0]
    stdin()
    report = verify_folder("out", model=encoder, source=["in.parquet", "-"])
    assert (report.problems, report.notes, report.sampled) == ((), (), 3)


def test_another_model_says_no_sample_was_encoded(made: Path, folder: Path, tiny_model_dir: Path) -> None:
    fp32 = Encoder.load(tiny_model_dir, precision="fp32", threads=1)
    problems = verify_folder(folder, model=fp32).problems
    assert len(problems) == 1
    assert "no sample was encoded: " in problems[0]
    assert "begun with precision int8, this run has fp32" in problems[0]
    edit_manifest(folder, lambda data: data.update(model=str(folder / "nowhere")))
    assert any("no sample was encoded" in problem for problem in verify_folder(folder).problems)
    assert verify_folder(folder, model=tiny_model_dir).problems == ()
