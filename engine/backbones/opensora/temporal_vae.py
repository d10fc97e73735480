"""Causal temporal VAE of Open-Sora 1.2: a VAE along time over the latents of single frames, for one chunk of frames.

Tensor names are those of ``temporal_vae.*`` in the checkpoint ``hpcai-tech/OpenSora-VAE-v1.2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

# The original clamps log-variances so that exp() stays finite in half precision.
LOGVAR_MIN = -30.0
LOGVAR_MAX = 20.0


class CausalConv3d(nn.Module):
    """3-D convolution whose output frame ``t`` sees no input frame after ``t * time_stride + time_stride - 1``.

    Time is padded with zeros in front only, height and width symmetrically. Shapes: ``[B, C_in, F, h, w]`` to
    ``[B, C_out, F / time_stride, h, w]`` (``F`` a multiple of the stride).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, time_stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        # With stride 2 one pad frame less: the first output then covers input frames (pad, 0, 1).
        self.time_pad = kernel_size - 1 + (1 - time_stride)
        side = kernel_size // 2
        self.conv = nn.Conv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=(time_stride, 1, 1),
            padding=(0, side, side),
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x [B, C_in, F, h, w]``."""
        return cast(Tensor, self.conv(pad_front(x, self.time_pad)))


class ResBlock3d(nn.Module):
    """Two (GroupNorm, SiLU, causal 3x3x3 convolution) steps with a shortcut; ``[B, C_in, F, h, w]`` in and out.

    GroupNorm pools over time, so causality holds for the convolutions only: see ``TemporalVAE``.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_num_groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(norm_num_groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, bias=False)
        # The checkpoint has this key only where the width changes.
        self.conv3 = CausalConv3d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, ``[B, C_out, F, h, w]``."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        shortcut = x if self.conv3 is None else self.conv3(x)
        return cast(Tensor, hidden + shortcut)


