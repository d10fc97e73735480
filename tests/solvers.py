"""What the tests of diffusion samplers share: a network, its oracle, and diffusers' loop around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from engine.denoise import Denoise, DiscreteDiffusion, half_log_snr
from engine.step import Branch, RunShape

LINEAR: dict[str, Any] = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
NOISE = DiscreteDiffusion(tuple(DDPMScheduler(**LINEAR).alphas_cumprod.tolist()))
SPREAD = 0.5
"""Standard deviation of the data that the oracle knows."""
Network = Callable[[Tensor, float], Tensor]


def run_shape(steps: int = 10, *, pixels: bool = False) -> RunShape:
    edge = 8 if pixels else 64
    return RunShape("any", steps, 1, (Branch.COND,), (4, 8, 8), (1, edge, edge), (1, 4, 4), 0, noise=NOISE)


def oracle(x: Tensor, t: float) -> Tensor:
    """The noise in x for data N(0, SPREAD^2), exactly."""
    return NOISE.sigma(t) * x / (NOISE.alpha(t) ** 2 * SPREAD**2 + NOISE.sigma(t) ** 2)


def network(x: Tensor, t: float) -> Tensor:
    """A network that is not linear, near enough to the oracle that samples stay in range."""
    return oracle(x, t) + 0.2 * NOISE.alpha(t) * torch.sin(3 * x + t)


def leading_to(clean: Tensor) -> Network:
    """A network that finds the same clean sample in everything."""
    return lambda x, t: (x - NOISE.alpha(t) * clean) / NOISE.sigma(t)


def exact(x: Tensor, t: float, s: float) -> Tensor:
    """Where the flow of the oracle's data takes x from level t to level s."""
    spread = [(NOISE.alpha(level) ** 2 * SPREAD**2 + NOISE.sigma(level) ** 2) ** 0.5 for level in (t, s)]
    return x * spread[1] / spread[0]


def denoiser(model: Network, draw: Callable[[Tensor], Tensor] | None = None) -> tuple[Denoise, list[float]]:
    """A `Denoise` around `model`, and the list of the levels it is asked at."""
    asked: list[float] = []

    def predict(x: Tensor, t: float) -> Tensor:
        asked.append(t)
        return model(x, t)

    return Denoise(predict, "epsilon", NOISE, draw=draw), asked


def noise(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def theirs(scheduler: Any, x: Tensor, model: Network = network, **timesteps: Any) -> Tensor:
    """diffusers' loop over `model`."""
    scheduler.set_timesteps(**timesteps)
    for step in scheduler.timesteps:
        x = scheduler.step(model(x, (int(step) + 1) / 1000), step, x).prev_sample
    return x


def close(ours: Tensor, other: Tensor, tolerance: float = 2e-5) -> bool:
    """Equal up to rounding in fp32."""
    return bool((ours - other).abs().max() <= tolerance * max(1.0, other.abs().max().item()))


def even_levels(first: float, last: float, steps: int) -> list[float]:
    """steps + 1 levels from first to last, even in log(alpha / sigma)."""
    ends = half_log_snr(NOISE, first), half_log_snr(NOISE, last)
    inner = (NOISE.level(ends[0] + (ends[1] - ends[0]) * index / steps) for index in range(1, steps))
    return [first, *inner, last]


def slope(errors: list[float]) -> float:
    """Order of convergence when every error is of twice as many steps as the one before."""
    first, last = errors[0], errors[-1]
    return float(torch.log2(torch.tensor(first / last)) / (len(errors) - 1))
