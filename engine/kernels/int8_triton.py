"""The GPU's side of `int8`: quantization of the input in one read, and the grouped product with its scales fused.

Products are taken group by group: integer sums are scaled and added up in fp32 registers. 4-bit weights are unpacked
behind the load, so that half the bytes travel. TRITON_INTERPRET=1 runs both kernels on a CPU, which is how they were
checked; on a GPU they have not been timed yet.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.quantization import TINY, Codes, unpack

ROWS_AT_ONCE = 8
DEEPEST = 128
"""Longest stretch of K that one step of the product takes."""


@triton.jit
def _quantize(
    x, codes, scale, zero, sums, rows, width, GROUP: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    SYMMETRIC: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """Codes, scale, zero point and sum of one group of ROWS rows."""
    groups = width // GROUP
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    group, lane = tl.program_id(1), tl.arange(0, PADDED)
    inside = (row < rows)[:, None] & (lane < GROUP)[None, :]
    at = row[:, None] * width + group * GROUP + lane[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    low, high = tl.min(values, 1), tl.max(values, 1)  # padding is 0, which every range contains
    low, high = tl.minimum(low, 0.0), tl.maximum(high, 0.0)
    if SYMMETRIC:
        s = tl.maximum(tl.maximum(-low, high) / 127.0, SMALLEST)
        z = tl.zeros_like(s)
    else:
        s = tl.maximum((high - low) / 255.0, SMALLEST)
        z = -128.0 - _round(low / s)
    code = _round(values * (1.0 / s)[:, None] + z[:, None])
    code = tl.minimum(tl.maximum(code, -127.0 if SYMMETRIC else -128.0), 127.0)
    tl.store(codes + at, code.to(tl.int8), mask=inside)
    place = row * groups + group
    tl.store(scale + place, s, mask=row < rows)
    tl.store(zero + place, z, mask=row < rows)
    tl.store(sums + place, tl.sum(tl.where(inside, code, 0.0), 1), mask=row < rows)


@triton.jit
def _round(values):
    """To the nearest whole number, halves to the even one."""
    below = tl.floor(values)
    rest = values - below
    odd = below - 2.0 * tl.floor(below * 0.5)
    return tl.where((rest > 0.5) | ((rest == 0.5) & (odd == 1.0)), below + 1.0, below)


@triton.jit
def _matmul(
    x, x_scale, x_zero, x_sums, w, w_scale, w_zero, w_sums, bias, out, rows, outs, width,
    GROUP: tl.constexpr, PACKED: tl.constexpr, X_ZERO: tl.constexpr, W_ZERO: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr, ABREAST: tl.constexpr,
):  # fmt: skip
    """A tile [ROWS, OUTS] of the product; tiles that share inputs run one after another, ABREAST rows of tiles."""
    tall, wide = tl.cdiv(rows, ROWS), tl.cdiv(outs, OUTS)
    program = tl.program_id(0)
    band = program // (ABREAST * wide)
    height = tl.minimum(tall - band * ABREAST, ABREAST)
    m = (band * ABREAST + program % height) * ROWS + tl.arange(0, ROWS)
    n = (program % (ABREAST * wide) // height) * OUTS + tl.arange(0, OUTS)
    m_inside, n_inside = m < rows, n < outs
    m, n, lane = m.to(tl.int64), n.to(tl.int64), tl.arange(0, DEPTH)
    groups = width // GROUP
    total = tl.zeros((ROWS, OUTS), tl.float32)
    for group in range(groups):
        acc = tl.zeros((ROWS, OUTS), tl.int32)
        for part in range(GROUP // DEPTH):
            k = group * GROUP + part * DEPTH
            xs = tl.load(x + m[:, None] * width + (k + lane)[None, :], mask=m_inside[:, None], other=0)
            if PACKED:
                half = tl.arange(0, DEPTH // 2)
                pairs = tl.load(
                    w + n[:, None] * (width // 2) + (k // 2 + half)[None, :], mask=n_inside[:, None], other=0
                )
                ws = tl.reshape(tl.join((pairs << 4) >> 4, pairs >> 4), (OUTS, DEPTH))
            else:
                ws = tl.load(w + n[:, None] * width + (k + lane)[None, :], mask=n_inside[:, None], other=0)
            acc = tl.dot(xs, tl.trans(ws), acc, out_dtype=tl.int32)
        at_m, at_n = m * groups + group, n * groups + group
        part_sum = acc.to(tl.float32)
        if X_ZERO:
            zero_m = tl.load(x_zero + at_m, mask=m_inside, other=0.0)
            part_sum -= zero_m[:, None] * tl.load(w_sums + at_n, mask=n_inside, other=0).to(tl.float32)[None, :]
        if W_ZERO:
            sums_m = tl.load(x_sums + at_m, mask=m_inside, other=0.0)
            if X_ZERO:
                sums_m -= GROUP * zero_m
            part_sum -= sums_m[:, None] * tl.load(w_zero + at_n, mask=n_inside, other=0).to(tl.float32)[None, :]
        scale_m = tl.load(x_scale + at_m, mask=m_inside, other=0.0)
        scale_n = tl.load(w_scale + at_n, mask=n_inside, other=0.0).to(tl.float32)
        total += part_sum * scale_m[:, None] * scale_n[None, :]
    if BIAS:
        total += tl.load(bias + n, mask=n_inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out + m[:, None] * outs + n[None, :], total, mask=m_inside[:, None] & n_inside[None, :])


def quantize(matrix: Tensor, group: int, *, symmetric: bool = False) -> tuple[Codes, Tensor]:
    """`ops.quantization.quantize` of [R, K] to 8 bits, and the sum of every group's codes [R, K / group]."""
    matrix = matrix.contiguous()
    rows, width = matrix.shape
    codes = torch.empty(rows, width, dtype=torch.int8, device=matrix.device)
    scale, zero, sums = (torch.empty(rows, width // group, device=matrix.device) for _ in range(3))
    _quantize[(triton.cdiv(rows, ROWS_AT_ONCE), width // group)](
        matrix, codes, scale, zero, sums, rows, width, GROUP=group, PADDED=triton.next_power_of_2(group),
        ROWS=ROWS_AT_ONCE, SYMMETRIC=symmetric, SMALLEST=TINY,
    )  # fmt: skip
    return Codes(codes, scale, None if symmetric else zero), sums


def matmul(
    x: Codes,
    x_sums: Tensor,
    packed: Tensor,
    bits: int,
    scale: Tensor,
    zero: Tensor | None,
    sums: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """x [M, K] times packed weights [N, K * bits / 8], in `dtype` [M, N]; groups must be multiples of 32."""
    (rows, width), outs, group = x.codes.shape, packed.shape[0], x.group
    w = packed.view(torch.int8) if bits == 4 else unpack(packed, bits)
    out = torch.empty(rows, outs, dtype=dtype, device=packed.device)
    tile, nothing = tile_of(rows, outs, group), scale
    _matmul[(triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(outs, tile["OUTS"]),)](
        x.codes, x.scale, nothing if x.zero is None else x.zero, x_sums, w, scale, nothing if zero is None else zero,
        sums, nothing if bias is None else bias, out, rows, outs, width, GROUP=group, PACKED=bits == 4,
        X_ZERO=x.zero is not None, W_ZERO=zero is not None, BIAS=bias is not None, **tile,
    )  # fmt: skip
    return out


def tile_of(rows: int, outs: int, group: int) -> dict[str, Any]:
    """Sizes of a tile: large ones reuse more of what they load, small ones keep all of a GPU busy."""
    depth = min(DEEPEST, group & -group)
    large = rows * outs >= 128 * 128 * 128
    side = 128 if large else 64
    return {"ROWS": side, "OUTS": side, "DEPTH": depth, "ABREAST": 8, "num_warps": 8 if large else 4, "num_stages": 3}
