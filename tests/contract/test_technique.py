"""The contract every technique passes on every backbone it runs on (tiny, random weights)."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import BACKBONES, ROOT, TECHNIQUES, TINY_STEPS, disturb_unconditional, tiny_request
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.backbones.base import Backbone
from engine.compiler import Compiled, compile_spec
from engine.errors import InvalidInput
from engine.receipts import Trace, receipts, verdict
from engine.registry import backbones_with
from engine.runner import live_sites, opened
from engine.sites import Site, SiteKind
from engine.step import Branch, RunShape
from engine.technique import Stage, Technique

MAX_LINES = 180


def on_ranks(cls: type[Technique]) -> list[pytest.MarkDecorator]:
    """A technique that needs several processes is tested in as many, each of which runs the test."""
    needed = cls.model_validate({}).processes()
    return [pytest.mark.ranks(needed)] if needed > 1 else []


CASES = [
    pytest.param(cls, backbone, id=f"{slug}-{backbone}", marks=on_ranks(cls))
    for slug, cls in sorted(TECHNIQUES.items())
    if cls.stage is not Stage.TRAJECTORY
    for backbone in backbones_with(cls.requires)
]
on_tiny = pytest.mark.parametrize(("cls", "backbone"), CASES)
Compile = Callable[..., Compiled]


def latents_of(compiled: Compiled, trace: Trace | None = None, seeds: tuple[int, ...] = (5, 6)) -> Tensor:
    with opened(compiled, trace=trace) as side:
        return side.generate(seeds)


def plain_latents(backbone: Backbone, compile_tiny: Compile, **options: Any) -> Tensor:
    return latents_of(compile_tiny(backbone.name, on=backbone, **options))


def same(first: Tensor, second: Tensor, tolerance: float = 2e-4) -> None:
    """Equal up to rounding, which grows with the size that random models give their latents."""
    size = max(1.0, second.abs().max().item())
    torch.testing.assert_close(first, second, atol=tolerance * size, rtol=1e-3)


@on_tiny
def test_neutral_parameters_change_nothing(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    assert cls.neutral is not None, "a technique that is no sampler states its neutral parameters"
    tiny = BACKBONES[backbone].tiny()
    neutral = latents_of(compile_tiny(backbone, {cls.slug: dict(cls.neutral)}, on=tiny))
    difference = (neutral - plain_latents(tiny, compile_tiny)).abs().max().item()
    assert difference <= cls.neutral_tolerance


@on_tiny
def test_default_parameters_act(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    tiny = BACKBONES[backbone].tiny()
    compiled, trace = compile_tiny(backbone, {cls.slug: None}, on=tiny), Trace()
    out, plain = latents_of(compiled, trace), plain_latents(tiny, compile_tiny)
    assert torch.isfinite(out).all()
    assert not torch.equal(out, plain)
    with opened(compiled) as side:
        done = receipts(compiled, live_sites(compiled, side.call), trace, (out - plain).abs().max().item())
    verdict(done, compiled)
    cost = compiled.plan.estimate
    assert done["macs"] < cost.baseline_macs or cost.weight_bytes < cost.baseline_weight_bytes


@on_tiny
def test_detaching_restores_the_model(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    tiny = BACKBONES[backbone].tiny()
    before = plain_latents(tiny, compile_tiny)
    keys = {name: sorted(vars(module)) for name, module in tiny.model.named_modules()}
    latents_of(compile_tiny(backbone, {cls.slug: None}, on=tiny))
    assert {name: sorted(vars(module)) for name, module in tiny.model.named_modules()} == keys
    assert torch.equal(plain_latents(tiny, compile_tiny), before)


@on_tiny
def test_detaching_happens_after_an_error(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    tiny = BACKBONES[backbone].tiny()
    compiled = compile_tiny(backbone, {cls.slug: None}, on=tiny)
    with pytest.raises(RuntimeError, match="stop"), opened(compiled) as side:

        def stop() -> None:
            raise RuntimeError("stop")

        side.generate((5, 6), stop)
    assert all("forward" not in vars(module) for module in tiny.model.modules())
    assert side.attachment.nbytes() == 0


@on_tiny
def test_no_state_leaks_between_runs(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    compiled = compile_tiny(backbone, {cls.slug: None})
    with opened(compiled) as side:
        first, other, again = side.generate((5, 6)), side.generate((8, 9)), side.generate((5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@on_tiny
def test_a_batch_is_its_samples(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    if cls.couples_batch:
        pytest.skip("the technique says that it couples the batch")
    tiny, prompts = BACKBONES[backbone].tiny(), ("a cat", "the dog")
    together = latents_of(compile_tiny(backbone, {cls.slug: None}, on=tiny, prompts=prompts))
    for index, prompt in enumerate(prompts):
        alone = latents_of(compile_tiny(backbone, {cls.slug: None}, on=tiny, prompts=(prompt,)), seeds=(5 + index,))
        same(together[index : index + 1], alone, cls.batch_tolerance)


@on_tiny
def test_guidance_layouts_agree(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    tiny = BACKBONES[backbone].tiny()
    normal = latents_of(compile_tiny(backbone, {cls.slug: None}, on=tiny))
    tiny.branches = tuple(reversed(tiny.branches))  # type: ignore[misc]
    swapped = latents_of(compile_tiny(backbone, {cls.slug: None}, on=tiny))
    same(normal, swapped)


@on_tiny
def test_guidance_off_runs_one_branch(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny(backbone, {cls.slug: None}, inputs={"guidance": 1.0}), Trace()
    assert torch.isfinite(latents_of(compiled, trace)).all()
    assert {step.rows for step in trace.steps} == {2}


@on_tiny
def test_branches_do_not_leak(
    cls: type[Technique], backbone: str, compile_tiny: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the conditional prediction alone as output, the other branch's text must not matter."""
    if cls.couples_branches:
        pytest.skip("the technique says that it couples the branches")
    tiny = BACKBONES[backbone].tiny()
    monkeypatch.setattr(tiny, "combine", lambda rows, branches, _guidance: rows.chunk(2)[branches.index(Branch.COND)])
    before = latents_of(compile_tiny(backbone, {cls.slug: None}, on=tiny))
    disturb_unconditional(tiny)
    torch.testing.assert_close(latents_of(compile_tiny(backbone, {cls.slug: None}, on=tiny)), before)


