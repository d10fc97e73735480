"""AdaCache's own invariants (arXiv 2411.02397)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import BACKBONES, ROOT

from engine.compiler import Compiled, compile_spec
from engine.errors import InvalidInput
from engine.ops.change import looked_up
from engine.runner import opened
from engine.sites import At, Memory, Site, SiteKind, Track
from engine.spec import load_spec
from engine.step import Phase, Step
from engine.techniques.caching.adacache import CODEBOOKS, AdaCache

Compile = Callable[..., Compiled]
on_codebooks = pytest.mark.parametrize("codebook", CODEBOOKS)


@on_codebooks
@given(st.floats(0, 2), st.floats(0, 2))
def test_more_change_never_means_a_longer_rest(codebook: str, one: float, two: float) -> None:
    _, entries = CODEBOOKS[codebook]
    low, high = sorted((one, two))
    assert looked_up(low, entries) >= looked_up(high, entries) >= 1


def test_published_thresholds_shrink_about_as_steps_grow() -> None:
    """What thresholds of other step counts are scaled by: 30 and 100 steps have thresholds 2.7 to 3.6 times apart."""
    fast, long = (dict(entries) for _, entries in (CODEBOOKS["fast"], CODEBOOKS["long"]))
    ratios = [one / other for one, other in zip(list(fast)[:-1], list(long)[:-1], strict=True)]
    assert min(ratios) > 0.8 * 100 / 30 - 1e-9 and max(ratios) < 1.2 * 100 / 30


def at_step(phase: str, **state: Any) -> At:
    """An around's view at a step: tracks, memories, and what a step before has left."""
    track, common = Track("adacache"), Memory()
    track.phase = Phase(phase, value=1.0)
    for name, value in state.items():
        setattr(common, name, value)
    return At(Site("step", SiteKind.STEP, torch.nn.Identity()), Step(), track, Memory(), Memory(), common)


def test_distance_is_per_planned_step_and_motion_multiplies_it() -> None:
    technique, change, still = AdaCache(), torch.tensor(0.6), torch.tensor(0.385)
    plain = AdaCache(moreg=False)
    assert float(plain.distance(at_step("adapt", change=change, rate=3))) == pytest.approx(0.2)
    assert float(plain.distance(at_step("adapt", change=change))) == pytest.approx(0.6), "the first rate is 1"
    # Ordinary motion that does not change has factor 1; the factor is 1 too outside the window.
    ordinary = at_step("adapt to motion", change=change, rate=3, difference=still)
    assert float(technique.distance(ordinary)) == pytest.approx(0.2)
    assert float(technique.distance(at_step("adapt", change=change, rate=3, difference=2 * still))) == pytest.approx(
        0.2
    )
    moving = at_step("adapt to motion", change=change, rate=2, difference=1.1 * still, motion=1.0)
    motion = 1.1**8
    assert float(technique.distance(moving)) == pytest.approx(0.3 * (motion + abs(10 * (motion - 1) / 2)), rel=1e-5)
    assert float(moving.common.motion) == pytest.approx(motion, rel=1e-5), "what the next gradient starts from"


def test_forced_steps_and_window_of_motion(compile_tiny: Compile) -> None:
    phases = compile_spec(load_spec(ROOT / "specs" / "adacache_opensora.yaml")).entries[0].phases
    assert [index for index, phase in enumerate(phases, 1) if phase.name == "full"] == [1, 29, 30]
    assert [index for index, phase in enumerate(phases, 1) if phase.name == "adapt to motion"] == list(range(4, 27))
    assert {phase.value for phase in phases[1:-2]} == {1.0}, "the codebook's own number of steps"
    latte = compile_spec(load_spec(ROOT / "specs" / "adacache_latte.yaml")).entries[0].phases
    assert {phase.value for phase in latte[1:-2]} == {30 / 50}


def computed_steps(compiled: Compiled) -> list[tuple[int, int]]:
    """Steps that computed, counted from 1, with the rate that was in force behind each."""
    seen: list[tuple[int, int]] = []
    with opened(compiled) as side:
        common, count = side.attachment.memories["adacache", ":common"], iter(range(1, compiled.run.steps + 1))

        def tick() -> None:
            step = next(count)
            if not common.passing:
                seen.append((step, getattr(common, "rate", 1)))

        side.generate((1, 2), tick)
    return seen


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 3.0])
def test_rates_are_the_distances_between_steps_that_compute(compile_tiny: Compile, tolerance: float) -> None:
    settings = {"rflow": {"steps": 20, "base_size": 16}}
    parameters = {"tolerance": tolerance, "moreg_window": [4, 18]}
    steps = computed_steps(compile_tiny("opensora", {"adacache": parameters}, sampler=settings))
    assert [step for step, _ in steps][:2] == [1, 2] and [step for step, _ in steps][-2:] == [19, 20]
    for (step, rate), (following, _) in pairwise(steps):
        assert following == (min(step + rate, 19) if step < 19 else step + 1)
    assert len({rate for _, rate in steps}) > 1


