"""Which time steps of a model trained in `total` steps a sampler visits; all lists fall, 0 is the cleanest step.

Names and rounding are those of diffusers (the spacings of arXiv 2305.08891, table 2); `even` is for spacings whose
time steps are no whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def leading(total: int, steps: int, offset: int = 0) -> list[int]:
    """Multiples of total // steps, plus `offset`."""
    return [index * (total // steps) + offset for index in reversed(range(steps))]


def trailing(total: int, steps: int) -> list[int]:
    """From the last step down in strides of total / steps, rounded."""
    # numpy's arange, not whole numbers of strides: rounding must fall as it does in diffusers.
    return [int(step) - 1 for step in np.arange(total, 0, -total / steps).round()]


def linspace(total: int, steps: int) -> list[int]:
    """Evenly over 0..total - 1 with both ends, rounded."""
    return [int(step) for step in np.linspace(0, total - 1, steps).round()[::-1]]


def quadratic(total: int, steps: int) -> list[int]:
    """DDIM's quadratic spacing for CIFAR-10: dense near the clean end, and no step above 0.8 `total`."""
    return [int(root**2) for root in np.linspace(0, (0.8 * total) ** 0.5, steps)[::-1]]


def of_solvers(spacing: str, total: int, steps: int, offset: int = 0) -> list[int] | None:
    """The whole time steps of a DPM-Solver; None for a spacing whose time steps are not whole.

    `linspace` and `leading` leave out the cleanest of steps + 1.
    """
    if spacing == "trailing":
        return trailing(total, steps)
    if spacing == "leading":
        return leading(total, steps + 1, offset)[:-1]
    return linspace(total, steps + 1)[:-1] if spacing == "linspace" else None


def even(first: float, last: float, count: int, power: float = 1) -> list[float]:
    """`count` numbers whose roots of degree `power` are spread evenly from `first` to `last`, both among them."""
    return [float(root**power) for root in np.linspace(first ** (1 / power), last ** (1 / power), count)]


def levels(timesteps: Sequence[int], total: int) -> list[float]:
    """Noise levels of time steps: (step + 1) / total."""
    return [(step + 1) / total for step in timesteps]


def problems(timesteps: Sequence[int], total: int) -> list[tuple[str, str]]:
    """What is wrong with a list of time steps: (rule, remedy)."""
    if not all(0 <= step < total for step in timesteps):
        return [(f"time steps must lie in 0..{total - 1}, got {list(timesteps)}", "give other `timesteps`")]
    if any(now <= then for now, then in pairwise(timesteps)):
        return [
            (f"time steps must fall, each only once, got {list(timesteps)}", "use fewer steps, or another `spacing`")
        ]
    return []
