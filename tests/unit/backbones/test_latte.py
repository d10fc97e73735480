"""Latte: the opened model and the plain loop are diffusers' own; its published size costs what a paper says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from support import BACKBONES, ROOT, TINY_STEPS
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, T5EncoderModel

from engine.backbones.common.text import T5Text
from engine.backbones.latte.adapter import Latte
from engine.backbones.latte.opened import OpenLatte, place_grid
from engine.compiler import Compiled, compile_spec
from engine.runner import opened
from engine.sites import SiteKind
from engine.spec import ModelChoice, load_spec
from engine.step import Branch
from engine.zoo.text import build_encoder, build_tokenizer, save_text_side

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Compile = Callable[..., Compiled]
ONE, TWO = ("a red cat",), ("a red cat", "the dog")
CPU = torch.device("cpu")


def tiny() -> Latte:
    backbone = BACKBONES["latte"].tiny()
    assert isinstance(backbone, Latte)
    return backbone


def original(model: OpenLatte) -> LatteTransformer3DModel:
    """A Latte with the same weights, built and run by diffusers alone."""
    plain = LatteTransformer3DModel.from_config(model.config)
    plain.load_state_dict(model.state_dict())
    kernels = {type(module.processor) for module in plain.modules() if isinstance(module, Attention)}
    assert kernels == {AttnProcessor2_0} and type(plain) is LatteTransformer3DModel
    return plain.eval()


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 encoder of 16 channels and its tokenizer."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = build_tokenizer(["a red cat", "the dog"])
    torch.manual_seed(0)
    save_text_side(tokenizer, build_encoder(len(tokenizer), width=16), folder)
    return folder


def with_text(folder: Path) -> Latte:
    backbone = tiny()
    backbone.text = T5Text(folder / "text_encoder", folder / "tokenizer", 16, CPU)
    return backbone


def pipeline_of(backbone: Latte, folder: Path) -> LattePipeline:
    vae = AutoencoderKL.from_config(backbone.vae.config)
    vae.load_state_dict(backbone.vae.state_dict())
    pipeline = LattePipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        vae=vae.eval(),
        transformer=original(backbone.model),
        scheduler=DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, clip_sample=False),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: LattePipeline, prompts: tuple[str, ...], guidance: float, seed: int, kind: str) -> Tensor:
    """Videos [b, F, 3, H, W] in 0..1, or latents."""
    frames: Tensor = pipeline(
        list(prompts),
        negative_prompt="the cat",
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed + index) for index in range(len(prompts))],
        num_inference_steps=TINY_STEPS,
        video_length=4,
        height=16,
        width=24,
        output_type=kind,
    ).frames
    return frames


def ours(
    compile_tiny: Compile, backbone: Latte, prompts: tuple[str, ...], guidance: float, **inputs: Any
) -> tuple[Tensor, Tensor]:
    """Latents, and videos [b, F, 3, H, W] in 0..1."""
    settings = {"guidance": guidance, "max_sequence_length": 120, "negative_prompt": "the cat", **inputs}
    compiled = compile_tiny("latte", on=backbone, prompts=prompts, inputs=settings)
    with opened(compiled) as side:
        latents = side.generate([5 + index for index in range(len(prompts))])
        return latents, compiled.backbone.decode(latents, compiled.run).transpose(1, 2)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(("prompts", "padding"), [(ONE, "cut"), (TWO, "zeros")], ids=["one", "two"])
def test_latte_is_the_pipeline(
    compile_tiny: Compile, text_folder: Path, guidance: float, prompts: tuple[str, ...], padding: str
) -> None:
    backbone = with_text(text_folder)
    latents, videos = ours(compile_tiny, backbone, prompts, guidance, text_padding=padding)
    pipeline = pipeline_of(backbone, text_folder)
    known = theirs(pipeline, prompts, guidance, 5, "latent")
    assert (latents - known).abs().max() < 1e-4 * max(1.0, known.abs().max().item())
    shown = theirs(pipeline, prompts, guidance, 5, "pt")
    assert videos.shape == shown.shape == (len(prompts), 4, 3, 16, 24)
    assert (videos - shown).abs().max() < 1e-4
    assert videos.std() > 0.01, "a flat video would agree with anything"


def test_prompts_of_a_batch_are_what_the_pipeline_makes_of_each(compile_tiny: Compile, text_folder: Path) -> None:
    """Cut, as by default; diffusers itself lets the prompts of a batch read each other's padding."""
    backbone = with_text(text_folder)
    latents, _ = ours(compile_tiny, backbone, TWO, 3.0)
    pipeline = pipeline_of(backbone, text_folder)
    for index, prompt in enumerate(TWO):
        alone = theirs(pipeline, (prompt,), 3.0, 5 + index, "latent")
        assert (latents[index] - alone[0]).abs().max() < 1e-4 * alone.abs().max()
    together = theirs(pipeline, TWO, 3.0, 5, "latent")
    assert (latents - together).abs().max() > 1e-2 * together.abs().max()


