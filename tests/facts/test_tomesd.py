"""ToMeSD's own invariants (arXiv 2303.17604); the maths of merging is tested in `tests/unit/ops/test_merging.py`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from support import ROOT, TINY_STEPS
from support_unets import tiny
from torch import Tensor

from engine.compiler import Compiled, compile_spec
from engine.errors import InvalidInput, NoEffect
from engine.receipts import Trace, receipts, verdict
from engine.runner import live_sites, opened
from engine.sites import At, Call, Layer, Site, SiteKind, Sites
from engine.spec import load_spec
from engine.techniques.tokens.tomesd import ToMeSD

Compile = Callable[..., Compiled]


def shipped(*changes: str) -> Compiled:
    return compile_spec(load_spec(ROOT / "specs" / "tomesd_sd.yaml", profile="scale", changes=list(changes)))


@pytest.mark.parametrize(("max_downsample", "blocks"), [(1, 5), (2, 10), (4, 15), (8, 16)])
def test_blocks_of_stable_diffusion_at_each_resolution(max_downsample: int, blocks: int) -> None:
    """16 in all; the official code's comments count 4 of 15 at the finest."""
    plan = shipped(f"techniques.tomesd.max_downsample={max_downsample}").plan
    assert plan.techniques[0].sites["self_attention"] == blocks


def test_the_default_finds_nothing_in_xl_and_says_so() -> None:
    """XL has no attention at the finest level, where the official code silently does nothing."""
    xl = "model.weights=random:stable-diffusion-xl-base-1.0"
    with pytest.raises(InvalidInput, match="`tomesd` matches no site of `sd` with these parameters"):
        shipped(xl)
    assert shipped(xl, "techniques.tomesd.max_downsample=2").plan.techniques[0].sites["self_attention"] == 10


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6])
def test_macs_of_a_layer(ratio: float) -> None:
    """Projections fall by the ratio, products of attention by its square; matching costs 3/16 N^2 C."""
    compiled = shipped(f"techniques.tomesd.ratio={ratio}")
    sites = compiled.backbone.sites(compiled.run)
    top = [site for site in sites if site.kind is SiteKind.SELF_ATTENTION and site.tokens == 64 * 64]
    rows = compiled.plan.shape.batch * 2 * len(compiled.plan.steps)
    left = 1 - int(ratio * 4096) / 4096

    def saved(kind: SiteKind) -> float:
        counts = compiled.plan.estimate.kinds[kind]
        return (counts["baseline"] - counts["planned"]) / rows

    inside = [site for site in sites if site.inside in {one.name for one in top}]
    kernels = [site for site in inside if site.kind is SiteKind.KERNEL]
    projections = [site for site in inside if site.kind is SiteKind.LINEAR]
    assert saved(SiteKind.SELF_ATTENTION) == pytest.approx((1 - left) * sum(site.macs for site in projections))
    assert saved(SiteKind.KERNEL) == pytest.approx((1 - left**2) * sum(site.macs for site in kernels))
    assert saved(SiteKind.BLOCK) == pytest.approx(-len(top) * 3 / 16 * 4096**2 * 320)


@pytest.mark.parametrize("settings", [{}, {"merge_crossattn": True, "merge_mlp": True, "max_downsample": 2}])
def test_receipts_see_fewer_tokens(compile_tiny: Compile, settings: dict[str, Any]) -> None:
    compiled, trace = compile_tiny("sd", {"tomesd": settings}, on=tiny("deep")), Trace()
    with opened(compiled, trace=trace) as side:
        side.generate((5, 6))
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)
    verdict(done, compiled)
    kinds = done["techniques"]["tomesd"]["kinds"]
    partial = {"self_attention", "cross_attention", "feed_forward"} & kinds.keys()
    assert len(partial) == (3 if settings else 1)
    for name, entry in kinds.items():
        assert set(entry["planned"]) == set(entry["done"]) == {"partial" if name in partial else "full"}
    assert done["macs"] == pytest.approx(compiled.plan.estimate.macs, rel=1e-9)
    assert done["held_bytes"] == 0, "nothing is kept from step to step"


