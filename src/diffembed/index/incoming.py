"""What callers hand over, checked: vectors made elsewhere, ids, and records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.index.schema import Settings, metadata_text, require_unicode
from diffembed.index.segments import IdArray, Int8Rows
from diffembed.text.chunking import Chunk
from diffembed.text.readers import TextKind
from diffembed.vectors.quantize import INT8_SCALE, scaled_int8

MAX_METADATA_BYTES = 65_536
MAX_METADATA_DEPTH = 100
_KEYS = ("id", "text", "chunks", "metadata", "kind", "vector", "vectors")
_KINDS = get_args(TextKind)
_ROWS_AT_ONCE = 8192  # of those that have to be converted, which takes several times their room
_STEP = 1e-3  # float32 copies of tanh(m) = k / 127 differ from it by less
_LINE_END = re.compile(r"\r\n|\n|\r")


def vector_rows(vectors: npt.ArrayLike, dims: int | None, what: str) -> Int8Rows:
    """Vectors from elsewhere as ``[N, D]`` int8.

    int8 stays as it is. A floating-point vector whose values are all multiples of 1/127 from -1 to 1 (what ``encode``
    gives for int8-trained models after rounding) becomes those multiples; any other is stretched until its largest
    value is 127, which keeps its cosines. A vector of zeros stays one: its cosine to anything counts as 0.

    Args:
        vectors: two-dimensional, int8 or floating point.
        dims: the width that they must have; ``None`` for any.
        what: what they are, for the error.

    Raises:
        InputError: another shape, width or type, or a value that is not finite.

    >>> vector_rows([[0.5, -1.0], [3.0, 4.0]], 2, "rows").tolist()
    [[64, -127], [95, 127]]
    >>> vector_rows(np.array([[64, -127]]) / 127, 2, "rows").tolist()
    [[64, -127]]
    """
    try:
        rows_ND = np.asarray(vectors)
    except ValueError:
        raise InputError(f"{what} are of different widths; give [rows, dims]") from None
    if rows_ND.ndim != 2 or rows_ND.shape[1] == 0 or dims not in (None, rows_ND.shape[1]):
        wanted = "any" if dims is None else dims
        raise InputError(f"{what} have the shape {list(rows_ND.shape)}; give [rows, {wanted} dims]")
    if rows_ND.dtype == np.int8:
        return np.ascontiguousarray(rows_ND)
    if not np.issubdtype(rows_ND.dtype, np.floating):
        raise InputError(f"{what} are {rows_ND.dtype}; give int8 or floating point")
    int8_ND = np.empty(rows_ND.shape, np.int8)
    for start in range(0, len(rows_ND), _ROWS_AT_ONCE):
        int8_ND[start : start + _ROWS_AT_ONCE] = _from_floats(rows_ND[start : start + _ROWS_AT_ONCE], start, what)
    return int8_ND


def _from_floats(rows_ND: npt.NDArray[Any], first: int, what: str) -> Int8Rows:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        floats_ND = rows_ND.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(floats_ND).all(axis=1))
    if len(wrong):
        raise InputError(
            f"{what} have a value that is not finite in row {first + wrong[0]} (from 0); mend or leave it out"
        )
    scaled = floats_ND * np.float32(INT8_SCALE)
    whole = np.rint(scaled)
    # Row by row, so that a row becomes the same whatever others come with it.
    integers_N = ((np.abs(scaled - whole) < _STEP) & (np.abs(whole) <= INT8_SCALE)).all(axis=1)
    integers_N &= whole.any(axis=1)  # values that are all below the step are small, not 0
    int8_ND = scaled_int8(floats_ND)
    int8_ND[integers_N] = whole[integers_N]
    return int8_ND


def vector_ids(ids: npt.ArrayLike, count: int) -> IdArray:
    """Ids of so many vectors, ``[N]`` int64, in the order given.

    Raises:
        InputError: another number of them, not integers from 0, or one that is there twice.
    """
    given = np.asarray(ids)
    if given.shape != (count,):
        raise InputError(f"there are {count} vectors and ids of the shape {list(given.shape)}; give one id for each")
    ids_N = row_ids(given)
    ordered = np.sort(ids_N)
    twice = ordered[1:][np.diff(ordered) == 0]
    if len(twice):
        raise InputError(f"id {twice[0]} is there twice; give every id once")
    return ids_N


def row_ids(ids: npt.ArrayLike) -> IdArray:
    """Ids of rows, ``[N]`` int64, in the order given.

    Raises:
        InputError: no list of integers from 0.
    """
    given = np.asarray(ids)
    if given.ndim != 1:
        raise InputError(f"ids have the shape {list(given.shape)}; give a list of integers")
    if not np.issubdtype(given.dtype, np.integer) and len(given):
        raise InputError(f"ids are {given.dtype}; an index of vectors only takes integers (int64)")
    ids_N = given.astype(np.int64)
    if len(given) and (ids_N.min() < 0 or (ids_N != given).any()):
        wrong = given[(ids_N < 0) | (ids_N != given)][0]
        raise InputError(f"id {wrong} is out of range; give 0 to 2**63 - 1")
    return ids_N


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was checked: a text to be cut, or chunks, perhaps with their vectors."""

    key: str
    kind: TextKind
    text: str | None
    chunks: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rows: Int8Rows | None = None

    @property
    def content_hash(self) -> str:
        """Over everything that its chunks and vectors depend on."""
        digest = hashlib.sha256(json.dumps([self.kind, self.text, self.chunks]).encode())
        digest.update(b"" if self.rows is None else self.rows.tobytes())
        return digest.hexdigest()

    def ready_chunks(self) -> list[Chunk]:
        """The chunks of a record that is not to be cut; places as if one stood a line below the other."""
        found, start, line = [], 0, 1
        for text in self.chunks if self.text is None else (self.text,):
            last = line + len(_LINE_END.findall(text))
            found.append(Chunk(text, start, start + len(text), line, last))
            start, line = start + len(text) + 1, last + 1
        return found