@on_tiny
def test_what_happens_is_what_was_planned(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny(backbone, {cls.slug: None}), Trace()
    latents_of(compiled, trace)
    with opened(compiled) as side:
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)
    assert done["techniques"][cls.slug]["as_planned"]
    assert done["steps"] == TINY_STEPS
    if cls.dynamic:
        (bounds,) = compiled.plan.dynamic
        assert bounds.least_macs < bounds.most_macs == compiled.plan.estimate.macs
        assert bounds.least_macs <= done["macs"] <= bounds.most_macs
    else:
        assert done["macs"] == pytest.approx(compiled.plan.estimate.macs, rel=1e-6)
        assert done["held_bytes"] == compiled.plan.estimate.held_bytes


@on_tiny
def test_counted_flops_are_the_analytic_ones(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny(backbone, {cls.slug: None}), Trace()
    with opened(compiled, trace=trace) as side, sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            side.generate((5, 6))
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)["macs"]
    # Where data decides, the plan has a range only. Embeddings that all rows share are counted a row in the plan: well
    # below a percent.
    expected = done if cls.dynamic else compiled.plan.estimate.macs
    assert counter.get_total_flops() == pytest.approx(2 * expected, rel=0.01)


@on_tiny
def test_compiles_into_as_many_graphs_as_phases(cls: type[Technique], backbone: str, compile_tiny: Compile) -> None:
    if cls.dynamic or cls.model_validate({}).processes() > 1:
        pytest.skip("data decides, or the backend's collectives take part, which no graph holds: exempt")
    from torch._dynamo.testing import CompileCounter

    compiled, counter = compile_tiny(backbone, {cls.slug: None}), CompileCounter()
    eager = latents_of(compiled)
    torch._dynamo.reset()
    with opened(compiled) as side:
        model = compiled.backbone.model
        model.forward = torch.compile(model.forward, backend=counter, fullgraph=True, dynamic=False)
        try:
            traced = side.generate((5, 6))
        finally:
            del model.forward
    torch._dynamo.reset()
    same(traced, eager)
    assert counter.frame_count == compiled.plan.graphs


@on_tiny
def test_refused_where_its_sites_are_missing(
    cls: type[Technique], backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cls.requires, "a technique names the sites without which it means nothing"
    tiny = BACKBONES[backbone].tiny()
    whole = tiny.sites

    def without(run: RunShape) -> list[Site]:
        return [site for site in whole(run) if site.kind in (SiteKind.STEP, SiteKind.MODEL)]

    monkeypatch.setattr(tiny, "sites", without)
    with pytest.raises(InvalidInput, match=f"`{backbone}` has no .*`{cls.slug}` needs"):
        compile_spec(tiny_request(backbone, [{cls.slug: None}]), tiny)


@pytest.mark.parametrize("cls", TECHNIQUES.values(), ids=TECHNIQUES)
def test_file_is_short_and_knows_no_model(cls: type[Technique]) -> None:
    path = Path(inspect.getfile(cls))
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not imported & {"diffusers", "transformers"}


@pytest.mark.parametrize("cls", TECHNIQUES.values(), ids=TECHNIQUES)
def test_says_what_it_is(cls: type[Technique]) -> None:
    assert "arXiv" in cls.title()
    assert all(field.description for field in cls.model_fields.values())
    known = set(BACKBONES)
    assert set(cls.tuned) <= known
    for values in cls.tuned.values():
        cls.model_validate(dict(values))


@pytest.mark.parametrize("cls", [cls for cls in TECHNIQUES.values() if cls.paper], ids=lambda cls: cls.slug)
def test_has_a_spec(cls: type[Technique]) -> None:
    assert list((ROOT / "specs").glob(f"{cls.slug}_*.yaml")), "every paper's technique ships a spec"
