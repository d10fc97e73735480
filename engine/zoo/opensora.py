"""Recipe of the embedded Open-Sora: a spatial VAE, a temporal VAE, then the denoiser together with its text encoder.

Data: Noto emoji moving over plain backgrounds (`engine.zoo.emoji`), rendered on the fly. Each stage resumes from its
last saved step; what a stage has finished is not trained again.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import T5TokenizerFast

from engine.backbones.opensora.stdit3 import STDiT3
from engine.backbones.opensora.vae import OpenSoraVAE
from engine.zoo import emoji
from engine.zoo.files import save_half
from engine.zoo.loop import Schedule, fit
from engine.zoo.losses import kl_divergence, reconstruction_loss
from engine.zoo.text import MAX_LENGTH, build_encoder, build_tokenizer, save_text_side

FRAMES, SIZE, FPS, STILL_FPS = 17, 64, 12, 120
VAE_CONFIG = {
    "spatial_block_out_channels": [32, 64, 64],
    "spatial_layers_per_block": 1,
    "spatial_norm_num_groups": 8,
    "temporal_filters": 24,
    "temporal_channel_multipliers": [1, 1, 1],
    "temporal_downsample": [True, True],
    "temporal_res_blocks": 1,
    "temporal_norm_num_groups": 8,
    "micro_batch_size": 68,
}
DENOISER_CONFIG = {
    "hidden_size": 128,
    "depth": 3,
    "num_heads": 4,
    "caption_channels": 64,
    "model_max_length": MAX_LENGTH,
    "input_sq_size": SIZE,
}


@dataclass(frozen=True)
class Recipe:
    """How long each stage trains; the defaults made the weights that ship with the project."""

    seed: int = 0
    spatial_steps: int = 2500
    temporal_steps: int = 1500
    denoiser_steps: int = 7000
    still_steps: int = 2500
    bank_clips: int = 3200
    batch: int = 16
    still_batch: int = 64


def train_spatial(vae: OpenSoraVAE, folder: Path, recipe: Recipe) -> float:
    """Train the 2-D VAE on single frames; then set its scaling so that latents have about unit variance."""
    module = vae.spatial_vae.module.to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(module)

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        video, *_ = emoji.sample(recipe.batch, 1, generator)
        images = video[:, :, 0].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = module.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            output = module.decode(posterior.mean + posterior.std * noise).sample
        return reconstruction_loss(images, output.float()) + 1e-4 * kl_divergence(posterior.mean, posterior.logvar)

    schedule = Schedule(recipe.spatial_steps, learning_rate=2e-3, ema=0.995)
    seconds = fit("spatial_vae", folder, module, averaged, loss_of, schedule, seed=recipe.seed)
    module.load_state_dict(averaged.state_dict())
    return seconds


@torch.no_grad()
def spatial_scaling(vae: OpenSoraVAE, seed: int) -> float:
    """Factor that gives the 2-D VAE's latents unit standard deviation."""
    video, *_ = emoji.sample(128, 1, torch.Generator().manual_seed(seed))
    mean, _ = vae.spatial_posterior(video[:, :, 0])
    return round(1.0 / mean.std().item(), 4)


@torch.no_grad()
def encode_frames(vae: OpenSoraVAE, video: Tensor) -> Tensor:
    """Scaled 2-D latents [B, 4, F, h, w] of video [B, 3, F, H, W], the posterior's mean."""
    with torch.autocast("cpu", torch.bfloat16):
        return vae.encode_spatial(video, sample=False).float()


