"""Ranks: processes that share one run, each with the whole model, and what they tell one another.

Something else starts them (`torchrun --nproc_per_node P -m engine run SPEC`, or whatever sets RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT); `joined` lets them find each other. All ranks run the same plan and call the
same functions here in the same order: nothing else keeps them together. gloo carries data on CPUs, NCCL on CUDA.
"""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.errors import EngineError, Place, Problem, Unavailable

TIMEOUTS = {"cpu": 60.0, "cuda": 600.0}
"""Seconds after which a rank that gives no answer counts as lost; on CUDA loading a kernel may take longer."""
PATIENCE = timedelta(days=1)
"""How long ranks wait for the lead, which works alone at times; should it end meanwhile, that shows at once."""


@dataclass(frozen=True)
class Launch:
    """What the starter of the processes says: this rank, how many there are, and the same on this host."""

    rank: int = 0
    world: int = 1
    local: int = 0
    here: int = 1

    @classmethod
    def of_environment(cls) -> Launch:
        """From the variables that torchrun sets; one process where they are not set."""
        rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
        return cls(rank, world, int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world)))


@contextmanager
def answered() -> Iterator[None]:
    """Turn the backend's error about a rank that ended or fell silent into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).strip().partition("\n")[0]
        cause = re.sub(r"^\[\S*\.cc:\d+\]\s*", "", first_line).partition(". ")[0]
        remedy = "see the message of the rank that ended first; if none ended, give slow ranks more time: --timeout"
        raise Unavailable(Problem(f"another rank ended or gave no answer ({cause})", remedy)) from error


@dataclass(frozen=True)
class Group:
    """Ranks that exchange tensors; `index` is this one's place among them."""

    index: int = 0
    size: int = 1
    handle: Any = None

    def gather(self, own: Tensor) -> Tensor:
        """Everybody's `own` [...], all of one shape: [size, ...]; waits for all."""
        return Gather(self, own).result()


class Gather:
    """A gather under way; `result` waits for it."""

    def __init__(self, group: Group, own: Tensor) -> None:
        self.shape = (group.size, *own.shape)
        self.sent: Tensor | None = own.contiguous().view(-1)
        self.work: Any = None
        if group.size == 1:
            self.received = self.sent.clone()
            return
        self.received = torch.empty(group.size * own.numel(), dtype=own.dtype, device=own.device)
        with answered():
            self.work = _gather_flat(self.received, self.sent, group.handle)

    def result(self) -> Tensor:
        """[size, ...]."""
        if self.work is not None:
            with answered():
                self.work.wait()
        self.work = self.sent = None
        return self.received.view(self.shape)

    def tensors(self) -> list[Tensor]:
        """What it keeps in memory."""
        return [self.received] if self.sent is None else [self.received, self.sent]


def _gather_flat(received: Tensor, sent: Tensor, handle: Any) -> Any:
    # PyTorch 2.13 renamed it; older ones have only the first name.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return gather(received, sent, group=handle, async_op=True)


@dataclass
class Letter:
    """One tensor of a shipment: where it lies in everybody's part, and its shape."""

    shipment: Gather
    start: int
    shape: torch.Size

    def read(self) -> Tensor:
        """[size, *shape]; waits for the shipment."""
        rows = self.shipment.result()
        return rows[:, self.start : self.start + self.shape.numel()].unflatten(1, self.shape)


@dataclass
class Mailbox:
    """What ranks tell one another without waiting: what one posts in a step, all read in the next.

    Posts are shipped `batch` at a time, in one gather; what is left over of a step goes with the first post of the next
    one. All ranks must post and read the same keys in the same order.
    """

    group: Group
    batch: int = 1
    _first: str = ""
    _queue: dict[str, Tensor] = field(default_factory=dict)
    _arrived: dict[str, Tensor | Letter] = field(default_factory=dict)

    def gather(self, key: str, own: Tensor) -> Tensor:
        """Everybody's `own` [...] at once: [size, ...]. It is what `latest` gives until a post has come."""
        everyone = self.group.gather(own)
        self._arrived[key] = everyone
        return everyone

    def post(self, key: str, own: Tensor) -> None:
        """Send `own`, which must not change any more, for a later `latest`."""
        self._first = self._first or key
        if key == self._first or key in self._queue:
            self.ship()
        self._queue[key] = own
        if len(self._queue) >= self.batch:
            self.ship()

    def ship(self) -> None:
        """Send what is waiting, one gather for each type of number."""
        queue, self._queue = self._queue, {}
        for dtype in dict.fromkeys(own.dtype for own in queue.values()):
            letters = {key: own for key, own in queue.items() if own.dtype is dtype}
            shipment, start = Gather(self.group, torch.cat([own.reshape(-1) for own in letters.values()])), 0
            for key, own in letters.items():
                self._arrived[key] = Letter(shipment, start, own.shape)
                start += own.numel()

    def latest(self, key: str, own: Tensor) -> Tensor:
        """What everybody sent last under `key`: [size, *own.shape]; if nothing of that shape, `own` is gathered now.

        The shape changes on all ranks at once: when guidance drops a branch, its rows vanish.
        """
        if key in self._queue:
            self.ship()
        found = self._arrived.get(key)
        everyone = found.read() if isinstance(found, Letter) else found
        if everyone is None or everyone.shape[1:] != own.shape:
            return self.gather(key, own)
        return everyone

    def exchange(self, key: str, own: Tensor, *, wait: bool, send: bool) -> Tensor:
        """Everybody's `own`: of now if `wait`, else the latest; `send` posts this one for the next time."""
        if wait:
            return self.gather(key, own)
        everyone = self.latest(key, own)
        if send:
            self.post(key, own)
        return everyone

    def tensors(self) -> list[Tensor]:
        """What it keeps in memory."""
        shipments = {
            id(entry.shipment): entry.shipment for entry in self._arrived.values() if isinstance(entry, Letter)
        }
        return [
            *self._queue.values(),
            *(entry for entry in self._arrived.values() if isinstance(entry, Tensor)),
            *(tensor for shipment in shipments.values() for tensor in shipment.tensors()),
        ]


