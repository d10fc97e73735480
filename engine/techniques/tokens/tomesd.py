"""ToMeSD: Token Merging for Fast Stable Diffusion (arXiv 2303.17604).

Before self-attention, tokens are averaged into the most similar of a few destinations, one in every cell of the
picture; its output is copied back to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.ops import merging
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import FULL, Phase, RunShape
from engine.technique import Stage, Technique

SELF, CROSS, MLP = SiteKind.SELF_ATTENTION, SiteKind.CROSS_ATTENTION, SiteKind.FEED_FORWARD


class ToMeSD(Technique):
    """ToMeSD: Token Merging for Fast Stable Diffusion (arXiv 2303.17604)."""

    slug = "tomesd"
    paper = "tomesd"
    family = "tokens"
    stage = Stage.TOKENS
    requires = frozenset({SiteKind.STAGE, SELF, CROSS, SiteKind.KERNEL, SiteKind.NORM})
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sd": {"ratio": 0.5}}  # the official code's default
    deviations: ClassVar[tuple[str, ...]] = (
        "destinations are drawn from a seed of their own, not from the global generator: the same picture comes out "
        "whatever ran before, and all pictures see the same draws",
        "draws are made for every layer at every step, also where a cache skips the layer",
        "an odd number of rows keeps its random destinations, which the official code then gives up: guidance branches "
        "always share them here",
        "a ratio above what the cells can give is refused, where the official code merges less without a word",
    )

    ratio: float = Field(0.5, ge=0.0, lt=1.0, description="r: share of the tokens that is merged away.")
    max_downsample: int = Field(
        1, ge=1, description="Layers at this fraction of the latents' resolution, or above: 1, 2, 4 or 8."
    )
    sx: int = Field(2, ge=1, description="Columns of a cell, which has one destination.")
    sy: int = Field(2, ge=1, description="Rows of a cell.")
    use_rand: bool = Field(True, description="A random destination in each cell; false: its top left token.")
    seed: int = Field(0, ge=0, description="Seed of the random destinations.")
    merge_attn: bool = Field(True, description="Merge for self-attention.")
    merge_crossattn: bool = Field(False, description="Merge for cross-attention; the authors advise against it.")
    merge_mlp: bool = Field(False, description="Merge for the MLP; the authors advise against it.")

    def schedule(self, run: RunShape) -> list[Phase]:
        """The same at every step."""
        return [Phase("merge") if self.ratio > 0 else FULL] * run.steps

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """Whether the cells have enough sources."""
        most = 1 - 1 / (self.sx * self.sy)
        if self.ratio <= most:
            return []
        rule = f"cells of {self.sy}x{self.sx} tokens can give {most:g} of them, not {self.ratio:g}"
        return [(rule, f"lower `ratio` to {most:g}, or raise `sx` and `sy`")]

    def destinations(self, site: Site) -> int:
        """Cells of a site's grid, each with one destination."""
        _, rows, columns = site.grid
        return math.prod(merging.cells(rows, columns, self.sy, self.sx))

    def removed(self, site: Site) -> int:
        """Tokens merged away at a site."""
        return merging.merge_count(site.tokens, self.destinations(site), self.ratio)

    def attach(self, sites: Sites) -> None:
        """Match at the input of each block; merge behind the norms, so that attention and MLP see merged tokens."""
        latents = sites.of(SiteKind.STAGE)[0]
        flags = {SELF: self.merge_attn, CROSS: self.merge_crossattn, MLP: self.merge_mlp}
        kinds = [kind for kind, on in flags.items() if on]
        blocks = [
            sites.enclosing(site)
            for site in sites.of(SELF)
            if math.ceil(math.sqrt(latents.tokens // site.tokens)) <= self.max_downsample
        ]
        names = {block.name for block in blocks}
        within = {site.name for kind in kinds for site in sites.of(kind) if site.inside in names}
        if not within:
            return
        sites.wrap(SiteKind.MODEL, partial(self.draw, blocks=blocks))
        sites.wrap(SiteKind.BLOCK, self.match, lambda site: site.name in names)
        for kind in kinds:
            sites.wrap(kind, unmerge, lambda site: site.name in within)
        sites.wrap(SiteKind.NORM, merge, lambda site: site.inside in within)
        sites.watch(SiteKind.KERNEL, lambda site: site.inside in within and sites.enclosing(site).kind is SELF)

    def draw(self, call: Call, hidden: Tensor, at: At, *, blocks: Sequence[Site]) -> Any:
        """Sources and destinations of every block, the same for all rows of a step."""
        if not hasattr(at.memory, "generator"):
            at.memory.generator = torch.Generator().manual_seed(self.seed)
        at.common.split = {site.name: self.split(site, at.memory.generator, hidden.device) for site in blocks}
        out = call(hidden)
        at.common.split = None
        return out

    def split(self, site: Site, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sources and destinations of one block; drawn on the CPU, so that devices agree."""
        places = self.sy * self.sx if self.use_rand else 1
        choice = torch.randint(places, (self.destinations(site),), generator=generator)
        _, rows, columns = site.grid
        sources, destinations = merging.split_by_cells(rows, columns, self.sy, self.sx, choice)
        return sources.to(device), destinations.to(device)

    def match(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        """One matching a block call, from the tokens [B, N, C] that enter the block."""
        at.shared.matching, r = None, self.removed(at.site)
        if r:
            sources, destinations = at.common.split[at.site.name]
            best, target = merging.similarity(hidden, sources, destinations).max(dim=-1)
            at.shared.matching = merging.soft_matching(at.decide(best), target, sources, destinations, r)
        out: Tensor = call(hidden)
        at.shared.matching = None
        return out

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """Layers run on what is left of the tokens; self-attention's products have fewer queries and fewer keys."""
        left = 1 - self.removed(site) / site.tokens if site.tokens else 1.0
        if site.kind is SiteKind.NORM:
            return Share(1 / left)  # it stands before the merge
        if site.kind is SiteKind.BLOCK:
            return Share(added=self.matching_macs(site))
        if site.kind is CROSS:
            return Share(left, added=round((1 - left) * site.context_macs))
        return Share(left)

    def matching_macs(self, site: Site) -> int:
        """MACs of the similarities: every source with every destination."""
        count = self.destinations(site)
        return (site.tokens - count) * count * site.width if self.removed(site) else 0


def unmerge(call: Call, hidden: Tensor, at: At) -> Tensor:
    """What the sub-layer gives for merged tokens, copied back to all tokens."""
    out: Tensor = call(hidden)
    return out if at.shared.matching is None else merging.unmerge(out, at.shared.matching)


def merge(call: Call, hidden: Tensor, at: At) -> Tensor:
    """Normalised tokens, merged."""
    out: Tensor = call(hidden)
    return out if at.shared.matching is None else merging.merge(out, at.shared.matching)
