"""Gathering, scattering and choosing tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ops.tokens import add_tokens, gather_tokens, scatter_tokens, spread_bonus, top_tokens

sizes = st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 6))


@given(sizes, st.integers(0, 2**31), st.data())
@settings(max_examples=50, deadline=None)
def test_scatter_undoes_gather(size: tuple[int, int, int], seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator)
    count = data.draw(st.integers(1, size[1]))
    index = torch.rand(size[:2], generator=generator).argsort(dim=1)[:, :count]
    rows = gather_tokens(x, index)
    assert torch.equal(rows, x.gather(1, index[..., None].expand(-1, -1, size[2])))
    target = torch.zeros(size)
    scatter_tokens(target, index, rows)
    assert torch.equal(gather_tokens(target, index), rows)
    untouched = torch.ones(size[:2], dtype=torch.bool).scatter(1, index, False)
    assert (target[untouched] == 0).all()


def test_scatter_writes_in_place() -> None:
    x = torch.zeros(1, 3, 2)
    assert scatter_tokens(x, torch.tensor([[2]]), torch.ones(1, 1, 2)) is x
    assert x[0].sum(dim=1).tolist() == [0, 0, 2]


def test_rows_added_to_one_place_add_up() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    out = add_tokens(x, torch.tensor([[1, 1], [0, 2]]), torch.ones(2, 2, 2))
    assert (out - x)[..., 0].tolist() == [[0, 2, 0], [1, 0, 1]]
    assert x[0, 1, 0] == 2, "the tokens themselves stay as they are"


@given(st.integers(1, 30), st.integers(0, 2**31), st.data())
@settings(max_examples=50, deadline=None)
def test_top_tokens_are_distinct_and_highest(total: int, seed: int, data: st.DataObject) -> None:
    scores = torch.randn(2, total, generator=torch.Generator().manual_seed(seed))
    count = data.draw(st.integers(1, total))
    index = top_tokens(scores, count)
    for row, chosen in zip(scores, index, strict=True):
        assert len(set(chosen.tolist())) == count
        rest = [value for place, value in enumerate(row.tolist()) if place not in set(chosen.tolist())]
        assert not rest or row[chosen].min().item() >= max(rest)


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_spread_bonus_raises_the_best_of_each_cell_only(
    frames: int, rows: int, columns: int, cell: int, seed: int
) -> None:
    scores = torch.rand(2, frames * rows * columns, generator=torch.Generator().manual_seed(seed)) + 0.1
    raised = spread_bonus(scores, (frames, rows, columns), cell, 0.5)
    before, after = (x.view(2, frames, rows, columns) for x in (scores, raised))
    for top in range(0, rows, cell):
        for left in range(0, columns, cell):
            old = before[:, :, top : top + cell, left : left + cell].flatten(2)
            new = after[:, :, top : top + cell, left : left + cell].flatten(2)
            best = old.argmax(dim=2, keepdim=True)
            expected = old.scatter_add(2, best, 0.5 * old.gather(2, best))
            torch.testing.assert_close(new, expected)