def test_no_change_at_all_means_the_longest_rests(compile_tiny: Compile) -> None:
    """An attention that adds the same whatever the step: everything is as cheap as the plan's cheapest course."""
    tiny = BACKBONES["opensora"].tiny()
    with torch.no_grad():
        for name, parameter in tiny.model.named_parameters():
            if name.startswith("t_block"):
                parameter.zero_()
            if name == "temporal_blocks.0.attn.proj.weight":
                parameter.zero_()
    settings = {"rflow": {"steps": 20, "base_size": 16}}
    compiled = compile_tiny("opensora", {"adacache": {"moreg": False}}, on=tiny, sampler=settings)
    assert [step for step, _ in computed_steps(compiled)] == [1, 2, 8, 14, 19, 20]
    cheapest, _ = compiled.entries[0].bounds
    assert [index for index, phase in enumerate(cheapest, 1) if phase.name == "full"] == [1, 2, 8, 14, 19, 20]


def test_between_computed_steps_blocks_add_what_they_added(compile_tiny: Compile) -> None:
    tiny, added, passing = BACKBONES["opensora"].tiny(), [], []
    compiled = compile_tiny("opensora", {"adacache": {"tolerance": 9.0, "moreg": False}}, on=tiny)
    with opened(compiled) as side:
        block = tiny.model.temporal_blocks[1]
        wrapped, common = block.forward, side.attachment.memories["adacache", ":common"]

        def listen(hidden: torch.Tensor, *args: Any, **inputs: Any) -> torch.Tensor:
            out = wrapped(hidden, *args, **inputs)
            added.append(out - hidden)
            passing.append(common.passing)
            return out

        block.forward = listen
        side.generate((1, 2))
        block.forward = wrapped
    assert True in passing and False in passing
    for before, now, passed in zip(added, added[1:], passing[1:], strict=False):
        assert torch.allclose(before, now, atol=1e-4 * now.abs().max().item()) is passed


@on_codebooks
def test_the_plan_gives_the_range_of_courses(codebook: str) -> None:
    """Forced steps and the codebook's highest or lowest rate in between, at the paper's size."""
    changes = [f"techniques.adacache.codebook={codebook}"]
    compiled = compile_spec(load_spec(ROOT / "specs" / "adacache_opensora.yaml", profile="scale", changes=changes))
    (bounds,) = compiled.plan.dynamic
    assert (bounds.slug, bounds.most_macs) == ("adacache", compiled.plan.estimate.macs)
    full = compiled.plan.estimate.baseline_macs / 30
    around = next(site.macs for site in compiled.backbone.sites(compiled.run) if site.name == "model") * 2
    rates = [rate for _, rate in CODEBOOKS[codebook][1]]
    for macs, rate in ((bounds.least_macs, max(rates)), (bounds.most_macs, min(rates))):
        count = len({0, 28, 29, *range(1, 30, rate)})
        assert macs == pytest.approx(count * full + (30 - count) * around, rel=1e-9)


def test_macs_of_its_table_lie_in_the_range() -> None:
    """1331.97 of 3230.24 TFLOPs with the fast codebook, without regularization: two FLOPs a MAC."""
    changes = ["techniques.adacache.moreg=false"]
    plan = compile_spec(load_spec(ROOT / "specs" / "adacache_opensora.yaml", profile="scale", changes=changes)).plan
    (bounds,) = plan.dynamic
    assert plan.estimate.baseline_macs == pytest.approx(3230.24e12 / 2, rel=0.03)
    assert bounds.least_macs < 1331.97e12 / 2 < bounds.most_macs


def test_motion_needs_frames(compile_tiny: Compile) -> None:
    one = {"inputs": {"num_frames": 1}}
    with pytest.raises(InvalidInput, match="motion regularization compares frames, and there is one"):
        compile_tiny("latte", {"adacache": None}, **one)
    assert compile_tiny("latte", {"adacache": {"moreg": False}}, **one).run.grid[0] == 1


def test_the_watched_layer_is_the_13th_of_28() -> None:
    compiled = compile_spec(load_spec(ROOT / "specs" / "adacache_latte.yaml", profile="scale"))
    watched = [site.name for site in compiled.entries[0].sites if site.kind is SiteKind.TEMPORAL_ATTENTION]
    assert watched == ["temporal_transformer_blocks.13.opened_attn1"]


def test_a_layer_that_is_not_there_cannot_be_watched(compile_tiny: Compile) -> None:
    with pytest.raises(InvalidInput, match="`adacache` matches no site"):
        compile_tiny("latte", {"adacache": {"watched_layer": 2}})
