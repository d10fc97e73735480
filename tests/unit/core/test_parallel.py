"""Ranks: what they are told, how they exchange tensors, and what a run says when one is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import parallel
from engine.errors import Unavailable
from engine.parallel import Gang, Group, Launch, Mailbox, answered, device_of, gang

two_ranks = pytest.mark.ranks(2)


def test_one_process_is_a_gang_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Launch.of_environment() == Launch()
    alone = gang()
    assert alone.lead and alone.all("mine") == ["mine"]
    alone.wait()
    groups = alone.axes({"halves": 1, "strips": 1})
    own = torch.arange(6.0).view(2, 3)
    assert torch.equal(groups["strips"].gather(own), own[None])


def test_launch_reads_what_torchrun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert Launch.of_environment() == Launch(rank=5, world=8, local=1, here=4)


def test_a_missing_rank_is_named_with_the_command() -> None:
    with pytest.raises(Unavailable, match=r"2 ranks are needed, 1 are here\n.*torchrun --nproc_per_node 2"):
        Gang().axes({"strips": 2})


def test_every_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    assert device_of(cuda, Launch(3, 4, 1, 2)) == torch.device("cuda", 1)
    assert device_of(torch.device("cpu"), Launch(3, 4, 1, 2)) == torch.device("cpu")
    assert device_of(cuda, Launch()) == cuda
    with pytest.raises(Unavailable, match="4 ranks on this host, and 2 GPUs"):
        device_of(cuda, Launch(3, 4, 3, 4))


def test_errors_of_the_backend_become_one_that_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match=r"gave no answer \(Connection closed by peer\)\n.*--timeout"), answered():
        raise RuntimeError("Connection closed by peer\nand a long trace")


def test_a_mailbox_gives_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    gathers: list[int] = []
    monkeypatch.setattr(parallel, "Gather", _counted(gathers))
    box = Mailbox(Group(), batch=3)
    first = torch.zeros(2)
    assert torch.equal(box.gather("a", first), first[None])
    box.post("a", first + 1)
    assert torch.equal(box.latest("a", first), first[None] + 1), "it is sent when it is asked for"
    for number, key in enumerate("abc", start=2):
        box.post(key, first + number)
    assert len(gathers) == 3 and gathers[-1] == 6, "three went together"
    assert torch.equal(box.latest("b", first), first[None] + 3)
    assert sum(tensor.numel() for tensor in box.tensors()) == 6, "what has arrived is kept once"
    box.post("a", first)
    box.post("d", first)
    assert len(gathers) == 3
    box.post("a", first)
    assert len(gathers) == 4 and gathers[-1] == 4, "a new round sends what was left of the last one"
    other = torch.zeros(5)
    assert torch.equal(box.latest("b", other), other[None]), "another shape is asked for anew"


def _counted(sizes: list[int]) -> Any:
    class Counted(parallel.Gather):
        def __init__(self, group: Group, own: torch.Tensor) -> None:
            sizes.append(own.numel())
            super().__init__(group, own)

    return Counted


@two_ranks
def test_groups_along_two_axes() -> None:
    rank, everyone = gang().rank, torch.arange(2.0)
    for sizes in ({"halves": 1, "strips": 2}, {"halves": 2, "strips": 1}):
        groups = gang().axes(sizes)
        for name, size in sizes.items():
            assert (groups[name].index, groups[name].size) == (rank if size == 2 else 0, size)
            expected = everyone if size == 2 else everyone[rank : rank + 1]
            assert torch.equal(groups[name].gather(torch.tensor(float(rank))), expected)
    assert gang().axes({"halves": 1, "strips": 2})["strips"] is not None
    assert gang().all(rank) == [0, 1]


@two_ranks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_letters_of_several_types_travel_together(dtype: torch.dtype) -> None:
    group = gang().axes({"strips": 2})["strips"]
    box, own = Mailbox(group, batch=4), torch.full((2, 3), float(group.index + 1), dtype=dtype)
    box.post("rows", own)
    box.post("moments", own[0].double())
    box.post("more", own + 1)
    rows, moments, more = (box.latest(key, like) for key, like in
                           (("rows", own), ("moments", own[0].double()), ("more", own)))  # fmt: skip
    assert rows.dtype is dtype and moments.dtype is torch.float64
    assert rows[:, 0, 0].tolist() == [1, 2] and more[:, 1, 2].tolist() == [2, 3]
    assert moments.tolist() == [[1, 1, 1], [2, 2, 2]]
