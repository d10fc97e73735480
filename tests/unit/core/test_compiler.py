"""Order, conflicts, baselines and estimates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import BACKBONES, ROOT, tiny_request

from engine import registry
from engine.compiler import Compiled, baseline_of, compile_spec
from engine.cost import Share, kept_macs, measured_macs
from engine.errors import InvalidInput
from engine.runner import opened
from engine.sites import Site, SiteKind, Sites
from engine.spec import load_spec
from engine.step import Phase, RunShape
from engine.technique import Stage, Technique

Compile = Callable[..., Compiled]


class Outer(Technique):
    """Reuses whole blocks (arXiv 0000.00000)."""

    slug = "outer"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.BLOCK})
    excludes = {"banned": "both rewrite the same thing"}  # noqa: RUF012 - as subclasses write it

    def schedule(self, run: RunShape) -> list[Phase]:
        return [Phase("full" if index % 2 == 0 else "reuse") for index in range(run.steps)]

    def attach(self, sites: Sites) -> None:
        sites.wrap(SiteKind.BLOCK, lambda call, hidden, at: call(hidden), lambda site: site.depth == 1)

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        return Share(float(phase.name == "full"))


class Inner(Technique):
    """Halves feed-forwards (arXiv 0000.00000)."""

    slug = "inner"
    family = "tokens"
    stage = Stage.TOKENS
    requires = frozenset({SiteKind.FEED_FORWARD})

    def attach(self, sites: Sites) -> None:
        sites.wrap(SiteKind.FEED_FORWARD, lambda call, hidden, at: call(hidden))

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        return Share(0.5)


class Rival(Inner):
    """Also of stage TOKENS (arXiv 0000.00000)."""

    slug = "rival"


class Friend(Inner):
    """Shares sites with `inner` (arXiv 0000.00000)."""

    slug = "friend"
    shares_with = frozenset({"inner"})


class Deep(Inner):
    """Of stage REUSE, on cross-attention inside and outside the block of `outer` (arXiv 0000.00000)."""

    slug = "deep"
    stage = Stage.REUSE

    def attach(self, sites: Sites) -> None:
        sites.wrap(SiteKind.CROSS_ATTENTION, lambda call, hidden, at: call(hidden))


class Banned(Inner):
    """Excluded by `outer` (arXiv 0000.00000)."""

    slug = "banned"


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    with registry.adding(Outer, Inner, Rival, Friend, Deep, Banned):
        yield


def test_order_is_by_stage_whatever_the_spec_says(compile_tiny: Compile) -> None:
    for names in (("outer", "inner"), ("inner", "outer")):
        plan = compile_tiny("opensora", *({name: None} for name in names)).plan
        assert [technique.slug for technique in plan.techniques] == ["inner", "outer"]


def test_shares_multiply_along_the_onion(compile_tiny: Compile) -> None:
    """In reuse steps the block's inner sites cost nothing; elsewhere feed-forwards cost half."""
    compiled = compile_tiny("opensora", {"inner": None}, {"outer": None})
    sites = compiled.backbone.sites(compiled.run)
    total = sum(site.macs for site in sites)
    feeds = sum(site.macs for site in sites if site.booked is SiteKind.FEED_FORWARD)
    name = next(site.name for site in sites if site.kind is SiteKind.BLOCK and site.depth == 1)
    in_block = [site for site in sites if site.name.startswith(name)]
    block = sum(site.macs for site in in_block)
    block_feed = sum(site.macs for site in in_block if site.booked is SiteKind.FEED_FORWARD)
    rows = compiled.run.batch * len(compiled.run.branches)
    full, reuse = compiled.plan.steps[0].macs, compiled.plan.steps[1].macs
    assert full == round((total - feeds / 2) * rows)
    assert reuse == round((total - block - (feeds - block_feed) / 2) * rows)


