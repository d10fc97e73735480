"""Accelerated and baseline runs side by side: interleaved in one process, warm, median and spread."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from engine.compiler import Compiled
from engine.errors import InvalidInput, Place, Problem, Unavailable
from engine.parallel import gang
from engine.receipts import Trace, largest_difference, rank_receipt, receipts, spent
from engine.runner import Opened, live_sites, opened, seeds_of
from engine.sites import Site

DEVICES = ("auto", "cpu", "cuda")
Progress = Callable[[str, int], Callable[[], None]]
"""`progress(what, steps)` starts a bar and returns the function that advances it by one."""


@dataclass
class Side:
    """One side of the comparison."""

    latents: Tensor
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the fastest and the slowest run, in seconds."""
        return max(self.seconds) - min(self.seconds)


@dataclass
class Comparison:
    """Both sides and the receipts; without a baseline, one side and no receipts."""

    accelerated: Side
    baseline: Side | None
    receipts: dict[str, Any]


def compare(accelerated: Compiled, baseline: Compiled | None, repeats: int, progress: Progress) -> Comparison:
    """Warm both sides once, traced for their receipts, then time them in turn.

    Of several ranks the first runs the baseline alone while the others wait, unless that needs them too; it alone has
    the baseline's side, and its times are those of the run.
    """
    seeds, ranks = seeds_of(accelerated), gang()
    plain_here = baseline if baseline is not None and (ranks.lead or baseline.processes > 1) else None
    sides: dict[str, Side] = {}
    spent_there: dict[str, Any] = {}
    if plain_here is not None:
        tick = progress("warm-up, baseline", plain_here.run.steps)
        sides["baseline"], sites, trace = traced(plain_here, tick)
        spent_there = {"baseline": spent(plain_here, sites, trace)}
    ranks.wait()
    tick = progress("warm-up, accelerated", accelerated.run.steps)
    sides["accelerated"], sites, trace = traced(accelerated, tick)
    found: dict[str, Any] = {}
    if baseline is not None:
        compared = sides.get("baseline", sides["accelerated"])
        difference = largest_difference(sides["accelerated"].latents, compared.latents)
        found = receipts(accelerated, sites, trace, difference) | spent_there
        if ranks.world > 1:
            found["ranks"] = ranks.all(rank_receipt(found, sides["accelerated"].latents))
    for repeat in range(repeats):
        for name, compiled in (("baseline", plain_here), ("accelerated", accelerated)):
            ranks.wait()
            if compiled is None:
                continue
            with opened(compiled) as side:
                tick = progress(f"timing {name} {repeat + 1}/{repeats}", compiled.run.steps)
                _, seconds = side.timed(seeds, tick)
            sides[name].seconds.append(seconds)
    return Comparison(sides["accelerated"], sides.get("baseline"), found)


def traced(compiled: Compiled, tick: Callable[[], None]) -> tuple[Side, list[Site], Trace]:
    """One run with its peak memory, the model's sites and a trace of what was evaluated."""
    trace = Trace()
    with opened(compiled, trace) as side, peak_memory(side) as peak:
        latents = side.generate(seeds_of(compiled), tick)
        sites = live_sites(compiled, side.call)
    return Side(latents, peak_bytes=peak.bytes), sites, trace


@dataclass
class Peak:
    """Peak memory of a stretch of the run: device memory on CUDA, resident memory elsewhere; None if unknown."""

    bytes: int | None = None


@contextmanager
def peak_memory(side: Opened) -> Iterator[Peak]:
    """Measure the peak while the block runs."""
    peak, device = Peak(), side.compiled.backbone.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    _reset_resident_peak()
    yield peak
    peak.bytes = _resident_peak()


def _reset_resident_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _resident_peak() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def similarity(videos: Tensor, reference: Tensor) -> dict[str, float | None]:
    """PSNR in dB (None when identical) and SSIM of videos [b, 3, F, H, W] in 0..1, frames pooled."""
    if torch.equal(videos, reference):
        return {"psnr": None, "ssim": 1.0}
    frames, against = (video.transpose(1, 2).flatten(0, 1).cpu() for video in (videos, reference))
    psnr = peak_signal_noise_ratio(frames, against, data_range=1.0)
    ssim = structural_similarity_index_measure(frames, against, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {"psnr": round(float(psnr), 3), "ssim": round(float(ssim), 4)}


def choose_device(name: str) -> torch.device:
    """The device that `--device` asks for."""
    if name not in DEVICES:
        options = ", ".join(f"`{device}`" for device in DEVICES)
        raise InvalidInput(Problem(f"there is no device `{name}`", f"use one of: {options}", Place(key="--device")))
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable(
            Problem(
                "this PyTorch sees no CUDA device",
                "use `--device cpu`, or install a CUDA build of torch on a machine with a GPU",
                Place(key="--device cuda"),
            )
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def check_memory(compiled: Compiled, device: torch.device, sharing: int = 1) -> None:
    """Refuse a plan whose weights, activations and held outputs cannot fit the device.

    `sharing` processes of this host hold the same: in main memory, but each on a GPU of its own.
    """
    cost = compiled.plan.estimate
    # A changed model keeps what it replaced, for the baseline runs in the same process.
    changed = cost.weight_bytes != cost.baseline_weight_bytes
    weights = cost.weight_bytes + changed * cost.baseline_weight_bytes
    needed = weights + cost.activation_bytes + cost.held_bytes
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available // sharing
    if needed > free:
        raise Unavailable(
            Problem(
                f"the plan needs about {needed / 2**30:.1f} GiB on {device} (weights {weights / 2**30:.1f}, "
                f"activations {cost.activation_bytes / 2**30:.1f}, held outputs {cost.held_bytes / 2**30:.1f}), "
                f"{free / 2**30:.1f} GiB are free",
                "use a smaller size or batch, `--set model.dtype=bfloat16`, or another device",
                Place(compiled.request.path),
            )
        )


def environment(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the spec."""
    packages: Sequence[str] = ("torch", "diffusers", "transformers", "safetensors")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
