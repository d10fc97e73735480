"""DDIM: Denoising Diffusion Implicit Models (arXiv 2010.02502), sampling over any sub-sequence of the time steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from engine.denoise import Denoise, Process
from engine.ops import timesteps as spacings
from engine.step import RunShape
from engine.technique import Sampler, Stage, Technique


class Ddim(Technique):
    """DDIM: Denoising Diffusion Implicit Models (arXiv 2010.02502)."""

    slug = "ddim"
    paper = "ddim"
    family = "solvers"
    stage = Stage.TRAJECTORY
    process: ClassVar[Process | None] = "diffusion"
    deviations: ClassVar[tuple[str, ...]] = (
        "the number of steps is kept where it does not divide the trained ones; the official code then takes more",
        "`quadratic` spacing of 30 steps and more is refused: the official code then visits time step 0 several times",
        "a variance that the model has learned (DiT) is not used: `eta: 1` adds the noise of DDPM's fixed one",
    )

    steps: int = Field(50, ge=1, le=1000, description="Number of predictions, unless `timesteps` lists them.")
    eta: float = Field(0.0, ge=0.0, le=1.0, description="Fresh noise: 0 none (DDIM), 1 that of DDPM.")
    sigma_hat: bool = Field(False, description="Fresh noise of DDPM's larger variance, beta; only with `eta: 1`.")
    clip: bool = Field(False, description="Clamp every estimate of the clean sample to -1..1; only for pixels.")
    spacing: Literal["leading", "trailing", "linspace", "quadratic"] = Field(
        "leading", description="How the time steps are spread; `linspace` is that of the original DiT."
    )
    steps_offset: int = Field(0, ge=0, description="Added to `leading` steps; Stable Diffusion has 1.")
    set_alpha_to_one: bool = Field(True, description="End at the clean sample, not at the noise of time step 0.")
    timesteps: list[int] | None = Field(None, min_length=1, description="Time steps to visit, falling.")

    def predictions(self) -> int:
        """One a step."""
        return self.steps if self.timesteps is None else len(self.timesteps)

    def visited(self, total: int) -> list[int]:
        """The time steps, of `total` trained ones."""
        if self.timesteps is not None:
            return self.timesteps
        if self.spacing == "leading":
            return spacings.leading(total, self.steps, self.steps_offset)
        spread = {"trailing": spacings.trailing, "linspace": spacings.linspace, "quadratic": spacings.quadratic}
        return spread[self.spacing](total, self.steps)

    def times(self, run: RunShape) -> list[float]:
        """Noise levels of the time steps."""
        return spacings.levels(self.visited(run.timesteps), run.timesteps)

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """Time steps that the model knows, each once; a variance and a range that mean something."""
        problems = spacings.problems(self.visited(run.timesteps), run.timesteps)
        if self.sigma_hat and self.eta != 1:
            problems.append((f"`sigma_hat` is a variance of DDPM, and `eta` is {self.eta:g}", "set `eta: 1`"))
        if self.clip and not run.in_pixels:
            problems.append((f"`clip` is for models of pixels, and `{run.backbone}` has latents", "remove `clip`"))
        return problems

    def sampler(self, run: RunShape) -> Sampler:
        """The loop, which ends at level 0 or at that of time step 0."""
        end = 0.0 if self.set_alpha_to_one else 1 / run.timesteps
        return partial(ddim, end=end, eta=self.eta, sigma_hat=self.sigma_hat, clip=self.clip)


def ddim(
    x: Tensor,
    times: Sequence[float],
    denoise: Denoise,
    *,
    end: float = 0.0,
    eta: float = 0.0,
    sigma_hat: bool = False,
    clip: bool = False,
) -> Tensor:
    """Equation 12. x: [b, ...] at noise level times[0]; returns the latents at level `end`.

    With `clip` the noise is that which leads from the clamped clean sample to x, as DDPM's posterior has it. With
    `sigma_hat` more noise is added than the mean accounts for, except in the step that ends clean.
    """
    noise = denoise.noise
    for t, s in pairwise([*times, end]):
        x0, epsilon = denoise.parts(x, t)
        if clip:
            x0 = x0.clamp(-1, 1)
            epsilon = (x - noise.alpha(t) * x0) / noise.sigma(t)
        larger = math.sqrt(max(0.0, 1 - (noise.alpha(t) / noise.alpha(s)) ** 2))
        spread = eta * noise.sigma(s) / noise.sigma(t) * larger
        x = noise.alpha(s) * x0 + math.sqrt(max(0.0, noise.sigma(s) ** 2 - spread**2)) * epsilon
        if spread > 0:
            assert denoise.draw is not None
            x = x + (larger if sigma_hat else spread) * denoise.draw(x)
    return x
