"""Recipe of the embedded PixArt: text to image, trained together with its T5 encoder on the captions of the set."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import T5TokenizerFast

from engine.zoo import emoji
from engine.zoo.diffusion import NoisyLatents, fast_training
from engine.zoo.files import save_half, save_index
from engine.zoo.latents import build_bank
from engine.zoo.loop import Schedule, fit
from engine.zoo.text import build_encoder, build_tokenizer, save_text_side

TEXT_WIDTH = 64
CONFIG: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 6,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 128,
    "sample_size": 16,
    "patch_size": 2,
    "caption_channels": TEXT_WIDTH,
}
BATCH, DROP_RATE = 64, 0.1


class TextToImage(nn.Module):
    """Denoiser and text encoder, trained together."""

    def __init__(self, tokenizer: T5TokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = build_encoder(len(tokenizer), width=TEXT_WIDTH)
        self.denoiser = PixArtTransformer2DModel.from_config(CONFIG)
        self.initialise()

    def initialise(self) -> None:
        """As the original starts: cross-attention and the output are zero."""
        for module in self.denoiser.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        embedders = self.denoiser.adaln_single, self.denoiser.caption_projection
        for module in (layer for part in embedders for layer in part.modules() if isinstance(layer, nn.Linear)):
            nn.init.normal_(module.weight, std=0.02)
        for block in self.denoiser.transformer_blocks:
            nn.init.zeros_(block.attn2.to_out[0].weight)
        nn.init.zeros_(self.denoiser.proj_out.weight)

    def forward(self, noised: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """Predicted noise and variance [B, 8, h, w] of noised latents [B, 4, h, w]."""
        tokens = self.tokenizer(captions, padding="longest", return_tensors="pt")
        text = self.encoder(**tokens).last_hidden_state
        return self.denoiser(
            noised,
            encoder_hidden_states=text,
            timestep=timesteps,
            encoder_attention_mask=tokens.attention_mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample


def train_pixart(work: Path, out: Path, *, seed: int, steps: int) -> None:
    """Train (or resume) in `work`, then write the repository layout to `out`."""
    bank = build_bank(work, seed)
    torch.manual_seed(seed)
    captions = [emoji.caption(name) for name in emoji.names()]
    tokenizer = build_tokenizer(captions)
    model = TextToImage(tokenizer)
    averaged = copy.deepcopy(model)

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(bank["latents"]), (BATCH,), generator=generator)
        noisy = NoisyLatents(bank["latents"][rows].float(), generator)
        dropped = torch.rand(BATCH, generator=generator) < DROP_RATE
        pairs = zip(bank["objects"][rows].tolist(), dropped.tolist(), strict=True)
        # The pipeline's unconditional half is the empty prompt.
        texts = ["" if drop else captions[thing] for thing, drop in pairs]
        with fast_training():
            output = model(noisy.noised, noisy.timesteps, texts)
        return noisy.loss(output.float())

    schedule = Schedule(steps, learning_rate=1.5e-3, warmup=300, ema=0.999)
    seconds = fit("denoiser", work, model, averaged, loss_of, schedule, seed=seed)
    save_half(averaged.denoiser, out / "transformer")
    save_text_side(tokenizer, averaged.encoder, out)
    save_index(out, "PixArtAlphaPipeline", {})
    facts = {"seed": seed, "steps": steps, "batch": BATCH, "minutes": round(seconds / 60, 1)}
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
