"""Runs the `prepare` of every technique that has one, in stage order, and refuses a run without what it made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.artefacts import Bench, Store, facts_of, read
from engine.compiler import Compiled, Entry
from engine.errors import MissingWeights, Problem
from engine.runner import load_backbone, opened
from engine.technique import Technique

Progress = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Prepared:
    """The artefact of one technique: its file, and whether it was made just now."""

    slug: str
    path: Path
    made: bool


def prepare_all(
    compiled: Compiled, device: torch.device, progress: Progress, *, store: Store | None = None, again: bool = False
) -> list[Prepared]:
    """Make every artefact the plan needs and has not found; with `again` make all of them anew."""
    store = store or Store()
    techniques = [*(entry.technique for entry in compiled.entries), compiled.sampler]
    if not any(technique.wants_artefact() for technique in techniques):
        return []
    found: list[Prepared] = []
    settled: list[Technique] = []
    loaded = False
    with compiled.backbone.changing():
        for technique in techniques:
            if technique.wants_artefact():
                facts = facts_of(technique, settled, compiled.backbone, compiled.sampler, compiled.run)
                path = store.find(technique.slug, facts)
                made = path is None or again
                if made:
                    if not loaded:
                        _load(compiled, device, settled)
                        loaded = True
                    tensors = technique.prepare(_bench(compiled, settled, progress))
                    path = store.save(technique.slug, facts, tensors)
                assert path is not None
                found.append(Prepared(technique.slug, path, made))
                technique = technique.bound(read(path))
            if loaded:
                technique.transform(compiled.backbone)
            settled.append(technique)
    return found


def _load(compiled: Compiled, device: torch.device, settled: Sequence[Technique]) -> None:
    """The weights, changed by the techniques that are settled already."""
    load_backbone(compiled, device)
    for technique in settled:
        technique.transform(compiled.backbone)


def _bench(compiled: Compiled, settled: Sequence[Technique], progress: Progress) -> Bench:
    backbone, run = compiled.backbone, compiled.run

    def conditions(prompts: Sequence[str]) -> Any:
        inputs = compiled.inputs.model_copy(update={"prompts": list(prompts)})
        return backbone.encode(inputs, replace(run, batch=len(prompts)))

    def generate(seed: int) -> Tensor:
        return current_latents(compiled, seed)

    def examples(count: int, seed: int) -> tuple[list[str], Tensor]:
        return backbone.examples(run, count, seed) or own_examples(compiled, count, seed)

    return Bench(
        backbone=backbone,
        run=run,
        sampler=compiled.sampler,
        generate=generate,
        examples=examples,
        conditions=conditions,
        progress=progress,
        guidance=compiled.inputs.guidance,
        seed=compiled.plan.seed,
    )


def current_latents(compiled: Compiled, seed: int) -> Tensor:
    """Latents [b, ...] of the spec's prompts by the model as it stands, without the techniques of the plan."""
    with opened(replace(compiled, entries=())) as side:
        latents = side.generate([seed + index for index in range(compiled.run.batch)])
    return latents.clone()  # outside inference mode, so that it may be trained on


def own_examples(compiled: Compiled, count: int, seed: int) -> tuple[list[str], Tensor]:
    """The model's own outputs for the spec's prompts, for weights whose training set is not here."""
    prompts, batch = compiled.inputs.prompts, compiled.run.batch
    parts = [current_latents(compiled, seed + start) for start in range(0, count, batch)]
    return [prompts[index % batch] for index in range(count)], torch.cat(parts)[:count]


def require_artefacts(compiled: Compiled, store: Store | None = None) -> None:
    """Raise `MissingWeights` when a technique lacks what `engine prepare` makes."""
    store = store or Store()
    problems = []
    for path, technique in _preparing(compiled.entries, compiled.sampler):
        if technique.artefact is not None:
            continue
        others = store.others(technique.slug)
        made = f"; {others} made for other settings or weights do not fit" if others else ""
        rule = f"`{technique.slug}` has not been prepared for these settings{made}"
        place = compiled.request.value.at(path)
        problems.append(Problem(rule, f"run `engine prepare {compiled.request.path}`", place))
    if problems:
        raise MissingWeights(problems)


def _preparing(entries: Sequence[Entry], sampler: Technique) -> list[tuple[tuple[str | int, ...], Technique]]:
    both = [*((entry.path, entry.technique) for entry in entries), (("sampler", sampler.slug), sampler)]
    return [(path, technique) for path, technique in both if technique.wants_artefact()]
