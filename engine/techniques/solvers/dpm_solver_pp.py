"""DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (arXiv 2211.01095)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from engine.denoise import Denoise, Process, half_log_snr
from engine.ops import exponential
from engine.ops import timesteps as spacings
from engine.ops.thresholding import dynamic_threshold
from engine.step import RunShape
from engine.technique import Sampler, Stage, Technique

FEW_STEPS = 15
"""Below so many steps the last ones fall back to lower orders."""
Correct = Callable[[Tensor], Tensor]


def nothing(x0: Tensor) -> Tensor:
    """The estimate as it is."""
    return x0


class DpmSolverPP(Technique):
    """DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (arXiv 2211.01095)."""

    slug = "dpm_solver_pp"
    paper = "dpm_solver_pp"
    family = "solvers"
    stage = Stage.TRAJECTORY
    process: ClassVar[Process | None] = "diffusion"
    deviations: ClassVar[tuple[str, ...]] = (
        "by default time steps are whole and a first-order step leads from the last to the clean sample, as in "
        "diffusers; the official code is `spacing: time_uniform, final_sigma: sigma_min`",
        f"orders fall at the end below {FEW_STEPS} steps, as in diffusers; in the official code below 10",
        "the inner points of a single step are the next levels of the spacing, as in diffusers; the official code "
        "puts them at halves or thirds in lambda, which `spacing: log_snr` does",
    )

    steps: int = Field(20, ge=1, le=1000, description="Number of predictions, unless `timesteps` lists them.")
    order: int = Field(2, ge=1, le=3, description="2 for guided sampling, 3 without guidance.")
    method: Literal["multistep", "singlestep"] = Field(
        "multistep", description="Reuse the predictions of earlier steps, or build each step from its own."
    )
    solver_type: Literal["midpoint", "heun"] = Field("midpoint", description="Form of the second-order correction.")
    stochastic: bool = Field(False, description="Solve the SDE (SDE-DPM-Solver++), which draws fresh noise.")
    spacing: Literal["linspace", "leading", "trailing", "time_uniform", "time_quadratic", "log_snr"] = Field(
        "linspace", description="How time steps are spread; whole in the first three, the official code's in the rest."
    )
    steps_offset: int = Field(0, ge=0, description="Added to `leading` steps; Stable Diffusion has 1.")
    lower_order_final: bool = Field(True, description="Lower orders at the end of runs of few steps.")
    euler_at_final: bool = Field(False, description="Make the last step of first order in any case.")
    final_sigma: Literal["zero", "sigma_min"] = Field("zero", description="End clean, or at time step 0's noise.")
    thresholding: bool = Field(False, description="Dynamic thresholding of the clean sample; only for pixels.")
    threshold_ratio: float = Field(0.995, gt=0.0, le=1.0, description="Quantile of |pixels| that is clamped to.")
    threshold_max: float = Field(1.0, gt=0.0, description="Where that is less, this is clamped to.")
    timesteps: list[int] | None = Field(None, min_length=1, description="Time steps to visit, falling.")

    def predictions(self) -> int:
        """One a step."""
        return self.steps if self.timesteps is None else len(self.timesteps)

    def visited(self, total: int) -> list[int] | None:
        """The time steps, of `total` trained ones, where they are whole."""
        return self.timesteps or spacings.of_solvers(self.spacing, total, self.steps, self.steps_offset)

    def times(self, run: RunShape) -> list[float]:
        """Noise levels of the time steps; the official code's leave out the last of steps + 1, that of time step 0."""
        if (whole := self.visited(run.timesteps)) is not None:
            return spacings.levels(whole, run.timesteps)
        first, last = 1.0, 1 / run.timesteps
        if self.spacing == "log_snr":
            assert run.noise is not None
            noise = run.noise
            snr = spacings.even(half_log_snr(noise, first), half_log_snr(noise, last), self.steps + 1)
            return [first, *map(noise.level, snr[1:-1])]
        return spacings.even(first, last, self.steps + 1, power=2 if self.spacing == "time_quadratic" else 1)[:-1]

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """Time steps that the model knows, each once, and as many as whole single steps need."""
        problems = spacings.problems(self.visited(run.timesteps) or [], run.timesteps)
        if self.spacing == "log_snr" and (run.noise is None or run.noise.alpha(1.0) == 0):
            problems.append(("`log_snr` has no first level: the model starts from noise alone", "use `trailing`"))
        if self.stochastic and (self.method == "singlestep" or self.order == 3):
            rule = "the stochastic solver takes multisteps of order 1 or 2"
            problems.append((rule, "set `method: multistep` and `order: 2`"))
        if self.method == "singlestep" and not self.lower_order_final and self.predictions() % self.order:
            rule = f"{self.predictions()} steps do not divide into single steps of order {self.order}"
            problems.append((rule, "set `lower_order_final: true`, or another number of steps"))
        if self.thresholding and not run.in_pixels:
            rule = f"`thresholding` is for models of pixels, and `{run.backbone}` has latents"
            problems.append((rule, "remove `thresholding`"))
        return problems

    def sampler(self, run: RunShape) -> Sampler:
        """The loop, which ends at level 0 or at that of time step 0."""
        end, heun = 0.0 if self.final_sigma == "zero" else 1 / run.timesteps, self.solver_type == "heun"
        threshold = partial(dynamic_threshold, ratio=self.threshold_ratio, largest=self.threshold_max)
        correct = threshold if self.thresholding else nothing
        sampler = partial(singlestep if self.method == "singlestep" else multistep, orders=self.orders())
        stochastic = {"stochastic": True} if self.stochastic else {}
        return partial(sampler, end=end, heun=heun, correct=correct, **stochastic)

    def orders(self) -> list[int]:
        """Order of each multistep, or of each single step; the step to the clean sample is of first order."""
        count, euler = self.predictions(), self.euler_at_final or self.final_sigma == "zero"
        if self.method == "singlestep":
            return exponential.singlestep_orders(count, self.order, lower=self.lower_order_final, euler=euler)
        falling = self.lower_order_final and count < FEW_STEPS
        return exponential.multistep_orders(count, self.order, falling=falling, euler=euler)


