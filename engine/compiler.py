"""Spec to plan in eight passes: resolve, order, bind, match, check, schedule, estimate, freeze.

No pass needs weights or a GPU. Problems are collected over the passes and raised together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine import registry
from engine.artefacts import Store, facts_of
from engine.backbones.base import Backbone, Inputs
from engine.cost import kept_macs
from engine.document import Value
from engine.errors import EngineError, InvalidInput, Place, Problem, nearest
from engine.lessons import problems_of
from engine.plan import BaselinePlan, Estimate, Plan, Range, Shape, StepPlan, TechniquePlan, phase_key
from engine.sites import Around, Site, SiteKind, Sites
from engine.spec import Baseline, ModelChoice, Request
from engine.step import Branch, Phase, RunShape
from engine.technique import Stage, Technique

TechniqueSettings = Mapping[str, dict[str, Any] | None]
M = TypeVar("M", bound=BaseModel)


@dataclass
class Entry:
    """A technique in the making: settled parameters, its wraps, its phases, and where the spec names it."""

    technique: Technique
    path: tuple[str | int, ...]
    wraps: list[tuple[Site, Around]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    bounds: tuple[list[Phase], list[Phase]] = ([], [])
    """The cheapest and the dearest course of a run; both are `phases` unless data decides."""

    @property
    def sites(self) -> list[Site]:
        """The sites it wraps, each once."""
        return list({site.name: site for site, _ in self.wraps}.values())


@dataclass
class Draft:
    """What the passes fill in, one after another."""

    request: Request
    problems: list[Problem] = field(default_factory=list)
    backbone: Backbone | None = None
    inputs: Inputs | None = None
    sampler: Entry | None = None
    entries: list[Entry] = field(default_factory=list)
    run: RunShape | None = None
    plain_sites: list[Site] = field(default_factory=list)
    """Sites of the model as it is."""
    plain_bytes: int = 0
    """Bytes of the weights of the model as it is."""
    sites: list[Site] = field(default_factory=list)
    """Sites of the model as transforms leave it."""

    def place(self, *path: str | int) -> Place:
        """Where `path` stands in the spec."""
        return self.request.value.at(path)

    def report(self, rule: str, remedy: str, *path: str | int) -> None:
        """Collect a problem."""
        self.problems.append(Problem(rule, remedy, self.place(*path)))


@dataclass(frozen=True)
class Compiled:
    """A plan together with the objects it was made from, for the runner."""

    plan: Plan
    request: Request
    backbone: Backbone
    inputs: Inputs
    run: RunShape
    sampler: Technique
    entries: tuple[Entry, ...]

    @property
    def processes(self) -> int:
        """Processes that run it together."""
        return processes_of(self.entries)


def compile_spec(request: Request, backbone: Backbone | None = None, store: Store | None = None) -> Compiled:
    """The accelerated side. `backbone` replaces the sketch the spec asks for (tests pass a tiny one)."""
    if request.spec.baseline == Baseline():
        return _one_side(request, backbone, store)
    return compile_both(request, backbone, store)[0]


def compile_both(
    request: Request, backbone: Backbone | None = None, store: Store | None = None
) -> tuple[Compiled, Compiled]:
    """Both sides of a run; what is wrong with either shows before anything is loaded."""
    compiled = _one_side(request, backbone, store)
    plain = baseline_of(request, compiled, store)
    return _compared(compiled, plain), plain


def _one_side(request: Request, backbone: Backbone | None, store: Store | None) -> Compiled:
    """Run all passes."""
    draft = Draft(request, backbone=backbone)
    resolve(draft)
    _stop(draft)
    order(draft)
    bind(draft, store or Store())
    assert draft.backbone is not None
    with draft.backbone.changing():
        match(draft)
        check(draft)
        _stop(draft)
        schedule(draft)
        _stop(draft)
        return freeze(draft, estimate(draft))


def baseline_of(request: Request, compiled: Compiled, store: Store | None = None) -> Compiled:
    """The other side of the comparison: same model, inputs and seed, its own techniques and perhaps sampler."""
    spec, other = request.spec, request.spec.baseline
    plain = spec.model_copy(update={"techniques": other.techniques, "sampler": other.sampler or spec.sampler})
    return _one_side(replace(request, spec=plain, value=_baseline_value(request.value)), compiled.backbone, store)


def _compared(compiled: Compiled, plain: Compiled) -> Compiled:
    """The accelerated side, its plan stating what it is compared with; the costs of that are those of its own plan."""
    request, plan, other = compiled.request, compiled.plan, plain.plan
    if request.spec.baseline == Baseline():
        return compiled
    if compares_nothing(compiled, plain):
        rule = (
            f"the baseline is the run itself: `{plan.sampler.slug}` with the same parameters, and the same techniques"
        )
        remedy = "give `baseline` another sampler or more steps, or remove it and run with --no-baseline"
        raise InvalidInput(Problem(rule, remedy, request.value.at(("baseline",))))
    cost, against = plan.estimate, other.estimate
    kinds = {
        kind: {"baseline": against.planned_macs(kind), "planned": cost.planned_macs(kind)}
        for kind in {**cost.kinds, **against.kinds}
    }
    ratio = round(against.macs / cost.macs, 4)
    estimate = cost.model_copy(update={"baseline_macs": against.macs, "macs_ratio": ratio, "kinds": kinds})
    stated = BaselinePlan(sampler=other.sampler, techniques=other.techniques, steps=plain.run.steps)
    return replace(compiled, plan=plan.model_copy(update={"estimate": estimate, "baseline": stated}))


def compares_nothing(compiled: Compiled, plain: Compiled) -> bool:
    """Whether both sides have the same sampler and techniques with the same parameters."""
    one, other = compiled.plan, plain.plan
    return (one.sampler, one.techniques) == (other.sampler, other.techniques)


def _baseline_value(value: Value) -> Value:
    """The spec's value with the baseline's settings in the places of the run's, so that problems point at them."""
    own = value.data.get("baseline")
    return Value({**value.data, **own.data}, value.place) if own is not None and isinstance(own.data, dict) else value


