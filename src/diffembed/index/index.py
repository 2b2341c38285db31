"""``Index``: a folder of vectors and text on disk that answers searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.index.catalog import Catalog
from diffembed.index.encoding import Progress, TextEncoder, load_encoder
from diffembed.index.filters import Where
from diffembed.index.incoming import vector_rows
from diffembed.index.reading import IndexReader
from diffembed.index.refresh import RefreshReport, refresh_index, settings_for
from diffembed.index.segments import Int8Rows
from diffembed.index.store import create_store, open_existing
from diffembed.text.chunking import Strategy

if TYPE_CHECKING:
    from diffembed.index.checking import CheckReport, Stats
    from diffembed.index.exchange import ExportReport
    from diffembed.index.qdrant import QdrantIndex
    from diffembed.index.qdrant_transfer import TransferReport
    from diffembed.index.records import WriteReport


class Index(IndexReader):
    """An open index. Make one with :meth:`build` or :meth:`create`, open one with :meth:`open`.

    Reading never waits for a writer. Every search sees one state of the index, the newest committed one. Threads may
    share an object and take turns; for searches at the same time open one for each, or use several processes.

    Attributes:
        path: the folder.
        settings: what it was made with: model, width, chunking and chunk length.
    """

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
    def create(
        cls,
        path: str | Path,
        *,
        model: TextEncoder | str | None = None,
        dims: int | None = None,
        vectors_only: bool = False,
        fingerprint: str = "",
        chunk_tokens: int | None = None,
        chunking: Strategy | None = None,
    ) -> Index:
        """Make an empty index for records (:meth:`add`) or, with ``vectors_only``, for rows of vectors.

        Args:
            path: a folder that is new or empty.
            model: an ``Encoder``, or the name of a model; ``None`` for ``default``, or with ``dims`` for one that is
                not at hand: then every record brings its vectors, and searches are asked with vectors.
            dims: width of the vectors; ``None`` for the model's own.
            vectors_only: no texts, no metadata: rows of vectors under int64 ids of yours, as many as the disk holds.
            fingerprint: of a model that is not at hand, if you know it; empty for unknown.
            chunk_tokens, chunking: of a model that is at hand; see :meth:`build`.

        Raises:
            InputError: the folder holds something, or settings that do not go together.
        """
        settings, encoder = settings_for(
            model,
            dims,
            vectors_only=vectors_only,
            fingerprint=fingerprint,
            chunk_tokens=chunk_tokens,
            chunking=chunking,
        )
        create_store(Path(path).resolve(), settings)
        index = cls.open(path)
        index._encoder = encoder
        return index

    # Writing

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

    def add(self, records: Iterable[Mapping[str, Any]], *, progress: Progress | None = None) -> WriteReport:
        """Store records, whose ids must be new; see :meth:`upsert`."""
        from diffembed.index.records import write_records

        return write_records(self.path, records, self._model, replace=False, progress=progress)

    def upsert(self, records: Iterable[Mapping[str, Any]], *, progress: Progress | None = None) -> WriteReport:
        """Store records, in the place of those that have the same ids.

        A record has ``id`` (a string or an integer), ``text`` (cut into chunks) or ``chunks`` (taken as they are), and
        may have ``metadata`` (an object of JSON, which filters look at), ``kind`` (of the text: ``prose``,
        ``markdown``, ``rst``, ``code``), and vectors made elsewhere by the model of the index: ``vector`` of a text
        that is one chunk, ``vectors`` of chunks. Of a record whose text is as it was only the metadata is written.

        Args:
            records: any number; every 2,048 chunks are a commit.
            progress: called with (records stored, 0).

        Raises:
            InputError: a record that is none; those before it may be stored, and the message says how many.
            IndexStoreError: the index is damaged or locked, or the disk is full.
        """
        from diffembed.index.records import write_records

        return write_records(self.path, records, self._model, replace=True, progress=progress)

    def add_vectors(self, vectors_ND: npt.ArrayLike, ids_N: npt.ArrayLike) -> int:
        """Store rows of an index that was made with ``vectors_only``, in the place of those with the same ids.

        Args:
            vectors_ND: ``[N, D]`` int8, or floating point (see ``vector_rows``). One commit.
            ids_N: ``[N]`` integers from 0, each once.

        Returns:
            How many rows were stored.
        """
        from diffembed.index.records import write_vectors

        return write_vectors(self.path, vectors_ND, ids_N)

    def delete(self, ids: Iterable[str | int | Path] | None = None, *, where: Where | None = None) -> int:
        """Take records, files (by path) or vectors away: by their ids, or all documents that a filter lets through.

        In one commit. A file that is still on disk comes back with the next :meth:`refresh`.

        Args:
            ids: which; those that are not there are passed over.
            where: a filter in their place, which has to say something: an empty one is refused.

        Returns:
            How many there were.

        Raises:
            InputError: both, neither, or what is no id or filter.
        """
        from diffembed.index.records import delete_records

        return delete_records(self.path, ids, where=where)

    def compact(
        self,
        *,
        recall: float | None = None,
        questions: Sequence[str] | npt.ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Join segments, drop what is deleted, and build the coarse indexes of large ones; searches go on meanwhile.

        Args:
            recall: share of the exact answers that coarse indexes are tuned to find, above 0 and up to 1: less is
                faster. Unless given, new ones are tuned for 0.95 and the others stay as they are.
            questions: such as users ask, texts or ``[Q, D]`` vectors, to tune all coarse indexes with, in the place of
                rows of the index; the first 512 are used.
            progress: called with (rows done, rows to do).

        Raises:
            InputError: ``recall`` is no share; fewer than 50 questions, or vectors of another width.
            IndexStoreError: another process writes to the index, or the disk is full.
        """
        rows = None if questions is None else self._asked(questions)
        with open_existing(self.path) as store:
            store.compact(recall=recall, questions=rows, progress=progress)

    def _asked(self, questions: Sequence[str] | npt.ArrayLike) -> Int8Rows:
        """Questions as int8 rows."""
        if not (isinstance(questions, Sequence) and questions and all(isinstance(q, str) for q in questions)):
            return vector_rows(questions, self.settings.dims, "the questions")
        if self.settings.vectors_only:
            raise InputError(f"{self.path} holds vectors only and names no model; give the questions as vectors")
        texts = cast(Sequence[str], questions)
        vectors: Int8Rows = self._model().encode_queries(list(texts), dtype="int8").values
        return vectors

    @classmethod
    def check(cls, path: str | Path, *, progress: Progress | None = None) -> CheckReport:
        """Recount and compare everything in an index, every byte of the vectors included; says what is damaged.

        Raises:
            IndexStoreError: not an index, or one whose catalog cannot be read at all.
        """
        from diffembed.index.checking import verify_index

        catalog = Catalog.open(Path(path).resolve())
        try:
            return verify_index(catalog, progress)
        finally:
            catalog.close()

    def verify(self, *, progress: Progress | None = None) -> CheckReport:
        """As :meth:`check`, of an index that could be opened."""
        return self.check(self.path, progress=progress)

    def stats(self) -> Stats:
        """How large the index is and what it holds."""
        from diffembed.index.checking import index_stats

        with self._catalog.reading():
            return index_stats(self._catalog)

    def export(self, output: str | Path, *, progress: Progress | None = None) -> ExportReport:
        """Write the vectors, with ids, texts and metadata, as they are now.

        Args:
            output: ``.parquet``: a row for each chunk, which ``import_parquet`` takes. ``.npy``: int8 ``[rows, dims]``,
                and beside it ``.ids.jsonl`` (``id`` and ``chunk`` of each row), or ``.ids.npy`` for vectors only.
            progress: called with (rows written, rows).

        Raises:
            InputError: another ending, or a file that cannot be written.
        """
        from diffembed.index.exchange import export_rows

        path = Path(output)
        return self._reading(lambda snapshot: export_rows(self._catalog, snapshot, self.settings, path, progress))

    def copy_to(
        self, target: QdrantIndex, *, part: tuple[int, int] = (0, 1), progress: Progress | None = None
    ) -> TransferReport:
        """Write this index into a collection of a Qdrant server, with its vectors as they are.

        Goes on where an earlier copy was cut off: what is there already with the same content is skipped. Documents
        that only the collection has stay there.

        Args:
            target: a collection made with the settings of this index (``QdrantIndex.create(settings=...)``).
            part: ``(i, n)`` copies the i-th of n parts, from 0, so that several processes can share the work.
            progress: called with (chunks looked at, all).

        Raises:
            IndexStoreError: the collection was made for other vectors.
            ClusterError: the server is away or refuses; ``failed`` names what was not written.
        """
        from diffembed.index.qdrant_transfer import send

        return self._reading(
            lambda snapshot: send(self._catalog, snapshot, target.collection, part=part, progress=progress)
        )

    def import_parquet(
        self,
        files: Sequence[str | Path],
        *,
        fingerprint: str | None = None,
        id_column: str = "id",
        vector_column: str = "vector",
        text_column: str = "text",
        progress: Progress | None = None,
    ) -> WriteReport:
        """Store the rows of Parquet files with vectors made elsewhere, in the place of those with the same ids.

        Args:
            files: each with ids (strings or integers), vectors (lists of int8 or floating point as wide as the index)
                and, unless the index holds vectors only, texts. Rows that share an id and count up in a column
                ``chunk`` are one document. A column ``metadata`` (JSON or a struct) and all further columns become
                metadata.
            fingerprint: of the model that made the vectors; ``"unknown"`` if you vouch for them; ``None`` if the files
                say it, as those of :meth:`export` do.
            id_column, vector_column, text_column: names of the columns.
            progress: called with (rows stored, 0 or all).

        Raises:
            InputError: a column, width, type, value or id that will not do. Of files that name no model.
            IndexStoreError: vectors of another model; a damaged or locked index.
        """
        from diffembed.index.exchange import ParquetRows, write_rows
        from diffembed.index.records import write_records

        columns = {"id": id_column, "vector": vector_column, "text": text_column}
        rows = ParquetRows([Path(file) for file in files], self.settings, fingerprint, columns)
        if not self.settings.vectors_only:
            return write_records(self.path, rows.records(), self._model, replace=True, progress=progress)
        return write_rows(self.path, rows, progress)
