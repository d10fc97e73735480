"""DiT and PixArt: opened attention and the plain loop are diffusers' own, published sizes cost what papers say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DPMSolverMultistepScheduler, PixArtAlphaPipeline
from diffusers.models.attention import Attention
from diffusers.models.attention_processor import AttnProcessor2_0
from support import BACKBONES, ROOT, TINY_STEPS
from torch import Tensor

from engine.backbones.common.pictures import PictureTransformer
from engine.backbones.common.text import T5Text
from engine.backbones.pixart import PixArt
from engine.compiler import Compiled, compile_spec
from engine.runner import load_backbone, opened
from engine.spec import ModelChoice, load_spec
from engine.step import Branch

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Compile = Callable[..., Compiled]
NAMES = ("dit", "pixart")
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
SAMPLERS: dict[str, tuple[dict[str, Any], Any]] = {
    "ddim": ({"ddim": {"steps": TINY_STEPS}}, DDIMScheduler(**LINEAR, clip_sample=False)),
    "dpm_solver_pp": ({"dpm_solver_pp": {"steps": TINY_STEPS}}, DPMSolverMultistepScheduler(**LINEAR)),
}
on_both = pytest.mark.parametrize("name", NAMES)


def originals(tiny: PictureTransformer) -> dict[str, Any]:
    """Denoiser and VAE with the same weights, built and run by diffusers alone."""
    model = type(tiny.model).from_config(tiny.model.config)
    model.load_state_dict(tiny.model.state_dict())
    vae = AutoencoderKL.from_config(tiny.vae.config)
    vae.load_state_dict(tiny.vae.state_dict())
    kernels = {type(module.processor) for module in model.modules() if isinstance(module, Attention)}
    assert kernels == {AttnProcessor2_0}
    return {"transformer": model.eval(), "vae": vae.eval()}


def generated(compiled: Compiled, seeds: list[int]) -> tuple[Tensor, Tensor]:
    with opened(compiled) as side:
        latents = side.generate(seeds)
        return latents, compiled.backbone.decode(latents, compiled.run)[:, :, 0]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prompts", [("207",), ("207", "3")], ids=["one", "two"])
def test_dit_is_the_pipeline(compile_tiny: Compile, sampler: str, guidance: float, prompts: tuple[str, ...]) -> None:
    settings, scheduler = SAMPLERS[sampler]
    tiny = BACKBONES["dit"].tiny()
    compiled = compile_tiny("dit", on=tiny, prompts=prompts, inputs={"guidance": guidance}, sampler=settings)
    seeds = [5 + index for index in range(len(prompts))]
    _, ours = generated(compiled, seeds)
    pipeline = DiTPipeline(**originals(tiny), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [int(prompt) for prompt in prompts],
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=TINY_STEPS,
        output_type="pt",
    ).images
    assert (ours - theirs).abs().max() < 1e-4
    assert ours.std() > 0.01, "a flat picture would agree with anything"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prompts", [("a cat",), ("a cat", "the small dog")], ids=["one", "two"])
def test_pixart_is_the_pipeline(compile_tiny: Compile, sampler: str, guidance: float, prompts: tuple[str, ...]) -> None:
    settings, scheduler = SAMPLERS[sampler]
    tiny = BACKBONES["pixart"].tiny()
    compiled = compile_tiny("pixart", on=tiny, prompts=prompts, inputs={"guidance": guidance}, sampler=settings)
    seeds = [5 + index for index in range(len(prompts))]
    latents, ours = generated(compiled, seeds)
    pipeline = PixArtAlphaPipeline(tokenizer=None, text_encoder=None, **originals(tiny), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    texts = {"prompt": list(prompts), "negative_prompt": [""] * len(prompts)}
    encoded = {f"{name}_embeds": tiny.text(text, 8)[0] for name, text in texts.items()}
    encoded |= {f"{name}_attention_mask": tiny.text(text, 8)[1] for name, text in texts.items()}
    arguments = {
        "prompt": None,
        "negative_prompt": None,
        **encoded,
        "guidance_scale": guidance,
        "num_inference_steps": TINY_STEPS,
        "height": 16,
        "width": 24,
        "use_resolution_binning": False,
    }

    def theirs(kind: str) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipeline(**arguments, generator=generators, output_type=kind).images

    assert (ours - theirs("pt")).abs().max() < 1e-4
    assert (latents - theirs("latent")).abs().max() < 1e-4 * latents.abs().max()
    assert ours.std() > 0.01, "a flat picture would agree with anything"


@on_both
def test_opened_blocks_are_diffusers_own(name: str) -> None:
    """Bit for bit, masks and all."""
    tiny = BACKBONES[name].tiny()
    inputs = tiny.inputs(prompts=["one", "two and more"])
    run = tiny.shape(inputs, 1)
    x, branches = tiny.initial_noise(run, [1, 2]), run.branches
    with torch.inference_mode():
        conditions = tiny.encode(inputs, run)
        ours = tiny.predict(x, 0.5, conditions, branches)
        tiny.model = tiny.call.model = originals(tiny)["transformer"]
        assert torch.equal(tiny.predict(x, 0.5, conditions, branches), ours)


@on_both
def test_opening_adds_no_weights(name: str) -> None:
    tiny = BACKBONES[name].tiny()
    assert tiny.model.state_dict().keys() == type(tiny.model).from_config(tiny.model.config).state_dict().keys()


@on_both
def test_positions_of_another_grid_are_diffusers_own(name: str) -> None:
    tiny = BACKBONES[name].tiny()
    size = {"size": 32} if name == "dit" else {"height": 32, "width": 48}
    inputs = tiny.inputs(prompts=["one"], **size)
    run = tiny.shape(inputs, 1)
    latents = tiny.initial_noise(run, [0])
    original = originals(tiny)["transformer"].pos_embed
    tiny.encode(inputs, run)
    assert tiny.model.pos_embed.height == run.grid[1] and original.height != run.grid[1]
    assert torch.equal(tiny.model.pos_embed(latents), original(latents))


@pytest.mark.parametrize(("repository", "gflops"), [("DiT-XL-2-256", 118.64), ("DiT-XL-2-512", 524.6)])
def test_dit_costs_what_its_paper_says(repository: str, gflops: float) -> None:
    """The DiT paper counts a multiply-accumulate as one FLOP, for one sample without guidance."""
    kind = BACKBONES["dit"]
    sketch = kind.sketch(ModelChoice(backbone="dit", weights="random"))
    size = int(kind.published[repository]["sample_size"]) * 8
    sites = sketch.sites(sketch.shape(kind.inputs(prompts=["1"], size=size), 1))
    assert sum(site.macs for site in sites) == pytest.approx(gflops * 1e9, rel=0.02)


@on_both
def test_random_weights_build_the_published_size(name: str) -> None:
    """675 and 611 million in the papers; diffusers' DiT repeats the embedder of time and class in every block."""
    sketch = BACKBONES[name].sketch(ModelChoice(backbone=name, weights="random"))
    counted = sum(parameter.numel() for parameter in sketch.model.parameters())
    repeated = 0
    if name == "dit":
        embedder = sketch.model.transformer_blocks[0].norm1.emb
        repeated = 27 * sum(parameter.numel() for parameter in embedder.parameters())
    assert counted - repeated == pytest.approx({"dit": 675e6, "pixart": 611e6}[name], rel=0.002)


