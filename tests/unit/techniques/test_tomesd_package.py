"""ToMeSD against its authors' package: same weights, same noise, same random destinations, the same latents.

The package draws its destinations from a copy of the global generator, which gets the technique's seed here. An
odd number of rows, for which it gives randomness up, is where the two differ on purpose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import tomesd
import torch
from support import TINY_STEPS
from support_unets import embeddings, generated, generators, original, pipeline_of, tiny
from torch import Tensor

from engine.compiler import Compiled

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Compile = Callable[..., Compiled]
PROMPTS = ("a cat", "the small dog")
SEEDS = [5, 6]
SEED = 3
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "half": {"ratio": 0.5, "use_rand": False},
    "most": {"ratio": 0.75},
    "extreme": {"ratio": 0.9, "sx": 4, "sy": 4, "max_downsample": 2},
    "oblong": {"ratio": 0.3, "sx": 2, "sy": 3},
    "cells that do not divide": {"ratio": 0.5, "sx": 5, "sy": 3},
    "two levels": {"max_downsample": 2},
    "cross-attention": {"merge_crossattn": True},
    "mlp": {"merge_mlp": True},
    "all": {"merge_crossattn": True, "merge_mlp": True},
    "without self-attention": {"merge_attn": False, "merge_mlp": True},
}


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package lists tokens by an unstable sort of equal keys, so that its sums depend on the machine's sort."""
    sort = torch.Tensor.argsort
    monkeypatch.setattr(torch.Tensor, "argsort", lambda x, **named: sort(x, **{**named, "stable": True}))


def theirs(compiled: Compiled, settings: dict[str, Any], seeds: list[int]) -> Tensor:
    """The package in the engine's own loop: nothing else can differ."""
    backbone, plain = compiled.backbone, dataclasses.replace(compiled, entries=())
    unet, ours = original(backbone), backbone.call.model
    tomesd.apply_patch(unet, **settings)
    unet._tome_info["args"]["generator"] = torch.Generator().manual_seed(SEED)
    backbone.call.model = unet
    latents, _ = generated(plain, seeds)
    backbone.call.model = ours
    return latents


def merged(backbone: Any, compile_tiny: Compile, settings: dict[str, Any]) -> Compiled:
    return compile_tiny("sd", {"tomesd": {**settings, "seed": SEED}}, on=backbone, prompts=PROMPTS)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_latents_are_the_packages_bit_for_bit(compile_tiny: Compile, settings: dict[str, Any]) -> None:
    backbone = tiny("deep")
    compiled = merged(backbone, compile_tiny, settings)
    ours, _ = generated(compiled, SEEDS)
    assert torch.equal(ours, theirs(compiled, settings, SEEDS))
    assert not torch.equal(ours, generated(compile_tiny("sd", on=backbone, prompts=PROMPTS), SEEDS)[0])


@pytest.mark.usefixtures("in_order")
def test_layers_without_a_whole_grid_are_the_packages(compile_tiny: Compile) -> None:
    """9x11 latents: rows and columns that fill no cell, and levels that do not halve evenly."""
    backbone, settings = tiny("deep_xl"), {"max_downsample": 4, "ratio": 0.6}
    own, size = {**settings, "seed": SEED}, {"height": 18, "width": 22}
    compiled = compile_tiny("sd", {"tomesd": own}, on=backbone, prompts=PROMPTS, inputs=size)
    assert torch.equal(generated(compiled, SEEDS)[0], theirs(compiled, settings, SEEDS))


@pytest.mark.parametrize("settings", [{}, {"max_downsample": 2}], ids=["default", "two levels"])
def test_pictures_are_those_of_the_pipeline_with_the_package(compile_tiny: Compile, settings: dict[str, Any]) -> None:
    """diffusers' own loop rounds differently: as close as without any technique."""
    backbone, pipeline = tiny("deep"), pipeline_of(tiny("deep"), "deep")
    latents, pictures = generated(merged(backbone, compile_tiny, settings), SEEDS)
    arguments = {
        **embeddings(backbone, PROMPTS, "deep"),
        "guidance_scale": 3.0,
        "num_inference_steps": TINY_STEPS,
        "height": 16,
        "width": 24,
    }
    found = {}
    for kind in ("latent", "pt"):
        tomesd.apply_patch(pipeline, **settings)  # which copies the global generator anew
        torch.manual_seed(SEED)
        found[kind] = pipeline(**arguments, generator=generators(SEEDS), output_type=kind).images
    assert (latents - found["latent"]).abs().max() < 1e-4 * latents.abs().max()
    assert (pictures - found["pt"]).abs().max() < 1e-4
    assert pictures.std() > 0.01, "a flat picture would agree with anything"


@pytest.mark.usefixtures("in_order")
def test_an_odd_number_of_rows_keeps_its_random_destinations(compile_tiny: Compile) -> None:
    """The package takes top left tokens then: two calls, one a guidance branch, would draw differently.

    Here all branches of a step share their draws, however many there are.
    """
    backbone, one = tiny("deep"), {"guidance": 1.0}

    def ours(**settings: Any) -> Compiled:
        return compile_tiny("sd", {"tomesd": settings}, on=backbone, prompts=PROMPTS[:1], inputs=one)

    package = theirs(ours(), {}, SEEDS[:1])
    assert torch.equal(package, generated(ours(use_rand=False), SEEDS[:1])[0])
    assert not torch.equal(package, generated(ours(), SEEDS[:1])[0])
