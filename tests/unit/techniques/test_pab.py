"""PAB against diffusers' own hook on Latte, and against plain code on the reference of Open-Sora's denoiser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from diffusers import LatteTransformer3DModel, PyramidAttentionBroadcastConfig
from reference import cached
from support import BACKBONES
from torch import Tensor

from engine.compiler import Compiled
from engine.runner import opened

Compile = Callable[..., Compiled]
SEEDS = [5, 6]
RANGES = {"spatial_range": 2, "temporal_range": 3, "cross_range": 4}


def ours(compiled: Compiled) -> Tensor:
    with opened(compiled) as side:
        return side.generate(SEEDS)


# ---------------------------------------------------------------- diffusers


def with_hooks(compiled: Compiled, window: tuple[int, int]) -> Tensor:
    """Latents of the engine's loop over diffusers' own Latte, cached by diffusers."""
    backbone, told = compiled.backbone, []
    model = LatteTransformer3DModel.from_config(backbone.model.config)
    model.load_state_dict(backbone.model.state_dict())
    model.eval().register_forward_pre_hook(
        lambda _module, _args, inputs: told.append(int(inputs["timestep"][0])), with_kwargs=True
    )
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=RANGES["spatial_range"],
            temporal_attention_block_skip_range=RANGES["temporal_range"],
            cross_attention_block_skip_range=RANGES["cross_range"],
            spatial_attention_timestep_skip_range=window,
            temporal_attention_timestep_skip_range=window,
            cross_attention_timestep_skip_range=window,
            # Its own patterns find temporal blocks among the spatial ones: it searches names for them.
            spatial_attention_block_identifiers=("^transformer_blocks",),
            temporal_attention_block_identifiers=("^temporal_transformer_blocks",),
            current_timestep_callback=lambda: told[-1],
        )
    )
    with opened(compiled) as side:
        backbone.call.model = model
        latents = side.generate(SEEDS)
        backbone.call.model = backbone.model
    assert len(told) == compiled.run.steps
    return latents


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("window", [(100, 800), (0, 1000), (300, 600)])
def test_equals_diffusers_hook(compile_tiny: Compile, guidance: float, window: tuple[int, int]) -> None:
    """Bit for bit, with what diffusers leaves out turned off: MLPs, and gates in what is kept.

    Both branches in one call is what its counters can follow: of a branch a call they would count two a step.
    """
    tiny = BACKBONES["latte"].tiny()
    inputs = {"guidance": guidance, "max_sequence_length": 2}  # prompts of one length, which no mask tells apart
    arguments: dict[str, Any] = {"on": tiny, "inputs": inputs}
    parameters = {**RANGES, "window": list(window), "mlp_triggers": [], "gated": False}
    broadcast = ours(compile_tiny("latte", {"pab": parameters}, **arguments))
    plain = compile_tiny("latte", **arguments)
    assert torch.equal(broadcast, with_hooks(plain, window))
    assert (broadcast - ours(plain)).abs().max() > 0.01


def test_gated_outputs_are_another_cache(compile_tiny: Compile) -> None:
    """We keep what the official code keeps; diffusers' choice takes the gate of the current step instead."""
    tiny = BACKBONES["latte"].tiny()
    both = [ours(compile_tiny("latte", {"pab": {**RANGES, "gated": gated}}, on=tiny)) for gated in (True, False)]
    assert (both[0] - both[1]).abs().max() > 0.01


# ---------------------------------------------------------------- the reference


class Broadcast:
    """PAB's bookkeeping as its official code has it: a counter and an output for every module of every block."""

    def __init__(self, times: Sequence[int], ranges: dict[str, int], window: tuple[int, int], **mlp: Any) -> None:
        self.times, self.ranges, self.window = list(times), ranges, window
        self.triggers: Sequence[int] = mlp.get("triggers", ())
        self.skip, self.layers = mlp.get("skip", 2), mlp.get("layers", 0)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.last: dict[Any, Tensor] = {}

    def __call__(self, block: cached.Block, x: Tensor, time: float) -> Tensor:
        kind = "temporal" if block.temporal else "spatial"
        x = x + self._attention(kind, block.name, int(time), lambda: block.attention(x))
        x = x + self._attention("cross", block.name, int(time), lambda: block.cross(x))
        return x + self._mlp(block, int(time), x)

    def _attention(self, kind: str, name: str, time: int, compute: Callable[[], Tensor]) -> Tensor:
        count, (low, high) = self.counts[kind, name], self.window
        self.counts[kind, name] += 1
        if count % self.ranges[kind] == 0 or not low < time < high:
            self.last[kind, name] = compute()
        return self.last[kind, name]

    def _mlp(self, block: cached.Block, time: int, x: Tensor) -> Tensor:
        if block.layer < self.layers and time not in self.triggers:
            for trigger in self.triggers:
                start = self.times.index(trigger)
                if time in self.times[start + 1 : start + 1 + self.skip]:
                    return self.last[trigger, block.name]
        out = block.mlp(x)
        self.last[time, block.name] = out
        return out


def test_the_reference_without_a_cache_is_the_engines(compile_tiny: Compile) -> None:
    compiled = compile_tiny("opensora")
    plain = ours(compiled)
    assert (cached.run(compiled, SEEDS, cached.plain) - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("window", [(450, 930), (0, 1001)])
def test_equals_the_reference(compile_tiny: Compile, window: tuple[int, int], layers: int) -> None:
    """Gated residuals of attention and of the first layers' MLPs, whose triggers are time steps of the run here."""
    compiled = compile_tiny("opensora")
    times = [int(time) for time in compiled.run.times]
    triggers = [times[1], times[4]]
    rule = Broadcast(
        times, {name.removesuffix("_range"): value for name, value in RANGES.items()}, window,
        triggers=triggers, skip=2, layers=layers,
    )  # fmt: skip
    known = cached.run(compiled, SEEDS, rule)
    parameters = {**RANGES, "window": list(window), "mlp_triggers": triggers, "mlp_layers": layers}
    broadcast = ours(compile_tiny("opensora", {"pab": parameters}))
    assert (broadcast - known).abs().max() < 1e-4 * known.abs().max()
    assert (broadcast - ours(compiled)).abs().max() > 0.01 * known.abs().max()
    other = ours(compile_tiny("opensora", {"pab": {**parameters, "mlp_layers": (layers + 1) % 3}}))
    assert (other - known).abs().max() > 1e-3 * known.abs().max(), "which MLPs rest shows"
