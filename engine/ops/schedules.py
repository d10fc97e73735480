"""Which steps are computed in full: the counting rules of the caching papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POWER_STEP = 0.02


def full_steps_from_end(total: int, interval: int) -> frozenset[int]:
    """Steps (0 = first) that are full when the paper counts *down* to 0: the first, and every `interval` from the last.

    The last step is always full.
    """
    return frozenset(index for index in range(total) if index == 0 or (total - 1 - index) % interval == 0)


def full_steps_from_start(total: int, interval: int, warmup: int = 0) -> frozenset[int]:
    """Steps that are full when counting up: the first `warmup`, and every multiple of `interval`."""
    return frozenset(index for index in range(total) if index < warmup or index % interval == 0)


def centred_steps(total: int, interval: int, power: float, center: int) -> frozenset[int]:
    """DeepCache's non-uniform full steps: as many as one in `interval` gives, and dense around step `center`.

    Marks that are evenly spread between the roots (-c)^(1/p) and (T - c)^(1/p) in the complex plane are raised to the
    power p again, which moves them towards 0, and their whole parts are counted from c. Where too few of them differ,
    p falls by 0.02. Raises ValueError once p is not above 1 any more.
    """
    wanted = -(-total // interval)
    if wanted == total:
        return frozenset(range(total))
    p = power
    while p > 1:
        # Python's root of a negative number is complex, that of zero is not; numpy raises the marks to their power: so
        # marks that are whole but for rounding fall as in the official code.
        first, last = (-center) ** (1 / p), (total - center) ** (1 / p)
        marks = sorted({int(mark) for mark in (np.linspace(first, last, wanted + 1) ** p).real})
        full = frozenset({0, *(mark + center for mark in marks[1:-1])})
        if len(full) == wanted:
            return full
        p -= POWER_STEP
    raise ValueError(f"no power from {power} down to 1 gives {wanted} different steps around step {center} of {total}")


def forced_steps(total: int, interval: int, weight: float, *, down: bool) -> tuple[frozenset[int], frozenset[int]]:
    """ToCa's forced steps, whose interval varies along the run: (full steps, first-block-only steps), 0 = first.

    Counting down (DiT), the interval is round(N / (1 + w - 2 w step / T)), and 2 between 20 % and 40 % of the steps;
    counting up (PixArt), round(N / (1 - w + 2 w step / T)). A step whose number is a multiple of the interval in force
    sets it anew; it is full if its number is a multiple of the new interval too. Otherwise only the first block of the
    official code, which asks before the change, is computed in full.
    """
    full: set[int] = set()
    first_block: set[int] = set()
    current = interval
    for index in range(total):
        step = total - 1 - index if down else index
        if index and step % current:
            continue
        current = _varying_interval(step, total, interval, weight, down=down)
        (full if index == 0 or step % current == 0 else first_block).add(index)
    return frozenset(full), frozenset(first_block)


def _varying_interval(step: int, total: int, interval: int, weight: float, *, down: bool) -> int:
    if down and weight > 0 and int(0.2 * total) <= step < int(0.4 * total):
        return 2
    slope = 1 + weight - 2 * weight * step / total if down else 1 - weight + 2 * weight * step / total
    return max(1, round(interval / slope))


def broadcast_steps(times: Sequence[int], window: tuple[int, int], interval: int) -> frozenset[int]:
    """PAB's steps that reuse: those whose time step lies inside `window` and whose number is no multiple of `interval`.

    Numbers count from the run's first step, not from the window's.
    """
    low, high = window
    return frozenset(index for index, time in enumerate(times) if low < time < high and index % interval)


def triggered_steps(times: Sequence[int], triggers: Sequence[int], count: int) -> frozenset[int]:
    """The `count` steps behind each step whose time step is nearest to a trigger (the noisier of two); 0 = first step.

    A step that is itself the nearest to a trigger is left out.
    """
    starts = {min(range(len(times)), key=lambda index: abs(times[index] - trigger)) for trigger in triggers}
    behind = {start + 1 + offset for start in starts for offset in range(count)}
    return frozenset(index for index in behind - starts if index < len(times))
