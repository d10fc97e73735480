"""DistriFusion: Distributed Parallel Inference for High-Resolution Diffusion Models (arXiv 2402.19481).

Every rank computes one strip of the picture. What it needs of the others (keys and values, rows at the edges, moments
of group norms) is exchanged at once in the first steps, and is that of the step before in all later ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from engine.cost import Share
from engine.ops import strips as ops
from engine.parallel import Group, Mailbox, gang
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import FULL, Phase, RunShape
from engine.strips import Strips, path_of, share_of_strip
from engine.technique import Stage, Technique

Mode = Literal["corrected_async_gn", "stale_gn", "sync_gn", "separate_gn", "full_sync", "no_sync"]
STALE: Mapping[str, ops.Pooling] = {"corrected_async_gn": "corrected", "stale_gn": "stale"}
"""Modes whose group norms read moments of the last step, and how."""


class DistriFusion(Technique):
    """DistriFusion: Distributed Parallel Inference for High-Resolution Diffusion Models (arXiv 2402.19481)."""

    slug = "distrifusion"
    paper = "distrifusion"
    family = "parallel"
    stage = Stage.PLACE
    requires = frozenset({SiteKind.SELF_ATTENTION, SiteKind.KERNEL})
    excludes: ClassVar[Mapping[str, str]] = {
        "toca": "its scores lie on the grid of a whole picture, and every rank has a strip",
        "tomesd": "merging tokens changes what a strip holds",
        "pipefusion": "both place parts of the picture on ranks",
        "asyncdiff": "one has strips of the picture on ranks, the other parts of the model",
    }
    neutral: ClassVar[dict[str, Any]] = {"ranks": 1}
    deviations: ClassVar[tuple[str, ...]] = (
        "group norms divide by the number of values, as on one device; the official code by one less: `unbiased`",
        "the guidance branches share ranks unless `split_batch` says otherwise; the official code splits them first",
        "keys and values of the text are computed at every step; the official code keeps those of the first",
        "the last step sends nothing: nobody would read it",
        "transformers split tokens in front of the first block; videos (Latte, Open-Sora) are not in the paper",
    )

    ranks: int = Field(2, ge=1, le=1024, description="Processes of the run, a device each; 1 changes nothing.")
    split_batch: bool = Field(False, description="Half of the ranks for each guidance branch, strips within a half.")
    warmup_steps: int = Field(4, ge=0, description="Steps after the first in which ranks wait for one another.")
    mode: Mode = Field(
        "corrected_async_gn",
        description="Group norms after the warm-up: moments of the last step corrected by the own change, or as they "
        "are (stale_gn), fresh of all (sync_gn), own only (separate_gn). full_sync waits everywhere at every step; "
        "no_sync sends nothing after the warm-up.",
    )
    unbiased: bool = Field(False, description="Variance of group norms as in the official code: n / (n - 1) of it.")
    comm_checkpoint: int = Field(60, ge=1, description="Layers whose tensors travel in one gather.")

    def processes(self) -> int:
        """One a rank."""
        return self.ranks

    def layout(self, run: RunShape) -> tuple[int, int]:
        """Parts that the batch is split into, and strips that a picture is."""
        halves = 2 if self.split_batch and self.ranks > 1 and len(run.branches) == 2 else 1
        return halves, self.ranks // halves

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """Two halves need an even number of ranks."""
        halves, _ = self.layout(run)
        return [("`split_batch` needs an even number of `ranks`", "use one more")] if self.ranks % halves else []

    def schedule(self, run: RunShape) -> list[Phase]:
        """sync; async; last, which sends nothing; frozen, where nothing is sent after the warm-up. Value: strips."""
        halves, strips = self.layout(run)
        branches = run.branches if halves > 1 else None
        if strips == 1:
            return [Phase(FULL.name, branches)] * run.steps
        waiting = run.steps if self.mode == "full_sync" else min(run.steps, self.warmup_steps + 1)
        names = ["sync"] * waiting + ["frozen" if self.mode == "no_sync" else "async"] * (run.steps - waiting)
        names[-1] = names[-1].replace("async", "last")
        return [Phase(name, branches, float(strips)) for name in names]

    def exact(self, run: RunShape) -> bool:
        """No step reads anything stale."""
        return all(phase.name in (FULL.name, "sync") for phase in self.schedule(run))

    def attach(self, sites: Sites) -> None:
        """Whatever looks beyond a strip is given more; the first convolution sees the whole picture anyway."""
        halves, strips = self.layout(sites.run)
        first = path_of(sites)[0].name
        if strips > 1:
            sites.wrap(SiteKind.CONV, self.halo, lambda site: any(site.reach) and site.name != first)
            sites.wrap(SiteKind.NORM, self.norm, lambda site: isinstance(site.module, nn.GroupNorm))
            sites.wrap(SiteKind.KERNEL, self.attend, lambda site: sites.enclosing(site).kind is SiteKind.SELF_ATTENTION)
        Strips(strips, self.group).wrap(sites)
        if halves > 1:
            sites.watch(SiteKind.MODEL)
            sites.wrap(SiteKind.STEP, self.half)

    def group(self, at: At, axis: str = "strips") -> Group:
        """The ranks that hold the strips of this half, or (axis `halves`) those that hold this strip."""
        strips = int(at.value or 1)
        return gang().axes({"halves": self.ranks // strips, "strips": strips})[axis]

    def mailbox(self, at: At) -> Mailbox:
        """What strips tell one another; made in the first step of a run."""
        if not hasattr(at.common, "mailbox"):
            at.common.mailbox = Mailbox(self.group(at), self.comm_checkpoint)
        return at.common.mailbox

    def exchange(self, own: Tensor, at: At) -> Tensor:
        """Everybody's `own` [...] of this step or of the last one, as the phase says: [strips, ...]."""
        if self.mode == "full_sync":
            return self.group(at).gather(own)
        return self.mailbox(at).exchange(at.site.name, own, wait=at.phase == "sync", send=at.phase == "async")

    def half(self, call: Call, x: Tensor, at: At) -> Tensor:
        """One branch here, the other on the ranks of the other half: [b, ...] -> [2 * b, ...]."""
        halves, branches = self.group(at, "halves"), at.step.branches
        at.step.branches = (branches[halves.index],)
        try:
            return halves.gather(call(x)).flatten(0, 1)
        finally:
            at.step.branches = branches

    def halo(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        """A convolution reads the edges of the strips above and below."""
        everyone = self.exchange(ops.edges(hidden, at.site.reach), at)
        above, below = ops.neighbours(everyone, at.site.reach, self.group(at).index)
        return call(hidden, above=above, below=below)

    def attend(self, call: Call, query: Tensor, at: At) -> Tensor:
        """Self-attention sees the keys and values of all strips; its own are always fresh."""
        own = torch.stack([call.inputs["key"], call.inputs["value"]])
        parts = list(self.exchange(own, at))
        parts[self.group(at).index] = own
        key, value = torch.cat(parts, dim=3)
        return call(query, key=key, value=value)

    def norm(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        """A group norm uses the moments of all strips, as `mode` says."""
        if at.phase != "sync" and self.mode in ("separate_gn", "no_sync"):
            return call(hidden)
        own = ops.moments(hidden, cast(nn.GroupNorm, at.site.module).num_groups)
        everyone = self.exchange(own, at) if self.mode in STALE else self.group(at).gather(own)
        how = "fresh" if at.phase == "sync" else STALE.get(self.mode, "fresh")
        mean, variance = ops.pooled(everyone, own, self.group(at).index, how)
        if self.unbiased:
            count = hidden[0].numel() // own.shape[-1]
            variance = variance * count / (count - 1)
        return call(hidden, mean=mean, variance=variance)

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """A strip of everything inside the model, but all of what text, time and class cost."""
        halves, strips = self.layout(run)
        if site.kind in (SiteKind.STEP, SiteKind.MODEL):
            return Share(1 / halves if site.kind is SiteKind.MODEL else 1.0)
        return replace(share_of_strip(site, strips), held=self.held(site, phase, run, strips) // halves)

    def held(self, site: Site, phase: Phase, run: RunShape, strips: int) -> int:
        """Bytes a row of what a site exchanges: that of all strips, and the own once more while it travels."""
        size = 0
        if site.kind is SiteKind.KERNEL:
            size = 2 * site.output_bytes(run) // strips
        elif site.kind is SiteKind.NORM and isinstance(site.module, nn.GroupNorm):
            size = 2 * 4 * site.module.num_groups if self.mode in STALE else 0
        elif site.inside != SiteKind.MODEL or site.side != "down":  # the first convolution sees the whole picture
            size = site.edge_bytes(run)
        return 0 if self.mode == "full_sync" or strips == 1 else size * (strips + (phase.name == "async"))
