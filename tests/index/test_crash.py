"""kill -9 at random moments: what is committed stays, nothing is half there, and the next run goes on.

``DIFFEMBED_KILLS`` says how many kills are wanted (100 for the long run).
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed.index import Index
from diffembed.index.catalog import Catalog

KILLED = int(os.environ.get("DIFFEMBED_KILLS", "4"))  # at least, of as many rounds as that takes
ROUNDS = max(12, KILLED)
FILES = 40
SOURCE = Path(__file__).parents[2] / "src"

INDEXER = """
import sys
sys.path[:0] = [{here!r}, {source!r}]
from fake_encoder import FakeEncoder
from diffembed.index import compaction, refresh
refresh.BATCH_CHUNKS = 4
compaction.MERGE_ABOVE_SEGMENTS = 3
print("ready", flush=True)
refresh.refresh_index(refresh.Path({into!r}), [{library!r}], encoder=FakeEncoder(delay=0.001), chunk_tokens=24)
print("done", flush=True)
"""


def state(into: Path, encoder: Any) -> list[tuple[Any, ...]]:
    """Everything that a user can see of an index, without the numbers of chunks."""
    with Index.open(into) as index:
        seen = []
        for query in ("number seven of many", "owls hunt at night", "雪の下"):
            hits = index.search(query, top=1000, encoder=encoder)
            assert len(hits) == len(index)
            seen += sorted((h.path.name, h.line_start, h.text, h.best_sentence, h.score) for h in hits)
        assert len(list((into / "segments").iterdir())) == len(index._catalog.segments())
        return seen


def write_files(library: Path, chance: random.Random, version: int) -> None:
    library.mkdir(exist_ok=True)
    for number in chance.sample(range(FILES), FILES // 2 if version else FILES):
        path = library / f"{number}.txt"
        if version and chance.random() < 0.2:
            path.unlink(missing_ok=True)
            continue
        lines = [f"Paragraph {k} of file {number}, version {version}, about owls and snow." for k in range(6)]
        path.write_text("\n\n".join(lines), encoding="utf-8")


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def seconds_to_index(code: str) -> float:
    """From "ready" to "done" when nobody kills."""
    process = start(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.perf_counter()
    assert process.stdout.readline() == "done\n"
    seconds = time.perf_counter() - began
    assert process.communicate()[1] == ""
    return seconds


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
def test_kill_at_random_moments(tmp_path: Path, encoder: Any, record_property: Callable[[str, object], None]) -> None:
    seed = int(os.environ.get("DIFFEMBED_CRASH_SEED", "0")) or random.SystemRandom().randrange(10**6)
    record_property("seed", seed)
    print(f"DIFFEMBED_CRASH_SEED={seed}")  # shown by pytest when the test fails
    chance = random.Random(seed)
    library, into = tmp_path / "library", tmp_path / "index"
    write_files(library, chance, 0)
    code = INDEXER.format(here=str(Path(__file__).parent), source=str(SOURCE), into=str(into), library=str(library))
    whole = seconds_to_index(code.replace(str(into), str(tmp_path / "timed")))  # a machine may be fast or busy
    killed = rounds = 0
    finished = False
    committed: set[str] = set()
    while rounds < ROUNDS or (killed < KILLED and rounds < 5 * ROUNDS):
        rounds += 1
        if finished or rounds % 4 == 0:
            write_files(library, chance, rounds)
        process = start(code)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, whole))
        process.send_signal(signal.SIGKILL)
        ended, errors = process.communicate()
        assert errors == ""
        finished = "done" in ended
        killed += not finished
        if Catalog.exists(into):
            with Index.open(into) as index:
                hits = index.search("paragraph of a file", top=10_000, encoder=encoder)
                assert len(hits) == len(index)
                # every document is there whole
                assert len(index) == sum(1 for _ in hits)
                counts: dict[str, int] = {}
                for hit in hits:
                    counts[hit.path.name] = counts.get(hit.path.name, 0) + 1
                assert len(set(counts.values())) <= 1
            there = {path.name for path in library.iterdir()}  # only a file that is gone may leave the index
            assert committed & there <= counts.keys(), "a committed batch was lost"
            committed = set(counts)
    record_property("kills", killed)
    assert killed >= KILLED, f"{killed} of {rounds} runs were killed, the others had ended before"

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    clean = tmp_path / "clean"
    Index.build([library], clean, encoder=encoder, chunk_tokens=24).close()
    assert state(into, encoder) == state(clean, encoder)


def test_a_full_disk_leaves_the_index_as_it_was(
    library: Path, tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffembed.errors import IndexStoreError
    from diffembed.index import segments

    into = tmp_path / "index"
    Index.build([library], into, encoder=encoder).close()
    before = state(into, encoder)
    (library / "more.txt").write_text("More text.")

    def full(path: Path, write: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(segments, "write_durably", full)
        with pytest.raises(IndexStoreError, match=r"No space left on device.*the index is as it was before"):
            Index.build([library], into, encoder=encoder)
    assert state(into, encoder) == before
    Index.build([library], into, encoder=encoder).close()
    assert len(state(into, encoder)) > len(before)


@pytest.mark.parametrize("call", ["open", "pwrite"])
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full .*make room.*the index is as it was before"),
        (errno.EDQUOT, "the disk is full .*make room"),
        (errno.EIO, "cannot be (written|locked) .Input/output error"),
    ],
)
def test_a_lock_that_cannot_be_had(
    library: Path, tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch, call: str, number: int, said: str
) -> None:
    from diffembed.errors import IndexStoreError
    from diffembed.index import storage

    index, real = Index.build([library], tmp_path / "index", encoder=encoder), getattr(os, call)

    def failing(where: Any, *rest: Any) -> Any:
        if call == "pwrite" or Path(where).name == storage.LOCK_NAME:
            raise OSError(number, os.strerror(number))
        return real(where, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(IndexStoreError, match=said):
            index.delete(["nothing"])
    assert index.delete([str(library / "owls.txt")]) == 1  # no handle was left that holds the lock


def test_two_processes_write(library: Path, tmp_path: Path, encoder: Any) -> None:
    """One of them does the work, the other is refused in one line or finds nothing to do."""
    into = tmp_path / "index"
    code = INDEXER.format(here=str(Path(__file__).parent), source=str(SOURCE), into=str(into), library=str(library))
    code = code.replace("delay=0.001", "delay=0.05")
    processes = [start(code) for _ in range(2)]
    ends = [process.communicate() for process in processes]
    assert sorted(process.returncode for process in processes) in ([0, 0], [0, 1])
    for process, (_, errors) in zip(processes, ends, strict=True):
        if process.returncode:
            assert "is being written by process" in errors.strip().splitlines()[-1]
    Index.build([library], tmp_path / "clean", encoder=encoder, chunk_tokens=24).close()
    assert state(into, encoder) == state(tmp_path / "clean", encoder)


FILLER = """
import json, sys
sys.path[:0] = [{here!r}, {source!r}]
from pathlib import Path
from fake_encoder import FakeEncoder
from diffembed.errors import IndexStoreError
from diffembed.index import Index
folder, encoder = Path({mount!r}), FakeEncoder()
(folder / "filler").write_bytes(bytes(300_000))
stored, said = 0, ""
with Index.create(folder / "index", model=encoder) as index:
    while not said:
        batch = [{{"id": stored + n, "text": "owl number %d " % (stored + n) * 20}} for n in range(20)]
        try:
            stored += index.add(batch).added
        except IndexStoreError as error:
            said = str(error)
(folder / "filler").unlink()
with Index.open(folder / "index") as index:
    kept = len(index.search("owl", top=1000, encoder=encoder, sentences=False))
    problems = index.verify().problems
    index._encoder = encoder
    more = index.add([{{"id": "more", "text": "room again"}}]).added
print(json.dumps([stored, kept, more, said, problems]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk in a name space of its own")
def test_a_disk_that_runs_full(tmp_path: Path) -> None:
    mount = tmp_path / "small disk"
    mount.mkdir()
    code = FILLER.format(here=str(Path(__file__).parent), source=str(SOURCE), mount=str(mount))
    script = tmp_path / "fill.py"
    script.write_text(code)
    commands = f"mount -t tmpfs -o size=1500k none {str(mount)!r} && exec {sys.executable} {str(script)!r}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", commands], capture_output=True, text=True, timeout=120)
    if done.returncode and ("unshare:" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"no small disk can be mounted here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    stored, kept, more, said, problems = json.loads(done.stdout)
    assert stored >= 20
    assert (kept, more, problems) == (stored, 1, [])
    assert "No space left on device" in said or "the disk is full" in said
    assert "the index is as it was before" in said
