"""T-GATE: Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models (arXiv 2404.02747, version 1).

At the gate step every cross-attention output is kept, averaged over the guidance branches; from then on it is reused,
one branch runs instead of two, and its prediction is taken without guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import Branch, Phase, RunShape
from engine.technique import Stage, Technique


class TGate(Technique):
    """T-GATE: Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models (arXiv 2404.02747)."""

    slug = "t_gate"
    paper = "t_gate"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.CROSS_ATTENTION})
    couples_branches = True  # what is kept is the mean of the branches
    neutral: ClassVar[dict[str, Any]] = {"gate_share": 1.0}
    # Gate steps of the official README, 10 and 8 of 25, as shares, so that they hold for any number of steps.
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sd": {"gate_share": 0.4}, "pixart": {"gate_share": 0.32}}
    deviations: ClassVar[tuple[str, ...]] = (
        "cross-attention stays reused in the last step, as in the package tgate; in the first version's code its "
        "counter starts anew there, and it is computed once more",
        "for models of video, which the paper does not show, the gate step is that of Stable Diffusion",
    )

    gate_step: int | None = Field(None, ge=1, description="m: steps with cross-attention and guidance.")
    gate_share: float = Field(0.4, gt=0.0, le=1.0, description="m as a share of all steps, unless `gate_step` is set.")

    def gate(self, run: RunShape) -> int:
        """m, in 1..steps."""
        return self.gate_step or max(1, round(self.gate_share * run.steps))

    def schedule(self, run: RunShape) -> list[Phase]:
        """`full` before the gate step, `keep` in it, `gated` on the unconditional rows behind it."""
        # That branch, as officially: its text is not read any more, but XL reads a pooled one beside cross-attention.
        left = Phase("gated", branches=(Branch.UNCOND if Branch.UNCOND in run.branches else Branch.COND,))
        before = self.gate(run) - 1
        return [Phase("full")] * before + [Phase("keep")] + [left] * (run.steps - before - 1)

    def attach(self, sites: Sites) -> None:
        """Wrap cross-attention."""
        sites.wrap(SiteKind.CROSS_ATTENTION, gate)

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """Nothing is computed behind the gate; the output is kept."""
        return Share(float(phase.name != "gated"), held=site.output_bytes(run) if phase.name == "keep" else 0)

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """A gate step that leaves something to gate."""
        if self.gate_step is None or self.gate_step < run.steps:
            return []
        rule = f"nothing comes behind `gate_step` {self.gate_step}: the run has {run.steps} steps"
        return [(rule, f"use at most {run.steps - 1}" if run.steps > 1 else "use more steps")]


def gate(call: Call, hidden: Tensor, at: At) -> Tensor:
    """Behind the gate answer from memory; in the gate step remember the branches' mean, F = (F_uncond + F_cond) / 2."""
    if at.phase == "gated":
        return at.memory.output
    output: Tensor = call(hidden)
    if at.phase == "keep":
        at.memory.output = at.step.mean_over_branches(output)
    return output
