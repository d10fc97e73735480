"""Diff-Pruning's own invariants (arXiv 2305.10924)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import BACKBONES, ROOT
from torch import Tensor, nn

from engine.artefacts import Artefact, Bench, Store
from engine.backbones.base import Backbone
from engine.compiler import Compiled, compile_spec
from engine.ops.pruning import prunable
from engine.prepare import prepare_all
from engine.receipts import Trace, receipts
from engine.runner import live_sites, opened
from engine.spec import load_spec
from engine.step import Branch
from engine.techniques.pruning.diff_pruning import KEPT, DiffPruning, groups_of

Compile = Callable[..., Compiled]
STEPS = 12
QUICK = {"calibration_batch": 3, "finetune_steps": 0, "batch": 2, "pictures": 3}


@pytest.fixture
def tiny() -> Backbone:
    return BACKBONES["ddpm"].tiny()


@pytest.fixture
def bench(tiny: Backbone, compile_tiny: Compile) -> Bench:
    """A bench of random pictures, of a model trained in a few time steps only."""
    compiled = compile_tiny("ddpm", on=tiny)

    def examples(count: int, seed: int) -> tuple[list[str], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [str(index % 10) for index in range(count)], torch.randn(count, 3, 16, 16, generator=generator)

    def conditions(prompts: Any) -> Any:
        inputs = compiled.inputs.model_copy(update={"prompts": list(prompts)})
        return tiny.encode(inputs, replace(compiled.run, batch=len(prompts)))

    run = replace(compiled.run, timesteps=STEPS)
    return Bench(
        tiny, run, compiled.sampler, lambda seed: torch.zeros(0), examples, conditions, lambda what, total: lambda: None
    )


def steps_summed(bench: Bench, threshold: float) -> int:
    """Time steps whose gradient was added."""
    ticks: list[int] = []
    counting = replace(bench, progress=lambda what, total: lambda: ticks.append(total))
    DiffPruning(**QUICK, threshold=threshold).gradients(counting)
    return len(ticks)


def losses(bench: Bench) -> list[float]:
    prompts, clean = bench.examples(3, 0)
    noise, conditions = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), bench.conditions(prompts)
    levels = [torch.full((3,), (step + 1) / STEPS, dtype=torch.double) for step in range(STEPS)]
    found = [bench.backbone.training_loss(clean, noise, level, conditions, Branch.COND) for level in levels]
    return [loss.item() for loss in found]


def test_without_threshold_every_time_step_counts(bench: Bench) -> None:
    assert steps_summed(bench, 0.0) == STEPS


def test_the_sum_ends_at_the_first_loss_below_the_threshold(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = [0.9, 1.0, 0.6, 0.3, 0.4, 0.1, 0.9, *[0.5] * STEPS]
    plain, calls = type(bench.backbone).training_loss, iter(curve)

    def scaled(self: Backbone, *inputs: Any) -> Tensor:
        loss = plain(self, *inputs)
        return loss * (next(calls) / loss.item())

    monkeypatch.setattr(type(bench.backbone), "training_loss", scaled)
    for threshold, summed in ((0.35, 3), (0.2, 5), (1.0, 2), (0.05, STEPS)):
        calls = iter(curve)
        assert steps_summed(bench, threshold) == summed, threshold


def test_gradients_add_up_with_their_signs(bench: Bench) -> None:
    weight = bench.backbone.model.get_submodule("conv_in").weight
    weight.requires_grad_(True)
    prompts, clean = bench.examples(3, 0)
    noise, conditions = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), bench.conditions(prompts)
    total = torch.zeros_like(weight)
    for step in range(STEPS):
        level = torch.full((3,), (step + 1) / STEPS, dtype=torch.double)
        loss = bench.backbone.training_loss(clean, noise, level, conditions, Branch.COND)
        total += torch.autograd.grad(loss, weight)[0]
    weight.requires_grad_(False)
    found = DiffPruning(**QUICK, threshold=0.0).gradients(bench)
    torch.testing.assert_close(found["conv_in"], total)


def test_the_pruned_weights_are_those_of_the_kept_channels(bench: Bench) -> None:
    technique = DiffPruning(**QUICK, pruning_ratio=0.3)
    dense = {name: value.clone() for name, value in bench.backbone.model.state_dict().items()}
    made = technique.prepare(bench)
    groups, layers = groups_of(bench.backbone), prunable(bench.backbone.model)
    assert {name for name in made if name.startswith(KEPT)} == {f"{KEPT}{group.name}" for group in groups}
    keep: dict[str, dict[str, list[int]]] = {}
    for group in groups:
        kept = made[f"{KEPT}{group.name}"].tolist()
        assert len(kept) < group.width
        for member in group.members:
            both = zip(member.places.tolist(), member.channels.tolist(), strict=True)
            places = [place for place, channel in both if channel in kept]
            keep.setdefault(member.layer, {}).setdefault(member.side, []).extend(places)
    for name, layer in layers.items():
        sliced = dense[f"{name}.weight"]
        for side, places in keep[name].items():
            axis = 1 if side == "in" or isinstance(layer, nn.Embedding) else 0
            sliced = sliced.index_select(axis, torch.tensor(sorted(places)))
        assert torch.equal(made[f"{name}.weight"], sliced.half()), name


def test_the_pruned_model_takes_and_gives_what_the_dense_one_did(bench: Bench) -> None:
    backbone, technique = bench.backbone, DiffPruning(**QUICK, pruning_ratio=0.3)
    before = sum(parameter.numel() for parameter in backbone.model.parameters())
    with backbone.changing():
        technique.bound(Artefact(technique.prepare(bench), {})).transform(backbone)
        assert backbone.model.conv_in.in_channels == 3
        assert backbone.blank_call().shape == (1, 3, 16, 16)
        norms = [module for module in backbone.model.modules() if isinstance(module, nn.GroupNorm)]
        assert all(norm.num_channels % norm.num_groups == 0 for norm in norms)
        after = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert 0.7**2 * before < after < before


def test_preparing_is_reproducible_and_leaves_the_dense_model(bench: Bench) -> None:
    technique = DiffPruning(**{**QUICK, "finetune_steps": 3, "unconditional": 0.5}, learning_rate=0.01)
    dense = {name: value.clone() for name, value in bench.backbone.model.state_dict().items()}
    first, again = technique.prepare(bench), technique.prepare(bench)
    other = technique.prepare(replace(bench, seed=1))
    untrained = DiffPruning(**QUICK).prepare(bench)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first if first[name].shape == other[name].shape)
    assert all(torch.equal(first[name], untrained[name]) for name in first if name.startswith(KEPT))
    assert not torch.equal(first["conv_out.weight"], untrained["conv_out.weight"])
    after = bench.backbone.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in dense.items())
    assert bench.backbone.swaps == 0


def test_fine_tuning_lowers_the_loss(bench: Bench) -> None:
    def loss_after(steps: int) -> float:
        settings = {**QUICK, "finetune_steps": steps, "pictures": 8, "batch": 8, "unconditional": 0.0}
        technique = DiffPruning(**settings, learning_rate=3e-3, ema=0.5)
        with bench.backbone.changing():
            technique.bound(Artefact(technique.prepare(bench), {})).transform(bench.backbone)
            return sum(losses(bench)) / STEPS

    assert loss_after(40) < 0.8 * loss_after(0)


def test_without_a_ratio_nothing_changes(bench: Bench) -> None:
    bench.backbone.model.half().float()  # as artefacts are, and as the embedded weights are kept
    technique, before = DiffPruning(**QUICK, pruning_ratio=0.0), bench.backbone.blank_call()
    made = technique.prepare(bench)
    with bench.backbone.changing():
        technique.bound(Artefact(made, {})).transform(bench.backbone)
        assert torch.equal(bench.backbone.blank_call(), before)


def test_a_prepared_run_is_what_its_plan_says(
    compile_tiny: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_ARTEFACTS", str(tmp_path))
    settings = {"diff_pruning": {**QUICK, "threshold": 1.0, "finetune_steps": 1}}
    compiled = compile_tiny("ddpm", settings, prompts=("a cat", ""))
    assumed = compiled.plan
    monkeypatch.setattr(compiled.backbone, "load", lambda device: None)
    prepare_all(compiled, torch.device("cpu"), lambda what, total: lambda: None, store=Store())
    again = compile_tiny("ddpm", settings, on=compiled.backbone, prompts=("a cat", ""))
    trace = Trace()
    with opened(again, trace) as side:
        side.generate((5, 6))
        done = receipts(again, live_sites(again, side.call), trace, 1.0)
    assert done["macs"] == again.plan.estimate.macs == assumed.estimate.macs < assumed.estimate.baseline_macs
    assert again.plan.parameters == assumed.parameters
    assert done["techniques"]["diff_pruning"]["modules_replaced"] == len(prunable(again.backbone.model))


def test_size_of_the_papers_cifar_model() -> None:
    """19.8 of 35.7 M parameters, 3.4 of 6.1 GMACs: attention's own products, counted here, are left out there."""
    spec = ROOT / "specs" / "diff_pruning_ddpm.yaml"
    plan = compile_spec(load_spec(spec, profile="scale"), store=Store(Path("nowhere"), None)).plan
    evaluations = len(plan.steps) * plan.shape.batch
    assert plan.parameters == pytest.approx(19.8e6, rel=0.01)
    assert plan.estimate.macs / evaluations == pytest.approx(3.4e9, rel=0.035)
    assert plan.estimate.baseline_macs / evaluations == pytest.approx(6.1e9, rel=0.025)
    assert plan.estimate.macs_ratio == pytest.approx(6.1 / 3.4, rel=0.02)
    assert plan.estimate.weight_bytes == 4 * plan.parameters
