"""How much a tensor changed: from one step to another, and from one frame to the next."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def relative_change(old: Tensor, new: Tensor) -> Tensor:
    """|old - new|_1 / |old|_1 over all entries, in fp32: a scalar."""
    old = old.float()
    return (old - new.float()).abs().sum() / old.abs().sum()


def frame_difference(tokens: Tensor, frames: int) -> Tensor:
    """|x_f+1 - x_f|_1 / (|x_f+1|_1 + |x_f|_1) over all frames f but the last, in fp32: a scalar in 0..1.

    tokens: [B, N, C], ordered frame by frame; there are at least two frames.
    """
    rows = tokens.float().unflatten(1, (frames, -1))
    later, earlier = rows[:, 1:], rows[:, :-1]
    return (later - earlier).abs().sum() / (later.abs().sum() + earlier.abs().sum())


def looked_up(value: float, codebook: Sequence[tuple[float, int]]) -> int:
    """The entry of the first threshold above `value`, else (for NaN too) the last one's; thresholds rise."""
    return next((entry for threshold, entry in codebook if value < threshold), codebook[-1][1])
