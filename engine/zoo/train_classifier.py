"""Recipe of the classifier: clips of the picture set, blurred, noisy and tinted, so that mild VAE blur is no news."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.zoo import emoji
from engine.zoo.classifier import EmojiClassifier
from engine.zoo.files import save_half
from engine.zoo.loop import Schedule, fit

BLANK = 2
"""Clips of a batch that show a plain colour, for which no object is the right answer: else grey looks like a thing."""


def roughened(video: Tensor, generator: torch.Generator) -> Tensor:
    """Half the clips blurred by halving and doubling their size; all get noise and a tint. Shape is kept."""
    frames = video.transpose(1, 2).flatten(0, 1)
    blurred = F.interpolate(F.avg_pool2d(frames, 2), scale_factor=2, mode="bilinear")
    blurred = blurred.unflatten(0, (video.shape[0], -1)).transpose(1, 2)
    chosen = torch.rand(video.shape[0], 1, 1, 1, 1, generator=generator) < 0.5
    video = torch.where(chosen, blurred, video)
    tint = 1 + 0.1 * torch.randn(video.shape[0], 3, 1, 1, 1, generator=generator)
    noise = (
        torch.randn(video.shape, generator=generator)
        * 0.1
        * torch.rand(video.shape[0], 1, 1, 1, 1, generator=generator)
    )
    return video * tint + noise


@torch.inference_mode()
def accuracy(model: EmojiClassifier, *, rough: bool, seed: int = 1) -> dict[str, float]:
    """Share of objects and directions recognised, on one clip of every picture in every direction."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.arange(len(emoji.names())).repeat_interleave(len(emoji.DIRECTIONS))
    directions = torch.arange(len(emoji.DIRECTIONS)).repeat(len(emoji.names()))
    backgrounds = torch.rand(len(objects), 3, generator=generator) * 0.2 + 0.8
    video = emoji.render(objects, directions, backgrounds, 3)
    things, ways = model(roughened(video, generator) if rough else video)
    return {
        "object": (things.argmax(1) == objects).float().mean().item(),
        "direction": (ways.argmax(1) == directions).float().mean().item(),
    }


def train_classifier(work: Path, out: Path, *, seed: int = 0, steps: int = 4000, batch: int = 32) -> None:
    """Train (or resume) in `work`, then write config, weights and measured accuracies to `out`."""
    torch.manual_seed(seed)
    model = EmojiClassifier(objects=len(emoji.names()))
    averaged = copy.deepcopy(model)

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        video, _captions, objects, directions = emoji.sample(batch, 3, generator)
        wanted = F.one_hot(objects, len(emoji.names())).float()
        video[:BLANK] = 2 * torch.rand(BLANK, 3, 1, 1, 1, generator=generator) - 1
        wanted[:BLANK] = 1 / len(emoji.names())
        things, ways = model(roughened(video, generator))
        moving = F.cross_entropy(ways[BLANK:], directions[BLANK:])
        return F.cross_entropy(things, wanted, label_smoothing=0.05) + 0.3 * moving

    seconds = fit("classifier", work, model, averaged, loss_of, Schedule(steps, 3e-3, ema=0.995), seed=seed)
    averaged.eval()
    save_half(averaged, out)
    facts = {
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "minutes": round(seconds / 60, 1),
        "accuracy": {"clean": accuracy(averaged, rough=False), "rough": accuracy(averaged, rough=True)},
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