# ---------------------------------------------------------------- the opened model


@pytest.mark.parametrize("lengths", [(7, 7), (7, 3)], ids=["whole", "masked"])
@pytest.mark.parametrize("grid", [(4, 4, 4), (4, 4, 6), (1, 2, 4)], ids=["own", "wide", "still"])
def test_opened_model_is_diffusers_own(grid: tuple[int, int, int], lengths: tuple[int, int]) -> None:
    """Bit for bit."""
    model = tiny().model
    generator = torch.Generator().manual_seed(0)
    frames, rows, columns = grid
    latents = torch.randn(2, 4, frames, 2 * rows, 2 * columns, generator=generator)
    text, times = torch.randn(2, 7, 16, generator=generator), torch.tensor([3.0, 700.0])
    bias = torch.where(torch.arange(7)[None] < torch.tensor(lengths)[:, None], 0.0, -10_000.0)[:, None]
    masks = (None, None) if min(lengths) == 7 else (bias, bias.repeat_interleave(frames, dim=0))
    place_grid(model, grid)
    with torch.inference_mode():
        (out,) = model(latents, times, text, masks[0])
        (known,) = original(model)(latents, times, text, masks[1], return_dict=False)
    assert torch.equal(out, known)
    assert out.std() > 0.1 and not torch.equal(out[0], out[1])


def test_opening_adds_no_weights() -> None:
    model = tiny().model
    assert model.state_dict().keys() == LatteTransformer3DModel.from_config(model.config).state_dict().keys()


def test_frames_have_the_positions_of_diffusers_and_go_on_beyond_them() -> None:
    model = tiny().model
    known = original(model).temp_pos_embed
    place_grid(model, (6, 4, 4))
    assert torch.equal(model.temp_pos_embed[:, :4], known)
    assert len(model.temp_pos_embed[0].unique(dim=0)) == 6


def test_positions_of_frames_are_part_of_what_blocks_change() -> None:
    """With all blocks passed over, nothing tells frames apart: whoever restores a change restores them with it."""
    model = tiny().model
    latents, times, text = torch.ones(1, 4, 2, 8, 8), torch.tensor([5.0]), torch.ones(1, 3, 16)

    def frames_differ() -> bool:
        place_grid(model, (2, 4, 4))
        with torch.inference_mode():
            first, second = model(latents, times, text)[0].unbind(2)
        return not torch.equal(first, second)

    assert frames_differ()
    for block in (*model.transformer_blocks, *model.temporal_transformer_blocks):
        block.forward = lambda hidden, *_, **__: hidden
    assert not frames_differ()


def test_attention_stays_within_a_frame_or_within_a_place() -> None:
    """A change of one token reaches its frame through the one kind, its place in all frames through the other."""
    model = tiny().model
    place_grid(model, (4, 2, 3))
    shift = scale = torch.zeros(1, 1, 48)
    tokens = torch.randn(1, 24, 48, generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 8] += torch.randn(48, generator=torch.Generator().manual_seed(1))  # frame 1, row 0, column 2
    reached = []
    for block in (model.transformer_blocks[0], model.temporal_transformer_blocks[0]):
        with torch.inference_mode():
            before, after = (block.opened_attn1(rows, shift, scale) for rows in (tokens, changed))
        reached.append((before - after).abs().amax(dim=2)[0].nonzero()[:, 0].tolist())
    assert reached == [[6, 7, 8, 9, 10, 11], [2, 8, 14, 20]]


# ---------------------------------------------------------------- sizes, sites, costs


def test_published_size_costs_what_a_paper_says() -> None:
    """3439.47 TFLOPs for 16 frames of 512x512 in 50 steps with guidance: table of AdaCache (arXiv 2411.02397).

    Two FLOPs a multiply-accumulate, padded prompts. The original projects the text once a frame, here once.
    """
    compiled = compile_spec(
        load_spec(ROOT / "specs" / "models" / "latte.yaml", profile="scale", changes=["inputs.text_padding=zeros"])
    )
    assert compiled.run.latent == (4, 16, 64, 64) and compiled.run.text_tokens == 120
    macs = compiled.plan.estimate.macs
    assert macs == pytest.approx(3439.47e12 / 2, rel=0.01)
    once_a_frame = 15 * 28 * 2 * 120 * 1152**2 * len(compiled.run.branches) * compiled.run.steps
    assert macs + once_a_frame == pytest.approx(3439.47e12 / 2, rel=0.001)


