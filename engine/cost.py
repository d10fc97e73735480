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

    `kept` is the fraction of the site's MACs still spent, `added` MACs a sample spent extra, `held` bytes a row of the
    batch kept between steps.
    """

    kept: float = 1.0
    added: int = 0
    held: int = 0


KEEP_ALL = Share()


def kept_macs(sites: Iterable[Site], kept: Mapping[str, float]) -> float:
    """MACs of one sample when each site keeps the given fraction and passes it on to the sites inside it.

    `kept` maps site names to fractions; a missing name keeps everything. Sites must come outermost first.
    """
    total, through = 0.0, {"": 1.0}
    for site in sites:
        through[site.name] = through.get(site.inside, 1.0) * kept.get(site.name, 1.0)
        total += site.macs * through[site.name]
    return total
