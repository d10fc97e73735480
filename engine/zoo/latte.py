"""Recipe of the embedded Latte: moving pictures, trained together with its T5 encoder on the captions of the set.

It starts from the embedded PixArt, as Latte's text-to-video model does from PixArt-alpha. First it sees single frames
in large batches, each told its place in time, which teach where things are in which frame; then clips.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import LatteTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import T5TokenizerFast

from engine.backbones.latte.opened import OpenLatte, open_latte, place_grid
from engine.weights import EMBEDDED
from engine.zoo import emoji
from engine.zoo.diffusion import NoisyLatents, fast_training
from engine.zoo.files import save_half, save_index
from engine.zoo.latents import load_vae
from engine.zoo.loop import Schedule, fit
from engine.zoo.text import build_encoder, build_tokenizer, save_text_side

FRAMES, GRID, TEXT_WIDTH, CHUNK = 8, 8, 64, 20
CONFIG: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 3,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 128,
    "attention_bias": True,
    "sample_size": 16,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": TEXT_WIDTH,
    "video_length": FRAMES,
}
DROP_RATE, BIAS, WORDS = 0.1, -10_000.0, "shared.weight"


@dataclass(frozen=True)
class Recipe:
    """How long it trains, and on how much; the defaults made the weights that ship with the project."""

    seed: int = 0
    steps: int = 2600
    still_steps: int = 1000
    still_batch: int = 64
    clip_batch: int = 8
    clips: int = 3200


@torch.no_grad()
def build_clips(folder: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Latents [M, 4, F, 16, 16] in fp16 of M random clips, scaled as a denoiser sees them; objects and directions."""
    path = folder / "clips.safetensors"
    if path.exists():
        return load_file(path)
    vae, generator = load_vae(), torch.Generator().manual_seed(recipe.seed)
    parts: dict[str, list[Tensor]] = {"latents": [], "objects": [], "directions": []}
    for _ in range(0, recipe.clips, CHUNK):
        video, _captions, things, ways = emoji.sample(CHUNK, FRAMES, generator)
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(video.transpose(1, 2).flatten(0, 1)).latent_dist.mean
        latents = (mean.float() * vae.config.scaling_factor).half().unflatten(0, (CHUNK, FRAMES)).transpose(1, 2)
        for name, value in (("latents", latents), ("objects", things), ("directions", ways)):
            parts[name].append(value)
    bank = {name: torch.cat(values).contiguous() for name, values in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(bank, path)
    return bank


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def _place_in_latte(name: str) -> str:
    """Where a tensor of PixArt goes: block 2 k to spatial block k, block 2 k + 1 to temporal block k."""
    part, _, rest = name.partition(".")
    if part != "transformer_blocks":
        return name
    index, _, leaf = rest.partition(".")
    layer, temporal = divmod(int(index), 2)
    return f"{'temporal_' * temporal}transformer_blocks.{layer}.{leaf}"


class TextToVideo(nn.Module):
    """Denoiser and text encoder, trained together."""

    def __init__(self, tokenizer: T5TokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = build_encoder(len(tokenizer), width=TEXT_WIDTH)
        self.denoiser: OpenLatte = LatteTransformer3DModel.from_config(CONFIG)
        open_latte(self.denoiser)
        self.start_from_pixart(EMBEDDED / "pixart")

    def start_from_pixart(self, folder: Path) -> None:
        """Weights of the embedded PixArt: its even blocks become the spatial ones, its odd ones the temporal ones.

        Temporal attention starts as nothing, and words that PixArt does not know keep their random vectors.
        """
        placed = {_place_in_latte(name): value.float() for name, value in _weights(folder / "transformer").items()}
        own = self.denoiser.state_dict()
        self.denoiser.load_state_dict({name: placed[name] for name in own})
        for block in self.denoiser.temporal_transformer_blocks:
            nn.init.zeros_(block.attn1.to_out[0].weight)
            nn.init.zeros_(block.attn1.to_out[0].bias)
        text = {name: value.float() for name, value in _weights(folder / "text_encoder").items()}
        known = T5TokenizerFast.from_pretrained(folder / "tokenizer").get_vocab()
        rows = self.encoder.state_dict()[WORDS].normal_(std=text[WORDS].std().item())
        for piece, row in self.tokenizer.get_vocab().items():
            if piece in known:
                rows[row] = text[WORDS][known[piece]]
        self.encoder.load_state_dict({**self.encoder.state_dict(), **text, WORDS: rows})

    def forward(self, noisy: NoisyLatents, captions: list[str], dropped: Tensor, frames: Tensor) -> Tensor:
        """Predicted noise and variance [B, 8, f, 16, 16] of noisy latents that show the frames numbered [B or 1, f].

        A dropped caption becomes the empty one, cut to the length of the caption, as the pipeline's unconditional half.
        """
        tokens = self.tokenizer(captions, padding="longest", return_tensors="pt")
        length = tokens.input_ids.shape[1]
        empty = self.tokenizer([""], padding="max_length", max_length=length, return_tensors="pt")
        ids, mask = (
            torch.where(dropped[:, None], empty[name], tokens[name]) for name in ("input_ids", "attention_mask")
        )
        text = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        place_grid(self.denoiser, (frames.shape[1], GRID, GRID), frames)
        bias = (1.0 - tokens.attention_mask.float())[:, None] * BIAS
        (out,) = self.denoiser(noisy.noised, noisy.timesteps, text, bias)
        return out


def train_latte(work: Path, out: Path, recipe: Recipe) -> None:
    """Train (or resume) in `work`, then write the repository layout to `out`."""
    bank = build_clips(work, recipe)
    torch.manual_seed(recipe.seed)
    names = emoji.names()
    tokenizer = build_tokenizer(emoji.caption(name, way) for name in names for way in emoji.DIRECTIONS)
    model = TextToVideo(tokenizer)
    averaged = copy.deepcopy(model)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        still = step < recipe.still_steps
        batch = recipe.still_batch if still else recipe.clip_batch
        rows = torch.randint(len(bank["latents"]), (batch,), generator=generator)
        frames = torch.randint(FRAMES, (batch, 1), generator=generator) if still else torch.arange(FRAMES)[None]
        chosen = bank["latents"][rows]
        clean = torch.stack([clip[:, which] for clip, which in zip(chosen, frames.expand(batch, -1), strict=True)])
        noisy = NoisyLatents(clean.float(), generator)
        dropped = torch.rand(batch, generator=generator) < DROP_RATE
        pairs = zip(bank["objects"][rows].tolist(), bank["directions"][rows].tolist(), strict=True)
        captions = [emoji.caption(names[thing], emoji.DIRECTIONS[way]) for thing, way in pairs]
        with fast_training():
            output = model(noisy, captions, dropped, frames)
        return noisy.loss(output.float())

    schedule = Schedule(recipe.steps, learning_rate=1e-3, warmup=100, ema=0.998)
    seconds = fit("denoiser", work, model, averaged, loss_of, schedule, seed=recipe.seed)
    plain = LatteTransformer3DModel.from_config(CONFIG)  # for the name that config.json gives
    plain.load_state_dict(averaged.denoiser.state_dict())
    save_half(plain, out / "transformer")
    save_text_side(tokenizer, averaged.encoder, out)
    save_index(out, "LattePipeline", {})
    facts = {**asdict(recipe), "minutes": round(seconds / 60, 1)}
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
