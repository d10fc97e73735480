"""Effect receipts: what the plan promised beside what happened, and a verdict.

The plan says how many predictions each side makes, and for every one which share of every wrapped site is evaluated;
where data decides, it gives the cheapest and the dearest course. The trace counts, at the innermost layer, what really
was. A technique that changed nothing, or a sampler that gives the baseline's output, fails the run with the reason and
a setting that would fire.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.compiler import Compiled, Entry, shares_of
from engine.cost import measured_macs
from engine.errors import NoEffect, Place, Problem
from engine.sites import Site, SiteKind
from engine.step import Phase

LABELS = ("full", "partial", "reused")
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
        """An innermost call: counted are the places of its output, tokens or those of a picture.

        A kernel's share is that of its products: fewer queries and fewer keys both count. Where a site has no tokens,
        as the whole model or what reads the text, rows are counted; a step is one.
        """
        result = out if isinstance(out, Tensor) else hidden
        if site.kind is SiteKind.KERNEL:
            done = site.tokens * 2 * hidden.numel() * inputs["key"].shape[-2] / site.macs
        elif site.kind is SiteKind.STEP:
            done = self.steps[-1].rows
        elif site.kind is SiteKind.MODEL or not site.tokens:
            done = hidden.shape[0]
        else:
            done = result.numel() // site.width if site.width else result.shape[0] * result.shape[1]
        self.steps[-1].evaluated[site.name] += done


def share_done(step: StepTrace, site: Site) -> float:
    """Share of a site's tokens that a prediction evaluated; of its rows where it has no tokens."""
    return step.evaluated[site.name] / (step.rows * max(1, site.tokens))


def done_macs(compiled: Compiled, sites: Sequence[Site], trace: Trace) -> float:
    """MACs of the whole run from what was evaluated, with the same cost a site as the plan uses."""
    wrapped = {site.name: site for entry in compiled.entries for site, _ in entry.wraps}
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
    least, most = (
        [planned_shares(compiled, sites, index, bound) for index in range(compiled.run.steps)] for bound in (0, 1)
    )
    per_technique = {entry.technique.slug: _technique_receipt(entry, trace, least, most) for entry in compiled.entries}
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


def planned_shares(compiled: Compiled, sites: Sequence[Site], index: int, bound: int = 1) -> dict[str, float]:
    """Share of every site to be evaluated at a step, by all techniques together, at the site and further out.

    `bound` 0 is the cheapest course of the run, 1 the dearest.
    """
    shares: dict[str, float] = {"": 1.0}
    phases = {entry.technique.slug: entry.bounds[bound][index] for entry in compiled.entries}
    own, _ = shares_of(compiled.entries, phases, compiled.run)
    for site in sites:
        shares[site.name] = shares[site.inside] * own.get(site.name, 1.0)
    return shares


def _technique_receipt(
    entry: Entry, trace: Trace, least: Sequence[Mapping[str, float]], most: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    by_kind: dict[str, list[Site]] = defaultdict(list)
    for site in entry.sites:
        if site.kind is not SiteKind.KERNEL:
            by_kind[site.kind].append(site)
    kinds = {kind: _kind_receipt(members, trace, least, most) for kind, members in by_kind.items()}
    return {
        "sites": dict(Counter(site.kind.value for site, _ in entry.wraps)),
        "phases": dict(Counter(phase.name for phase in entry.phases)),
        "kinds": kinds,
        "nonfinite_decisions": trace.nonfinite.get(entry.technique.slug, 0),
        "modules_replaced": trace.swapped.get(entry.technique.slug, 0),
        "as_planned": all(as_planned(receipt) for receipt in kinds.values()),
    }


def _kind_receipt(
    members: Sequence[Site], trace: Trace, least: Sequence[Mapping[str, float]], most: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    done = [Counter(_label(share_done(step, site)) for site in members) for step in trace.steps]
    plans = {"planned": _labels(members, most), "planned_at_least": _labels(members, least)}
    if plans["planned_at_least"] == plans["planned"]:
        del plans["planned_at_least"]
    return {
        "sites": len(members),
        **plans,
        "done": dict(sorted(sum(done, Counter[str]()).items())),
        "tokens_recomputed": round(sum(step.evaluated[site.name] for step in trace.steps for site in members)),
        "full_partial_reused_by_step": ["/".join(f"{step[label]}" for label in LABELS) for step in done],
    }


def _labels(members: Sequence[Site], shares: Sequence[Mapping[str, float]]) -> dict[str, int]:
    return dict(sorted(Counter(_label(step[site.name]) for step in shares for site in members).items()))


def planned_range(receipt: Mapping[str, Any], label: str) -> tuple[int, int]:
    """How many evaluations of a label (full, partial, reused) the plan has at a kind of site: fewest and most."""
    counts = [receipt[plan].get(label, 0) for plan in ("planned", "planned_at_least") if plan in receipt]
    return min(counts), max(counts)


def as_planned(receipt: Mapping[str, Any]) -> bool:
    """Whether what was done at a kind of site is what was planned, or between the bounds where data decides."""
    ranges = ((receipt["done"].get(label, 0), *planned_range(receipt, label)) for label in LABELS)
    return all(fewest <= count <= most for count, fewest, most in ranges)


def _label(share: float) -> str:
    return "full" if share >= 1 - ROUNDING else "partial" if share > 0 else "reused"


def rank_receipt(receipt: Mapping[str, Any], latents: Tensor) -> dict[str, Any]:
    """What one of several ranks did, and a digest of the latents it ended with."""
    return {
        "macs": receipt["macs"],
        "held_bytes": receipt["held_bytes"],
        "as_planned": all(entry["as_planned"] for entry in receipt["techniques"].values()),
        "latents": hashlib.sha256(latents.float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16],
    }


def _rank_problems(ranks: Sequence[Mapping[str, Any]], place: Place) -> Iterator[Problem]:
    for rank, done in enumerate(ranks):
        if not done["as_planned"]:
            yield Problem(f"rank {rank} did something other than its plan", "report this", place)
    if len({done["latents"] for done in ranks}) > 1:
        remedy = "use the same PyTorch and devices of one kind for all ranks"
        yield Problem("the ranks ended with different latents, though all compute the same", remedy, place)


def verdict(receipt: Mapping[str, Any], compiled: Compiled) -> None:
    """Raise `NoEffect` when a technique did nothing, decided on non-finite numbers, or left its plan."""
    problems = list(_rank_problems(receipt.get("ranks", ()), compiled.request.value.at(("techniques",))))
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
    exact = bool(compiled.entries) and all(entry.technique.exact(compiled.run) for entry in compiled.entries)
    if receipt["output_identical"] and not exact and not problems:
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
    if any(phase.name != "full" for phase in entry.bounds[0]) and technique.dynamic:
        return "its data never let it rest: loosen its thresholds, or give the sampler more steps"
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
