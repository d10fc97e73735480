"""Spacings that are no copy of a scheduler's; those are compared with diffusers' in the tests of the samplers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ops.timesteps import even, of_solvers, problems


@given(st.floats(0.01, 1.0), st.floats(0.001, 0.009), st.integers(2, 50), st.sampled_from([1, 2, 7]))
def test_even_numbers_keep_their_ends_and_fall(first: float, last: float, count: int, power: int) -> None:
    numbers = even(first, last, count, power)
    assert len(numbers) == count and numbers == sorted(numbers, reverse=True)
    assert (numbers[0], numbers[-1]) == pytest.approx((first, last))
    roots = [number ** (1 / power) for number in numbers]
    assert roots[1] - roots[0] == pytest.approx((roots[-1] - roots[0]) / (count - 1))


def test_even_numbers_may_be_negative() -> None:
    assert even(-3.0, 1.0, 5) == [-3.0, -2.0, -1.0, 0.0, 1.0]


def test_solvers_leave_out_the_cleanest_of_one_step_more() -> None:
    assert of_solvers("linspace", 1000, 4) == [999, 749, 500, 250]
    assert of_solvers("leading", 1000, 4, 1) == [801, 601, 401, 201]
    assert of_solvers("trailing", 1000, 4) == [999, 749, 499, 249]
    assert of_solvers("log_snr", 1000, 4) is None


def test_problems_of_time_steps() -> None:
    assert problems([999, 500, 0], 1000) == []
    assert "must lie in 0..999" in problems([1000], 1000)[0][0]
    assert "each only once" in problems([5, 5], 1000)[0][0]
