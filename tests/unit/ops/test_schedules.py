"""Counting rules against the lists the papers' code produces."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ops.schedules import forced_steps, full_steps_from_end, full_steps_from_start


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
