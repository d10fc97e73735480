"""Runs the `prepare` of every technique that has one, in stage order, and finds what earlier calls made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.artefacts import Artefact, Bench, Store
from engine.compiler import Compiled
from engine.runner import load_backbone, opened


def facts_of(compiled: Compiled, upto: int) -> dict[str, Any]:
    """What the artefact of technique number `upto` depends on, transforms applied before it included."""
    entries = compiled.entries
    return {
        "parameters": entries[upto].technique.model_dump(mode="json"),
        "weights": compiled.backbone.identity(),
        "sampler": {compiled.sampler.slug: compiled.sampler.model_dump(mode="json")},
        "size": list(compiled.run.latent),
        "before": [
            {entry.technique.slug: entry.technique.model_dump(mode="json")}
            for entry in entries[:upto]
            if entry.technique.transforms()
        ],
    }


def prepare_all(compiled: Compiled, device: torch.device, store: Store | None = None) -> dict[str, Path]:
    """Make every artefact the plan needs; returns the files by technique."""
    store = store or Store()
    wanted = [index for index, entry in enumerate(compiled.entries) if entry.technique.prepares()]
    if not wanted:
        return {}
    load_backbone(compiled, device)
    made = {}
    for index in wanted:
        technique = compiled.entries[index].technique
        bench = Bench(compiled.backbone, compiled.run, lambda seed: plain_latents(compiled, seed), compiled.plan.seed)
        made[technique.slug] = store.save(technique.slug, facts_of(compiled, index), technique.prepare(bench))
    return made


def plain_latents(compiled: Compiled, seed: int) -> Tensor:
    """Latents of the plain model."""
    with opened(replace(compiled, entries=())) as side:
        return side.generate([seed + index for index in range(compiled.run.batch)])


def find_artefacts(compiled: Compiled, store: Store | None = None) -> dict[str, Artefact]:
    """The artefacts of every technique that needs one, or `MissingWeights` naming the command that makes them."""
    store = store or Store()
    return {
        entry.technique.slug: store.load(entry.technique.slug, facts_of(compiled, index), compiled.request.path)
        for index, entry in enumerate(compiled.entries)
        if entry.technique.prepares()
    }
