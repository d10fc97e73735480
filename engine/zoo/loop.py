"""A resumable training loop for the small models of the zoo."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Steps, peak learning rate with linear warm-up and cosine decay, and how the average of the weights is kept."""

    steps: int
    learning_rate: float
    warmup: int = 100
    ema: float = 0.999
    save_every: int = 250

    def rate(self, step: int) -> float:
        """Learning rate at `step`, ending at 2 % of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def average(target: nn.Module, source: nn.Module, decay: float) -> None:
    """Exponential moving average of `source`'s floating-point parameters into `target`."""
    with torch.no_grad():
        pairs = zip(target.parameters(), source.parameters(), strict=True)
        targets, sources = zip(*pairs, strict=True)
        torch._foreach_lerp_(list(targets), list(sources), 1 - decay)


def _append_rows(path: Path, rows: Iterable[tuple[int, float, float]]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "loss", "seconds"])
        writer.writerows((step, f"{loss:.6f}", f"{seconds:.2f}") for step, loss, seconds in rows)


def fit(
    name: str,
    folder: Path,
    model: nn.Module,
    averaged: nn.Module,
    loss_of: Callable[[int, torch.Generator], Tensor],
    schedule: Schedule,
    *,
    seed: int,
) -> float:
    """Train `model` and keep `averaged` as its moving average; return the seconds spent in all runs together.

    `loss_of(step, generator)` draws its own batch from `generator`, which depends on the seed and the step alone, so a
    resumed run sees the batches an uninterrupted one would have seen. State is in `folder/<name>.pt` (tensors and
    numbers only), the loss curve in `folder/<name>.csv`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / f"{name}.pt"
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    first, seconds = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["step"], state["seconds"]

    def save(step: int) -> None:
        content = {
            "model": model.state_dict(),
            "averaged": averaged.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "seconds": seconds,
        }
        part = state_path.with_suffix(".part")
        torch.save(content, part)
        part.replace(state_path)

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    rows: list[tuple[int, float, float]] = []
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(name, total=schedule.steps, completed=first, loss="")
        for step in range(first, schedule.steps):
            started = time.perf_counter()
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            loss = loss_of(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            average(averaged, model, min(schedule.ema, (step + 1) / (step + 10)))
            seconds += time.perf_counter() - started
            if step % 10 == 9:
                rows.append((step + 1, loss.item(), seconds))
                progress.update(task, loss=f"loss {loss.item():.4f}")
            progress.advance(task)
            if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
                save(step + 1)
                _append_rows(folder / f"{name}.csv", rows)
                rows.clear()
    return seconds