def test_kept_fractions_pass_inwards() -> None:
    module: Any = None
    sites = [
        Site("a", SiteKind.BLOCK, module, macs=10),
        Site("a.b", SiteKind.FEED_FORWARD, module, "a", macs=100),
        Site("c", SiteKind.BLOCK, module, macs=1000),
    ]
    assert kept_macs(sites, {}) == 1110
    assert kept_macs(sites, {"a": 0.5, "a.b": 0.5}) == 5 + 25 + 1000
    assert kept_macs(sites, {"a": 0.5, "a.b": 0.5}, {"a.b": 8, "c": 1}) == 5 + 25 + 4 + 1000 + 1


def test_measured_shares_are_of_the_whole_site() -> None:
    module: Any = None
    sites = [
        Site("a", SiteKind.BLOCK, module, macs=10),
        Site("a.b", SiteKind.FEED_FORWARD, module, "a", macs=100),
        Site("a.b.c", SiteKind.LINEAR, module, "a.b", macs=1000),
    ]
    assert measured_macs(sites, {"a": 0.5}) == 555, "what was not measured shares the fate of what it lies in"
    assert measured_macs(sites, {"a": 0.5, "a.b": 0.25}, {"a.b": 4}) == 5 + 25 + 250 + 2


def test_two_of_one_stage_on_one_site_conflict(compile_tiny: Compile) -> None:
    with pytest.raises(InvalidInput, match=r"`inner` and `rival` are both of stage TOKENS .* only one can own a site"):
        compile_tiny("opensora", {"inner": None}, {"rival": None})


def test_one_inside_the_other_conflicts_too(compile_tiny: Compile) -> None:
    """Nobody else may decide whether what a technique of the same stage keeps is computed."""
    for names in (("outer", "deep"), ("deep", "outer")):
        with pytest.raises(
            InvalidInput, match=r"REUSE and `outer` decides whether what `deep` wraps \(cross_attention"
        ):
            compile_tiny("opensora", *({name: None} for name in names))


def test_unless_one_names_the_other(compile_tiny: Compile) -> None:
    assert len(compile_tiny("opensora", {"inner": None}, {"friend": None}).plan.techniques) == 2


@pytest.mark.parametrize("names", [("outer", "banned"), ("banned", "outer")])
def test_exclusions_hold_in_both_orders_with_their_reason(compile_tiny: Compile, names: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput, match="`outer` cannot run with `banned`: both rewrite the same thing"):
        compile_tiny("opensora", *({name: None} for name in names))


def test_distinct_phases_are_the_graphs_to_expect(compile_tiny: Compile) -> None:
    assert compile_tiny("opensora").plan.graphs == 1
    assert compile_tiny("opensora", {"outer": None}).plan.graphs == 2


def test_equal_requests_give_equal_plans(compile_tiny: Compile) -> None:
    first, second = (compile_tiny("opensora", {"toca": None}).plan for _ in range(2))
    assert first.canonical() == second.canonical() and first.digest == second.digest
    assert compile_tiny("opensora", {"toca": {"interval": 4}}).plan.digest != first.digest


def test_tuned_values_stand_between_defaults_and_the_spec(compile_tiny: Compile) -> None:
    parameters = compile_tiny("opensora", {"toca": {"warmup": 5}}).plan.techniques[0].parameters
    assert (parameters["warmup"], parameters["cross_interval"], parameters["fresh_threshold"]) == (5, 6, 3)


def test_the_baseline_may_have_techniques_and_a_sampler_of_its_own() -> None:
    request = tiny_request("opensora", [{"toca": None}])
    compiled = compile_spec(request, BACKBONES["opensora"].tiny())
    plain = baseline_of(request, compiled)
    assert (plain.plan.techniques, plain.run.steps) == ([], compiled.run.steps)
    assert plain.backbone is compiled.backbone
    own = {"techniques": [{"fora": None}], "sampler": {"rflow": {"steps": 5}}}
    other = request.spec.model_validate({**request.spec.model_dump(), "baseline": own})
    changed = baseline_of(type(request)(other, request.value, request.path, request.profile), compiled)
    assert ([entry.slug for entry in changed.plan.techniques], changed.run.steps) == (["fora"], 5)