def _stop(draft: Draft) -> None:
    if draft.problems:
        raise InvalidInput(draft.problems)


def resolve(draft: Draft) -> None:
    """Names to classes, parameters to settled values (class defaults, then the paper's, then the spec's)."""
    spec = draft.request.spec
    backbone_class = _sketch(draft, spec.model)
    if backbone_class is not None:
        draft.inputs = _validated(draft, backbone_class.inputs, spec.inputs, ("inputs",))
    draft.sampler = _entry(draft, spec.sampler, ("sampler",), sampler=True)
    draft.entries = _listed(draft, spec.techniques, ("techniques",))
    # The baseline is compiled on its own before a run; what is wrong with its names and parameters shows here already.
    _listed(draft, spec.baseline.techniques, ("baseline", "techniques"))
    if spec.baseline.sampler is not None:
        _entry(draft, spec.baseline.sampler, ("baseline", "sampler"), sampler=True)
    if draft.inputs is not None and draft.backbone is not None:
        for key, rule, remedy in draft.backbone.check(draft.inputs):
            draft.report(rule, remedy, "inputs", key)


def _sketch(draft: Draft, choice: ModelChoice) -> type[Backbone] | None:
    """The backbone's class; its sketch goes to the draft unless one is there."""
    known = registry.backbones()
    backbone_class = known.get(choice.backbone)
    if backbone_class is None:
        draft.report(f"there is no backbone `{choice.backbone}`", nearest(choice.backbone, known), "model", "backbone")
    elif draft.backbone is None:
        try:
            draft.backbone = backbone_class.sketch(choice)
        except EngineError as error:
            for problem in error.problems:
                draft.report(problem.rule, problem.remedy, *problem.place.key.split("."))
    return backbone_class


def _listed(draft: Draft, listed: Sequence[TechniqueSettings], path: tuple[str | int, ...]) -> list[Entry]:
    entries = [_entry(draft, settings, (*path, index), sampler=False) for index, settings in enumerate(listed)]
    return [entry for entry in entries if entry is not None]


def _entry(draft: Draft, settings: TechniqueSettings, path: tuple[str | int, ...], *, sampler: bool) -> Entry | None:
    """The technique that `settings` names, or None after a report."""
    if len(settings) != 1:
        remedy = "name one: `sampler: {name: {parameter: value}}`" if sampler else "write `- name: {parameter: value}`"
        draft.report(f"{len(settings)} names where one technique belongs", remedy, *path)
        return None
    (slug, given), known = next(iter(settings.items())), registry.techniques()
    fitting = [name for name, cls in known.items() if (cls.stage is Stage.TRAJECTORY) is sampler]
    cls = known.get(slug)
    if cls is None:
        draft.report(
            f"there is no {'sampler' if sampler else 'technique'} `{slug}`", nearest(slug, fitting), *path, slug
        )
        return None
    if slug not in fitting:
        rule = f"`{slug}` is {'no' if sampler else 'a'} sampler"
        remedy = "list it under `techniques:`, and name a sampler here: " + ", ".join(f"`{name}`" for name in fitting)
        draft.report(rule, remedy if sampler else "name it under `sampler:`", *path, slug)
        return None
    tuned = dict(cls.tuned.get(draft.request.spec.model.backbone, {}))
    technique = _validated(draft, cls, {**tuned, **(given or {})}, (*path, slug))
    return None if technique is None else Entry(technique, (*path, slug))


