"""A process that writes to an index as it is told, line by line, and can be killed at any moment.

Reads ``{"op": ..., ...}`` a line from stdin; answers ``begun`` when it sets to work and ``done RESULT`` when the work
is acknowledged, or ``refused MESSAGE``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from fake_encoder import FakeEncoder

from diffembed.errors import DiffembedError
from diffembed.index import Index, coarse_build, compaction, tuning


def main(folder: Path, dims: int, sealing: bool) -> None:
    compaction.MERGE_ABOVE_SEGMENTS = 4
    if sealing:  # what else takes hundreds of thousands of rows
        compaction.SEAL_VALUES, compaction.EXACT_VALUES, compaction.SEALED_ROWS = 60 * dims, 90 * dims, 150
        coarse_build.PART_ROWS = 64
        tuning._QUESTIONS = {10: 64, 100: 32, 1000: 16}
    encoder = FakeEncoder(dims=dims)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        index = Index.open(folder)
        index._encoder = encoder
        print("begun", flush=True)
        try:
            match asked["op"]:
                case "add":
                    result = index.add(asked["records"]).added
                case "upsert":
                    result = index.upsert(asked["records"]).chunks
                case "vectors":
                    result = index.add_vectors(np.array(asked["rows"], np.int8), asked["ids"])
                case "delete":
                    result = index.delete(asked.get("ids"), where=asked.get("where"))
                case "compact":
                    index.compact()
                    result = 0
                case other:
                    raise ValueError(other)
            print(f"done {result}", flush=True)
        except DiffembedError as error:
            print(f"refused {error}", flush=True)
        index.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "sealing")
