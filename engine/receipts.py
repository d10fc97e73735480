"""Effect receipts: what the plan promised beside what happened, and a verdict.

The plan says for every step which share of every wrapped site is evaluated. The trace counts, at the innermost layer,
what really was. A technique that changed nothing fails the run with the reason and a setting that would fire.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.compiler import Compiled
from engine.cost import kept_macs
from engine.errors import NoEffect, Problem
from engine.sites import Site, SiteKind
from engine.technique import Technique

MACS_TOLERANCE = 0.02


@dataclass
class StepTrace:
    """What one prediction did: token rows evaluated at each wrapped site, and the rows of the batch."""

    rows: int
    evaluated: Counter[str] = field(default_factory=Counter)


@dataclass
class Trace:
    """What a run did. As an observer it is told of every innermost call at a wrapped site."""

    steps: list[StepTrace] = field(default_factory=list)
    held_bytes: int = 0
    nonfinite: dict[str, int] = field(default_factory=dict)
    swapped: dict[str, int] = field(default_factory=dict)
    """Modules that each technique replaced."""
    kernels: Counter[str] = field(default_factory=Counter)
    """Launches of low-precision kernels, by number format and kind."""

    def begin(self, rows: int) -> None:
        """A prediction starts on `rows` rows."""
        self.steps.append(StepTrace(rows))

    def __call__(self, site: Site, hidden: Tensor) -> None:
        """An innermost call: `hidden` is [rows, tokens, channels], a picture, or heads and sequences for a kernel.

        A picture [rows, channels, h, w] is evaluated whole, at whatever resolution it comes in.
        """
        step = self.steps[-1]
        if site.kind is SiteKind.KERNEL:
            done = site.tokens * step.rows
        elif hidden.ndim == 4 and site.tokens:
            done = site.tokens * hidden.shape[0]
        else:
            done = hidden.shape[0] * hidden.shape[1]
        step.evaluated[site.name] += done


def share_done(step: StepTrace, site: Site) -> float:
    """Share of a site's tokens that a prediction evaluated."""
    return step.evaluated[site.name] / max(1, step.rows * site.tokens)


def done_macs(compiled: Compiled, sites: Sequence[Site], trace: Trace) -> float:
    """MACs of the whole run from what was evaluated, with the same cost a site as the plan uses."""
    wrapped = {site.name: site for entry in compiled.entries for site, _ in entry.wraps if site.tokens}
    leaves = {name: site for name, site in wrapped.items() if site.kind is not SiteKind.KERNEL}
    total = 0.0
    for index, step in enumerate(trace.steps):
        kept = {name: share_done(step, site) for name, site in leaves.items()}
        total += (kept_macs(sites, kept) + _added(compiled, index)) * step.rows
    return total


def _added(compiled: Compiled, index: int) -> int:
    """MACs a row that the techniques spend on top of the model's at a step."""
    return sum(
        entry.technique.share(site, entry.phases[index], compiled.run).added
        for entry in compiled.entries
        for site in {site.name: site for site, _ in entry.wraps}.values()
    )


def receipts(compiled: Compiled, sites: Sequence[Site], trace: Trace, difference: float) -> dict[str, Any]:
    """The receipts as plain data. `difference` is the largest absolute difference of latents to the baseline's."""
    actual = done_macs(compiled, sites, trace)
    planned = [planned_shares(compiled, sites, index) for index in range(compiled.run.steps)]
    per_technique = {
        entry.technique.slug: _technique_receipt(entry.technique, entry.wraps, entry.phases, trace, planned)
        for entry in compiled.entries
    }
    return {
        "steps": len(trace.steps),
        "planned_steps": compiled.run.steps,
        "macs": round(actual),
        "planned_macs": compiled.plan.estimate.macs,
        "held_bytes": trace.held_bytes,
        "planned_held_bytes": compiled.plan.estimate.held_bytes,
        "formats": sorted({site.numerics for site in sites if site.numerics is not None}),
        "kernels": dict(sorted(trace.kernels.items())),
        "output_identical": difference == 0.0,
        "largest_latent_difference": difference,
        "techniques": per_technique,
    }


def planned_shares(compiled: Compiled, sites: Sequence[Site], index: int) -> dict[str, float]:
    """Share of every site to be evaluated at a step, by all techniques together, at the site and further out."""
    shares: dict[str, float] = {"": 1.0}
    own: dict[str, float] = defaultdict(lambda: 1.0)
    for entry in compiled.entries:
        for site in {site.name: site for site, _ in entry.wraps}.values():
            own[site.name] *= entry.technique.share(site, entry.phases[index], compiled.run).kept
    for site in sites:
        shares[site.name] = shares[site.inside] * own[site.name]
    return shares


