"""PAB: Real-Time Video Generation with Pyramid Attention Broadcast (arXiv 2408.12588).

In the middle of the run attention outputs are computed every few steps and reused in between: spatial attention for
the fewest steps, temporal for more, cross-attention for most; after a few time steps the first MLPs rest too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.ops.schedules import broadcast_steps, triggered_steps
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import Phase, RunShape
from engine.technique import Stage, Technique

MLP = SiteKind.FEED_FORWARD
NAMES = {
    SiteKind.SELF_ATTENTION: "spatial",
    SiteKind.TEMPORAL_ATTENTION: "temporal",
    SiteKind.CROSS_ATTENTION: "cross",
    MLP: "mlp",
}


class Pab(Technique):
    """PAB: Real-Time Video Generation with Pyramid Attention Broadcast (arXiv 2408.12588)."""

    slug = "pab"
    paper = "pab"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.TEMPORAL_ATTENTION})
    neutral: ClassVar[dict[str, Any]] = {"window": [0, 0], "mlp_triggers": []}
    # Defaults of the official code (VideoSys), for 30 steps of Open-Sora 1.2 and 50 of Latte.
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "opensora": {"temporal_range": 4, "window": [450, 930], "mlp_triggers": [864, 788, 676]},
        "latte": {"temporal_range": 3, "window": [100, 800], "mlp_triggers": [720, 640, 560, 480, 400]},
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "an MLP trigger is the step nearest to it; in the official code it must be a time step of the run, which it is "
        "for one size, length and number format only",
        "one window and one list of MLP triggers hold for all kinds; the official code has one a kind, all alike",
        "sequence parallelism, whose communication broadcast spares, is left to techniques of stage PLACE",
    )

    spatial_range: int = Field(2, ge=1, description="Spatial attention is computed every so many steps; 1: always.")
    temporal_range: int = Field(4, ge=1, description="The same for temporal attention.")
    cross_range: int = Field(6, ge=1, description="The same for cross-attention.")
    window: list[int] = Field(
        [450, 930], min_length=2, max_length=2, description="Attention is reused at time steps between these two."
    )
    mlp_triggers: list[int] = Field([864, 788, 676], description="Time steps after which MLPs rest; []: they never do.")
    mlp_skip: int = Field(2, ge=1, description="Steps that MLPs rest after a trigger.")
    mlp_layers: int = Field(5, ge=0, description="How many layers, from the first, have MLPs that rest.")
    gated: bool = Field(True, description="Keep outputs times their gates, as officially; false: before, as diffusers.")

    def schedule(self, run: RunShape) -> list[Phase]:
        """`full`, or `reuse` with the names of what is reused."""
        times, window = whole_times(run), (self.window[0], self.window[1])
        resting = {name: broadcast_steps(times, window, interval) for name, interval in self.ranges().items()}
        resting["mlp"] = triggered_steps(times, self.mlp_triggers, self.mlp_skip)
        names = [[name for name, steps in resting.items() if index in steps] for index in range(run.steps)]
        return [Phase(" ".join(["reuse", *found]) if found else "full") for found in names]

    def ranges(self) -> dict[str, int]:
        """Broadcast range of every kind of attention."""
        return {"spatial": self.spatial_range, "temporal": self.temporal_range, "cross": self.cross_range}

    def attach(self, sites: Sites) -> None:
        """Wrap every kind of attention that is ever reused, and the first layers' MLPs."""
        for kind, name in NAMES.items():
            if self.ranges().get(name, 1) > 1:
                sites.wrap(kind, partial(broadcast, name=name), gated=self.gated)
        if self.mlp_triggers:
            resting = partial(broadcast, name=NAMES[MLP])
            sites.wrap(MLP, resting, lambda site: site.layer < self.mlp_layers, gated=self.gated)

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """Nothing is computed where the phase names the kind; the output is kept."""
        return Share(float(NAMES[site.kind] not in phase.name), held=site.output_bytes(run))

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """A window that some steps lie in."""
        low, high = self.window
        times = whole_times(run)
        if low < high and not any(low < time < high for time in times):
            rule = f"no time step lies between {low} and {high}: the run visits {max(times)} down to {min(times)}"
            return [(rule, "widen `window`, or use more steps")]
        return [] if low <= high else [(f"`window` falls, from {low} to {high}", f"write `window: [{high}, {low}]`")]


def whole_times(run: RunShape) -> list[int]:
    """Time steps in the model's number format, cut to whole numbers, as the official code compares them."""
    return [int(torch.tensor(time, dtype=run.dtype)) for time in run.times]


def broadcast(call: Call, hidden: Tensor, at: At, *, name: str) -> Tensor:
    """Answer from memory in phases that name this kind; otherwise compute and remember."""
    if name not in at.phase:
        at.memory.output = call(hidden)
    return at.memory.output
