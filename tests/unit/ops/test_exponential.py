"""Exponential integrators: how many steps of which order, and where orders meet."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.ops.exponential import advance, multistep_orders, singlestep_orders


@given(count=st.integers(1, 60), order=st.integers(1, 3), falling=st.booleans(), euler=st.booleans())
def test_multisteps_never_need_more_history_than_there_is(count: int, order: int, falling: bool, euler: bool) -> None:
    orders = multistep_orders(count, order, falling=falling, euler=euler)
    assert len(orders) == count
    assert all(1 <= now <= min(order, index + 1) for index, now in enumerate(orders))
    assert not (falling or euler) or orders[-1] == 1


@given(count=st.integers(1, 60), order=st.integers(1, 3), euler=st.booleans())
def test_single_steps_make_as_many_predictions_as_asked_for(count: int, order: int, euler: bool) -> None:
    orders = singlestep_orders(count, order, lower=True, euler=euler)
    assert sum(orders) == count and max(orders) <= order
    assert not euler or orders[-1] == 1
    if count % order == 0:
        assert singlestep_orders(count, order, lower=False, euler=False) == [order] * (count // order)


def test_a_step_to_the_clean_sample_is_the_clean_sample() -> None:
    x, clean = torch.randn(3), torch.randn(3)
    assert torch.equal(advance(x, 0.0, 1.0, math.inf, [clean]), clean)


@pytest.mark.parametrize("midpoint", [False, True])
def test_a_step_of_no_length_changes_nothing(midpoint: bool) -> None:
    x, slopes = torch.randn(3, dtype=torch.float64), list(torch.randn(3, 3, dtype=torch.float64))
    for count in (1, 2, 3):
        out = advance(x, 1.0, 0.7, 1e-7, slopes[:count], midpoint=midpoint and count == 2)
        torch.testing.assert_close(out, x, atol=1e-6, rtol=0)
