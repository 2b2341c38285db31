"""The quantizer in numpy: formulas, order of operations, bit order, and equality with the torch form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffembed.errors import InputError
from diffembed.vectors.quantize import pack_signs, quantize, scaled_int8, tanh_int8, unit, unpack_signs

MEANS = hnp.arrays(np.float32, (3, 16), elements=st.floats(-4, 4, width=32))


@given(MEANS)
def test_int8_is_within_half_a_step_of_tanh(mean: np.ndarray) -> None:
    values = tanh_int8(mean)
    assert values.dtype == np.int8
    assert np.abs(values - 127 * np.tanh(mean.astype(np.float64))).max() <= 0.5 + 1e-4


def test_int8_never_reaches_minus_128() -> None:
    assert tanh_int8(np.array([[-1e30, 1e30]], np.float32)).tolist() == [[-127, 127]]


@given(MEANS, st.sampled_from([8, 16]), st.sampled_from(["float32", "int8", "binary"]))
def test_cut_comes_before_everything(mean: np.ndarray, dims: int, dtype: str) -> None:
    narrow = quantize(mean, dtype, dims=dims)  # type: ignore[arg-type]
    assert np.array_equal(narrow, quantize(mean[:, :dims], dtype))  # type: ignore[arg-type]


def test_cut_comes_before_normalising_and_stretching() -> None:
    mean = np.array([[3.0, 4.0, 1000.0, 0.0]], np.float32)
    options = {"quantizer": "none", "normalize": True, "dims": 2}
    assert np.allclose(quantize(mean, "float32", **options), [[0.6, 0.8]])  # type: ignore[arg-type]
    assert quantize(mean, "int8", **options).tolist() == [[95, 127]]  # type: ignore[arg-type]


@given(MEANS)
def test_bits_come_back(mean: np.ndarray) -> None:
    signs = unpack_signs(pack_signs(mean), 16)
    assert np.array_equal(signs, np.where(mean >= 0, 1, -1))


def test_first_dimension_is_the_least_significant_bit() -> None:
    mean = -np.ones((1, 16), np.float32)
    mean[0, 0] = 1.0
    assert pack_signs(mean).tolist() == [[1, 0]]
    mean[0, 9] = 0.0  # zero counts as positive
    assert pack_signs(mean).tolist() == [[1, 2]]


@given(MEANS)
def test_stretched_int8_keeps_the_direction(mean: np.ndarray) -> None:
    mean[:, 0] += 5.0
    values = scaled_int8(mean)
    assert np.abs(values).max(axis=1).tolist() == [127, 127, 127]
    assert (np.einsum("ij,ij->i", unit(values), unit(mean)) > 0.999).all()


def test_stretched_int8_of_zero_is_zero() -> None:
    assert scaled_int8(np.zeros((1, 4), np.float32)).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("dims", [0, 17, -1])
def test_width_outside_is_refused(dims: int) -> None:
    with pytest.raises(InputError, match="from 1 to 16"):
        quantize(np.zeros((1, 16), np.float32), "int8", dims=dims)


def test_binary_needs_whole_bytes() -> None:
    with pytest.raises(InputError, match="divisible by 8"):
        quantize(np.zeros((1, 16), np.float32), "binary", dims=12)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="float32, int8, binary"):
        quantize(np.zeros((1, 8), np.float32), "int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tanh-int8, none"):
        quantize(np.zeros((1, 8), np.float32), "int8", quantizer="lsq")  # type: ignore[arg-type]


def test_torch_form_is_equal() -> None:
    torch = pytest.importorskip("torch")
    from diffembed.models.quantizer import tanh_int8 as torch_form

    mean = np.random.default_rng(0).normal(0, 0.7, (512, 64)).astype(np.float32)
    ours, theirs = tanh_int8(mean).astype(np.int64), torch_form(torch.from_numpy(mean)).numpy().astype(np.int64)
    # tanh of numpy and torch may differ in the last bit, which can move a value that sits on a rounding border.
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-4


def test_torch_signs_are_the_packed_bits_with_the_gradient_of_a_hard_tanh() -> None:
    torch = pytest.importorskip("torch")
    from diffembed.models.quantizer import signs

    mean = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (32, 64))).requires_grad_()
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(32, 64)))
    made = signs(mean)
    np.testing.assert_array_equal(made.detach().numpy(), unpack_signs(pack_signs(mean.detach().numpy()), 64))
    (made * weights).sum().backward()
    soft = mean.detach().clone().requires_grad_()
    (torch.nn.functional.hardtanh(soft / soft.pow(2).mean(-1, keepdim=True).sqrt()) * weights).sum().backward()
    torch.testing.assert_close(mean.grad, soft.grad)
