"""Sites of linear layers: where weights are quantized, pruned, or given a low-rank neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from engine.sites import Site, SiteKind


def row_macs(layer: Any) -> int:
    """MACs of one row through a linear layer: what a module that replaced it says, else one for every weight."""
    stated = getattr(layer, "row_macs", None)
    return int(layer.weight.numel() if stated is None else stated)


def linear_site(
    outer: Site, name: str, layer: nn.Module, rows: int, *, reads: str = "", per_token: bool = True
) -> Site:
    """The linear layer `name` inside `outer`, through which `rows` rows of a sample go.

    Without `per_token` these rows are not the sample's tokens (but its text, or its one time step), and the site has
    no grid. Layers of one site that read the same rows share a name, `reads`.
    """
    facts: dict[str, Any] = {"depth": outer.depth, "layer": outer.layer, "layers": outer.layers, "side": outer.side}
    if per_token:
        facts |= {"grid": outer.grid, "along": outer.along}
    return Site(
        name,
        SiteKind.LINEAR,
        layer,
        outer.name,
        width=int(layer.out_features),  # type: ignore[arg-type]
        macs=rows * row_macs(layer),
        part_of=outer.kind,
        reads=f"{outer.name}.{reads}" if reads else name,
        **facts,
    )


def attention_linears(outer: Site, name: str, attention: Any, tokens: int, rows: int, *, text: bool) -> Iterator[Site]:
    """The linears of diffusers' attention `name`: queries of `tokens` tokens, keys and values of `rows` rows."""
    for part in ("to_q", "to_k", "to_v"):
        context = text and part != "to_q"
        reads = "text" if context else "tokens"
        layer, count = getattr(attention, part), tokens if part == "to_q" else rows
        yield linear_site(outer, f"{name}.{part}", layer, count, reads=reads, per_token=not context)
    yield linear_site(outer, f"{name}.to_out.0", attention.to_out[0], tokens)


def feed_forward_linears(outer: Site, name: str, feed_forward: Any, tokens: int) -> Iterator[Site]:
    """The two linears of diffusers' feed-forward `name`."""
    yield linear_site(outer, f"{name}.net.0.proj", feed_forward.net[0].proj, tokens)
    yield linear_site(outer, f"{name}.net.2", feed_forward.net[2], tokens)
