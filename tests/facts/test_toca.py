"""ToCa's own invariants (arXiv 2410.05317)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from support import BACKBONES, ROOT

from engine.compiler import Compiled, compile_spec
from engine.receipts import Trace
from engine.runner import opened
from engine.sites import At, Call, Memory, Site, SiteKind, Track
from engine.spec import load_spec
from engine.step import Phase, Step
from engine.techniques.caching.fora import Fora
from engine.techniques.caching.toca import ToCa

Compile = Callable[..., Compiled]


@pytest.fixture(scope="module")
def scale() -> Compiled:
    return compile_spec(load_spec(ROOT / "specs" / "toca_opensora.yaml", profile="scale"))


def test_paper_size_macs(scale: Compiled) -> None:
    """Its table: 3283 TFLOPs, 2.36x fewer; one MAC is two FLOPs."""
    estimate = scale.plan.estimate
    assert estimate.baseline_macs == pytest.approx(3283.2e12 / 2, rel=0.03)
    assert estimate.macs_ratio == pytest.approx(2.36, rel=0.03)
    assert estimate.macs == pytest.approx(1394.0e12 / 2, rel=0.03)


def test_paper_size_tokens(scale: Compiled) -> None:
    """The MLP refreshes int(0.1495 N) tokens, cross-attention none."""
    technique = scale.entries[0].technique
    assert isinstance(technique, ToCa)
    sites = {site.kind: site for site, _ in scale.entries[0].wraps}
    assert technique.ratio(sites[SiteKind.FEED_FORWARD], 0.1) == pytest.approx(0.1495)
    assert technique.ratio(sites[SiteKind.CROSS_ATTENTION], 0.1) == 0.0
    assert int(0.1495 * 23850) == int(technique.ratio(sites[SiteKind.FEED_FORWARD], 0.1) * 23850) == 3565


def test_steps_of_each_module(scale: Compiled) -> None:
    phases = [phase.name for phase in scale.entries[0].phases]
    assert [index for index, name in enumerate(phases) if name == "full"] == [0, 1, 2, 6, 12, 18, 24]
    assert [index for index, name in enumerate(phases) if name == "refresh"] == [3, 9, 15, 21, 27]
    assert phases.count("partial") == 18


def test_counters_after_full_and_partial_steps(compile_tiny: Compile) -> None:
    """After a full step all counters are 0; after a partial step exactly k a row are 0 and the others grew by 1."""
    compiled = compile_tiny("opensora", {"toca": {"warmup": 0, "interval": 4, "fresh_ratio": 0.2}})
    seen: list[tuple[str, torch.Tensor]] = []
    with opened(compiled) as side:
        mlp = next(key for key in side.attachment.memories if key[1].endswith(".mlp"))
        track = side.attachment.layers[0].track

        def look() -> None:
            seen.append((track.phase.name, side.attachment.memories[mlp].stale.clone()))

        side.generate((1, 2), look)
    site = next(site for site, _ in compiled.entries[0].wraps if site.name == mlp[1])
    technique = compiled.entries[0].technique
    assert isinstance(technique, ToCa)
    count = int(technique.ratio(site, 0.2) * site.tokens)
    assert 0 < count < site.tokens
    before = None
    for name, stale in seen:
        if name == "partial":
            assert before is not None
            assert ((stale == 0).sum(dim=1) == count).all()
            kept = stale > 0
            assert torch.equal(stale[kept], before[kept] + 1)
        else:
            assert (stale == 0).all()
        before = stale
    assert {name for name, _ in seen} == {"full", "refresh", "partial"}


def test_ratio_zero_is_fora_on_the_same_steps(compile_tiny: Compile) -> None:
    """Without fresh tokens ToCa is FORA."""
    tiny = BACKBONES["opensora"].tiny()
    toca = {"toca": {"fresh_ratio": 0.0, "cross_interval": 3, "interval": 3, "warmup": 0}}
    with opened(compile_tiny("opensora", toca, on=tiny)) as side:
        ours = side.generate((1, 2))
    with opened(compile_tiny("opensora", {Fora.slug: {"interval": 3, "count_down": False}}, on=tiny)) as side:
        assert torch.equal(side.generate((1, 2)), ours)


def test_ratio_one_recomputes_everything() -> None:
    """At a site by itself: with every token fresh, a partial step gives what a full one would."""
    site = Site("mlp", SiteKind.FEED_FORWARD, torch.nn.Identity(), grid=(1, 3, 4), width=2)
    technique, track = ToCa(fresh_ratio=1.0), Track("toca")
    at = At(site, Step(), track, Memory(), Memory())
    at.shared.score = torch.rand(2, site.tokens)
    first, second = torch.randn(2, site.tokens, 2), torch.randn(2, site.tokens, 2)
    around = partial(technique.refresh, whole=("full",))

    def run(hidden: torch.Tensor) -> torch.Tensor:
        return around(Call(lambda inner, _inputs: 3 * inner, {}, site), hidden, at)

    assert torch.equal(run(first), 3 * first)
    track.phase = Phase("partial", value=1.0)
    assert torch.equal(run(second), 3 * second)
    track.phase = Phase("partial", value=0.25)
    mixed = run(first)
    fresh = (mixed == 3 * first).all(dim=-1)
    assert (fresh.sum(dim=1) == 3).all()
    assert torch.equal(mixed[~fresh], 3 * second[~fresh])
    best = at.shared.score.topk(3, dim=1).indices
    assert fresh.gather(1, best).all()


def test_both_guidance_halves_refresh_the_same_tokens(compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny("opensora", {"toca": {"fresh_ratio": 0.3}}), Trace()
    with opened(compiled, trace=trace) as side:
        side.generate((1, 2))
        memory = next(bag for key, bag in side.attachment.memories.items() if key[1].endswith(".mlp"))
        cond, uncond = memory.stale.chunk(2)
    assert torch.equal(cond, uncond)
    assert not torch.equal(cond[0], cond[1]), "two prompts choose their own tokens"


def test_entropy_score_is_the_official_one_over_packed_text(compile_tiny: Compile) -> None:
    """Over packed text each half has weight 1/2 in one map: entropy = mean of the halves' + ln 2."""
    p_cond, p_uncond = torch.tensor([0.7, 0.3]), torch.tensor([0.1, 0.9])
    packed = torch.cat([p_cond, p_uncond]) / 2
    entropy = [-(p * p.log()).sum() for p in (p_cond, p_uncond, packed)]
    torch.testing.assert_close(entropy[2], (entropy[0] + entropy[1]) / 2 + math.log(2))


