"""What a sampler calls: the guided prediction at a noise level, in whichever form the sampler's paper uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

Prediction = Literal["velocity", "epsilon", "sample"]


class NoiseSchedule(Protocol):
    """x_t = alpha(t) x_0 + sigma(t) noise, for t in 0..1."""

    def alpha(self, t: float) -> float:
        """Signal factor."""
        ...

    def sigma(self, t: float) -> float:
        """Noise factor."""
        ...


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths: alpha = 1 - t, sigma = t."""

    def alpha(self, t: float) -> float:
        """1 - t."""
        return 1.0 - t

    def sigma(self, t: float) -> float:
        """The level itself."""
        return t


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
        # velocity = x_0 - noise, hence x = (alpha + sigma) x_0 - sigma velocity
        return (x + sigma * out) / (alpha + sigma)

    def velocity(self, x: Tensor, t: float, **extra: Any) -> Tensor:
        """x_0 - noise, the direction of a rectified flow towards the data."""
        if self.prediction == "velocity":
            return self.predict(x, t, **extra)
        x0 = self(x, t, **extra)
        return x0 - (x - self.noise.alpha(t) * x0) / self.noise.sigma(t)