def test_nothing_to_merge_is_no_effect(compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny("sd", {"tomesd": {"ratio": 0.0}}), Trace()
    with opened(compiled, trace=trace) as side:
        side.generate((5, 6))
        done = receipts(compiled, live_sites(compiled, side.call), trace, 0.0)
    with pytest.raises(NoEffect, match=r"with `ratio: 0\.0` it changes nothing"):
        verdict(done, compiled)


def test_a_ratio_that_cells_cannot_give_is_refused(compile_tiny: Compile) -> None:
    with pytest.raises(InvalidInput, match=r"2x2 tokens can give 0.75 of them, not 0.8\n.*raise `sx` and `sy`"):
        compile_tiny("sd", {"tomesd": {"ratio": 0.8}})
    compile_tiny("sd", {"tomesd": {"ratio": 0.9, "sx": 4, "sy": 4}})


def draws(compile_tiny: Compile, seeds: tuple[int, ...] = (5, 6), runs: int = 1, **settings: Any) -> list[Tensor]:
    """Destinations of the first block at every step."""
    compiled = compile_tiny("sd", {"tomesd": settings}, on=tiny("deep"))
    seen: list[Tensor] = []

    def look(call: Call, hidden: Tensor, at: At) -> Any:
        seen.append(at.common.split["down_blocks.0.attentions.0.transformer_blocks.0"][1].clone())
        return call(hidden)

    with opened(compiled) as side:
        side.attachment.detach()
        # A stage runs once a step, inside the model: there the draws of the step are to be seen.
        view = Sites(side.attachment.sites)
        view.wrap(SiteKind.STAGE, look, lambda site: site.layer == 0)
        (layer,) = side.attachment.layers
        side.attachment.layers = [Layer(layer.track, [*layer.wraps, *view.wraps])]
        side.attachment.attach()
        for _ in range(runs):
            side.generate(seeds)
    return seen


def test_destinations_are_drawn_anew_at_every_step_and_alike_in_every_run(compile_tiny: Compile) -> None:
    first, again = torch.stack(draws(compile_tiny, runs=2)).chunk(2)
    assert torch.equal(first, again), "a second run starts from the same seed"
    assert all(not torch.equal(one, other) for one, other in pairwise(first))
    assert torch.equal(first, torch.stack(draws(compile_tiny, seeds=(8, 9)))), "not from the pictures' seeds"
    assert not torch.equal(first, torch.stack(draws(compile_tiny, seed=1)))


def test_every_cell_has_one_destination_in_any_place(compile_tiny: Compile) -> None:
    places = torch.stack(draws(compile_tiny))
    rows, columns = places // 12, places % 12
    cells = (rows // 2) * 6 + columns // 2
    assert torch.equal(cells.sort(dim=1).values, torch.arange(24).expand(TINY_STEPS, 24))
    counts = torch.bincount((2 * (rows % 2) + columns % 2).flatten(), minlength=4)
    assert counts.min() > 0.15 * counts.sum(), "about a quarter in each corner"


def test_without_randomness_destinations_are_top_left(compile_tiny: Compile) -> None:
    for places in draws(compile_tiny, use_rand=False):
        assert (places // 12 % 2 == 0).all() and (places % 12 % 2 == 0).all()


def test_the_global_generator_is_not_touched(compile_tiny: Compile) -> None:
    compiled = compile_tiny("sd", {"tomesd": None})
    with opened(compiled) as side:
        side.generate((5, 6))
        after = torch.get_rng_state()
    torch.manual_seed(5)  # what the run itself does
    assert torch.equal(after, torch.get_rng_state())


def test_r_is_the_whole_part_of_the_ratio() -> None:
    site = Site("a", SiteKind.SELF_ATTENTION, torch.nn.Identity(), grid=(1, 5, 7))
    assert ToMeSD(ratio=0.5).removed(site) == 17
    assert ToMeSD(ratio=0.75).removed(site) == 26
    assert ToMeSD(ratio=0.5, sx=8).removed(site) == 0, "a grid smaller than a cell has no destination"