def multistep(
    x: Tensor, times: Sequence[float], denoise: Denoise, *, orders: Sequence[int], end: float = 0.0, heun: bool = False,
    correct: Correct = nothing, stochastic: bool = False,
) -> Tensor:  # fmt: skip
    """Algorithm 2 (2M), its SDE form, and 3M. x: [b, ...] at level times[0]; returns the latents at level `end`."""
    marks: list[exponential.Mark] = []
    for (s, t), order in zip(pairwise([*times, end]), orders, strict=True):
        marks = [(half_log_snr(denoise.noise, s), correct(denoise(x, s))), *marks[:2]]
        slopes = exponential.backward_differences(marks[:order], half_log_snr(denoise.noise, t) - marks[0][0])
        x = step(x, s, t, denoise, slopes, midpoint=not heun and order == 2, stochastic=stochastic)
    return x


def singlestep(
    x: Tensor, times: Sequence[float], denoise: Denoise, *, orders: Sequence[int], end: float = 0.0, heun: bool = False,
    correct: Correct = nothing,
) -> Tensor:  # fmt: skip
    """Algorithm 1 (2S), and 3S. x: [b, ...] at noise level times[0]; returns the latents at level `end`.

    A step of order n spans n levels; the inner ones are where its own n - 1 further predictions are made.
    """
    noise, levels, first = denoise.noise, [*times, end], 0
    for order in orders:
        s, start, marks = levels[first], x, list[exponential.Mark]()
        for inner, t in pairwise(levels[first : first + order + 1]):
            marks.append((half_log_snr(noise, inner), correct(denoise(x, inner))))
            h = half_log_snr(noise, t) - marks[0][0]
            slopes = exponential.forward_differences(marks, h, midpoint=not heun)
            x = step(start, s, t, denoise, slopes, midpoint=not heun and len(marks) == 2)
        first += order
    return x


def step(
    x: Tensor, s: float, t: float, denoise: Denoise, slopes: Sequence[Tensor],
    *, midpoint: bool, stochastic: bool = False,
) -> Tensor:  # fmt: skip
    """From level s to t with the derivatives of the data prediction, along the ODE or the SDE."""
    noise = denoise.noise
    h, scale = half_log_snr(noise, t) - half_log_snr(noise, s), noise.sigma(t) / noise.sigma(s)
    if not stochastic:
        return exponential.advance(x, scale, noise.alpha(t), h, slopes, midpoint=midpoint)
    # The SDE moves twice as fast towards the data; fresh noise makes up for what that takes away.
    x = exponential.advance(x, scale * math.exp(-h), noise.alpha(t), 2 * h, slopes, midpoint=midpoint)
    spread = noise.sigma(t) * math.sqrt(-math.expm1(-2 * h))
    assert denoise.draw is not None
    return x + spread * denoise.draw(x) if spread > 0 else x
