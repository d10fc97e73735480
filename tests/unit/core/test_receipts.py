"""A technique that does nothing, or something else than it planned, fails the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import BACKBONES, tiny_request
from torch import Tensor

from engine import registry
from engine.compiler import Compiled, compile_both
from engine.cost import Share
from engine.errors import InvalidInput, NoEffect
from engine.measure import compare
from engine.receipts import Trace, largest_difference, receipts, share_done, verdict
from engine.runner import live_sites, opened
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import Branch, Phase, RunShape
from engine.technique import Stage, Technique

Compile = Callable[..., Compiled]


class Fake(Technique):
    """A cache for tests (arXiv 0000.00000)."""

    slug = "fake"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.FEED_FORWARD})
    interval: int = 2
    behaviour: str = "honest"

    def schedule(self, run: RunShape) -> list[Phase]:
        return [Phase("full" if index % self.interval == 0 else "reuse") for index in range(run.steps)]

    def attach(self, sites: Sites) -> None:
        if self.behaviour != "matches nothing":
            sites.wrap(SiteKind.FEED_FORWARD, self.around)

    def around(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        if self.behaviour == "non-finite":
            at.decide(torch.full((2,), torch.nan))
        if at.phase == "full" or self.behaviour == "computes anyway":
            at.memory.output = call(hidden)
        return at.memory.output  # type: ignore[no-any-return]

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        return Share(float(phase.name == "full"), held=site.output_bytes(run))


@pytest.fixture(autouse=True)
def fake_technique() -> Any:
    with registry.adding(Fake):
        yield


def judged(compiled: Compiled, plain: Compiled | None = None) -> dict[str, Any]:
    trace = Trace()
    with opened(compiled, trace=trace) as side:
        out = side.generate((1, 2))
        sites = live_sites(compiled, side.call)
    difference = 1.0
    if plain is not None:
        with opened(plain) as side:
            difference = largest_difference(out, side.generate((1, 2)))
    done = receipts(compiled, sites, trace, difference)
    verdict(done, compiled)
    return done


def test_an_honest_technique_passes(compile_tiny: Compile) -> None:
    tiny = BACKBONES["opensora"].tiny()
    done = judged(compile_tiny("opensora", {"fake": None}, on=tiny), compile_tiny("opensora", on=tiny))
    kinds = done["techniques"]["fake"]["kinds"]["feed_forward"]
    assert kinds["planned"] == kinds["done"] == {"full": 16, "reused": 16}
    assert kinds["full_partial_reused_by_step"][:2] == ["4/0/0", "0/0/4"]


def test_an_inert_technique_fails_with_a_setting_that_would_fire(compile_tiny: Compile) -> None:
    with pytest.raises(NoEffect, match=r"`fake` changed nothing[^>]*-> with `interval: 2` it would act") as caught:
        judged(compile_tiny("opensora", {"fake": {"interval": 1}}))
    assert caught.value.exit_code == 3


def test_leaving_the_plan_fails(compile_tiny: Compile) -> None:
    with pytest.raises(NoEffect, match="something other than its plan"):
        judged(compile_tiny("opensora", {"fake": {"behaviour": "computes anyway"}}))


def test_non_finite_decisions_fail(compile_tiny: Compile) -> None:
    with pytest.raises(NoEffect, match="decided on 64 non-finite numbers"):
        judged(compile_tiny("opensora", {"fake": {"behaviour": "non-finite"}}))


def test_an_identical_output_fails(compile_tiny: Compile) -> None:
    """Calls saved, but gates of zero keep the result from reaching the output."""
    tiny = BACKBONES["opensora"].tiny()
    with torch.no_grad():
        for name, parameter in tiny.model.named_parameters():
            if "scale_shift_table" in name or name.startswith("t_block"):
                parameter.zero_()
    with pytest.raises(NoEffect, match="the output is identical"):
        judged(compile_tiny("opensora", {"fake": None}, on=tiny), compile_tiny("opensora", on=tiny))


def test_a_sampler_that_gives_the_baselines_output_fails() -> None:
    """The same time steps, once as a spacing and once as a list: other settings, and the same samples."""
    with pytest.raises(NoEffect, match="`ddim` gives exactly the output of the baseline's `ddim`") as caught:
        compared({"ddim": {"timesteps": [875, 750, 625, 500, 375, 250, 125, 0]}}, {"ddim": {"steps": 8}})
    assert "give one of them another number of `steps`" in str(caught.value)


def test_predictions_and_macs_of_both_sides_are_counted() -> None:
    done = compared({"dpm_solver_pp": {"steps": 3}}, {"ddim": {"steps": 6, "eta": 1.0}})
    plain = done["baseline"]
    assert (done["steps"], done["planned_steps"], plain["steps"], plain["planned_steps"]) == (3, 3, 6, 6)
    assert (done["macs"], plain["macs"]) == (done["planned_macs"], plain["planned_macs"])
    assert plain["macs"] == 2 * done["macs"] > 0
    assert (done["fresh_noise"], plain["fresh_noise"]) == (0, 5), "none in the step that ends clean"
    assert not done["output_identical"] and done["techniques"] == {}


def compared(sampler: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Receipts of a tiny run of one sampler against another."""
    request = tiny_request("dit", [], sampler=sampler)
    spec = request.spec.model_validate({**request.spec.model_dump(), "baseline": {"sampler": baseline}})
    run, plain = compile_both(replace(request, spec=spec), BACKBONES["dit"].tiny())
    found = compare(run, plain, 1, lambda _what, _steps: lambda: None).receipts
    verdict(found, run)
    return found