def test_random_control_refreshes_as_many_tokens(compile_tiny: Compile) -> None:
    counts = []
    for kind in ("attention", "random"):
        compiled, trace = compile_tiny("opensora", {"toca": {"cache_type": kind}}), Trace()
        with opened(compiled, trace=trace) as side:
            side.generate((1, 2))
        counts.append([step.evaluated["spatial_blocks.0.mlp"] for step in trace.steps])
    assert counts[0] == counts[1]
    assert len(set(counts[0])) == 2


@pytest.mark.parametrize(
    ("backbone", "down", "full"),
    [
        ("dit", True, [49, 44, 40, 36, 30, 27, 24, 21, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0]),
        ("pixart", False, [0, 6, 9, 12, 15, 18]),
    ],
)
def test_full_steps_of_the_official_code(backbone: str, down: bool, full: list[int]) -> None:
    """In its own count of steps, which on DiT runs downwards."""
    phases = of_scale(backbone).entries[0].phases
    count = len(phases)
    done = [count - 1 - index if down else index for index, phase in enumerate(phases) if phase.name == "full"]
    assert done == full
    assert {phase.name for phase in phases} == {"full", "partial"}


def test_dit_saves_the_macs_of_its_table() -> None:
    """10.23 of 23.74 TFLOPs a picture with guidance, 2.32x."""
    plan = of_scale("dit").plan
    assert plan.estimate.baseline_macs / plan.shape.batch == pytest.approx(23.74e12 / 2, rel=0.01)
    assert plan.estimate.macs / plan.shape.batch == pytest.approx(10.23e12 / 2, rel=0.02)


