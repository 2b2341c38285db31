"""Checkpoints: what is kept, what is passed over, and what a full disk leaves."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import stepped, tiny_embedder, tiny_machine
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from diffembed.errors import TrainingError
from diffembed.models.checkpoint import ModelConfig, save_model
from diffembed.training.state import MARKER, last_state, load_state, save_state

EXPECTED = {"fingerprint": "f", "data": "d"}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Any, Any]:
    """A folder with the checkpoints of steps 1 and 2, and the model and optimiser that they are of."""
    embedder = tiny_embedder()
    optimizer = stepped(embedder)
    folder = tmp_path / "state"
    for step in (1, 2):
        save_state(folder, embedder, optimizer, step, dict(EXPECTED), keep=2, machine=tiny_machine())
    return folder, embedder, optimizer


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_was_saved_comes_back_bit_for_bit(saved: tuple[Path, Any, Any]) -> None:
    folder, embedder, optimizer = saved
    other = tiny_embedder(seed=1)
    fresh = torch.optim.AdamW(other.parameters(), fused=True)
    body = load_state(folder, other, fresh, EXPECTED, lambda _: None)
    assert body == {"step": 2, **EXPECTED}
    for (name, a), (_, b) in zip(embedder.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert optimizer.state[a].keys() == fresh.state[b].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(optimizer.state[a][k], fresh.state[b][k]) for k in optimizer.state[a])


def test_the_last_ones_are_kept(saved: tuple[Path, Any, Any]) -> None:
    folder, embedder, optimizer = saved
    (folder / ".step-00000001.partial-1").mkdir()  # a save that was killed
    save_state(folder, embedder, optimizer, 7, dict(EXPECTED), keep=2, machine=tiny_machine())
    assert names(folder) == ["step-00000002", "step-00000007"]
    save_state(folder, embedder, optimizer, 8, dict(EXPECTED), keep=1, machine=tiny_machine())
    assert names(folder) == ["step-00000008"]


def lose_marker(step: Path) -> None:
    (step / MARKER).unlink()


def cut_marker(step: Path) -> None:
    (step / MARKER).write_text((step / MARKER).read_text(encoding="utf-8")[:9], encoding="utf-8")


def cut_weights(step: Path) -> None:
    file = step / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def lose_moments(step: Path) -> None:
    (step / "exp_avg.safetensors").unlink()


@pytest.mark.parametrize("damage", [lose_marker, cut_marker, cut_weights, lose_moments])
def test_a_checkpoint_that_is_not_whole_is_passed_over(damage: Any, saved: tuple[Path, Any, Any]) -> None:
    folder, embedder, optimizer = saved
    damage(folder / "step-00000002")
    said: list[str] = []
    found = last_state(folder, said.append)
    assert found is not None and found[1]["step"] == 1
    assert len(said) == 1 and "step-00000002" in said[0] and "passed over, going on from step-00000001" in said[0]
    save_state(folder, embedder, optimizer, 2, dict(EXPECTED), keep=1, machine=tiny_machine())
    assert names(folder) == ["step-00000002"], "the broken one does not count among those to keep"
    found = last_state(folder, said.append)
    assert found is not None and found[1]["step"] == 2 and len(said) == 1


def test_without_a_whole_checkpoint_nothing_starts_anew_by_itself(saved: tuple[Path, Any, Any]) -> None:
    folder, *_ = saved
    for step in ("step-00000001", "step-00000002"):
        lose_marker(folder / step)
    with pytest.raises(TrainingError, match=f"no whole checkpoint .*no completion marker \\({MARKER}\\).*remove the"):
        last_state(folder, lambda _: None)
    shutil.rmtree(folder)
    assert last_state(folder, lambda _: None) is None


@pytest.mark.parametrize("key", ["fingerprint", "data"])
def test_a_checkpoint_of_another_recipe_or_other_data_is_refused(key: str, saved: tuple[Path, Any, Any]) -> None:
    folder, embedder, optimizer = saved
    with pytest.raises(TrainingError, match=f"different {key}"):
        load_state(folder, embedder, optimizer, EXPECTED | {key: "other"}, lambda _: None)


def test_a_checkpoint_of_another_model_is_refused(saved: tuple[Path, Any, Any]) -> None:
    folder, *_ = saved
    wide = tiny_embedder(vocab_size=41)
    with pytest.raises(TrainingError, match=r"embed_tokens.weight is \[40, 16\], the model's \[41, 16\]"):
        load_state(folder, wide, stepped(wide), EXPECTED, lambda _: None)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files cannot grow past 6 kB, as on a disk with that much room left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_leaves_the_previous_checkpoint_whole(
    saved: tuple[Path, Any, Any], request: pytest.FixtureRequest
) -> None:
    folder, embedder, optimizer = saved
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert max(map(len, before.values())) > 6_000
    request.getfixturevalue("full_disk")
    with pytest.raises(TrainingError, match=r"step-00000003 was not written .*step-00000002 before it is whole: free"):
        save_state(folder, embedder, optimizer, 3, dict(EXPECTED), keep=2, machine=tiny_machine())
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before, "nothing else is left either"
    assert last_state(folder, pytest.fail) == (folder / "step-00000002", {"step": 2, **EXPECTED})


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a model directory of the name; its weights take 21 kB, its tokenizer 60 kB."""
    words = {f"a word of some length {i}": i for i in range(2_000)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="a word of some length 0"))
    backbone = tiny_embedder().backbone

    def write(name: str) -> Path:
        return save_model(tmp_path / "model", backbone, tokenizer, ModelConfig(name, (16,), 64, 1, 0, 2))

    return write


@pytest.mark.parametrize(("room", "fails_at"), [(6_000, "model.safetensors"), (40_000, "tokenizer.json")])
def test_a_disk_that_fills_up_under_the_model_directory(
    room: int, fails_at: str, finished: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    path = finished("first")
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    assert len(before[path / fails_at]) > room
    request.getfixturevalue("full_disk")
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(TrainingError, match="was not written .*the last checkpoint are whole: free space") as caught:
        finished("second")
    assert caught.value.exit_code == 6 and "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} == before


def test_the_marker_knows_every_file(saved: tuple[Path, Any, Any]) -> None:
    step = saved[0] / "step-00000002"
    sizes = json.loads((step / MARKER).read_text(encoding="utf-8"))["files"]
    assert sizes == {p.name: p.stat().st_size for p in step.iterdir() if p.name != MARKER}
