"""A picture cut into strips of rows: its tokens, the rows at the edges, the moments of group norms.

P strips of equal height are counted from the top. What everybody sent is stacked in front: [P, ...].
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int, int]
Reach = tuple[int, int]
Pooling = Literal["fresh", "stale", "corrected"]


def strip_of_tokens(x: Tensor, grid: Grid, index: int, count: int) -> Tensor:
    """The strip's tokens of x [B, N, ...] over a grid (frames, rows, columns): [B, N / count, ...].

    What has no row a token, like [B, 1, C], is given back as it is.
    """
    if x.shape[1] != math.prod(grid):
        return x
    return x.unflatten(1, grid).chunk(count, dim=2)[index].flatten(1, 3)


def strip_of_rows(x: Tensor, reach: Reach, index: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of x [B, C, H, W] the rows above a strip, the strip, the rows below; zeros outside of the picture."""
    above, below = reach
    height = x.shape[2] // count
    rows = F.pad(x, (0, 0, above, below))[:, :, index * height : (index + 1) * height + above + below]
    return rows[:, :, :above], rows[:, :, above : above + height], rows[:, :, above + height :]


def joined(strips: Tensor, grid: Grid) -> Tensor:
    """The whole of all strips: rows [P, B, C, h, W] -> [B, C, P * h, W], or tokens [P, B, n, C] -> [B, P * n, C]."""
    if strips.ndim == 5:
        return strips.permute(1, 2, 0, 3, 4).flatten(2, 3)
    frames, rows, columns = grid
    parts = strips.unflatten(2, (frames, rows // strips.shape[0], columns))
    return parts.permute(1, 2, 0, 3, 4, 5).flatten(1, 4)


def edges(strip: Tensor, reach: Reach) -> Tensor:
    """What the neighbours of a strip [B, C, h, W] read of it: first the rows for the one above, then for the other."""
    above, below = reach
    return torch.cat([strip[:, :, :below], strip[:, :, strip.shape[2] - above :]], dim=2)


def neighbours(everyone: Tensor, reach: Reach, index: int) -> tuple[Tensor, Tensor]:
    """Rows above and below a strip, of the `edges` of all strips [P, B, C, above + below, W]; zeros at the border."""
    _, below = reach
    zeros = torch.zeros_like(everyone[0])
    upper = everyone[index - 1] if index > 0 else zeros
    lower = everyone[index + 1] if index + 1 < everyone.shape[0] else zeros
    return upper[:, :, below:], lower[:, :, :below]


def moments(x: Tensor, groups: int) -> Tensor:
    """Mean and mean square of every group of channels of x [B, C, ...], in float32: [2, B, groups]."""
    grouped = x.float().reshape(x.shape[0], groups, -1)
    return torch.stack([grouped.mean(dim=2), grouped.square().mean(dim=2)])


def mean_and_variance(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Of moments [2, B, groups]: mean and biased variance [B, groups]."""
    mean, square = moments
    return mean, square - mean.square()


def pooled(everyone: Tensor, own: Tensor, index: int, how: Pooling) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a picture, of the moments [P, 2, B, groups] of its strips.

    They are those of this step ("fresh"), or of the last one, in which `own` [2, B, groups] either takes its place
    ("stale") or moves all by what changed in it since ("corrected"); a variance that would be negative is the own one.
    """
    if how == "fresh":
        return mean_and_variance(everyone.mean(dim=0))
    moved = own - everyone[index]
    if how == "stale":
        return mean_and_variance(everyone.mean(dim=0) + moved / everyone.shape[0])
    mean, variance = mean_and_variance(everyone.mean(dim=0) + moved)
    _, fallback = mean_and_variance(own)
    return mean, torch.where(variance < 0, fallback, variance)