def _technique_receipt(
    technique: Technique,
    wraps: Sequence[Any],
    phases: Sequence[Any],
    trace: Trace,
    shares: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    sites = {site.name: site for site, _ in wraps if site.kind is not SiteKind.KERNEL}
    by_kind: dict[str, list[Site]] = defaultdict(list)
    for site in sites.values():
        by_kind[site.kind].append(site)
    kinds: dict[str, Any] = {}
    for kind, members in by_kind.items():
        planned: Counter[str] = Counter()
        done: Counter[str] = Counter()
        tokens = 0
        rows = []
        for planned_share, step in zip(shares, trace.steps, strict=False):
            planned.update(_label(planned_share[site.name]) for site in members)
            labels = Counter(_label(share_done(step, site)) for site in members)
            done.update(labels)
            tokens += sum(step.evaluated[site.name] for site in members)
            rows.append("/".join(f"{labels[name]}" for name in ("full", "partial", "reused")))
        kinds[kind] = {
            "sites": len(members),
            "planned": dict(sorted(planned.items())),
            "done": dict(sorted(done.items())),
            "tokens_recomputed": tokens,
            "full_partial_reused_by_step": rows,
        }
    return {
        "sites": dict(Counter(site.kind.value for site, _ in wraps)),
        "phases": dict(Counter(phase.name for phase in phases)),
        "kinds": kinds,
        "nonfinite_decisions": trace.nonfinite.get(technique.slug, 0),
        "modules_replaced": trace.swapped.get(technique.slug, 0),
        "as_planned": technique.dynamic or all(entry["planned"] == entry["done"] for entry in kinds.values()),
    }


def _label(share: float) -> str:
    return "full" if share >= 1 else "partial" if share > 0 else "reused"


def verdict(receipt: Mapping[str, Any], compiled: Compiled) -> None:
    """Raise `NoEffect` when a technique did nothing, decided on non-finite numbers, or left its plan."""
    problems = []
    for entry in compiled.entries:
        technique, place = entry.technique, compiled.request.value.at(entry.path)
        slug, done = technique.slug, receipt["techniques"][technique.slug]
        if done["nonfinite_decisions"]:
            problems.append(
                Problem(
                    f"`{slug}` decided on {done['nonfinite_decisions']} non-finite numbers",
                    "use dtype float32 or bfloat16, or look at the inputs of its scores",
                    place,
                )
            )
        if not done["as_planned"]:
            problems.append(
                Problem(f"`{slug}` did something other than its plan: see receipts in the report", "report this", place)
            )
        if technique.transforms() and not done["modules_replaced"] and not done["sites"]:
            problems.append(
                Problem(f"`{slug}` replaced no module and wrapped no call", "widen its range of layers", place)
            )
        if _inert(done):
            problems.append(
                Problem(f"`{slug}` changed nothing: every site was evaluated in full", hint(entry, compiled), place)
            )
    problems += _idle_formats(receipt, compiled)
    if compiled.entries and not problems and receipt["output_identical"]:
        place = compiled.request.value.at(("techniques",))
        problems.append(
            Problem(
                "calls were saved but the output is identical to the baseline's",
                "the reused values never reached the output: check the model's gates and the number of steps",
                place,
            )
        )
    if problems:
        raise NoEffect(problems)


def _idle_formats(receipt: Mapping[str, Any], compiled: Compiled) -> list[Problem]:
    """Number formats that replaced modules promise and in which no product ran."""
    place, ran = compiled.request.value.at(("techniques",)), {name.partition(" ")[0] for name in receipt["kernels"]}
    idle = [name for name in receipt["formats"] if name not in ran]
    return [Problem(f"no layer ran in {name}, as the plan says", "report this", place) for name in idle]


def _inert(done: Mapping[str, Any]) -> bool:
    kinds = done["kinds"].values()
    return not done["modules_replaced"] and bool(kinds) and all(set(entry["done"]) <= {"full"} for entry in kinds)


def hint(entry: Any, compiled: Compiled) -> str:
    """A setting that would make an inert technique fire, found by trying its numeric parameters on the schedule."""
    technique = entry.technique
    for name in type(technique).model_fields:
        value = getattr(technique, name)
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        for candidate in (2, 3, 4, 6):
            changed = technique.model_copy(update={name: candidate})
            if candidate != value and any(phase.name != "full" for phase in changed.schedule(compiled.run)):
                return f"with `{name}: {candidate}` it would act in some of the {compiled.run.steps} steps"
    return f"give the sampler more than {compiled.run.steps} steps"


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference; infinity when one is not finite."""
    difference = (first.double() - second.double()).abs().max()
    return float(difference) if torch.isfinite(difference) else float("inf")
