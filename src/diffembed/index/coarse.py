"""Coarse search of one sealed segment: faiss's inverted lists in a memory-mapped file of ours.

Rows are grouped in lists around centroids; each stands there as a code of about a bit for each dimension. A query scans
the codes of the nearest lists and names the places of the most promising rows, whose true int8 cosine is then counted
(``rescoring.py``). faiss searches the lists where they lie in the file, so opening takes milliseconds and memory is the
system's page cache. The lists that a query is about to scan are asked of the disk all at once where they may not be in
memory, and checked first, once each.

Layout of ``NAME.coarse`` (blocks and checksums as in ``blocks.py``; of the header's numbers ``first`` is the size of
the graph, ``last`` the number of lists):

====================  =================================================================
graph                 what ``faiss.serialize_index`` gives for the index without lists: centroids and their HNSW graph
table                 int64 ``[lists, 3]``: rows, capacity (rows rounded up to 32), position in the file
lists                 for each: codes in blocks of 32 rows, then int64 places in the segment; from multiples of 64 bytes
====================  =================================================================
"""

from __future__ import annotations

import threading
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.index.blocks import HEADER_BYTES, CheckedFile, damaged, waits_for_disk
from diffembed.index.segments import FloatArray, IdArray, Int8Rows, unit_rows

SUFFIX = ".coarse"
MAGIC = b"DFMBIVF\0"
VERSION = 1
ALIGN = 64
_COLD_SEARCHES = 100
"""Asking for lists costs a quarter of what scanning them does: done for so many searches after one met a cold list."""
_FLAT_SHARE = 32  # with more than one list in so many to be found, the graph of centroids is slower than all of them


