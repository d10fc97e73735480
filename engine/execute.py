"""A whole run: compile both sides, load, compare, decode, judge, write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.compiler import Compiled, compares_nothing, compile_both
from engine.measure import Comparison, Progress, check_memory, choose_device, compare
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


def execute(
    spec: Path,
    profile: str | None,
    changes: Sequence[str],
    device_name: str,
    folder: Path | None,
    *,
    with_baseline: bool,
    repeats: int,
    view: View,
) -> tuple[dict[str, Any], Path]:
    """Run `spec` and write its folder; returns the report and where it is. Everything is checked before loading."""
    request = load_spec(spec, profile=profile, changes=changes)
    compiled, plain = compile_both(request)
    # A plain model's run has nothing to be compared with.
    baseline = plain if with_baseline and not compares_nothing(compiled, plain) else None
    device = choose_device(device_name)
    check_memory(compiled, device)
    for side in (compiled, baseline):
        if side is not None:
            require_artefacts(side)
    where = folder or default_folder(spec)
    with output_folder(where) as scratch:
        done = view.progress("load weights", 1)
        load_backbone(compiled, device)
        done()
        comparison = compare(compiled, baseline, repeats, view.progress)
        if comparison.receipts:
            _judge_receipts(comparison, compiled, view)
        outputs = decode_sides(compiled, comparison, view.progress)
        report = build_report(compiled, comparison, outputs, baseline)
        write_run(scratch, compiled, report, outputs)
    return report, where


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
