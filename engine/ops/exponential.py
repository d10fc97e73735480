"""Exponential integrators over h = lambda_t - lambda_s with data predictions m, in the symbols of DPM-Solver++.

A mark is (lambda, m): a data prediction [b, ...] and the half log signal-to-noise ratio where it was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

Mark = tuple[float, Tensor]
LAST_STEPS = {1: [1], 2: [1, 1], 3: [2, 1]}
"""Single steps that stand for the last one of an order."""


def advance(
    x: Tensor, scale: float, alpha: float, h: float, derivatives: Sequence[Tensor], *, midpoint: bool = False
) -> Tensor:
    """x_t = scale x_s - alpha_t (phi1 D0 - phi2 D1 + phi3 D2), as many terms as there are derivatives.

    `scale` is sigma_t / sigma_s. `midpoint` replaces phi2 by -phi1 / 2, which is the same to second order. With one
    derivative h may be infinite: the step then ends at the clean sample.
    """
    phi1 = math.expm1(-h)
    out = scale * x - alpha * phi1 * derivatives[0]
    if len(derivatives) > 1:
        phi2 = phi1 / h + 1
        out = out + alpha * (-phi1 / 2 if midpoint else phi2) * derivatives[1]
        if len(derivatives) > 2:
            out = out - alpha * (phi2 / h - 0.5) * derivatives[2]
    return out


def backward_differences(marks: Sequence[Mark], h: float) -> list[Tensor]:
    """D0, D1, D2 at the newest of one to three marks, newest first, in units of the step h that follows it.

    D2 is half the second derivative, as in the official code, which takes it for the whole: with few steps that hardly
    shows, with many the third order becomes the second.
    """
    (l0, m0), *older = marks
    if not older:
        return [m0]
    (l1, m1), *oldest = older
    r0 = (l0 - l1) / h
    d1 = (m0 - m1) / r0
    if not oldest:
        return [m0, d1]
    l2, m2 = oldest[0]
    r1 = (l1 - l2) / h
    bend = (d1 - (m1 - m2) / r1) / (r0 + r1)
    return [m0, d1 + r0 * bend, bend]


def forward_differences(marks: Sequence[Mark], h: float, *, midpoint: bool) -> list[Tensor]:
    """D0, D1, D2 at the first of one to three marks inside a step h, in their order; `midpoint` leaves out D2."""
    (l0, m0), *inner = marks
    slopes = [(m - m0) * (h / (at - l0)) for at, m in inner]
    if len(inner) < 2 or midpoint:
        return [m0, *slopes[-1:]]
    r1, r2 = ((at - l0) / h for at, _ in inner)
    return [m0, (r2 * slopes[0] - r1 * slopes[1]) / (r2 - r1), 2 * (slopes[1] - slopes[0]) / (r2 - r1)]


def multistep_orders(count: int, order: int, *, falling: bool, euler: bool) -> list[int]:
    """Order of each of `count` multisteps: it grows from 1; at the end it falls to 1, or the last step alone is of it.

    `falling` asks for the one, `euler` for the other.
    """
    left = [count - index if falling else order for index in range(count)]
    if euler:
        left[-1] = 1
    return [min(order, index + 1, most) for index, most in enumerate(left)]


def singlestep_orders(count: int, order: int, *, lower: bool, euler: bool) -> list[int]:
    """Orders of the single steps that make `count` predictions in all, each as many as its order.

    `lower` lets the last ones be of lower order, as many as are needed; else `order` must divide `count`. `euler` ends
    with a step of first order.
    """
    full, rest = divmod(count, order)
    if not lower:
        orders = [order] * full
    elif rest:
        orders = [order] * full + [rest]
    else:
        orders = [order] * (full - 1) + LAST_STEPS[order]
    if euler and orders[-1] > 1:
        orders[-1:] = [orders[-1] - 1, 1]
    return orders
