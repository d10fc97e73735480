"""T-GATE against the package of its authors, on pipelines with the same weights and prompts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from support import BACKBONES, TINY_STEPS
from torch import Tensor

from engine.backbones.base import Backbone
from engine.compiler import Compiled
from engine.runner import opened
from engine.spec import ModelChoice
from engine.step import Branch, Phase

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tgate import TgatePixArtAlphaLoader, TgateSDLoader, TgateSDXLLoader

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Compile = Callable[..., Compiled]
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
XL_FIELDS = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 12,
    "transformer_layers_per_block": [2, 1],
    "use_linear_projection": True,
}
TOLERANCE = 3e-6
"""Of the size of the latents: a few roundings, since the loop rounds in other places than diffusers' schedulers."""
prompts_of = pytest.mark.parametrize("prompts", [("a cat",), ("a cat", "the small dog")], ids=["one", "two"])
on_gates = pytest.mark.parametrize("gate_step", [1, 3, TINY_STEPS - 1])


def tiny(layout: str) -> Any:
    """A tiny backbone: pixart, sd, or sd in the layout of XL."""
    if layout != "xl":
        return BACKBONES[layout].tiny()
    kind = BACKBONES["sd"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.denoiser.from_config({**kind.tiny_config, **XL_FIELDS}).eval()
    backbone = kind(ModelChoice(backbone="sd", weights="random"), model, kind.tiny_vae)
    backbone.device = torch.device("cpu")
    backbone.load_conditioner({})
    return backbone


def ours(compiled: Compiled, seeds: list[int]) -> Tensor:
    with opened(compiled) as side:
        return side.generate(seeds)


def theirs(backbone: Backbone, layout: str, prompts: tuple[str, ...], seeds: list[int], **settings: Any) -> Tensor:
    """Latents of the package's own loop, on the unopened denoiser."""
    model = backbone.denoiser.from_config(backbone.model.config)
    model.load_state_dict(backbone.model.state_dict())
    parts = {"vae": AutoencoderKL.from_config(backbone.vae.config), "tokenizer": None, "text_encoder": None}
    if layout == "pixart":
        pipeline = PixArtAlphaPipeline(
            **parts, transformer=model.eval(), scheduler=DPMSolverMultistepScheduler(**LINEAR)
        )
        TgatePixArtAlphaLoader(pipeline)
        texts = {"prompt": backbone.text(prompts, 8), "negative_prompt": backbone.text([""] * len(prompts), 8)}
        inputs = {f"{name}_embeds": features for name, (features, _) in texts.items()}
        inputs |= {f"{name}_attention_mask": mask for name, (_, mask) in texts.items()}
        inputs |= {"prompt": None, "negative_prompt": None, "use_resolution_binning": False}
    else:
        scheduler = DDIMScheduler(**SCALED, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        text, empty = backbone.text(prompts), backbone.text([""] * len(prompts))
        inputs = {"prompt_embeds": text.tokens, "negative_prompt_embeds": empty.tokens}
        parts |= {"unet": model.eval(), "scheduler": scheduler}
        if layout == "xl":
            pipeline = StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
            TgateSDXLLoader(pipeline)
            inputs |= {"negative_prompt_embeds": torch.zeros_like(text.tokens), "pooled_prompt_embeds": text.pooled}
            inputs |= {"negative_pooled_prompt_embeds": torch.zeros_like(text.pooled)}
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            pipeline = StableDiffusionPipeline(**parts)
            TgateSDLoader(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sizes = {"height": 16, "width": 24, "guidance_scale": 3.0, "num_inference_steps": TINY_STEPS}
    # With both intervals 1 the second version, which the package is, leaves self-attention alone as the first does.
    first = {"sp_interval": 1, "fi_interval": 1}
    return pipeline.tgate(**inputs, **sizes, **settings, **first, generator=generators, output_type="latent").images


@pytest.mark.parametrize("layout", ["sd", "xl", "pixart"])
@prompts_of
@on_gates
def test_equals_the_package(compile_tiny: Compile, layout: str, prompts: tuple[str, ...], gate_step: int) -> None:
    backbone = tiny(layout)
    seeds = [5 + index for index in range(len(prompts))]
    arguments = {"on": backbone, "prompts": prompts}
    gated = ours(compile_tiny(backbone.name, {"t_gate": {"gate_step": gate_step}}, **arguments), seeds)
    known = theirs(backbone, layout, prompts, seeds, gate_step=gate_step)
    size = known.abs().max()
    assert (gated - known).abs().max() <= TOLERANCE * size
    plain = ours(compile_tiny(backbone.name, **arguments), seeds)
    assert (gated - plain).abs().max() > 10 * TOLERANCE * size, "else anything would agree"


@pytest.mark.parametrize("layout", ["sd", "xl"])
def test_which_branch_goes_on_shows_in_xl_only(compile_tiny: Compile, layout: str) -> None:
    """It reads a pooled text beside cross-attention: of the unconditional branch, in the package."""
    backbone = tiny(layout)
    latents = []
    for branch in (Branch.UNCOND, Branch.COND):
        compiled = compile_tiny("sd", {"t_gate": {"gate_step": 3}}, on=backbone)
        (entry,) = compiled.entries
        entry.phases[3:] = [Phase("gated", branches=(branch,))] * (TINY_STEPS - 3)
        latents.append(ours(compiled, [5, 6]))
    assert torch.equal(*latents) is (layout == "sd")
