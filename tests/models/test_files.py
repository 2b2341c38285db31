"""safetensors read without torch, against the safetensors package; atomic files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffembed.errors import ModelError
from diffembed.models.files import atomic_file, check_safetensors, map_tensor, token_table


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8])
def test_tensors_are_mapped(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.arange(-6, 6).reshape(3, 4).to(dtype)
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(3, dtype=torch.int8), "b": values}, file)
    stored = check_safetensors(file)
    assert stored["b"].shape == (3, 4)
    assert np.array_equal(map_tensor(file, stored["b"]).astype(np.float32), values.float().numpy())


def test_unsupported_type_is_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, file)
    with pytest.raises(ModelError, match="F8_E4M3"):
        map_tensor(file, check_safetensors(file)["a"])


def test_table_is_found_unless_its_type_must_be_inline(tmp_path: Path) -> None:
    for dtype, expected in ((torch.float16, "model.embed_tokens.weight"), (torch.bfloat16, None)):
        save_file({"model.embed_tokens.weight": torch.zeros(2, 2, dtype=dtype)}, tmp_path / "w.safetensors")
        assert token_table(check_safetensors(tmp_path / "w.safetensors")) == expected


def test_extra_bytes_are_damage_too(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ModelError, match="header says"):
        check_safetensors(file)


def test_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "out.npy"

    def fail() -> None:
        with atomic_file(target) as file:
            file.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    with atomic_file(target) as file:
        file.write_bytes(b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out.npy"]
