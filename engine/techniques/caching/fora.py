"""FORA: Fast-Forward Caching in Diffusion Transformer Acceleration (arXiv 2407.01425).

Attention and MLP outputs are computed every `interval` steps and reused, before their gates, in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.ops.schedules import full_steps_from_end, full_steps_from_start
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import Phase, RunShape
from engine.technique import Stage, Technique

REUSED = (
    SiteKind.SELF_ATTENTION,
    SiteKind.TEMPORAL_ATTENTION,
    SiteKind.CROSS_ATTENTION,
    SiteKind.FEED_FORWARD,
)


class Fora(Technique):
    """FORA: Fast-Forward Caching in Diffusion Transformer Acceleration (arXiv 2407.01425)."""

    slug = "fora"
    paper = "fora"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.FEED_FORWARD})
    neutral: ClassVar[dict[str, Any]] = {"interval": 1}
    # From the comparisons in ToCa's paper. For Open-Sora it states no interval: its 1751.3 of 3283.2 TFLOPs are the 16
    # full steps of 30 that 2 gives. For PixArt its 1.98x of 20 steps are the 10 full ones of counting up.
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dit": {"interval": 3},
        "opensora": {"interval": 2},
        "pixart": {"interval": 2, "count_down": False},
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "Open-Sora is not in the paper: temporal and cross-attention are reused like the sub-layers it names",
    )

    interval: int = Field(3, ge=1, description="Full evaluation every `interval` steps.")
    count_down: bool = Field(True, description="Count steps from the last one, as the paper does.")

    def schedule(self, run: RunShape) -> list[Phase]:
        """Full at the first step and whenever the steps left (or done) are a multiple of the interval."""
        count = full_steps_from_end if self.count_down else full_steps_from_start
        full = count(run.steps, self.interval)
        return [Phase("full" if index in full else "reuse") for index in range(run.steps)]

    def attach(self, sites: Sites) -> None:
        """Wrap every sub-layer."""
        for kind in REUSED:
            sites.wrap(kind, reuse)

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """Nothing is computed in a reuse step; the output is kept."""
        return Share(float(phase.name == "full"), held=site.output_bytes(run))


def reuse(call: Call, hidden: Tensor, at: At) -> Tensor:
    """Remember the output in a full step, answer from memory in the others."""
    if at.phase == "full":
        at.memory.output = call(hidden)
    return at.memory.output
