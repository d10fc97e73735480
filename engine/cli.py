"""Command line of the engine. Heavy imports happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer
from rich.console import Console

from engine.errors import EngineError, InvalidInput, Problem

if TYPE_CHECKING:
    from engine.compiler import Compiled

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compile a YAML spec into an accelerated generation pipeline, run it beside its baseline, and measure both.",
)
out, err = Console(), Console(stderr=True)
INTERRUPTED = 130

SpecPath = Annotated[Path, typer.Argument(help="Spec file, for example specs/toca_opensora.yaml.", show_default=False)]
Profile = Annotated[str | None, typer.Option("--profile", help="Named overlay of the spec: embedded, paper, scale.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: techniques.toca.interval=4.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output and nothing else.")]
P = ParamSpec("P")


def teaching(command: Callable[P, None]) -> Callable[P, None]:
    """Show an `EngineError` as its problems, never as a traceback, and end with its exit code."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except EngineError as error:
            if error.rank is not None or not rank():  # what all ranks met before they joined, the first one says
                where = "" if error.rank is None else f"rank {error.rank}: "
                for problem in error.problems:
                    print(f"{where}error: {problem}", file=sys.stderr)
            leave(error.exit_code, at_once=error.rank is not None)
        except KeyboardInterrupt:
            if not rank():
                print("interrupted: nothing was written", file=sys.stderr)
            leave(INTERRUPTED, at_once=int(os.environ.get("WORLD_SIZE", 1)) > 1)

    return guarded


def rank() -> int:
    """Number of this process among those started together; `engine.parallel` knows more, and imports torch."""
    return int(os.environ.get("RANK", 0))


def leave(code: int, *, at_once: bool) -> NoReturn:
    """End with an exit code; `at_once` without a last word to other ranks, which may never answer it."""
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code) from None


def print_json(data: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(data, indent=2, allow_nan=False))


def compiled_spec(path: Path, profile: str | None, changes: list[str] | None) -> Compiled:
    """Read and compile a spec and its baseline."""
    from engine.compiler import compile_both
    from engine.spec import load_spec

    return compile_both(load_spec(path, profile=profile, changes=changes or ()))[0]


@app.command()
@teaching
def run(
    spec: SpecPath,
    profile: Profile = None,
    changes: Changes = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    folder: Annotated[Path | None, typer.Option("--out", help="Output folder; default: runs/<spec>-<time>.")] = None,
    baseline: Annotated[bool, typer.Option(help="Run the baseline too and compare.")] = True,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Timed runs of each side, interleaved.")] = 3,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds after which a silent rank counts as lost; default: 60, on CUDA 600."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a spec: accelerated beside its baseline, with receipts, timings and quality."""
    from engine.execute import Wish, execute
    from engine.view import RunView

    wish = Wish(spec, profile, changes or (), device, folder, baseline, repeats, timeout)
    with RunView(err if as_json else out, quiet=as_json or rank() > 0) as view:
        finished = execute(wish, view)
    if finished is None:
        return
    report, where = finished
    if as_json:
        print_json(report)
        return
    view.show_report(report, where)


@app.command()
@teaching
def plan(spec: SpecPath, profile: Profile = None, changes: Changes = None, as_json: AsJson = False) -> None:
    """Show what a run would do, without weights or a GPU: phases, MACs, bytes held."""
    compiled = compiled_spec(spec, profile, changes)
    if as_json:
        print(compiled.plan.canonical(), end="")
        return
    from engine.view import show_plan

    show_plan(out, compiled.plan)


@app.command()
@teaching
def check(
    specs: Annotated[list[Path], typer.Argument(help="Spec files.", show_default=False)], profile: Profile = None
) -> None:
    """Check specs in one profile or in all they have; every problem of every file is shown."""
    from engine.spec import profiles_of

    failed: list[Problem] = []
    for path in specs:
        before = len(failed)
        try:
            profiles = [profile] if profile else profiles_of(path)
        except EngineError as error:
            failed += error.problems
            continue
        for name in profiles:
            try:
                compiled = compiled_spec(path, name, None)
            except EngineError as error:
                failed += [problem for problem in error.problems if problem not in failed]
        if len(failed) == before:
            plan = compiled.plan
            alone = "plain" if plan.baseline is None else plan.sampler.slug
            names = ", ".join(entry.slug for entry in plan.techniques) or alone
            print(f"ok: {path} ({plan.backbone}: {names}; {', '.join(profiles)})")
    if failed:
        raise InvalidInput(failed)


@app.command()
@teaching
def prepare(
    spec: SpecPath,
    profile: Profile = None,
    changes: Changes = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Make anew what is there already.")] = False,
) -> None:
    """Make the artefacts (calibration, search, training) that a spec's techniques need."""
    from engine.measure import choose_device
    from engine.prepare import prepare_all
    from engine.view import RunView

    compiled, where = compiled_spec(spec, profile, changes), choose_device(device)
    with RunView(err, quiet=False) as view:
        found = prepare_all(compiled, where, view.progress, again=again)
    for prepared in found:
        print(f"{prepared.slug}: {prepared.path}{'' if prepared.made else ' (was there; --again makes it anew)'}")
    if not found:
        print("nothing to prepare: no technique of this spec needs an artefact")


@app.command()
@teaching
def techniques(
    slug: Annotated[str | None, typer.Argument(help="Show one technique in full.")] = None, as_json: AsJson = False
) -> None:
    """List techniques, or show one with its parameters and deviations."""
    from engine.catalogue import technique_facts
    from engine.view import show_technique, show_techniques

    facts = technique_facts(slug)
    if as_json:
        print_json(facts)
    elif slug is None:
        show_techniques(out, facts)
    else:
        show_technique(out, facts[0])


@app.command()
@teaching
def backbones(
    name: Annotated[str | None, typer.Argument(help="Show one backbone in full.")] = None, as_json: AsJson = False
) -> None:
    """List backbones, or show one with its inputs and sites."""
    from engine.catalogue import backbone_facts
    from engine.view import show_backbones

    facts = backbone_facts(name)
    if as_json:
        print_json(facts)
    else:
        show_backbones(out, facts, detailed=name is not None)


@app.command()
@teaching
def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    from engine.catalogue import spec_schema

    print_json(spec_schema())


@app.command()
@teaching
def new(
    slug: Annotated[str, typer.Argument(help="Name of the technique: lower case, digits, underscores.")],
    family: Annotated[str, typer.Option(help="Folder under engine/techniques.")],
    backbone: Annotated[str, typer.Option(help="Backbone of its first spec.")] = "opensora",
    root: Annotated[Path, typer.Option(help="Project folder.")] = Path(),
) -> None:
    """Write the two files of a new technique: its Python file and its spec."""
    from engine.scaffold import scaffold

    for path in scaffold(slug, family, backbone, root):
        print(f"wrote {path}")


if __name__ == "__main__":
    app()
