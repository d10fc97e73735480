"""Dependency groups, importance and pruned layers, against torch-pruning and against what pruning must not change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning
from support import BACKBONES
from torch import Tensor, nn

from engine.backbones.base import Backbone
from engine.ops.pruning import (
    Group,
    dependency_groups,
    differentiable,
    kept_channels,
    prunable,
    pruned_parameters,
    resized,
    taylor_importance,
)
from engine.sites import SiteKind


class Small(nn.Module):
    """A residual pair, a skip that is concatenated, and a gate: one of every way channels depend on one another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.second = nn.Conv2d(8, 8, 1)
        self.behind = nn.Conv2d(12, 10, 1)
        self.other = nn.Conv2d(2, 4, 1)
        self.last = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden = hidden + self.second(self.norm(hidden))
        value, gate = self.behind(torch.cat([self.other(x), hidden], dim=1)).chunk(2, dim=1)
        return self.last(value * gate)


def groups_of_small(model: Small) -> dict[str, Group]:
    return {group.name: group for group in dependency_groups(model, lambda: model(torch.zeros(1, 2, 4, 4)), {})}


def groups_of(tiny: Backbone) -> list[Group]:
    return dependency_groups(tiny.model, tiny.blank_call, tiny.heads())


def pruned(model: nn.Module, groups: list[Group], kept: dict[str, Tensor]) -> Any:
    """A copy of `model` with the kept channels only."""
    layers = prunable(model)
    parameters = pruned_parameters(layers, groups, kept)
    twin = copy.deepcopy(model)
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(parent), leaf, resized(layer, name, parameters))
    return twin


def everything(groups: list[Group]) -> dict[str, Tensor]:
    return {group.name: torch.arange(group.width) for group in groups}


def test_groups_of_every_kind_of_dependency() -> None:
    groups = groups_of_small(Small())
    assert {(group.width, group.blocks) for group in groups.values()} == {(8, 2), (4, 1), (5, 1)}
    shared = next(group for group in groups.values() if group.width == 8)
    places = {(member.layer, member.side): member.places.tolist() for member in shared.members}
    assert places == {
        ("first", "out"): list(range(8)),
        ("norm", "out"): list(range(8)),
        ("second", "in"): list(range(8)),
        ("second", "out"): list(range(8)),
        ("behind", "in"): list(range(4, 12)),
    }
    gate = next(group for group in groups.values() if group.width == 5)
    halves = next(member for member in gate.members if member.layer == "behind")
    pairs = dict(zip(halves.places.tolist(), halves.channels.tolist(), strict=True))
    assert all(pairs[place] == pairs[place + 5] == place for place in range(5))


def test_a_norm_over_parts_that_its_groups_do_not_divide_keeps_them_whole() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 5, 1), nn.Conv2d(1, 3, 1)
            self.norm, self.last = nn.GroupNorm(4, 8), nn.Conv2d(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(torch.cat([self.one(x), self.two(x)], dim=1)))

    model = Uneven()
    groups = dependency_groups(model, lambda: model(torch.zeros(1, 1, 2, 2)), {})
    kept = {group.name: kept_channels(torch.rand(group.width), group.blocks, 0.6) for group in groups}
    assert sorted(map(len, kept.values())) == [3, 5]