@dataclass
class Gang:
    """All ranks of a run, seen from one of them. A run in one process is a gang of one."""

    rank: int = 0
    world: int = 1
    timeout: timedelta = PATIENCE
    prompt: Any = None
    """Group for plain data, whose ranks answer within `timeout`."""
    patient: Any = None
    """The same for waiting while one works alone."""
    _axes: dict[tuple[tuple[str, int], ...], Mapping[str, Group]] = field(default_factory=dict)

    @property
    def lead(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on together, however long the lead has worked alone."""
        if self.world > 1:
            with answered():
                dist.broadcast(torch.zeros(1), 0, group=self.patient)
                dist.barrier(group=self.prompt)

    def all(self, value: Any) -> list[Any]:
        """Everybody's plain data, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with answered():
            dist.all_gather_object(values, value, group=self.prompt)
        return values

    def axes(self, sizes: Mapping[str, int]) -> Mapping[str, Group]:
        """This rank's group along every axis of a grid of ranks; of the last one, neighbours have adjacent numbers."""
        key = tuple(sizes.items())
        if key not in self._axes:
            self._axes[key] = self._grid(list(sizes), list(sizes.values()))
        return self._axes[key]

    def _grid(self, names: Sequence[str], sizes: Sequence[int]) -> Mapping[str, Group]:
        needed = math.prod(sizes)
        if needed != self.world:
            raise Unavailable(Problem(f"{needed} ranks are needed, {self.world} are here", torchrun(needed)))
        grid, groups = torch.arange(self.world).view(*sizes), {}
        for axis, name in enumerate(names):
            for line in grid.movedim(axis, -1).reshape(-1, sizes[axis]).tolist():
                # Every rank makes every group, also those it is not in: in one order, as the backends ask.
                handle = dist.new_group(line, timeout=self.timeout) if len(line) > 1 else None
                if self.rank in line:
                    groups[name] = Group(line.index(self.rank), len(line), handle)
        return groups


_gangs = [Gang()]


def gang() -> Gang:
    """The gang that this process has joined."""
    return _gangs[-1]


def torchrun(ranks: int, command: str = "SPEC") -> str:
    """What starts a run on that many processes of this host."""
    return f"run `torchrun --nproc_per_node {ranks} -m engine run {command}`"


def device_of(device: torch.device, launch: Launch) -> torch.device:
    """This rank's own device: one GPU a rank; a CPU is shared."""
    if device.type != "cuda" or launch.world == 1:
        return device
    present = torch.cuda.device_count()
    if launch.here > present:
        raise Unavailable(
            Problem(
                f"{launch.here} ranks on this host, and {present} GPUs",
                "give every rank a GPU of its own, or use `--device cpu`",
                Place(key="--device cuda"),
            )
        )
    return torch.device("cuda", launch.local)


@contextmanager
def joined(launch: Launch, device: torch.device, timeout: float | None = None) -> Iterator[Gang]:
    """Meet the other ranks. `timeout` is in seconds, by default that of `TIMEOUTS`.

    After an error the groups are left as they are: taking them down would wait for ranks that never answer. The process
    is to end then, which tells the others.
    """
    if launch.world == 1:
        yield gang()
        return
    patience = timedelta(seconds=timeout or TIMEOUTS[device.type])
    before = signal.signal(signal.SIGTERM, _terminated)
    with answered():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=patience, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=patience)
        prompt, patient = (dist.new_group(backend="gloo", timeout=limit) for limit in (patience, PATIENCE))
    _gangs.append(Gang(launch.rank, launch.world, patience, prompt, patient))
    try:
        yield gang()
        dist.destroy_process_group()
    except EngineError as error:
        error.rank = launch.rank
        raise
    except _Terminated:
        # torchrun ends all ranks when one has ended; leave as after any other error, so that nothing half-done stays.
        remedy = "see the message of the rank that ended first, and what torchrun says of it"
        stopped = Unavailable(Problem("stopped from outside, as torchrun does when another rank has ended", remedy))
        stopped.rank = launch.rank
        raise stopped from None
    finally:
        _gangs.pop()
        signal.signal(signal.SIGTERM, before)


class _Terminated(BaseException):
    """Raised wherever a rank is when it is told to stop, and caught by nobody on the way out."""


def _terminated(number: int, frame: Any) -> None:
    raise _Terminated