def train_temporal(vae: OpenSoraVAE, folder: Path, recipe: Recipe) -> float:
    """Train the temporal VAE on the frozen 2-D latents of moving clips.

    Errors are weighed by each channel's spread, and some frames are decoded to pixels: the 2-D latents' channels differ
    in size, not in importance.
    """
    module, averaged = vae.temporal_vae, copy.deepcopy(vae.temporal_vae)
    vae.spatial_vae.requires_grad_(False)
    reference, *_ = emoji.sample(64, 1, torch.Generator().manual_seed(recipe.seed))
    spread = encode_frames(vae, reference).std(dim=(0, 2, 3, 4), keepdim=True)

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        video, *_ = emoji.sample(recipe.batch // 4, FRAMES, generator)
        frames = encode_frames(vae, video)
        with torch.autocast("cpu", torch.bfloat16):
            mean, logvar = vae.encode_temporal(frames)
            noise = torch.randn(mean.shape, generator=generator)
            output = vae.decode_temporal(mean + (0.5 * logvar).exp() * noise, FRAMES)
            shown = torch.randperm(FRAMES, generator=generator)[:2]
            pixels = vae.decode_spatial(output[:, :, shown])
        loss = F.l1_loss(output.float() / spread, frames / spread)
        loss = loss + reconstruction_loss(video[:, :, shown], pixels.float())
        return loss + 3e-5 * kl_divergence(mean.float(), logvar.float())

    schedule = Schedule(recipe.temporal_steps, learning_rate=3e-3, ema=0.995)
    seconds = fit("temporal_vae", folder, module, averaged, loss_of, schedule, seed=recipe.seed + 1)
    module.load_state_dict(averaged.state_dict())
    return seconds


@torch.no_grad()
def build_bank(vae: OpenSoraVAE, folder: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Latents of `bank_clips` random clips, [M, 4, 5, h, w] in fp16 before normalisation, with their labels."""
    path = folder / "bank.safetensors"
    if path.exists():
        return load_file(path)
    parts: dict[str, list[Tensor]] = {"latents": [], "objects": [], "directions": []}
    generator = torch.Generator().manual_seed(recipe.seed + 2)
    for _ in range(0, recipe.bank_clips, 32):
        video, _captions, objects, directions = emoji.sample(32, FRAMES, generator)
        with torch.autocast("cpu", torch.bfloat16):
            mean, _ = vae.encode_temporal(encode_frames(vae, video))
        for name, value in (("latents", mean.half()), ("objects", objects), ("directions", directions)):
            parts[name].append(value)
    bank = {name: torch.cat(values).contiguous() for name, values in parts.items()}
    save_file(bank, path)
    return bank


class TextToVideo(nn.Module):
    """Denoiser and text encoder, trained together."""

    def __init__(self, tokenizer: T5TokenizerFast) -> None:
        super().__init__()
        self.encoder = build_encoder(len(tokenizer))
        self.denoiser = STDiT3.from_config(DENOISER_CONFIG)
        self.initialise()

    def initialise(self) -> None:
        """Small linears; zero where a fresh block should pass its input through, as the original starts."""
        for module in self.denoiser.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.denoiser.t_block[1].weight, std=0.02)
        nn.init.xavier_uniform_(self.denoiser.x_embedder.proj.weight.view(DENOISER_CONFIG["hidden_size"], -1))
        nn.init.zeros_(self.denoiser.final_layer.linear.weight)
        for block in self.denoiser.temporal_blocks:
            for layer in (block.attn.proj, block.cross_attn.proj, block.mlp.fc2):
                nn.init.zeros_(layer.weight)


def flow_times(batch: int, generator: torch.Generator, shift: float = 2.2) -> Tensor:
    """Noise levels in (0, 1): logit-normal, one in five uniform, shifted towards noise. [B]."""
    normal = torch.randn(batch, generator=generator).sigmoid()
    uniform = torch.rand(batch, generator=generator)
    level = torch.where(torch.rand(batch, generator=generator) < 0.2, uniform, normal)
    return shift * level / (1 + (shift - 1) * level)


def train_denoiser(
    model: TextToVideo, tokenizer: T5TokenizerFast, bank: dict[str, Tensor], folder: Path, recipe: Recipe
) -> tuple[TextToVideo, float]:
    """Rectified flow on the bank of normalised latents; one caption in ten is replaced by the null caption.

    First single latent frames in large batches, which teach what things look like, then clips with some stills between.
    """
    latents = bank["latents"]
    names, drop_rate = emoji.names(), 0.1
    averaged = copy.deepcopy(model)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        still = step < recipe.still_steps or step % 4 == 3
        batch = recipe.still_batch if still else recipe.batch
        sizes, fps = torch.full((batch,), float(SIZE)), torch.full((batch,), float(STILL_FPS if still else FPS))
        rows = torch.randint(len(latents), (batch,), generator=generator)
        frame = torch.randint(latents.shape[2], (batch,), generator=generator)
        clean = (latents[rows, :, frame][:, :, None] if still else latents[rows]).float()
        pairs = zip(bank["objects"][rows].tolist(), bank["directions"][rows].tolist(), strict=True)
        captions = [emoji.caption(names[thing], emoji.DIRECTIONS[way]) for thing, way in pairs]
        tokens = tokenizer(captions, padding="longest", return_tensors="pt")
        noise = torch.randn(clean.shape, generator=generator)
        level = flow_times(batch, generator)
        spread = level[:, None, None, None, None]
        dropped = torch.rand(batch, generator=generator) < drop_rate
        with torch.autocast("cpu", torch.bfloat16):
            text = model.encoder(**tokens).last_hidden_state.float()
            null = model.denoiser.y_embedder.null(text.shape[1])
            text = torch.where(dropped[:, None, None], null, text)
            output = model.denoiser(
                (1 - spread) * clean + spread * noise,
                level * 1000,
                text[:, None],
                mask=tokens.attention_mask,
                fps=fps,
                height=sizes,
                width=sizes,
            )
        velocity, _variance = output.chunk(2, dim=1)
        return F.mse_loss(velocity, clean - noise)

    schedule = Schedule(recipe.denoiser_steps, learning_rate=1.5e-3, warmup=300, ema=0.999)
    seconds = fit("denoiser", folder, model, averaged, loss_of, schedule, seed=recipe.seed + 3)
    return averaged, seconds


def train(work: Path, out: Path, recipe: Recipe) -> None:
    """Run (or resume) every stage in `work`, then write the repository layout to `out`."""
    torch.manual_seed(recipe.seed)
    minutes: dict[str, float] = {}
    vae = OpenSoraVAE.from_config(VAE_CONFIG)
    minutes["spatial_vae"] = train_spatial(vae, work, recipe) / 60
    config = {**VAE_CONFIG, "spatial_scaling_factor": spatial_scaling(vae, recipe.seed)}
    vae = _with_config(vae, config)
    minutes["temporal_vae"] = train_temporal(vae, work, recipe) / 60
    bank = build_bank(vae, work, recipe)
    sample = bank["latents"].float().transpose(0, 1).flatten(1)
    config["latent_shift"] = [round(value, 4) for value in sample.mean(dim=1).tolist()]
    # A channel that hardly varies holds hardly anything: blown up to unit variance it would only distract.
    spread = sample.std(dim=1)
    config["latent_scale"] = [round(value, 4) for value in spread.clamp(min=spread.max().item() / 2).tolist()]
    vae = _with_config(vae, config)
    bank["latents"] = vae.normalize(bank["latents"].float()).half()
    save_half(vae, out / "vae")

    torch.manual_seed(recipe.seed + 3)
    tokenizer = build_tokenizer(emoji.caption(name, way) for name in emoji.names() for way in emoji.DIRECTIONS)
    model, seconds = train_denoiser(TextToVideo(tokenizer), tokenizer, bank, work, recipe)
    minutes["denoiser"] = seconds / 60
    save_half(model.denoiser, out / "transformer")
    save_text_side(tokenizer, model.encoder, out)
    facts = {"recipe": recipe.__dict__, "minutes": {name: round(value, 1) for name, value in minutes.items()}}
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def _with_config(vae: OpenSoraVAE, config: dict[str, object]) -> OpenSoraVAE:
    """The same weights under a config whose scaling, shift and scale are now known."""
    fresh: OpenSoraVAE = OpenSoraVAE.from_config(config)
    weights = {name: value for name, value in vae.state_dict().items() if name not in ("scale", "shift")}
    fresh.load_state_dict(weights, strict=False)
    return fresh