def test_matching_no_site_is_refused_before_the_run(compile_tiny: Compile) -> None:
    with pytest.raises(InvalidInput, match="`fake` matches no site"):
        compile_tiny("opensora", {"fake": {"behaviour": "matches nothing"}})


def test_difference_of_non_finite_outputs_is_infinite() -> None:
    assert largest_difference(torch.tensor([1.0]), torch.tensor([torch.nan])) == float("inf")


class Drops(Fake):
    """A gate for tests that drops the unconditional branch half-way (arXiv 0000.00001)."""

    slug = "drops"

    def schedule(self, run: RunShape) -> list[Phase]:
        late = Phase("full", branches=(Branch.COND,))
        return [Phase("full")] * (run.steps // 2) + [late, Phase("reuse", branches=(Branch.COND,))] * (run.steps // 4)


def test_dropped_branches_narrow_the_batch_and_the_memories(compile_tiny: Compile) -> None:
    with registry.adding(Drops):
        compiled, trace = compile_tiny("opensora", {"drops": None}), Trace()
        assert [step.branches for step in compiled.plan.steps[3:5]] == [["cond", "uncond"], ["cond"]]
        with opened(compiled, trace=trace) as side:
            assert torch.isfinite(side.generate((1, 2))).all()
        assert [step.rows for step in trace.steps] == [4] * 4 + [2] * 4
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)
    assert done["macs"] == pytest.approx(compiled.plan.estimate.macs, rel=1e-6)


class Blocks(Fake):
    """Skips every other block's work for tests, further out than `fake` (arXiv 0000.00003)."""

    slug = "blocks"
    stage = Stage.PLACE
    requires = frozenset({SiteKind.BLOCK})
    interval: int = 4

    def attach(self, sites: Sites) -> None:
        sites.wrap(SiteKind.BLOCK, self.around, lambda site: site.depth % 2 == 1)


def test_what_an_outer_technique_skips_is_planned_for_the_inner_one_too(compile_tiny: Compile) -> None:
    """`fake` alone evaluates 4 feed-forwards in every other step; inside reused blocks it evaluates none."""
    with registry.adding(Blocks):
        done = judged(compile_tiny("opensora", {"fake": None}, {"blocks": None}))
    kinds = done["techniques"]["fake"]["kinds"]["feed_forward"]
    assert kinds["done"] == kinds["planned"] == {"full": 2 * 4 + 2 * 2, "reused": 4 * 8 - 12}
    assert done["macs"] == pytest.approx(done["planned_macs"], rel=1e-6)


class Exact(Fake):
    """A technique for tests whose output may be the plain one (arXiv 0000.00002)."""

    slug = "exact"

    def exact(self, run: RunShape) -> bool:
        return True


def test_an_identical_output_is_no_failure_of_an_exact_technique(compile_tiny: Compile) -> None:
    with registry.adding(Exact):
        compiled, trace = compile_tiny("opensora", {"exact": None}), Trace()
        with opened(compiled, trace=trace) as side:
            side.generate((1, 2))
            sites = live_sites(compiled, side.call)
        verdict(receipts(compiled, sites, trace, 0.0), compiled)