class LocatedRecord(dict[str, Any]):
    """A record that was read from a file, and where it stands there, for errors."""

    def __init__(self, where: str, record: Mapping[str, Any]) -> None:
        super().__init__(record)
        self.where = where


def read_record(given: object, settings: Settings) -> Record:
    """A record as the caller gave it, checked.

    Raises:
        InputError: the message names the record and what is wrong with it, and for a ``LocatedRecord`` where it stands.
    """
    try:
        return _read_record(given, settings)
    except InputError as error:
        if isinstance(given, LocatedRecord):
            raise InputError(f"{given.where}: {error}") from None
        raise


def _read_record(given: object, settings: Settings) -> Record:
    if not isinstance(given, Mapping):
        raise InputError(f"a record is {type(given).__name__}, not an object; give one with {', '.join(_KEYS)}")
    key = given.get("id")
    if isinstance(key, np.integer):
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, str | int) or not str(key).strip():
        raise InputError(f"a record has the id {key!r}; give a string that is not empty, or an integer")
    name = f"record {key!r}"
    unknown = sorted(set(given) - set(_KEYS), key=str)
    if unknown:
        raise InputError(f"{name} has the key {unknown[0]!r}; put it into metadata. Known are {', '.join(_KEYS)}")
    text, chunks = given.get("text"), given.get("chunks")
    if (text is None) == (chunks is None):
        raise InputError(f"{name} needs either text or chunks")
    if chunks is not None and (isinstance(chunks, str) or not isinstance(chunks, Sequence) or not chunks):
        raise InputError(f"{name} has chunks that are no list of strings, or an empty one")
    kind = given.get("kind", "prose")
    if kind not in _KINDS:
        raise InputError(f"{name} is of kind {kind!r}; choose one of {', '.join(_KINDS)}")
    checked = tuple(_text(name, piece) for piece in ([text] if chunks is None else chunks))
    return Record(
        key=_text(name, str(key)),
        kind=kind,
        text=None if text is None else checked[0],
        chunks=() if chunks is None else checked,
        metadata=_metadata(name, given.get("metadata")),
        rows=_vectors(name, given, len(checked), settings.dims),
    )


