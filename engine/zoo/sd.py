"""Recipe of the embedded Stable Diffusion: a UNet, trained together with its CLIP encoder on the set's captions."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from engine.zoo import emoji
from engine.zoo.clip_text import build_clip_encoder, kept_clip_tokenizer, save_clip_side
from engine.zoo.diffusion import NoisyLatents, fast_training
from engine.zoo.files import save_half, save_index
from engine.zoo.latents import build_bank
from engine.zoo.loop import Schedule, fit

TEXT_WIDTH = 64
CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [32, 48, 64],
    "layers_per_block": 2,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": [1, 2, 2],
    "norm_num_groups": 8,
}
"""Stable Diffusion 2's layout with three levels; `attention_head_dim` counts heads, by diffusers' old slip."""
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
BATCH, DROP_RATE = 32, 0.1


class TextToImage(nn.Module):
    """Denoiser and text encoder, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = build_clip_encoder(tokenizer, width=TEXT_WIDTH)
        self.denoiser = UNet2DConditionModel.from_config(CONFIG)
        nn.init.zeros_(self.denoiser.conv_out.weight)

    def forward(self, noised: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """Predicted noise [B, 4, h, w] of noised latents [B, 4, h, w]; the text is not masked, as in the original."""
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        text = self.encoder(tokens.input_ids).last_hidden_state
        return self.denoiser(noised, timesteps, text).sample


def train_sd(work: Path, out: Path, *, seed: int, steps: int) -> None:
    """Train (or resume) in `work`, then write the repository layout to `out`."""
    bank = build_bank(work, seed)
    torch.manual_seed(seed)
    captions = [emoji.caption(name) for name in emoji.names()]
    tokenizer = kept_clip_tokenizer(work / "tokenizer", captions)
    model = TextToImage(tokenizer)
    averaged = copy.deepcopy(model)
    scheduler = DDIMScheduler(**SCHEDULER)
    betas = scheduler.betas.double()

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(bank["latents"]), (BATCH,), generator=generator)
        noisy = NoisyLatents(bank["latents"][rows].float(), generator, betas)
        dropped = torch.rand(BATCH, generator=generator) < DROP_RATE
        pairs = zip(bank["objects"][rows].tolist(), dropped.tolist(), strict=True)
        # The pipeline's unconditional half is the empty prompt.
        texts = ["" if drop else captions[thing] for thing, drop in pairs]
        with fast_training():
            output = model(noisy.noised, noisy.timesteps, texts)
        return noisy.noise_loss(output.float())

    schedule = Schedule(steps, learning_rate=1.5e-3, warmup=200, ema=0.999)
    seconds = fit("denoiser", work, model, averaged, loss_of, schedule, seed=seed)
    save_half(averaged.denoiser, out / "unet")
    save_clip_side(tokenizer, averaged.encoder, out)
    scheduler.save_config(out / "scheduler")
    save_index(out, "StableDiffusionPipeline", {})
    facts = {"seed": seed, "steps": steps, "batch": BATCH, "minutes": round(seconds / 60, 1)}
    facts["cores"] = torch.get_num_threads()
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
