"""Layers that work on a strip: given what lies around, they compute the strip's part of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from torch import nn

from engine.backbones.common.strips import StripConv2d, StripGroupNorm, open_strips
from engine.ops import strips as ops


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("count", [2, 3])
def test_a_convolution_given_the_rows_around_it(stride: int, count: int) -> None:
    conv = nn.Conv2d(3, 5, 3, stride, padding=1)
    x = torch.randn(2, 3, 12, 8)
    whole = conv(x)
    open_strips(nn.Sequential(conv))
    assert isinstance(conv, StripConv2d) and conv.reach == (1, 1)
    assert torch.equal(conv(x), whole)
    parts = []
    for index in range(count):
        above, strip, below = ops.strip_of_rows(x, conv.reach, index, count)
        parts.append(conv(strip, above=above, below=below))
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def test_a_downsampling_without_padding_reads_one_row_below() -> None:
    layer: Any = Downsample2D(3, use_conv=True, out_channels=5, padding=0)
    x = torch.randn(2, 3, 8, 6)
    whole = layer(x)
    names = list(layer.state_dict())
    open_strips(layer)
    assert torch.equal(layer(x), whole) and list(layer.state_dict()) == names
    assert layer.conv.reach == (0, 1)
    parts = []
    for index in range(2):
        above, strip, below = ops.strip_of_rows(x, layer.conv.reach, index, 2)
        parts.append(layer.conv(strip, above=above, below=below))
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


@pytest.mark.parametrize("shape", [(2, 8, 6, 4), (2, 8, 10)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_group_norm_given_its_own_moments(shape: tuple[int, ...], affine: bool) -> None:
    norm = nn.GroupNorm(4, 8, affine=affine)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = 1 + torch.randn(shape)
    whole = norm(x)
    open_strips(nn.Sequential(norm))
    assert isinstance(norm, StripGroupNorm) and torch.equal(norm(x), whole)
    mean, variance = ops.mean_and_variance(ops.moments(x, 4))
    torch.testing.assert_close(norm(x, mean=mean, variance=variance), whole)
    half = norm.to(torch.bfloat16)(x.bfloat16(), mean=mean, variance=variance)
    assert half.dtype is torch.bfloat16 and (half - whole).abs().max() < 0.1