@pytest.mark.parametrize(("blocks", "ratio", "left"), [(1, 0.3, 17), (4, 0.3, 20), (8, 0.34, 16), (8, 0.3, 24)])
def test_every_block_loses_as_many_rounded_down(blocks: int, ratio: float, left: int) -> None:
    importance = torch.rand(24, generator=torch.Generator().manual_seed(blocks))
    kept = kept_channels(importance, blocks, ratio)
    assert len(kept) == left and kept.tolist() == sorted(set(kept.tolist()))
    size = 24 // blocks
    for block in range(blocks):
        here = [int(channel) for channel in kept if channel // size == block]
        gone = set(range(block * size, (block + 1) * size)) - set(here)
        assert len(here) == left // blocks
        assert all(importance[one] >= importance[other] for one in here for other in gone)


def test_decimal_ratios_are_not_rounded_away() -> None:
    assert len(kept_channels(torch.rand(100), 1, 0.29)) == 71  # 0.29 * 100 is 28.999.. in binary


@pytest.mark.parametrize("backbone", ["ddpm", "sd"])
def test_keeping_everything_changes_no_bit(backbone: str) -> None:
    tiny = BACKBONES[backbone].tiny()
    groups, before = groups_of(tiny), tiny.blank_call()
    parameters = pruned_parameters(prunable(tiny.model), groups, everything(groups))
    for name, layer in prunable(tiny.model).items():
        tiny.swap(name, resized(layer, name, parameters))
    assert torch.equal(tiny.blank_call(), before)


@pytest.mark.parametrize("backbone", ["ddpm", "sd"])
def test_a_sketch_has_the_groups_of_the_loaded_model(backbone: str) -> None:
    tiny = BACKBONES[backbone].tiny()
    loaded = groups_of(tiny)
    tiny.model.to("meta")
    tiny.device = torch.device("meta")
    sketched = groups_of(tiny)
    for one, two in zip(loaded, sketched, strict=True):
        assert (one.name, one.width, one.blocks) == (two.name, two.width, two.blocks)
        for here, there in zip(one.members, two.members, strict=True):
            assert (here.layer, here.side) == (there.layer, there.side)
            assert torch.equal(here.places, there.places) and torch.equal(here.channels, there.channels)


def test_groups_are_found_in_inference_mode_and_leave_the_model_as_it_was() -> None:
    tiny = BACKBONES["ddpm"].tiny()
    tiny.model.requires_grad_(False)
    with torch.inference_mode():
        groups = groups_of(tiny)
    assert groups and not any(parameter.requires_grad for parameter in tiny.model.parameters())


@pytest.mark.parametrize("backbone", ["ddpm", "sd"])
def test_every_channel_but_those_of_input_output_and_condition_is_in_one_group(backbone: str) -> None:
    tiny = BACKBONES[backbone].tiny()
    layers, seen = prunable(tiny.model), {}
    for group in groups_of(tiny):
        for member in group.members:
            sides = seen.setdefault((member.layer, member.side), [])
            sides += member.places.tolist()
    assert all(len(places) == len(set(places)) for places in seen.values())
    for name, layer in layers.items():
        weight = layer.get_parameter("weight")
        norm = isinstance(layer, nn.GroupNorm | nn.LayerNorm)
        wide = 1 if isinstance(layer, nn.Embedding) else 0
        if name != "conv_out":
            assert len(seen[name, "out"]) == weight.shape[wide], name
        outer = ("conv_in", "time_embedding.linear_1")  # of the picture, and of the time
        of_text = ".attn2.to_k" in name or ".attn2.to_v" in name
        if not norm and wide == 0 and name not in outer and not of_text:
            assert len(seen[name, "in"]) == weight.shape[1], name


@pytest.mark.parametrize("layer", ["time_embedding.linear_1", "time_embedding.linear_2"])
def test_channels_that_nobody_reads_change_nothing(layer: str) -> None:
    """Those of the time embedding: in front of a norm a channel counts even if no layer behind reads it."""
    tiny = BACKBONES["ddpm"].tiny()
    groups = groups_of(tiny)
    group = next(group for group in groups if group.name == layer)
    gone = torch.tensor([3, 17, 40])
    with torch.no_grad():
        for member in group.members:
            if member.side == "in":
                weight = tiny.model.get_submodule(member.layer).weight
                weight[:, member.places[torch.isin(member.channels, gone)]] = 0.0
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([5.0, 800.0])
    before = tiny.call(x, timestep=time, class_labels=torch.tensor([1, 4]))
    left = torch.tensor([channel for channel in range(group.width) if channel not in gone])
    twin = pruned(tiny.model, groups, {**everything(groups), layer: left})
    (after,) = twin(x, time, torch.tensor([1, 4]))
    assert twin.get_submodule(layer).out_features == group.width - 3
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_both_halves_of_a_gated_layer_go_together() -> None:
    tiny = BACKBONES["sd"].tiny()
    groups = groups_of(tiny)
    path = next(name for name in prunable(tiny.model) if name.endswith("ff.net.2")).removesuffix("net.2")
    inner, outer = f"{path}net.0.proj", f"{path}net.2"
    group = next(
        group for group in groups if {(member.layer, member.side) for member in group.members} >= {(inner, "out")}
    )
    gone = torch.tensor([0, 7, group.width - 1])
    with torch.no_grad():
        tiny.model.get_submodule(outer).weight[:, gone] = 0.0
    before = tiny.blank_call()
    left = torch.tensor([channel for channel in range(group.width) if channel not in gone])
    twin = pruned(tiny.model, groups, {**everything(groups), group.name: left})
    kept = tiny.model.get_submodule(inner).weight[torch.cat([left, left + group.width])]
    assert torch.equal(twin.get_submodule(inner).weight, kept)
    (after,) = twin(torch.zeros(1, 4, 8, 8), torch.zeros(1), **tiny.blank_inputs())
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_every_head_loses_as_many() -> None:
    tiny = BACKBONES["sd"].tiny()
    groups = groups_of(tiny)
    name = next(name for name in prunable(tiny.model) if name.endswith("attn1.to_q"))
    group = next(group for group in groups if any(m.layer == name and m.side == "out" for m in group.members))
    heads = tiny.heads()[name]
    assert heads > 1 and group.blocks % heads == 0
    kept = kept_channels(torch.rand(group.width), group.blocks, 0.4)
    assert torch.bincount(kept // (group.width // heads)).unique().numel() == 1


def test_importance_is_that_of_torch_pruning() -> None:
    """Its `TaylorImportance(multivariable=False)`, which the paper's script for diffusers calls."""
    tiny = BACKBONES["ddpm"].tiny()
    layers, groups = prunable(tiny.model), groups_of(tiny)
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([5.0, 800.0])
    tiny.model.requires_grad_(True)
    tiny.call(x, timestep=time, class_labels=torch.tensor([1, 4])).square().mean().backward()
    gradients = {name: layer.get_parameter("weight").grad for name, layer in layers.items()}
    graph = torch_pruning.DependencyGraph().build_dependency(
        tiny.model, (), forward_fn=lambda _model, _inputs: tiny.blank_call(), verbose=False
    )
    oracle = torch_pruning.pruner.importance.TaylorImportance(multivariable=False, normalizer=None)
    for group in groups:
        root = layers[group.name]
        of_root = graph.get_pruner_of_module(root).prune_out_channels
        wanted = oracle(graph.get_pruning_group(root, of_root, list(range(group.width))))
        ours = taylor_importance(group, layers, {name: grad for name, grad in gradients.items() if grad is not None})
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-9)


def test_the_pruned_model_is_that_of_torch_pruning() -> None:
    tiny = BACKBONES["ddpm"].tiny()
    groups = groups_of(tiny)
    generator = torch.Generator().manual_seed(1)
    kept = {
        group.name: kept_channels(torch.rand(group.width, generator=generator), group.blocks, 0.3) for group in groups
    }
    ours, theirs = pruned(tiny.model, groups, kept), copy.deepcopy(tiny.model)
    x, time, labels = torch.randn(2, 3, 16, 16), torch.tensor([5.0, 800.0]), torch.tensor([1, 4])
    theirs.requires_grad_(True)
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, (x, time, labels), verbose=False)
    for group in groups:
        gone = sorted(set(range(group.width)) - set(kept[group.name].tolist()))
        root = theirs.get_submodule(group.name)
        graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, gone).prune()
    wanted = theirs.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in ours.state_dict().items())
    (one,), (two,) = ours(x, time, labels), theirs(x, time, labels)
    torch.testing.assert_close(one, two)
    assert two.shape == x.shape


