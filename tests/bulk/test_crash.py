"""kill -9 at random moments, as often as you like: the folder ends with the bytes of a run that nothing interrupted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.bulk.folders import contents, rows, write_jsonl

from diffembed.bulk import verify_folder

KILLS = {"npy": 5, "parquet": 3}
SOURCE = Path(__file__).parents[2] / "src"

CHILD = """
import sys, time
sys.path[:0] = [{code!r}]
from diffembed.bulk import blocks, encode_folder, folder
from diffembed.bulk.manifest import Manifest
blocks._BLOCK_ROWS, blocks._SLICE_ROWS = 7, 3
for owner, name in ((Manifest, "write"), (folder, "file_digest"), (folder, "quarantine_line")):
    def slow(*args, plain=getattr(owner, name)):
        time.sleep(0.002)  # so that kills fall between the steps of a shard, too
        return plain(*args)
    setattr(owner, name, slow)
print("ready", flush=True)
report = encode_folder({source!r}, {into!r}, model={model!r}, dtype="int8", shard_rows=12, format={format!r}, threads=2)
print("done", report.kept, flush=True)
"""


def shards_done(folder: Path) -> int:
    """As the manifest says, which is replaced in one step and so always whole."""
    manifest = folder / "manifest.json"
    return len(json.loads(manifest.read_bytes())["shards"]) if manifest.exists() else 0


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_killed_at_random_moments(tmp_path: Path, tiny_model_dir: Path, corpus: list[str], format: str) -> None:
    seed = int(os.environ.get("DIFFEMBED_CRASH_SEED", "0")) or random.SystemRandom().randrange(10**6)
    print(f"DIFFEMBED_CRASH_SEED={seed}")  # shown by pytest when the test fails
    chance = random.Random(seed)
    source = write_jsonl(tmp_path / "in.jsonl", rows(corpus, 240))

    def child(into: Path) -> subprocess.Popen[str]:
        code = CHILD.format(
            code=str(SOURCE), source=str(source), into=str(into), model=str(tiny_model_dir), format=format
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        return process

    whole, errors = child(tmp_path / "whole").communicate()
    assert whole == "done 0\n", errors
    into = tmp_path / "out"
    killed = rounds = 0
    while killed < KILLS[format] and rounds < 5 * KILLS[format]:
        rounds += 1
        process = child(into)
        goal = shards_done(into) + chance.choice((0, 1, 2))
        while shards_done(into) < goal and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.03))
        process.send_signal(signal.SIGKILL)
        ended, errors = process.communicate()
        assert errors == ""
        killed += "done" not in ended
        if "done" in ended and killed < KILLS[format]:
            shutil.rmtree(into)  # it was faster than the kill: from the beginning
    assert killed == KILLS[format], f"{killed} of {rounds} runs were killed, the others had ended before"
    last, errors = child(into).communicate()
    assert last.startswith("done"), errors
    assert contents(into) == contents(tmp_path / "whole")
    assert verify_folder(into, model=tiny_model_dir).problems == ()
