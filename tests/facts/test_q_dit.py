"""Q-DiT's own invariants (arXiv 2406.17343)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import BACKBONES, ROOT
from torch import Tensor

from engine.artefacts import read
from engine.backbones.base import Backbone
from engine.compiler import Compiled, compile_spec
from engine.errors import NoEffect
from engine.kernels.linear import QuantizedLinear
from engine.ops.quantization import dequantize
from engine.prepare import prepare_all
from engine.receipts import Trace, receipts, verdict
from engine.runner import live_sites, opened
from engine.sites import Site, SiteKind
from engine.spec import load_spec

Compile = Callable[..., Compiled]
SMALL = {
    "group": 24, "group_choices": [8, 16, 24, 48], "mean_group": 24, "population": 4, "parents": 2, "crossovers": 2,
    "mutants": 2, "generations": 3, "search_samples": 4, "calibration_samples": 8,
}  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linears(backbone: Backbone) -> list[Site]:
    return backbone.parts(SiteKind.LINEAR)


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_ARTEFACTS", str(tmp_path / "artefacts"))


@pytest.fixture
def prepared(compile_tiny: Compile, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Compiled]:
    """Compile, prepare, and compile again with the artefact."""

    def done(backbone: str = "dit", **parameters: Any) -> Compiled:
        technique = {"q_dit": {**SMALL, **parameters}}
        compiled = compile_tiny(backbone, technique)
        monkeypatch.setattr(compiled.backbone, "load", lambda device: None)
        prepare_all(compiled, torch.device("cpu"), lambda what, total: lambda: None)
        return compile_tiny(backbone, technique, on=compiled.backbone)

    return done


def tensors_of(compiled: Compiled) -> dict[str, Tensor]:
    artefact = compiled.entries[0].technique.artefact
    assert artefact is not None
    return dict(artefact.tensors)


@pytest.fixture(scope="module")
def published() -> Compiled:
    """On DiT-XL/2 with its published sizes."""
    return compile_spec(load_spec(ROOT / "specs" / "q_dit_dit.yaml", profile="scale"))


def test_sites_are_the_linears_of_the_blocks(published: Compiled) -> None:
    """Per block of DiT-XL/2 the fused qkv (three here), the projection, two of the MLP, and the modulation."""
    assert published.plan.techniques[0].sites == {"linear": 28 * 7}
    sites = linears(published.backbone)
    assert len({site.reads for site in sites if site.part_of is not SiteKind.BLOCK}) == 112
    assert {site.module.in_features for site in sites} == {1152, 4608}
    choices = published.entries[0].technique.choices  # type: ignore[attr-defined]
    assert all(choices(site.module) == [32, 64, 128, 192, 288] for site in sites)


def test_bit_operations_are_bits_times_bits_times_macs(published: Compiled) -> None:
    """MACs stay; those of the blocks' linears take 4 x 8 bits instead of 16 x 16: 8 times fewer bit operations."""
    cost = published.plan.estimate
    assert cost.macs == cost.baseline_macs == sum(cost.formats.values())
    tokens, width, rows = 256, 1152, 4 * 2 * 50
    assert cost.formats["W4A8"] == 28 * (tokens * 12 * width**2 + 6 * width**2) * rows
    assert set(cost.formats) == {"W4A8", "bfloat16"}


def test_bytes_of_the_paper(published: Compiled) -> None:
    """347 of 1349 MB; diffusers' DiT repeats the embeddings of time and class in every block, the original has one."""
    embedder = published.backbone.model.transformer_blocks[0].norm1.emb
    repeated = 27 * 2 * sum(parameter.numel() for parameter in embedder.parameters())
    cost = published.plan.estimate
    assert cost.baseline_weight_bytes - repeated == pytest.approx(1349e6, rel=0.01)
    # Scales and zero points are counted here, and the sums that zero points ask for.
    assert cost.weight_bytes - repeated == pytest.approx(347e6, rel=0.08)


@pytest.mark.parametrize("backbone", ["dit", "opensora"])
def test_prepared_groups_divide_their_layers_within_the_budget(
    prepared: Callable[..., Compiled], backbone: str
) -> None:
    compiled = prepared(backbone)
    groups, sites = tensors_of(compiled)["groups"].tolist(), linears(compiled.backbone)
    assert len(groups) == len(sites)
    assert all(site.module.in_features % group == 0 for site, group in zip(sites, groups, strict=True))
    genes = {site.reads: group for site, group in zip(sites, groups, strict=True) if site.part_of is not SiteKind.BLOCK}
    assert all(genes.get(site.reads, group) == group for site, group in zip(sites, groups, strict=True)), "qkv is one"
    assert sum(genes.values()) / len(genes) >= 24
    assert set(genes.values()) <= {8, 16, 24, 48}


def test_searched_groups_reach_the_rounding_and_the_layers(prepared: Callable[..., Compiled]) -> None:
    compiled = prepared()
    tensors, sites = tensors_of(compiled), linears(compiled.backbone)
    assert len(set(tensors["groups"].tolist())) > 1
    with opened(compiled):
        for site, group in zip(linears(compiled.backbone), tensors["groups"].tolist(), strict=True):
            assert isinstance(site.module, QuantizedLinear) and site.module.group == group
            assert tensors[f"{site.name}.scale"].shape[1] == site.module.in_features // group
            assert torch.equal(site.module.packed, tensors[f"{site.name}.packed"])
    assert [site.module for site in linears(compiled.backbone)] == [site.module for site in sites]


