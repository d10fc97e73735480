"""Counting rules against the lists the papers' code produces."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ops.schedules import (
    broadcast_steps,
    forced_steps,
    full_steps_from_end,
    full_steps_from_start,
    triggered_steps,
)


@pytest.mark.parametrize(("total", "interval", "count"), [(250, 3, 84), (50, 3, 18), (250, 4, 64), (30, 3, 11)])
def test_fora_counts_full_steps_as_its_paper(total: int, interval: int, count: int) -> None:
    full = full_steps_from_end(total, interval)
    assert len(full) == count == math.ceil(total / interval) + ((total - 1) % interval != 0)
    assert {0, total - 1} <= full


@given(st.integers(1, 200), st.integers(1, 20))
def test_counting_from_the_end_includes_both_ends(total: int, interval: int) -> None:
    full = sorted(full_steps_from_end(total, interval))
    assert full[0] == 0 and full[-1] == total - 1
    assert all(after - before <= interval for before, after in pairwise(full))


def test_opensora_steps_of_toca() -> None:
    assert sorted(full_steps_from_start(30, 3, 3)) == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert sorted(full_steps_from_start(30, 6, 3)) == [0, 1, 2, 6, 12, 18, 24]


def test_forced_steps_of_dit_ddim50() -> None:
    full, first_block = forced_steps(50, 3, 0.4, down=True)
    assert [49 - step for step in sorted(full)] == [
        49, 44, 40, 36, 30, 27, 24, 21, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0,
    ]  # fmt: skip
    assert [49 - step for step in sorted(first_block)] == [45, 32]
    assert len(full) * 28 + len(first_block) == 506


def test_forced_steps_of_dit_ddpm250() -> None:
    full, first_block = forced_steps(250, 4, 0.4, down=True)
    assert (len(full), len(first_block)) == (72, 2)
    assert len(full) * 28 + len(first_block) == 2018


def test_forced_steps_of_pixart() -> None:
    full, first_block = forced_steps(20, 3, 0.2, down=False)
    assert sorted(full) == [0, 6, 9, 12, 15, 18]
    assert sorted(first_block) == [4]


@pytest.mark.parametrize("down", [True, False])
@given(total=st.integers(1, 100), interval=st.integers(1, 10), weight=st.floats(0, 0.9))
def test_forced_steps_start_full_and_stay_in_range(total: int, interval: int, weight: float, down: bool) -> None:
    full, first_block = forced_steps(total, interval, weight, down=down)
    assert 0 in full
    assert not full & first_block
    assert full | first_block <= set(range(total))


def test_broadcast_counts_from_the_first_step_and_leaves_the_borders_out() -> None:
    times = [900, 800, 700, 600, 500, 400, 300]
    assert broadcast_steps(times, (400, 900), 2) == {1, 3}
    assert broadcast_steps(times, (399, 901), 3) == {1, 2, 4, 5}
    assert broadcast_steps(times, (0, 1000), 1) == broadcast_steps(times, (500, 500), 2) == frozenset()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60, unique=True), st.integers(1, 9))
def test_every_interval_th_step_computes(times: list[int], interval: int) -> None:
    reused = broadcast_steps(sorted(times, reverse=True), (-1, 1001), interval)
    assert reused == {index for index in range(len(times)) if index % interval}


def test_steps_behind_a_trigger() -> None:
    times = [900, 800, 700, 600, 500, 400]
    assert triggered_steps(times, [800], 2) == {2, 3}
    assert triggered_steps(times, [790], 2) == {2, 3}, "the nearest step"
    assert triggered_steps(times, [750], 1) == {2}, "of two the noisier"
    assert triggered_steps(times, [800, 700], 2) == {3, 4}, "a trigger computes whatever an earlier one says"
    assert triggered_steps(times, [410], 2) == triggered_steps(times, [], 2) == frozenset()
