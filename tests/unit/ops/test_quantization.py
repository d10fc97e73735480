"""Ranges, codes, packing and GPTQ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.ops.quantization import (
    Codes,
    code_range,
    dequantize,
    encode,
    fake_quantize,
    gptq,
    group_range,
    pack,
    quantize,
    unpack,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.sampled_from([2, 4, 6, 8]), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_packing_keeps_every_code(bits: int, rows: int, words: int, seed: int) -> None:
    low, high = code_range(bits)
    codes = torch.randint(low, high + 1, (rows, 4 * words), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes.to(torch.int8), bits)
    assert packed.dtype == torch.uint8 and packed.shape == (rows, 4 * words * bits // 8)
    assert torch.equal(unpack(packed, bits), codes.to(torch.int8))


def test_four_bit_bytes_hold_the_even_code_below() -> None:
    assert pack(torch.tensor([[1, -8]], dtype=torch.int8), 4).tolist() == [[0x81]]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_error_is_half_a_step_at_most(bits: int, symmetric: bool) -> None:
    matrix = normal(5, 64) + 0.4
    coded = quantize(matrix, bits, 16, symmetric=symmetric)
    error = (dequantize(coded) - matrix).abs().unflatten(1, (-1, 16))
    # Zero points are rounded too, so that the end of an asymmetric range may saturate by another half.
    assert (error <= coded.scale[..., None] * (0.501 if symmetric else 1.001)).all()
    assert error.max() > coded.scale.min() / 4
    low, high = code_range(bits, symmetric=symmetric)
    assert coded.codes.min() >= low and coded.codes.max() <= high
    assert (coded.zero is None) == symmetric


def test_extremes_take_the_extreme_codes() -> None:
    coded = quantize(torch.tensor([[-1.0, 0.0, 0.25, 3.0]]), 8, 4)
    assert coded.scale.item() == pytest.approx(4 / 255)
    assert coded.codes.tolist() == [[-128, -64, -48, 127]] and coded.zero is not None and coded.zero.item() == -64
    assert quantize(torch.tensor([[-3.0, 0.0, 1.5, 3.0]]), 8, 4, symmetric=True).codes.tolist() == [[-127, 0, 64, 127]]


def test_constant_groups_and_zeros_are_exact() -> None:
    matrix = torch.tensor([[0.0, 0.0, 2.5, 2.5, -1.25, -1.25]])
    assert torch.allclose(fake_quantize(matrix, 4, 2), matrix)
    assert (fake_quantize(torch.zeros(2, 4), 4, 2) == 0).all()


def test_one_group_of_a_row_is_quantization_by_row() -> None:
    """g = K: scale and zero point of the whole row, by torch's own arithmetic."""
    matrix = normal(3, 24)
    coded = quantize(matrix, 8, 24)
    assert coded.groups == 1 and coded.zero is not None
    for row in range(3):
        scale, zero = coded.scale[row].item(), int(coded.zero[row])
        expected = torch.fake_quantize_per_tensor_affine(matrix[row], scale, zero, -128, 127)
        torch.testing.assert_close(dequantize(coded)[row], expected)


@given(st.sampled_from([4, 8]), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_smaller_groups_err_less(bits: int, seed: int) -> None:
    """Over channels of different size, as the inputs of a diffusion transformer have them."""
    matrix = normal(16, 128, seed=seed) * normal(128, seed=seed + 1).exp()
    errors = [(fake_quantize(matrix, bits, group) - matrix).square().sum() for group in (128, 64, 32, 16)]
    assert errors == sorted(errors, reverse=True)


def test_clipping_saturates_what_lies_outside() -> None:
    matrix = torch.tensor([[-1.0, -0.5, 0.5, 1.0]])
    assert fake_quantize(matrix, 8, 4, symmetric=True, clip=0.5)[0, -1].item() == pytest.approx(0.5)


def test_scales_are_kept_as_they_were_used() -> None:
    """Rounded before the codes are taken, so that codes make up for it."""
    matrix = normal(4, 32)
    coded = quantize(matrix, 8, 16, scales=torch.bfloat16)
    assert torch.equal(coded.scale, coded.scale.bfloat16().float())
    assert (dequantize(coded) - matrix).abs().max() <= 2 * coded.scale.max()


def hessian_of(inputs: Tensor) -> Tensor:
    return 2 / len(inputs) * inputs.T @ inputs


@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_without_correlation_rounds_to_the_nearest(symmetric: bool) -> None:
    weight = normal(6, 32)
    plain, corrected = (
        quantize(weight, 4, 8, symmetric=symmetric),
        gptq(weight, torch.eye(32), 4, 8, symmetric=symmetric),
    )
    assert torch.equal(plain.codes, corrected.codes) and torch.equal(plain.scale, corrected.scale)


@pytest.mark.parametrize("group", [8, 32])
def test_gptq_brings_outputs_nearer(group: int) -> None:
    weight, inputs = normal(12, 32), normal(200, 32, seed=1) @ (torch.eye(32) + 0.5 * normal(32, 32, seed=2))
    coded = gptq(weight, hessian_of(inputs), 4, group)
    exact = inputs @ weight.T

    def error(other: Codes) -> float:
        return (inputs @ dequantize(other).T - exact).square().mean().item()

    assert error(coded) < 0.7 * error(quantize(weight, 4, group))
    assert coded.codes.dtype == torch.int8 and coded.scale.shape == (12, 32 // group)


def test_gptq_is_the_column_by_column_algorithm() -> None:
    """Against the definition: after each column, solve for the best change of all columns that are still free."""
    weight, inputs = normal(3, 8).double(), normal(64, 8, seed=3).double()
    damping, group = 0.01, 4
    hessian = hessian_of(inputs)
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(8)
    current, rounded = weight.clone(), torch.empty_like(weight)
    for column in range(8):
        if column % group == 0:
            scale, zero = group_range(current[:, column : column + group].clone(), 4)
        code = encode(current[:, column : column + 1], scale, zero, 4)
        rounded[:, column] = (scale * (code - zero))[:, 0]
        if column < 7:
            inverse = torch.linalg.inv(damped[column:, column:])
            error = (current[:, column] - rounded[:, column]) / inverse[0, 0]
            current[:, column:] -= error[:, None] * inverse[0]
    torch.testing.assert_close(dequantize(gptq(weight, hessian, 4, group)).double(), rounded, atol=1e-4, rtol=1e-4)


def test_gptq_bears_inputs_that_are_never_used() -> None:
    inputs = normal(20, 16)
    inputs[:, 3] = 0
    coded = gptq(normal(4, 16), hessian_of(inputs), 4, 8)
    assert torch.isfinite(dequantize(coded)).all() and (dequantize(coded)[:, 3] == 0).all()
