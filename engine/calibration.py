"""What calibration and search look at: predictions of noisy samples, and the inputs that layers see meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.step import Branch

if TYPE_CHECKING:
    from engine.artefacts import Bench
    from engine.backbones.base import Backbone

CHUNK = 16
"""Samples of one call of the denoiser."""


@dataclass(frozen=True)
class NoisySamples:
    """Samples with their prompts, each noised to a level of its own, which together span the run's levels."""

    backbone: Backbone
    branches: tuple[Branch, ...]
    chunks: Sequence[tuple[Tensor, Tensor, Any]]
    """Noisy latents [b, ...], levels [b] in 0..1, and conditions of their prompts."""

    @classmethod
    def of(cls, bench: Bench, count: int, seed: int) -> NoisySamples:
        """`count` examples of the bench; the same seed gives the same samples and noise."""
        prompts, clean = bench.examples(count, seed)
        times, noise = bench.sampler.times(bench.run), bench.backbone.noise
        levels = [times[index * len(times) // count] for index in range(count)]
        drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
        shape = (count, *[1] * (clean.ndim - 1))
        alpha, sigma = (
            torch.tensor([factor(level) for level in levels]).to(clean).view(shape)
            for factor in (noise.alpha, noise.sigma)
        )
        noisy = alpha * clean + sigma * drawn
        chunks = [
            (noisy[part], torch.tensor(levels[part], device=noisy.device), bench.conditions(prompts[part]))
            for part in (slice(start, start + CHUNK) for start in range(0, count, CHUNK))
        ]
        return cls(bench.backbone, bench.run.branches, chunks)

    @torch.no_grad()
    def predict(self) -> Tensor:
        """What the denoiser, as it is now, predicts of every sample and branch: [count, branches, ...] in fp32."""
        rows = []
        for noisy, levels, conditions in self.chunks:
            out = self.backbone.predict(noisy, levels, conditions, self.branches).float()
            rows.append(out.unflatten(0, (len(self.branches), -1)).transpose(0, 1))
        return torch.cat(rows)


def relative_error(predicted: Tensor, reference: Tensor) -> float:
    """Mean over samples [count, ...] of the squared error over the reference's squared size."""
    error, size = ((predicted - reference).flatten(1).square().sum(1), reference.flatten(1).square().sum(1))
    return float((error / size).mean())


@torch.no_grad()
def input_hessians(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Tensor]:
    """2/n times the sum of x x^T over the n rows x that each linear layer reads during `run`: fp32 [K, K]."""
    sums, counts = dict[str, Tensor](), dict.fromkeys(layers, 0)

    def watch(name: str, layer: nn.Module) -> Any:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2).float()
            sums[name] = sums.get(name, 0) + rows.T @ rows
            counts[name] += len(rows)

        return layer.register_forward_pre_hook(see)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: total * (2 / counts[name]) for name, total in sums.items()}
