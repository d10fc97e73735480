"""Strips of a picture: cutting, joining, edges, and moments put together."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.ops import strips as ops


@pytest.mark.parametrize("grid", [(1, 6, 5), (3, 6, 4)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_tokens_are_cut_by_rows_and_joined_again(grid: tuple[int, int, int], count: int) -> None:
    frames, rows, columns = grid
    x = torch.randn(2, frames * rows * columns, 7)
    parts = torch.stack([ops.strip_of_tokens(x, grid, index, count) for index in range(count)])
    assert torch.equal(ops.joined(parts, grid), x)
    last = parts[-1].view(2, frames, rows // count, columns, 7)
    assert torch.equal(last, x.view(2, frames, rows, columns, 7)[:, :, rows - rows // count :])


def test_what_has_no_row_a_token_stays() -> None:
    mask, one = torch.arange(24.0).view(2, 12), torch.randn(2, 1, 5)
    assert torch.equal(ops.strip_of_tokens(mask, (1, 4, 3), 1, 2), mask[:, 6:])
    assert ops.strip_of_tokens(one, (1, 4, 3), 1, 2) is one


@pytest.mark.parametrize("reach", [(1, 1), (0, 1), (2, 1)])
def test_edges_of_the_neighbours_are_the_rows_around_a_strip(reach: tuple[int, int]) -> None:
    x, count = torch.randn(2, 3, 12, 5), 3
    cuts = [ops.strip_of_rows(x, reach, index, count) for index in range(count)]
    assert torch.equal(ops.joined(torch.stack([strip for _, strip, _ in cuts]), (1, 12, 5)), x)
    everyone = torch.stack([ops.edges(strip, reach) for _, strip, _ in cuts])
    for index, (above, _, below) in enumerate(cuts):
        upper, lower = ops.neighbours(everyone, reach, index)
        assert torch.equal(upper, above) and torch.equal(lower, below)
    assert not cuts[0][0].any() and not cuts[-1][2].any(), "zeros outside of the picture"


def test_fresh_moments_of_all_strips_are_those_of_the_picture() -> None:
    x, groups = 3 + 2 * torch.randn(2, 8, 6, 4), 4
    everyone = torch.stack([ops.moments(part, groups) for part in x.chunk(3, dim=2)])
    mean, variance = ops.pooled(everyone, everyone[1], 1, "fresh")
    grouped = x.view(2, groups, -1)
    torch.testing.assert_close(mean, grouped.mean(-1))
    torch.testing.assert_close(variance, grouped.var(-1, unbiased=False))
    normed = F.group_norm(x, groups)
    torch.testing.assert_close(
        normed.view_as(grouped), (grouped - mean[..., None]) / (variance[..., None] + 1e-5).sqrt()
    )


def test_stale_and_corrected_moments() -> None:
    # Two strips, one sample, one group: (mean, mean square) of the last step, and the first one's of now.
    everyone = torch.tensor([[1.0, 5.0], [3.0, 13.0]]).view(2, 2, 1, 1)
    own = torch.tensor([2.0, 8.0]).view(2, 1, 1)
    mean, variance = ops.pooled(everyone, own, 0, "stale")
    assert (mean.item(), variance.item()) == (2.5, 10.5 - 2.5**2)
    mean, variance = ops.pooled(everyone, own, 0, "corrected")
    assert (mean.item(), variance.item()) == (3.0, 12.0 - 3.0**2)


def test_a_negative_variance_is_replaced_by_the_own_one() -> None:
    everyone = torch.tensor([[0.0, 4.0], [0.0, 4.0]]).view(2, 2, 1, 1)
    own = torch.tensor([3.0, 10.0]).view(2, 1, 1)
    mean, variance = ops.pooled(everyone, own, 0, "corrected")
    assert mean.item() == 3.0, "10 - 3 ** 2 is 1, and so it stays"
    assert variance.item() == 1.0
    own = torch.tensor([-1.0, 1.5]).view(2, 1, 1)
    mean, variance = ops.pooled(everyone + torch.tensor([4.0, -3.5]).view(2, 1, 1), own, 0, "corrected")
    assert (mean.item(), variance.item()) == (-1.0, 0.5)
