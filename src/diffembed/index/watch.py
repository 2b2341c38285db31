"""Keeping an index up to date while files change: the walk is repeated, and what changed is indexed.

Looking again costs one ``stat`` a file and works on every file system; a file that is still being written is read
again until its time stamp has settled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffembed.errors import InputError
from diffembed.index.encoding import Progress, TextEncoder
from diffembed.index.refresh import RefreshReport, refresh_index
from diffembed.text.chunking import Strategy

WATCH_SECONDS = 2.0


def watch_index(
    folder: Path,
    paths: Sequence[str | Path],
    *,
    encoder: TextEncoder,
    chunking: Strategy | None = None,
    seconds: float = WATCH_SECONDS,
    progress: Progress | None = None,
) -> Iterator[RefreshReport]:
    """Bring an index up to date again and again; ends only when the caller stops asking.

    Args:
        folder: of the index.
        paths: files and folders.
        encoder: the model.
        chunking: of a new index.
        seconds: how long to wait between two looks.
        progress: see ``refresh_index``.

    Yields:
        What the first look came to, and then every look that changed something.

    Raises:
        InputError: as ``refresh_index``; ``seconds`` that are not above 0.
        IndexStoreError: as ``refresh_index``; another process that writes to the index at the same moment included.
    """
    check_interval(seconds)
    yield refresh_index(folder, paths, encoder=encoder, chunking=chunking, progress=progress)
    while True:
        time.sleep(seconds)
        report = refresh_index(folder, paths, encoder=encoder, chunking=chunking, progress=progress)
        if report.anything:
            yield report


def check_interval(seconds: float) -> None:
    """Raise ``InputError`` for a time that cannot be waited."""
    if not 0 < seconds < float("inf"):
        raise InputError(f"watching every {seconds} seconds: give a number above 0")
