"""Files of a model directory at the byte level: atomic folders, and safetensors read and mapped without torch.

The safetensors layout is an 8-byte little-endian header length, a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors#format). Reading it here keeps the base install free of torch and lets the
ONNX runtime map the token table straight from ``model.safetensors``.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import MissingExtraError, ModelError

_NUMPY_DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor stands in a safetensors file: dtype code, shape, first byte in the file, bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def check_safetensors(file: Path) -> dict[str, StoredTensor]:
    """Read the header and check that the file is as long as it says; reads no tensor.

    Raises:
        ModelError: missing, truncated, or not safetensors.
    """
    again = "copy or save the model again"
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = int.from_bytes(stream.read(8), "little")
            if size < 8 or head > size - 8:
                raise ModelError(f"{file} is truncated ({size} bytes, its header alone needs more); {again}")
            header: dict[str, Any] = json.loads(stream.read(head))
    except FileNotFoundError:
        raise ModelError(f"{file} is missing; copy the whole model directory again") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not a safetensors file ({error}); {again}") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), 8 + head + start, end - start)
    expected = max((t.offset + t.length for t in tensors.values()), default=8 + head)
    if size != expected:
        raise ModelError(f"{file} has {size} bytes, its header says {expected}: truncated or damaged; {again}")
    return tensors


def weight_files(root: Path) -> dict[str, Path]:
    """The file of every tensor of a checkpoint, in one ``model.safetensors`` or in shards with an index.

    Raises:
        ModelError: no weights in safetensors, a shard that is missing or truncated, an index that names other tensors.
    """
    single, index = root / "model.safetensors", root / "model.safetensors.index.json"
    if single.exists():
        return dict.fromkeys(check_safetensors(single), single)
    if not index.exists():
        pickled = sorted(p.name for p in (*root.glob("*.bin"), *root.glob("*.pt*")))
        what = f"has {pickled[0]}, which is a pickle and is never read" if pickled else "has no weights"
        raise ModelError(f"{root} {what}; model.safetensors (or shards with {index.name}) was expected: convert it")
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(tensor): root / str(file) for tensor, file in named.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is not whole ({type(error).__name__}: {error}); copy it again") from None
    held = {file: check_safetensors(file) for file in sorted(set(files.values()))}
    if absent := sorted(t for t, file in files.items() if t not in held[file]):
        raise ModelError(f"{index} names {absent[0]}, which is not in {files[absent[0]].name}; copy both again")
    return files


def fetch_model(model: str | Path) -> Path:
    """A model's directory: the path itself, or a hub id (``owner/name``) downloaded by ``huggingface_hub``.

    Code and pickles are left on the hub. A path that does not exist and is no hub id comes back as it is.

    Raises:
        ModelError: the hub does not give it.
        MissingExtraError: it looks like a hub id, and ``huggingface_hub`` is not installed.
    """
    path = Path(model)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        return path
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError(
            f"{model} is not a directory here; to fetch it from the hub: pip install huggingface_hub"
        ) from None
    try:
        return Path(snapshot_download(str(model), ignore_patterns=["*.bin", "*.py", "*.pt", "*.h5", "*.msgpack"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{model} is neither a directory nor a model that the hub gives ({first}); check the name"
        ) from None


def map_tensor(file: Path, tensor: StoredTensor) -> npt.NDArray[Any]:
    """A tensor as a read-only memory map (bfloat16 is widened to float32 in memory)."""
    if tensor.dtype == "BF16":
        raw = np.memmap(file, np.uint16, "r", tensor.offset, (prod(tensor.shape),))
        return (raw.astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    if tensor.dtype not in _NUMPY_DTYPES:
        raise ModelError(f"{file} holds a tensor of type {tensor.dtype}; save the model as float32 or float16")
    if tensor.offset % np.dtype(_NUMPY_DTYPES[tensor.dtype]).itemsize:
        data = np.fromfile(file, np.uint8, tensor.length, offset=tensor.offset)
        return data.view(_NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape)
    return np.memmap(file, _NUMPY_DTYPES[tensor.dtype], "r", tensor.offset, tensor.shape)


def token_table(tensors: dict[str, StoredTensor]) -> str | None:
    """Name of the token-embedding table that ONNX graphs refer to, or ``None`` if its type must be stored inline.

    Exporter and runtime both ask here, so that a graph never refers to bytes that the runtime does not hand over.
    """
    for name, tensor in tensors.items():
        if name.endswith(("embed_tokens.weight", "word_embeddings.weight")) and tensor.dtype in ("F16", "F32"):
            return name
    return None


def write_json(file: Path, data: object) -> None:
    """A JSON file that people can read."""
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A file that appears at ``target`` whole or not at all; yields a temporary sibling to write."""
    target = target.absolute()
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        yield partial
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A folder that appears at ``target`` whole or not at all.

    Yields a temporary sibling to write into. On leaving without an error its files are flushed to disk and it takes
    the place of ``target`` (swapped in one system call where the system has it); after an error it is removed.
    Siblings that a killed process left behind are removed at the next call.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.partial-*"):
        owner = stale.name.rpartition("-")[2]
        if not (owner.isdigit() and _alive(int(owner))):
            shutil.rmtree(stale, ignore_errors=True)
    folder = target.parent / f".{target.name}.partial-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        for file in sorted(p for p in folder.rglob("*")):
            _sync(file)
        _sync(folder)
        if target.exists():
            _exchange(folder, target)
        else:
            folder.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories atomically (Linux ``renameat2``); elsewhere rename one after the other."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is not None:
        done = renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
        if done == 0:
            return
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)  # the caller removes it


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
