"""DeepCache's own invariants (arXiv 2312.00858)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from support import BACKBONES, ROOT, TINY_STEPS
from support_unets import tiny
from torch import Tensor

from engine.compiler import Compiled, compile_spec
from engine.errors import InvalidInput
from engine.plan import Plan
from engine.receipts import Trace
from engine.runner import opened
from engine.sites import Site, SiteKind
from engine.spec import load_spec
from engine.techniques.caching.deepcache import DeepCache

Compile = Callable[..., Compiled]
G = 1e9


def shipped(name: str, *changes: str) -> Plan:
    """The plan of a shipped spec at its paper's size."""
    return compile_spec(load_spec(ROOT / "specs" / f"{name}.yaml", profile="scale", changes=list(changes))).plan


def as_papers_count(plan: Plan) -> float:
    """MACs a step of one row, without attention's own products, which papers leave out."""
    kernels = plan.estimate.kinds["kernel"]["planned"]
    rows = plan.shape.batch * len(plan.shape.branches)
    return (plan.estimate.macs - kernels) / (rows * len(plan.steps))


@pytest.mark.parametrize(("interval", "gmacs"), [(3, 3.54), (5, 3.01), (10, 2.63)])
def test_macs_of_the_cifar_table(interval: int, gmacs: float) -> None:
    """100 steps, 6.1 G without DeepCache. These fit no other skip connection than the third."""
    changes = (f"techniques.deepcache.interval={interval}",)
    assert as_papers_count(shipped("deepcache_ddpm", *changes)) == pytest.approx(gmacs * G, rel=0.01)
    for other in (1, 3):
        plan = shipped("deepcache_ddpm", *changes, f"techniques.deepcache.branch={other}")
        assert as_papers_count(plan) != pytest.approx(gmacs * G, rel=0.1)


def test_macs_of_the_stable_diffusion_table() -> None:
    """130.45 of 338.76 G are 13 full steps of 50 with the skip connection of the official script."""
    plan = shipped("deepcache_sd", "techniques.deepcache.uniform=true", "techniques.deepcache.interval=4")
    assert sum(step.phases["deepcache"] == "full" for step in plan.steps) == 13
    assert as_papers_count(plan) == pytest.approx(130.45 * G, rel=1e-3)


@pytest.mark.parametrize(("interval", "gmacs"), [(3, 36.48), (5, 23.50), (10, 13.97), (20, 9.39)])
def test_full_steps_of_the_ldm_table(interval: int, gmacs: float) -> None:
    """LDM-4-G, 250 steps: 99.82 G a full step, and at an interval of 2 52.12 G, which gives what a short one costs."""
    short = 2 * 52.12 - 99.82
    full = len(DeepCache(interval=interval).full_steps(250))
    assert (full * 99.82 + (250 - full) * short) / 250 == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (3, [0, 3, 6, 8, 11, 13, 15, 17, 20, 22, 25, 28, 32, 35, 38, 42, 46]),
        (5, [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]),
        (10, [0, 9, 17, 26, 37]),
    ],
)
def test_steps_of_the_official_script(interval: int, expected: list[int]) -> None:
    """50 steps, power 1.4, center 15."""
    assert sorted(DeepCache(interval=interval, uniform=False).full_steps(50)) == expected


def test_steps_that_cannot_be_found_are_explained(compile_tiny: Compile) -> None:
    """The official code gives up here as well."""
    impossible = {"interval": 2, "uniform": False, "center": 25}
    with pytest.raises(InvalidInput, match=r"gives 25 different steps around step 25 of 50\n.*`uniform: true`"):
        compile_tiny("sd", {"deepcache": impossible}, sampler={"ddim": {"steps": 50}})


def sites_of(compiled: Compiled) -> list[Site]:
    return compiled.backbone.sites(compiled.run)


