"""Bring an index up to date with files: what is new or changed is read, cut, encoded and committed batch by batch.

A file whose size and time stamp are as recorded is not opened; one whose content hash is as recorded is not encoded.
Every batch of some thousand chunks is a commit of its own, so a killed run loses at most the batch it was at.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffembed.chunker import Chunker, check_strategy, chunk_limit
from diffembed.errors import InputError
from diffembed.index.catalog import Catalog
from diffembed.index.encoding import Progress, TextEncoder, check_model, encode_chunks, load_encoder
from diffembed.index.schema import NewDocument, Settings, StoredDocument
from diffembed.index.store import Store, check_folder, open_store
from diffembed.text.chunking import Strategy
from diffembed.text.readers import MAX_FILE_BYTES, UnreadableFile, is_text_format, read_source, too_large
from diffembed.text.walk import Excluded, FileEntry, Skipped, resolve_roots, walk

BATCH_CHUNKS = 2048
_SETTLED_NS = 2_000_000_000  # coarsest time stamps of file systems in use
_SNIFFED = 8192


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What bringing an index up to date came to.

    Attributes:
        added, changed, removed: files by what happened to their text.
        unchanged: how many files were as the index had them.
        skipped: files that could not be read as text, each with its reason.
        excluded: files and folders left out by a rule (hidden, ignore files, links), each with the rule.
        truncated: files with a chunk of which the model could not read all.
        chunks: how many chunks were encoded.
        seconds: how long it took.
    """

    added: tuple[Path, ...] = ()
    changed: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()
    unchanged: int = 0
    skipped: tuple[Skipped, ...] = ()
    excluded: tuple[Skipped, ...] = ()
    truncated: tuple[Path, ...] = ()
    chunks: int = 0
    seconds: float = 0.0

    @property
    def anything(self) -> bool:
        """Whether any text is new, changed or gone."""
        return bool(self.added or self.changed or self.removed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "added": [str(path) for path in self.added],
            "changed": [str(path) for path in self.changed],
            "removed": [str(path) for path in self.removed],
            "unchanged": self.unchanged,
            "skipped": [{"path": str(path), "reason": reason} for path, reason in self.skipped],
            "excluded": [{"path": str(path), "reason": reason} for path, reason in self.excluded],
            "truncated": [str(path) for path in self.truncated],
            "chunks": self.chunks,
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class _Plan:
    """What the walk found against what the catalog knows."""

    to_read: list[FileEntry] = field(default_factory=list)
    known: dict[str, StoredDocument] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)  # documents whose file is no longer there
    forgotten: list[str] = field(default_factory=list)  # the same for files known as unreadable
    unchanged: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def something_to_do(self) -> bool:
        return bool(self.to_read or self.vanished or self.forgotten)


def refresh_index(
    folder: Path,
    paths: Sequence[str | Path],
    *,
    encoder: TextEncoder,
    chunk_tokens: int | None = None,
    chunking: Strategy | None = None,
    progress: Progress | None = None,
    require_text: bool = False,
) -> RefreshReport:
    """Make an index hold the files under ``paths`` as they are now; a new index is begun if there is none.

    Documents that the index holds from elsewhere stay. Nothing is written when nothing changed.

    Args:
        folder: of the index.
        paths: files and folders.
        encoder: the model; an existing index takes only the one it was made with.
        chunk_tokens: chunk length of a new index; ``None`` for 256, or the model's limit if that is lower.
        chunking: strategy of a new index (see ``Chunker``); ``None`` for ``structure``. An index keeps to its own.
        progress: called with (files done, files to read).
        require_text: raise if the index holds no text from ``paths``.

    Raises:
        InputError: a path that is not there, an unusable folder or chunk length, another chunking than the index
            has, no text (see ``require_text``).
        IndexStoreError: the index is damaged, locked, or was made by another model.
    """
    start = time.perf_counter()
    roots = resolve_roots(paths)
    folder = folder.resolve()
    if folder in roots:
        raise InputError(f"{folder} is both read and the index; put the index into another folder")
    check_folder(folder)
    settings = settings_of(encoder, chunk_tokens, chunking)
    entries = list(walk(roots))
    work = _Work(encoder, progress)
    if Catalog.exists(folder):
        with closing(Catalog.open(folder)) as catalog:
            _check_settings(folder, catalog.settings(), encoder, chunk_tokens, chunking)
            work.plan = _plan(catalog, entries, roots)
    else:
        work.plan = _Plan([e for e in entries if isinstance(e, FileEntry)], skipped=_skipped(entries))
    if work.plan.something_to_do:
        with open_store(folder, settings) as store:
            _check_settings(folder, store.settings, encoder, chunk_tokens, chunking)
            work.plan = _plan(store.catalog, entries, roots)  # again: now nobody else writes
            work.run(store)
    report = work.report(time.perf_counter() - start)
    if require_text and not (report.added or report.changed or report.unchanged):
        raise InputError(_no_text(paths, report.skipped + report.excluded))
    return report