class TemporalEncoder(nn.Module):
    """Spatial latents ``[B, C, F, h, w]`` to features ``[B, C_out, F / factor, h, w]``.

    ``F`` must be a multiple of the time factor.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: int,
        channel_multipliers: Sequence[int],
        temporal_downsample: Sequence[bool],
        num_res_blocks: int,
        norm_num_groups: int,
    ) -> None:
        super().__init__()
        widths = [filters * multiplier for multiplier in channel_multipliers]
        inputs = [filters, *widths[:-1]]
        self.conv_in = CausalConv3d(in_channels, filters, 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            res_stack(width_in, width, num_res_blocks, norm_num_groups)
            for width_in, width in zip(inputs, widths, strict=True)
        )
        # Levels without a time stride hold an Identity, so that the indices of the others match the checkpoint.
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, time_stride=2) if halve else nn.Identity()
            for width, halve in zip(widths[:-1], temporal_downsample, strict=True)
        )
        self.res_blocks = res_stack(widths[-1], widths[-1], num_res_blocks, norm_num_groups)
        self.norm1 = nn.GroupNorm(norm_num_groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``x [B, C, F, h, w]``."""
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            x = run_in_turn(blocks, x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        x = run_in_turn(self.res_blocks, x)
        return cast(Tensor, self.conv2(F.silu(self.norm1(x))))


class TemporalDecoder(nn.Module):
    """Features ``[B, C_in, T, h, w]`` to spatial latents ``[B, C, T * factor, h, w]``; mirror of the encoder."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: int,
        channel_multipliers: Sequence[int],
        temporal_downsample: Sequence[bool],
        num_res_blocks: int,
        norm_num_groups: int,
    ) -> None:
        super().__init__()
        widths = [filters * multiplier for multiplier in channel_multipliers]
        # Level i is run after level i + 1, so its input has the width of that one.
        inputs = [*widths[1:], widths[-1]]
        self.temporal_upsample = tuple(bool(double) for double in temporal_downsample)
        self.conv1 = CausalConv3d(in_channels, widths[-1], 3)
        self.res_blocks = res_stack(widths[-1], widths[-1], num_res_blocks, norm_num_groups)
        self.block_res_blocks = nn.ModuleList(
            res_stack(width_in, width, num_res_blocks, norm_num_groups)
            for width_in, width in zip(inputs, widths, strict=True)
        )
        # conv_blocks[i - 1] follows level i; it doubles the channels, which become two frames.
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if double else nn.Identity()
            for width, double in zip(widths[1:], self.temporal_upsample, strict=True)
        )
        self.norm1 = nn.GroupNorm(norm_num_groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Decode ``x [B, C_in, T, h, w]``."""
        x = run_in_turn(self.res_blocks, self.conv1(x))
        for level in reversed(range(len(self.block_res_blocks))):
            x = run_in_turn(self.block_res_blocks[level], x)
            if level > 0:
                x = self.conv_blocks[level - 1](x)
            if level > 0 and self.temporal_upsample[level - 1]:
                x = channels_to_time(x)
        return cast(Tensor, self.conv_out(F.silu(self.norm1(x))))


class TemporalVAE(nn.Module):
    """VAE along time over spatial latents, for one chunk of frames.

    All convolutions are causal, but GroupNorm takes its statistics over the whole chunk, as in the original. A change
    of a later frame therefore still moves earlier latents of the same chunk a little; nothing crosses chunks.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        filters: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        temporal_downsample: Sequence[bool] = (False, True, True),
        num_res_blocks: int = 4,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.time_factor: int = 2 ** sum(bool(halve) for halve in temporal_downsample)
        shape = (filters, channel_multipliers, temporal_downsample, num_res_blocks, norm_num_groups)
        self.encoder = TemporalEncoder(latent_channels, 2 * latent_channels, *shape)
        self.quant_conv = CausalConv3d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = CausalConv3d(latent_channels, latent_channels, 1)
        self.decoder = TemporalDecoder(latent_channels, latent_channels, *shape)

    def front_padding(self, num_frames: int) -> int:
        """Zero frames put before ``num_frames`` frames to reach a multiple of the time factor."""
        return -num_frames % self.time_factor

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of one chunk of ``num_frames`` frames: the quotient by the time factor, rounded up."""
        return -(-num_frames // self.time_factor)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior (mean, log-variance), each ``[B, C, T, h, w]``, of spatial latents ``x [B, C, F, h, w]``."""
        x = pad_front(x, self.front_padding(x.shape[2]))
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(LOGVAR_MIN, LOGVAR_MAX)

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """Spatial latents ``[B, C, num_frames, h, w]`` of raw latents ``z [B, C, T, h, w]``."""
        frames = self.decoder(self.post_quant_conv(z))
        # The frames that stand for the encoder's front padding are dropped.
        return cast(Tensor, frames[:, :, self.front_padding(num_frames) :])


def pad_front(x: Tensor, frames: int) -> Tensor:
    """Put ``frames`` zero frames before ``x [B, C, F, h, w]``."""
    return F.pad(x, (0, 0, 0, 0, frames, 0)) if frames else x


def channels_to_time(x: Tensor) -> Tensor:
    """Turn ``[B, 2C, T, h, w]`` into ``[B, C, 2T, h, w]``: (channel 2c + s, frame t) to (c, 2t + s)."""
    batch, channels, frames, height, width = x.shape
    x = x.reshape(batch, channels // 2, 2, frames, height, width).transpose(2, 3)
    return x.reshape(batch, channels // 2, 2 * frames, height, width)


def run_in_turn(blocks: nn.Module, x: Tensor) -> Tensor:
    """Apply the children of a ``ModuleList`` one after the other."""
    for block in blocks.children():
        x = block(x)
    return x


def res_stack(in_channels: int, out_channels: int, count: int, norm_num_groups: int) -> nn.ModuleList:
    """``count`` residual blocks, the first of which changes the width."""
    return nn.ModuleList(
        ResBlock3d(in_channels if index == 0 else out_channels, out_channels, norm_num_groups) for index in range(count)
    )
