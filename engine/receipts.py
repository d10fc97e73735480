"""Effect receipts: what the plan promised beside what happened, and a verdict.

The plan says how many predictions each side makes, and for every one which share of every wrapped site is evaluated.
The trace counts, at the innermost layer, what really was. A technique that changed nothing, or a sampler that gives
the baseline's output, fails the run with the reason and a setting that would fire.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.compiler import Compiled, shares_of
from engine.cost import measured_macs
from engine.errors import NoEffect, Problem
from engine.sites import Site, SiteKind
from engine.step import Phase
from engine.technique import Technique

MACS_TOLERANCE = 0.02
ROUNDING = 1e-9
"""Of shares, which are products of fractions."""


@dataclass
class StepTrace:
    """What one prediction did: token rows evaluated at each wrapped site, and the rows of the batch."""

    rows: int
    evaluated: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](int))


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
    draws: int = 0
    """How often the sampler drew fresh noise."""

    def begin(self, rows: int) -> None:
        """A prediction starts on `rows` rows."""
        self.steps.append(StepTrace(rows))

    def counting(self, draw: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The same source of noise, every draw counted."""

        def counted(x: Tensor) -> Tensor:
            self.draws += 1
            return draw(x)

        return counted

    def __call__(self, site: Site, hidden: Tensor, inputs: Mapping[str, Any], out: Any) -> None:
        """An innermost call: `out` is [rows, tokens, channels], or a picture, or heads and sequences of a kernel.

        A picture [rows, channels, h, w] is evaluated whole, whatever its resolution. A kernel's share is that of its
        products: fewer queries and fewer keys both count.
        """
        result = out if isinstance(out, Tensor) else hidden
        if site.kind is SiteKind.KERNEL:
            done = site.tokens * 2 * hidden.numel() * inputs["key"].shape[-2] / site.macs
        elif result.ndim == 4 and site.tokens:
            done = site.tokens * result.shape[0]
        else:
            done = result.shape[0] * result.shape[1]
        self.steps[-1].evaluated[site.name] += done


def share_done(step: StepTrace, site: Site) -> float:
    """Share of a site's tokens that a prediction evaluated."""
    return step.evaluated[site.name] / max(1, step.rows * site.tokens)


def done_macs(compiled: Compiled, sites: Sequence[Site], trace: Trace) -> float:
    """MACs of the whole run from what was evaluated, with the same cost a site as the plan uses."""
    wrapped = {site.name: site for entry in compiled.entries for site, _ in entry.wraps if site.tokens}
    total = 0.0
    for index, step in enumerate(trace.steps):
        shares = {name: share_done(step, site) for name, site in wrapped.items()}
        _, added = shares_of(compiled.entries, _phases_at(compiled, index), compiled.run)
        total += measured_macs(sites, shares, added) * step.rows
    return total


def _phases_at(compiled: Compiled, index: int) -> dict[str, Phase]:
    return {entry.technique.slug: entry.phases[index] for entry in compiled.entries}


def spent(compiled: Compiled, sites: Sequence[Site], trace: Trace) -> dict[str, Any]:
    """What one side spent, beside its plan."""
    return {
        "steps": len(trace.steps),
        "planned_steps": compiled.run.steps,
        "macs": round(done_macs(compiled, sites, trace)),
        "planned_macs": compiled.plan.estimate.macs,
        "fresh_noise": trace.draws,
    }


def receipts(compiled: Compiled, sites: Sequence[Site], trace: Trace, difference: float) -> dict[str, Any]:
    """The receipts as plain data. `difference` is the largest absolute difference of latents to the baseline's."""
    planned = [planned_shares(compiled, sites, index) for index in range(compiled.run.steps)]
    per_technique = {
        entry.technique.slug: _technique_receipt(entry.technique, entry.wraps, entry.phases, trace, planned)
        for entry in compiled.entries
    }
    return {
        **spent(compiled, sites, trace),
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
    own, _ = shares_of(compiled.entries, _phases_at(compiled, index), compiled.run)
    for site in sites:
        shares[site.name] = shares[site.inside] * own.get(site.name, 1.0)
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
        tokens: float = 0
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
    return "full" if share >= 1 - ROUNDING else "partial" if share > 0 else "reused"


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
    if receipt["output_identical"] and not problems:
        problems += _without_effect(compiled)
    if problems:
        raise NoEffect(problems)


def _idle_formats(receipt: Mapping[str, Any], compiled: Compiled) -> list[Problem]:
    """Number formats that replaced modules promise and in which no product ran."""
    place, ran = compiled.request.value.at(("techniques",)), {name.partition(" ")[0] for name in receipt["kernels"]}
    idle = [name for name in receipt["formats"] if name not in ran]
    return [Problem(f"no layer ran in {name}, as the plan says", "report this", place) for name in idle]


def _without_effect(compiled: Compiled) -> list[Problem]:
    """Why an output identical to the baseline's is no result; nothing where both sides are the plain model."""
    value, plan = compiled.request.value, compiled.plan
    if compiled.entries:
        rule = "calls were saved but the output is identical to the baseline's"
        remedy = "the reused values never reached the output: check the model's gates and the number of steps"
        return [Problem(rule, remedy, value.at(("techniques",)))]
    if plan.baseline is None:
        return []
    rule = f"`{plan.sampler.slug}` gives exactly the output of the baseline's `{plan.baseline.sampler.slug}`"
    remedy = "both visit the same noise levels in the same way: give one of them another number of `steps`"
    return [Problem(rule, remedy, value.at(("sampler",)))]


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
    nothing = ", ".join(f"`{name}: {value}`" for name, value in (technique.neutral or {}).items())
    other = f", or the technique other parameters: with {nothing} it changes nothing" if nothing else ""
    return f"give the sampler more than {compiled.run.steps} steps{other}"


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference; infinity when one is not finite."""
    difference = (first.double() - second.double()).abs().max()
    return float(difference) if torch.isfinite(difference) else float("inf")
