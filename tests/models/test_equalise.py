"""Equalisation changes nothing in exact arithmetic, and brings integer graphs closer where channels differ in size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.graphs import DECODERS, calibration, make_model, save, sequences, source_of, states

from diffembed.models.calibrate import cosines, fold_factors
from diffembed.models.equalise import Fold, best_factors, channel_factors, equalised, int8_plan

READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "query", "key", "value", "intermediate.dense")


def outlier(model: Any, family: str, size: float = 40.0) -> Any:
    """One channel of every norm made large, and what reads it as much smaller: trained models are like that."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("layernorm.weight", "LayerNorm.weight", "LayerNorm.bias")):
                parameter[7] *= size
            elif name.removesuffix(".weight").endswith(READERS):
                parameter[:, 7] /= size
    return model


@pytest.mark.parametrize("family", DECODERS)
def test_the_stock_model_computes_the_same_with_equalised_weights(family: str, tmp_path: Path) -> None:
    """Factors from 1/30 to 30 on every fold; the equalised weights go into the stock class."""
    model = make_model(family)
    source = source_of(save(tmp_path / family, model))
    rng = np.random.default_rng(0)
    factors = {}
    for fold in source.folds():
        width = source.tensor(f"{fold.readers[0]}.weight").shape[1]
        factors[fold] = fold.shared(np.exp(rng.uniform(-3.4, 3.4, width)).astype(np.float32))
    tensor = equalised(source.tensor, int8_plan(factors))
    batch = sequences(1, 20, 77)
    before = states(model, batch)
    changed = {name: torch.tensor(tensor(name)) for name in model.state_dict()}
    assert sum(not torch.equal(changed[name], value) for name, value in model.state_dict().items()) >= 14
    model.load_state_dict(changed)
    for ours, theirs in zip(states(model, batch), before, strict=True):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_an_outlier_channel_costs_little_once_equalised(family: str, tmp_path: Path) -> None:
    source = source_of(save(tmp_path / family, outlier(make_model(family), family)))
    found = calibration(source)
    plain, level = (cosines(source, found, int8_plan(f)).mean() for f in ({}, fold_factors(source, found)))
    assert 1 - level < (1 - plain) / 4
    assert level > 0.999


def test_a_divisor_alone_changes_nothing(tmp_path: Path) -> None:
    """The same power of two on all channels is exact in float32: every integer stays what it was."""
    source = source_of(save(tmp_path / "bert", make_model("bert")))
    found = calibration(source)
    twice = {fold: np.full(32, 2.0, np.float32) for fold in source.folds()}
    assert int8_plan(twice).divisors
    assert np.array_equal(cosines(source, found, int8_plan(twice)), cosines(source, found, int8_plan({})))


def test_a_float_layer_reads_what_the_divided_layers_beside_it_share(tmp_path: Path) -> None:
    source = source_of(save(tmp_path / "bert", make_model("bert")))
    found = calibration(source)
    uneven = {fold: np.geomspace(0.1, 10, 32).astype(np.float32) for fold in source.folds()}
    kept = frozenset(name for name in found.peaks if not name.endswith("query"))
    assert cosines(source, found, int8_plan(uneven, float_layers=kept)).min() > 0.999


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 12),
    alpha=st.floats(0, 1),
    dead=st.sampled_from(["none", "channel", "column", "all"]),
)
def test_factors_are_positive_and_level(seed: int, width: int, alpha: float, dead: str) -> None:
    rng = np.random.default_rng(seed)
    peaks, weight = np.abs(rng.normal(size=width)).astype(np.float32), rng.normal(size=(3, width)).astype(np.float32)
    if dead in ("channel", "all"):
        peaks[0] = 0
    if dead in ("column", "all"):
        weight[:, 0] = 0
    factors = channel_factors(peaks, [weight], alpha)
    assert np.isfinite(factors).all()
    assert (factors > 0).all()
    assert np.log(factors).mean() == pytest.approx(0, abs=1e-4)


def test_copies_of_a_head_share_their_factors() -> None:
    fold = Fold(("o",), ("v",), copies=3, block=4)
    factors = np.random.default_rng(0).uniform(1, 2, 24).astype(np.float32)
    shared = fold.shared(factors).reshape(2, 3, 4)
    assert (shared == shared[:, :1]).all()
    assert (shared >= factors.reshape(2, 3, 4)).all()
    assert np.array_equal(fold.of_makers(shared.reshape(-1)), shared[:, 0].reshape(-1))


def test_nothing_is_scaled_where_nothing_is_gained() -> None:
    """Rows whose channels are alike already, and weights too."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2, 64, 32)).astype(np.float32)
    factors = best_factors(Fold(("a",), ("n",)), np.ones(32, np.float32), signs[0], [signs[1]])
    assert np.allclose(factors, 1)
