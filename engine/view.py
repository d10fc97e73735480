"""What the command line shows: progress, plans, reports, lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.plan import Estimate, Plan
from engine.receipts import LABELS, as_planned, planned_range


def macs(value: float) -> str:
    """MACs with a prefix: 1.65 PMAC."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}MAC"
    return f"{value:.0f} MAC"


def size(value: float | None) -> str:
    """Bytes with a prefix."""
    if value is None:
        return "unknown"
    for factor, prefix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:.1f} {prefix}"
    return f"{value:.0f} B"


class RunView:
    """Progress bars of a run, one a phase, and its report."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=console, disable=quiet)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def progress(self, what: str, steps: int) -> Callable[[], None]:
        """Start a bar; returns the function that advances it."""
        task = self.bars.add_task(what, total=steps)
        return lambda: self.bars.advance(task)

    def show_receipts(self, receipts: Mapping[str, Any]) -> None:
        """The receipts as a table."""
        self.bars.stop()
        for table in receipts_tables(receipts):
            self.console.print(table)
        self.console.print(receipts_summary(receipts))

    def show_report(self, report: Mapping[str, Any], where: Path) -> None:
        """Summary of a finished run."""
        self.bars.stop()
        if "baseline" in report:
            self.console.print(comparison_table(report))
            self.show_receipts(report["receipts"])
        else:
            side = report["accelerated"]
            self.console.print(
                f"{side['seconds']:.3f} s (spread {side['spread']:.3f} s), peak {size(side['peak_bytes'])}"
            )
        self.console.print(f"wrote {where}", soft_wrap=True)


JUDGED = (
    ("object_seen", "object recognised", "{:.0%}"),
    ("direction_seen", "direction recognised", "{:.0%}"),
    ("prompt_accuracy", "prompt accuracy", "{:.0%}"),
    ("frechet_distance", "Frechet distance to the picture set", "{:.2f}"),
)
"""What judges say: its name, its label, its format."""


def comparison_table(report: Mapping[str, Any]) -> Table:
    """Baseline and accelerated beside each other."""
    plain, fast = report["baseline"], report["accelerated"]
    receipts = report["receipts"]
    names = " + ".join(report["techniques"]) or " against ".join(
        next(iter(side["sampler"])) for side in (report, plain)
    )
    processes = report["environment"].get("processes", 1)
    ranks = f" x {processes} processes" if processes > 1 else ""
    device = f"{report['environment']['device']}{ranks}, {report['dtype']}"
    table = Table(title=f"{names} on {report['backbone']} ({device})")
    for column in ("", "baseline", "accelerated", "ratio"):
        table.add_column(column, justify="left" if not column else "right")

    def row(what: str, left: str, right: str, ratio: str = "") -> None:
        table.add_row(what, left, right, ratio)

    row("latency, median", f"{plain['seconds']:.3f} s", f"{fast['seconds']:.3f} s", f"{report['speedup']:.2f}x")
    row("  spread", f"{plain['spread']:.3f} s", f"{fast['spread']:.3f} s")
    many, few = receipts["baseline"]["steps"], receipts["steps"]
    row("predictions", str(many), str(few), f"{many / few:.2f}x")
    row(
        "MACs" if processes == 1 else "MACs of a process",
        macs(report["baseline_macs"]),
        macs(report["macs"]),
        f"{report['macs_ratio']:.2f}x",
    )
    row("realised fraction", "", "", f"{report['realised_fraction']:.2f}")
    row("peak memory", size(plain["peak_bytes"]), size(fast["peak_bytes"]))
    psnr = "identical" if report["psnr"] is None else f"{report['psnr']:.2f} dB"
    row("PSNR to baseline", "", psnr, other_noise(receipts))
    row("SSIM to baseline", "", f"{report['ssim']:.4f}")
    for key, label, form in JUDGED:
        if "judge" in plain and plain["judge"].get(key) is not None:
            row(label, form.format(plain["judge"][key]), form.format(fast["judge"][key]))
    return table


def other_noise(receipts: Mapping[str, Any]) -> str:
    """Why the sides' outputs are not alike whatever their quality, where a sampler draws fresh noise of its own."""
    drew = [name for name, side in (("run", receipts), ("baseline", receipts["baseline"])) if side["fresh_noise"]]
    return f"{' and '.join(drew)} drew fresh noise" if drew else ""


def receipts_tables(receipts: Mapping[str, Any]) -> Iterator[Table]:
    """Planned beside done, a table for each technique, a row for each kind of site."""
    for slug, technique in receipts["techniques"].items():
        table = Table(title=f"receipts of {slug}: evaluations, sites x steps")
        for column in ("kind", "sites", "full", "partial", "reused", "tokens recomputed", "as planned"):
            table.add_column(column, justify="left" if column == "kind" else "right", no_wrap=column == "kind")
        for kind, entry in technique["kinds"].items():
            cells = [_counted(entry["done"].get(label, 0), *planned_range(entry, label)) for label in LABELS]
            agreed = "yes" if as_planned(entry) else "no"
            table.add_row(kind, str(entry["sites"]), *cells, f"{entry['tokens_recomputed']:,}", agreed)
        yield table


def _counted(done: int, fewest: int, most: int) -> str:
    if fewest != most:
        return f"{done} (of {fewest}-{most})"
    return str(done) if done == most else f"{done} (of {most})"


