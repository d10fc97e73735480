"""Gathering and scattering token rows, choosing tokens by score."""

from __future__ import annotations

import torch
from torch import Tensor


def _flat(index: Tensor, count: int) -> Tensor:
    """Row numbers of `index` [B, k] in a tensor [B * count, ...]."""
    offsets = torch.arange(index.shape[0], device=index.device) * count
    return (index + offsets[:, None]).flatten()


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, k] of x [B, N, C]: [B, k, C]. Whole rows are copied, which is faster than `torch.gather`."""
    batch, count, channels = x.shape
    rows = x.reshape(batch * count, channels).index_select(0, _flat(index, count))
    return rows.view(batch, -1, channels)


def scatter_tokens(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Write `rows` [B, k, C] over rows `index` [B, k] of contiguous x [B, N, C], in place; returns x."""
    batch, count, channels = x.shape
    x.view(batch * count, channels).index_copy_(0, _flat(index, count), rows.reshape(-1, channels))
    return x


def add_tokens(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """x [B, N, C] with `rows` [B, k, C] added to its rows `index` [B, k], which may repeat."""
    batch, count, channels = x.shape
    flat = x.reshape(batch * count, channels)
    return flat.index_add(0, _flat(index, count), rows.reshape(-1, channels)).view(x.shape)


def top_tokens(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores of each row of `scores` [B, N]: [B, count], distinct in each row."""
    return scores.topk(count, dim=-1, sorted=False).indices


def spread_bonus(scores: Tensor, grid: tuple[int, int, int], cell: int, weight: float) -> Tensor:
    """Raise the best token of every `cell` x `cell` square of every frame by `weight` times its score.

    scores [B, N] over a grid (frames, rows, columns); squares at the border may be smaller. Other scores are unchanged.
    """
    frames, rows, columns = grid
    down, across = -rows % cell, -columns % cell
    field = scores.view(-1, 1, rows, columns)
    padded = torch.nn.functional.pad(field, (0, across, 0, down), value=-torch.inf)
    best, place = torch.nn.functional.max_pool2d(padded, cell, return_indices=True)
    bonus = torch.zeros_like(padded).flatten(1)
    bonus.scatter_(1, place.flatten(1), (weight * best).flatten(1))
    bonus = bonus.view_as(padded)[:, :, :rows, :columns]
    return scores + bonus.reshape(scores.shape[0], frames * rows * columns)
