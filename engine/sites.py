"""Sites: the named places of a model where a call can be wrapped, and the machinery that wraps and unwraps them.

An *around* is `(call, hidden, at) -> hidden`. `call(hidden)` runs everything further in; `call(hidden, **changed)`
overrides the site's other inputs; `call.tokens(hidden, index)` runs it on a subset of tokens only. `at` tells the
technique's own phase, the step, the site, and gives it memory. No technique undoes anything: `Attachment` does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from engine.ops.tokens import gather_tokens
from engine.step import FULL, Phase, RunShape, Step


class SiteKind(StrEnum):
    """Kinds of site, outermost first."""

    STEP = "step"
    MODEL = "model"
    STAGE = "stage"
    BLOCK = "block"
    SELF_ATTENTION = "self_attention"
    CROSS_ATTENTION = "cross_attention"
    TEMPORAL_ATTENTION = "temporal_attention"
    JOINT_ATTENTION = "joint_attention"
    FEED_FORWARD = "feed_forward"
    KERNEL = "kernel"
    CONV = "conv"
    NORM = "norm"
    LINEAR = "linear"


@dataclass(frozen=True)
class Site:
    """A place where a call can be wrapped.

    `name` is the module's path, `inside` the name of the enclosing site ("" for the outermost), `depth` the index of
    its block in forward order, `layer` the index its paper counts (both kinds of blocks of a pair share it),
    `layers` how many there are. A sample has a token `grid` (frames, rows, columns) and `width` channels here; `along`
    says which tokens attend to one another. `macs` are the multiply-accumulates of one sample at full size that happen
    here and in no inner site; `context_macs` are those, here or in linear layers further in, that go to text, time or
    class, however many tokens are evaluated. `token_inputs` names the other inputs that may carry one row a token.
    Where the block multiplies the output by a gate before adding it to its tokens, `gated` is the module around both,
    with the input `gate`. In a UNet, `side` says on which path the site lies, and `skip` names the site whose output is
    joined to this one's input, behind its channels (a STAGE gets nothing else). A convolution reads `reach` rows of
    `row_values` numbers above and below those it is given: its inputs `above` and `below`, zeros where they are not
    given. A LINEAR is `part_of` a kind of site, under which its MACs are summed, and shares the name `reads` with those
    of the same input; where its rows are no tokens, it has no grid.
    """

    name: str
    kind: SiteKind
    module: nn.Module
    inside: str = ""
    depth: int = 0
    layer: int = 0
    layers: int = 1
    grid: tuple[int, int, int] = (0, 0, 0)
    width: int = 0
    along: Literal["all", "space", "time"] = "all"
    macs: int = 0
    context_macs: int = 0
    token_inputs: tuple[str, ...] = ()
    side: Literal["", "down", "middle", "up"] = ""
    skip: str = ""
    reach: tuple[int, int] = (0, 0)
    row_values: int = 0
    gated: nn.Module | None = None
    part_of: SiteKind | None = None
    reads: str = ""

    @property
    def numerics(self) -> str | None:
        """Number format in which the module here says it multiplies, where it is not the model's own."""
        stated = getattr(self.module, "numerics", None)
        return stated if isinstance(stated, str) else None

    @property
    def booked(self) -> SiteKind:
        """Kind of site under which MACs are summed."""
        return self.part_of or self.kind

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return math.prod(self.grid)

    def output_bytes(self, run: RunShape) -> int:
        """Bytes of one sample's output."""
        return self.tokens * self.width * run.dtype.itemsize

    def edge_bytes(self, run: RunShape) -> int:
        """Bytes of the rows of one sample that a convolution reads above and below its own."""
        return sum(self.reach) * self.row_values * run.dtype.itemsize

    def per_token(self, values: Tensor) -> Tensor:
        """Values of every sequence that attention runs over, [B', M], as values of every token, [B, N]."""
        frames, rows, columns = self.grid
        if self.along == "time":
            return values.view(-1, rows * columns, frames).transpose(1, 2).flatten(1)
        return values.reshape(-1, self.tokens)


@runtime_checkable
class Keeper(Protocol):
    """Something in a memory that is no tensor and holds some."""

    def tensors(self) -> list[Tensor]:
        """What it holds."""
        ...


