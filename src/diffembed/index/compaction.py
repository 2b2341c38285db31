"""Joining segments, dropping dead rows, and sealing large segments with a coarse index.

Work in progress lies in the folder ``compacting`` of the index. It belongs to exactly the rows it was begun for: a run
that was killed goes on there, a run for other rows begins anew. Only finished files move to the segments, and one
transaction makes them count; whatever moment the process dies at, the index is as before or as after.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.errors import IndexStoreError
from diffembed.index.catalog import Catalog
from diffembed.index.coarse import SUFFIX, Coarse
from diffembed.index.coarse_build import DEFAULT_DESIGN, Design, build_coarse, codes_for
from diffembed.index.merging import Mask, Merged
from diffembed.index.parts import SEGMENTS, live_mask, open_listed, open_sealed
from diffembed.index.scan import EXACT_VALUES
from diffembed.index.schema import StoredSegment
from diffembed.index.segments import Int8Rows, Segment, open_segment, stream_segment
from diffembed.index.storage import fsync_folder
from diffembed.index.tuning import RECALL, Tuning, tune

COMPACTING = "compacting"
MERGE_ABOVE_SEGMENTS = 16
MERGE_ROWS = 65_536
"""Segments with fewer live rows than this are merged once there are more than ``MERGE_ABOVE_SEGMENTS`` of them ..."""
MERGED_ROWS = 262_144
"""... into segments of up to this many rows."""
SEAL_VALUES = 16_000_000
"""From this many values (rows x dims) on compaction seals: below, the exact scan takes a few milliseconds."""
SEALED_ROWS = 1 << 24
"""A sealed segment has no more rows than this: it bounds what compaction needs of memory, and of disk on top."""
_DEAD_SHARE = 0.25  # a segment with more dead rows than this is rewritten without them
_STREAMED_VALUES = 16 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Source:
    """A listed segment, open."""

    listed: StoredSegment
    segment: Segment
    mask: Mask

    @property
    def live(self) -> int:
        return len(self.segment) if self.mask is None else int(self.mask.sum())

    @property
    def sealed(self) -> bool:
        return Tuning.from_json(self.listed.tuning) is not None


class Compaction:
    """What joins and seals the segments of an index; its writer lock is held by the caller.

    Args:
        folder: of the index.
        catalog: of the index.
        dims: width of its rows.
        wanted: recall that sealed segments are tuned for, those too that were tuned for another; ``None``: what is new
            for ``RECALL``, and what is tuned stays so.
        questions: int8 rows to tune all sealed segments with (see ``tune``); ``None``: their own rows ask.
        design: how coarse indexes are made.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        dims: int,
        *,
        wanted: float | None = None,
        questions: Int8Rows | None = None,
        design: Design = DEFAULT_DESIGN,
    ) -> None:
        self.folder = folder
        self.catalog = catalog
        self.dims = dims
        self.wanted = wanted
        self.questions = questions
        self.design = design
        self._tuned: set[str] = set()  # segments that this run has tuned

    def merge_small(self) -> None:
        """The cheap step after a write: join small segments, seal once scans get slow, drop many dead rows."""
        sources = self._sources()
        plain = [source for source in sources if not source.sealed]
        for source in sources:
            if source.sealed and source.live < (1 - _DEAD_SHARE) * len(source.segment):
                self._rewrite([source], lambda *_: None)
        if sum(source.live for source in plain) * self.dims > EXACT_VALUES:
            for group in _groups(plain, SEALED_ROWS):
                self._rewrite(group, lambda *_: None)
            return
        small = [source for source in plain if source.live < MERGE_ROWS]
        chosen = {source.listed.id for source in small} if len(small) > MERGE_ABOVE_SEGMENTS else set()
        chosen |= {s.listed.id for s in plain if s.live < (1 - _DEAD_SHARE) * len(s.segment)}
        for group in _groups([source for source in plain if source.listed.id in chosen], MERGED_ROWS):
            self._rewrite(group, lambda *_: None, may_seal=False)

    def compact(self, progress: Progress | None = None) -> None:
        """Join all segments below the sealed size, drop every dead row, build and tune coarse indexes."""
        sources = [source for source in self._sources() if not self._stays(source)]
        rows = sum(source.live for source in sources)
        before = 0

        def told(done: int, _: int) -> None:
            if progress is not None:
                progress(min(before + done, rows), rows)

        # The borders of the groups must not depend on how many are done: a run that was killed has to find its work.
        for group in _groups(sources, SEALED_ROWS):
            self._rewrite(group, told)
            before += sum(source.live for source in group)
            told(0, rows)
        self._retune()
        self._clean()  # of work that a killed run left and that nothing needs any more

    def _retune(self) -> None:
        """Tune sealed segments anew that were tuned for another recall, or all of them where there are questions."""
        if self.wanted is None and self.questions is None:
            return
        for listed in self.catalog.segments():
            sealed = open_sealed(self.folder, listed, self.dims)
            if sealed is None or listed.name in self._tuned:
                continue
            wanted = self.wanted or sealed.tuning.wanted
            if wanted == sealed.tuning.wanted and self.questions is None:
                continue
            segment = open_listed(self.folder, listed, self.dims)
            tuning = tune(segment, sealed.coarse, sealed.tuning.codes, wanted=wanted, questions=self.questions)
            with self.catalog.writing():
                self.catalog.retune_segment(listed, tuning.to_json())

    def _sources(self) -> list[_Source]:
        sources = []
        for listed in self.catalog.segments():
            segment = open_listed(self.folder, listed, self.dims)
            sources.append(_Source(listed, segment, live_mask(segment, self.catalog.deleted(listed.id))))
        return sources

    def _stays(self, source: _Source) -> bool:
        """A large sealed segment without dead rows has nothing to gain."""
        return source.sealed and source.mask is None and 2 * len(source.segment) > SEALED_ROWS

    def _rewrite(self, group: Sequence[_Source], progress: Progress, *, may_seal: bool = True) -> None:
        """One segment in place of several, in one commit."""
        live = sum(source.live for source in group)
        seals = may_seal and live * self.dims >= SEAL_VALUES
        alone = len(group) == 1 and group[0].mask is None
        if alone and (group[0].sealed or not seals):
            return
        if not live:
            self._commit(group, None, 0, "{}")
            return
        work = self._work(group, keep_others=not may_seal)
        try:
            path = group[0].segment.path if alone else work / "rows.seg"
            if not path.is_file():
                merged = Merged([s.segment for s in group], [s.mask for s in group])
                step = max(1, _STREAMED_VALUES // self.dims)
                stream_segment(path, merged.ids, self.dims, (rows for _, rows in merged.blocks(step)))
            segment = open_segment(path, rows=live, dims=self.dims)
            first = segment.first_id
            tuning = self._sealed(segment, work, progress) if seals else "{}"
            # The random part keeps a name from ever being used twice, also by a writer that died before its commit.
            name = path.name if alone else f"{first:012d}-{secrets.token_hex(4)}.seg"
            self._move(work, {"coarse": name + SUFFIX} if alone else {"coarse": name + SUFFIX, "rows.seg": name})
        except OSError as error:
            raise IndexStoreError(
                f"{self.folder} cannot be written ({error.strerror}); make room or check its rights, then run again: "
                "the index is as it was, and what was finished is used"
            ) from None
        self._commit(group, name, live, tuning)
        self._tuned.add(name)
        shutil.rmtree(work)
        if not any(work.parent.iterdir()):
            work.parent.rmdir()

    def _sealed(self, segment: Segment, work: Path, progress: Progress) -> str:
        """Build the coarse index of a segment and tune it; returns what the catalog keeps of it."""
        path = work / "coarse"

        def coded(step: str, done: int, rows: int) -> None:
            if step == "code":  # what takes the time; its count is that of the rows
                progress(done, rows)

        if not path.is_file():
            build_coarse(segment, path, work / "parts", design=self.design, progress=coded)
        coarse = Coarse(path, rows=len(segment), dims=self.dims)
        codes = self.design.codes or codes_for(self.dims)
        return tune(segment, coarse, codes, wanted=self.wanted or RECALL, questions=self.questions).to_json()

    def _work(self, group: Sequence[_Source], *, keep_others: bool) -> Path:
        """The folder for work on exactly these live rows.

        What is left of work on others goes, unless this is a small step that a compaction may still go on after.
        """
        key = hashlib.blake2b(repr((self.dims, self.design)).encode(), digest_size=16)
        for source in group:
            key.update(source.listed.name.encode())
            key.update(self.catalog.deleted(source.listed.id).tobytes())
        work = self.folder / COMPACTING / key.hexdigest()
        if work.parent.is_dir() and not keep_others:
            for other in work.parent.iterdir():
                if other != work:
                    shutil.rmtree(other)
        work.mkdir(parents=True, exist_ok=True)
        return work

    def _move(self, work: Path, names: dict[str, str]) -> None:
        segments = self.folder / SEGMENTS
        for file, name in names.items():
            if (work / file).is_file():
                os.rename(work / file, segments / name)
        fsync_folder(segments)

    def _commit(self, group: Sequence[_Source], name: str | None, rows: int, tuning: str) -> None:
        with self.catalog.writing():
            self.catalog.remove_segments(source.listed.id for source in group)
            if name is not None:
                self.catalog.add_segment(name, rows, tuning)
        for source in group:
            if source.listed.name != name:
                # the segment first: by its absence readers know that they hold an old list
                for old in (source.listed.name, source.listed.name + SUFFIX):
                    (self.folder / SEGMENTS / old).unlink(missing_ok=True)

    def _clean(self) -> None:
        shutil.rmtree(self.folder / COMPACTING, ignore_errors=True)


def _groups(sources: Sequence[_Source], size: int) -> list[list[_Source]]:
    """Neighbours in the order of their ids, up to ``size`` live rows together."""
    groups: list[list[_Source]] = []
    rows = size
    for source in sorted(sources, key=lambda source: source.segment.first_id):
        if not groups or rows + source.live > size:
            groups.append([])
            rows = 0
        groups[-1].append(source)
        rows += source.live
    return groups
