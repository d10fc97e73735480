"""DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (arXiv 2211.01095)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from engine.denoise import Denoise, NoiseSchedule, Process, half_log_snr
from engine.ops import timesteps as spacings
from engine.ops.exponential import Mark, advance, backward_differences, forward_differences
from engine.step import RunShape
from engine.technique import Sampler, Stage, Technique

FEW_STEPS = 15
"""Below so many steps the last ones fall back to lower orders."""
LAST_GROUPS = {1: [1], 2: [1, 1], 3: [2, 1]}
"""What the last whole single step of an order is split into."""


class DpmSolverPP(Technique):
    """DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (arXiv 2211.01095)."""

    slug = "dpm_solver_pp"
    family = "solvers"
    stage = Stage.TRAJECTORY
    process: ClassVar[Process | None] = "diffusion"
    deviations: ClassVar[tuple[str, ...]] = (
        "time steps are whole, and a last first-order step leads to the clean sample, as in diffusers; the official "
        "code stops at the noise of time step 0",
        f"orders fall at the end below {FEW_STEPS} steps, as in diffusers; in the official code below 10",
        "dynamic thresholding is left out: it is for models of pixels",
    )

    steps: int = Field(20, ge=1, le=1000, description="Number of predictions, unless `timesteps` lists them.")
    order: int = Field(2, ge=1, le=3, description="2 for guided sampling, 3 without guidance.")
    method: Literal["multistep", "singlestep"] = Field(
        "multistep", description="Reuse the predictions of earlier steps, or build each step from its own."
    )
    solver_type: Literal["midpoint", "heun"] = Field("midpoint", description="Form of the second-order correction.")
    spacing: Literal["linspace", "leading", "trailing"] = Field("linspace", description="How time steps are spread.")
    steps_offset: int = Field(0, ge=0, description="Added to `leading` steps; Stable Diffusion has 1.")
    lower_order_final: bool = Field(True, description="Lower orders at the end of runs of few steps.")
    final_sigma: Literal["zero", "sigma_min"] = Field("zero", description="End clean, or at time step 0's noise.")
    timesteps: list[int] | None = Field(None, min_length=1, description="Time steps to visit, falling.")

    def predictions(self) -> int:
        """One a step."""
        return self.steps if self.timesteps is None else len(self.timesteps)

    def visited(self, total: int) -> list[int]:
        """The time steps, of `total` trained ones; `linspace` and `leading` leave out the cleanest of steps + 1."""
        if self.timesteps is not None:
            return self.timesteps
        if self.spacing == "trailing":
            return spacings.trailing(total, self.steps)
        if self.spacing == "leading":
            return spacings.leading(total, self.steps + 1, self.steps_offset)[:-1]
        return spacings.linspace(total, self.steps + 1)[:-1]

    def times(self, run: RunShape) -> list[float]:
        """Noise levels of the time steps."""
        return spacings.levels(self.visited(run.timesteps), run.timesteps)

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """Time steps that the model knows, each once, and as many as whole single steps need."""
        problems = spacings.problems(self.visited(run.timesteps), run.timesteps)
        if self.method == "singlestep" and not self.lower_order_final and self.predictions() % self.order:
            rule = f"{self.predictions()} steps do not divide into single steps of order {self.order}"
            problems.append((rule, "set `lower_order_final: true`, or another number of steps"))
        return problems

    def sampler(self, run: RunShape) -> Sampler:
        """The loop, which ends at level 0 or at that of time step 0."""
        end, heun = 0.0 if self.final_sigma == "zero" else 1 / run.timesteps, self.solver_type == "heun"
        if self.method == "multistep":
            return partial(multistep, orders=self.orders(), end=end, heun=heun)
        return partial(singlestep, groups=self.groups(), end=end, heun=heun)

    def orders(self) -> list[int]:
        """Order of each multistep: it grows from 1, and falls at the end; a step to the clean sample is of order 1."""
        count = self.predictions()
        few = self.lower_order_final and count < FEW_STEPS
        left = [count - index if few else self.order for index in range(count)]
        if self.final_sigma == "zero":
            left[-1] = 1
        return [min(self.order, index + 1, most) for index, most in enumerate(left)]

    def groups(self) -> list[int]:
        """Orders of the single steps, each of which makes as many predictions."""
        count = self.predictions()
        full, rest = divmod(count, self.order)
        if not self.lower_order_final:
            groups = [self.order] * full
        elif rest:
            groups = [self.order] * full + [rest]
        else:
            groups = [self.order] * (full - 1) + LAST_GROUPS[self.order]
        if self.final_sigma == "zero" and groups[-1] > 1:
            groups[-1:] = [groups[-1] - 1, 1]
        return groups


def multistep(
    x: Tensor, times: Sequence[float], denoise: Denoise, *, orders: Sequence[int], end: float = 0.0, heun: bool = False
) -> Tensor:
    """Algorithm 2 (2M), and 3M. x: [b, ...] at noise level times[0]; returns the latents at level `end`."""
    noise, marks = denoise.noise, list[Mark]()
    for (s, t), order in zip(pairwise([*times, end]), orders, strict=True):
        marks = [(half_log_snr(noise, s), denoise(x, s)), *marks[:2]]
        h = half_log_snr(noise, t) - marks[0][0]
        x = _advance(x, s, t, noise, backward_differences(marks[:order], h), midpoint=not heun and order == 2)
    return x


def singlestep(
    x: Tensor, times: Sequence[float], denoise: Denoise, *, groups: Sequence[int], end: float = 0.0, heun: bool = False
) -> Tensor:
    """Algorithm 1 (2S), and 3S. x: [b, ...] at noise level times[0]; returns the latents at level `end`.

    A step of order n spans n time steps; the inner ones are where its own n - 1 further predictions are made.
    """
    noise, levels, first = denoise.noise, [*times, end], 0
    for order in groups:
        s, start, marks = levels[first], x, list[Mark]()
        for inner, t in pairwise(levels[first : first + order + 1]):
            marks.append((half_log_snr(noise, inner), denoise(x, inner)))
            slopes = forward_differences(marks, half_log_snr(noise, t) - marks[0][0], midpoint=not heun)
            x = _advance(start, s, t, noise, slopes, midpoint=not heun and len(marks) == 2)
        first += order
    return x


def _advance(
    x: Tensor, s: float, t: float, noise: NoiseSchedule, derivatives: Sequence[Tensor], *, midpoint: bool
) -> Tensor:
    h = half_log_snr(noise, t) - half_log_snr(noise, s)
    return advance(x, noise.sigma(t) / noise.sigma(s), noise.alpha(t), h, derivatives, midpoint=midpoint)
