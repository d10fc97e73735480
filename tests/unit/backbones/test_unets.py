"""Stable Diffusion and DDPM: opened UNets and the plain loop are diffusers' own, sizes cost what papers say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler
from support import BACKBONES, TINY_STEPS
from support_unets import embeddings, generated, generators, original, pipeline_of, tiny
from torch import Tensor

from engine.backbones.common.pictures import PictureModel
from engine.compiler import Compiled
from engine.errors import MissingWeights
from engine.sites import At, Attachment, Call, Layer, Site, SiteKind, Track
from engine.spec import ModelChoice
from engine.step import Branch, Step

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Compile = Callable[..., Compiled]
on_both = pytest.mark.parametrize("name", ["sd", "ddpm"])
on_layouts = pytest.mark.parametrize("layout", ["sd", "v", "xl", "no_middle", "ddpm", "no_classes"])


@pytest.mark.parametrize("layout", ["sd", "v", "xl"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prompts", [("a cat",), ("a cat", "the small dog")], ids=["one", "two"])
def test_stable_diffusion_is_the_pipeline(
    compile_tiny: Compile, layout: str, guidance: float, prompts: tuple[str, ...]
) -> None:
    backbone = tiny(layout)
    seeds = [5 + index for index in range(len(prompts))]
    compiled = compile_tiny("sd", on=backbone, prompts=prompts, inputs={"guidance": guidance})
    latents, ours = generated(compiled, seeds)
    pipeline = pipeline_of(backbone, layout)
    arguments = {
        **embeddings(backbone, prompts, layout),
        "guidance_scale": guidance,
        "num_inference_steps": TINY_STEPS,
        "height": 16,
        "width": 24,
    }

    def theirs(kind: str) -> Tensor:
        return pipeline(**arguments, generator=generators(seeds), output_type=kind).images

    assert (ours - theirs("pt")).abs().max() < 1e-4
    assert (latents - theirs("latent")).abs().max() < 1e-4 * latents.abs().max()
    assert ours.std() > 0.01, "a flat picture would agree with anything"


@pytest.mark.parametrize("count", [1, 2])
def test_ddpm_is_the_pipeline(compile_tiny: Compile, count: int) -> None:
    """diffusers' pipeline knows neither classes nor guidance."""
    backbone, seeds = tiny("no_classes"), [5 + index for index in range(count)]
    compiled = compile_tiny("ddpm", on=backbone, prompts=("",) * count, inputs={"guidance": 1.0})
    latents, ours = generated(compiled, seeds)
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    pipeline = DDIMPipeline(unet=original(backbone), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=count, generator=generators(seeds), num_inference_steps=TINY_STEPS, output_type="np"
    ).images
    assert (ours - torch.from_numpy(images).permute(0, 3, 1, 2)).abs().max() < 1e-4
    assert ours.std() > 0.01, "a flat picture would agree with anything"
    assert torch.isfinite(latents).all()


def test_ddpm_with_classes_is_diffusers_model_and_scheduler(compile_tiny: Compile) -> None:
    """Guided by class, with diffusers' parts in a loop of the test's own."""
    backbone, seeds = tiny("ddpm"), [5, 6]
    compiled = compile_tiny("ddpm", on=backbone, prompts=("3", ""), inputs={"guidance": 3.0})
    latents, _ = generated(compiled, seeds)
    model, scheduler = original(backbone), DDIMScheduler(beta_schedule="linear", clip_sample=False)
    scheduler.set_timesteps(TINY_STEPS)
    x = torch.cat([torch.randn(1, 3, 16, 16, generator=generator) for generator in generators(seeds)])
    with torch.inference_mode():
        for timestep in scheduler.timesteps:
            none, named = model(torch.cat([x, x]), timestep, torch.tensor([10, 10, 3, 10])).sample.chunk(2)
            x = scheduler.step(none + 3.0 * (named - none), timestep, x).prev_sample
    assert (latents - x).abs().max() < 1e-4 * x.abs().max()


