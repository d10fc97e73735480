"""Plain generation for model cards: a backbone and its sampler, without compiler and runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.backbones.base import Backbone, Inputs
from engine.denoise import Denoise
from engine.technique import Technique
from engine.zoo import emoji

PROMPTS, BATCH = 64, 8


def random_objects(generator: torch.Generator) -> list[str]:
    """Names of 64 pictures of the set, each once."""
    return [emoji.names()[thing] for thing in torch.randperm(len(emoji.names()), generator=generator)[:PROMPTS]]


@torch.inference_mode()
def generate(
    backbone: Backbone,
    sampler: Technique,
    inputs_of: Callable[[list[str]], Inputs],
    prompts: Sequence[str],
    seed: int,
) -> Tensor:
    """Outputs [b, 3, F, H, W] in 0..1 of the loaded backbone; prompt i has seed + i."""
    outputs = []
    for start in range(0, len(prompts), BATCH):
        inputs = inputs_of(list(prompts[start : start + BATCH]))
        run = backbone.shape(inputs, sampler.predictions())
        conditions = backbone.encode(inputs, run)

        def predict(x: Tensor, t: float) -> Tensor:
            rows = backbone.predict(x, t, conditions, run.branches)  # noqa: B023 - called within this turn
            return backbone.combine(rows, run.branches, inputs.guidance)  # noqa: B023

        seeds = [seed + start + index for index in range(run.batch)]
        denoise = Denoise(predict, backbone.prediction, backbone.noise)
        latents = sampler.sampler(run)(backbone.initial_noise(run, seeds), sampler.times(run), denoise)
        outputs.append(backbone.decode(latents, run))
    return torch.cat(outputs)
