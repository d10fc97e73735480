"""Keeping an estimated clean picture in the range of pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def dynamic_threshold(x0: Tensor, ratio: float, largest: float = 1.0) -> Tensor:
    """Dynamic thresholding of Imagen (arXiv 2205.11487): clamp(x0, -s, s) / s, sample by sample; x0 [b, ...].

    s is the quantile `ratio` of |x0|, or `largest` if that is more.
    """
    sizes = x0.detach().flatten(1).abs().to(torch.promote_types(x0.dtype, torch.float32))
    s = sizes.quantile(ratio, dim=1).clamp(min=largest).to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-s, s) / s