def settings_of(
    encoder: TextEncoder, chunk_tokens: int | None, chunking: Strategy | None, *, vectors_only: bool = False
) -> Settings:
    """What a new index is made with."""
    check_strategy(chunking or "structure")
    path = Path(encoder.model_id)
    return Settings(
        model=str(path.resolve()) if path.is_dir() else encoder.model_id,
        fingerprint=encoder.fingerprint,
        dims=encoder.dims[-1],
        contextual=encoder.contextual,
        chunk_tokens=chunk_limit(encoder, chunk_tokens),
        chunking=chunking or "structure",
        vectors_only=vectors_only,
    )


def settings_for(
    model: TextEncoder | str | None,
    dims: int | None,
    *,
    vectors_only: bool,
    fingerprint: str,
    chunk_tokens: int | None,
    chunking: Strategy | None,
) -> tuple[Settings, TextEncoder | None]:
    """What a new index is made with, and the model if it is at hand; see ``Index.create`` for the arguments.

    Raises:
        InputError: settings that do not go together.
    """
    if model is None and dims is not None:
        if isinstance(dims, bool) or not isinstance(dims, int) or dims < 1:
            raise InputError(f"dims is {dims!r}; give the width of the vectors, a whole number")
        if chunk_tokens is not None or chunking is not None:
            raise InputError("chunk_tokens and chunking are for an index whose model cuts texts; leave them out")
        return Settings("", fingerprint, dims, contextual=False, chunk_tokens=0, vectors_only=vectors_only), None
    given = model or "default"
    encoder = load_encoder(given) if isinstance(given, str) else given
    settings = settings_of(encoder, chunk_tokens, chunking, vectors_only=vectors_only)
    if dims not in (None, settings.dims):
        raise InputError(f"{encoder.model_id} makes vectors {settings.dims} wide, not {dims}; leave dims out")
    return settings, encoder


def _check_settings(
    folder: Path, settings: Settings, encoder: TextEncoder, chunk_tokens: int | None, chunking: Strategy | None
) -> None:
    check_model(folder, settings, encoder)
    if settings.vectors_only:
        raise InputError(f"{folder} holds vectors only, no texts; index into a new folder")
    if chunk_tokens not in (None, settings.chunk_tokens):
        raise InputError(
            f"{folder} was made with chunks of {settings.chunk_tokens} tokens, not {chunk_tokens}; "
            "leave chunk_tokens out, or index into a new folder"
        )
    check_chunking(folder, settings, chunking)


def check_chunking(folder: Path, settings: Settings, chunking: Strategy | None) -> None:
    """Raise ``InputError`` where another strategy is asked for than an index was made with."""
    if chunking not in (None, settings.chunking):
        raise InputError(
            f"{folder} was made with chunking {settings.chunking}, not {chunking}; leave chunking out, or index into "
            "a new folder"
        )


def _skipped(entries: Sequence[FileEntry | Skipped]) -> list[Skipped]:
    return [entry for entry in entries if isinstance(entry, Skipped)]


def _plan(catalog: Catalog, entries: Sequence[FileEntry | Skipped], roots: Sequence[Path]) -> _Plan:
    plan = _Plan(skipped=_skipped(entries), known={d.key: d for d in catalog.documents(files_only=True)})
    unreadable = catalog.unreadable()
    seen: set[str] = set()
    for entry in entries:
        if isinstance(entry, Skipped):
            continue
        path = str(entry.path)
        seen.add(path)
        document, failed = plan.known.get(path), unreadable.get(path)
        if document is not None and (document.size, document.mtime_ns) == (entry.size, entry.mtime_ns):
            plan.unchanged += 1
        elif failed is not None and failed[:2] == (entry.size, entry.mtime_ns):
            plan.skipped.append(Skipped(entry.path, failed[2]))
        else:
            plan.to_read.append(entry)
    prefixes = tuple(os.path.join(root, "") for root in roots)
    own = {str(root) for root in roots}
    gone = {path for path in (plan.known.keys() | unreadable.keys()) - seen if path in own or path.startswith(prefixes)}
    plan.vanished = sorted(gone & plan.known.keys())
    plan.forgotten = sorted(gone - plan.known.keys())
    return plan