class Coarse:
    """The coarse index of a segment; safe to search from several threads at once.

    Attributes:
        rows: how many rows it holds.
        lists: how many inverted lists.
    """

    def __init__(self, path: Path, *, rows: int, dims: int) -> None:
        self._file = CheckedFile(path, MAGIC, VERSION)
        if (self._file.rows, self._file.dims) != (rows, dims):
            found = f"{self._file.rows} x {self._file.dims}"
            raise damaged(path, f"is for {found} vectors, the catalog says {rows} x {dims}")
        self.rows, self.lists = rows, self._file.last
        self._known = np.zeros(self.lists, np.bool_)  # lists that are checked
        self._cold = 0
        self._opening = threading.Lock()
        self._opened: Any = None

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return len(self._file.data)

    @cached_property
    def _table(self) -> IdArray:
        start = table_at(self._file.first)
        self._file.check(start, start + 24 * self.lists)
        table: IdArray = self._file.section(start, 24 * self.lists, "<i8").reshape(-1, 3)
        return table

    @property
    def _index(self) -> Any:
        with self._opening:
            if self._opened is None:
                self._opened = self._faiss_index()
            return self._opened

    def _faiss_index(self) -> Any:
        import faiss  # takes a quarter of a second: only where something is sealed

        self._file.check(HEADER_BYTES, HEADER_BYTES + self._file.first)
        # never unpickled, never executed: a faiss structure whose every byte was just compared with its checksum
        index = faiss.deserialize_index(self._file.section(HEADER_BYTES, self._file.first, "u1"))
        lists = faiss.OnDiskInvertedLists(self.lists, index.code_size, str(self._file.path))
        lists.read_only, lists.prefetch_nthread = True, 0  # prefetching would start 32 threads for every query
        lists.totsize = self._file.body_end
        faiss.memcpy(lists.lists.data(), faiss.swig_ptr(self._table), self._table.nbytes)
        # Our map, not one of faiss's own: that would read megabytes around every page, and by now the file may be gone.
        lists.ptr = faiss.swig_ptr(self._file.data)
        weakref.finalize(self, setattr, lists, "ptr", None)  # else faiss would unmap it
        index.replace_invlists(lists, True)
        lists.this.disown()
        index.ntotal = self.rows
        return index

    @cached_property
    def _centroids(self) -> Any:
        """Of the graph, for a search of all of them one by one."""
        return _stored(self._index)

    def nearest_lists(self, query_D: Int8Rows, probes: int) -> tuple[IdArray, FloatArray]:
        """``[probes]`` numbers of the lists whose centroids are closest, and their distances."""
        import faiss

        unit = _unit(query_D)
        if probes * _FLAT_SHARE > self.lists:
            distances, lists = self._centroids.search(unit, probes)
        else:
            wide = faiss.SearchParametersHNSW(efSearch=2 * probes)
            distances, lists = self._index.quantizer.search(unit, probes, params=wide)
        found = lists[0] >= 0
        return lists[0][found], distances[0][found]

    def search(
        self, query_D: Int8Rows, *, probes: int, candidates: int, chosen: Any = None
    ) -> tuple[IdArray, FloatArray]:
        """Places of the rows whose codes promise the highest cosines, best first, and their estimated distances.

        Args:
            query_D: int8.
            probes: how many lists to scan.
            candidates: how many places to name at most.
            chosen: a faiss selector of the places that may be named (see ``selector``).
        """
        import faiss

        lists, distances = self.nearest_lists(query_D, min(probes, self.lists))
        self._make_ready(lists)
        index, query = self._index, _unit(query_D)
        wanted = min(candidates, int(self._table[lists, 0].sum()))
        if wanted < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        places, scores = np.empty(wanted, np.int64), np.empty(wanted, np.float32)
        kind = faiss.IVFRaBitQSearchParameters if hasattr(index, "qb") else faiss.IVFSearchParameters
        more = {"qb": index.qb} if hasattr(index, "qb") else {}
        given = kind(nprobe=len(lists), **({} if chosen is None else {"sel": chosen}), **more)
        pointers = map(faiss.swig_ptr, (lists, distances, scores, places))
        waits = waits_for_disk()
        index.search_preassigned_c(1, faiss.swig_ptr(query), wanted, *pointers, False, given)
        self._cold = _COLD_SEARCHES if waits_for_disk() > waits else max(0, self._cold - 1)
        named = places >= 0
        return places[named], scores[named]

    def _make_ready(self, lists: IdArray) -> None:
        """Ask for lists that may not be in memory, and check those that were not checked before."""
        unknown = lists[~self._known[lists]]
        asked = lists if self._cold else unknown
        if len(asked):
            starts, sizes = self._spans(asked)
            self._file.want(starts, sizes)
        for number, start, size in zip(unknown.tolist(), *map(np.ndarray.tolist, self._spans(unknown)), strict=True):
            self._file.check(start, start + size)
            rows = int(self._table[number, 0])
            places = self._file.section(start + size - 8 * rows, 8 * rows, "<i8")
            if rows and not 0 <= places.min() <= places.max() < self.rows:
                raise damaged(self._file.path, "names rows that its segment does not have")
            self._known[number] = True

    def _spans(self, lists: IdArray) -> tuple[IdArray, IdArray]:
        """Where lists begin in the file, and their bytes."""
        rows, capacities, starts = self._table[lists].T
        return starts, capacities * self._index.code_size + 8 * rows

    def verify(self) -> None:
        """Check every byte anew, and that each row of the segment stands in one list.

        Raises:
            IndexStoreError: it is not as it was written.
        """
        self._file.verify()
        seen = np.zeros(self.rows, np.bool_)
        for rows, capacity, position in self._table.tolist():
            at = position + capacity * self._index.code_size
            seen[self._file.section(at, 8 * rows, "<i8")] = True
        if not seen.all() or int(self._table[:, 0].sum()) != self.rows:
            raise damaged(self._file.path, "does not name every row of its segment once")


def selector(chosen_N: npt.NDArray[np.bool_]) -> Any:
    """faiss's form of a set of places: a bit for each row of the segment."""
    import faiss

    return faiss.IDSelectorBitmap(np.packbits(chosen_N, bitorder="little"))


def table_at(graph_bytes: int) -> int:
    """Where the table begins."""
    return -(-(HEADER_BYTES + graph_bytes) // ALIGN) * ALIGN


def centroids_of(index: Any) -> FloatArray:
    """``[lists, D]`` the centroids of a faiss index as it is built here."""
    found: FloatArray = _stored(index).reconstruct_n(0, index.nlist)
    return found


def _stored(index: Any) -> Any:
    import faiss

    return faiss.downcast_index(faiss.downcast_index(index.quantizer).storage)


def _unit(query_D: Int8Rows) -> FloatArray:
    return unit_rows(query_D[None, :])