@on_layouts
def test_opened_unets_are_diffusers_own(layout: str) -> None:
    """Bit for bit, also where the latents' 9x11 places do not halve evenly."""
    backbone = tiny(layout)
    sizes = {} if backbone.name == "ddpm" else {"height": 18, "width": 22}
    inputs = backbone.inputs(prompts=["", ""] if layout == "no_classes" else ["one", "two and more"], **sizes)
    run = backbone.shape(inputs, 1)
    x, branches = backbone.initial_noise(run, [1, 2]), run.branches
    with torch.inference_mode():
        conditions = backbone.encode(inputs, run)
        ours = backbone.predict(x, 0.5, conditions, branches)
        backbone.call.model = original(backbone)
        assert torch.equal(backbone.predict(x, 0.5, conditions, branches), ours)
    assert ours.std() > 0.01


@on_layouts
def test_opening_adds_no_weights(layout: str) -> None:
    backbone = tiny(layout)
    assert backbone.model.state_dict().keys() == original(backbone).state_dict().keys()


@on_layouts
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_reusing_a_stage_runs_nothing_further_in(layout: str, depth: int) -> None:
    """As DeepCache does: with the stage's output kept, all but its own level and those around it is skipped."""
    backbone = tiny(layout)
    inputs = backbone.inputs(prompts=["" if layout == "no_classes" else "one"], guidance=1.0)
    run = backbone.shape(inputs, 1)
    sites = backbone.sites(run)
    stage = next(site for site in sites if site.kind is SiteKind.STAGE and site.layer == depth)
    inside = {stage.name}
    for site in sites:
        inside |= {site.name} if site.inside in inside else set()
    called: list[str] = []
    track = Track("test")

    def keep(call: Call, hidden: Tensor, at: At) -> Tensor:
        if not hasattr(at.memory, "output"):
            at.memory.output = call(hidden)
        return at.memory.output

    def note(call: Call, hidden: Tensor, at: At) -> Any:
        called.append(at.site.name)
        return call(hidden)

    wraps = [(site, note) for site in sites if site.kind not in (SiteKind.STEP, SiteKind.STAGE)]
    attachment = Attachment(sites, Step(), [Layer(track, [*wraps, (stage, keep)])])
    with torch.inference_mode():
        conditions = backbone.encode(inputs, run)
        first, second = (backbone.initial_noise(run, [seed]) for seed in (1, 2))
        plain = backbone.predict(second, 0.5, conditions, run.branches)
        attachment.attach()
        backbone.predict(first, 0.5, conditions, run.branches)
        assert inside - {site.name for site in sites if site.kind is SiteKind.STAGE} <= set(called)
        called.clear()
        reused = backbone.predict(second, 0.5, conditions, run.branches)
        attachment.detach()
    assert called and not inside & set(called)
    assert set(called) == {site.name for site, _ in wraps} - inside
    assert not torch.allclose(reused, plain)


