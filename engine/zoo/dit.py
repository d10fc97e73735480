"""Recipe of the embedded DiT: class-conditional, the classes are the 200 pictures of the set."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from engine.zoo import emoji
from engine.zoo.diffusion import NoisyLatents, fast_training
from engine.zoo.files import save_half, save_index
from engine.zoo.latents import build_bank
from engine.zoo.loop import Schedule, fit

CLASSES = len(emoji.names())
CONFIG: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 5,
    "in_channels": 4,
    "out_channels": 8,
    "sample_size": 16,
    "patch_size": 2,
    "num_embeds_ada_norm": CLASSES,
    "norm_eps": 1e-6,
}
BATCH, DROP_RATE = 64, 0.1


def fresh() -> DiTTransformer2DModel:
    """An untrained DiT as the original starts: every block passes its input through, and the output is zero.

    All blocks share one embedder of time step and class, as in the original; diffusers stores a copy in each.
    """
    model = DiTTransformer2DModel.from_config(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    embedder = model.transformer_blocks[0].norm1.emb
    for table in (embedder.class_embedder.embedding_table, *embedder.timestep_embedder.children()):
        if hasattr(table, "weight"):
            nn.init.normal_(table.weight, std=0.02)
    for block in model.transformer_blocks:
        block.norm1.emb = embedder
        nn.init.zeros_(block.norm1.linear.weight)
    nn.init.zeros_(model.proj_out_1.weight)
    nn.init.zeros_(model.proj_out_2.weight)
    return model.eval()  # classes are dropped here, not by the model, which would use the global generator


def train_dit(work: Path, out: Path, *, seed: int, steps: int) -> None:
    """Train (or resume) in `work`, then write the repository layout to `out`."""
    bank = build_bank(work, seed)
    torch.manual_seed(seed)
    model = fresh()
    averaged = copy.deepcopy(model)

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(bank["latents"]), (BATCH,), generator=generator)
        noisy = NoisyLatents(bank["latents"][rows].float(), generator)
        dropped = torch.rand(BATCH, generator=generator) < DROP_RATE
        labels = torch.where(dropped, CLASSES, bank["objects"][rows])
        with fast_training():
            output = model(noisy.noised, timestep=noisy.timesteps, class_labels=labels).sample
        return noisy.loss(output.float())

    schedule = Schedule(steps, learning_rate=1.5e-3, warmup=300, ema=0.999)
    seconds = fit("denoiser", work, model, averaged, loss_of, schedule, seed=seed)
    save_half(averaged, out / "transformer")
    save_index(out, "DiTPipeline", {"id2label": {str(label): name for label, name in enumerate(emoji.names())}})
    facts = {"seed": seed, "steps": steps, "batch": BATCH, "minutes": round(seconds / 60, 1)}
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