def test_pixart_saves_the_macs_of_its_table() -> None:
    """5.78 of 11.18 TFLOPs, 1.93x, with prompts of 24 tokens; diffusers' pipeline pads them to 120 and spends more."""
    estimate = of_scale("pixart", "inputs.max_sequence_length=24").plan.estimate
    assert estimate.baseline_macs == pytest.approx(11.18e12 / 2, rel=0.001)
    assert estimate.macs == pytest.approx(5.78e12 / 2, rel=0.001)
    assert of_scale("pixart").plan.estimate.macs_ratio == pytest.approx(1.84, rel=0.005)


def test_dit_preset_ratios() -> None:
    """DDIM-50 preset: nothing refreshed while step > 37.5; at most about 0.63 at the end of DiT-XL."""
    compiled = of_scale("dit")
    technique, phases = compiled.entries[0].technique, compiled.entries[0].phases
    assert isinstance(technique, ToCa)
    partials = [(49 - index, phase.value) for index, phase in enumerate(phases) if phase.name == "partial"]
    assert all((value == 0.0) == (step > 37.5) for step, value in partials)
    sites = [site for site, _ in compiled.entries[0].wraps if site.kind is SiteKind.FEED_FORWARD]
    assert [sites[-1].layer, sites[-1].layers] == [27, 28]
    last = 0.07 * (3 - 4 * 1 / 50)
    assert partials[-1] == (1, pytest.approx(last))
    assert technique.ratio(sites[-1], last) == pytest.approx(last * 1.2 * 2.5)
    assert technique.ratio(sites[0], last) == pytest.approx(last * 0.8 * 2.5)
    cross = replace(sites[-1], kind=SiteKind.CROSS_ATTENTION)
    assert technique.ratio(cross, last) == pytest.approx(0.0, abs=1e-12)


def test_dit_halves_are_scored_alone(compile_tiny: Compile) -> None:
    """With attention as the score, each guidance half refreshes its own tokens, as the official DiT code does."""
    settings = {"fresh_ratio": 0.5, "force_weight": 0.0, "step_weight": 0.0, "module_weight": 0.0, "layer_weight": 0.0}
    with opened(compile_tiny("dit", {"toca": settings})) as side:
        side.generate((1, 2))
        memory = next(bag for key, bag in side.attachment.memories.items() if key[1].endswith("_ff"))
        cond, uncond = memory.stale.chunk(2)
    assert (cond == 0).sum() == (uncond == 0).sum() == 2 * 8
    assert not torch.equal(cond, uncond)


def test_pixart_preset_ratios() -> None:
    """Layers from 1.6 to 0.4, steps from 1.9 to 0.1, cross-attention 0.6 and MLP 1.6."""
    compiled = of_scale("pixart")
    technique, phases = compiled.entries[0].technique, compiled.entries[0].phases
    assert isinstance(technique, ToCa)
    assert phases[1].value == pytest.approx(0.3 * (1.9 - 1.8 / 20))
    assert phases[19].value == pytest.approx(0.3 * (1.9 - 1.8 * 19 / 20))
    for kind, factor in ((SiteKind.CROSS_ATTENTION, 0.6), (SiteKind.FEED_FORWARD, 1.6)):
        sites = [site for site, _ in compiled.entries[0].wraps if site.kind is kind]
        assert technique.ratio(sites[0], 0.1) == pytest.approx(0.1 * 1.6 * factor)
        assert technique.ratio(sites[-1], 0.1) == pytest.approx(0.1 * 0.4 * factor)


def of_scale(backbone: str, *changes: str) -> Compiled:
    return compile_spec(load_spec(ROOT / "specs" / f"toca_{backbone}.yaml", profile="scale", changes=changes))