def _text(name: str, piece: object) -> str:
    if not isinstance(piece, str) or not piece.strip():
        raise InputError(f"{name} has a text that is {'empty' if isinstance(piece, str) else type(piece).__name__}")
    require_unicode(name, piece)
    return piece


def _metadata(name: str, given: object) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{name} has metadata that is {type(given).__name__}; give an object")
    try:
        text = metadata_text(given)
        size = len(text.encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{name} has metadata that is not JSON ({error}); give strings, finite numbers, lists"
        ) from None
    if size > MAX_METADATA_BYTES:
        raise InputError(
            f"{name} has {size:,} bytes of metadata, at most {MAX_METADATA_BYTES:,} are allowed; keep texts out of it"
        )
    plain: dict[str, Any] = json.loads(text)  # keys as strings, tuples as lists: what will be read back
    _check_values(name, plain)
    return plain


def _check_values(name: str, value: object, depth: int = 0) -> None:
    if depth > MAX_METADATA_DEPTH:
        raise InputError(f"{name} has metadata nested more than {MAX_METADATA_DEPTH} deep; write it flatter")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_values(name, item, depth + 1)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{name} has {value} in its metadata, beyond 64 bits; give it as a string")


def _vectors(name: str, given: Mapping[str, Any], count: int, dims: int) -> Int8Rows | None:
    one, many = given.get("vector"), given.get("vectors")
    if one is None and many is None:
        return None
    if one is not None and many is not None:
        raise InputError(f"{name} has both vector and vectors; give one of them")
    if one is not None and np.ndim(one) != 1:
        raise InputError(f"{name} has a vector of {np.ndim(one)} dimensions; give a list of {dims} numbers, or vectors")
    rows = vector_rows(_numbers(name, [one] if many is None else many), dims, f"the vectors of {name}")
    if len(rows) != count:
        raise InputError(f"{name} has {len(rows)} vectors for {count} chunks; give one for each")
    return rows


def _numbers(name: str, given: Any) -> npt.NDArray[Any]:
    """Arrays keep their type; lists of integers from -128 to 127 are int8."""
    try:
        values = np.asarray(given)
    except ValueError:
        raise InputError(f"{name} has vectors of different widths") from None
    if values.dtype == np.int64 and values.size and values.min() >= -128 and values.max() <= 127:
        return values.astype(np.int8)
    return values


def record_keys(ids: Iterable[str | int | Path]) -> list[str | int]:
    """Ids as callers give them, checked; a ``Path`` becomes the absolute one that a file is stored under.

    Raises:
        InputError: one id in the place of a list, or something that is neither a string, an integer nor a path.
    """
    if isinstance(ids, str | bytes | int | Path):
        raise InputError(f"ids is {ids!r}; give a list of ids")
    given = [str(id_.resolve()) if isinstance(id_, Path) else id_ for id_ in ids]
    for id_ in given:
        if isinstance(id_, bool) or not isinstance(id_, str | int | np.integer):
            raise InputError(f"{id_!r} is no id; give strings, integers, or paths of files")
        require_unicode(f"id {id_!r}", str(id_))
    return given


def integer_id(id_: str | int) -> int:
    """An id of an index that holds vectors only.

    Raises:
        InputError: not an integer from 0 to 2**63 - 1.
    """
    number = int(id_) if not isinstance(id_, str) or (id_.isascii() and id_.isdigit()) else -1
    if not 0 <= number < 2**63:
        raise InputError(f"{id_!r} is no id of an index of vectors only; give integers from 0 to 2**63 - 1")
    return number
