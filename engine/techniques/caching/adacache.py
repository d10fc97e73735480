"""AdaCache: Adaptive Caching for Faster Video Generation with Diffusion Transformers (arXiv 2411.02397).

A step that computes measures how far one block's residual has moved since the last one that did; a codebook turns that
into the number of steps to the next. In between every block only adds the change it made before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.ops.change import frame_difference, looked_up, relative_change
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import FULL, Phase, RunShape
from engine.technique import Stage, Technique

ADAPT, MOVING = "adapt", "adapt to motion"
Codebook = tuple[int, tuple[tuple[float, int], ...]]
CODEBOOKS: Mapping[str, Codebook] = {
    "fast": (30, ((0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.0, 1))),
    "slow": (30, ((0.08, 3), (0.16, 2), (1.0, 1))),
    "long": (100, ((0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.0, 3))),
}
"""Steps of the run a codebook was made for; thresholds of the change per step, each with its rate."""
WATCHED = {"temporal": SiteKind.TEMPORAL_ATTENTION, "spatial": SiteKind.SELF_ATTENTION}


class AdaCache(Technique):
    """AdaCache: Adaptive Caching for Faster Video Generation with Diffusion Transformers (arXiv 2411.02397)."""

    slug = "adacache"
    paper = "adacache"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.BLOCK, SiteKind.TEMPORAL_ATTENTION})
    dynamic = True
    couples_batch = True  # one rate for all samples
    couples_branches = True  # and for all branches
    neutral: ClassVar[dict[str, Any]] = {"tolerance": 0.0}
    deviations: ClassVar[tuple[str, ...]] = (
        "for other numbers of steps than a codebook was made for, thresholds shrink as steps grow; the paper tunes "
        "them by hand (its thresholds for 30 and 100 steps are 3.3 times apart, within a fifth)",
        "a block's residuals are kept as one, its whole change, at half of the memory; they add up the same but for "
        "rounding",
        "the watched block is the last of the first half for any depth, as 13 is of 28",
        "change is not measured on the residual of cross-attention and MLP, which the official code offers too",
        "for Latte the paper publishes no codebook: that of Open-Sora is used",
    )

    codebook: Literal["fast", "slow", "long"] = Field(
        "fast", description="Rates up to 6 or 3, made for 30 steps; `long`: up to 12, made for 100."
    )
    tolerance: float = Field(1.0, ge=0.0, description="All thresholds are multiplied by it; 0 computes most.")
    moreg: bool = Field(True, description="Motion regularization: more steps for videos with more motion.")
    moreg_window: list[int] | None = Field(
        None, min_length=2, max_length=2, description="First and last step, from 1, where motion counts; None: 10-90 %."
    )
    moreg_scale: float = Field(0.385, gt=0.0, description="Frame difference that counts as ordinary motion.")
    moreg_power: int = Field(8, ge=1, description="Power that a frame difference over the ordinary one is raised to.")
    gradient_weight: float = Field(10.0, ge=0.0, description="Weight of the change of motion per step.")
    watched: Literal["temporal", "spatial"] = Field("temporal", description="Attention whose residual is watched.")
    watched_layer: int | None = Field(None, ge=0, description="Its layer; None: the last of the first half.")

    def schedule(self, run: RunShape) -> list[Phase]:
        """`full` in the first and the last two steps; between them data decides, with an eye on motion or without.

        The phase's value is what thresholds are multiplied by.
        """
        first, last = self.moreg_window or (round(0.1 * run.steps), round(0.9 * run.steps))
        scale = self.tolerance * CODEBOOKS[self.codebook][0] / run.steps
        between = [MOVING if self.moreg and first <= step <= last else ADAPT for step in range(1, run.steps + 1)]
        forced = {0, run.steps - 2, run.steps - 1}
        return [FULL if index in forced else Phase(name, value=scale) for index, name in enumerate(between)]

    def bounds(self, run: RunShape) -> tuple[list[Phase], list[Phase]]:
        """Always the highest, or always the lowest rate of the codebook."""
        rates = [rate for _, rate in CODEBOOKS[self.codebook][1]]
        return paced(run, max(rates) if self.tolerance else rates[-1]), paced(run, min(rates))

    def attach(self, sites: Sites) -> None:
        """Decide at STEP, pass blocks over, and watch one attention's residual; without that, nothing."""
        sites.wrap(WATCHED[self.watched], watch, self.is_watched, gated=True)
        if sites.wraps:
            sites.wrap(SiteKind.STEP, self.decide)
            sites.wrap(SiteKind.BLOCK, pass_over)

    def is_watched(self, site: Site) -> bool:
        """Whether this attention's layer is the watched one."""
        return site.layer == (max(0, site.layers // 2 - 1) if self.watched_layer is None else self.watched_layer)

    def decide(self, call: Call, x: Tensor, at: At) -> Tensor:
        """Say whether this step's blocks are passed over; after a step that computes, how many of the next ones."""
        state = at.common
        waiting = getattr(state, "waiting", 0)
        state.passing = waiting > 0 and at.phase != "full"
        out: Tensor = call(x)
        if state.passing:
            state.waiting = waiting - 1
        elif at.phase != "full":
            state.rate = looked_up(float(at.decide(self.distance(at))), self.thresholds(at.value or 0.0))
            state.waiting = state.rate - 1
        return out

    def distance(self, at: At) -> Tensor:
        """d: change of the watched residual per step of the last rate, times motion and its change; a scalar."""
        state, rate = at.common, getattr(at.common, "rate", 1)
        change: Tensor = state.change / rate
        if not self.moreg:
            return change
        motion = torch.ones_like(change)
        if at.phase == MOVING:
            motion = (state.difference / self.moreg_scale) ** self.moreg_power
        gradient = self.gradient_weight * (motion - getattr(state, "motion", 1.0)) / rate
        state.motion = motion
        return change * (motion + gradient.abs())

    def thresholds(self, scale: float) -> list[tuple[float, int]]:
        """The codebook with its thresholds multiplied."""
        return [(threshold * scale, rate) for threshold, rate in CODEBOOKS[self.codebook][1]]

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """Nothing is computed in the blocks of a step that reuses; their change and the watched residual are kept."""
        reused = phase.name == "reuse" and site.kind is SiteKind.BLOCK
        return Share(float(not reused), held=site.output_bytes(run))

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """Motion needs frames."""
        if self.moreg and run.grid[0] < 2:
            return [
                ("motion regularization compares frames, and there is one", "set `moreg: false`, or use more frames")
            ]
        return []


def paced(run: RunShape, rate: int) -> list[Phase]:
    """The course of a run in which every rate is the same."""
    computed = {0, *range(1, run.steps, rate), run.steps - 2, run.steps - 1}
    return [FULL if index in computed else Phase("reuse") for index in range(run.steps)]


def watch(call: Call, hidden: Tensor, at: At) -> Tensor:
    """Measure how far the gated residual has moved, and how much it differs from frame to frame."""
    residual: Tensor = call(hidden)
    if at.phase != "full":
        at.common.change = relative_change(at.memory.residual, residual)
    if at.phase == MOVING:
        at.common.difference = frame_difference(residual, at.site.grid[0])
    at.memory.residual = residual
    return residual


def pass_over(call: Call, hidden: Tensor, at: At) -> Tensor:
    """Add the change that the block made last, or compute and remember it."""
    if at.common.passing:
        return hidden + at.memory.change
    out: Tensor = call(hidden)
    at.memory.change = out - hidden
    return out
