"""Recipe of the embedded DDPM: 32x32 pixels, class-conditional over the 200 pictures, and unconditional.

One label more than there are classes stands for none of them: with it the model is unconditional.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.zoo import emoji
from engine.zoo.diffusion import NoisyLatents, fast_training
from engine.zoo.files import save_half, save_index
from engine.zoo.loop import Schedule, fit

CLASSES = len(emoji.names())
CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 48, 64, 48],
    "layers_per_block": 2,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 8,
    "num_class_embeds": CLASSES + 1,
}
"""The layout of google/ddpm-cifar10-32 with fewer channels, and with classes."""
BATCH, DROP_RATE, PICTURES, CHUNK = 32, 0.15, 12_000, 200
RATIOS = (0.01, 1e4)
"""Of pixels the finest detail counts too: with the bounds of latents, grain is left in every picture."""


@torch.no_grad()
def build_bank(folder: Path, seed: int) -> dict[str, Tensor]:
    """Pictures [M, 3, 32, 32] in 0..255 of M random draws, with their objects [M]."""
    path = folder / "bank.safetensors"
    if path.exists():
        return load_file(path)
    generator = torch.Generator().manual_seed(seed)
    pictures, objects = [], []
    for _ in range(0, PICTURES, CHUNK):
        video, _captions, things, _directions = emoji.sample(CHUNK, 1, generator)
        small = F.avg_pool2d(video[:, :, 0], 2)
        pictures.append(((small + 1) * 127.5).round().byte())
        objects.append(things)
    bank = {"pictures": torch.cat(pictures), "objects": torch.cat(objects)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(bank, path)
    return bank


def train_ddpm(work: Path, out: Path, *, seed: int, steps: int) -> None:
    """Train (or resume) in `work`, then write the repository layout to `out`."""
    bank = build_bank(work, seed)
    torch.manual_seed(seed)
    model = UNet2DModel.from_config(CONFIG)
    nn.init.zeros_(model.conv_out.weight)
    averaged = copy.deepcopy(model)

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(bank["pictures"]), (BATCH,), generator=generator)
        noisy = NoisyLatents(bank["pictures"][rows].float() / 127.5 - 1, generator, ratios=RATIOS)
        dropped = torch.rand(BATCH, generator=generator) < DROP_RATE
        labels = torch.where(dropped, CLASSES, bank["objects"][rows])
        with fast_training():
            output = model(noisy.noised, noisy.timesteps, labels).sample
        return noisy.noise_loss(output.float())

    schedule = Schedule(steps, learning_rate=1.5e-3, warmup=150, ema=0.998)
    seconds = fit("denoiser", work, model, averaged, loss_of, schedule, seed=seed)
    save_half(averaged, out / "unet")
    DDPMScheduler(beta_schedule="linear", clip_sample=False).save_config(out / "scheduler")
    labels = {str(label): name for label, name in enumerate(emoji.names())}
    save_index(out, "DDIMPipeline", {"id2label": labels})
    facts = {"seed": seed, "steps": steps, "batch": BATCH, "minutes": round(seconds / 60, 1)}
    facts["cores"] = torch.get_num_threads()
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