def test_the_same_seed_prepares_the_same(prepared: Callable[..., Compiled], tmp_path: Path) -> None:
    first = tensors_of(prepared())
    for path in (tmp_path / "artefacts").rglob("*.safetensors"):
        path.unlink()
    again = tensors_of(prepared())
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_an_artefact_serves_every_sampler_and_size(prepared: Callable[..., Compiled], compile_tiny: Compile) -> None:
    """Nothing about activations is stored, so nothing depends on steps."""
    compiled, technique = prepared(), {"q_dit": SMALL}
    other = compile_tiny("dit", technique, on=compiled.backbone, sampler={"ddim": {"steps": 3}}, inputs={"size": 32})
    assert other.entries[0].technique.artefact is not None
    fewer = compile_tiny("dit", {"q_dit": {**SMALL, "weight_bits": 6}}, on=compiled.backbone)
    assert fewer.entries[0].technique.artefact is None


def test_gptq_brings_outputs_of_layers_nearer(prepared: Callable[..., Compiled]) -> None:
    """On the inputs that layers see in a run of the plain model."""
    compiled = prepared(search=False, calibration_samples=64)
    plain, seen = linears(compiled.backbone), dict[str, Tensor]()
    for site in plain:
        site.module.register_forward_pre_hook(lambda _, inputs, name=site.name: seen.update({name: inputs[0]}))
    with opened(replace(compiled, entries=())) as side:
        side.generate((5, 6))
    errors = {"gptq": 0.0, "nearest": 0.0}
    with opened(compiled):
        for site, quantized in zip(plain, linears(compiled.backbone), strict=True):
            exact = seen[site.name] @ site.module.weight.T
            rounded = {"gptq": quantized.module, "nearest": QuantizedLinear.of(site.module, 4, quantized.module.group)}
            for name, layer in rounded.items():
                error = seen[site.name] @ dequantize(layer.codes()).T - exact
                errors[name] += float(error.square().mean() / exact.square().mean())
    assert 0 < errors["gptq"] < 0.8 * errors["nearest"]


def test_only_plain_rounding_needs_no_preparation(compile_tiny: Compile) -> None:
    for parameters, wanted in (
        ({}, True), ({"search": False}, True), ({"rounding": "nearest"}, True),
        ({"search": False, "rounding": "nearest"}, False), ({"weight_bits": 16}, False),
    ):  # fmt: skip
        compiled = compile_tiny("dit", {"q_dit": parameters})
        assert compiled.entries[0].technique.wants_artefact() == wanted
        assert any("yet to be prepared" in note for note in compiled.plan.notes) == wanted


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_receipts_tell_the_format_and_the_kernels(compile_tiny: Compile, bits: int) -> None:
    compiled, trace = compile_tiny("latte", {"q_dit": {"weight_bits": bits}}), Trace()
    with opened(compiled, trace) as side:
        side.generate((5, 6))
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)
    verdict(done, compiled)
    calls = done["techniques"]["q_dit"]["kinds"]["linear"]["done"]["full"]
    assert done["formats"] == [f"W{bits}A8"]
    assert done["kernels"].keys() == {f"W{bits}A8 float", f"W{bits}A8 int8 (torch._int_mm)"}
    assert sum(done["kernels"].values()) == calls == 32 * 8
    with pytest.raises(NoEffect, match=f"no layer ran in W{bits}A8"):
        verdict({**done, "kernels": {"W2A8 float": 1}}, compiled)


def test_off_is_reported_as_no_effect(compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny("dit", {"q_dit": {"weight_bits": 16}}), Trace()
    with opened(compiled, trace) as side:
        side.generate((5, 6))
        done = receipts(compiled, live_sites(compiled, side.call), trace, 0.0)
    with pytest.raises(NoEffect, match="`q_dit` changed nothing"):
        verdict(done, compiled)


def test_caches_rest_on_quantized_layers(compile_tiny: Compile) -> None:
    """Scales are taken anew at every call, so that steps can be left out."""
    compiled, trace = compile_tiny("dit", {"fora": {"interval": 3}}, {"q_dit": None}), Trace()
    with opened(compiled, trace) as side:
        side.generate((5, 6))
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)
    verdict(done, compiled)
    # Modulation belongs to the block and runs at every step, the others at full steps only.
    full = sum(step.phases["fora"] == "full" for step in compiled.plan.steps)
    done_at = {"full": 12 * full + 2 * 8, "reused": 12 * (8 - full)}
    assert done["techniques"]["q_dit"]["kinds"]["linear"]["done"] == done_at
    assert done["macs"] == compiled.plan.estimate.macs


@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) - {"ddpm"}))
def test_eight_bits_are_near_the_plain_layer(backbone: str) -> None:
    """Every linear of every transformer, on inputs of its own width."""
    for site in linears(BACKBONES[backbone].tiny()):
        layer = QuantizedLinear.of(site.module, 8, site.module.in_features)
        hidden = normal(64, site.module.in_features)
        expected = site.module(hidden)
        assert (layer(hidden) - expected).norm() / expected.norm() < 0.02
        assert torch.allclose(dequantize(layer.codes()), site.module.weight, atol=2 * layer.scale.max().item())


def test_shipped_artefacts_are_small_and_fit_their_specs() -> None:
    for name in ("dit", "opensora"):
        compiled = compile_spec(load_spec(ROOT / "specs" / f"q_dit_{name}.yaml"))
        assert compiled.entries[0].technique.artefact is not None, "prepare it anew: settings or weights have changed"
    for path in (ROOT / "engine" / "zoo" / "artefacts" / "q_dit").glob("*.safetensors"):
        assert path.stat().st_size < 1.5e6
        assert read(path).facts["parameters"]["weight_bits"] == 4