def receipts_summary(receipts: Mapping[str, Any]) -> str:
    """What the receipts say of the whole run."""
    kinds = [kind for technique in receipts["techniques"].values() for kind in technique["kinds"].values()]
    planned = "planned at most" if any("planned_at_least" in kind for kind in kinds) else "planned"
    return (
        f"predictions {receipts['steps']} (planned {receipts['planned_steps']}), "
        f"MACs {macs(receipts['macs'])} ({planned} {macs(receipts['planned_macs'])}), "
        f"held {size(receipts['held_bytes'])} (planned {size(receipts['planned_held_bytes'])}), "
        f"output {'identical' if receipts['output_identical'] else 'changed'}"
        + "".join(f", {count} x {name}" for name, count in receipts["kernels"].items())
    )


def show_plan(console: Console, plan: Plan) -> None:
    """A plan for readers: sizes, techniques, phases, cost."""
    shape, cost = plan.shape, plan.estimate
    console.print(
        f"[bold]{plan.spec}[/bold] ({plan.profile}): {plan.backbone}, weights {plan.weights}, {plan.dtype}, "
        f"{plan.parameters:,} parameters"
    )
    frames, height, width = shape.pixels
    console.print(
        f"{shape.batch} x {frames} frames of {height}x{width}, latent {shape.latent}, token grid {shape.grid}, "
        f"branches {', '.join(shape.branches)}"
    )
    for technique in plan.techniques:
        sites = ", ".join(f"{count} {kind}" for kind, count in technique.sites.items())
        console.print(f"  {technique.stage} [bold]{technique.slug}[/bold] at {sites}")
    if (other := plan.baseline) is not None:
        names = ", ".join(entry.slug for entry in other.techniques) or "no techniques"
        console.print(f"compared with {other.steps} steps of [bold]{other.sampler.slug}[/bold] and {names}")
    table = Table(title=f"{len(plan.steps)} steps ({plan.graphs} distinct graphs)")
    for column in ("steps", "noise level", "branches", "phases", "MACs a step"):
        table.add_column(column)

    def signature(step: Any) -> tuple[Any, ...]:
        return tuple(step.phases.items()), tuple(step.branches), step.macs

    for (phases, branches, cost_of_step), group in groupby(plan.steps, key=signature):
        steps = list(group)
        first, last = steps[0], steps[-1]
        span = f"{first.index}" if first is last else f"{first.index}-{last.index}"
        level = f"{first.time:.3f}" if first is last else f"{first.time:.3f}-{last.time:.3f}"
        names = ", ".join(f"{slug}: {phase}" for slug, phase in phases) or "plain"
        table.add_row(span, level, ", ".join(branches), names, macs(cost_of_step))
    console.print(table)
    console.print(
        f"MACs: baseline {macs(cost.baseline_macs)}, planned {'at most ' if plan.dynamic else ''}{macs(cost.macs)}, "
        f"ratio {cost.macs_ratio:.2f}x. "
        f"{_formats(cost)}Memory: weights {_weights(cost)}, activations about {size(cost.activation_bytes)}, "
        f"held outputs {size(cost.held_bytes)}."
    )
    for data in plan.dynamic:
        least, most = (cost.baseline_macs / value for value in (data.most_macs, data.least_macs))
        console.print(
            f"{data.slug}: data decides; {macs(data.least_macs)} to {macs(data.most_macs)}, ratio {least:.2f}x to "
            f"{most:.2f}x."
        )
    for note in plan.notes:
        console.print(f"note: {note}")


def _formats(cost: Estimate) -> str:
    """Shares of the number formats, where there are several."""
    parts = [f"{name} {count / cost.macs:.1%}" for name, count in cost.formats.items()]
    return f"Number formats: {', '.join(parts)} of the MACs. " if len(parts) > 1 else ""


def _weights(cost: Estimate) -> str:
    same = cost.weight_bytes == cost.baseline_weight_bytes
    return size(cost.weight_bytes) + ("" if same else f" (baseline {size(cost.baseline_weight_bytes)})")


def show_techniques(console: Console, facts: Sequence[Mapping[str, Any]]) -> None:
    """All techniques, a line each."""
    table = Table()
    for column in ("technique", "stage", "family", "backbones", "title"):
        table.add_column(column)
    for fact in facts:
        table.add_row(fact["slug"], fact["stage"], fact["family"], ", ".join(fact["backbones"]), fact["title"])
    console.print(table)


def show_technique(console: Console, fact: Mapping[str, Any]) -> None:
    """One technique in full."""
    console.print(f"[bold]{fact['slug']}[/bold]: {fact['title']}")
    console.print(f"stage {fact['stage']}, runs on {', '.join(fact['backbones'])}")
    table = Table(title="parameters")
    for column in ("name", "default", "tuned", "meaning"):
        table.add_column(column)
    for name, entry in fact["parameters"].items():
        tuned = ", ".join(f"{backbone}: {values[name]}" for backbone, values in fact["tuned"].items() if name in values)
        table.add_row(name, str(entry["default"]), tuned, entry["description"])
    console.print(table)
    for deviation in fact["deviations"]:
        console.print(f"deviation: {deviation}")


def show_backbones(console: Console, facts: Sequence[Mapping[str, Any]], *, detailed: bool) -> None:
    """All backbones, a line each; in detail their inputs too."""
    table = Table()
    for column in ("backbone", "makes", "predicts", "branches", "sites", "title"):
        table.add_column(column)
    for fact in facts:
        kinds = ", ".join(fact["sites"])
        table.add_row(
            fact["name"], fact["output"], fact["prediction"], ", ".join(fact["branches"]), kinds, fact["title"]
        )
    console.print(table)
    for fact in facts if detailed else ():
        inputs = Table(title=f"inputs of {fact['name']}")
        for column in ("name", "default", "meaning"):
            inputs.add_column(column)
        for name, entry in fact["inputs"].items():
            inputs.add_row(name, str(entry["default"]), entry["description"])
        console.print(inputs)
