"""Merging: the formula against two others, what holds for every pair of tensors, and whole model directories."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import TINY_HIDDEN, make_backbone, make_config, make_tokenizer
from torch import Tensor

from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError
from diffembed.models import merging
from diffembed.models.attention import PACKED
from diffembed.models.backbone import packed_states
from diffembed.models.checkpoint import load_backbone, load_head, read_model_config, save_model
from diffembed.models.merging import linear, merge_models, merge_state_dicts, merged_backbone, read_parents, slerp, soup
from diffembed.text.batching import TokenizedSequence, pack

SHARES = st.floats(0, 1)
SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_hand(a: Tensor, b: Tensor, t: float) -> np.ndarray:
    """The formula in float64, its angle by another way: from the sides of the triangle (Kahan), not from the cosine."""
    x, y = (v.double().numpy().ravel() for v in (a, b))
    u, v = x / np.linalg.norm(x), y / np.linalg.norm(y)
    w = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
    mixed: np.ndarray = (np.sin((1 - t) * w) * x + np.sin(t * w) * y) / np.sin(w)
    return mixed.reshape(a.shape)


# Tensors


@pytest.mark.parametrize("width", [2, 3, 50])
def test_slerp_is_scipys_on_unit_vectors(width: int) -> None:
    spatial = pytest.importorskip("scipy.spatial")
    for seed in range(5):
        a, b = (torch.nn.functional.normalize(drawn(2 * seed + i, width, dtype=torch.float64), dim=0) for i in (0, 1))
        shares = np.linspace(0, 1, 11)
        theirs = spatial.geometric_slerp(a.numpy(), b.numpy(), shares)
        ours = np.stack([slerp(a, b, float(t)).numpy() for t in shares])
        assert np.abs(ours - theirs).max() < 1e-12


@given(SEEDS, SHARES, st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_slerp_is_the_formula_for_any_lengths(seed: int, t: float, times: float) -> None:
    a, b = drawn(seed, 7, 5), times * drawn(seed + 1, 7, 5)
    expected = by_hand(a, b, t)
    assert np.abs(slerp(a, b, t).numpy() - expected).max() <= 3e-7 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("angle", [3e-4, 1e-3, 0.02, math.pi / 2, 3.0, math.pi - 3e-4])
def test_slerp_keeps_the_angle_where_it_is_small_or_nearly_flat(angle: float) -> None:
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for t in (0.1, 0.5, 0.7):
        b, expected = (torch.tensor([math.cos(x), math.sin(x)], dtype=torch.float64) for x in (angle, t * angle))
        assert (slerp(a, b, t) - expected).abs().max() < 1e-8


@given(SEEDS, SHARES)
@settings(max_examples=50, deadline=None)
def test_length_is_kept_and_order_does_not_matter(seed: int, t: float) -> None:
    a, b = (3 * torch.nn.functional.normalize(drawn(seed + i, 40), dim=0) for i in (0, 1))
    assert float(slerp(a, b, t).norm()) == pytest.approx(3, rel=1e-6)
    assert (slerp(a, b, t) - slerp(b, a, 1 - t)).abs().max() < 1e-6


@given(SEEDS, st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
@settings(max_examples=20, deadline=None)
def test_ends_are_the_tensors_themselves(seed: int, dtype: torch.dtype) -> None:
    a, b = drawn(seed, 3, 4, dtype=dtype), drawn(seed + 1, 3, 4, dtype=dtype)
    for t, end in ((0.0, a), (1.0, b)):
        found = slerp(a, b, t)
        assert torch.equal(found, end) and found.data_ptr() != end.data_ptr()
    assert slerp(a, b, 0.3).dtype == linear([a, b], [0.3, 0.7]).dtype == soup([a, b]).dtype == dtype
    assert torch.equal(linear([a, b], [0, 1]), b)


def test_slerp_is_linear_where_there_is_no_angle() -> None:
    a, zero = drawn(0, 6), torch.zeros(6)
    for b in (2 * a, -0.5 * a, a + 1e-6 * drawn(1, 6), zero):
        assert torch.equal(slerp(a, b, 0.25), linear([a, b], [0.75, 0.25]))
        assert torch.equal(slerp(b, a, 0.25), linear([b, a], [0.75, 0.25]))
    assert float(slerp(torch.tensor(2.0), torch.tensor(4.0), 0.5)) == 3.0
    assert slerp(torch.zeros(0, 3), torch.zeros(0, 3), 0.5).shape == (0, 3)
    ahead = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(0.1), math.sin(0.1)])
    assert torch.equal(slerp(*ahead, 0.5, eps=0.2), linear(ahead, [0.5, 0.5]))


def test_the_step_to_linear_is_below_float32() -> None:
    a, b = (torch.tensor([math.cos(x), math.sin(x)], dtype=torch.float64) for x in (0, 1e-4))
    assert (slerp(a, b, 0.5, eps=0.0) - linear([a, b], [0.5, 0.5])).abs().max() < 2e-9


@given(SEEDS, st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_soup_of_copies_is_the_copy(seed: int, copies: int) -> None:
    a = drawn(seed, 9)
    assert torch.equal(soup([a] * copies), a)


def test_soup_and_linear_are_numpys() -> None:
    tensors = [drawn(i, 4, 3) for i in range(5)]
    stacked = np.stack([x.numpy() for x in tensors])
    assert np.allclose(soup(tensors).numpy(), stacked.mean(0), atol=1e-7)
    weights = [0.5, -1.0, 0.25, 0.0, 1.25]
    assert np.allclose(linear(tensors, weights).numpy(), np.tensordot(weights, stacked, 1), atol=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = drawn(0, 5, 7).T, drawn(1, 7, 5)  # one of them does not lie row by row
    whole = slerp(a, b, 0.4), linear([a, b], [0.4, 0.6])
    monkeypatch.setattr(merging, "_BLOCK", 4)
    for one, other in zip((slerp(a, b, 0.4), linear([a, b], [0.4, 0.6])), whole, strict=True):
        assert (one - other).abs().max() < 1e-6


def test_half_precision_is_summed_in_full() -> None:
    a, b = drawn(0, 200, dtype=torch.bfloat16), drawn(1, 200, dtype=torch.bfloat16)
    assert torch.equal(slerp(a, b, 0.3), slerp(a.float(), b.float(), 0.3).bfloat16())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slerp(torch.ones(2), torch.ones(2), 1.2), r"t=1\.2.*from 0 to 1"),
        (lambda: slerp(torch.ones(2), torch.ones(2), math.nan), "t=nan"),
        (lambda: slerp(torch.ones(2), torch.ones(3), 0.5), r"\[2\] torch.float32 and \[3\] torch.float32.*one shape"),
        (lambda: slerp(torch.ones(2), torch.ones(2).half(), 0.5), "float16.*dtype"),
        (lambda: linear([torch.ones(2).long()] * 2, [0.5, 0.5]), "int64.*floating-point"),
        (lambda: linear([torch.ones(2)] * 2, [1.0]), "2 tensors and 1 weights"),
        (lambda: soup([]), "0 tensors"),
    ],
)
def test_tensors_that_cannot_be_merged(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# States


def state(seed: int = 0, **changes: Tensor) -> dict[str, Tensor]:
    return {"table": drawn(seed, 5, 4), "norm": drawn(seed + 1, 4), "ids": torch.arange(3), **changes}


def test_every_tensor_is_merged_by_itself() -> None:
    a, b = state(0), state(2)
    merged = merge_state_dicts([a, b], "slerp", (0.7, 0.3))
    assert set(merged) == set(a)
    assert all(torch.equal(merged[k], slerp(a[k], b[k], 0.3)) for k in ("table", "norm"))
    assert torch.equal(merged["ids"], torch.arange(3)) and merged["ids"].data_ptr() != a["ids"].data_ptr()
    three = [a, b, state(4)]
    for k in ("table", "norm"):
        tensors = [s[k] for s in three]
        assert torch.equal(merge_state_dicts(three, "soup")[k], soup(tensors))
        assert torch.equal(merge_state_dicts(three, "linear", (1, 0.5, -0.5))[k], linear(tensors, (1, 0.5, -0.5)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (state(extra=torch.ones(1)), "tensor extra is not in model 1 of 2"),
        ({k: v for k, v in state().items() if k != "norm"}, "tensor norm is not in model 2 of 2"),
        (state(norm=torch.ones(5)), r"tensor norm is \[4\].* and \[5\].*one shape"),
        (state(table=torch.ones(5, 4).half()), "tensor table is .*float32 and .*float16.*one dtype"),
        (state(ids=torch.arange(3) + 1), "tensor ids .*int64.* differs"),
        (state(norm=torch.full((4,), math.nan)), "tensor norm is not finite"),
    ],
)
def test_states_that_differ_are_named(other: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        merge_state_dicts([state(), other], "slerp", (0.5, 0.5))


@pytest.mark.parametrize(
    ("count", "method", "weights", "message"),
    [
        (2, "ties", (0.5, 0.5), "method 'ties'.*slerp, linear, soup"),
        (3, "slerp", (0.5, 0.5), "merge 3 models.*exactly two"),
        (2, "slerp", (0.5,), r"weights \[0.5\].*one weight for each"),
        (2, "slerp", (0.5, 0.4), "together 1"),
        (2, "slerp", (1.5, -0.5), r"\(1 - t, t\)"),
        (2, "linear", (), "one weight for each"),
        (2, "linear", (math.nan, 1), "together 1"),
        (1, "linear", (1,), "two models or more"),
        (2, "soup", (0.5, 0.5), "no weights"),
    ],
)
def test_weights_that_the_method_does_not_take(count: int, method: Any, weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_state_dicts([state()] * count, method, weights)


# Model directories


def write(path: Path, seed: int = 0, *, head: bool = False, backbone: Any = None, **changes: Any) -> Path:
    manifest = {"recipe": "r", "stage": path.name, "stage_fingerprint": f"f{seed}", "data": {"left": "out"}}
    config = dataclasses.replace(make_config(contextual=False), **{"name": path.name, "manifest": manifest} | changes)
    tokenizer = make_tokenizer()
    model = backbone or make_backbone(tokenizer.get_vocab_size(), seed=seed)
    model.config.tie_word_embeddings = not head
    table = drawn(seed, tokenizer.get_vocab_size(), TINY_HIDDEN) if head else None
    return save_model(path, model, tokenizer, config, head=table)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A contextual and a triplet model of other weights, the second with another trained width."""
    root = tmp_path_factory.mktemp("parents")
    return write(root / "contextual", 0, contextual=True), write(root / "triplet", 1, dims=(8, 16, TINY_HIDDEN))