def test_sites_of_a_pruned_unet_tell_its_own_widths(compile_tiny: Any) -> None:
    for backbone in ("ddpm", "sd"):
        tiny = BACKBONES[backbone].tiny()
        run = compile_tiny(backbone, on=tiny).run
        groups = groups_of(tiny)
        kept = {group.name: kept_channels(torch.ones(group.width), group.blocks, 0.5) for group in groups}
        parameters = pruned_parameters(prunable(tiny.model), groups, kept)
        for name, layer in prunable(tiny.model).items():
            tiny.swap(name, resized(layer, name, parameters))
        sites = tiny.sites(run)
        blocks = [site for site in sites if site.kind is SiteKind.BLOCK and hasattr(site.module, "conv2")]
        assert blocks and all(site.width == site.module.conv2.out_channels for site in blocks)
        stage = next(site for site in sites if site.kind is SiteKind.STAGE)
        last = tiny.model.last[0].module.conv1.in_channels - tiny.model.conv_in.out_channels
        assert stage.width == last


def test_gradients_end_with_the_block() -> None:
    model = Small().requires_grad_(False)
    with torch.inference_mode(), differentiable(model) as parameters:
        model(torch.zeros(1, 2, 4, 4)).sum().backward()
        assert all(parameter.grad is not None for parameter in parameters)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