def _validated(draft: Draft, model: type[M], data: Mapping[str, Any], path: tuple[str | int, ...]) -> M | None:
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        draft.problems += problems_of(error, draft.request.value, path, model)
        return None


def order(draft: Draft) -> None:
    """Techniques by stage, and within a stage as the spec lists them."""
    draft.entries.sort(key=lambda entry: entry.technique.stage)


def bind(draft: Draft, store: Store) -> None:
    """Sizes of the run, and every technique with what was prepared for it, where that is found."""
    assert draft.backbone is not None and draft.inputs is not None and draft.sampler is not None
    sampler = draft.sampler.technique
    draft.run = draft.backbone.shape(draft.inputs, sampler.predictions())
    before: list[Technique] = []
    for entry in [*draft.entries, draft.sampler]:
        technique = entry.technique
        if technique.wants_artefact():
            facts = facts_of(technique, before, draft.backbone, sampler, draft.run)
            entry.technique = technique.bound(store.load(technique.slug, facts))
        before.append(technique)
    levels, noise = draft.sampler.technique.times(draft.run), draft.backbone.noise
    draft.run = replace(draft.run, times=tuple(noise.timestep(level) for level in levels))


def match(draft: Draft) -> None:
    """Transforms, the sites they leave, and what each technique wraps; to find nothing to change is an error."""
    assert draft.backbone is not None and draft.run is not None
    draft.plain_sites, draft.plain_bytes = draft.backbone.sites(draft.run), draft.backbone.weight_bytes()
    present = draft.backbone.capabilities(draft.plain_sites)
    fitting = [entry for entry in draft.entries if _has_sites(draft, entry, present)]
    swapped = {}
    for entry in fitting:
        before = draft.backbone.swaps
        entry.technique.transform(draft.backbone)
        swapped[entry.technique.slug] = draft.backbone.swaps - before
    draft.sites = draft.backbone.sites(draft.run) if any(swapped.values()) else draft.plain_sites
    for entry in fitting:
        technique = entry.technique
        view = Sites(draft.sites, draft.run)
        technique.attach(view)
        entry.wraps = view.wraps
        for rule, remedy in view.refusals:
            draft.report(f"`{technique.slug}`: {rule}", remedy, *entry.path)
        if not entry.wraps and not swapped[technique.slug]:
            draft.report(
                f"`{technique.slug}` matches no site of `{draft.backbone.name}` with these parameters",
                "widen its range of layers, or remove it",
                *entry.path,
            )


def _has_sites(draft: Draft, entry: Entry, present: frozenset[SiteKind]) -> bool:
    """Whether the model has what a technique needs; reported if not."""
    assert draft.backbone is not None
    lacking = sorted(entry.technique.requires - present)
    if lacking:
        having = ", ".join(f"`{name}`" for name in registry.backbones_with(entry.technique.requires))
        draft.report(
            f"backbone `{draft.backbone.name}` has no {' and no '.join(lacking)}, which `{entry.technique.slug}` needs",
            f"use a backbone that has: {having}" if having else "remove it: no backbone here has that yet",
            *entry.path,
        )
    return not lacking


def check(draft: Draft) -> None:
    """Stage rule, exclusions, and what each technique says of its own parameters."""
    assert draft.run is not None
    seen: dict[str, Entry] = {}
    listed = sorted(draft.entries, key=lambda entry: entry.path)  # problems go to the later of two in the spec
    for entry in listed:
        technique = entry.technique
        if technique.slug in seen:
            first = draft.place(*seen[technique.slug].path).line
            line = "" if first is None else f" (first in line {first})"
            draft.report(f"`{technique.slug}` is listed twice{line}", "merge the two entries", *entry.path)
        seen.setdefault(technique.slug, entry)
        for rule, remedy in technique.check(draft.run):
            draft.report(rule, remedy, *entry.path)
    sampler = draft.sampler
    assert sampler is not None
    for rule, remedy in sampler.technique.check(draft.run):
        draft.report(rule, remedy, *sampler.path)
    _check_process(draft, sampler)
    for index, entry in enumerate(listed):
        for other in [*listed[:index], sampler]:
            reason = conflict(other, entry, draft.sites)
            if reason:
                draft.report(reason, "keep one of the two", *entry.path)


