"""What a sampler calls: the guided prediction at a noise level, in whichever form the sampler's paper uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

Prediction = Literal["velocity", "epsilon", "sample", "v"]
"""`velocity` is x_0 - noise, of rectified flow; `v` is alpha noise - sigma x_0 (arXiv 2202.00512), of diffusion."""
Process = Literal["flow", "diffusion"]
ROUNDING = 1e-6
"""Fraction of a time step below which a level counts as exactly that step."""


def half_log_snr(noise: NoiseSchedule, t: float) -> float:
    """log(alpha / sigma) at level t, the lambda of the DPM-Solver papers; infinite where one of the two is 0."""
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    if alpha == 0:
        return -math.inf
    return math.log(alpha / sigma) if sigma > 0 else math.inf


def target(prediction: Prediction, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a model has to predict for alpha clean + sigma noise; all shapes as `clean` or broadcast to it."""
    if prediction == "sample":
        return clean
    if prediction == "epsilon":
        return noise
    return alpha * noise - sigma * clean if prediction == "v" else clean - noise


class NoiseSchedule(Protocol):
    """x_t = alpha(t) x_0 + sigma(t) noise, for t in 0..1."""

    process: ClassVar[Process]
    """Rectified flow, or diffusion that preserves variance: what a sampler must be made for."""

    def alpha(self, t: float) -> float:
        """Signal factor."""
        ...

    def sigma(self, t: float) -> float:
        """Noise factor."""
        ...

    def timestep(self, t: float) -> float:
        """The level as the model takes it."""
        ...

    def level(self, half_log_snr: float) -> float:
        """The level of a log(alpha / sigma)."""
        ...


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths: alpha = 1 - t, sigma = t."""

    process: ClassVar[Process] = "flow"

    def alpha(self, t: float) -> float:
        """1 - t."""
        return 1.0 - t

    def sigma(self, t: float) -> float:
        """The level itself."""
        return t

    def timestep(self, t: float) -> float:
        """Thousandths of the level."""
        return 1000 * t

    def level(self, half_log_snr: float) -> float:
        """1 / (1 + exp(lambda))."""
        return 1 / (1 + math.exp(half_log_snr))


@dataclass(frozen=True)
class DiscreteDiffusion:
    """Diffusion in T time steps that preserves variance: alpha^2 + sigma^2 = 1.

    Time step k in 0..T-1 is level (k + 1) / T, so that level 0 is the clean sample; `alphas_cumprod` holds alpha^2 of
    every time step. Between two time steps the logarithm of alpha is linear.
    """

    alphas_cumprod: tuple[float, ...]
    process: ClassVar[Process] = "diffusion"

    def alpha(self, t: float) -> float:
        """Signal factor."""
        return math.sqrt(self._kept(t))

    def sigma(self, t: float) -> float:
        """Noise factor."""
        return math.sqrt(1.0 - self._kept(t))

    def timestep(self, t: float) -> float:
        """The time step of a level, as the model takes it; whole where the level is that of a trained step."""
        position = t * len(self.alphas_cumprod)
        nearest = round(position)
        return (nearest if abs(position - nearest) < ROUNDING else position) - 1

    def level(self, half_log_snr: float) -> float:
        """The level of a log(alpha / sigma); that of the nearest time step beyond the first and the last."""
        log_kept = -math.log1p(math.exp(-2 * half_log_snr))
        rising = [math.log(kept) if kept > 0 else -math.inf for kept in reversed(self.alphas_cumprod)]
        total = len(rising)
        return float(np.interp(log_kept, rising, [(total - index) / total for index in range(total)]))

    def _kept(self, t: float) -> float:
        """alpha^2 at level t."""
        step = self.timestep(t)
        below = math.floor(step)
        if below == step:
            return self._at(below)
        low, high = math.log(self._at(below)), math.log(self._at(below + 1))
        return math.exp(low + (step - below) * (high - low))

    def _at(self, step: int) -> float:
        return 1.0 if step < 0 else self.alphas_cumprod[step]


@dataclass(frozen=True)
class Given:
    """Frames that are given, not generated: clean `latents` [b, C, T, h, w] and `mask` [b, T], 1 where to generate.

    Values between 0 and 1 join the generation only once the noise level has fallen to them.
    """

    latents: Tensor
    mask: Tensor


@dataclass
class Denoise:
    """The guided prediction. `predict(x, t, **extra)` is what the model predicts; the methods convert it.

    x: [b, ...] latents at noise level t in 0..1; everything returned has the shape of x. `given` holds conditioning
    frames for samplers that support them, `generator` the run's random numbers.
    """

    predict: Callable[..., Tensor]
    prediction: Prediction
    noise: NoiseSchedule
    given: Given | None = None
    draw: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor, t: float, **extra: Any) -> Tensor:
        """The clean sample x_0."""
        out, alpha, sigma = self.predict(x, t, **extra), self.noise.alpha(t), self.noise.sigma(t)
        if self.prediction == "sample":
            return out
        if self.prediction == "epsilon":
            return (x - sigma * out) / alpha
        if self.prediction == "v":
            return alpha * x - sigma * out
        # velocity = x_0 - noise, hence x = (alpha + sigma) x_0 - sigma velocity
        return (x + sigma * out) / (alpha + sigma)

    def parts(self, x: Tensor, t: float, **extra: Any) -> tuple[Tensor, Tensor]:
        """The clean sample and the noise in x, of one prediction, each by the shortest way."""
        alpha, sigma = self.noise.alpha(t), self.noise.sigma(t)
        if self.prediction == "epsilon":
            epsilon = self.predict(x, t, **extra)
            return (x - sigma * epsilon) / alpha, epsilon
        if self.prediction == "v":
            v = self.predict(x, t, **extra)
            return alpha * x - sigma * v, alpha * v + sigma * x
        x0 = self(x, t, **extra)
        return x0, (x - alpha * x0) / sigma

    def epsilon(self, x: Tensor, t: float, **extra: Any) -> Tensor:
        """The noise in x."""
        if self.prediction == "epsilon":
            return self.predict(x, t, **extra)
        if self.prediction == "v":
            return self.noise.alpha(t) * self.predict(x, t, **extra) + self.noise.sigma(t) * x
        return (x - self.noise.alpha(t) * self(x, t, **extra)) / self.noise.sigma(t)

    def velocity(self, x: Tensor, t: float, **extra: Any) -> Tensor:
        """x_0 - noise, the direction of a rectified flow towards the data."""
        if self.prediction == "velocity":
            return self.predict(x, t, **extra)
        x0 = self(x, t, **extra)
        return x0 - (x - self.noise.alpha(t) * x0) / self.noise.sigma(t)
