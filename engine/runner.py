"""Runs a compiled plan: transform, attach, loop, and always detach. It knows no technique by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.backbones.base import Backbone
from engine.compiler import Compiled, branches_at
from engine.denoise import Denoise
from engine.errors import EngineError
from engine.kernels import counting
from engine.random import stream
from engine.receipts import Trace
from engine.sites import Attachment, Layer, Site, SiteKind, Sites, Track
from engine.step import Branch, Step

Tick = Callable[[], None]


class StepCall(nn.Module):
    """The STEP site: predictions of all branches of the current step."""

    def __init__(self, backbone: Backbone, step: Step) -> None:
        super().__init__()
        self.backbone, self.step = backbone, step
        self.conditions: Any = None

    def forward(self, x: Tensor, t: float, extra: Mapping[str, Any]) -> Tensor:
        """x [b, ...] at noise level t -> [branches * b, ...]."""
        return self.backbone.predict(x, t, self.conditions, self.step.branches, **extra)


@dataclass
class Opened:
    """A plan attached to its model, ready to generate any number of times."""

    compiled: Compiled
    attachment: Attachment
    step: Step
    call: StepCall
    sampler: Callable[..., Tensor]
    trace: Trace | None = None

    def generate(self, seeds: Sequence[int], tick: Tick | None = None) -> Tensor:
        """One run from fresh memories: latents [b, ...] of the samples with these seeds."""
        compiled, backbone = self.compiled, self.compiled.backbone
        self.attachment.clear()
        torch.manual_seed(seeds[0])
        walk, trace = _Walk(self, tick), self.trace
        draw = stream(seeds, backbone.device)
        denoise = Denoise(
            walk,
            backbone.prediction,
            backbone.noise,
            given=backbone.given(compiled.inputs, compiled.run, seeds),
            draw=draw if trace is None else trace.counting(draw),
        )
        times = compiled.sampler.times(compiled.run)
        with nullcontext() if self.trace is None else counting(self.trace.kernels):
            latents = self.sampler(backbone.initial_noise(compiled.run, seeds), times, denoise)
        assert walk.index == compiled.run.steps, f"planned {compiled.run.steps} predictions, made {walk.index}"
        if trace is not None:
            trace.nonfinite = {layer.track.owner: int(layer.track.nonfinite) for layer in self.attachment.layers}
        return latents

    def timed(self, seeds: Sequence[int], tick: Tick | None = None) -> tuple[Tensor, float]:
        """`generate` and its seconds, the device's queue emptied before and after."""
        _synchronise(self.compiled.backbone.device)
        started = time.perf_counter()
        latents = self.generate(seeds, tick)
        _synchronise(self.compiled.backbone.device)
        return latents, time.perf_counter() - started


class _Walk:
    """The guided prediction of each step in turn; sets phases, branches and memories before it."""

    def __init__(self, opened: Opened, tick: Tick | None) -> None:
        self.opened, self.tick, self.index = opened, tick, 0

    def __call__(self, x: Tensor, t: float, **extra: Any) -> Tensor:
        opened, compiled = self.opened, self.opened.compiled
        index, entries = self.index, compiled.entries
        assert index < compiled.run.steps, "the sampler predicts more often than it planned"
        branches = branches_at(entries, index, compiled.run)
        if index:
            self._narrow(opened.step.branches, branches)
        opened.step.branches = branches
        opened.step.time = torch.full((1,), t, device=x.device)
        for layer, entry in zip(opened.attachment.layers, entries, strict=True):
            layer.track.phase = entry.phases[index]
        if opened.trace is not None:
            opened.trace.begin(compiled.run.batch * len(branches))
        predictions = opened.call(x, t, extra)
        if opened.trace is not None:
            opened.trace.held_bytes = max(opened.trace.held_bytes, opened.attachment.nbytes())
        self.index += 1
        if self.tick is not None:
            self.tick()
        return compiled.backbone.combine(predictions, branches, compiled.inputs.guidance)

    def _narrow(self, before: tuple[Branch, ...], now: tuple[Branch, ...]) -> None:
        """Memories keep the rows of the branches that go on; when a branch comes back they start afresh."""
        if before == now:
            return
        if not set(now) <= set(before):
            self.opened.attachment.clear()
            return
        batch = self.opened.compiled.run.batch
        rows = [before.index(branch) * batch + sample for branch in now for sample in range(batch)]
        device = self.opened.compiled.backbone.device
        self.opened.attachment.select_rows(torch.tensor(rows, device=device), len(before) * batch)


def load_backbone(compiled: Compiled, device: torch.device) -> None:
    """Load the weights; what is wrong with them is shown where the spec names them."""
    try:
        compiled.backbone.load(device)
    except EngineError as error:
        raise compiled.request.placed(error) from None


@contextmanager
def opened(compiled: Compiled, trace: Trace | None = None) -> Iterator[Opened]:
    """Transform and attach; whatever happens inside, leave the model as it was."""
    backbone = compiled.backbone
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(backbone.changing())
        for entry in compiled.entries:
            before = backbone.swaps
            entry.technique.transform(backbone)
            if trace is not None:
                trace.swapped[entry.technique.slug] = backbone.swaps - before
        step = Step(time=torch.ones(1, device=backbone.device), branches=compiled.run.branches)
        call = StepCall(backbone, step)
        call.conditions = backbone.encode(compiled.inputs, compiled.run)
        sites = live_sites(compiled, call)
        layers = []
        for entry in compiled.entries:
            view = Sites(sites, compiled.run)
            entry.technique.attach(view)
            layers.append(Layer(Track(entry.technique.slug), view.wraps))
        attachment = Attachment(sites, step, layers, trace)
        stack.callback(attachment.detach)
        attachment.attach()
        sampler = compiled.sampler.sampler(compiled.run)
        yield Opened(compiled, attachment, step, call, sampler, trace)


def live_sites(compiled: Compiled, call: StepCall) -> list[Site]:
    """The loaded model's sites, with the runner's own call as the STEP site."""
    found = compiled.backbone.sites(compiled.run)
    return [replace(site, module=call) if site.kind is SiteKind.STEP else site for site in found]


def seeds_of(compiled: Compiled) -> list[int]:
    """One seed a sample."""
    return [compiled.plan.seed + index for index in range(compiled.run.batch)]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
