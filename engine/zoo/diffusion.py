"""The loss of a denoiser with learned variance (Nichol and Dhariwal, arXiv 2102.09672), as DiT, PixArt and Latte do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

RATIOS = (0.05, 5.0)
LINEAR = DDPMScheduler(beta_schedule="linear").betas.double()
"""DDPM's betas [1000], which DiT and PixArt take over."""


@contextmanager
def fast_training() -> Iterator[None]:
    """bfloat16, and attention as plain matrix products: the backward pass of the fused kernel is slow on a CPU."""
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


class NoisyLatents:
    """Noise added to clean latents [B, C, ...] at random time steps, and the loss of what a denoiser makes of it."""

    def __init__(
        self,
        clean: Tensor,
        generator: torch.Generator,
        betas: Tensor = LINEAR,
        ratios: tuple[float, float] = RATIOS,
    ) -> None:
        self.betas, self.ratios = betas, ratios
        self.noise = torch.randn(clean.shape, generator=generator)
        self.timesteps = torch.randint(len(self.betas), (len(clean),), generator=generator)
        kept = self._at(torch.cumprod(1 - self.betas, 0))
        self.noised = kept.sqrt() * clean + (1 - kept).sqrt() * self.noise

    def loss(self, output: Tensor) -> Tensor:
        """Weighed squared error of the predicted noise, plus the variational bound by which the variance learns.

        output [B, 2 C, ...]: predicted noise, and where between its two bounds the log variance lies (-1 to 1).
        """
        epsilon, fraction = output.chunk(2, dim=1)
        return self.noise_loss(epsilon) + self._bound(epsilon.detach(), fraction)

    def noise_loss(self, epsilon: Tensor) -> Tensor:
        """Weighed squared error of the predicted noise [B, C, ...].

        The error of the clean sample counts by its signal-to-noise ratio within `ratios` (as in Min-SNR, arXiv
        2303.09556): an unweighed error of the noise hardly feels the noisy steps, in which it is decided what the
        picture shows.
        """
        kept = torch.cumprod(1 - self.betas, 0)
        ratio = kept / (1 - kept)
        weight = self._at(ratio.clamp(*self.ratios) / ratio)
        return (weight * (epsilon - self.noise).square()).mean()

    def _bound(self, epsilon: Tensor, fraction: Tensor) -> Tensor:
        """Mean divergence in nats of the step the model would take from the true one; only the variance learns."""
        kept = torch.cumprod(1 - self.betas, 0)
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        smallest = self.betas * (1 - before) / (1 - kept)
        smallest = torch.cat([smallest[1:2], smallest[1:]]).log()
        mean_error = self._at(self.betas / ((1 - self.betas) * (1 - kept)).sqrt()) * (epsilon - self.noise)
        low, high = self._at(smallest), self._at(self.betas.log())
        log_variance = low + (fraction + 1) / 2 * (high - low)
        divergence = log_variance - low - 1 + (low - log_variance).exp()
        return 0.5 * (divergence + mean_error.square() * (-log_variance).exp()).mean()

    def _at(self, values: Tensor) -> Tensor:
        """A schedule's values at each sample's time step: [B, 1, ...], to go with the latents."""
        return values[self.timesteps].float().view(-1, *[1] * (self.noise.ndim - 1))
