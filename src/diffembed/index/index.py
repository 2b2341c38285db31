"""``Index``: a folder of vectors and text on disk that answers searches."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffembed.errors import IndexStoreError, InputError
from diffembed.index.catalog import Catalog, Settings, StoredChunk
from diffembed.index.encoding import Hit, Progress, TextEncoder, check_model, load_encoder, mark_hits
from diffembed.index.refresh import RefreshReport, refresh_index
from diffembed.index.scan import Snapshot
from diffembed.index.segments import FloatArray, Int8Rows
from diffembed.index.store import live_mask, open_listed, remove_orphans_if_idle
from diffembed.text.chunking import Strategy

_ATTEMPTS = 3


class Index:
    """An open index. Make one with :meth:`build`, open one with :meth:`open`.

    Reading never waits for a writer. Every search sees one state of the index, the newest committed one. An object is
    for one thread at a time; several processes may read while one writes.

    Attributes:
        path: the folder.
        settings: what it was made with: model, width, chunking and chunk length.
    """

    def __init__(self, path: Path, catalog: Catalog) -> None:
        self.path = path
        self.settings: Settings = catalog.settings()
        self._catalog = catalog
        weakref.finalize(self, catalog.close)
        self._snapshot: Snapshot | None = None
        self._generation = -1
        self._encoder: TextEncoder | None = None

    @classmethod
    def build(
        cls,
        paths: Sequence[str | Path],
        into: str | Path,
        *,
        encoder: TextEncoder | str = "default",
        chunk_tokens: int | None = None,
        chunking: Strategy | None = None,
        progress: Progress | None = None,
    ) -> Index:
        """Index files and folders into ``into``; goes on where an earlier run was cut off.

        Args:
            paths: files and folders to read.
            into: folder of the index; new, empty, or an index made by the same model.
            encoder: an ``Encoder``, or the name of a model.
            chunk_tokens: longest chunk in tokens; ``None`` for 256, or the model's limit if that is lower.
            chunking: how documents are cut (see ``Chunker``); ``None`` for ``structure``, or what the index there has.
            progress: called with (files done, files to read).

        Raises:
            InputError: a path that is not there, no text to read, an unusable folder or chunk length.
            IndexStoreError: the index there is damaged, locked, or was made by another model.
        """
        model = load_encoder(encoder) if isinstance(encoder, str) else encoder
        refresh_index(
            Path(into),
            paths,
            encoder=model,
            chunk_tokens=chunk_tokens,
            chunking=chunking,
            progress=progress,
            require_text=True,
        )
        index = cls.open(into)
        index._encoder = model
        return index

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open an index and check it.

        Raises:
            IndexStoreError: not an index, damaged, or of another version.
        """
        folder = Path(path).resolve()
        catalog = Catalog.open(folder)
        try:
            index = cls(folder, catalog)
            remove_orphans_if_idle(folder, catalog)
            index._read()
        except BaseException:
            catalog.close()
            raise
        return index

    def close(self) -> None:
        """Close the files; also done at the end of a ``with`` block."""
        self._snapshot = None
        self._generation = -1
        self._catalog.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many chunks it holds."""
        return self._catalog.counts()[1]

    @property
    def documents(self) -> list[Path]:
        """The files it holds."""
        return [Path(document.path) for document in self._catalog.documents()]

    def refresh(
        self,
        paths: Sequence[str | Path],
        *,
        encoder: TextEncoder | str | None = None,
        progress: Progress | None = None,
    ) -> RefreshReport:
        """Bring the index up to date with the files under ``paths``; see ``refresh_index``.

        Documents from elsewhere stay. ``encoder=None`` loads the model that the index names.
        """
        return refresh_index(self.path, paths, encoder=self._model(encoder), progress=progress)

    def search(self, query: str, *, top: int = 10, encoder: TextEncoder | str | None = None) -> list[Hit]:
        """The chunks closest to a query, best first, each with its best sentence.

        Args:
            query: what to look for.
            top: how many chunks at most.
            encoder: the model that made the index; ``None`` loads the one that the index names.

        Raises:
            InputError: an empty query, ``top`` below 1.
            IndexStoreError: a damaged index, or another model.
        """
        if not query.strip():
            raise InputError("the query is empty; say what to look for")
        if top < 1:
            raise InputError(f"top is {top}; ask for at least 1 result")
        model = self._model(encoder)
        vector_D = model.encode_queries([query], dtype="int8").values[0]
        _, scores, found = self._read(vector_D[None, :], top)
        return mark_hits(model, vector_D, found, scores[0][: len(found)].tolist())

    def search_vectors(self, vectors_QD: Int8Rows, top: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """The chunks closest to INT8 vectors made elsewhere by the same model.

        Args:
            vectors_QD: ``[Q, D]`` int8.
            top: how many chunks for each.

        Returns:
            ``[Q, top]`` chunk ids (-1 where there are fewer chunks) and ``[Q, top]`` cosines (``-inf`` there).
        """
        ids, scores, _ = self._read(vectors_QD, top, with_chunks=False)
        return ids, scores

    def chunks(self, ids: Sequence[int]) -> list[StoredChunk]:
        """Text and place of chunks by id."""
        return self._catalog.chunks([int(i) for i in ids])

    def _model(self, encoder: TextEncoder | str | None) -> TextEncoder:
        if encoder is None:
            self._encoder = self._encoder or load_encoder(self.settings.model)
            model = self._encoder
        else:
            model = load_encoder(encoder) if isinstance(encoder, str) else encoder
        check_model(self.path, self.settings, model)
        return model

    def _read(
        self, queries_QD: Int8Rows | None = None, top: int = 1, *, with_chunks: bool = True
    ) -> tuple[npt.NDArray[np.int64], FloatArray, list[StoredChunk]]:
        """Search and fetch the chunks of the first query in one state of the index."""
        for attempt in range(_ATTEMPTS):
            with self._catalog.reading():
                try:
                    snapshot = self._current_snapshot()
                except IndexStoreError:
                    # A writer may have merged segments away between our look at the list and at the files.
                    if attempt < _ATTEMPTS - 1 and self._files_missing():
                        continue
                    raise
                if queries_QD is None:
                    return np.empty((0, top), np.int64), np.empty((0, top), np.float32), []
                ids, scores = snapshot.search(queries_QD, top)
                found = self._catalog.chunks([i for i in ids[0].tolist() if i >= 0]) if with_chunks else []
                return ids, scores, found
        raise AssertionError("unreachable")

    def _files_missing(self) -> bool:
        return any(not (self.path / "segments" / listed.name).exists() for listed in self._catalog.segments())

    def _current_snapshot(self) -> Snapshot:
        generation = self._catalog.generation()
        if self._snapshot is None or generation != self._generation:
            opened = {segment.path.name: segment for segment in self._snapshot.segments} if self._snapshot else {}
            listed = self._catalog.segments()
            segments = [opened.get(s.name) or open_listed(self.path, s, self.settings.dims) for s in listed]
            dead = np.array(self._catalog.deleted(), np.int64)
            snapshot = Snapshot(segments, [live_mask(segment, dead) for segment in segments])
            if snapshot.rows != self._catalog.counts()[1]:
                raise IndexStoreError(
                    f"{self.path} holds {snapshot.rows} vectors for {self._catalog.counts()[1]} chunks; "
                    "delete that folder and index the files again"
                )
            self._snapshot, self._generation = snapshot, generation
        return self._snapshot
