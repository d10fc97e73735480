"""DeepCache: Accelerating Diffusion Models for Free (arXiv 2312.00858).

Between full steps only the layers outside of one skip connection of the UNet run: what is joined to that skip, the
output of everything further in, is kept from the last full step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.ops.schedules import centred_steps, full_steps_from_start
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import Phase, RunShape
from engine.technique import Stage, Technique


class DeepCache(Technique):
    """DeepCache: Accelerating Diffusion Models for Free (arXiv 2312.00858)."""

    slug = "deepcache"
    paper = "deepcache"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.STAGE})
    neutral: ClassVar[dict[str, Any]] = {"interval": 1}
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The official script for version 1.5; its layer and block 0 are the second skip connection. The 130.45 of
        # 338.76 GMACs of the paper's table fit that one too.
        "sd": {"interval": 5, "branch": 1, "uniform": False, "power": 1.4, "center": 15},
        # The official command for CIFAR-10 and LSUN; branch 2 is "the 3-th skip path" in its words.
        "ddpm": {"interval": 5, "branch": 2},
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "skip connections are numbered as in the authors' package, from that of the first convolution; the official "
        "pipelines count from the next one",
        "DDPM's branch is the third skip connection, as the paper's MACs say; the official code for DDPM keeps one "
        "more level live under the same number",
    )

    interval: int = Field(3, ge=1, description="N: one step in N is full.")
    branch: int = Field(
        0,
        ge=0,
        description="Skip connection from the outside, 0 that of the first convolution; deeper keeps more live.",
    )
    uniform: bool = Field(True, description="Full steps at equal distances; false: dense around `center`.")
    power: float = Field(1.4, gt=1.0, description="p: how dense, for steps that are not uniform.")
    center: int = Field(15, ge=0, description="c: the step around which they are dense.")

    def full_steps(self, steps: int) -> frozenset[int]:
        """Steps that are full; the first always is."""
        if self.uniform:
            return full_steps_from_start(steps, self.interval)
        return centred_steps(steps, self.interval, self.power, self.center)

    def schedule(self, run: RunShape) -> list[Phase]:
        """Everything, or all outside of the skip connection."""
        full = self.full_steps(run.steps)
        return [Phase("full" if index in full else "reuse") for index in range(run.steps)]

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """Whether steps that are not uniform can be found."""
        try:
            self.full_steps(run.steps)
        except ValueError as error:
            return [(str(error), "lower `center`, raise `interval` or `power`, or set `uniform: true`")]
        return []

    def attach(self, sites: Sites) -> None:
        """Wrap what lies further in than the skip connection."""
        sites.wrap(SiteKind.STAGE, reuse, lambda site: site.layer == self.branch)

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """Nothing further in is computed in a reuse step; its output is kept."""
        return Share(float(phase.name == "full"), held=site.output_bytes(run))


def reuse(call: Call, hidden: Tensor, at: At) -> Tensor:
    """Remember the output in a full step, answer from memory in the others."""
    if at.phase == "full":
        at.memory.output = call(hidden)
    return at.memory.output
