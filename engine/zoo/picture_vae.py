"""Recipe of the picture VAE that the image models share: an AutoencoderKL for 64x64 pictures, latents [4, 16, 16].

It starts from the spatial half of the embedded Open-Sora's VAE (`engine.zoo.opensora`), which has the same layout, and
is trained on for what a denoiser needs: the decoder sees latents with errors in them and must keep the colours.
"""

from __future__ import annotations

import copy
import json
import platform
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from engine.weights import EMBEDDED
from engine.zoo import emoji
from engine.zoo.files import save_half
from engine.zoo.loop import Schedule, fit
from engine.zoo.losses import colour_loss, kl_divergence, reconstruction_loss

CONFIG: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 1.0,
}
BATCH = 16
LARGEST_ERROR = 0.2
"""Standard deviation of the errors put into latents, as a fraction of the latents' own; drawn between 0 and this."""
PREFIX = "spatial_vae.module."


def fresh() -> AutoencoderKL:
    """The VAE with the weights it starts from."""
    vae = AutoencoderKL.from_config(CONFIG)
    weights = load_file(EMBEDDED / "opensora" / "vae" / "model.safetensors")
    vae.load_state_dict(
        {name.removeprefix(PREFIX): value.float() for name, value in weights.items() if name.startswith(PREFIX)}
    )
    return vae


def pictures(batch: int, generator: torch.Generator) -> Tensor:
    """Random pictures [B, 3, 64, 64] in -1..1 of the whole set."""
    video, *_ = emoji.sample(batch, 1, generator)
    return video[:, :, 0]


@torch.no_grad()
def normalise(vae: AutoencoderKL, images: Tensor) -> None:
    """Fold shift and scale into the 1x1 convolutions around the latents: mean 0 and variance 1 over `images`.

    What the VAE reconstructs stays the same. A channel that hardly varies is not blown up beyond twice its share.
    """
    means = vae.encode(images).latent_dist.mean
    centre, spread = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    spread = spread.clamp(min=spread.max().item() / 2)
    channels = len(centre)
    last, first = vae.quant_conv, vae.post_quant_conv
    last.bias[:channels] -= centre
    last.weight[:channels] /= spread[:, None, None, None]
    last.bias[:channels] /= spread
    last.bias[channels:] -= 2 * spread.log()
    first.bias += first.weight[:, :, 0, 0] @ centre
    first.weight *= spread[None, :, None, None]


@torch.no_grad()
def quality(vae: AutoencoderKL, seed: int) -> dict[str, float]:
    """PSNR in dB on 400 pictures training did not draw, and with errors of a tenth of the latents' own spread."""
    generator = torch.Generator().manual_seed(seed)
    images = pictures(400, generator)
    mean = vae.encode(images).latent_dist.mean
    noise = 0.1 * mean.std() * torch.randn(mean.shape, generator=generator)

    def psnr(latents: Tensor) -> float:
        error = ((vae.decode(latents).sample.clamp(-1, 1) - images) / 2).square().mean()
        return round(-10 * error.log10().item(), 2)

    return {"psnr": psnr(mean), "psnr_with_errors": psnr(mean + noise)}


def train_picture_vae(work: Path, out: Path, *, seed: int, steps: int) -> None:
    """Train (or resume) in `work`, then write config, weights and what was measured to `out`."""
    vae = fresh()
    averaged = copy.deepcopy(vae)
    before = quality(vae, seed + 10_000)

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        images = pictures(BATCH, generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            mean = posterior.mean
            error = LARGEST_ERROR * mean.detach().std() * torch.rand(BATCH, 1, 1, 1, generator=generator)
            noise = torch.randn(2, *mean.shape, generator=generator)
            output = vae.decode(mean + posterior.std * noise[0] + error * noise[1]).sample.float()
        divergence = kl_divergence(mean.float(), posterior.logvar.float())
        return reconstruction_loss(images, output) + colour_loss(images, output) + 1e-4 * divergence

    schedule = Schedule(steps, learning_rate=1.5e-3, ema=0.995)
    seconds = fit("picture_vae", work, vae, averaged, loss_of, schedule, seed=seed)
    normalise(averaged, pictures(512, torch.Generator().manual_seed(seed)))
    save_half(averaged, out)
    facts = {
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "minutes": round(seconds / 60, 1),
        "start": before,
        "end": quality(averaged, seed + 10_000),
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    size = (out / "model.safetensors").stat().st_size / 1e6
    machine = f"{platform.machine()} CPU, 2 cores shared with other work"
    (out / "README.md").write_text(CARD.format(size=size, machine=machine, **facts))


CARD = """# The picture VAE

An AutoencoderKL for 64x64 pictures, latents [4, 16, 16] of mean 0 and variance 1, that the embedded image models share
({size:.2f} MB in fp16). It knows 200 Noto emoji over plain pale backgrounds and nothing else.

Trained with `python -m engine.zoo.train picture-vae` (resumable) from the spatial half of the embedded Open-Sora's VAE:
seed {seed}, {steps} steps of {batch} pictures, {minutes} minutes on the clock; {machine}. On 400 pictures that training
did not draw:

| | PSNR | with errors of a tenth of the latents' spread |
| --- | --- | --- |
| at the start | {start[psnr]} dB | {start[psnr_with_errors]} dB |
| at the end | {end[psnr]} dB | {end[psnr_with_errors]} dB |

Data and their licence: `engine/zoo/emoji_pictures`. The weights are under the project's licence, Apache-2.0.
"""
