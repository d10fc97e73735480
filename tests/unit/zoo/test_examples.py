"""Training data of the embedded models, as `prepare` sees it."""

from __future__ import annotations

import pytest
import torch

from engine import registry
from engine.backbones.base import Backbone, Inputs
from engine.spec import ModelChoice
from engine.zoo import emoji


def small_inputs(backbone: Backbone, *prompts: str) -> Inputs:
    """Inputs of the size that the embedded models were trained for."""
    sizes = {"num_frames": 17, "height": 64, "width": 64} if backbone.name == "opensora" else {}
    return backbone.inputs(prompts=list(prompts), **sizes)


@pytest.mark.parametrize("name", ["dit", "pixart", "latte", "opensora"])
def test_examples_are_what_the_decoder_gives_back(name: str) -> None:
    """Encoded and decoded again, an example looks like its picture: the latents have the scale the denoiser knows."""
    backbone = registry.backbones()[name].sketch(ModelChoice(backbone=name))
    backbone.load(torch.device("cpu"))
    run = backbone.shape(small_inputs(backbone, "red apple" if name == "dit" else "a red apple"), 1)
    found = backbone.examples(run, 2, seed=3)
    assert found is not None
    named, latents = found
    assert latents.shape == (2, *run.latent)
    assert not backbone.check(backbone.inputs(prompts=named))
    video, _ = emoji.examples(2, run.pixels, 3)
    with torch.inference_mode():
        error = (backbone.decode(latents, run) - (video + 1) / 2).square().mean()
    assert error < 0.01


def test_random_weights_have_none() -> None:
    backbone = registry.backbones()["dit"].tiny()
    assert backbone.examples(backbone.shape(backbone.inputs(prompts=["3"]), 1), 2, 0) is None


@pytest.mark.parametrize("name", ["dit", "pixart", "opensora"])
def test_a_level_for_each_sample(name: str) -> None:
    """A batch at several noise levels is each sample at its own."""
    backbone = registry.backbones()[name].tiny()
    inputs = small_inputs(backbone, "3", "4")
    run = backbone.shape(inputs, 1)
    x = backbone.initial_noise(run, [1, 2])
    with torch.inference_mode():
        conditions = backbone.encode(inputs, run)
        both = backbone.predict(x, torch.tensor([0.3, 0.8]), conditions, run.branches)
        low, high = (backbone.predict(x, level, conditions, run.branches) for level in (0.3, 0.8))
    first, second = both.unflatten(0, (2, 2)).unbind(1)
    torch.testing.assert_close(first, low.unflatten(0, (2, 2))[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second, high.unflatten(0, (2, 2))[:, 1], rtol=1e-4, atol=1e-5)