class _Work:
    """One run: the files that have to be read, the batch that is being filled, and what came of it."""

    def __init__(self, encoder: TextEncoder, progress: Progress | None) -> None:
        self.plan = _Plan()
        self.encoder = encoder
        self.progress = progress
        self.done = 0
        self.batch: list[NewDocument] = []
        self.batch_chunks = 0
        self.touched: list[tuple[FileEntry, str | None]] = []  # same content; with the path it was at if it moved
        self.unreadable: list[tuple[FileEntry, str]] = []
        self.added: list[Path] = []
        self.changed: list[Path] = []
        self.truncated: list[Path] = []
        self.chunks = 0

    def report(self, seconds: float) -> RefreshReport:
        """What has been done so far."""
        return RefreshReport(
            added=tuple(self.added),
            changed=tuple(self.changed),
            removed=tuple(map(Path, self.plan.vanished)),
            unchanged=self.plan.unchanged,
            skipped=tuple(sorted(s for s in self.plan.skipped if not isinstance(s, Excluded))),
            excluded=tuple(sorted(s for s in self.plan.skipped if isinstance(s, Excluded))),
            truncated=tuple(self.truncated),
            chunks=self.chunks,
            seconds=seconds,
        )

    def run(self, store: Store) -> None:
        """Read, encode and commit everything planned."""
        plan = self.plan
        # A file that only moved keeps its vectors. Its name's ending says how it was cut, so that has to be the same.
        movable = {(plan.known[p].content_hash, Path(p).suffix): p for p in plan.vanished}
        chunker = Chunker(store.settings.chunking, max_tokens=store.settings.chunk_tokens, encoder=self.encoder)
        for entry in plan.to_read:
            self._read(entry, chunker, movable)
            if self.batch_chunks >= BATCH_CHUNKS:
                self._commit(store)
        self._commit(store)
        moved = {was for _, was in self.touched if was is not None}
        with store.catalog.writing():
            for entry, was in self.touched:
                store.catalog.touch_document(str(entry.path), entry.size, entry.mtime_ns, was=was)
            for entry, reason in self.unreadable:
                store.bury(store.catalog.add_unreadable(str(entry.path), entry.size, entry.mtime_ns, reason))
            store.bury(store.catalog.remove_documents(p for p in plan.vanished + plan.forgotten if p not in moved))
        store.merge_small()

    def _read(self, planned: FileEntry, chunker: Chunker, movable: dict[tuple[str, str], str]) -> None:
        path = str(planned.path)
        known = self.plan.known.get(path)
        try:
            entry, content = _load(planned)
            content_hash = hashlib.sha256(content).hexdigest()
            if known is not None and known.content_hash == content_hash:
                self.touched.append((entry, None))
                self.plan.unchanged += 1
                return
            was = movable.pop((content_hash, planned.path.suffix), None) if known is None else None
            if was is not None:
                self.touched.append((entry, was))
                self.added.append(planned.path)
                return
            source = read_source(planned.path, content)
            chunks = chunker.chunk(source)
            if not chunks:
                raise UnreadableFile("no text in it that the model reads")
        except UnreadableFile as error:
            self.plan.skipped.append(Skipped(planned.path, str(error)))
            # A reader may be installed later, so that reason is not remembered.
            remembered = planned if error.lasting else FileEntry(planned.path, -1, -1)
            self.unreadable.append((remembered, str(error)))
            if known is not None:
                self.plan.vanished.append(path)
            return
        self.batch.append(NewDocument(path, entry.size, entry.mtime_ns, content_hash, source.kind, chunks))
        self.batch_chunks += len(chunks)

    def _commit(self, store: Store) -> None:
        if self.batch:
            files, total = len(self.batch), len(self.plan.to_read)

            def tick(done: int, of: int) -> None:
                if self.progress is not None:
                    self.progress(self.done + files * done // max(1, of), total)

            texts = [[chunk.text for chunk in new.chunks] for new in self.batch]
            rows, cut = encode_chunks(self.encoder, texts, tick)
            store.add(self.batch, rows)
            self.truncated += [Path(self.batch[number].key) for number in cut]
            for new in self.batch:
                (self.changed if new.key in self.plan.known else self.added).append(Path(new.key))
            self.chunks += self.batch_chunks
        self.done = len(self.added) + len(self.changed) + len(self.touched) + len(self.unreadable)
        if self.progress is not None and self.plan.to_read:
            self.progress(min(self.done, len(self.plan.to_read)), len(self.plan.to_read))
        self.batch, self.batch_chunks = [], 0


def _load(planned: FileEntry) -> tuple[FileEntry, bytes]:
    """The content of a file and the stamps to record for it: stamps that cannot hide a later change.

    Raises:
        UnreadableFile: too large, binary, or not to be opened.
    """
    try:
        with open(planned.path, "rb") as file:
            before = os.fstat(file.fileno())
            if before.st_size > MAX_FILE_BYTES:
                raise UnreadableFile(too_large(before.st_size))
            content = file.read(_SNIFFED)
            if b"\0" in content and is_text_format(planned.path):
                raise UnreadableFile("binary file")
            content += file.read(MAX_FILE_BYTES + 1 - len(content))
            after = os.fstat(file.fileno())
    except OSError as error:
        raise UnreadableFile(f"cannot be read ({(error.strerror or str(error)).lower()})", lasting=False) from None
    mtime_ns = before.st_mtime_ns
    # A file still being written, or written so lately that its time stamp may not move with the next change, is
    # hashed again next time.
    if (after.st_size, after.st_mtime_ns) != (len(content), mtime_ns) or time.time_ns() - mtime_ns < _SETTLED_NS:
        mtime_ns = -1
    return FileEntry(planned.path, len(content), mtime_ns), content


def _no_text(paths: Sequence[str | Path], skipped: Sequence[Skipped]) -> str:
    where = ", ".join(map(str, paths))
    if not skipped:
        return f"{where}: nothing to read there; name a folder or file with text"
    reasons = Counter(reason for _, reason in skipped)
    listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    more = ", ..." if len(reasons) > 3 else ""
    return f"{where}: no text to read; left out: {listed}{more}; name a folder or file with text"
