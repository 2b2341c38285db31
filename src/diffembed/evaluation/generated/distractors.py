"""Vectors of passages that answer nothing, from wherever they are: texts to be encoded, or vectors made elsewhere.

Texts are encoded by ``encode_folder``, once: a run that was killed goes on where it was, and the next evaluation of the
same model finds the vectors there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffembed.bulk import encode_folder
from diffembed.bulk.manifest import MANIFEST, Manifest
from diffembed.bulk.rows import Columns, find_sources
from diffembed.bulk.shards import read_vectors
from diffembed.data.jsonl import COMPRESSED
from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation.ranker import Ranker

if TYPE_CHECKING:
    from diffembed.evaluation.ranking import Progress

_TEXTS = (".txt", ".jsonl", ".parquet")
_KINDS = {"float32": "f", "int8": "i", "binary": "u"}


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors on disk, read a piece at a time.

    Attributes:
        name: for messages.
        folder, shards: files of each shard, as ``read_vectors`` wants them.
        rows: how many vectors.
        made_of: tells the texts, as far as the files do: equal for all models that read the same ones.
        files: tells the files: their digests, or size and time.
        left_out: input rows without a vector.
        truncated: input rows that were cut to the model's limit.
    """

    name: str
    folder: Path
    shards: tuple[tuple[str, ...], ...]
    rows: int
    made_of: str
    files: str
    left_out: int = 0
    truncated: int = 0

    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """All vectors in order, some megabytes at a time."""
        for names in self.shards:
            yield from (piece for piece in read_vectors(self.folder, list(names)) if len(piece))


def distractors(
    places: Sequence[Path], ranker: Ranker, width: int, work: Path | None = None, progress: Progress = None
) -> list[Vectors]:
    """The vectors of all places, encoded where they are texts.

    Args:
        places: ``.txt`` (a passage a line), ``.jsonl`` (both also ``.gz`` and ``.zst``) or ``.parquet`` with texts, as
            ``diffembed encode`` reads them, or folders of such files; or vectors of the same model: a folder of
            ``diffembed encode --into``, an ``.npy`` file, a ``.parquet`` file with a column ``vector``.
        ranker: the model; its settings say the form of the vectors.
        width: dimensions of the vectors.
        work: where texts are encoded into.
        progress: called with (texts encoded, texts).

    Raises:
        InputError: a place that is missing or of another kind, vectors of another model or form; texts without
            ``work``, or with a model that ``encode_folder`` does not run.
    """
    found: list[Vectors] = []
    texts: list[Path] = []
    for place in places:
        for path in _files(place):
            if path.is_dir():
                found.append(_encoded(path, ranker, width))
            elif path.suffix == ".npy" or (path.suffix == ".parquet" and _has_vectors(path)):
                found.append(_made_elsewhere(path, ranker, width))
            else:
                texts.append(path)
    if texts:
        _encode(texts, ranker, work, progress)
        found.append(_encoded(_vectors_folder(work), ranker, width))
    return found


def _files(place: Path) -> list[Path]:
    """A file or an encoded folder as it is; of any other folder the files with texts or vectors."""
    if not place.is_dir() or (place / MANIFEST).is_file():
        if not place.exists():
            raise InputError(f"{place} does not exist; give files or folders of passages, or of their vectors")
        return [place]
    encoded = {path.parent for path in place.rglob(MANIFEST)}
    files = (path for path in place.rglob("*") if path.is_file() and _kind(path) in (*_TEXTS, ".npy"))
    inside = [path for path in files if not encoded.intersection(path.parents) and not _asks(path)]
    if not encoded and not inside:
        raise InputError(f"{place} holds neither texts ({', '.join(_TEXTS)}) nor vectors (.npy, .parquet)")
    return sorted([*encoded, *inside])


def _asks(path: Path) -> bool:
    """Whether it holds the queries of a BEIR folder: they are no passages."""
    return path.name.startswith("queries.jsonl") and any(path.parent.glob("corpus.jsonl*"))


def _kind(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def _has_vectors(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "vector" in pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from error


def _vectors_folder(work: Path | None) -> Path:
    if work is None:
        raise InputError("distractors that are texts have to be encoded; say where their vectors are kept (--work DIR)")
    return work / "vectors"


def _encode(texts: Sequence[Path], ranker: Ranker, work: Path | None, progress: Progress) -> None:
    folder = _vectors_folder(work)
    if not isinstance(ranker.encoder, Encoder):
        raise InputError(
            f"{ranker.model} cannot encode distractors in bulk; name a model directory that diffembed loads itself "
            "(without st:), or give vectors that were made elsewhere"
        )
    find_sources(list(texts), Columns())  # complains of a file before the folder is made
    folder.parent.mkdir(parents=True, exist_ok=True)
    form = {"dtype": ranker.settings["dtype"], "dims": ranker.settings["dims"]}
    encode_folder(list(texts), folder, model=ranker.model, truncate=True, progress=progress, **form)


def _encoded(folder: Path, ranker: Ranker, width: int) -> Vectors:
    """A folder of ``encode_folder``, checked to be this model's."""
    manifest = Manifest.read(folder)
    if not manifest.complete:
        raise InputError(f"{folder} is not complete; go on with the diffembed encode that began it")
    made, dtype = manifest.settings, ranker.settings["dtype"]
    if (made.dtype, made.dims) != (dtype, width):
        raise InputError(f"{folder} holds {made.dtype} vectors of {made.dims} dims; {dtype} of {width} are asked for")
    mark = getattr(ranker.encoder, "fingerprint", None)
    if mark != made.fingerprint:
        raise InputError(f"{folder} was encoded by {manifest.model}, which is not {ranker.model}; encode it again")
    return Vectors(
        name=str(folder),
        folder=folder,
        shards=tuple(tuple(shard.files) for shard in manifest.shards),
        rows=manifest.vectors,
        made_of="+".join(shard.rows_sha256 for shard in manifest.shards),
        files="+".join(digest for shard in manifest.shards for digest in shard.files.values()),
        left_out=manifest.quarantine.rows,
        truncated=sum(shard.truncated for shard in manifest.shards),
    )


def _made_elsewhere(path: Path, ranker: Ranker, width: int) -> Vectors:
    """A file of vectors that says nothing of its model: only their form can be checked."""
    dtype = ranker.settings["dtype"]
    try:
        first = next(read_vectors(path.parent, [path.name]))
        rows = _rows(path)
    except (OSError, ValueError, StopIteration) as error:
        raise InputError(f"{path} cannot be read as vectors: {' '.join(str(error).split())}") from error
    wide = width // 8 if dtype == "binary" else width
    if first.ndim != 2 or first.dtype.kind != _KINDS[dtype] or first.shape[1] != wide:
        shape = f"{first.dtype} of shape [rows, {', '.join(map(str, first.shape[1:]))}]"
        raise InputError(f"{path} holds {shape}; {dtype} vectors of {width} dims ([rows, {wide}]) are asked for")
    about = path.stat()
    return Vectors(
        name=str(path),
        folder=path.parent,
        shards=((path.name,),),
        rows=rows,
        made_of=f"{path.stem} {rows}",
        files=f"{path.absolute()} {about.st_size} {about.st_mtime_ns}",
    )


def _rows(path: Path) -> int:
    if path.suffix == ".npy":
        return len(np.load(path, mmap_mode="r", allow_pickle=False))
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