def _check_process(draft: Draft, sampler: Entry) -> None:
    """A sampler steps along one noise process; along another it would draw noise."""
    assert draft.backbone is not None
    made_for, process = sampler.technique.process, draft.backbone.noise.process
    if made_for != process:
        fitting = ", ".join(f"`{slug}`" for slug, cls in registry.techniques().items() if cls.process == process)
        draft.report(
            f"`{sampler.technique.slug}` is a sampler for {made_for} models, and `{draft.backbone.name}` is a "
            f"{process} model",
            f"use one of: {fitting}",
            *sampler.path,
        )


def conflict(first: Entry, second: Entry, sites: Sequence[Site]) -> str | None:
    """Why two techniques cannot run together, in one sentence, or None. `sites` are all of the model's."""
    one, two = first.technique, second.technique
    for here, there in ((one, two), (two, one)):
        reason = here.excludes.get(there.slug) or _apart(here, there)
        if reason:
            return f"`{here.slug}` cannot run with `{there.slug}`: {reason}"
    if one.slug == two.slug or one.stage is not two.stage:
        return None
    if two.slug in one.shares_with or one.slug in two.shares_with:
        return None
    both = f"`{one.slug}` and `{two.slug}` are both of stage {one.stage.name} and"
    shared = {site.name for site in first.sites} & {site.name for site in second.sites}
    if shared:
        kinds = sorted({site.kind.value for site in second.sites if site.name in shared})
        return f"{both} both decide about {len(shared)} sites ({', '.join(kinds)}): only one can own a site"
    inside = {site.name: site.inside for site in sites}
    for outer, inner in ((first, second), (second, first)):
        kinds = sorted({site.kind.value for site in inner.sites if _lies_in(site, outer.sites, inside)})
        if kinds:
            return (
                f"{both} `{outer.technique.slug}` decides whether what `{inner.technique.slug}` wraps "
                f"({', '.join(kinds)}) runs at all: only one can own it"
            )
    return None


def _apart(shared: Technique, other: Technique) -> str | None:
    """Why `shared`, if it runs in several processes, would see them part, or None."""
    return "every process would decide by itself" if shared.processes() > 1 and other.dynamic else None


def _lies_in(site: Site, others: Sequence[Site], inside: Mapping[str, str]) -> bool:
    names, name = {other.name for other in others}, site.inside
    while name and name not in names:
        name = inside[name]
    return bool(name)


def schedule(draft: Draft) -> None:
    """Each technique's phase at every step."""
    assert draft.run is not None
    for entry in draft.entries:
        entry.phases, entry.bounds = entry.technique.schedule(draft.run), entry.technique.bounds(draft.run)
        for phases in (entry.phases, *entry.bounds):
            if len(phases) != draft.run.steps:
                draft.report(
                    f"`{entry.technique.slug}` schedules {len(phases)} phases for {draft.run.steps} steps",
                    "report this: it is an error in the technique",
                    *entry.path,
                )
                break
    _stop(draft)
    for index, entry in enumerate(draft.entries):
        for other in draft.entries[:index]:
            reason = branch_conflict(other, entry)
            if reason:
                draft.report(reason, "keep one of the two", *entry.path)


def branch_conflict(first: Entry, second: Entry) -> str | None:
    """Why one of two techniques cannot have the branches it needs, in one sentence, or None."""
    for needs, drops in ((first, second), (second, first)):
        for index, (here, there) in enumerate(zip(needs.phases, drops.phases, strict=True)):
            if here.branches is None or there.branches is None:
                continue
            lost = set(here.branches) - set(there.branches)
            if lost:
                return (
                    f"`{needs.technique.slug}` needs the branch {min(lost)} at step {index}, which "
                    f"`{drops.technique.slug}` leaves out"
                )
    return None


def processes_of(entries: Sequence[Entry]) -> int:
    """Processes that techniques need together."""
    return max((entry.technique.processes() for entry in entries), default=1)