@pytest.fixture
def other(parents: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(parents[1], tmp_path / "other"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_merged_directory_encodes_and_tells_what_it_is_of(
    parents: tuple[Path, Path], tmp_path: Path, corpus: list[str]
) -> None:
    into = merge_models(parents, tmp_path / "merged", method="slerp", weights=(0.75, 0.25), extra_manifest={"seed": 7})
    config = read_model_config(into)
    assert (config.name, config.contextual, config.dims) == ("contextual-slerp", True, (16, TINY_HIDDEN))
    facts: list[dict[str, Any]] = [
        {
            "path": os.path.relpath(path, into),
            "name": path.name,
            "weights_sha256": hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest(),
            "manifest": {"recipe": "r", "stage": path.name, "stage_fingerprint": f"f{seed}"},
        }
        for seed, path in enumerate(parents)
    ]
    assert config.manifest == {
        "seed": 7,
        "merge": {"method": "slerp", "weights": [0.75, 0.25], "parents": facts},
    }
    assert [(into / parent["path"]).resolve() for parent in facts] == [path.resolve() for path in parents]
    states = [load_backbone(path).state_dict() for path in (*parents, into)]
    for name, tensor in states[2].items():
        assert np.abs(tensor.numpy() - by_hand(states[0][name], states[1][name], 0.25)).max() < 1e-6, name
    vectors = Encoder.load(into, runtime="torch").encode_documents(corpus).values
    assert vectors.shape == (len(corpus), TINY_HIDDEN) and len(np.unique(vectors, axis=0)) == len(corpus)


def test_like_says_whose_config_is_kept(parents: tuple[Path, Path], tmp_path: Path) -> None:
    into = merge_models(parents, tmp_path / "merged", method="soup", like=1, name="both")
    config = read_model_config(into)
    assert (config.name, config.contextual, config.dims) == ("both", False, (16, TINY_HIDDEN))
    assert config.manifest["merge"]["weights"] == [0.5, 0.5]


@pytest.mark.parametrize(("method", "weights"), [("slerp", (0.6, 0.4)), ("linear", (0.6, 0.4)), ("soup", ())])
def test_a_model_merged_with_itself_is_itself(parents: tuple[Path, Path], method: Any, weights: Any) -> None:
    own = read_parents([parents[0], parents[0]])
    merged = merged_backbone(own, method, weights).state_dict()
    for name, tensor in own.states[0].items():
        assert (merged[name] - tensor).abs().max() <= 1e-7 * tensor.abs().max(), name


def test_a_sweep_writes_to_no_parent(parents: tuple[Path, Path]) -> None:
    read = read_parents(parents, attn_implementation=PACKED)
    before = [{k: v.clone() for k, v in state.items()} for state in read.states]
    batch = pack([TokenizedSequence((5, 6, 7), ((0, 3),)), TokenizedSequence((8, 9), ((0, 2),))])
    swept = []
    for t in (0.0, 0.5, 1.0):
        model = merged_backbone(read, "slerp", (1 - t, t))
        assert not model.training and model.config.is_causal is False
        swept.append(packed_states(model, batch))
        with torch.no_grad():  # a caller may go on training it
            next(model.parameters()).zero_()
    ends = [packed_states(load_backbone(path, attn_implementation=PACKED), batch) for path in parents]
    assert torch.equal(swept[0], ends[0]) and torch.equal(swept[2], ends[1])
    assert not torch.allclose(swept[1], swept[0]) and not torch.allclose(swept[1], swept[2])
    for state, old in zip(read.states, before, strict=True):
        assert all(torch.equal(state[k], old[k]) for k in old)


@pytest.mark.parametrize("heads", [(True, True), (True, False)])
def test_output_matrix_is_merged_only_where_all_have_one(tmp_path: Path, heads: tuple[bool, bool]) -> None:
    made = [write(tmp_path / str(i), i, head=True) for i in range(2)]
    for path, kept in zip(made, heads, strict=True):
        if not kept:
            (path / "head.safetensors").unlink()
    merged = load_head(merge_models(made, tmp_path / "merged", method="slerp", weights=(0.5, 0.5)))
    if not all(heads):
        assert merged is None
        return
    own = [load_head(path) for path in made]
    assert merged is not None and own[0] is not None and own[1] is not None
    assert torch.equal(merged, slerp(own[0], own[1], 0.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"eot_token_id": 5},
        {"prefix_ids": [4]},
        {"suffix_ids": [4]},
        {"max_tokens": 64},
        {"quantizer": "none"},
        {"normalize": True},
        {"shift": False},
        {"mask_token_id": None},
        {"pad_token_id": 9},
    ],
)
def test_vectors_made_in_another_way_are_refused(
    parents: tuple[Path, Path], other: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    edit(other / "diffembed.json", **changes)
    with pytest.raises(ModelError) as caught:
        merge_models((parents[0], other), tmp_path / "merged", method="soup")
    key = next(iter(changes))
    assert str(caught.value).startswith(f"{key} of diffembed.json differs between {parents[0]} and {other} (")
    assert not (tmp_path / "merged").exists()


def test_another_vocabulary_is_refused(parents: tuple[Path, Path], other: Path) -> None:
    file = other / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match=r"model of tokenizer\.json differs"):
        read_parents((parents[0], other))


def test_one_tokenizer_written_in_two_ways_is_one(parents: tuple[Path, Path], other: Path) -> None:
    edit(
        other / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
    )
    assert (other / "tokenizer.json").read_bytes() != (parents[0] / "tokenizer.json").read_bytes()
    assert read_parents((parents[0], other)).tokenizer.truncation is None


def test_another_shape_is_refused(parents: tuple[Path, Path], other: Path, tmp_path: Path) -> None:
    edit(other / "config.json", rms_norm_eps=1e-5)
    with pytest.raises(ModelError, match=r"rms_norm_eps of config\.json differs .*\(1e-06 and 1e-05\).*one base"):
        read_parents((parents[0], other))
    edit(other / "config.json", rms_norm_eps=1e-6, attention_dropout=0.1, use_cache=True, eos_token_id=7)
    assert len(read_parents((parents[0], other)).states) == 2


def test_what_is_given_wrongly_is_refused_before_reading(parents: tuple[Path, Path], tmp_path: Path) -> None:
    for wrong, message in (
        ({"into": parents[1]}, "is one of the models"),
        ({"parents": parents[:1]}, "exactly two models"),
        ({"like": 2}, "like=2"),
        ({"like": -1}, "like=-1"),
        ({"weights": (1.0, 1.0)}, "together 1"),
    ):
        arguments: dict[str, Any] = {
            "parents": parents, "into": tmp_path / "merged", "method": "slerp", "weights": (0.5, 0.5)
        } | wrong  # fmt: skip
        with pytest.raises(InputError, match=message):
            merge_models(**arguments)
    with pytest.raises(ModelError, match="does not exist"):
        merge_models((parents[0], tmp_path / "nowhere"), tmp_path / "merged", method="soup")
    assert read_model_config(parents[1]).name == "triplet"


def test_a_merge_that_no_longer_reads_both_ways_is_not_saved(
    parents: tuple[Path, Path], tmp_path: Path, tiny_backbone: Any
) -> None:
    negated = make_backbone(tiny_backbone.config.vocab_size, seed=0)
    with torch.no_grad():
        for parameter in negated.parameters():
            parameter.neg_()
    against = write(tmp_path / "against", backbone=negated)
    with pytest.raises(ModelError, match="a late token changed no early state"):
        merge_models((parents[0], against), tmp_path / "merged", method="soup")
    assert not (tmp_path / "merged").exists()
