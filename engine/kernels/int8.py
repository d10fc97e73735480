"""Products of two quantized matrices in 8-bit integers: y = x w^T + bias, with scales of every row and group.

With x = s_x (q_x - z_x) and w = s_w (q_w - z_w) in every group of g neighbours along K,

    y[m, n] = bias[n] + sum over groups of  s_x s_w (q_x . q_w  -  z_x sum(q_w)  -  z_w (sum(q_x) - g z_x))

so that only q_x . q_w needs integers: zero points never enter the integer product. `matmul_plain` is the reference,
`matmul_native` runs torch's int8 product (VNNI on CPUs), `int8_triton` a fused kernel on GPUs.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from engine.kernels import launched
from engine.ops.quantization import Codes, dequantize, quantize, unpack

TILE_ELEMENTS = 2**19
"""Sums of one tile of rows: 2 MiB in int32, which stay in the cache while groups are added up."""
SMALLEST_PRODUCT = 2**20
"""MACs below which scaling costs a CPU more than the product itself, and integers gain nothing."""
HAS_TRITON = find_spec("triton") is not None
MMA_DEPTH = 32
"""A GPU's int8 product takes at least so many values along K."""


class Route(StrEnum):
    """What computes a product."""

    TRITON = "int8 (triton)"
    NATIVE = "int8 (torch._int_mm)"
    FLOAT = "float"


def best_route(macs: int, group: int, device: torch.device) -> Route:
    """The fastest way to a product of `macs` multiply-accumulates in groups of `group` values on a device."""
    if device.type == "cuda" and HAS_TRITON and group % MMA_DEPTH == 0:
        return Route.TRITON
    if device.type == "cpu" and macs >= SMALLEST_PRODUCT:
        return Route.NATIVE
    return Route.FLOAT


def group_sums(codes: Tensor, groups: int) -> Tensor:
    """Sum of the codes [R, K] of every group: int32 [R, groups]."""
    return codes.unflatten(1, (groups, -1)).sum(-1, dtype=torch.int32)


def matmul_plain(x: Codes, w: Codes, bias: Tensor | None = None) -> Tensor:
    """Reference: what both stand for, multiplied in the scales' precision. x: M x K, w: N x K -> [M, N]."""
    return F.linear(dequantize(x), dequantize(w), bias)


def matmul_native(x: Codes, w: Codes, bias: Tensor | None = None, w_sums: Tensor | None = None) -> Tensor:
    """One integer product a group, added up in fp32 in tiles of rows. x: M x K, w: N x K -> fp32 [M, N].

    `w_sums` [N, groups] are `group_sums` of w, taken here where they are not at hand.
    """
    rows, outs, group = x.codes.shape[0], w.codes.shape[0], x.group
    if w_sums is None:
        w_sums = group_sums(w.codes, w.groups)
    out = _start(x, w, bias, w_sums)
    w_scale = w.scale.float().T.contiguous()
    step = max(64, TILE_ELEMENTS // outs)
    for top in range(0, rows, step):
        tile, x_codes, x_scale = out[top : top + step], x.codes[top : top + step], x.scale[top : top + step]
        for index in range(x.groups):
            columns = slice(index * group, (index + 1) * group)
            sums = torch._int_mm(x_codes[:, columns], w.codes[:, columns].T).float()
            tile.addcmul_(sums.mul_(x_scale[:, index : index + 1]), w_scale[index])
    return out


def _start(x: Codes, w: Codes, bias: Tensor | None, w_sums: Tensor) -> Tensor:
    """What zero points and bias add: fp32 [M, N]. All groups' corrections are one thin product of floats."""
    left, right = [], []
    if x.zero is not None:
        left.append(x.scale * x.zero)
        right.append(-w.scale * w_sums)
    if w.zero is not None:
        x_sums = group_sums(x.codes, x.groups).float()
        left.append(x.scale * (x_sums if x.zero is None else x_sums - x.group * x.zero))
        right.append(-w.scale * w.zero)
    if not left:
        start = torch.zeros(x.codes.shape[0], w.codes.shape[0], device=x.codes.device)
        return start if bias is None else start + bias.float()
    first, second = torch.cat(left, dim=1), torch.cat(right, dim=1).float().T
    return first @ second if bias is None else torch.addmm(bias.float(), first, second)


@torch.library.custom_op("engine::int8_linear", mutates_args=())
def int8_linear(
    hidden: Tensor,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    sums: Tensor,
    bias: Tensor | None,
    *,
    bits: int,
    way: str,
    symmetric: bool = False,
) -> Tensor:
    """A linear layer whose input is quantized on the fly, to 8 bits a row and group. hidden [M, K] -> [M, N].

    Weights are `packed` codes [N, K * bits / 8] with scale, zero point and sum of every group [N, groups]; `way` is a
    `Route`. `symmetric` leaves the input's zero points out. The result has the number format of `hidden`. To compilers
    and FLOP counters this is one operation: the product of M x K and K x N.
    """
    groups = scale.shape[1]
    group = hidden.shape[1] // groups
    launched(f"W{bits}A8 {way}")
    if way == Route.TRITON:
        from engine.kernels import int8_triton

        x, x_sums = int8_triton.quantize(hidden, group, symmetric=symmetric)
        return int8_triton.matmul(x, x_sums, packed, bits, scale, zero, sums, bias, hidden.dtype)
    x, w = quantize(hidden, 8, group, symmetric=symmetric), Codes(unpack(packed, bits), scale, zero)
    if way == Route.NATIVE:
        return matmul_native(x, w, bias, sums).to(hidden.dtype)
    w = w._replace(scale=scale.float())
    return matmul_plain(x, w, None if bias is None else bias.float()).to(hidden.dtype)


@int8_linear.register_fake
def _shape(hidden: Tensor, packed: Tensor, *rest: object, **options: object) -> Tensor:
    return hidden.new_empty(hidden.shape[0], packed.shape[0])


@register_flop_formula(torch.ops.engine.int8_linear)
def _flops(hidden: tuple[int, int], packed: tuple[int, int], *rest: object, **options: object) -> int:
    return 2 * hidden[0] * hidden[1] * packed[0]