@on_layouts
def test_sites_say_what_the_modules_do(layout: str) -> None:
    """Grids, widths and skip connections, against what a plain forward shows."""
    backbone = tiny(layout)
    sizes = {} if backbone.name == "ddpm" else {"height": 18, "width": 22}
    inputs = backbone.inputs(prompts=["" if layout == "no_classes" else "one"], guidance=1.0, **sizes)
    run = backbone.shape(inputs, 1)
    sites = {site.name: site for site in backbone.sites(run)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    shown = (SiteKind.STAGE, SiteKind.BLOCK, SiteKind.CONV, SiteKind.SELF_ATTENTION, SiteKind.CROSS_ATTENTION)

    def look(call: Call, hidden: Tensor, at: At) -> Any:
        out = call(hidden)
        seen[at.site.name] = (hidden, out)
        return out

    wraps = [(site, look) for site in sites.values() if site.kind in shown]
    attachment = Attachment(list(sites.values()), Step(), [Layer(Track("test"), wraps)])
    with torch.inference_mode():
        conditions = backbone.encode(inputs, run)
        attachment.attach()
        backbone.predict(backbone.initial_noise(run, [1]), 0.5, conditions, run.branches)
        attachment.detach()
    assert seen.keys() == {site.name for site, _ in wraps}
    for name, (hidden, out) in seen.items():
        site = sites[name]
        channels = out.shape[1] if out.ndim == 4 else out.shape[2]
        places = out.shape[2] * out.shape[3] if out.ndim == 4 else out.shape[1]
        assert (site.width, site.tokens) == (channels, places), name
        if out.ndim == 4:
            assert site.grid == (1, *out.shape[2:])
        if site.skip:
            assert torch.equal(hidden[:, -sites[site.skip].width :], seen[site.skip][1]), name
    joined = [site for site in sites.values() if site.kind is SiteKind.BLOCK and site.skip]
    assert len(joined) == len(backbone.model.stages)


@on_both
def test_swapped_layers_are_run(name: str) -> None:
    """Stages hold no layer of their own: what a transform puts in its place counts, and goes away again."""

    class Doubled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: Tensor, temb: Tensor) -> Tensor:
            return 2 * self.inner(hidden, temb)

    backbone = tiny(name)
    inputs = backbone.inputs(prompts=["one"], guidance=1.0)
    run = backbone.shape(inputs, 1)
    x = backbone.initial_noise(run, [1])
    with torch.inference_mode():
        conditions = backbone.encode(inputs, run)
        plain = backbone.predict(x, 0.5, conditions, run.branches)
        for path in ("down_blocks.0.resnets.0", "mid_block.resnets.1", "up_blocks.1.resnets.1"):
            with backbone.changing():
                backbone.swap(path, Doubled(backbone.model.get_submodule(path)))
                assert not torch.allclose(backbone.predict(x, 0.5, conditions, run.branches), plain), path
            assert torch.equal(backbone.predict(x, 0.5, conditions, run.branches), plain)


def macs_of(backbone: PictureModel, inputs: Any) -> tuple[int, int]:
    """MACs of a sample in convolutions and linears, and in attention products."""
    sites: list[Site] = backbone.sites(backbone.shape(inputs, 1))
    kernels = sum(site.macs for site in sites if site.kind is SiteKind.KERNEL)
    return sum(site.macs for site in sites) - kernels, kernels


def test_stable_diffusion_costs_what_papers_say() -> None:
    """BK-SDM (arXiv 2305.15798) and DeepCache count convolutions and linears: 338.7 G at 512x512, one sample.

    The products of attention, which they leave out, are KERNEL sites here: 63.0 G.
    """
    sketch = BACKBONES["sd"].sketch(ModelChoice(backbone="sd", weights="random"))
    layers, kernels = macs_of(sketch, sketch.inputs(prompts=["x"]))
    assert layers == pytest.approx(338.7e9, rel=0.005)
    assert kernels == pytest.approx(63.0e9, rel=0.005)


def test_ddpm_costs_what_papers_say() -> None:
    """Diff-Pruning (arXiv 2305.10924): 6.1 G and 35.7 million parameters on CIFAR-10."""
    sketch = BACKBONES["ddpm"].sketch(ModelChoice(backbone="ddpm", weights="random"))
    layers, _ = macs_of(sketch, sketch.inputs(prompts=[""]))
    assert layers == pytest.approx(6.1e9, rel=0.02)
    assert sum(parameter.numel() for parameter in sketch.model.parameters()) == pytest.approx(35.7e6, rel=0.005)