class Halves(Technique):
    """Computes on half of the tokens, from the blocks inwards (arXiv 0000.00003)."""

    slug = "halves"
    family = "parallel"
    stage = Stage.PLACE
    requires = frozenset({SiteKind.FEED_FORWARD})

    def attach(self, sites: Sites) -> None:
        sites.wrap(SiteKind.FEED_FORWARD, lambda call, hidden, at: call(hidden))
        sites.wrap(SiteKind.BLOCK, lambda call, hidden, at: call(hidden[:, ::2]).repeat_interleave(2, dim=1))

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        return Share(0.5 if site.kind is SiteKind.BLOCK else 1.0, (site.context_macs + 1) // 2)


def test_a_share_inside_a_share_counts_once(compile_tiny: Compile) -> None:
    """The feed-forward gets half of the tokens because its block does, not half of that half."""
    with registry.adding(Halves):
        compiled, trace = compile_tiny("dit", {"halves": None}), Trace()
        with opened(compiled, trace=trace) as side:
            side.generate((1, 2))
            sites = live_sites(compiled, side.call)
        done = receipts(compiled, sites, trace, 1.0)
    assert done["techniques"]["halves"]["as_planned"]
    assert done["macs"] == pytest.approx(done["planned_macs"], rel=1e-9)


def test_ranks_must_follow_their_plan_and_agree(compile_tiny: Compile) -> None:
    compiled = compile_tiny("opensora", {"fake": None})
    good = {"as_planned": True, "latents": "a"}
    done = {"nonfinite_decisions": 0, "as_planned": True, "kinds": {}, "sites": {"x": 1}, "modules_replaced": 0}
    receipt = {"techniques": {"fake": done}, "output_identical": False, "kernels": {}, "formats": {}}
    verdict({**receipt, "ranks": [good, good]}, compiled)
    with pytest.raises(NoEffect, match="rank 1 did something other than its plan"):
        verdict({**receipt, "ranks": [good, {**good, "as_planned": False}]}, compiled)
    with pytest.raises(NoEffect, match="the ranks ended with different latents"):
        verdict({**receipt, "ranks": [good, {**good, "latents": "b"}]}, compiled)


class Moody(Fake):
    """Reuses when told to, for tests: `rests` stands for what data would decide (arXiv 0000.00004)."""

    slug = "moody"
    dynamic = True
    rests: bool = True

    def schedule(self, run: RunShape) -> list[Phase]:
        return [Phase("full"), *[Phase("decide")] * (run.steps - 1)]

    def bounds(self, run: RunShape) -> tuple[list[Phase], list[Phase]]:
        return [Phase("full"), *[Phase("reuse")] * (run.steps - 1)], [Phase("full")] * run.steps

    def around(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        turn = at.memory.turn = getattr(at.memory, "turn", -1) + 1
        if at.phase == "full" or turn % 2 == 0 or not self.rests:
            at.memory.output = call(hidden)
        return at.memory.output  # type: ignore[no-any-return]

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        return Share(float(phase.name != "reuse"), held=site.output_bytes(run))


def test_where_data_decides_the_plan_is_a_range(compile_tiny: Compile) -> None:
    with registry.adding(Moody):
        compiled = compile_tiny("opensora", {"moody": None})
        done = judged(compiled)
    (bounds,) = compiled.plan.dynamic
    kinds = done["techniques"]["moody"]["kinds"]["feed_forward"]
    assert kinds["done"] == {"full": 16, "reused": 16}
    assert (kinds["planned"], kinds["planned_at_least"]) == ({"full": 32}, {"full": 4, "reused": 28})
    assert bounds.most_macs == compiled.plan.estimate.macs == compiled.plan.estimate.baseline_macs
    sites = compiled.backbone.sites(compiled.run)
    feeds = sum(site.macs for site in sites if site.booked is SiteKind.FEED_FORWARD) * 4
    assert bounds.most_macs - bounds.least_macs == feeds * 7
    assert done["macs"] == bounds.most_macs - feeds * 4


def test_data_that_never_lets_it_rest_fails_the_run(compile_tiny: Compile) -> None:
    with (
        registry.adding(Moody),
        pytest.raises(
            NoEffect, match=r"`moody` changed nothing[^>]*-> its data never let it rest: loosen its thresholds"
        ),
    ):
        judged(compile_tiny("opensora", {"moody": {"rests": False}}))


class Overdone(Moody):
    """Says that it computes something in every step, and does not (arXiv 0000.00005)."""

    slug = "overdone"

    def bounds(self, run: RunShape) -> tuple[list[Phase], list[Phase]]:
        steps = [Phase("full"), Phase("reuse"), *[Phase("full")] * (run.steps - 2)]
        return steps, [Phase("full")] * run.steps


def test_leaving_the_range_fails(compile_tiny: Compile) -> None:
    with registry.adding(Overdone), pytest.raises(NoEffect, match="something other than its plan"):
        judged(compile_tiny("opensora", {"overdone": None}))


def test_a_kernel_is_measured_by_its_queries_and_its_keys() -> None:
    """Half of the queries on a third of the keys are a sixth; what a layer gives counts, not what enters it."""
    site = Site("k", SiteKind.KERNEL, torch.nn.Identity(), grid=(1, 2, 6), macs=2 * 12 * 12 * 8)
    layer = Site("a", SiteKind.SELF_ATTENTION, torch.nn.Identity(), grid=(1, 2, 6))
    trace = Trace()
    trace.begin(3)
    query, key = torch.zeros(3, 2, 6, 4), torch.zeros(3, 2, 4, 4)
    trace(site, query, {"key": key, "value": key}, query)
    trace(layer, torch.zeros(3, 12, 8), {}, torch.zeros(3, 6, 8))
    assert share_done(trace.steps[0], site) == pytest.approx(1 / 6)
    assert share_done(trace.steps[0], layer) == 0.5
