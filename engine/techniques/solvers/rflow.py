"""Rectified-flow sampler of Open-Sora 1.2: Euler steps on transformed noise levels (Liu et al., arXiv 2209.03003)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from engine.denoise import Denoise, Process
from engine.step import RunShape
from engine.technique import Sampler, Stage, Technique


class Rflow(Technique):
    """Rectified flow with Euler steps (arXiv 2209.03003), noise levels shifted by size as in Open-Sora 1.2."""

    slug = "rflow"
    family = "solvers"
    stage = Stage.TRAJECTORY
    process: ClassVar[Process | None] = "flow"
    deviations: ClassVar[tuple[str, ...]] = (
        "noise for conditioning frames comes from each sample's own generator, not from one generator a batch",
    )

    steps: int = Field(30, ge=1, le=1000, description="Number of predictions.")
    time_shift: bool = Field(True, description="Shift noise levels towards noise for large outputs, as Open-Sora does.")
    base_size: int = Field(512, ge=1, le=16_384, description="Edge in pixels of the square that is not shifted.")

    def predictions(self) -> int:
        """One a step."""
        return self.steps

    def times(self, run: RunShape) -> list[float]:
        """Noise levels from 1 downwards; the step after the last one ends at 0."""
        levels = [1 - i / self.steps for i in range(self.steps)]
        return transformed(levels, run.pixels, self.base_size, run.dtype) if self.time_shift else levels

    def sampler(self, run: RunShape) -> Sampler:
        """The Euler loop."""
        return euler


def transformed(
    levels: Sequence[float], pixels: tuple[int, int, int], base_size: int, dtype: torch.dtype
) -> list[float]:
    """Levels u in 0..1 to r u / (1 + (r - 1) u), with r = sqrt(area / base_size^2) sqrt(latent frames).

    `pixels` is (frames, height, width). The ratio is computed in the model's dtype, as the original does (854 becomes
    856 under bfloat16), the levels in float32.
    """
    frames, height, width = pixels
    latent_frames = 1 if frames == 1 else frames // 17 * 5
    dtype = torch.float32 if dtype == torch.float16 else dtype
    area = torch.tensor(height, dtype=dtype) * torch.tensor(width, dtype=dtype) / base_size**2
    ratio = (area.sqrt() * torch.tensor(latent_frames, dtype=dtype).sqrt()).float()
    u = torch.tensor([float(level) for level in levels], dtype=torch.float32)
    return [float(level) for level in (ratio * u / (1 + (ratio - 1) * u)).clamp(max=1)]


def euler(x: Tensor, times: Sequence[float], denoise: Denoise) -> Tensor:
    """Move latents x [b, ...] from noise level times[0] to 0 along the predicted velocity.

    Frames that are given stay what they are: they join once the level has fallen to their mask value, and then get
    the noise of that level.
    """
    given = denoise.given
    if given is None:
        for t, s in pairwise([*times, 0.0]):
            x = x + denoise.velocity(x, t) * (t - s)
        return x
    assert denoise.draw is not None
    noised = given.mask == 1
    x = torch.where(_frames(noised), x, given.latents)
    for t, s in pairwise([*times, 0.0]):
        joined = given.mask >= t
        fresh = (1 - t) * x + t * denoise.draw(x)
        x = torch.where(_frames(joined & ~noised), fresh, x)
        noised = joined
        moved = x + denoise.velocity(x, t, frames=joined) * (t - s)
        x = torch.where(_frames(joined), moved, x)
    return x


def _frames(mask: Tensor) -> Tensor:
    """[b, T] to [b, 1, T, 1, 1]."""
    return mask[:, None, :, None, None]
