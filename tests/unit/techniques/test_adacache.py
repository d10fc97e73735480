"""AdaCache against plain code on the reference of Open-Sora's denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from reference import cached
from torch import Tensor

from engine.compiler import Compiled
from engine.runner import opened

Compile = Callable[..., Compiled]
SEEDS = [5, 6]
STEPS = 24
SAMPLER = {"rflow": {"steps": STEPS, "base_size": 16}}
FAST = {0.08: 6, 0.16: 5, 0.24: 4, 0.32: 3, 0.40: 2, 1.00: 1}
SLOW = {0.08: 3, 0.16: 2, 0.24: 1}


class Adaptive:
    """AdaCache's bookkeeping as its official code has it: every block counts its calls and keeps two residuals.

    One rate is shared; blocks of a call finish with the rate that was in force when it began.
    """

    def __init__(
        self, codebook: Mapping[float, int], *, watched: tuple[str, int], window: tuple[int, int] | None, frames: int
    ) -> None:
        self.codebook, self.watched, self.window, self.frames = codebook, watched, window, frames
        self.rate, self.next_rate, self.motion = 1, 1, 1.0
        self.calls: dict[str, int] = {}
        self.computed_at: dict[str, int] = {}
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}
        self.computed: list[int] = []

    def __call__(self, block: cached.Block, x: Tensor, _time: float) -> Tensor:
        name = block.name
        step = self.calls[name] = self.calls.get(name, 0) + 1
        if name == "spatial_blocks.0":
            self.rate = self.next_rate
        if step not in (1, STEPS - 1, STEPS) and step != self.computed_at.get(name, 0) + self.rate:
            attended, rest = self.kept[name]
            return x + attended + rest
        attended = block.attention(x)
        if name == "{}_blocks.{}".format(*self.watched):
            self.computed.append(step)
            if name in self.kept:
                self.next_rate = self._looked_up(self._distance(self.kept[name][0], attended, step))
        x = x + attended
        crossed = block.cross(x)
        rest = crossed + block.mlp(x + crossed)
        self.kept[name], self.computed_at[name] = (attended, rest), step
        return x + rest

    def _distance(self, old: Tensor, new: Tensor, step: int) -> float:
        distance = float((old - new).abs().sum() / old.abs().sum()) / self.rate
        if self.window is None:
            return distance
        motion = 1.0
        if self.window[0] <= step <= self.window[1]:
            spots = new.shape[1] // self.frames
            later, earlier = new[:, spots:], new[:, :-spots]
            motion = float((later - earlier).abs().sum() / (later.abs().sum() + earlier.abs().sum()))
            motion = (motion / 0.385) ** 8
        gradient, self.motion = 10 * (motion - self.motion) / self.rate, motion
        return distance * (motion + abs(gradient))

    def _looked_up(self, distance: float) -> int:
        for threshold, rate in self.codebook.items():
            if distance < threshold:
                return rate
        return list(self.codebook.values())[-1]


@pytest.mark.parametrize(
    ("parameters", "codebook", "watched", "window"),
    [
        ({"moreg": False, "tolerance": 2.0}, FAST, ("temporal", 0), None),
        ({"moreg": False, "codebook": "slow", "tolerance": 4.0}, SLOW, ("temporal", 0), None),
        ({"moreg": False, "watched": "spatial", "watched_layer": 1, "tolerance": 2.0}, FAST, ("spatial", 1), None),
        ({"moreg_window": [4, 20], "tolerance": 3.0}, FAST, ("temporal", 0), (4, 20)),
        ({}, FAST, ("temporal", 0), (2, 22)),
    ],
    ids=["fast", "slow", "spatial", "motion, late", "motion"],
)
def test_equals_the_reference(
    compile_tiny: Compile,
    parameters: dict[str, Any],
    codebook: Mapping[float, int],
    watched: tuple[str, int],
    window: tuple[int, int] | None,
) -> None:
    """The same steps compute, and the latents differ by rounding only."""
    plain = compile_tiny("opensora", sampler=SAMPLER)
    loosened = parameters.get("tolerance", 1.0) * 30 / STEPS
    scaled = {threshold * loosened: rate for threshold, rate in codebook.items()}
    rule = Adaptive(scaled, watched=watched, window=window, frames=plain.run.grid[0])
    known = cached.run(plain, SEEDS, rule)
    compiled = compile_tiny("opensora", {"adacache": parameters}, sampler=SAMPLER)
    computed: list[int] = []
    with opened(compiled) as side:
        common = side.attachment.memories["adacache", ":common"]
        latents = side.generate(SEEDS, lambda: computed.append(not common.passing))
    assert [step for step, done in enumerate(computed, 1) if done] == rule.computed
    assert 5 < len(rule.computed) < STEPS - 4, "some steps rest, for reasons of their own"
    size = known.abs().max()
    assert (latents - known).abs().max() < 1e-4 * size
    with opened(plain) as side:
        assert (latents - side.generate(SEEDS)).abs().max() > 0.01 * size
