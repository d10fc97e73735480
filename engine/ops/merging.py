"""Token merging in the symbols of ToMe (arXiv 2210.09461) and its form for diffusion models (arXiv 2303.17604).

Tokens are split into destinations and sources. The sources most like a destination are averaged into it, what follows
runs on fewer tokens, and afterwards every token gets what became of the one it was averaged into.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.ops.tokens import add_tokens, gather_tokens


@dataclass(frozen=True)
class Matching:
    """Who is merged into whom, for B samples of N tokens: D destinations, r merged sources, N - D - r that stay alone.

    Merged tokens are ordered [alone | destinations].
    """

    alone: Tensor
    """[B, N - D - r] indices of sources that are not merged."""
    merged: Tensor
    """[B, r] indices of sources that are."""
    into: Tensor
    """[B, r] which destination, in 0..D - 1, each of those is merged into."""
    destinations: Tensor
    """[B, D] indices of the destinations."""
    origin: Tensor
    """[B, N] place of every token's representative among the merged tokens."""


def cells(rows: int, columns: int, sy: int, sx: int) -> tuple[int, int]:
    """How many whole cells of sy x sx tokens lie in a grid, along each axis."""
    return rows // sy, columns // sx


def merge_count(tokens: int, destinations: int, ratio: float) -> int:
    """r: how many of `tokens` are merged; never more than there are sources, and none without a destination."""
    return min(int(tokens * ratio), tokens - destinations) if destinations else 0


def split_by_cells(rows: int, columns: int, sy: int, sx: int, choice: Tensor) -> tuple[Tensor, Tensor]:
    """Sources [N - D] and destinations [D] of a grid of N = rows x columns tokens, both in row-major order.

    Every cell of sy x sx tokens has one destination; `choice` [D], cell by cell, says which of its sy * sx tokens. Rows
    and columns that fill no cell are sources.
    """
    down, across = cells(rows, columns, sy, sx)
    place = torch.arange(down * across, device=choice.device)
    row = place // across * sy + choice // sx
    column = place % across * sx + choice % sx
    chosen = torch.zeros(rows * columns, dtype=torch.bool, device=choice.device)
    chosen[row * columns + column] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


def similarity(x: Tensor, sources: Tensor, destinations: Tensor) -> Tensor:
    """Cosine of every source with every destination: x [B, N, C], indices [S] and [D] -> [B, S, D]."""
    normed = x / x.norm(dim=-1, keepdim=True)
    return normed.index_select(1, sources) @ normed.index_select(1, destinations).transpose(-1, -2)


def soft_matching(best: Tensor, target: Tensor, sources: Tensor, destinations: Tensor, r: int) -> Matching:
    """Bipartite soft matching: each source proposes a destination, and the r best proposals are merged.

    best [B, S] is a proposal's score and target [B, S] its destination in 0..D - 1, the maximum over D of the scores of
    all pairs; `sources` [S] and `destinations` [D] are the tokens they stand for, the same in every sample.
    """
    batch, count = best.shape[0], destinations.shape[0]
    order = best.argsort(dim=-1, descending=True, stable=True)  # ties must not depend on the device
    chosen, rest = order[:, :r], order[:, r:]
    into = target.gather(1, chosen)
    alone, merged, own = sources[rest], sources[chosen], destinations.expand(batch, count)
    left = alone.shape[1]
    origin = torch.empty(batch, left + r + count, dtype=torch.long, device=best.device)
    places = torch.arange(left + count, device=best.device).expand(batch, -1)
    origin.scatter_(1, torch.cat([alone, own, merged], 1), torch.cat([places, into + left], 1))
    return Matching(alone, merged, into, own, origin)


def merge(x: Tensor, matching: Matching) -> Tensor:
    """x [B, N, C] -> [B, N - r, C]: every destination becomes the mean of itself and what is merged into it."""
    # Twice as fast on a CPU as `scatter_reduce` with its mean, and the same bit for bit.
    sums = add_tokens(gather_tokens(x, matching.destinations), matching.into, gather_tokens(x, matching.merged))
    counts = add_tokens(x.new_ones(*matching.destinations.shape, 1), matching.into, x.new_ones(*matching.into.shape, 1))
    return torch.cat([gather_tokens(x, matching.alone), sums / counts], dim=1)


def unmerge(x: Tensor, matching: Matching) -> Tensor:
    """x [B, N - r, C] -> [B, N, C] in the original order: every token gets a copy of its representative."""
    return gather_tokens(x, matching.origin)
