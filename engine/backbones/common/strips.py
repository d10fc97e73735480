"""Layers that can work on a strip of a picture's rows: a convolution that is given the rows around its own, and a group
norm that is given the moments to normalise with. Without those inputs they compute what PyTorch's do, bit for bit, and
weights keep their names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from torch import Tensor, nn


class StripConv2d(nn.Conv2d):
    """A convolution whose zero padding above and below can be replaced by rows of the picture."""

    ends_open = False
    """Whether a row and a column of zeros are added behind the picture, as diffusers does outside of the layer."""

    @property
    def reach(self) -> tuple[int, int]:
        """Rows it reads above the picture, and below."""
        rows = int(self.padding[0])
        return (0, 1) if self.ends_open else (rows, rows)

    def forward(self, input: Tensor, above: Tensor | None = None, below: Tensor | None = None) -> Tensor:
        """input [B, C, h, w], above and below [B, C, reach, w] -> [B, C', h / stride, w / stride]."""
        if above is None or below is None:
            return super().forward(F.pad(input, (0, 1, 0, 1)) if self.ends_open else input)
        rows = torch.cat([above, input, below], dim=2)
        if self.ends_open:
            rows = F.pad(rows, (0, 1))
        padding = (0, self.padding[1])
        return F.conv2d(rows, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]


class StripGroupNorm(nn.GroupNorm):
    """A group norm that can be given the moments of a larger picture than its input."""

    def forward(self, input: Tensor, mean: Tensor | None = None, variance: Tensor | None = None) -> Tensor:
        """input [B, C, ...], mean and variance [B, groups] -> [B, C, ...]."""
        if mean is None or variance is None:
            return super().forward(input)
        each = self.num_channels // self.num_groups
        scale = (variance.float() + self.eps).rsqrt().repeat_interleave(each, dim=1)
        shift = -mean.float().repeat_interleave(each, dim=1) * scale
        if self.affine:
            scale, shift = scale * self.weight.float(), shift * self.weight.float() + self.bias.float()
        places = (..., *[None] * (input.ndim - 2))
        return (input.float() * scale[places] + shift[places]).to(input.dtype)


class StripDownsample2D(Downsample2D):
    """diffusers' change to half the resolution without padding, which leaves the zeros behind to its convolution."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states [B, C, h, w] -> [B, C', h // 2, w // 2]."""
        return self.conv(hidden_states)


def open_strips(model: nn.Module) -> None:
    """Make every convolution and group norm of `model` one that can work on a strip."""
    for module in list(model.modules()):
        if type(module) is nn.GroupNorm:
            module.__class__ = StripGroupNorm
        elif type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = StripConv2d
    for module in list(model.modules()):
        if isinstance(module, Downsample2D) and module.use_conv and module.padding == 0:
            assert module.norm is None and isinstance(module.conv, StripConv2d)
            module.conv.ends_open = True
            module.__class__ = StripDownsample2D