@on_both
def test_random_weights_load_and_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` fills a sketch; a small published size keeps the test quick."""
    kind = BACKBONES[name]
    small = {**kind.tiny_config, "num_attention_heads": 2, "attention_head_dim": 24}
    monkeypatch.setattr(kind, "published", {"small": small})
    monkeypatch.setattr("engine.backbones.common.pictures.PUBLISHED_VAE", dict(kind.tiny().vae_config))
    backbone = kind.sketch(ModelChoice(backbone=name, weights="random"))
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}
    backbone.load(torch.device("cpu"))
    inputs = backbone.inputs(prompts=["a cat", "a dog"])
    run = backbone.shape(inputs, 1)
    with torch.inference_mode():
        x = backbone.initial_noise(run, [0, 1])
        out = backbone.predict(x, 0.7, backbone.encode(inputs, run), run.branches)
        pictures = backbone.decode(x, run)
    assert out.shape == (4, *run.latent) and torch.isfinite(out).all()
    assert not torch.equal(out[0], out[1]), "prompts differ"
    assert pictures.shape == (2, 3, 1, 16, 16) and pictures.min() >= 0 and pictures.max() <= 1


@on_both
def test_branch_order_is_the_pipelines(name: str) -> None:
    assert (
        BACKBONES[name].branches
        == {
            "dit": (Branch.COND, Branch.UNCOND),
            "pixart": (Branch.UNCOND, Branch.COND),
        }[name]
    )


@pytest.mark.parametrize(("edge", "nearest"), [(250, 256), (1000, 992)])
def test_sizes_must_divide_into_patches(edge: int, nearest: int) -> None:
    sketch = BACKBONES["dit"].sketch(ModelChoice(backbone="dit", weights="random"))
    problems = sketch.check(sketch.inputs(prompts=["1"], size=edge))
    assert problems == [("size", f"`size` is {edge}, no multiple of 16", f"use {nearest}")]
    assert sketch.check(sketch.inputs(prompts=["1"], size=nearest)) == []


def test_embedded_pixart_is_the_pipeline_with_its_text_encoder() -> None:
    """From words to pixels, as the shipped spec runs it, in fewer steps."""
    changes = ["sampler.dpm_solver_pp.steps=4", "inputs.prompts=[A red apple, a yellow taxi]"]
    compiled = compile_spec(load_spec(ROOT / "specs" / "models" / "pixart.yaml", changes=changes))
    load_backbone(compiled, torch.device("cpu"))
    backbone = compiled.backbone
    assert isinstance(backbone, PixArt) and isinstance(backbone.text, T5Text)
    _, ours = generated(compiled, [0, 1])
    pipeline = PixArtAlphaPipeline(
        tokenizer=backbone.text.tokenizer,
        text_encoder=backbone.text.model,
        **originals(backbone),
        scheduler=DPMSolverMultistepScheduler(**LINEAR),
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        list(compiled.inputs.prompts),
        guidance_scale=compiled.inputs.guidance,
        num_inference_steps=4,
        height=64,
        width=64,
        use_resolution_binning=False,
        max_sequence_length=16,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        output_type="pt",
    ).images
    assert (ours - theirs).abs().max() < 1e-4
