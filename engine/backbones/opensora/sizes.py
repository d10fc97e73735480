"""Sizes of latents from a VAE's config alone, so that a plan needs no VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

# Fields of the published config.json under the names they have here: diffusers answers `model.NAME` with the config
# value when NAME is a config field, which would hide the buffers of that name.
HUB_RENAMED_FIELDS = {"shift": "latent_shift", "scale": "latent_scale"}


class LatentSizes(NamedTuple):
    """How a video VAE counts: latent channels, pixels a cell, frames a latent frame, frames a chunk (None: all).

    The defaults are those of `hpcai-tech/OpenSora-VAE-v1.2`.
    """

    channels: int = 4
    cell: int = 8
    stride: int = 4
    chunk: int | None = 17

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From a config of `OpenSoraVAE` or of the published checkpoint; missing fields have their defaults."""
        known = cls()
        levels, halvings = config.get("spatial_block_out_channels"), config.get("temporal_downsample")
        return cls(
            config.get("latent_channels", known.channels),
            known.cell if levels is None else 2 ** (len(levels) - 1),
            known.stride if halvings is None else 2 ** sum(map(bool, halvings)),
            config.get("micro_frame_size", known.chunk),
        )

    def chunks(self, num_frames: int) -> list[int]:
        """Frame counts of the chunks of a video: full ones, then the remainder if there is one."""
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        size = self.chunk or num_frames
        return [min(size, num_frames - start) for start in range(0, num_frames, size)]

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (C, T, h, w) of the latents of `num_frames` frames of `height` x `width` pixels."""
        if min(height, width) < self.cell:
            raise ValueError(f"height and width must be at least {self.cell} pixels, got {height} x {width}")
        frames = sum(-(-count // self.stride) for count in self.chunks(num_frames))
        return self.channels, frames, height // self.cell, width // self.cell
