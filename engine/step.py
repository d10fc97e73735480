"""Time and branches: the loop every run goes through, and what a technique may know of it.

    for the sampler's next prediction (one Step; a two-evaluation solver makes two a solver step)
    |   STEP             predictions of all branches, before guidance combines them
    |   |   MODEL            one call of the denoiser on the rows of the step's branches
    |   |   |   STAGE            all of a UNet that lies further in than one skip connection; the next stage in it
    |   |   |   |   BLOCK            one transformer or residual block
    |   |   |   |   |   SELF_ATTENTION | TEMPORAL_ATTENTION | JOINT_ATTENTION | CROSS_ATTENTION | FEED_FORWARD
    |   |   |   |   |   |   KERNEL           query, key, value -> out
    |   |   |   |   |   |   LINEAR, CONV, NORM
    |   guidance combines the branches
    the sampler moves the latents on

Rows of a batch are ordered branch by branch: with branches (cond, uncond) and two prompts the rows are
cond 0, cond 1, uncond 0, uncond 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from engine.denoise import NoiseSchedule


class Branch(StrEnum):
    """A row group of classifier-free guidance."""

    COND = "cond"
    UNCOND = "uncond"


@dataclass(frozen=True)
class Phase:
    """What a technique will do at a step, decided before the run.

    `name` is compared inside arounds; `branches` are those the technique needs (None: all); `value` is at most one
    number that goes with the phase, such as a fresh ratio. Distinct phases are distinct graphs.
    """

    name: str
    branches: tuple[Branch, ...] | None = None
    value: float | None = None


FULL = Phase("full")


@dataclass(frozen=True)
class RunShape:
    """What is known of a run before it starts: everything a schedule, an estimate or a check may depend on.

    `grid` is the token grid (frames, rows, columns) of one sample, `pixels` the output's (frames, height, width);
    `timesteps` says in how many time steps the model was trained, where it was trained in steps; `noise` is the noise
    process it was trained with. `times` is what the model is told of the noise at each prediction, in 0..`timesteps`;
    empty until the sampler is known.
    """

    backbone: str
    steps: int
    batch: int
    branches: tuple[Branch, ...]
    latent: tuple[int, ...]
    pixels: tuple[int, int, int]
    grid: tuple[int, int, int]
    text_tokens: int
    dtype: torch.dtype = torch.float32
    timesteps: int = 1000
    times: tuple[float, ...] = ()
    noise: NoiseSchedule | None = None

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        frames, rows, columns = self.grid
        return frames * rows * columns

    @property
    def in_pixels(self) -> bool:
        """Whether the model works on pixels, so that a clean sample lies in -1..1."""
        return self.latent[-2:] == self.pixels[-2:]


@dataclass
class Step:
    """One guided prediction as an around sees it: its time and its branches, never an index.

    `time` is the noise level in 0..1 as a tensor [1], so that no compiled graph can depend on a counter.
    """

    time: Tensor = field(default_factory=lambda: torch.ones(1))
    branches: tuple[Branch, ...] = (Branch.COND,)

    def mean_over_branches(self, rows: Tensor) -> Tensor:
        """Mean of `rows` [branches * b, ...] over the branches, repeated for every branch (same shape)."""
        count = len(self.branches)
        if count == 1:
            return rows
        mean = rows.unflatten(0, (count, -1)).mean(dim=0)
        return mean.repeat(count, *[1] * (mean.ndim - 1))
