"""Token merging: partition, matching, merge and unmerge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.ops.merging import (
    Matching,
    cells,
    merge,
    merge_count,
    similarity,
    soft_matching,
    split_by_cells,
    unmerge,
)

GRID = (6, 8)


def matched(x: Tensor, r: int, seed: int = 0) -> Matching:
    choice = torch.randint(4, (12,), generator=torch.Generator().manual_seed(seed))
    sources, destinations = split_by_cells(*GRID, 2, 2, choice)
    best, target = similarity(x, sources, destinations).max(dim=-1)
    return soft_matching(best, target, sources, destinations, r)


def tokens(batch: int = 3) -> Tensor:
    return torch.randn(batch, 48, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("rows", "columns", "sy", "sx"), [(6, 8, 2, 2), (5, 7, 2, 2), (7, 9, 3, 2), (4, 4, 4, 4)])
def test_every_cell_gives_one_destination(rows: int, columns: int, sy: int, sx: int) -> None:
    down, across = cells(rows, columns, sy, sx)
    for place in range(sy * sx):
        choice = torch.full((down * across,), place)
        sources, destinations = split_by_cells(rows, columns, sy, sx, choice)
        expected = [
            (cell_row * sy + place // sx) * columns + cell_column * sx + place % sx
            for cell_row in range(down)
            for cell_column in range(across)
        ]
        assert destinations.tolist() == sorted(expected)
        assert sorted([*sources.tolist(), *expected]) == list(range(rows * columns))


def test_each_cell_follows_its_own_choice() -> None:
    _, destinations = split_by_cells(2, 6, 2, 2, torch.tensor([0, 3, 2]))
    assert destinations.tolist() == [0, 6 + 3, 6 + 4]


@pytest.mark.parametrize(
    ("tokens_", "destinations", "ratio", "r"),
    [(48, 12, 0.5, 24), (48, 12, 0.75, 36), (48, 12, 0.9, 36), (49, 12, 0.5, 24), (48, 12, 0.0, 0), (48, 0, 0.5, 0)],
)
def test_how_many_are_merged(tokens_: int, destinations: int, ratio: float, r: int) -> None:
    assert merge_count(tokens_, destinations, ratio) == r


def by_hand(x: Tensor, r: int, seed: int = 0) -> tuple[Tensor, list[list[int]]]:
    """One sample [N, C], by loops: the merged tokens, and which tokens each stands for."""
    choice = torch.randint(4, (12,), generator=torch.Generator().manual_seed(seed))
    sources, destinations = split_by_cells(*GRID, 2, 2, choice)
    proposals = []
    for source in sources.tolist():
        cosines = [torch.cosine_similarity(x[source], x[place], dim=0).item() for place in destinations.tolist()]
        best = max(range(len(cosines)), key=cosines.__getitem__)
        proposals.append((cosines[best], source, destinations.tolist()[best]))
    proposals.sort(reverse=True)
    groups = {place: [place] for place in destinations.tolist()}
    for _, source, place in proposals[:r]:
        groups[place].append(source)
    lists = [[source] for _, source, _ in proposals[r:]] + list(groups.values())
    return torch.stack([x[group].mean(dim=0) for group in lists]), lists


@pytest.mark.parametrize("r", [1, 10, 24, 36])
def test_merging_is_what_it_says(r: int) -> None:
    x = tokens()
    matching = matched(x, r)
    short = merge(x, matching)
    back = unmerge(short, matching)
    assert short.shape == (3, 48 - r, 5) and back.shape == x.shape
    for sample, out, full in zip(x, short, back, strict=True):
        means, groups = by_hand(sample, r)
        torch.testing.assert_close(out, means)
        for mean, group in zip(means, groups, strict=True):
            torch.testing.assert_close(full[group], mean.expand(len(group), -1))


def test_tokens_that_stay_alone_come_back_unchanged() -> None:
    x = tokens()
    matching = matched(x, 20)
    back = unmerge(merge(x, matching), matching)
    for sample, full, alone in zip(x, back, matching.alone, strict=True):
        assert torch.equal(full[alone], sample[alone])


def test_equal_tokens_come_back_unchanged() -> None:
    x = torch.ones(2, 48, 5)
    matching = matched(x, 24)
    assert torch.equal(unmerge(merge(x, matching), matching), x)


def test_another_width_is_merged_alike() -> None:
    """Attention's output need not be as wide as what was matched."""
    x = tokens()
    matching = matched(x, 24)
    wide = torch.cat([x, 2 * x], dim=-1)
    torch.testing.assert_close(merge(wide, matching)[..., :5], merge(x, matching))
    assert unmerge(merge(wide, matching), matching).shape == wide.shape


def test_samples_do_not_know_of_one_another() -> None:
    x, order = tokens(), [2, 0, 1]
    straight = unmerge(merge(x, matched(x, 24)), matched(x, 24))
    shuffled = unmerge(merge(x[order], matched(x[order], 24)), matched(x[order], 24))
    assert torch.equal(shuffled, straight[order])


def test_a_zero_token_shows_as_non_finite() -> None:
    """Cosines of it are not defined, so neither is what it proposes; receipts count such decisions."""
    x = tokens()
    x[0, 0] = 0
    sources, destinations = split_by_cells(*GRID, 2, 2, torch.zeros(12, dtype=torch.long))
    best, _ = similarity(x, sources, destinations).max(dim=-1)
    assert not torch.isfinite(best[0]).any() and torch.isfinite(best[1:]).all()
