"""What was settled: a frozen, canonical record of a run before it happens."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.step import Phase


class Frozen(BaseModel):
    """Base of the plan's tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TechniquePlan(Frozen):
    """One technique with its settled parameters and what it matched."""

    slug: str
    paper: str | None
    stage: str
    parameters: dict[str, Any]
    sites: dict[str, int]
    dynamic: bool
    deviations: list[str]


class BaselinePlan(Frozen):
    """The other side of the comparison, where it is not just the same model and sampler without techniques."""

    sampler: TechniquePlan
    techniques: list[TechniquePlan]
    steps: int


class StepPlan(Frozen):
    """One prediction: its noise level, the branches that run, each technique's phase (with its value), its MACs."""

    index: int
    time: float
    branches: list[str]
    phases: dict[str, str]
    values: dict[str, float]
    macs: int


class Estimate(Frozen):
    """Analytic cost of the whole run (all prompts, all branches, the denoiser only) and memory in bytes."""

    baseline_macs: int
    """What the other side's own plan spends."""
    macs: int
    macs_ratio: float
    kinds: dict[str, dict[str, float]]
    """For every kind of site: baseline and planned MACs."""
    formats: dict[str, int]
    """Planned MACs by number format: the model's own, or bits of weights and activations as in W4A8."""
    baseline_weight_bytes: int
    weight_bytes: int
    activation_bytes: int
    held_bytes: int

    def planned_macs(self, kind: str) -> float:
        """MACs this side spends at a kind of site."""
        return self.kinds.get(kind, {}).get("planned", 0)


class Range(Frozen):
    """MACs of the whole run between which a technique's data decides, everything else at its dearest."""

    slug: str
    least_macs: int
    most_macs: int


class Shape(Frozen):
    """Sizes of the run."""

    batch: int
    branches: list[str]
    latent: list[int]
    pixels: list[int]
    grid: list[int]
    text_tokens: int


class Plan(Frozen):
    """A compiled spec. Equal specs give equal plans, byte for byte."""

    spec: str
    spec_hash: str
    profile: str
    backbone: str
    weights: str | dict[str, str]
    dtype: str
    parameters: int
    shape: Shape
    inputs: dict[str, Any]
    seed: int
    sampler: TechniquePlan
    techniques: list[TechniquePlan]
    steps: list[StepPlan]
    graphs: int
    """Distinct combinations of phases and branches: graphs to expect under compilation."""
    dynamic: list[Range]
    """What data decides."""
    estimate: Estimate
    notes: list[str]
    baseline: BaselinePlan | None = None
    """None: the same model and sampler without techniques."""

    def canonical(self) -> str:
        """Canonical JSON."""
        data = self.model_dump(mode="json", exclude={"baseline"} if self.baseline is None else None)
        return json.dumps(data, indent=2, sort_keys=True) + "\n"

    @property
    def digest(self) -> str:
        """Hash of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


def phase_key(phase: Phase) -> tuple[str, float | None]:
    """What makes a phase its own graph, apart from branches."""
    return phase.name, phase.value
