"""ToCa: Accelerating Diffusion Transformers with Token-wise Feature Caching (arXiv 2410.05317).

Between forced full steps a sub-layer answers from its cached output, except for the few tokens whose reuse would
hurt most: those are recomputed and written into the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.ops.attention import attention_entropy, attention_received
from engine.ops.schedules import forced_steps, full_steps_from_start
from engine.ops.tokens import scatter_tokens, spread_bonus, top_tokens
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import Phase, RunShape
from engine.technique import Stage, Technique

SELF = (SiteKind.SELF_ATTENTION, SiteKind.TEMPORAL_ATTENTION)
CROSS, MLP = SiteKind.CROSS_ATTENTION, SiteKind.FEED_FORWARD


class ToCa(Technique):
    """ToCa: Accelerating Diffusion Transformers with Token-wise Feature Caching (arXiv 2410.05317)."""

    slug = "toca"
    paper = "toca"
    family = "caching"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.FEED_FORWARD, SiteKind.KERNEL})
    couples_branches = True  # both guidance halves refresh the same tokens
    neutral: ClassVar[dict[str, Any]] = {"interval": 1, "cross_interval": 1, "force_weight": 0.0}
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Settings in the official Open-Sora variant's script; run commands and presets of those for DiT and PixArt.
        "opensora": {"fresh_ratio": 0.1, "interval": 3, "cross_interval": 6, "warmup": 3, "score": "cross_entropy",
                     "module_weight": 1.5, "mlp_share": 0.33},
        "dit": {"fresh_ratio": 0.07, "interval": 3, "force_weight": 0.4, "count_down": True, "score": "attention",
                "spread_weight": 0.6, "layer_weight": -0.2, "step_weight": 2.0, "module_weight": 2.5},
        "pixart": {"fresh_ratio": 0.3, "interval": 3, "force_weight": 0.2, "spread_weight": 0.4, "cell": 4,
                   "layer_weight": 0.6, "step_weight": 0.9, "module_weight": 1.0},
        # Nothing published: Open-Sora's, with the other score, since Latte's temporal blocks do not read the text.
        "latte": {"fresh_ratio": 0.1, "interval": 3, "cross_interval": 6, "warmup": 3, "score": "attention",
                  "module_weight": 1.5, "mlp_share": 0.33},
    }  # fmt: skip
    deviations: ClassVar[tuple[str, ...]] = (
        "a step is full or partial for all blocks; the official DiT and PixArt code adds first-block-only steps",
        "the cells of the spatial bonus may be cut at the border, where the official code needs a divisible square",
        "text entropy is kept from the last full step; the official PixArt code also updates it for refreshed tokens",
        "with `cache_type: random` tokens come from the global generator, so that a sample depends on its batch",
    )

    interval: int = Field(3, ge=1, description="N: attention and MLP are full every `interval` steps.")
    cross_interval: int | None = Field(None, ge=1, description="The same for cross-attention; None: as the others.")
    warmup: int = Field(1, ge=0, description="First steps that are full whatever the intervals say.")
    force_weight: float = Field(0.0, ge=0.0, lt=1.0, description="w: how much the interval varies along the run.")
    count_down: bool = Field(False, description="Count steps from the end, as the DiT variant does.")
    fresh_ratio: float = Field(0.1, ge=0.0, le=1.0, description="Share of tokens recomputed in a partial step.")
    score: Literal["cross_entropy", "attention"] = Field(
        "cross_entropy", description="Base score: entropy of a token's text attention, or attention it receives."
    )
    cache_type: Literal["attention", "random"] = Field(
        "attention", description="`random` recomputes random tokens: the control that a score must beat."
    )
    soft_fresh_weight: float = Field(0.25, ge=0.0, description="Weight of the staleness term.")
    fresh_threshold: int = Field(3, ge=1, description="Steps of staleness that add the whole weight.")
    spread_weight: float = Field(0.0, ge=0.0, description="beta: bonus of the best token of each cell; 0 turns it off.")
    cell: int = Field(2, ge=1, description="g: cells are g x g tokens of a frame.")
    layer_weight: float = Field(0.0, ge=-1.0, le=1.0, description="wl: ratio from 1 + wl in the first layer to 1 - wl.")
    step_weight: float = Field(0.0, description="ws: ratio times 1 + ws - 2 ws step / T, step as `count_down` counts.")
    module_weight: float = Field(0.0, ge=0.0, description="wm: how unequally cross-attention and MLP share the ratio.")
    mlp_share: float = Field(
        0.6, ge=0.0, le=1.0, description="tau: the MLP's factor is 1 + tau wm, cross-attention's 1 - (1 - tau) wm."
    )

    def schedule(self, run: RunShape) -> list[Phase]:
        """full; refresh (all but cross-attention full); partial, with the step's fresh ratio as its value."""
        if self.force_weight > 0:
            main, _first_block_only = forced_steps(run.steps, self.interval, self.force_weight, down=self.count_down)
            cross = main
        else:
            main = full_steps_from_start(run.steps, self.interval, self.warmup)
            cross = full_steps_from_start(run.steps, self.cross_interval or self.interval, self.warmup) & main
        return [self._phase(index, run.steps, main, cross) for index in range(run.steps)]

    def _phase(self, index: int, total: int, main: frozenset[int], cross: frozenset[int]) -> Phase:
        if index in cross:
            return Phase("full")
        step = total - 1 - index if self.count_down else index
        ratio = self.fresh_ratio * max(0.0, 1 + self.step_weight - 2 * self.step_weight * step / total)
        return Phase("refresh" if index in main else "partial", value=ratio)

    def attach(self, sites: Sites) -> None:
        """Self-attention is reused whole; cross-attention and MLP refresh their chosen tokens."""
        for kind in SELF:
            sites.wrap(kind, reuse)
        sites.wrap(CROSS, partial(self.refresh, whole=("full",)))
        sites.wrap(MLP, partial(self.refresh, whole=("full", "refresh")))
        if self.cache_type == "attention":
            seen = (CROSS,) if self.score == "cross_entropy" else SELF
            sites.wrap(SiteKind.KERNEL, self.observe, lambda site: sites.enclosing(site).kind in seen)

    def observe(self, call: Call, query: Tensor, at: At) -> Tensor:
        """Keep the base score of every token, from the query and key at hand in a full step."""
        if at.phase == "full":
            at.shared.score = self.base_score(query, call.inputs["key"], call.inputs.get("mask"), at)
        return call(query)

    def base_score(self, query: Tensor, key: Tensor, mask: Tensor | None, at: At) -> Tensor:
        """s1 or s2 [rows, N], of unit L2 norm over the tokens of a sample."""
        if self.score == "cross_entropy":
            # The official map runs over both branches' text at half weight each: mean entropy + ln(branches).
            entropy = at.step.mean_over_branches(attention_entropy(query, key, mask))
            scores = 1 + entropy + math.log(len(at.step.branches))
        else:
            scores = at.site.per_token(attention_received(query, key, mask))
        return F.normalize(scores, dim=-1)

    def refresh(self, call: Call, hidden: Tensor, at: At, *, whole: tuple[str, ...]) -> Tensor:
        """The whole output in phases `whole`, else memory with the chosen tokens recomputed."""
        memory, total = at.memory, hidden.shape[1]
        if at.phase in whole:
            memory.output = call(hidden)
            memory.stale = torch.zeros(hidden.shape[:2], device=hidden.device)
            return memory.output
        count = int(self.ratio(at.site, at.value or 0.0) * total)
        memory.stale += 1
        if count:
            index = top_tokens(self.scores(at, memory.stale), count)
            memory.output = scatter_tokens(memory.output, index, call.tokens(hidden, index))
            memory.stale.scatter_(1, index, 0.0)
        return memory.output

    def scores(self, at: At, stale: Tensor) -> Tensor:
        """Score [rows, N] by which tokens are refreshed: base, staleness, and the best of each cell raised."""
        if self.cache_type == "random":
            return at.step.mean_over_branches(torch.rand_like(stale))
        scores = at.shared.score + self.soft_fresh_weight * stale / self.fresh_threshold
        if self.spread_weight > 0:
            scores = spread_bonus(scores, at.site.grid, self.cell, self.spread_weight)
        return at.decide(scores)

    def ratio(self, site: Site, step_ratio: float) -> float:
        """Share of tokens refreshed at a site in 0..1: step ratio times layer and module factors."""
        place = site.layer / max(1, site.layers - 1)
        layer = 1 + self.layer_weight - 2 * self.layer_weight * place
        tilt = self.mlp_share if site.kind is MLP else self.mlp_share - 1
        module = 1 + tilt * self.module_weight
        return min(1.0, max(0.0, step_ratio * layer * module))

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """Self-attention 0 outside full steps, cross-attention and MLP their count of tokens."""
        per_token = 4 * site.tokens  # one fp32 number a token: a score or a counter
        if site.kind is SiteKind.KERNEL:
            # The score needs the attention weights once more: a query-key product for every full step.
            return Share(added=site.macs // 2 if phase.name == "full" else 0, held=per_token)
        held = site.output_bytes(run)
        if site.kind in SELF:
            return Share(float(phase.name != "partial"), held=held)
        held += per_token
        if phase.name == "full" or (phase.name == "refresh" and site.kind is MLP):
            return Share(held=held)
        count = int(self.ratio(site, phase.value or 0.0) * site.tokens)
        kept = count / site.tokens
        return Share(kept, added=round((1 - kept) * site.context_macs) if count else 0, held=held)


def reuse(call: Call, hidden: Tensor, at: At) -> Tensor:
    """Compute in full and refresh steps, answer from memory in partial ones."""
    if at.phase != "partial":
        at.memory.output = call(hidden)
    return at.memory.output