def test_counted_flops_are_the_analytic_ones(compile_tiny: Compile) -> None:
    compiled = compile_tiny("latte", inputs={"text_padding": "zeros"})
    with opened(compiled) as side, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        side.generate((5, 6))
    assert counter.get_total_flops() == pytest.approx(2 * compiled.plan.estimate.macs, rel=0.01)


def test_sites_come_in_pairs() -> None:
    backbone = tiny()
    run = backbone.shape(backbone.inputs(prompts=["a"], num_frames=3, height=16, width=24), 1)
    sites = backbone.sites(run)
    blocks = [site for site in sites if site.kind is SiteKind.BLOCK]
    assert [(site.name, site.depth, site.layer, site.layers) for site in blocks] == [
        ("transformer_blocks.0", 0, 0, 2),
        ("temporal_transformer_blocks.0", 1, 0, 2),
        ("transformer_blocks.1", 2, 1, 2),
        ("temporal_transformer_blocks.1", 3, 1, 2),
    ]
    inside = {site.name: [inner.kind for inner in sites if inner.inside == site.name] for site in blocks}
    spatial = [SiteKind.SELF_ATTENTION, SiteKind.CROSS_ATTENTION, SiteKind.FEED_FORWARD]
    temporal = [SiteKind.TEMPORAL_ATTENTION, SiteKind.FEED_FORWARD]
    assert list(inside.values()) == [spatial, temporal] * 2
    axes = {site.kind: site.along for site in sites}
    assert axes[SiteKind.SELF_ATTENTION] == "space" and axes[SiteKind.TEMPORAL_ATTENTION] == "time"
    tokens = [site for site in sites if site.inside not in ("", "step") and site.kind is not SiteKind.LINEAR]
    assert {site.grid for site in tokens} == {(3, 4, 6)}
    for site in sites[1:]:
        assert site.kind is SiteKind.MODEL or backbone.model.get_submodule(site.name) is site.module


def test_sizes_of_a_run() -> None:
    sketch = BACKBONES["latte"].sketch(ModelChoice(backbone="latte", weights="random"))
    run = sketch.shape(sketch.inputs(prompts=["a cat that sleeps"]), 50)
    assert (run.latent, run.pixels, run.grid) == ((4, 16, 64, 64), (16, 512, 512), (16, 32, 32))
    assert run.text_tokens == 6 and run.branches == (Branch.UNCOND, Branch.COND)
    assert sum(parameter.numel() for parameter in sketch.model.parameters()) == 1_057_246_880
    problems = sketch.check(sketch.inputs(prompts=["a"], height=500))
    assert problems == [("height", "`height` is 500, no multiple of 16", "use 496")]


def test_random_weights_load_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` fills a sketch; a small published size keeps the test quick."""
    kind = BACKBONES["latte"]
    small = {**kind.tiny_config, "num_attention_heads": 2, "attention_head_dim": 24}
    monkeypatch.setattr(kind, "published", {"small": small})
    monkeypatch.setattr("engine.backbones.common.pictures.PUBLISHED_VAE", dict(tiny().vae_config))
    backbone = kind.sketch(ModelChoice(backbone="latte", weights="random"))
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}
    backbone.load(CPU)
    inputs = backbone.inputs(prompts=["a cat", "a dog"])
    run = backbone.shape(inputs, 1)
    with torch.inference_mode():
        x = backbone.initial_noise(run, [0, 1])
        out = backbone.predict(x, 0.7, backbone.encode(inputs, run), run.branches)
        videos = backbone.decode(x, run)
    assert out.shape == (4, *run.latent) and torch.isfinite(out).all()
    assert not torch.equal(out[2], out[3]), "prompts differ"
    assert videos.shape == (2, 3, 4, 16, 16) and videos.min() >= 0 and videos.max() <= 1


def test_frames_are_decoded_in_their_order() -> None:
    backbone = tiny()
    run = backbone.shape(backbone.inputs(prompts=["a", "b"]), 1)
    latents = backbone.initial_noise(run, [0, 1])
    with torch.inference_mode():
        videos = backbone.decode(latents, run)
        frame = backbone.vae.decode(latents[1:, :, 2] / backbone.vae.config.scaling_factor).sample
    torch.testing.assert_close(videos[1, :, 2], (frame[0] / 2 + 0.5).clamp(0, 1))
