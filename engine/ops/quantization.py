"""Quantization of matrices by groups along their rows: ranges, codes, packing, and rounding that heeds the inputs.

A group is `group` neighbours of one row. Codes are signed, so that integer matrix products take them as they are:
value = scale * (code - zero), code in -2^(b-1) .. 2^(b-1) - 1. Asymmetric ranges always contain zero, hence zero points
are codes too and a constant group is exact. Uniform affine quantization is that of arXiv 2106.08295, GPTQ that of
arXiv 2210.17323.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-7
"""Smallest scale: that of a group of zeros. Half precision still tells it from 0."""


class Codes(NamedTuple):
    """Integers that stand for a matrix [R, K], with a scale and perhaps a zero point for every row and group.

    codes: int8 [R, K]; scale: [R, K / group]; zero: whole numbers [R, K / group], None where ranges are symmetric.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return int(self.scale.shape[1])

    @property
    def group(self) -> int:
        """Values of a group."""
        return int(self.codes.shape[1]) // self.groups


def code_range(bits: int, *, symmetric: bool = False) -> tuple[int, int]:
    """Lowest and highest code; symmetric ones leave the lowest out, so that a value and its opposite fit alike."""
    highest = 2 ** (bits - 1) - 1
    return -highest if symmetric else -highest - 1, highest


