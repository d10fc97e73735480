"""Arithmetic of multiply-accumulates (MACs) and bytes.

One MAC is one multiplication with its addition; papers that print FLOPs usually mean two FLOPs a MAC. Counted are
matrix products and convolutions, as the papers count them; norms, activations and residual sums are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.sites import Site


@dataclass(frozen=True)
class Share:
    """What a technique leaves of a site in one phase.

    `kept` is the fraction of the site's MACs still spent, of what the enclosing sites and the techniques further in
    leave; the sites inside it keep it too. `added` are MACs a sample spent extra whenever the technique's around runs,
    `held` bytes a row of the batch kept between steps.
    """

    kept: float = 1.0
    added: int = 0
    held: int = 0


KEEP_ALL = Share()


NOTHING: Mapping[str, float] = {}


def kept_macs(sites: Iterable[Site], kept: Mapping[str, float], added: Mapping[str, float] = NOTHING) -> float:
    """MACs of one sample when each site keeps the given fraction and passes it on to the sites inside it.

    `kept` maps site names to fractions; a missing name keeps everything. `added` are MACs spent on top at a site, as
    far as the enclosing sites are kept. Sites must come outermost first.
    """
    total, through = 0.0, {"": 1.0}
    for site in sites:
        outer = through.get(site.inside, 1.0)
        through[site.name] = outer * kept.get(site.name, 1.0)
        total += site.macs * through[site.name] + added.get(site.name, 0.0) * outer
    return total


def measured_macs(sites: Iterable[Site], shares: Mapping[str, float], added: Mapping[str, float] = NOTHING) -> float:
    """The same from measured `shares`: each is of its whole site, whatever the enclosing sites did.

    A site that was not measured shares the fate of the one it lies in.
    """
    total, through = 0.0, {"": 1.0}
    for site in sites:
        outer = through.get(site.inside, 1.0)
        through[site.name] = shares.get(site.name, outer)
        total += site.macs * through[site.name] + added.get(site.name, 0.0) * outer
    return total