@pytest.mark.parametrize(
    ("repository", "millions", "edge", "prediction"),
    [
        ("stable-diffusion-v1-5", 859.5, 512, "epsilon"),
        ("stable-diffusion-2-1-base", 865.9, 512, "epsilon"),
        ("stable-diffusion-2-1", 865.9, 768, "v"),
        ("stable-diffusion-xl-base-1.0", 2567.5, 1024, "epsilon"),
    ],
)
def test_published_sizes(
    repository: str, millions: float, edge: int, prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the repository's name, before anything is downloaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    choice = ModelChoice(backbone="sd", weights=f"some/{repository}")
    sketch = BACKBONES["sd"].sketch(choice)
    assert sum(parameter.numel() for parameter in sketch.model.parameters()) == pytest.approx(millions * 1e6, rel=1e-3)
    run = sketch.shape(sketch.inputs(prompts=["x"]), 1)
    assert run.pixels == (1, edge, edge) and run.text_tokens == 77
    assert sketch.prediction == prediction


def test_random_weights_take_a_published_size() -> None:
    """`random` alone is the first."""
    kind = BACKBONES["sd"]
    for weights, edge in (("random", 512), ("random:stable-diffusion-xl-base-1.0", 1024)):
        sketch = kind.sketch(ModelChoice(backbone="sd", weights=weights))
        assert sketch.pixels(sketch.inputs(prompts=["x"])) == (edge, edge)
    with pytest.raises(MissingWeights, match="no published size of `sd` is called `stable-difusion-2-1`") as caught:
        kind.sketch(ModelChoice(backbone="sd", weights="random:stable-difusion-2-1"))
    assert "stable-diffusion-2-1" in str(caught.value)


@on_both
def test_branch_order_is_the_pipelines(name: str) -> None:
    assert BACKBONES[name].branches == (Branch.UNCOND, Branch.COND)


def test_what_an_unconditional_model_refuses() -> None:
    backbone = tiny("no_classes")
    problems = backbone.check(backbone.inputs(prompts=["", "cat"], guidance=2.0))
    assert [key for key, _, _ in problems] == ["prompts", "guidance"]
    assert backbone.check(backbone.inputs(prompts=["", ""])) == []


def test_other_unets_of_the_class_are_refused() -> None:
    kind = BACKBONES["sd"]
    model = kind.denoiser.from_config({**kind.tiny_config, "num_class_embeds": 3})
    with pytest.raises(MissingWeights, match="sets num_class_embeds"):
        kind(ModelChoice(backbone="sd", weights="random"), model, kind.tiny_vae)


@pytest.mark.parametrize("layout", ["xl", "ddpm"])
def test_compiles_into_one_graph(layout: str) -> None:
    from torch._dynamo.testing import CompileCounter

    backbone, counter = tiny(layout), CompileCounter()
    inputs = backbone.inputs(prompts=["one"], guidance=1.0)
    run = backbone.shape(inputs, 1)
    x = backbone.initial_noise(run, [1])
    torch._dynamo.reset()
    with torch.inference_mode():
        conditions = backbone.encode(inputs, run)
        eager = [backbone.predict(x, time, conditions, run.branches) for time in (0.3, 0.6)]
        backbone.model.forward = torch.compile(backbone.model.forward, backend=counter, fullgraph=True, dynamic=False)
        compiled = [backbone.predict(x, time, conditions, run.branches) for time in (0.3, 0.6)]
    torch._dynamo.reset()
    torch.testing.assert_close(compiled, eager)
    assert counter.frame_count == 1


@on_both
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_load_and_run(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` fills a sketch; a small published size keeps the test quick."""
    kind = BACKBONES[name]
    monkeypatch.setattr(kind, "published", {"small": kind.tiny_config})
    monkeypatch.setattr(kind, "published_vae", lambda _choice: kind.tiny_vae)
    backbone = kind.sketch(ModelChoice(backbone=name, weights="random", dtype=dtype))
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}
    backbone.load(torch.device("cpu"))
    inputs = backbone.inputs(prompts=["a cat", "a dog"], guidance=2.0)
    run = backbone.shape(inputs, 1)
    with torch.inference_mode():
        x = backbone.initial_noise(run, [0, 1])
        out = backbone.predict(x, 0.7, backbone.encode(inputs, run), run.branches)
        pictures = backbone.decode(x, run)
    assert out.shape == (4, *run.latent) and torch.isfinite(out).all()
    assert pictures.shape == (2, 3, 1, 16, 16) and pictures.min() >= 0 and pictures.max() <= 1
