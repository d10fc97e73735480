"""The embedded picture models: their sizes, the VAE they share, the loss they were trained with, their judge."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from engine.weights import EMBEDDED
from engine.zoo import emoji
from engine.zoo.diffusion import RATIOS, NoisyLatents
from engine.zoo.judge import judge_pictures
from engine.zoo.latents import load_vae
from engine.zoo.picture_vae import fresh, normalise, pictures


def test_embedded_weights_are_small() -> None:
    sizes = {path.parent.relative_to(EMBEDDED): path.stat().st_size for path in EMBEDDED.rglob("*.safetensors")}
    assert sum(sizes.values()) <= 32e6
    denoisers = {folder: size for folder, size in sizes.items() if folder.name in ("transformer", "unet")}
    assert len(denoisers) >= 5
    assert max(denoisers.values()) <= 4e6


def test_vae_keeps_pictures() -> None:
    vae = load_vae()
    images = pictures(24, torch.Generator().manual_seed(77))
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
        restored = vae.decode(latents).sample.clamp(-1, 1)
    assert latents.shape == (24, 4, 16, 16)
    assert -10 * ((restored - images) / 2).square().mean().log10() > 29
    colours = (images - restored).mean(dim=(2, 3)).abs()
    assert colours.max() < 0.05, "mean colours survive"


def test_vae_latents_are_what_diffusion_expects() -> None:
    vae = load_vae()
    with torch.no_grad():
        latents = vae.encode(pictures(64, torch.Generator().manual_seed(3))).latent_dist.mean
    assert latents.mean().abs() < 0.1 and latents.std() == pytest.approx(1, abs=0.1)


def test_normalising_changes_latents_and_not_what_is_restored() -> None:
    vae, images = fresh(), pictures(4, torch.Generator().manual_seed(1))
    with torch.no_grad():
        before: DiagonalGaussianDistribution = vae.encode(images).latent_dist
        restored = vae.decode(before.mean).sample
        normalise(vae, images)
        after: DiagonalGaussianDistribution = vae.encode(images).latent_dist
        torch.testing.assert_close(vae.decode(after.mean).sample, restored, atol=1e-4, rtol=1e-4)
    ratio = before.std / after.std
    torch.testing.assert_close(ratio, ratio[:1, :, :1, :1].expand_as(ratio))
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert after.mean.std(dim=(0, 2, 3)).max() == pytest.approx(1, abs=1e-4)


def test_loss_weighs_the_noise_error_by_signal_to_noise() -> None:
    noisy = NoisyLatents(torch.zeros(1000, 1, 1, 1), torch.Generator().manual_seed(0))
    noisy.timesteps = torch.arange(1000)
    output = torch.cat([noisy.noise, -torch.ones_like(noisy.noise)], dim=1)
    smallest = noisy.loss(output)
    assert smallest == pytest.approx(0, abs=1e-6), "the right noise, at the lowest variance"
    kept = DDPMScheduler(beta_schedule="linear").alphas_cumprod
    weights = ((kept / (1 - kept)).clamp(*RATIOS) / (kept / (1 - kept))).mean()
    assert noisy.noise_loss(noisy.noise + 1).item() == pytest.approx(weights.item(), rel=1e-4)
    wrong = torch.cat([noisy.noise + 1, -torch.ones_like(noisy.noise)], dim=1)
    assert noisy.loss(wrong) > weights


def test_bound_is_the_divergence_of_two_gaussians() -> None:
    """Against torch's own, with the posterior's mean and variance as diffusers' scheduler has them."""
    scheduler, step = DDPMScheduler(beta_schedule="linear"), 300
    noisy = NoisyLatents(torch.full((1, 1, 1, 1), 0.4), torch.Generator().manual_seed(0))
    noisy.timesteps = torch.tensor([step])
    epsilon, fraction = noisy.noise + 0.3, torch.full_like(noisy.noise, 0.2)
    kept, before, beta = scheduler.alphas_cumprod[step], scheduler.alphas_cumprod[step - 1], scheduler.betas[step]
    low, high = (beta * (1 - before) / (1 - kept)).log(), beta.log()
    x = noisy.noise * (1 - kept).sqrt() + kept.sqrt() * 0.4
    means = [(x - beta / (1 - kept).sqrt() * noise) / (1 - beta).sqrt() for noise in (noisy.noise, epsilon)]
    true = torch.distributions.Normal(means[0], (low / 2).exp())
    taken = torch.distributions.Normal(means[1], ((low + 0.6 * (high - low)) / 2).exp())
    expected = torch.distributions.kl_divergence(true, taken).mean()
    torch.testing.assert_close(noisy._bound(epsilon, fraction), expected, rtol=1e-4, atol=0)


def test_judge_knows_every_picture_and_asks_only_for_those() -> None:
    objects, white = torch.arange(200), torch.ones(200, 3)
    shown = emoji.render(objects, torch.full((200,), -1), white, 1).add(1).div(2)
    names = list(emoji.names())
    halved = torch.nn.functional.avg_pool2d(shown[:, :, 0], 2)[:, :, None]
    for start in range(0, 200, 50):
        part, asked = slice(start, start + 50), names[start : start + 50]
        assert judge_pictures(shown[part], asked) == {"prompt_accuracy": 1.0}
        assert judge_pictures(shown[part], [emoji.caption(name) for name in asked]) == {"prompt_accuracy": 1.0}
        assert judge_pictures(shown[part], [*asked[1:], asked[0]]) == {"prompt_accuracy": 0.0}
        assert judge_pictures(halved[part], asked) == {"prompt_accuracy": 1.0}
    assert judge_pictures(shown[:2], ["something", names[1]]) == {"prompt_accuracy": 1.0}
    assert judge_pictures(shown[:1], ["something"]) == {"prompt_accuracy": None}
    assert judge_pictures(torch.zeros(1, 3, 1, 48, 48), [names[0]]) == {"prompt_accuracy": None}
