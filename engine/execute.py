"""A whole run: compile both sides, load, compare, decode, judge, write."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.compiler import Compiled, compares_nothing, compile_both
from engine.errors import InvalidInput, Place, Problem, Unavailable
from engine.measure import Comparison, Progress, check_memory, choose_device, compare
from engine.parallel import Gang, Launch, device_of, joined, torchrun
from engine.prepare import require_artefacts
from engine.receipts import verdict
from engine.report import build_report, default_folder, output_folder, write_run
from engine.runner import load_backbone
from engine.spec import load_spec


class View(Protocol):
    """Where progress is shown."""

    def progress(self, what: str, steps: int) -> Any:
        """Start a bar of `steps` steps; returns the function that advances it."""
        ...

    def show_receipts(self, receipts: dict[str, Any]) -> None:
        """Show the receipts of a run that is about to fail."""
        ...


@dataclass(frozen=True)
class Wish:
    """What a run is to do, as the command line has it. `timeout` is in seconds, for ranks that wait for another."""

    spec: Path
    profile: str | None = None
    changes: Sequence[str] = ()
    device: str = "auto"
    folder: Path | None = None
    baseline: bool = True
    repeats: int = 3
    timeout: float | None = None

    def command(self) -> str:
        """The arguments of `engine run` that ask for it."""
        words = [str(self.spec)]
        words += ["--profile", self.profile] if self.profile else []
        words += [word for change in self.changes for word in ("--set", change)]
        words += ["--device", self.device] if self.device != Wish.device else []
        words += ["--out", str(self.folder)] if self.folder else []
        words += [] if self.baseline else ["--no-baseline"]
        words += ["--repeats", str(self.repeats)] if self.repeats != Wish.repeats else []
        words += ["--timeout", f"{self.timeout:g}"] if self.timeout else []
        return shlex.join(words)


def execute(wish: Wish, view: View) -> tuple[dict[str, Any], Path] | None:
    """Run a spec and write its folder; returns the report and where it is. Everything is checked before loading.

    Of several ranks only the first one writes, and the others return None.
    """
    request = load_spec(wish.spec, profile=wish.profile, changes=wish.changes)
    compiled, plain = compile_both(request)
    # A plain model's run has nothing to be compared with.
    baseline = plain if wish.baseline and not compares_nothing(compiled, plain) else None
    launch = Launch.of_environment()
    check_processes(compiled, baseline, launch, wish)
    device = device_of(choose_device(wish.device), launch)
    with joined(launch, device, wish.timeout) as ranks:
        for side in (compiled, baseline):
            if side is not None:
                require_artefacts(side)
        check_same_plan(compiled, ranks)
        check_memory(compiled, device, launch.here)
        if not ranks.lead:
            load_backbone(compiled, device)
            compare(compiled, baseline, wish.repeats, view.progress)
            return None
        where = wish.folder or default_folder(wish.spec)
        with output_folder(where) as scratch:
            done = view.progress("load weights", 1)
            load_backbone(compiled, device)
            done()
            comparison = compare(compiled, baseline, wish.repeats, view.progress)
            if comparison.receipts:
                _judge_receipts(comparison, compiled, view)
            outputs = decode_sides(compiled, comparison, view.progress)
            report = build_report(compiled, comparison, outputs, baseline)
            write_run(scratch, compiled, report, outputs)
    return report, where


def check_processes(compiled: Compiled, baseline: Compiled | None, launch: Launch, wish: Wish) -> None:
    """Refuse a run that was started in another number of processes than it needs."""
    needed, place = compiled.processes, Place(wish.spec)
    if baseline is not None and baseline.processes not in (1, needed):
        raise InvalidInput(
            Problem(
                f"the baseline runs on {baseline.processes} processes, what it is compared with on {needed}",
                "give both the same number, or the baseline one process",
                compiled.request.value.at(("baseline", "techniques")),
            )
        )
    if launch.world != needed:
        once = f"run `engine run {wish.command()}`"
        started = "one" if launch.world == 1 else launch.world
        rule = f"it runs on {_processes(needed)}, and was started in {started}"
        raise Unavailable(Problem(rule, torchrun(needed, wish.command()) if needed > 1 else once, place))


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"


def check_same_plan(compiled: Compiled, ranks: Gang) -> None:
    """Refuse ranks that read different specs or have different versions of the engine."""
    if len(set(ranks.all(compiled.plan.digest))) > 1:
        remedy = "give all ranks the same spec, options, weights and version of the engine"
        raise Unavailable(Problem("the ranks have different plans", remedy, Place(compiled.request.path)))


def _judge_receipts(comparison: Comparison, compiled: Compiled, view: View) -> None:
    try:
        verdict(comparison.receipts, compiled)
    except Exception:
        view.show_receipts(comparison.receipts)
        raise


def decode_sides(compiled: Compiled, comparison: Comparison, progress: Progress) -> dict[str, Tensor]:
    """Decoded outputs of the sides that ran, the baseline's first."""
    sides = {"baseline": comparison.baseline, "accelerated": comparison.accelerated}
    outputs = {}
    for name, side in sides.items():
        if side is None:
            continue
        tick = progress(f"decode {name}", 1)
        with torch.inference_mode():
            outputs[name] = compiled.backbone.decode(side.latents, compiled.run)
        tick()
    return outputs
