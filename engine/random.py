"""Random numbers that do not depend on the batch a sample is in, nor on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def draw(shape: Sequence[int], seeds: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal numbers [len(seeds), *shape], sample i from its own seed; drawn on the CPU, then moved."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(
        device
    )


def stream(seeds: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function that draws fresh numbers like a tensor [b, ...], each sample from its own continuing stream."""
    generators = [torch.Generator().manual_seed(seed + 2**32) for seed in seeds]

    def like(x: Tensor) -> Tensor:
        rows = [torch.randn(x.shape[1:], generator=generator) for generator in generators]
        return torch.stack(rows).to(device, x.dtype)

    return like
