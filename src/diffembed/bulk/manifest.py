"""``manifest.json`` of a folder of vectors: what they were made from and with, and which shards are done.

It says all that is needed to go on after a kill, to refuse what does not belong into the folder, and to check it. There
are no times in it: two folders made of the same rows by the same model in the same environment are equal byte for byte.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from diffembed import __version__
from diffembed.bulk.blocks import Options
from diffembed.bulk.rows import Columns, Source
from diffembed.bulk.shards import SHARD_FORMATS, ShardFormat
from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.models.files import atomic_file
from diffembed.runtime.onnx import find_graph
from diffembed.vectors.embeddings import VECTOR_DTYPES

FORMAT = 1
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
_SHOWN = 16  # characters of a fingerprint in a message
_LIBRARIES = {
    "onnx": ("onnxruntime",),
    "torch": ("torch", "transformers"),
    "modules": ("torch", "transformers", "sentence-transformers"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Whatever changes vectors or the places where they stand; all shards of a folder share it.

    Attributes:
        fingerprint: of weights, tokenizer and configuration (``Encoder.fingerprint``).
        runtime, precision, device, graph: what runs the model; ``graph`` is the SHA-256 of its ONNX file, else empty.
        dtype, dims, truncate, windows: as given to the encoder.
        format, shard_rows: of the output.
        inputs: how each input is read (``text``, ``jsonl``, ``parquet``).
        text_column, id_column: as given, empty where not.
    """

    fingerprint: str
    runtime: str
    precision: str
    device: str
    graph: str
    dtype: str
    dims: int
    truncate: bool
    windows: bool
    format: ShardFormat
    shard_rows: int
    inputs: tuple[str, ...]
    text_column: str
    id_column: str

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        options: Options,
        sources: Sequence[Source],
        columns: Columns,
        format: ShardFormat,
        shard_rows: int,
    ) -> Settings:
        """Those of a run."""
        runtime = encoder.runtime
        return cls(
            fingerprint=encoder.fingerprint,
            runtime=runtime.name,
            precision=runtime.precision,
            device=getattr(runtime, "device", "cpu"),
            graph=graph_digest(encoder),
            dtype=options.dtype,
            dims=options.form_of(encoder).dims,
            truncate=options.truncate,
            windows=options.windows,
            format=format,
            shard_rows=shard_rows,
            inputs=tuple(source.format for source in sources),
            text_column=columns.text or "",
            id_column=columns.id or "",
        )


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One finished shard.

    Attributes:
        first, last: numbers of its first and last input row, from 1.
        vectors: rows of its array; ``quarantined``: input rows without a vector.
        truncated, windowed: input rows that were cut, or read through several windows.
        tokens: read by the model.
        rows_sha256: over the input rows, a line feed after each.
        files: SHA-256 of each file.
    """

    first: int
    last: int
    vectors: int
    quarantined: int
    truncated: int
    windowed: int
    tokens: int
    rows_sha256: str
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """State of ``quarantine.jsonl``: its length, and how many rows stand in it for which kind of reason."""

    bytes: int = 0
    rows: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """``manifest.json``.

    Attributes:
        model: what was asked for when the folder was begun; a directory by its absolute path.
        settings: what all shards share.
        sources: path of each input (``-``: stdin); ``rows``: of each, once all are read.
        environments: versions and processor of each run, where they were not the same.
        shards: in order.
        complete: every row of the input is in a shard.
    """

    model: str
    settings: Settings
    sources: tuple[str, ...]
    environments: tuple[dict[str, str], ...]
    shards: tuple[ShardEntry, ...] = ()
    quarantine: Quarantine = field(default_factory=Quarantine)
    rows: tuple[int, ...] = ()
    complete: bool = False

    @property
    def input_rows(self) -> int:
        """Rows of the finished shards."""
        return self.shards[-1].last if self.shards else 0

    @property
    def vectors(self) -> int:
        """Of the finished shards."""
        return sum(shard.vectors for shard in self.shards)

    def require_same(self, asked: Settings, model: str, folder: Path) -> None:
        """Refuse a run that would put other vectors into the folder.

        Raises:
            InputError: names what differs, and both values.
        """
        for one in fields(asked):
            made, now = getattr(self.settings, one.name), getattr(asked, one.name)
            if made == now:
                continue
            name = one.name.replace("_", " ")
            if one.name in ("fingerprint", "graph"):
                made, now = f"{made[:_SHOWN]} ({self.model})", f"{now[:_SHOWN]} ({model})"
            raise InputError(
                f"{folder} was begun with {name} {made}, this run has {now}; give what it was begun with, or another "
                "folder"
            )

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        with atomic_file(folder / MANIFEST) as file:
            file.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            InputError: there is none, it is damaged, or of another format.
        """
        file = folder / MANIFEST
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{folder} has no {MANIFEST}; a folder written by encode --into was expected: check the path"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({error}); encode into another folder") from None
        found = data.pop("format", None) if isinstance(data, dict) else None
        if found != FORMAT:
            raise InputError(f"{file} has format {found!r}, this version reads format {FORMAT}; encode again")
        try:
            settings = Settings(**data["settings"] | {"inputs": tuple(data["settings"]["inputs"])})
            if settings.dtype not in VECTOR_DTYPES or settings.format not in SHARD_FORMATS:
                raise KeyError(f"{settings.dtype} vectors in {settings.format} files")
            return cls(
                **data
                | {
                    "settings": settings,
                    "sources": tuple(data["sources"]),
                    "environments": tuple(data["environments"]),
                    "shards": tuple(ShardEntry(**entry) for entry in data["shards"]),
                    "quarantine": Quarantine(**data["quarantine"]),
                    "rows": tuple(data["rows"]),
                }
            )
        except (TypeError, KeyError) as error:
            raise InputError(f"{file} is damaged ({error}); encode into another folder") from None


def environment(runtime: str) -> dict[str, str]:
    """What may change the last bits of a vector, though the model is the same: versions and processor."""
    versions = {name: _version(name) for name in ("numpy", "tokenizers", "pyarrow", *_LIBRARIES[runtime])}
    return {"diffembed": __version__, **versions, "processor": _processor()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def graph_digest(encoder: Encoder) -> str:
    """The fingerprint does not cover the graph, which holds the weights as they were rounded when it was exported."""
    if encoder.runtime.name != "onnx":
        return ""
    found = find_graph(encoder.path, encoder.runtime.precision)  # type: ignore[arg-type]
    return file_digest(found[1]) if found else ""


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        named = ""
    return f"{platform.machine()} {named or platform.processor()}".strip()