def branches_at(entries: Sequence[Entry], index: int, run: RunShape) -> tuple[Branch, ...]:
    """Branches that run at a step: those guidance needs and nobody drops."""
    dropped = {
        branch
        for entry in entries
        if (wanted := entry.phases[index].branches) is not None
        for branch in run.branches
        if branch not in wanted
    }
    return tuple(branch for branch in run.branches if branch not in dropped)


def estimate(draft: Draft) -> tuple[list[StepPlan], Estimate]:
    """MACs by the product of shares along the onion, and bytes held; one calculation a distinct combination.

    Where data decides, a step's MACs are the most it may spend, and the totals those of the dearest course.
    """
    assert draft.run is not None and draft.backbone is not None and draft.sampler is not None
    run, plain = draft.run, float(sum(site.macs for site in draft.plain_sites))
    times = draft.sampler.technique.times(run)
    meter = Meter(draft)
    steps = []
    for index in range(run.steps):
        phases = {entry.technique.slug: entry.phases[index] for entry in draft.entries}
        branches = branches_at(draft.entries, index, run)
        steps.append(
            StepPlan(
                index=index,
                time=round(times[index], 6),
                branches=[str(branch) for branch in branches],
                phases={slug: phase.name for slug, phase in phases.items()},
                values={slug: phase.value for slug, phase in phases.items() if phase.value is not None},
                macs=round(meter.cost(index, phases).macs),
            )
        )
    full_rows = run.batch * len(run.branches)
    baseline = plain * full_rows * run.steps
    course, total = meter.course()
    per_kind: Counter[str] = Counter()
    for site in draft.plain_sites:
        per_kind[site.booked] += site.macs * full_rows * run.steps
    result = Estimate(
        baseline_macs=round(baseline),
        macs=total,
        macs_ratio=round(baseline / total, 4),
        kinds={
            kind: {"baseline": per_kind[kind], "planned": round(course.kinds[kind])}
            for kind in per_kind
            if per_kind[kind]
        },
        formats={name: round(macs) for name, macs in course.formats.items() if macs},
        baseline_weight_bytes=draft.plain_bytes,
        weight_bytes=draft.backbone.weight_bytes(),
        activation_bytes=draft.backbone.activation_bytes(run),
        held_bytes=_held_bytes(draft) * full_rows,
    )
    return steps, result


@dataclass(frozen=True)
class Cost:
    """MACs spent in a combination of phases: by kind of site, and by number format."""

    kinds: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)

    @property
    def macs(self) -> float:
        """All of them."""
        return sum(self.kinds.values())

    def times(self, rows: int) -> Cost:
        """The same for as many rows."""
        kinds, formats = ({name: macs * rows for name, macs in each.items()} for each in (self.kinds, self.formats))
        return Cost(Counter(kinds), Counter(formats))


@dataclass
class Meter:
    """MACs of steps; every combination of phases is calculated once."""

    draft: Draft
    known: dict[Any, Cost] = field(default_factory=dict)

    def cost(self, index: int, phases: Mapping[str, Phase]) -> Cost:
        """MACs of a step, all rows together."""
        draft, run, key = self.draft, self.draft.run, tuple(phases.items())
        assert run is not None
        if key not in self.known:
            self.known[key] = _cost_of(draft, phases)
        return self.known[key].times(run.batch * len(branches_at(draft.entries, index, run)))

    def course(self, cheapest: Entry | None = None) -> tuple[Cost, int]:
        """MACs of the dearest course of the run, apart and in all; `cheapest` takes its own cheapest one."""
        assert self.draft.run is not None
        course, total = Cost(), 0
        for index in range(self.draft.run.steps):
            courses = {
                entry.technique.slug: entry.bounds[0 if entry is cheapest else 1] for entry in self.draft.entries
            }
            step = self.cost(index, {slug: phases[index] for slug, phases in courses.items()})
            course.kinds.update(step.kinds)
            course.formats.update(step.formats)
            total += round(step.macs)
        return course, total


def _cost_of(draft: Draft, phases: Mapping[str, Phase]) -> Cost:
    """What a row spends."""
    assert draft.run is not None
    kept, added = shares_of(draft.entries, phases, draft.run)
    own = str(draft.run.dtype).removeprefix("torch.")
    kinds = _macs_by(draft.sites, kept, added, lambda site: site.booked)
    formats = _macs_by(draft.sites, kept, added, lambda site: site.numerics or own)
    return Cost(kinds, formats)


