"""Encoded pictures that the recipes of the image models draw from."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.weights import EMBEDDED, fitting, place, read_config
from engine.zoo import emoji

PICTURES, CHUNK = 12_000, 100


def load_vae() -> AutoencoderKL:
    """The shared picture VAE that ships with the project, in fp32 on the CPU."""
    folder = EMBEDDED / "shared" / "vae"
    vae = AutoencoderKL.from_config(read_config(folder))
    place(vae, fitting(vae, folder), torch.float32, torch.device("cpu"))
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def build_bank(folder: Path, seed: int) -> dict[str, Tensor]:
    """Latents [M, 4, 16, 16] in fp16 of M random pictures, scaled as a denoiser sees them, with their objects [M]."""
    path = folder / "bank.safetensors"
    if path.exists():
        return load_file(path)
    vae, generator = load_vae(), torch.Generator().manual_seed(seed)
    latents, objects = [], []
    for _ in range(0, PICTURES, CHUNK):
        video, _captions, things, _directions = emoji.sample(CHUNK, 1, generator)
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(video[:, :, 0]).latent_dist.mean
        latents.append((mean.float() * vae.config.scaling_factor).half())
        objects.append(things)
    bank = {"latents": torch.cat(latents).contiguous(), "objects": torch.cat(objects)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(bank, path)
    return bank