@pytest.mark.parametrize("branch", range(4))
@pytest.mark.parametrize("backbone", ["sd", "ddpm"])
def test_macs_are_those_of_full_and_short_steps(compile_tiny: Compile, backbone: str, branch: int) -> None:
    compiled = compile_tiny(backbone, {"deepcache": {"interval": 3, "branch": branch, "uniform": True}})
    sites = sites_of(compiled)
    inside = {f"stages.{branch}"}
    for site in sites:
        inside |= {site.name} if site.inside in inside else set()
    whole = sum(site.macs for site in sites)
    short = sum(site.macs for site in sites if site.name not in inside)
    rows, full = 4, -(-TINY_STEPS // 3)
    assert compiled.plan.estimate.macs == rows * (full * whole + (TINY_STEPS - full) * short)
    assert short < whole


def test_the_deepest_branch_saves_the_middle_only(compile_tiny: Compile) -> None:
    compiled = compile_tiny("sd", {"deepcache": {"interval": 2, "branch": 3, "uniform": True}})
    saved = sum(site.macs for site in sites_of(compiled) if site.side == "middle")
    assert compiled.plan.estimate.baseline_macs - compiled.plan.estimate.macs == saved * 4 * TINY_STEPS // 2


LIVE = {
    # As in the official pipeline, at its layer and block 0.
    ("deep", 1): "down_blocks.0.resnets.0 down_blocks.0.attentions.0 up_blocks.2.resnets.1 up_blocks.2.attentions.1 "
    "up_blocks.2.resnets.2 up_blocks.2.attentions.2",
    ("ddpm", 2): "down_blocks.0.resnets.0 down_blocks.0.downsamplers.0 up_blocks.0.resnets.1 up_blocks.0.attentions.1 "
    "up_blocks.0.upsamplers.0 up_blocks.1.resnets.0 up_blocks.1.resnets.1",
}


@pytest.mark.parametrize(("layout", "branch"), LIVE)
def test_layers_further_in_are_not_called_in_a_short_step(compile_tiny: Compile, layout: str, branch: int) -> None:
    backbone, calls = tiny(layout), Counter[str]()
    parts = {"resnets", "attentions", "downsamplers", "upsamplers"}
    for name, module in backbone.model.named_modules():
        if name.split(".")[-2:-1] and name.split(".")[-2] in parts:
            module.register_forward_hook(lambda *_unused, name=name: calls.update([name]))
    settings = {"deepcache": {"interval": 4, "branch": branch, "uniform": True}}
    with opened(compile_tiny(backbone.name, settings, on=backbone)) as side:
        side.generate([1, 2])
    assert {name for name, count in calls.items() if count == TINY_STEPS} == set(LIVE[layout, branch].split())
    assert {count for count in calls.values()} == {2, TINY_STEPS}, "2: the full steps are 0 and 4"
    assert calls["mid_block.resnets.0"] == calls["mid_block.attentions.0"] == 2


def test_what_is_kept_does_not_follow_the_latents_and_the_output_does(compile_tiny: Compile) -> None:
    backbone = tiny("sd")
    compiled = compile_tiny("sd", {"deepcache": {"interval": 100, "branch": 1, "uniform": True}}, on=backbone)
    kept: list[Tensor] = []
    with opened(compiled) as side:
        memory = side.attachment.memories["deepcache", "stages.1"]
        latents = side.generate((1, 2), lambda: kept.append(memory.output.clone()))
        assert len(kept) == TINY_STEPS and all(torch.equal(one, kept[0]) for one in kept)
        # The run's last step was a short one, and its memories are still there.
        first, second = (side.call(x, 0.5, {}) for x in (latents, latents + 1))
    assert not torch.allclose(first, second)


def test_only_the_chosen_stage_is_kept(compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny("sd", {"deepcache": {"branch": 1}}), Trace()
    with opened(compiled, trace=trace) as side:
        side.generate((1, 2))
        assert [key for key, memory in side.attachment.memories.items() if memory.nbytes()] == [
            ("deepcache", "stages.1")
        ]
    stage = next(site for site in sites_of(compiled) if site.name == "stages.1")
    assert stage.kind is SiteKind.STAGE and trace.held_bytes == 4 * stage.output_bytes(compiled.run)


def test_a_branch_that_is_not_there_is_refused(compile_tiny: Compile) -> None:
    stages = sum(site.kind is SiteKind.STAGE for site in sites_of(compile_tiny("sd")))
    with pytest.raises(InvalidInput, match="`deepcache` matches no site"):
        compile_tiny("sd", {"deepcache": {"branch": stages}})


def test_tuned_values_are_the_official_commands() -> None:
    assert set(DeepCache.tuned) == {name for name in BACKBONES if name in ("sd", "ddpm")}
