"""A model that works on one strip of its picture: the first site inside it takes the strip, the last one joins all.

Strips are of equal height and lie on the ranks of one group. What looks beyond a strip (attention, convolutions, group
norms) is the technique's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from engine.ops import strips as ops
from engine.parallel import Group
from engine.sites import At, Call, Site, SiteKind, Sites


@dataclass(frozen=True)
class Strips:
    """`count` strips; `group` tells the ranks that hold them, once a run is under way."""

    count: int
    group: Callable[[At], Group]

    def wrap(self, sites: Sites) -> None:
        """Split and join; refused where rows do not divide.

        All sites on the model's path are wrapped, and all that spend MACs on text, time or class: a technique gives
        the first kind 1 / count of their cost, and adds what the others spend in full. Receipts measure both.
        """
        path = sites.within(SiteKind.MODEL)
        first, last, named = path[0], path[-1], {site.name for site in path}
        for kind in SiteKind:
            sites.wrap(kind, self.keep, lambda site: site.name in named or site.context_macs > 0)
        if self.count == 1:
            return
        sites.wrap(first.kind, self.split, lambda site: site.name == first.name)
        sites.wrap(last.kind, self.join, lambda site: site.name == last.name)
        closed = [site.name for site in sites.of(SiteKind.CONV) if _rows(site) > 1 and not any(site.reach)]
        if closed:
            rule = f"`{closed[0]}` reads rows around its own and cannot be given those of other strips"
            sites.refuse(rule, "remove the technique that replaced this convolution")
        uneven = [(site.grid[1], site.name) for site in sites.all if site.tokens and site.grid[1] % self.count]
        if uneven:
            rows, name = min(uneven)
            sites.refuse(
                f"the {rows} rows of `{name}` do not divide into {self.count} strips",
                f"use a height that is a multiple of {self.count * sites.run.pixels[1] // rows} pixels, or other ranks",
            )

    def cut(self, x: Tensor, at: At) -> Tensor:
        """The strip's part of x [B, N, ...], if it has a row a token."""
        group = self.group(at)
        return ops.strip_of_tokens(x, at.site.grid, group.index, group.size)

    def keep(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        """Compute on what comes, with the strip's part of other inputs that have a row a token."""
        inputs = {name: call.inputs.get(name) for name in at.site.token_inputs if self.count > 1}
        return call(hidden, **{name: self.cut(x, at) for name, x in inputs.items() if isinstance(x, Tensor)})

    def split(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        """Take the strip of the whole picture [B, C, H, W], or of all tokens [B, N, C]."""
        if hidden.ndim == 3:
            return call(self.cut(hidden, at))
        group = self.group(at)
        above, strip, below = ops.strip_of_rows(hidden, at.site.reach, group.index, group.size)
        return call(strip, above=above, below=below)

    def join(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        """The output of the whole picture, on every rank."""
        return ops.joined(self.group(at).gather(call(hidden)), at.site.grid)


def _rows(convolution: Site) -> int:
    """Rows of a convolution's kernel."""
    return int(getattr(convolution.module, "kernel_size", (1,))[0])
