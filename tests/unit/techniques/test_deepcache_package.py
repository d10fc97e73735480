"""DeepCache against its authors' package: same weights, same noise, the same latents.

The package has full steps at equal distances only; those of the paper's Stable Diffusion runs, which are not, are
compared with the official list in `tests/facts`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from DeepCache import DeepCacheSDHelper
from support import TINY_STEPS
from support_unets import embeddings, generated, generators, original, pipeline_of, tiny
from torch import Tensor, nn

from engine.compiler import Compiled

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Compile = Callable[..., Compiled]
PROMPTS = ("a cat", "the small dog")
SEEDS = [5, 6]
BRANCHES = [*(("deep", branch) for branch in range(9)), ("deep_xl", 0), ("deep_xl", 4)]


@contextmanager
def helped(pipe: Any, interval: int, branch: int) -> Iterator[None]:
    """The package at work in a pipeline."""
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    yield
    helper.disable()


class ByPosition(nn.Module):
    """diffusers' denoiser called as the package needs it: with one time step, by position."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, hidden: Tensor, timestep: Tensor, **inputs: Any) -> Any:
        return self.unet(hidden, timestep[0], **inputs)


def theirs(compiled: Compiled, interval: int, branch: int) -> Tensor:
    """The package in the engine's own loop: nothing else can differ."""
    backbone, plain = compiled.backbone, dataclasses.replace(compiled, entries=())
    unet, ours = original(backbone), backbone.call.model
    times = compiled.sampler.times(compiled.run)
    steps = torch.tensor([int(backbone.noise.timestep(time)) for time in times])
    with helped(SimpleNamespace(unet=unet, scheduler=SimpleNamespace(timesteps=steps)), interval, branch):
        backbone.call.model = ByPosition(unet)
        latents, _ = generated(plain, SEEDS)
        backbone.call.model = ours
    return latents


def cached(interval: int, branch: int) -> dict[str, Mapping[str, Any]]:
    return {"deepcache": {"interval": interval, "branch": branch, "uniform": True}}


@pytest.mark.parametrize(("layout", "branch"), BRANCHES)
def test_every_branch_is_the_packages_bit_for_bit(compile_tiny: Compile, layout: str, branch: int) -> None:
    backbone = tiny(layout)
    assert len(backbone.model.stages) == 9
    compiled = compile_tiny("sd", cached(3, branch), on=backbone, prompts=PROMPTS)
    ours, _ = generated(compiled, SEEDS)
    assert torch.equal(ours, theirs(compiled, 3, branch))
    if branch < 8:  # what is kept there is the middle alone, which random weights may leave without effect
        assert not torch.equal(ours, generated(compile_tiny("sd", on=backbone, prompts=PROMPTS), SEEDS)[0])


@pytest.mark.parametrize("interval", [1, 2, 5, 20])
def test_every_interval_is_the_packages_bit_for_bit(compile_tiny: Compile, interval: int) -> None:
    compiled = compile_tiny("sd", cached(interval, 1), on=tiny("deep"), prompts=PROMPTS)
    assert torch.equal(generated(compiled, SEEDS)[0], theirs(compiled, interval, 1))


@pytest.mark.parametrize("layout", ["deep", "deep_xl"])
def test_pictures_are_those_of_the_pipeline_with_the_package(compile_tiny: Compile, layout: str) -> None:
    """diffusers' own loop rounds differently: as close as without any technique."""
    backbone, pipeline = tiny(layout), pipeline_of(tiny(layout), layout)
    compiled = compile_tiny("sd", cached(3, 1), on=backbone, prompts=PROMPTS)
    latents, pictures = generated(compiled, SEEDS)
    arguments = {
        **embeddings(backbone, PROMPTS, layout),
        "guidance_scale": 3.0,
        "num_inference_steps": TINY_STEPS,
        "height": 16,
        "width": 24,
    }
    with helped(pipeline, 3, 1):
        found = pipeline(**arguments, generator=generators(SEEDS), output_type="latent").images
        shown = pipeline(**arguments, generator=generators(SEEDS), output_type="pt").images
    assert (latents - found).abs().max() < 1e-4 * latents.abs().max()
    assert (pictures - shown).abs().max() < 1e-4
    assert pictures.std() > 0.01, "a flat picture would agree with anything"