def group_range(grouped: Tensor, bits: int, *, symmetric: bool = False, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scale and zero point of groups [..., g], from their extremes: both [..., 1].

    `clip` is the share of the range that is kept; what lies outside saturates. Symmetric zero points are 0.
    """
    low = grouped.amin(-1, keepdim=True).clamp_max_(0).mul_(clip)
    high = grouped.amax(-1, keepdim=True).clamp_min_(0).mul_(clip)
    lowest, highest = code_range(bits, symmetric=symmetric)
    if symmetric:
        scale = torch.maximum(-low, high).div_(highest).clamp_min_(TINY)
        return scale, torch.zeros_like(scale)
    scale = (high - low).div_(highest - lowest).clamp_min_(TINY)
    return scale, lowest - (low / scale).round_()


def encode(values: Tensor, scale: Tensor, zero: Tensor, bits: int, *, symmetric: bool = False) -> Tensor:
    """Codes of `values` as floating-point whole numbers, same shape; scale and zero must broadcast."""
    lowest, highest = code_range(bits, symmetric=symmetric)
    return (values * scale.reciprocal()).add_(zero).round_().clamp_(lowest, highest)


def quantize(
    matrix: Tensor,
    bits: int,
    group: int,
    *,
    symmetric: bool = False,
    clip: float = 1.0,
    scales: torch.dtype | None = None,
) -> Codes:
    """Codes of `matrix` [R, K] by rounding to the nearest; `group` must divide K. Scales are fp32.

    `scales` is the number format that the scales will be kept in: they are rounded to it first, so that codes fit them.
    """
    if matrix.is_meta:  # a sketch has shapes only, and torch takes its time to work them out operation by operation
        scale = matrix.new_empty(matrix.shape[0], matrix.shape[1] // group, dtype=torch.float32)
        return Codes(torch.empty_like(matrix, dtype=torch.int8), scale, None if symmetric else torch.empty_like(scale))
    grouped = matrix.float().unflatten(1, (-1, group))
    scale, zero = group_range(grouped, bits, symmetric=symmetric, clip=clip)
    if scales is not None:
        scale = scale.to(scales).float()
    codes = encode(grouped, scale, zero, bits, symmetric=symmetric).to(torch.int8)
    return Codes(codes.flatten(1), scale[..., 0], None if symmetric else zero[..., 0])


def dequantize(coded: Codes) -> Tensor:
    """The matrix [R, K] that the codes stand for, in the scales' number format."""
    grouped = coded.codes.unflatten(1, (-1, coded.group)).to(coded.scale.dtype)
    if coded.zero is not None:
        grouped = grouped - coded.zero[..., None].to(coded.scale.dtype)
    return (grouped * coded.scale[..., None]).flatten(1)


def fake_quantize(matrix: Tensor, bits: int, group: int, *, symmetric: bool = False, clip: float = 1.0) -> Tensor:
    """`matrix` [R, K] as its codes give it back, in fp32: what integer arithmetic must reproduce."""
    return dequantize(quantize(matrix, bits, group, symmetric=symmetric, clip=clip))


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes [R, K] of 2, 4, 6 or 8 bits as bytes, uint8 [R, K * bits / 8], the first code in the lowest bits.

    Four bits are two codes a byte, six are four codes in three bytes. K must fill whole bytes.
    """
    if bits == 8:
        return codes.view(torch.uint8)
    if codes.is_meta:
        return codes.new_empty(codes.shape[0], codes.shape[1] * bits // 8, dtype=torch.uint8)
    codes_in, bytes_out = _word(bits)
    parts = (codes.to(torch.int32) & (2**bits - 1)).unflatten(1, (-1, codes_in))
    word = sum((parts[..., index] << (bits * index) for index in range(codes_in)), torch.zeros_like(parts[..., 0]))
    return torch.stack([(word >> (8 * index)) & 255 for index in range(bytes_out)], dim=-1).flatten(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """What `pack` packed: int8 [R, K]."""
    if bits == 8:
        return packed.view(torch.int8)
    if bits == 4:
        # Both nibbles of a byte at once, each in a byte of a 16-bit word; then -8..7 instead of 0..15. Three times as
        # fast as taking them apart, and this runs before every product.
        words = packed.to(torch.int16)
        return (words << 4).bitwise_or_(words).bitwise_and_(0x0F0F).view(torch.int8).bitwise_xor_(8).sub_(8)
    codes_in, bytes_out = _word(bits)
    parts = packed.to(torch.int32).unflatten(1, (-1, bytes_out))
    word = sum((parts[..., index] << (8 * index) for index in range(bytes_out)), torch.zeros_like(parts[..., 0]))
    half = 2 ** (bits - 1)
    raw = torch.stack([(word >> (bits * index)) & (2**bits - 1) for index in range(codes_in)], dim=-1)
    return ((raw ^ half) - half).flatten(1).to(torch.int8)


def _word(bits: int) -> tuple[int, int]:
    """How many codes fill how many bytes."""
    total = math.lcm(bits, 8)
    return total // bits, total // 8


def gptq(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    group: int,
    *,
    symmetric: bool = False,
    damping: float = 0.01,
    scales: torch.dtype | None = None,
) -> Codes:
    """Codes of `weight` [N, K], rounded column by column while the columns behind make up for the error.

    hessian: [K, K], 2/n times the sum of x x^T over calibration inputs; `damping` times the mean of its diagonal is
    added to it. A group's range is taken when its first column is reached, from weights that already make up for what
    was rounded before. With a multiple of the identity this is rounding to the nearest. Source: arXiv 2210.17323.
    """
    weight, hessian = weight.float().clone(), hessian.float().clone()
    diagonal = hessian.diagonal()
    unused = diagonal == 0
    diagonal[unused] = 1.0
    weight[:, unused] = 0.0
    diagonal += damping * diagonal.mean()
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    parts = []
    for start in range(0, weight.shape[1], group):
        end = start + group
        block, factor = weight[:, start:end], inverse[start:end, start:end]
        scale, zero = group_range(block, bits, symmetric=symmetric)
        if scales is not None:
            scale = scale.to(scales).float()
        codes, errors = torch.empty_like(block), torch.empty_like(block)
        for index in range(group):
            column = block[:, index : index + 1]
            code = encode(column, scale, zero, bits, symmetric=symmetric)
            errors[:, index : index + 1] = (column - scale * (code - zero)) / factor[index, index]
            codes[:, index : index + 1] = code
            block[:, index:] -= errors[:, index : index + 1] * factor[index, index:]
        weight[:, end:] -= errors @ inverse[start:end, end:]
        parts.append((codes, scale, zero))
    codes, scale, zero = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    return Codes(codes.to(torch.int8), scale, None if symmetric else zero)
