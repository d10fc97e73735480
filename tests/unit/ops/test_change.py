"""How much tensors change, against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.ops.change import frame_difference, looked_up, relative_change

CODEBOOK = [(0.1, 6), (0.2, 4), (1.0, 1)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_relative_change_is_a_ratio_of_sums() -> None:
    old, new = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.0, 3.0]])
    assert float(relative_change(old, new)) == pytest.approx(5 / 10)
    assert float(relative_change(old, old)) == 0
    assert float(relative_change(10 * old, 10 * new)) == pytest.approx(5 / 10)


def test_half_precision_is_summed_in_single() -> None:
    """A million entries of one add up to more than float16 holds."""
    old = torch.ones(1, 1000, 1000, dtype=torch.float16)
    assert float(relative_change(old, 2 * old)) == 1.0
    assert float(frame_difference(old, 10)) == 0.0


def test_frame_difference_compares_tokens_of_one_place() -> None:
    frames, spots = 3, 4
    tokens = noise(2, frames * spots, 5)
    rows = tokens.view(2, frames, spots, 5)
    above = sum(float((rows[:, f + 1] - rows[:, f]).abs().sum()) for f in range(frames - 1))
    below = sum(float(rows[:, f + 1].abs().sum() + rows[:, f].abs().sum()) for f in range(frames - 1))
    assert float(frame_difference(tokens, frames)) == pytest.approx(above / below, rel=1e-5)


def test_a_still_picture_has_no_motion_and_opposite_frames_all_of_it() -> None:
    still = noise(1, 1, 4, 5).repeat(1, 3, 1, 1)
    assert float(frame_difference(still.flatten(1, 2), 3)) == 0
    signs = torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1)
    assert float(frame_difference((still * signs).flatten(1, 2), 3)) == pytest.approx(1.0)


def test_look_up_takes_the_first_threshold_above() -> None:
    values = [0.0, 0.0999, 0.1, 0.15, 0.2, 0.99, 1.0, 50.0, math.inf, math.nan]
    assert [looked_up(value, CODEBOOK) for value in values] == [6, 6, 4, 4, 1, 1, 1, 1, 1, 1]


@given(st.floats(0, 2), st.floats(0, 2))
def test_more_change_never_means_a_longer_rest(one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert looked_up(low, CODEBOOK) >= looked_up(high, CODEBOOK)