def against(backbone: str, baseline: dict[str, Any], *techniques: dict[str, Any], **options: Any) -> Compiled:
    """A tiny run compared with `baseline`."""
    request = tiny_request(backbone, techniques, **options)
    spec = request.spec.model_validate({**request.spec.model_dump(), "baseline": baseline})
    return compile_spec(replace(request, spec=spec), BACKBONES[backbone].tiny())


def test_a_plan_states_another_baseline_with_the_costs_of_that_ones_own_plan() -> None:
    plan = against("dit", {"sampler": {"ddim": {"steps": 40}}}, sampler={"dpm_solver_pp": {"steps": 10}}).plan
    assert plan.baseline is not None
    assert (plan.baseline.sampler.slug, plan.baseline.steps, plan.baseline.techniques) == ("ddim", 40, [])
    assert plan.estimate.macs_ratio == 4.0
    assert plan.estimate.baseline_macs == 4 * plan.estimate.macs
    assert all(macs["baseline"] == pytest.approx(4 * macs["planned"]) for macs in plan.estimate.kinds.values())
    assert '"baseline": {' in plan.canonical()


def test_techniques_of_a_baseline_count_in_its_costs(compile_tiny: Compile) -> None:
    fora = compile_tiny("opensora", {"fora": {"interval": 4}}).plan.estimate
    plan = against("opensora", {"techniques": [{"fora": {"interval": 2}}]}, {"fora": {"interval": 4}}).plan
    assert plan.baseline is not None and [entry.slug for entry in plan.baseline.techniques] == ["fora"]
    assert plan.estimate.macs == fora.macs < plan.estimate.baseline_macs < fora.baseline_macs
    assert plan.estimate.macs_ratio == pytest.approx(plan.estimate.baseline_macs / fora.macs, abs=1e-4)


def test_a_plan_without_a_baseline_of_its_own_states_none(compile_tiny: Compile) -> None:
    plan = compile_tiny("opensora", {"fora": None}).plan
    assert plan.baseline is None and "baseline" not in json.loads(plan.canonical())


@pytest.mark.parametrize("techniques", [[], [{"fora": {"interval": 2}}]])
def test_a_baseline_that_is_the_run_itself_is_refused(techniques: list[dict[str, Any]]) -> None:
    baseline = {"sampler": {"rflow": {"steps": 8, "base_size": 16}}, "techniques": techniques}
    with pytest.raises(
        InvalidInput, match="the baseline is the run itself: `rflow` with the same parameters"
    ) as caught:
        against("opensora", baseline, *techniques)
    assert "another sampler or more steps" in str(caught.value)


def test_profiles_and_changes_apply_on_top_of_one_another() -> None:
    path = ROOT / "specs" / "toca_opensora.yaml"
    request = load_spec(path, profile="scale", changes=["techniques.toca.interval=5", "inputs.height=240"])
    assert request.spec.model.weights == "random"
    assert request.spec.techniques[0] == {"toca": {"interval": 5, "cross_interval": 6, "fresh_ratio": 0.1}}
    assert (request.spec.inputs["height"], request.spec.inputs["width"]) == (240, 854)


def test_a_spec_outside_the_project_can_extend_a_shipped_base(tmp_path: Path) -> None:
    spec = tmp_path / "mine.yaml"
    spec.write_text("extends: models/opensora.yaml\ntechniques:\n  - fora: {interval: 2}\n")
    assert compile_spec(load_spec(spec)).plan.techniques[0].slug == "fora"


@pytest.mark.parametrize("backbone", ["opensora", "latte"])
def test_a_run_knows_what_the_model_is_told_of_the_noise(compile_tiny: Compile, backbone: str) -> None:
    """As its denoiser gets it, so that schedules of a paper's time steps can be made before the run."""
    tiny, told = BACKBONES[backbone].tiny(), list[float]()

    def hear(_module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        steps = inputs["timestep"] if "timestep" in inputs else args[1]
        told.append(float(steps[0]))

    compiled = compile_tiny(backbone, on=tiny)
    with opened(compiled) as side:
        tiny.model.register_forward_pre_hook(hear, with_kwargs=True)
        side.generate((1, 2))
    assert told == pytest.approx(compiled.run.times)