class Memory:
    """What one technique keeps at one site: a plain bag of attributes.

    Tensors whose first axis is the batch are narrowed by the runner when branches drop out. Hold clones or fresh
    outputs, never references to a block's inputs.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"nothing was remembered under `{name}` here: a reuse phase ran before any full one")

    def tensors(self) -> list[Tensor]:
        """The tensors held."""
        found = []
        for value in vars(self).values():
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, Keeper):
                found += value.tensors()
        return found

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def clear(self) -> None:
        """Forget everything."""
        vars(self).clear()

    def select(self, rows: Tensor, total: int) -> None:
        """Keep only `rows` of tensors whose first axis has `total` entries."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == total:
                setattr(self, name, value.index_select(0, rows))


class Track:
    """The part of one technique that changes from step to step: its current phase, and its non-finite decisions."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.phase: Phase = FULL
        self.nonfinite = torch.zeros((), dtype=torch.long)


class At:
    """Where an around stands: its technique's phase, the step, the site, and its memory there.

    `memory` belongs to this technique and this site; `shared` to this technique and the enclosing block, so that
    what attention saw can steer the feed-forward of the same block; `common` to this technique alone, at all sites.
    """

    __slots__ = ("_track", "common", "memory", "shared", "site", "step")

    def __init__(
        self, site: Site, step: Step, track: Track, memory: Memory, shared: Memory, common: Memory | None = None
    ) -> None:
        self.site, self.step, self.memory, self.shared = site, step, memory, shared
        self.common = common or Memory()
        self._track = track

    @property
    def phase(self) -> str:
        """Name of the technique's current phase."""
        return self._track.phase.name

    @property
    def value(self) -> float | None:
        """Number that goes with the current phase."""
        return self._track.phase.value

    def decide(self, scores: Tensor) -> Tensor:
        """Pass decision scores through, counting the non-finite ones for the receipts (no host synchronisation)."""
        self._track.nonfinite = self._track.nonfinite + (~torch.isfinite(scores)).sum()
        return scores


Run = Callable[[Tensor, Mapping[str, Any]], Any]


class Call:
    """The inner call an around receives."""

    __slots__ = ("_run", "inputs", "site")

    def __init__(self, run: Run, inputs: Mapping[str, Any], site: Site) -> None:
        self._run, self.inputs, self.site = run, inputs, site

    def __call__(self, hidden: Tensor, **changed: Any) -> Any:
        """Run everything further in, with some of the other inputs `changed`."""
        return self._run(hidden, {**self.inputs, **changed} if changed else self.inputs)

    def tokens(self, hidden: Tensor, index: Tensor) -> Any:
        """Run on the tokens `index` [B, k] of `hidden` [B, N, C] only: [B, k, C], in the order of `index`."""
        count = hidden.shape[1]
        changed = {
            name: gather_tokens(value, index)
            for name in self.site.token_inputs
            if isinstance(value := self.inputs.get(name), Tensor) and value.shape[1] == count > 1
        }
        return self(gather_tokens(hidden, index), **changed)


Around = Callable[[Call, Tensor, At], Any]
Observer = Callable[[Site, Tensor, Mapping[str, Any], Any], None]
"""Told of every innermost call: its site, its input, its other inputs, its output."""


class Sites:
    """What a technique's `attach` receives: `wrap` and `refuse` record, nothing is touched yet."""

    def __init__(self, sites: Sequence[Site], run: RunShape | None = None) -> None:
        self._sites = sites
        self._by_name = {site.name: site for site in sites}
        self._run = run
        self.wraps: list[tuple[Site, Around]] = []
        self.refusals: list[tuple[str, str]] = []

    @property
    def run(self) -> RunShape:
        """Sizes of the run."""
        assert self._run is not None
        return self._run

    @property
    def all(self) -> Sequence[Site]:
        """All sites, outermost first and in forward order."""
        return self._sites

    def of(self, kind: SiteKind) -> list[Site]:
        """All sites of a kind, in forward order."""
        return [site for site in self._sites if site.kind is kind]

    def within(self, kind: SiteKind) -> list[Site]:
        """All sites that lie directly inside one of a kind, in forward order."""
        return [site for site in self._sites if site.inside and self.enclosing(site).kind is kind]

    def enclosing(self, site: Site) -> Site:
        """The site that `site` lies in."""
        return self._by_name[site.inside]

    def wrap(
        self, kind: SiteKind, around: Around, where: Callable[[Site], bool] | None = None, *, gated: bool = False
    ) -> None:
        """Put `around` around every site of `kind` (for which `where` holds).

        `gated` puts it around the output times its gate, where there is one: further out than every other wrap there.
        """
        for site in self.of(kind):
            if where is None or where(site):
                self.wraps.append((replace(site, module=site.gated) if gated and site.gated else site, around))

    def refuse(self, rule: str, remedy: str) -> None:
        """Say why the technique cannot work with these sites; the compiler reports it."""
        self.refusals.append((rule, remedy))

    def watch(self, kind: SiteKind, where: Callable[[Site], bool] | None = None) -> None:
        """Let plan and receipts ask for the sites of `kind`: what reaches them changes, their calls do not."""
        self.wrap(kind, _unchanged, where)