def _macs_by(
    sites: Sequence[Site], kept: Mapping[str, float], added: Mapping[str, float], label: Callable[[Site], str]
) -> Counter[str]:
    found: Counter[str] = Counter()
    for name in {label(site) for site in sites}:
        only = [site if label(site) == name else _free(site) for site in sites]
        own = {site.name: added[site.name] for site in sites if label(site) == name and site.name in added}
        found[name] = kept_macs(only, kept, own)  # type: ignore[assignment]
    return found


def shares_of(
    entries: Sequence[Entry], phases: Mapping[str, Phase], run: RunShape
) -> tuple[dict[str, float], dict[str, float]]:
    """What all techniques together keep of each site they wrap, and the MACs they add there, in these phases."""
    kept: dict[str, float] = {}
    added: dict[str, float] = {}
    for entry in entries:  # the innermost first: what it adds is spent as far as those further out let it run
        phase = phases[entry.technique.slug]
        for site in entry.sites:
            share = entry.technique.share(site, phase, run)
            kept[site.name] = kept.get(site.name, 1.0) * share.kept
            added[site.name] = added.get(site.name, 0.0) * share.kept + share.added
    return kept, added


def _free(site: Site) -> Site:
    return Site(site.name, site.kind, site.module, site.inside)


def _held_bytes(draft: Draft) -> int:
    """Most bytes a row keeps between steps: a site holds the same memory in whichever phase asks for most."""
    assert draft.run is not None
    total = 0
    for entry in draft.entries:
        phases = {*entry.phases, *entry.bounds[0], *entry.bounds[1]}
        for site in entry.sites:
            total += max(entry.technique.share(site, phase, draft.run).held for phase in phases)
    return total


def freeze(draft: Draft, estimated: tuple[list[StepPlan], Estimate]) -> Compiled:
    """The plan, and the objects a runner needs."""
    assert draft.run is not None and draft.backbone is not None
    assert draft.inputs is not None and draft.sampler is not None
    steps, cost = estimated
    run, spec = draft.run, draft.request.spec
    combinations = {
        (tuple(phase_key(entry.phases[index]) for entry in draft.entries), tuple(step.branches))
        for index, step in enumerate(steps)
    }
    plan = Plan(
        spec=draft.request.path.name,
        spec_hash=draft.request.digest,
        profile=draft.request.profile,
        backbone=draft.backbone.name,
        weights=spec.model.weights,
        dtype=spec.model.dtype,
        parameters=sum(parameter.numel() for parameter in draft.backbone.model.parameters()),
        shape=Shape(
            batch=run.batch,
            branches=[str(branch) for branch in run.branches],
            latent=list(run.latent),
            pixels=list(run.pixels),
            grid=list(run.grid),
            text_tokens=run.text_tokens,
        ),
        inputs=draft.inputs.model_dump(mode="json"),
        seed=spec.seed,
        sampler=_technique_plan(draft.sampler),
        techniques=[_technique_plan(entry) for entry in draft.entries],
        steps=steps,
        graphs=len(combinations),
        dynamic=[_range(draft, entry) for entry in draft.entries if entry.technique.dynamic],
        estimate=cost,
        notes=_notes(draft),
    )
    return Compiled(
        plan, draft.request, draft.backbone, draft.inputs, run, draft.sampler.technique, tuple(draft.entries)
    )


def _range(draft: Draft, entry: Entry) -> Range:
    meter = Meter(draft)
    return Range(slug=entry.technique.slug, least_macs=meter.course(entry)[1], most_macs=meter.course()[1])


def _technique_plan(entry: Entry) -> TechniquePlan:
    technique = entry.technique
    return TechniquePlan(
        slug=technique.slug,
        paper=technique.paper,
        stage=technique.stage.name,
        parameters=technique.model_dump(mode="json"),
        sites=dict(Counter(site.kind.value for site, _ in entry.wraps)),
        dynamic=technique.dynamic,
        deviations=list(technique.deviations),
    )


def _notes(draft: Draft) -> list[str]:
    assert draft.backbone is not None
    notes = list(draft.backbone.notes)
    processes = processes_of(draft.entries)
    if processes > 1:
        notes.append(f"runs on {processes} processes, each with the whole model; MACs and held bytes are those of one")
    if draft.request.spec.model.random:
        notes.append("random weights: speed and memory are meaningful, quality is not")
    assert draft.sampler is not None
    for entry in [*draft.entries, draft.sampler]:
        technique = entry.technique
        if technique.wants_artefact() and technique.artefact is None:
            notes.append(f"`{technique.slug}` has yet to be prepared: until then the plan assumes its defaults")
    return notes
