"""Integer products equal what their codes stand for; the Triton kernel has a module of its own."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from engine.kernels import counting, int8
from engine.kernels.int8 import Route, best_route, group_sums, int8_linear, matmul_native, matmul_plain
from engine.kernels.linear import QuantizedLinear
from engine.ops.quantization import Codes, dequantize, pack, quantize

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x: Codes, w: Codes, bias: Tensor | None) -> Tensor:
    doubled = [coded._replace(scale=coded.scale.double()) for coded in (x, w)]
    return matmul_plain(*doubled, None if bias is None else bias.double())


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("x_symmetric", "w_symmetric"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("bits", "group"), [(8, 96), (4, 32), (6, 48)])
def test_integer_product_is_what_its_codes_stand_for(
    bits: int, group: int, x_symmetric: bool, w_symmetric: bool, with_bias: bool
) -> None:
    x = quantize(normal(70, 96) * 3 + 0.5, 8, group, symmetric=x_symmetric)
    w = quantize(normal(24, 96, seed=1), bits, group, symmetric=w_symmetric)
    bias = normal(24, seed=2) if with_bias else None
    reference = exact(x, w, bias)
    torch.testing.assert_close(matmul_native(x, w, bias).double(), reference, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(matmul_plain(x, w, bias).double(), reference, atol=1e-4, rtol=1e-5)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = quantize(normal(200, 32), 8, 16), quantize(normal(8, 32, seed=1), 8, 16)
    whole = matmul_native(x, w)
    monkeypatch.setattr(int8, "TILE_ELEMENTS", 1)
    torch.testing.assert_close(matmul_native(x, w), whole)


def test_saturated_codes_do_not_overflow() -> None:
    """K products of -128 and -128 need 32 bits."""
    codes = torch.full((16, 4608), -128, dtype=torch.int8)
    ones = Codes(codes, torch.ones(16, 1), None)
    assert (matmul_native(ones, ones) == 4608 * 128 * 128).all()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_all_routes_give_the_same_layer(bits: int) -> None:
    hidden, w, bias = normal(40, 64) + 0.3, quantize(normal(16, 64, seed=1), bits, 32), normal(16, seed=2)
    sums, packed = group_sums(w.codes, 2), pack(w.codes, bits)
    routes = (Route.NATIVE, Route.FLOAT)
    outs = [int8_linear(hidden, packed, w.scale, w.zero, sums, bias, bits=bits, way=way) for way in routes]
    torch.testing.assert_close(*outs, atol=1e-4, rtol=1e-4)
    relative = (outs[0] - (hidden @ dequantize(w).T + bias)).norm() / outs[0].norm()
    assert 0 < relative < 0.02, "only the input's 8 bits are missing"


def test_a_row_does_not_depend_on_the_others() -> None:
    """Scales are a token's own."""
    layer = QuantizedLinear.of(nn.Linear(64, 48), 4, 32)
    hidden = normal(2, 400, 64)
    whole = layer(hidden)
    torch.testing.assert_close(layer(hidden[1:]), whole[1:])
    torch.testing.assert_close(layer(hidden[:, 7:9]), whole[:, 7:9], msg="too few rows for integers, same codes")


@pytest.mark.parametrize(("bits", "input_bits", "worst"), [(8, 8, 0.015), (6, 8, 0.04), (4, 8, 0.15), (4, 16, 0.15)])
def test_layer_stands_for_the_one_it_replaces(bits: int, input_bits: int, worst: float) -> None:
    plain = nn.Linear(128, 64)
    layer, hidden = QuantizedLinear.of(plain, bits, 32, input_bits), normal(3, 50, 128)
    relative = (layer(hidden) - plain(hidden)).norm() / plain(hidden).norm()
    assert worst / 10 < relative < worst
    assert layer.numerics == f"W{bits}A{input_bits}" and f"W{bits}A{input_bits}, groups of 32" in repr(layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_keeps_the_number_format(dtype: torch.dtype) -> None:
    plain, hidden = nn.Linear(64, 32).to(dtype), normal(40, 64).to(dtype)
    layer = QuantizedLinear.of(plain, 8, 32)
    out = layer(hidden)
    assert out.dtype == layer.scale.dtype == dtype
    assert (out.float() - plain(hidden).float()).norm() / plain(hidden).float().norm() < 0.03


def test_bytes_are_those_of_codes_and_group_parameters() -> None:
    layer = QuantizedLinear.of(nn.Linear(128, 64), 4, 32)
    codes, groups = 64 * 128 // 2, 64 * 4
    held = sum(parameter.numel() * parameter.element_size() for parameter in layer.parameters())
    assert held == codes + groups * (4 + 1 + 2) + 64 * 4
    assert layer.row_macs == 64 * 128
    assert QuantizedLinear.of(nn.Linear(512, 8), 8, 288 // 9 * 8).sums.dtype == torch.int32, "sums of -128 fit"


def test_layers_are_made_on_the_meta_device() -> None:
    """A plan knows the changed model without weights."""
    with torch.device("meta"):
        plain = nn.Linear(128, 64)
    layer = QuantizedLinear.of(plain, 4, 32)
    assert layer.packed.is_meta and layer.packed.shape == (64, 64) and layer.scale.shape == (64, 4)


def test_routes() -> None:
    assert best_route(512 * 128 * 128, 64, CPU) is Route.NATIVE
    assert best_route(8 * 128 * 128, 64, CPU) is Route.FLOAT
    assert best_route(10**9, 64, torch.device("mps")) is Route.FLOAT
    if int8.HAS_TRITON:
        assert best_route(1, 64, torch.device("cuda")) is Route.TRITON
        assert best_route(10**9, 48, torch.device("cuda")) is Route.FLOAT


def test_what_ran_is_counted() -> None:
    layer, counts = QuantizedLinear.of(nn.Linear(64, 64), 4, 32), Counter[str]()
    with counting(counts):
        layer(normal(300, 64))
        layer(normal(3, 64))
        QuantizedLinear.of(nn.Linear(64, 64), 8, 32, 16)(normal(3, 64))
    layer(normal(300, 64))
    assert counts == {"W4A8 int8 (torch._int_mm)": 1, "W4A8 float": 1, "W8A16 float": 1}