@dataclass
class Layer:
    """One technique's wraps, in the order they are to be applied (later is further out)."""

    track: Track
    wraps: list[tuple[Site, Around]]


@dataclass
class Attachment:
    """All wraps of a run on a model: composed once, undone as a whole."""

    sites: Sequence[Site]
    step: Step
    layers: Sequence[Layer]
    observer: Observer | None = None
    memories: dict[tuple[str, str], Memory] = field(default_factory=dict)
    _replaced: list[tuple[nn.Module, Any]] = field(default_factory=list)

    def attach(self) -> None:
        """Set `forward` of every wrapped module in place; the module tree and state dict keep their names."""
        enclosing = {site.name: site.inside for site in self.sites}
        blocks = {site.name for site in self.sites if site.kind is SiteKind.BLOCK}
        wrapped: dict[nn.Module, list[tuple[Around, At]]] = {}
        for layer in self.layers:
            for site, around in layer.wraps:
                block = _enclosing_block(site.name, enclosing, blocks)
                places = (site.name, f"{block}:shared", ":common")
                at = At(site, self.step, layer.track, *(self._memory(layer.track.owner, place) for place in places))
                wrapped.setdefault(site.module, []).append((around, at))
        own = {site.name: site.module for site in self.sites}
        for module, layers in wrapped.items():
            site = layers[0][1].site
            # The observer is told of a call once, where it is innermost.
            observed = module is own[site.name] or own[site.name] not in wrapped
            self._replaced.append((module, module.__dict__.get("forward")))
            module.forward = compose(site, module.forward, layers, self.observer if observed else None)

    def detach(self) -> None:
        """Undo `attach` and drop all memories; safe to call twice."""
        for module, previous in reversed(self._replaced):
            if previous is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = previous
        self._replaced.clear()
        self.clear()

    def clear(self) -> None:
        """Empty all memories, at the start of a run."""
        for memory in self.memories.values():
            memory.clear()
        for layer in self.layers:
            layer.track.nonfinite = torch.zeros((), dtype=torch.long, device=self.step.time.device)

    def select_rows(self, rows: Tensor, total: int) -> None:
        """Narrow all memories to `rows`, when branches drop out."""
        for memory in self.memories.values():
            memory.select(rows, total)

    def nbytes(self) -> int:
        """Bytes held by all memories now."""
        return sum(memory.nbytes() for memory in self.memories.values())

    def _memory(self, owner: str, name: str) -> Memory:
        return self.memories.setdefault((owner, name), Memory())


def _enclosing_block(name: str, enclosing: Mapping[str, str], blocks: Iterable[str]) -> str:
    while name and name not in blocks:
        name = enclosing.get(name, "")
    return name


def compose(
    site: Site, forward: Callable[..., Any], layers: Sequence[tuple[Around, At]], observer: Observer | None
) -> Callable[..., Any]:
    """The wrapped forward of `site`: the last of `layers` is the outermost."""
    names = list(inspect.signature(forward).parameters)[1:]

    def innermost(hidden: Tensor, inputs: Mapping[str, Any]) -> Any:
        out = forward(hidden, **inputs)
        if observer is not None:
            observer(site, hidden, inputs, out)
        return out

    run: Run = innermost
    for around, at in layers:
        run = _wrap(run, around, at, site)

    def wrapped(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return run(hidden, {**dict(zip(names, args, strict=False)), **kwargs})

    return wrapped


def _unchanged(call: Call, hidden: Tensor, at: At) -> Any:
    return call(hidden)


def _wrap(inner: Run, around: Around, at: At, site: Site) -> Run:
    def run(hidden: Tensor, inputs: Mapping[str, Any]) -> Any:
        return around(Call(inner, inputs, site), hidden, at)

    return run
