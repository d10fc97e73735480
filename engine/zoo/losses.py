"""Losses that the recipes share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(target: Tensor, output: Tensor) -> Tensor:
    """L1 on values and on neighbouring differences, which keeps outlines crisp. Shapes: [..., H, W]."""
    loss = F.l1_loss(output, target)
    for axis in (-1, -2):
        loss = loss + F.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
    return loss


def colour_loss(target: Tensor, output: Tensor, cell: int = 8) -> Tensor:
    """L1 between the mean colours of `cell` x `cell` pixels: [B, 3, H, W]."""
    return F.l1_loss(F.avg_pool2d(output, cell), F.avg_pool2d(target, cell))


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean divergence of a diagonal Gaussian from the standard one."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
